//! A SEND to `/queue` may say what the queue is to be.

use std::time::{Duration, Instant};

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use system_tests::PATIENCE;
use system_tests::relay::Setup;
use system_tests::stomp_client::{Client, Wire};

use crate::amqp::Amqp;
use crate::support::{
    Vhost, bodies, forgiving, listed, refusal, settle, shared_rabbitmq, until, version,
};

/// Headers, and how RabbitMQ lists the queue: durable, auto-delete, arguments. The plugin makes
/// the same of them.
const CASES: [(&[(&str, &str)], &str); 7] = [
    (&[], "true\tfalse\t[]"),
    (&[("x-message-ttl", "60000")], "true\tfalse\t[{\"x-message-ttl\",60000}]"),
    (
        &[("x-max-length", "7"), ("x-expires", "900000")],
        "true\tfalse\t[{\"x-expires\",900000}, {\"x-max-length\",7}]",
    ),
    (&[("auto-delete", "true")], "true\ttrue\t[]"),
    (&[("durable", "false"), ("exclusive", "false")], "false\ttrue\t[]"),
    (
        &[("x-dead-letter-exchange", "headers.dead"), ("x-dead-letter-routing-key", "k")],
        "true\tfalse\t[{\"x-dead-letter-exchange\",\"headers.dead\"}, {\"x-dead-letter-routing-key\",\"k\"}]",
    ),
    (&[("x-queue-type", "quorum")], "true\tfalse\t[{\"x-queue-type\",\"quorum\"}]"),
];

/// A line with the arguments in whatever order. Later RabbitMQs list the type that a queue has by
/// default.
fn parts(line: &str) -> Vec<&str> {
    const DEFAULT: &str = "\"x-queue-type\",\"classic\"";
    let mut parts: Vec<&str> = line.split(['{', '}', '[', ']']).collect();
    parts.retain(|part| !part.trim_matches([',', ' ']).is_empty() && *part != DEFAULT);
    parts.sort_unstable();
    parts
}

#[tokio::test]
async fn a_queue_is_declared_as_its_sender_says_and_as_the_plugin_does() {
    let rabbit = shared_rabbitmq().await;
    let relay = forgiving(&rabbit).start();
    let plugin_address = ([127, 0, 0, 1], rabbit.stomp_port).into();
    let mut plugin = Client::connect(Wire::Tcp, plugin_address, "guest").await;
    let mut ours = Client::websocket(relay.http_address(), "alice").await;
    ours.subscribe("errors", "/user/queue/errors", &[]).await;
    for (case, (headers, _)) in CASES.iter().enumerate() {
        for (client, of) in [(&mut plugin, "plugin"), (&mut ours, "relay")] {
            let queue = format!("/queue/headers.{of}.{case}");
            client.send(&queue, headers, "first").await;
            client.send(&queue, headers, "second").await;
        }
    }
    let queues = listed(&rabbit, &["list_queues", "name", "durable", "auto_delete", "arguments"]);
    let queues = queues.await;
    for (case, (_, expected)) in CASES.iter().enumerate() {
        for of in ["plugin", "relay"] {
            let name = format!("headers.{of}.{case}");
            let line = queues.iter().find_map(|line| line.strip_prefix(&name)?.strip_prefix('\t'));
            assert_eq!(line.map(parts), Some(parts(expected)), "{name}");
        }
    }

    // The same queue otherwise: that SEND is refused, and nothing else happens.
    let others = [("x-message-ttl", "1000")];
    ours.send_later("/queue/headers.relay.0", &others, "x").await;
    assert_eq!(refusal(&mut ours).await, ("denied".into(), "precondition_failed".into()));
    assert_eq!(ours.send("/queue/headers.relay.0", &[], "third").await, "confirmed");
    // What would be a name in RabbitMQ later, and is too long for one.
    let long = "x".repeat(256);
    let headers =
        [("x-dead-letter-exchange", "headers.dead"), ("x-dead-letter-routing-key", &*long)];
    ours.send_later("/queue/headers.long", &headers, "x").await;
    assert_eq!(refusal(&mut ours).await.0, "limit");

    // A queue that goes with its last consumer is there again for whoever sends to it.
    let headers = [("auto-delete", "true"), ("ack", "client")];
    ours.subscribe("q", "/queue/headers.relay.3", &headers).await;
    assert_eq!(ours.message().await.text(), "first");
    ours.unsubscribe("q").await;
    drop(ours.take_frames());
    until("the queue is gone", async || {
        let queues = listed(&rabbit, &["list_queues", "name"]).await;
        !queues.iter().any(|name| name == "headers.relay.3")
    })
    .await;
    let receipt = ours.send("/queue/headers.relay.3", &[("auto-delete", "true")], "again").await;
    assert_eq!(receipt, "confirmed");
    ours.subscribe("r", "/queue/headers.relay.3", &headers).await;
    assert_eq!(ours.messages(1).await[0].text(), "again");
}

