//! Acknowledgements through to RabbitMQ: what becomes of a delivery that nobody settles.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use system_tests::PATIENCE;
use system_tests::rabbitmq::RabbitMqServer;
use system_tests::relay::{Relay, Setup};
use system_tests::stomp_client::Client;

use crate::support::{blocking, bodies, numbered, settle, shared_rabbitmq, version};

const QUORUM: (&str, &str) = ("x-queue-type", "quorum");
const EACH: (&str, &str) = ("ack", "client-individual");

async fn start(rabbit: &RabbitMqServer, config: &str) -> Relay {
    let setup = Setup::new().broker(&rabbit.amqp_url).config(config);
    blocking(move || setup.start()).await
}

/// Ready and unacknowledged messages, and consumers.
fn state(rabbit: &RabbitMqServer, queue: &str) -> (u64, u64, u64) {
    let columns = ["name", "messages_ready", "messages_unacknowledged", "consumers"];
    let list = rabbit.ctl(&[&["list_queues", "--no-table-headers"], &columns[..]].concat());
    let list = list.unwrap();
    let line = list.lines().find_map(|line| line.strip_prefix(queue)?.strip_prefix('\t'));
    let numbers = line.unwrap_or_else(|| panic!("no {queue} in\n{list}"));
    let mut numbers = numbers.split('\t').map(|number| number.parse().unwrap());
    let mut next = || numbers.next().unwrap();
    (next(), next(), next())
}

