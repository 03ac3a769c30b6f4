//! Clients of RabbitMQ's own STOMP plugin and of the relay see each other's messages alike.

use std::collections::BTreeMap;

use system_tests::relay::Setup;
use system_tests::stomp_client::{Client, Frame, Wire};

use crate::amqp::Amqp;
use crate::support::shared_rabbitmq;

/// Headers that may differ between the two receivers, and why.
const MAY_DIFFER: [&str; 4] = [
    // Every server numbers deliveries as it likes (STOMP 1.2, "MESSAGE").
    "message-id",
    // The receiver's own id.
    "subscription",
    // Made anew for each message that goes through the relay, so that the two messages sent to
    // one queue have two; the plugin's messages have none. Compared below where there is one
    // message for both receivers.
    "x-id",
    // The plugin shows every receiver what a sender said to the server alone; a receiver who takes
    // it for his own would wait or answer. The relay never passes it on.
    "receipt",
];

/// What a sender may say, and what each server makes of it.
const SENT: [&[(&str, &str)]; 8] = [
    &[],
    &[("persistent", "true"), ("content-type", "text/plain;charset=utf-8")],
    &[
        ("content-encoding", "utf-8"),
        ("priority", "4"),
        ("correlation-id", "c-1"),
        ("reply-to", "/queue/answers"),
        ("expiration", "60000"),
        ("amqp-message-id", "m-1"),
        ("timestamp", "1700000000"),
        ("type", "greeting"),
        ("app-id", "test"),
    ],
    &[("x-own", "a:b\\c\nd"), ("own", ""), ("number", "17"), ("\u{e4}", "\u{f6}")],
    // At their limits, and what looks like RabbitMQ's own.
    &[("priority", "0"), ("timestamp", "0"), ("expiration", "4294967295")],
    &[("priority", "255"), ("timestamp", "9007199254740993"), ("persistent", "false")],
    &[("type", LONGEST), (LONGEST, "v"), ("correlation-id", "\u{e9}:\n"), ("reply-to", "a%b")],
    &[("x-death", "none"), ("x-first-death-queue", "q"), ("selector", "s")],
];

/// What AMQP takes at most for a name, and for a property.
const LONGEST: &str = concat!(
    "0123456789abcdefghijklmnopqrstuvwxyz_0123456789abcdefghijklmnopqrs0",
    "0123456789abcdefghijklmnopqrstuvwxyz_0123456789abcdefghijklmnopqrs1",
    "0123456789abcdefghijklmnopqrstuvwxyz_0123456789abcdefghijklmnopqrs2",
    "0123456789abcdefghijklmnopqrstuvwxyz_0123456789abcdef0",
);

fn headers(frame: &Frame) -> BTreeMap<&str, &str> {
    let headers = frame.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    headers.filter(|(name, _)| !MAY_DIFFER.contains(name)).collect()
}

fn assert_alike(what: &str, plugin: &Frame, relay: &Frame) {
    assert_eq!(plugin.body, relay.body, "{what}");
    assert_eq!(headers(plugin), headers(relay), "{what}: plugin left, relay right");
    for (server, frame) in [("plugin", plugin), ("relay", relay)] {
        let mut names: Vec<&str> = frame.headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), frame.headers.len(), "{what}, {server}: a header is there twice");
    }
}

