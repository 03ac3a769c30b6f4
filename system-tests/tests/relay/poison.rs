//! A browser that says everything RabbitMQ closes channels and connections for, on the node of a
//! hundred others, who notice nothing.

use std::net::SocketAddr;
use std::time::Duration;

use lapin::ExchangeKind;
use system_tests::stomp_client::{Client, Frame, Wire};

use crate::amqp::Amqp;
use crate::support::{forgiving, shared_rabbitmq};

const OTHERS: usize = 100;

/// Headers of a SEND, each of which RabbitMQ or a client library closes something for: as
/// property or header of the wrong type, beyond a short string, or somebody else's to say.
fn headers() -> Vec<(String, String)> {
    let mut headers: Vec<(String, String)> = [
        ("CC", "evil.elsewhere"),
        ("BCC", "evil.elsewhere"),
        ("cc", "x"),
        ("user-id", "guest"),
        ("user-id", "eve"),
        ("expiration", "-1"),
        ("expiration", "soon"),
        ("expiration", "4294967296"),
        ("expiration", "99999999999999999999999"),
        ("priority", "256"),
        ("priority", "-1"),
        ("priority", "high"),
        ("timestamp", "-1"),
        ("timestamp", "99999999999999999999999"),
        ("delivery-mode", "3"),
        ("delivery_mode", "x"),
        ("persistent", "maybe"),
        ("content-length", "x"),
        ("x-death", "x"),
        ("x-delay", "x"),
        ("x-match", "any"),
        ("x-stream-filter-value", "v"),
        ("x-republished", "true"),
        ("x-id", "x"),
        ("x-user", "admin"),
        ("x-first-death-queue", "x"),
        ("x-delivery-count", "x"),
        ("x-delivery-limit", "x"),
        ("message-id", "m"),
        ("amqp-message-id", "m"),
        ("redelivered", "true"),
        ("reply-to", "/temp-queue/"),
        ("reply-to", "stomp-relay.node.x"),
        ("reply-to", "amq.rabbitmq.reply-to"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let lengths = [255, 256, 300];
    let text = |bytes: usize| ["x".repeat(bytes), "\u{e9}".repeat(bytes / 2)];
    for bytes in lengths {
        for long in text(bytes) {
            for name in [
                "content-type",
                "content-encoding",
                "correlation-id",
                "reply-to",
                "expiration",
                "amqp-message-id",
                "type",
                "app-id",
                "user-id",
                "own",
                "x-queue-name",
                "x-queue-type",
                "x-dead-letter-exchange",
                "x-dead-letter-routing-key",
                "x-max-age",
                "x-message-ttl",
            ] {
                headers.push((name.to_owned(), long.clone()));
            }
            headers.push((long, "v".to_owned()));
        }
    }
    headers
}

/// Destinations whose names are too long, reserved or none.
fn destinations() -> Vec<String> {
    let mut destinations: Vec<String> = [
        "/exchange//k",
        "/exchange/amq.rabbitmq.trace/k",
        "/exchange/amq.topic",
        "/exchange/evil.kind/a/b",
    ]
    .map(str::to_owned)
    .into();
    for bytes in [240, 255, 256, 300] {
        for prefix in [
            "/queue/",
            "/topic/",
            "/amq/queue/",
            "/exchange/",
            "/exchange/evil.kind/",
            "/reply-queue/",
        ] {
            let fill = bytes - prefix.len();
            destinations.push(format!("{prefix}{}", "x".repeat(fill)));
            destinations.push(format!("{prefix}{}", "%2F".repeat(fill / 3)));
            // The name alone has that length.
            destinations.push(format!("{prefix}{}", "y".repeat(bytes)));
        }
    }
    destinations
}

/// Headers of a SUBSCRIBE.
fn of_subscribe() -> Vec<(String, String)> {
    let mut headers: Vec<(String, String)> = [
        ("ack", "sometimes"),
        ("prefetch-count", "-1"),
        ("prefetch-count", "99999999"),
        ("x-priority", "x"),
        ("x-stream-offset", "x"),
        ("x-queue-type", "stream"),
        ("x-queue-type", "quorum"),
        ("x-queue-name", "amq.evil"),
        ("x-queue-name", "stomp-relay.evil"),
        ("x-max-priority", "255"),
        ("x-expires", "0"),
        ("x-message-ttl", "-1"),
        ("x-max-length", "99999999999999999999"),
        ("x-max-age", "forever"),
        ("x-dead-letter-exchange", "evil.kind"),
        ("selector", "a = 1"),
        ("exclusive", "true"),
        ("durable", "false"),
        ("auto-delete", "true"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    for bytes in [255, 256, 300] {
        for name in ["x-queue-name", "x-queue-type", "x-max-age", "x-dead-letter-routing-key"] {
            headers.push((name.to_owned(), "x".repeat(bytes)));
        }
    }
    headers
}

/// Says one thing and then asks for a RECEIPT. Whatever comes of it, that is answered after it, or
/// the session has ended.
async fn say(evil: Option<Client>, address: SocketAddr, frame: &Frame) -> Option<Client> {
    let mut evil = match evil {
        Some(evil) if !evil.is_closed() => evil,
        _ => {
            let mut evil = Client::connect(Wire::WebSocket, address, "carol").await;
            evil.subscribe("errors", "/user/queue/errors", &[]).await;
            evil
        }
    };
    evil.write(frame).await;
    let receipt = evil.send_later("/queue/evil.after", &[], "").await;
    loop {
        if evil.take_receipts().contains(&receipt) {
            drop(evil.take_frames());
            return Some(evil);
        }
        if evil.is_closed() {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_others_notice_nothing() {
    let rabbit = shared_rabbitmq().await;
    let amqp = Amqp::connect(&rabbit).await;
    amqp.declare_exchange("evil.kind", ExchangeKind::Headers, false).await;
    amqp.declare_exchange("poison.others", ExchangeKind::Direct, false).await;
    let relay = forgiving(&rabbit).start();
    let address = relay.http_address();
    let mut others = Vec::new();
    for number in 0..OTHERS {
        let mut other = Client::websocket(address, "bob").await;
        let own = match number % 3 {
            0 => format!("/queue/poison.other.{number}"),
            1 => format!("/topic/poison.other.{number}"),
            _ => format!("/exchange/poison.others/{number}"),
        };
        let ack = if number % 2 == 0 { "auto" } else { "client-individual" };
        other.subscribe("own", &own, &[("ack", ack), ("prefetch-count", "1000")]).await;
        others.push((other, own, 0_u64));
    }

    let mut frames = Vec::new();
    for (name, value) in headers() {
        for destination in ["/queue/evil.queue", "/topic/evil", "/exchange/evil.kind/k"] {
            let headers =
                [("destination", destination), (name.as_str(), value.as_str()), ("receipt", "r")];
            frames.push(Frame::new("SEND", &headers, b"evil"));
        }
    }
    for destination in destinations() {
        for command in ["SEND", "SUBSCRIBE"] {
            let headers = [("destination", destination.as_str()), ("id", "evil"), ("receipt", "r")];
            frames.push(Frame::new(command, &headers, b""));
            frames.push(Frame::new("UNSUBSCRIBE", &[("id", "evil")], b""));
        }
    }
    for (name, value) in of_subscribe() {
        for destination in ["/queue/evil.sub", "/topic/evil", "/exchange/evil.kind/k"] {
            let headers = [
                ("destination", destination),
                ("id", "evil"),
                (name.as_str(), value.as_str()),
                ("receipt", "r"),
            ];
            frames.push(Frame::new("SUBSCRIBE", &headers, b""));
            frames.push(Frame::new("UNSUBSCRIBE", &[("id", "evil")], b""));
        }
    }

    let mut evil = None;
    for (number, frame) in frames.iter_mut().enumerate() {
        for (name, value) in &mut frame.headers {
            if name == "receipt" {
                *value = format!("evil-{number}");
            }
        }
        evil = say(evil, address, frame).await;
        // Every other session sends to itself now and then, without waiting for the answer.
        let (other, own, sent) = &mut others[number % OTHERS];
        let headers: &[_] = if number % 2 == 0 { &[("persistent", "true")] } else { &[] };
        other.send_later(own, headers, &sent.to_string()).await;
        *sent += 1;
    }
    for (other, own, sent) in &mut others {
        for number in 0..*sent {
            let message = other.message().await;
            assert_eq!(message.text(), number.to_string(), "{own}");
            assert_eq!(message.header("redelivered"), "false", "{own}");
        }
        other.send("/topic/poison.nobody", &[], "").await;
        assert_eq!(other.receipted(), other.attempted() + 1, "{own}");
        assert_eq!(other.take_frames(), [], "{own}");
        assert!(!other.is_closed(), "{own}");
    }
    assert!(relay.metric("stomp_relay_rabbitmq_lost_connections_total") < 0.5);
    assert!(relay.metric("stomp_relay_rabbitmq_republished_total") < 0.5);
    assert!(!relay.log().contains("panicked"));
}
