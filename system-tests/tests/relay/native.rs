//! A program that speaks AMQP, and clients of RabbitMQ's STOMP plugin and of the relay: what each
//! says is what the others get.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, DecimalValue, FieldArray, FieldTable};
use system_tests::relay::Setup;
use system_tests::stomp_client::{Client, Frame, Wire};

use crate::amqp::Amqp;
use crate::support::shared_rabbitmq;

/// Name, value, and what a STOMP client sees; whether the plugin shows it too.
fn values() -> Vec<(&'static str, AMQPValue, Option<&'static str>, bool)> {
    use AMQPValue as V;
    let mut table = FieldTable::default();
    table.insert("n".into(), V::LongInt(1));
    table.insert("t:\n".into(), V::LongString("\u{fc}\"".into()));
    let array = FieldArray::from(vec![V::Boolean(true), V::Void, V::FieldTable(table.clone())]);
    vec![
        ("text", V::LongString("a:b\\c\n\u{e4}".into()), Some("a:b\\c\n\u{e4}"), true),
        ("empty", V::LongString("".into()), Some(""), true),
        ("int", V::LongInt(-7), Some("-7"), true),
        ("long", V::LongLongInt(1 << 40), Some("1099511627776"), true),
        ("bool", V::Boolean(true), Some("true"), false),
        ("byte", V::ShortShortInt(-1), Some("-1"), false),
        ("short", V::ShortInt(-300), Some("-300"), false),
        ("float", V::Float(0.5), Some("0.5"), false),
        ("double", V::Double(1.25), Some("1.25"), false),
        ("decimal", V::DecimalValue(DecimalValue { scale: 2, value: 1999 }), Some("19.99"), false),
        ("time", V::Timestamp(1_700_000_000), Some("1700000000"), false),
        ("bytes", V::ByteArray(b"raw".as_slice().into()), Some("raw"), false),
        ("void", V::Void, Some(""), false),
        ("table", V::FieldTable(table), Some("{\"n\":1,\"t:\\n\":\"\u{fc}\\\"\"}"), false),
        (
            "array",
            V::FieldArray(array),
            Some("[true,null,{\"n\":1,\"t:\\n\":\"\u{fc}\\\"\"}]"),
            false,
        ),
        ("na:me\n", V::LongString("v".into()), Some("v"), true),
        ("not-utf-8", V::LongString(vec![0xff_u8].into()), None, false),
        ("nul", V::LongString("a\0b".into()), None, false),
    ]
}

/// Names that are the server's own, whoever says them.
const FORGED: [&str; 8] = [
    "subscription",
    "message-id",
    "destination",
    "redelivered",
    "ack",
    "x-receipt-level",
    "unread-id",
    "content-length",
];

fn shown<'a>(frame: &'a Frame, names: &[&str]) -> BTreeMap<&'a str, &'a str> {
    let headers = frame.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    headers.filter(|(name, _)| names.contains(name)).collect()
}

#[tokio::test]
async fn amqp_headers_of_every_type() {
    let rabbit = shared_rabbitmq().await;
    let amqp = Amqp::connect(&rabbit).await;
    let relay = Setup::new().broker(&rabbit.amqp_url).start();
    let plugin_address = ([127, 0, 0, 1], rabbit.stomp_port).into();
    let mut plugin = Client::connect(Wire::Tcp, plugin_address, "guest").await;
    let mut ours = Client::websocket(relay.http_address(), "alice").await;
    let mut over_tcp = Client::connect(Wire::Tcp, relay.tcp_address(), "bob").await;
    for client in [&mut plugin, &mut ours, &mut over_tcp] {
        client.subscribe("t", "/topic/native.types", &[]).await;
    }
    let values = values();
    let names: Vec<&str> = values.iter().map(|(name, ..)| *name).collect();
    let mut table = FieldTable::default();
    for (name, value, ..) in &values {
        // The plugin writes what is no text as it is, and its own client cannot read it.
        if !matches!(*name, "not-utf-8" | "nul") {
            table.insert((*name).into(), value.clone());
        }
    }
    let properties = BasicProperties::default().with_headers(table.clone());
    amqp.publish("amq.topic", "native.types", properties, "body").await;
    let expected = |all: bool| -> BTreeMap<&str, &str> {
        let shown = values.iter().filter(|(.., by_plugin)| all || *by_plugin);
        shown.filter_map(|(name, _, text, _)| Some((*name, (*text)?))).collect()
    };
    assert_eq!(shown(&plugin.message().await, &names), expected(false));
    for client in [&ours, &over_tcp] {
        let message = client.message().await;
        assert_eq!(shown(&message, &names), expected(true));
        assert_eq!(message.text(), "body");
    }
    plugin.unsubscribe("t").await;

    // What no STOMP client could take, and what is not the sender's to say.
    for (name, value, ..) in &values {
        table.insert((*name).into(), value.clone());
    }
    for name in FORGED {
        table.insert(name.into(), AMQPValue::LongString("forged".into()));
    }
    let properties = BasicProperties::default().with_headers(table);
    amqp.publish("amq.topic", "native.types", properties, "again").await;
    for client in [&ours, &over_tcp] {
        let message = client.message().await;
        assert_eq!(shown(&message, &names), expected(true));
        let forged = message.headers.iter().filter(|(_, value)| value == "forged");
        assert_eq!(forged.count(), 0, "{message:?}");
        assert_eq!((message.text(), message.header("subscription")), ("again", "t"));
    }
}