#[tokio::test]
async fn plugin_and_relay_show_the_same_message() {
    let rabbit = shared_rabbitmq().await;
    let relay = Setup::new().broker(&rabbit.amqp_url).start();
    let plugin_address = ([127, 0, 0, 1], rabbit.stomp_port).into();
    let mut plugin = Client::connect(Wire::Tcp, plugin_address, "guest").await;
    let mut ours = Client::websocket(relay.http_address(), "guest").await;

    // A topic: both receive the one message of each sender.
    plugin.subscribe("p", "/topic/alike.a", &[]).await;
    ours.subscribe("o", "/topic/alike.a", &[]).await;
    for from_relay in [false, true] {
        for (case, sent) in SENT.iter().enumerate() {
            let what = format!("topic, case {case}, from the relay: {from_relay}");
            let sender = if from_relay { &mut ours } else { &mut plugin };
            let body = format!("body {case}");
            sender.send("/topic/alike.a", sent, &body).await;
            let (at_plugin, at_relay) = (plugin.message().await, ours.message().await);
            assert_eq!(at_plugin.text(), body);
            assert_alike(&what, &at_plugin, &at_relay);
            assert_eq!(at_plugin.get("x-id"), at_relay.get("x-id"), "{what}");
            assert_eq!(at_relay.get("x-id").is_some(), from_relay, "{what}");
            as_sent(&what, sent, &at_relay);
        }
    }

    // An exchange alike, with and without a queue of its own.
    assert_eq!(LONGEST.len(), 255);
    let amqp = Amqp::connect(&rabbit).await;
    amqp.declare_exchange("alike/e", lapin::ExchangeKind::Topic, false).await;
    for (id, ack) in [("e", "auto"), ("c", "client-individual")] {
        let headers = [("ack", ack)];
        plugin.subscribe(id, "/exchange/alike%2Fe/k.#", &headers).await;
        ours.subscribe(id, "/exchange/alike%2Fe/k.#", &headers).await;
        for from_relay in [false, true] {
            for (case, sent) in SENT.iter().enumerate() {
                let what = format!("exchange, {ack}, case {case}, from the relay: {from_relay}");
                let sender = if from_relay { &mut ours } else { &mut plugin };
                let body = format!("body {case}");
                sender.send("/exchange/alike%2Fe/k.a", sent, &body).await;
                let (mut at_plugin, mut at_relay) = (plugin.message().await, ours.message().await);
                for message in [&mut at_plugin, &mut at_relay] {
                    assert_eq!(message.get("ack").is_some(), ack != "auto");
                    message.headers.retain(|(name, _)| name != "ack");
                }
                assert_eq!(at_relay.header("destination"), "/exchange/alike%2Fe/k.a");
                assert_eq!(at_plugin.text(), body);
                assert_alike(&what, &at_plugin, &at_relay);
                as_sent(&what, sent, &at_relay);
            }
        }
        plugin.unsubscribe(id).await;
        ours.unsubscribe(id).await;
    }

    // A queue: each message has one receiver, so each case is sent twice, to a queue of each
    // receiver's own.
    plugin.subscribe("q", "/queue/alike.plugin", &[("ack", "client")]).await;
    ours.subscribe("q", "/queue/alike.relay", &[("ack", "client")]).await;
    for from_relay in [false, true] {
        for (case, sent) in SENT.iter().enumerate() {
            let what = format!("queue, case {case}, from the relay: {from_relay}");
            for queue in ["/queue/alike.plugin", "/queue/alike.relay"] {
                let sender = if from_relay { &mut ours } else { &mut plugin };
                sender.send(queue, sent, "body").await;
            }
            let at_plugin = taken(&mut plugin, "/queue/alike.plugin").await;
            let at_relay = taken(&mut ours, "/queue/alike.relay").await;
            assert_alike(&what, &at_plugin, &at_relay);
            as_sent(&what, sent, &at_relay);
        }
    }
}

/// The next message, ACKed; without what says which queue's and which server's it is.
async fn taken(client: &mut Client, queue: &str) -> Frame {
    let mut message = client.message().await;
    assert_eq!(message.header("destination"), queue);
    let ack = message.header("ack").to_owned();
    let ack = [("id", ack.as_str()), ("receipt", "ack")];
    client.write(&Frame::new("ACK", &ack, b"")).await;
    client.receipt("ack").await;
    message.headers.retain(|(name, _)| name != "ack" && name != "destination");
    message
}

/// What the sender said is there, as it said it.
fn as_sent(what: &str, sent: &[(&str, &str)], got: &Frame) {
    for (name, value) in sent {
        let expected = match (*name, *value) {
            // It is there, or it is not.
            ("persistent", "false") => None,
            // The bare name of a queue is shown so that it can be sent to.
            ("reply-to", "a%b") => Some("/reply-queue/a%b"),
            (_, value) => Some(value),
        };
        assert_eq!(got.get(name), expected, "{what}: {name}");
    }
}

/// RECEIPT means that it is done: no message is sent to a subscription that is over, to come back
/// from there as redelivered.
#[tokio::test]
async fn after_the_receipt_of_unsubscribe_a_queue_is_somebody_elses() {
    let rabbit = shared_rabbitmq().await;
    let relay = Setup::new().broker(&rabbit.amqp_url).start();
    let plugin_address = ([127, 0, 0, 1], rabbit.stomp_port).into();
    let mut plugin = Client::connect(Wire::Tcp, plugin_address, "guest").await;
    let mut ours = Client::websocket(relay.http_address(), "guest").await;
    for round in 0..50 {
        ours.subscribe("q", "/queue/handed.over", &[]).await;
        ours.unsubscribe("q").await;
        plugin.send("/queue/handed.over", &[], "body").await;
        plugin.subscribe("q", "/queue/handed.over", &[]).await;
        let message = plugin.message().await;
        assert_eq!(message.get("redelivered"), Some("false"), "round {round}");
        plugin.unsubscribe("q").await;
    }
    assert_eq!(ours.take_frames(), []);
}