/// In order, though each queue has to be declared first and some are refused.
#[tokio::test]
async fn declares_do_not_change_the_order() {
    let rabbit = shared_rabbitmq().await;
    let amqp = Amqp::connect(&rabbit).await;
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    let declare = amqp.channel.queue_declare("order.other".into(), options, FieldTable::default());
    declare.await.unwrap();
    let relay = forgiving(&rabbit).start();
    let mut client = Client::websocket(relay.http_address(), "alice").await;
    client.subscribe("errors", "/user/queue/errors", &[]).await;
    let ttl = [("x-message-ttl", "600000")];
    for number in 0..50 {
        let body = number.to_string();
        client.send_later("/queue/order.ttl", &ttl, &body).await;
        client.send_later("/queue/order.other", &ttl, "refused").await;
    }
    client.send("/queue/order.ttl", &ttl, "50").await;
    let refused = client.take_frames();
    assert_eq!(refused.len(), 50);
    assert!(refused.iter().all(|frame| frame.header("message") == "precondition_failed"));
    client.subscribe("q", "/queue/order.ttl", &ttl).await;
    for number in 0..=50 {
        assert_eq!(client.message().await.text(), number.to_string());
    }
}

/// Whether a SEND gets its RECEIPT, and no refusal.
async fn is_taken(client: &mut Client, queue: &str, headers: &[(&str, &str)]) -> bool {
    let receipt = client.send_later(queue, headers, "mine").await;
    loop {
        if client.take_receipts().contains(&receipt) {
            return true;
        }
        if !client.take_frames().is_empty() {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Queues of one session's own, on connections that sessions share.
#[tokio::test]
async fn an_exclusive_queue_is_one_sessions() {
    let rabbit = shared_rabbitmq().await;
    let relay = forgiving(&rabbit).start();
    let mut alice = Client::websocket(relay.http_address(), "alice").await;
    let mut bob = Client::websocket(relay.http_address(), "bob").await;
    for client in [&mut alice, &mut bob] {
        client.subscribe("errors", "/user/queue/errors", &[]).await;
    }
    let locked = ("denied".to_owned(), "resource_locked".to_owned());
    for headers in [[("durable", "false")], [("exclusive", "true")]] {
        // Made by SEND, and consumed by its own session, however that calls it.
        assert_eq!(alice.send("/queue/own.a", &headers, "1").await, "confirmed");
        assert_eq!(alice.send("/queue/own.a", &[], "2").await, "confirmed");
        assert_eq!(alice.send("/queue/own.a", &headers, "3").await, "confirmed");
        for headers in [&headers[..], &[]] {
            bob.send_later("/queue/own.a", headers, "x").await;
            assert_eq!(refusal(&mut bob).await, locked, "SEND {headers:?}");
            bob.subscribe_later("q", "/queue/own.a", headers).await;
            assert_eq!(refusal(&mut bob).await, locked, "SUBSCRIBE {headers:?}");
        }
        bob.subscribe_later("q", "/amq/queue/own.a", &[]).await;
        assert_eq!(refusal(&mut bob).await, locked);
        // Anybody may write to it who does not declare it.
        assert_eq!(bob.send("/amq/queue/own.a", &[], "4").await, "confirmed");
        let (first, second) = ("/queue/own.a", "/amq/queue/own.a");
        alice.subscribe("1", first, &headers).await;
        for body in ["1", "2", "3", "4"] {
            assert_eq!(alice.message().await.text(), body);
        }
        alice.subscribe("2", second, &[]).await;
        alice.subscribe("3", first, &[]).await;
        for id in ["1", "2", "3"] {
            alice.unsubscribe(id).await;
        }
        // It ends with its session, also where nobody ever consumed it.
        assert_eq!(alice.send("/queue/own.b", &headers, "x").await, "confirmed");
        drop(alice);
        alice = Client::websocket(relay.http_address(), "alice").await;
        alice.subscribe("errors", "/user/queue/errors", &[]).await;
        let end = Instant::now() + PATIENCE;
        for queue in ["/queue/own.a", "/queue/own.b"] {
            while !is_taken(&mut bob, queue, &headers).await {
                assert!(Instant::now() < end, "{queue} is still another's");
            }
        }
        drop(bob);
        bob = Client::websocket(relay.http_address(), "bob").await;
        bob.subscribe("errors", "/user/queue/errors", &[]).await;
    }
    // Somebody else's, outside of the relay.
    let amqp = Amqp::connect(&rabbit).await;
    let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let declare = amqp.channel.queue_declare("own.c".into(), options, FieldTable::default());
    declare.await.unwrap();
    let headers = [("exclusive", "true")];
    alice.send_later("/queue/own.c", &headers, "x").await;
    assert_eq!(refusal(&mut alice).await, locked);
    alice.subscribe_later("c", "/queue/own.c", &headers).await;
    assert_eq!(refusal(&mut alice).await, locked);
    assert!(relay.metric("stomp_relay_rabbitmq_lost_connections_total") < 0.5);
}

#[tokio::test]
async fn a_stream_is_read_from_where_its_reader_says() {
    let rabbit = shared_rabbitmq().await;
    let relay = forgiving(&rabbit).start();
    let mut client = Client::websocket(relay.http_address(), "alice").await;
    let stream = [("x-queue-type", "stream")];
    for number in 0..20 {
        client.send("/queue/stream.a", &stream, &number.to_string()).await;
    }
    let individual = ("ack", "client-individual");
    for (id, offset, first) in
        [("f", "first", 0), ("o", "offset=7", 7), ("t", "timestamp=0", 0), ("l", "last", 0)]
    {
        let headers = [stream[0], individual, ("x-stream-offset", offset)];
        client.subscribe(id, "/queue/stream.a", &headers).await;
        let message = client.message().await;
        // The last chunk is what RabbitMQ wrote at once: how much, nobody says.
        let number: i32 = message.text().parse().unwrap();
        assert!(number == first || offset == "last", "{offset}: {number}");
        assert_eq!(message.header("x-stream-offset"), message.text());
        client.unsubscribe(id).await;
        client.send("/topic/stream.none", &[], "").await;
        drop(client.take_frames());
    }
    let headers = [stream[0], ("x-stream-offset", "next")];
    client.subscribe("n", "/queue/stream.a", &headers).await;
    client.send("/queue/stream.a", &stream, "new").await;
    assert_eq!(client.message().await.text(), "new");
    // What is none ends the session, and says what it takes.
    let headers = [stream[0], ("x-stream-offset", "here")];
    client.subscribe_later("x", "/queue/stream.a", &headers).await;
    let error = client.frame().await;
    assert_eq!((error.command.as_str(), error.header("message")), ("ERROR", "Processing error"));
    assert!(error.text().contains("'x-stream-offset' must be first, last, next"), "{error:?}");
}

/// A stream forgets nothing that was acked, so after an outage somebody has to know where to go
/// on.
#[tokio::test]
async fn a_stream_goes_on_where_its_reader_was_when_the_connection_broke() {
    let rabbit = shared_rabbitmq().await;
    let vhost = Vhost::new(&rabbit, "resumed").await;
    let relay = Setup::new().broker(&vhost.url()).start();
    let mut client = Client::websocket(relay.http_address(), "alice").await;
    let stream = ("x-queue-type", "stream");
    for number in 0..30 {
        client.send("/queue/stream.resumed", &[stream], &number.to_string()).await;
    }
    let first = ("x-stream-offset", "first");
    let window = [stream, first, ("ack", "client-individual"), ("prefetch-count", "10")];
    client.subscribe("window", "/queue/stream.resumed", &window).await;
    let held = client.messages(10).await;
    assert_eq!(bodies(&held), numbers(0..10));
    for message in &held[..4] {
        settle(&mut client, "ACK", message).await;
    }
    assert_eq!(bodies(&client.messages(4).await), numbers(10..14));

    vhost.close_connections().await;
    let again = client.messages(10).await;
    assert_eq!(bodies(&again), numbers(4..14));
    assert!(again.iter().all(|message| message.get("redelivered") == Some("true")), "{again:?}");
    for message in &again {
        settle(&mut client, "ACK", message).await;
    }
    assert_eq!(bodies(&client.messages(10).await), numbers(14..24));
    client.unsubscribe("window").await;

    // Whoever has read all goes on with what is new.
    client.subscribe("all", "/queue/stream.resumed", &[stream, first]).await;
    assert_eq!(bodies(&client.messages(30).await), numbers(0..30));
    vhost.close_connections().await;
    client.send("/queue/stream.resumed", &[stream], "30").await;
    assert_eq!(client.message().await.text(), "30");
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// RabbitMQ looks at filters from 3.13 on, and takes them for nothing before.
#[tokio::test]
async fn a_stream_is_filtered_where_rabbitmq_can() {
    let rabbit = shared_rabbitmq().await;
    let version = version(&rabbit).await;
    let relay = forgiving(&rabbit).start();
    let mut client = Client::websocket(relay.http_address(), "alice").await;
    let stream = ("x-queue-type", "stream");
    // Each is written by itself: RabbitMQ passes over what it wrote together, or not at all.
    for value in [Some("pears"), Some("apples"), None, Some("plums"), Some("pears"), None] {
        let headers: Vec<_> = [stream]
            .into_iter()
            .chain(value.map(|value| ("x-stream-filter-value", value)))
            .collect();
        client.send("/queue/stream.filtered", &headers, value.unwrap_or("none")).await;
    }
    let all = ["pears", "apples", "none", "plums", "pears", "none", "pears"];
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);
    let cases: [Case<'_>; 3] = [
        ("one", &[("x-stream-filter", "pears")], &["pears", "pears", "pears"]),
        ("two", &[("x-stream-filter", "pears,plums")], &["pears", "plums", "pears", "pears"]),
        (
            "unfiltered",
            &[("x-stream-filter", "plums"), ("x-stream-match-unfiltered", "true")],
            &["none", "plums", "none"],
        ),
    ];
    for (id, filter, filtered) in cases {
        let headers = [&[stream, ("x-stream-offset", "first")], filter].concat();
        client.subscribe(id, "/queue/stream.filtered", &headers).await;
        if id == "one" {
            let headers = [stream, ("x-stream-filter-value", "pears")];
            client.send("/queue/stream.filtered", &headers, "pears").await;
        }
        let expected = if version >= (3, 13) { filtered } else { &all };
        let seen = client.messages(expected.len()).await;
        assert_eq!(bodies(&seen), expected, "{id} on {version:?}");
        client.unsubscribe(id).await;
    }
}

#[tokio::test]
async fn a_consumer_with_a_higher_priority_is_served_first() {
    let rabbit = shared_rabbitmq().await;
    let relay = forgiving(&rabbit).start();
    let mut client = Client::websocket(relay.http_address(), "alice").await;
    let low = [("ack", "client-individual"), ("prefetch-count", "5"), ("x-priority", "-1")];
    let high = [("ack", "client-individual"), ("prefetch-count", "5"), ("x-priority", "7")];
    client.subscribe("low", "/queue/priority.a", &low).await;
    client.subscribe("high", "/queue/priority.a", &high).await;
    for number in 0..8 {
        client.send("/queue/priority.a", &[], &number.to_string()).await;
    }
    let mut seen: Vec<String> = Vec::new();
    for message in client.messages(8).await {
        seen.push(message.header("subscription").to_owned());
    }
    seen.sort_unstable();
    assert_eq!(seen, ["high", "high", "high", "high", "high", "low", "low", "low"]);
}

#[tokio::test]
async fn queues_are_quorum_queues_where_the_config_says_so() {
    let rabbit = shared_rabbitmq().await;
    let relay = forgiving(&rabbit).config("relay.queue_type = \"quorum\"").start();
    let mut client = Client::websocket(relay.http_address(), "alice").await;
    client.subscribe("errors", "/user/queue/errors", &[]).await;
    assert_eq!(client.send("/queue/quorum.a", &[], "x").await, "confirmed");
    client.subscribe("b", "/queue/quorum.b", &[]).await;
    client.subscribe("c", "/queue/quorum.c", &[("auto-delete", "true")]).await;
    client.subscribe("d", "/queue/quorum.d", &[("x-queue-type", "classic")]).await;
    client.subscribe("e", "/topic/quorum.e", &[("x-queue-name", "quorum.e")]).await;
    let queues = listed(&rabbit, &["list_queues", "name", "type"]).await;
    for (name, expected) in [
        ("quorum.a", "quorum"),
        ("quorum.b", "quorum"),
        ("quorum.c", "classic"),
        ("quorum.d", "classic"),
        ("quorum.e", "classic"),
    ] {
        let line = queues.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('\t'));
        assert!(line.is_some_and(|line| line.contains(expected)), "{name}: {line:?}");
    }
    // A client of the plugin says what the queue is, or is refused.
    let plugin_address = ([127, 0, 0, 1], rabbit.stomp_port).into();
    let mut plugin = Client::connect(Wire::Tcp, plugin_address, "guest").await;
    plugin.send("/queue/quorum.a", &[("x-queue-type", "quorum")], "y").await;
    plugin.subscribe_later("q", "/queue/quorum.b", &[]).await;
    let error = plugin.frame().await;
    assert_eq!((error.command.as_str(), error.header("message")), ("ERROR", "precondition_failed"));
    client.subscribe("a", "/queue/quorum.a", &[]).await;
    let messages = client.messages(2).await;
    assert_eq!(bodies(&messages), ["x", "y"]);
}

/// The connection that sessions share for their exclusive queues is replaced once RabbitMQ has
/// closed 500 channels of it. Who has a queue there keeps it.
#[tokio::test]
async fn an_exclusive_queue_outlives_the_refusals_of_others() {
    let rabbit = shared_rabbitmq().await;
    let relay = forgiving(&rabbit).start();
    let mut alice = Client::websocket(relay.http_address(), "alice").await;
    let mut bob = Client::websocket(relay.http_address(), "bob").await;
    for client in [&mut alice, &mut bob] {
        client.subscribe("errors", "/user/queue/errors", &[]).await;
    }
    let exclusive = [("exclusive", "true")];
    for (queue, body) in [("/queue/kept.a", "a"), ("/queue/kept.b", "b")] {
        assert_eq!(alice.send(queue, &exclusive, body).await, "confirmed");
    }
    let each = [("ack", "client-individual")];
    alice.subscribe("b", "/queue/kept.b", &each).await;
    let b = alice.message().await;

    // Another program's.
    let amqp = Amqp::connect(&rabbit).await;
    let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let declare = amqp.channel.queue_declare("kept.other".into(), options, FieldTable::default());
    declare.await.unwrap();
    for _ in 0..510 {
        bob.send_later("/queue/kept.other", &exclusive, "x").await;
        assert_eq!(refusal(&mut bob).await, ("denied".into(), "resource_locked".into()));
    }
    let closed = relay.metric("stomp_relay_rabbitmq_closed_channels_total");
    assert!(closed > 509.5, "RabbitMQ was asked {closed} times only");

    settle(&mut alice, "ACK", &b).await;
    for (queue, body) in [("/queue/kept.b", "b again"), ("/queue/kept.a", "a again")] {
        assert_eq!(alice.send(queue, &exclusive, body).await, "confirmed");
    }
    let b = alice.message().await;
    assert_eq!((b.text(), b.get("redelivered")), ("b again", Some("false")));
    settle(&mut alice, "ACK", &b).await;
    alice.subscribe("a", "/queue/kept.a", &[]).await;
    assert_eq!(bodies(&alice.messages(2).await), ["a", "a again"]);
    // At the session's end they are free.
    drop(alice);
    let end = Instant::now() + PATIENCE;
    for queue in ["/queue/kept.a", "/queue/kept.b"] {
        while !is_taken(&mut bob, queue, &exclusive).await {
            assert!(Instant::now() < end, "{queue} is still another's");
        }
    }
    // Two are bob's now.
    for number in 2..200 {
        let queue = format!("/queue/kept.{number}");
        assert_eq!(bob.send(&queue, &exclusive, "x").await, "confirmed");
    }
    bob.send_later("/queue/kept.more", &exclusive, "x").await;
    assert_eq!(refusal(&mut bob).await.0, "limit");
    assert_eq!(bob.send("/queue/kept.2", &exclusive, "y").await, "confirmed");
}