#[tokio::test]
async fn properties_of_amqp_are_headers_both_ways() {
    let rabbit = shared_rabbitmq().await;
    let amqp = Amqp::connect(&rabbit).await;
    let relay = Setup::new().broker(&rabbit.amqp_url).start();
    let plugin_address = ([127, 0, 0, 1], rabbit.stomp_port).into();
    let mut plugin = Client::connect(Wire::Tcp, plugin_address, "guest").await;
    let mut ours = Client::websocket(relay.http_address(), "alice").await;
    let mut listener = amqp.listen("amq.topic", "native.properties").await;
    for client in [&mut plugin, &mut ours] {
        client.subscribe("t", "/topic/native.properties", &[]).await;
    }
    let sent = [
        ("content-type", "text/plain"),
        ("content-encoding", "utf-8"),
        ("persistent", "true"),
        ("priority", "4"),
        ("correlation-id", "c-1"),
        ("reply-to", "answers"),
        ("expiration", "60000"),
        ("amqp-message-id", "m-1"),
        ("timestamp", "1700000000"),
        ("type", "greeting"),
        ("app-id", "test"),
        ("own", "o"),
    ];
    let mut seen = Vec::new();
    for from_relay in [false, true] {
        let sender = if from_relay { &mut ours } else { &mut plugin };
        sender.send("/topic/native.properties", &sent, "body").await;
        let delivery = listener.next().await.unwrap().unwrap();
        let mut properties = delivery.properties.clone();
        let mut table = properties.headers().clone().unwrap().inner().clone();
        assert_eq!(table.remove("own"), Some(AMQPValue::LongString("o".into())));
        assert_eq!(table.remove("x-id").is_some(), from_relay);
        // What the plugin passes on of the sender's talk with its server.
        for name in ["receipt", "content-length"] {
            assert_eq!(table.remove(name).is_some(), !from_relay, "{name}");
        }
        assert!(table.is_empty(), "{table:?}");
        properties = properties.with_headers(FieldTable::default());
        seen.push((properties, delivery.data.clone()));
        for client in [&plugin, &ours] {
            let message = client.message().await;
            for (name, value) in sent {
                let value = if name == "reply-to" { "/reply-queue/answers" } else { value };
                assert_eq!(message.get(name), Some(value), "from the relay: {from_relay}, {name}");
            }
        }
    }
    assert_eq!(seen[0], seen[1], "left from the plugin, right from the relay");
    // And as a program says them.
    let (properties, body) = seen.remove(0);
    amqp.publish("amq.topic", "native.properties", properties, std::str::from_utf8(&body).unwrap())
        .await;
    let [at_plugin, at_relay] = [plugin.message().await, ours.message().await];
    let headers = |frame: &Frame| -> BTreeMap<String, String> {
        let differ = ["message-id", "subscription"];
        let all = frame.headers.iter().cloned();
        all.filter(|(name, _)| !differ.contains(&name.as_str())).collect()
    };
    assert_eq!(headers(&at_plugin), headers(&at_relay));
    assert_eq!(at_relay.header("correlation-id"), "c-1");
}