async fn becomes(rabbit: &Arc<RabbitMqServer>, queue: &'static str, wanted: (u64, u64, u64)) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let asked = rabbit.clone();
        let seen = blocking(move || state(&asked, queue)).await;
        if seen == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{queue} is {seen:?}, not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn ack_time_gives_the_message_back_and_ends_the_subscription() {
    const QUEUE: &str = "/queue/acks.late";
    let rabbit = shared_rabbitmq().await;
    let relay = start(&rabbit, "limits.ack_time = \"1s\"").await;
    let patient = start(&rabbit, "").await;
    let mut alice = Client::websocket(relay.http_address(), "alice").await;
    let mut bob = Client::websocket(relay.http_address(), "bob").await;
    bob.subscribe("errors", "/user/queue/errors", &[]).await;
    bob.subscribe("late", QUEUE, &[EACH]).await;
    for body in ["one", "two"] {
        assert_eq!(alice.send(QUEUE, &[], body).await, "confirmed");
    }
    let late = bob.messages(2).await;
    assert_eq!(late[0].get("redelivered"), Some("false"));
    let error = bob.message().await;
    assert_eq!(error.header("destination"), "/user/queue/errors");
    assert_eq!(error.header("x-error"), "cancelled");
    assert_eq!(error.header("message"), "Server cancelled subscription");
    let about: Value = serde_json::from_str(error.text()).unwrap();
    assert_eq!((&about["kind"], &about["id"]), (&"cancelled".into(), &"late".into()));

    // Both are back, for whoever asks next, and no consumer is left behind.
    becomes(&rabbit, "acks.late", (2, 0, 0)).await;
    let mut carol = Client::websocket(patient.http_address(), "carol").await;
    carol.subscribe("next", QUEUE, &[EACH]).await;
    let again = carol.messages(2).await;
    assert_eq!(bodies(&again), ["one", "two"]);
    assert!(again.iter().all(|message| message.get("redelivered") == Some("true")), "{again:?}");
    // What comes too late is answered, and takes nothing from anybody.
    settle(&mut bob, "ACK", &late[0]).await;
    settle(&mut bob, "NACK", &late[1]).await;
    assert_eq!(state(&rabbit, "acks.late"), (0, 2, 1));
    for message in &again {
        settle(&mut carol, "ACK", message).await;
    }
    becomes(&rabbit, "acks.late", (0, 0, 1)).await;

    // The session goes on, with the same id, on a channel that works.
    carol.unsubscribe("next").await;
    bob.unsubscribe("late").await;
    bob.subscribe("late", QUEUE, &[EACH]).await;
    alice.send(QUEUE, &[], "three").await;
    let three = bob.message().await;
    assert_eq!((three.text(), three.header("subscription")), ("three", "late"));
    settle(&mut bob, "ACK", &three).await;
    becomes(&rabbit, "acks.late", (0, 0, 1)).await;
    assert_eq!(bob.take_frames(), []);
}

#[tokio::test]
async fn the_window_of_a_slow_consumer_is_its_own() {
    const QUEUE: &str = "/queue/acks.window";
    let rabbit = shared_rabbitmq().await;
    let relay = start(&rabbit, "").await;
    let mut slow = Client::websocket(relay.http_address(), "bob").await;
    slow.subscribe("slow", QUEUE, &[EACH, ("prefetch-count", "5")]).await;
    let mut fast = Client::websocket(relay.http_address(), "carol").await;
    let window = [("ack", "client"), ("prefetch-count", "10")];
    fast.subscribe("fast", QUEUE, &window).await;
    // Of the same session, and in the same mode.
    fast.subscribe("other", "/queue/acks.other", &[("ack", "client")]).await;
    let mut alice = Client::websocket(relay.http_address(), "alice").await;
    let sent = numbered("m", 100);
    for body in &sent {
        alice.send_later(QUEUE, &[], body).await;
    }
    for body in ["x", "y"] {
        alice.send("/queue/acks.other", &[], body).await;
    }
    let held = slow.messages(5).await;
    // The other one gets all that is left, a window at a time: one ACK is for ten.
    let mut got = Vec::new();
    let mut others = Vec::new();
    while got.len() < 95 {
        let message = fast.message().await;
        if message.header("subscription") == "other" {
            others.push(message);
            continue;
        }
        got.push(message.text().to_owned());
        if got.len() % 10 == 0 || got.len() == 95 {
            settle(&mut fast, "ACK", &message).await;
        }
    }
    becomes(&rabbit, "acks.window", (0, 5, 2)).await;
    // An ACK is for its own subscription only.
    while others.len() < 2 {
        others.push(fast.message().await);
    }
    assert_eq!(bodies(&others), ["x", "y"]);
    becomes(&rabbit, "acks.other", (0, 2, 1)).await;
    settle(&mut fast, "ACK", &others[1]).await;
    becomes(&rabbit, "acks.other", (0, 0, 1)).await;
    got.extend(held.iter().map(|message| message.text().to_owned()));
    got.sort_by_key(|body| body["m-".len()..].parse::<usize>().unwrap());
    assert_eq!(got, sent);

    // It goes away without a word: the next one gets what it had.
    drop(slow);
    let again = fast.messages(5).await;
    assert_eq!(bodies(&again), bodies(&held));
    assert!(again.iter().all(|message| message.get("redelivered") == Some("true")), "{again:?}");
    settle(&mut fast, "ACK", &again[4]).await;
    becomes(&rabbit, "acks.window", (0, 0, 1)).await;
}

/// RabbitMQ closes the channel of a delivery that is not acknowledged for half an hour; here,
/// for a second. The relay's own limit is shorter by default, so that this is not seen.
#[tokio::test]
async fn a_consumer_that_rabbitmq_ends_over_an_ack_comes_back() {
    const QUEUE: &str = "/queue/acks.timeout";
    let rabbit = blocking(|| {
        let rabbit = Arc::new(RabbitMqServer::new().unwrap());
        let wish = "application:set_env(rabbit, consumer_timeout, 1000), \
                    application:set_env(rabbit, channel_tick_interval, 500).";
        rabbit.ctl(&["eval", wish]).unwrap();
        rabbit
    })
    .await;
    let relay = start(&rabbit, "").await;
    let mut alice = Client::websocket(relay.http_address(), "alice").await;
    let mut bob = Client::websocket(relay.http_address(), "bob").await;
    // From 4.3 on RabbitMQ looks at the time of quorum queues only.
    bob.subscribe("late", QUEUE, &[EACH, QUORUM]).await;
    let mut carol = Client::websocket(relay.http_address(), "carol").await;
    carol.subscribe("other", "/queue/acks.other", &[EACH]).await;
    alice.send(QUEUE, &[QUORUM], "one").await;
    let late = bob.message().await;
    assert_eq!(late.get("redelivered"), Some("false"));
    // Closed with 406, or from 4.3 on the consumer cancelled; the subscription is there again by
    // itself, and so is the message.
    let again = bob.message().await;
    assert_eq!((again.text(), again.get("redelivered")), ("one", Some("true")));
    assert_ne!(again.header("ack"), late.header("ack"));
    let acked = becomes(&rabbit, "acks.timeout", (0, 0, 1));
    let acks = async {
        // Of the channel that is gone: answered, without effect.
        settle(&mut bob, "ACK", &late).await;
        settle(&mut bob, "ACK", &again).await;
        // On a busy machine that may come after the second that RabbitMQ gives it too. Then it has
        // no effect, and the message comes once more.
        loop {
            let again = bob.message().await;
            assert_eq!((again.text(), again.get("redelivered")), ("one", Some("true")));
            settle(&mut bob, "ACK", &again).await;
        }
    };
    tokio::select! {
        () = acked => {}
        () = acks => {}
    }
    let closed = relay.metric("stomp_relay_rabbitmq_closed_channels_total") > 0.5;
    assert_eq!(closed, version(&rabbit).await < (4, 3));
    // Nobody else's channel was closed, nor any connection.
    alice.send("/queue/acks.other", &[], "x").await;
    let other = carol.message().await;
    settle(&mut carol, "ACK", &other).await;
    assert!(relay.metric("stomp_relay_rabbitmq_lost_connections_total") < 0.5);
    alice.send(QUEUE, &[QUORUM], "two").await;
    let two = bob.message().await;
    assert_eq!(two.text(), "two");
    settle(&mut bob, "ACK", &two).await;
    assert!(!bob.is_closed() && !carol.is_closed());
}

/// What docs/errors.md says of `x-delivery-limit`.
#[tokio::test]
async fn a_quorum_queue_counts_what_came_back_until_4_3() {
    const QUEUE: &str = "/queue/acks.limited";
    let rabbit = shared_rabbitmq().await;
    let server = rabbit.clone();
    blocking(move || {
        let (name, limit) = ("^acks\\.limited$", r#"{"delivery-limit": 2}"#);
        server.ctl(&["set_policy", "--apply-to", "queues", "limited", name, limit]).unwrap();
    })
    .await;
    let relay = start(&rabbit, "").await;
    let mut client = Client::websocket(relay.http_address(), "alice").await;
    client.subscribe("q", QUEUE, &[EACH, QUORUM]).await;
    client.send(QUEUE, &[QUORUM], "poison").await;
    let counts = version(&rabbit).await < (4, 3);
    for _ in 0..if counts { 3 } else { 9 } {
        let message = client.message().await;
        settle(&mut client, "NACK", &message).await;
    }
    if !counts {
        let message = client.message().await;
        settle(&mut client, "ACK", &message).await;
    }
    becomes(&rabbit, "acks.limited", (0, 0, 1)).await;
    assert!(client.take_frames().is_empty());
}
