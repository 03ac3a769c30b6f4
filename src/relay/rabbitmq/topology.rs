//! Destinations as exchanges, routing keys and queues, and back. Pure.

use std::fmt::Write as _;
use std::sync::Arc;

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use crate::destination::{Destination, Exchange, TOPIC_EXCHANGE, Topic};
use crate::relay::error::{Refusal, RefusalKind};
use crate::relay::origin::{Arguments, Declaration, QueueOrigin, QueueType, binding_key};

/// What the node queue may hold: beyond it RabbitMQ drops the oldest.
const NODE_QUEUE_BYTES: i64 = 256 * 1024 * 1024;

/// Where RabbitMQ is to put a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) exchange: ShortString,
    pub(super) key: ShortString,
    /// The queue that has to be there first. Its messages are published `mandatory`.
    pub(super) queue: Option<Arc<str>>,
}

/// The route of a SEND.
///
/// # Errors
/// Where the destination is not RabbitMQ's, or its name does not fit into AMQP.
pub(super) fn route(destination: &Destination) -> Result<Route, Refusal> {
    match destination {
        Destination::Queue(name) => Ok(Route {
            exchange: ShortString::default(),
            key: short(name)?,
            queue: Some(name.clone()),
        }),
        Destination::Topic(topic) if !topic.is_wildcard() => {
            Ok(Route { exchange: short(TOPIC_EXCHANGE)?, key: short(topic.key())?, queue: None })
        }
        // Not declared, so that it may be missing: then the message is dropped, as the plugin does.
        Destination::AmqQueue(name) | Destination::ReplyQueue(name) => {
            Ok(Route { exchange: ShortString::default(), key: short(name)?, queue: None })
        }
        // RabbitMQ closes the channel over an exchange that is not there, and it is everybody's.
        Destination::Exchange(_) => Err(Refusal::new(
            RefusalKind::UnknownDestination,
            "Unsupported destination",
            "SEND to /exchange is not served with RabbitMQ yet\n",
        )),
        Destination::Topic(_) | Destination::User(_) | Destination::App(_) => Err(unknown()),
    }
}

/// The own queue of a fan-out subscription that the node's queue does not serve.
pub(super) fn own_queue(binding: Destination, random: &str) -> QueueOrigin {
    QueueOrigin {
        queue: Arc::from(format!("stomp-subscription-{random}")),
        declare: Some(Declaration {
            durable: false,
            auto_delete: true,
            exclusive: false,
            arguments: Arguments::default(),
        }),
        binding: Some(binding),
    }
}

/// A queue of answers. RabbitMQ names it.
pub(super) fn answers() -> QueueOrigin {
    QueueOrigin { queue: Arc::from(""), declare: Some(Declaration::ANSWERS), binding: None }
}

/// Whether all names of it fit into AMQP.
///
/// # Errors
/// Where one does not.
pub(super) fn check(origin: &QueueOrigin) -> Result<(), Refusal> {
    short(&origin.queue)?;
    if let Some((exchange, key)) = origin.binding.as_ref().and_then(binding_key) {
        short(exchange)?;
        short(key)?;
    }
    Ok(())
}

/// What a queue is declared with, the same as RabbitMQ's STOMP plugin declares it with.
pub(super) fn declare_options(declaration: &Declaration) -> (QueueDeclareOptions, FieldTable) {
    let Declaration { durable, auto_delete, exclusive, arguments } = declaration;
    let options = QueueDeclareOptions {
        durable: *durable,
        auto_delete: *auto_delete,
        exclusive: *exclusive,
        ..Default::default()
    };
    let mut table = FieldTable::default();
    let text = |text: &Arc<str>| AMQPValue::LongString(text.as_bytes().into());
    let long = |number: u64| AMQPValue::LongLongInt(i64::try_from(number).unwrap_or(i64::MAX));
    let queue_type = arguments.queue_type.map(QueueType::name).map(Arc::from);
    let texts = [
        ("x-dead-letter-exchange", &arguments.dead_letter_exchange),
        ("x-dead-letter-routing-key", &arguments.dead_letter_routing_key),
        ("x-queue-type", &queue_type),
        ("x-max-age", &arguments.max_age),
    ];
    for (name, value) in texts {
        if let Some(value) = value {
            table.insert(ShortString::from(name), text(value));
        }
    }
    let numbers = [
        ("x-expires", arguments.expires),
        ("x-max-length", arguments.max_length),
        ("x-max-length-bytes", arguments.max_length_bytes),
        ("x-max-priority", arguments.max_priority.map(u64::from)),
        ("x-message-ttl", arguments.message_ttl),
        ("x-stream-max-segment-size-bytes", arguments.stream_max_segment_size_bytes),
        ("x-stream-filter-size-bytes", arguments.stream_filter_size_bytes),
    ];
    for (name, value) in numbers {
        if let Some(value) = value {
            table.insert(ShortString::from(name), long(value));
        }
    }
    (options, table)
}

/// The queue of this node's plain topic subscriptions.
pub(super) fn node_queue(node_id: &str, random: &str) -> String {
    format!("stomp-relay.node.{node_id}.{random}")
}

/// Exclusive: it belongs to the connection that declares it, and goes with it.
pub(super) fn node_queue_options() -> (QueueDeclareOptions, FieldTable) {
    let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
    let mut arguments = FieldTable::default();
    let limit = AMQPValue::LongLongInt(NODE_QUEUE_BYTES);
    arguments.insert(ShortString::from("x-max-length-bytes"), limit);
    (options, arguments)
}

/// The exchange between nodes: direct, durable; routing keys are node ids.
pub(super) const NODES_EXCHANGE: &str = "stomp-relay.nodes";
/// What waits for a node. Beyond it senders are told that it is full.
const INBOX_BYTES: i64 = 64 * 1024 * 1024;

/// The queue of what other nodes have for this one.
pub(super) fn inbox(node_id: &str, random: &str) -> String {
    format!("stomp-relay.inbox.{node_id}.{random}")
}

/// Exclusive, as the node queue is. Nothing is dropped from it in silence.
pub(super) fn inbox_options() -> (QueueDeclareOptions, FieldTable) {
    let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
    let mut arguments = FieldTable::default();
    let limit = AMQPValue::LongLongInt(INBOX_BYTES);
    arguments.insert(ShortString::from("x-max-length-bytes"), limit);
    let overflow = AMQPValue::LongString("reject-publish".into());
    arguments.insert(ShortString::from("x-overflow"), overflow);
    (options, arguments)
}

/// The canonical destination of what AMQP delivers.
pub(super) fn delivered(exchange: &str, key: &str) -> Destination {
    match exchange {
        "" => Destination::Queue(Arc::from(key)),
        TOPIC_EXCHANGE => Destination::Topic(Topic::from_key(key)),
        _ => Destination::Exchange(Exchange { name: Arc::from(exchange), key: Arc::from(key) }),
    }
}

/// The `destination` header of a MESSAGE, as RabbitMQ's STOMP plugin writes it.
pub(super) fn shown(exchange: &str, key: &str) -> String {
    let mut text = String::with_capacity(key.len() + 8);
    match exchange {
        "" => text.push_str("/queue/"),
        TOPIC_EXCHANGE => text.push_str("/topic/"),
        _ => {
            text.push_str("/exchange/");
            escape(&mut text, exchange);
            if !key.is_empty() {
                text.push('/');
            }
        }
    }
    escape(&mut text, key);
    text
}

fn escape(out: &mut String, name: &str) {
    for byte in name.bytes() {
        if matches!(byte, b'/' | b'%' | 0..32 | 128..) {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        } else {
            out.push(char::from(byte));
        }
    }
}

/// A name as an AMQP short string.
///
/// # Errors
/// Beyond 255 bytes.
pub(super) fn short(name: &str) -> Result<ShortString, Refusal> {
    ShortString::try_new(name).map_err(|_| {
        let body = format!("A name has at most 255 bytes, this one has {}.\n", name.len());
        Refusal::new(RefusalKind::Limit, "Destination too long", body)
    })
}

fn unknown() -> Refusal {
    let body = "RabbitMQ has queues and topics only.\n";
    Refusal::new(RefusalKind::UnknownDestination, "Unknown destination", body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        let cases = [
            ("/queue/a%2Fb", Some(("", "a/b", Some("a/b")))),
            ("/topic/a/b", Some(("amq.topic", "a.b", None))),
            ("/amq/queue/a", Some(("", "a", None))),
            ("/reply-queue/amq.gen-a", Some(("", "amq.gen-a", None))),
            ("/exchange/e/k", None),
            ("/app/x", None),
            ("/user/bob/queue/x", None),
        ];
        for (text, expected) in cases {
            let route = route(&Destination::for_send(text).unwrap()).ok();
            let seen = route
                .as_ref()
                .map(|route| (route.exchange.as_str(), route.key.as_str(), route.queue.as_deref()));
            assert_eq!(seen, expected, "{text}");
        }
        let wildcard = Destination::Topic(Topic::from_key("a.*"));
        assert_eq!(route(&wildcard).unwrap_err().kind, RefusalKind::UnknownDestination);
    }

    #[test]
    fn a_long_name_is_refused_and_does_not_panic() {
        let long = "x".repeat(256);
        let queue = Destination::Queue(Arc::from(long.as_str()));
        let topic = Destination::Topic(Topic::from_key(&long));
        for destination in [&queue, &topic] {
            assert_eq!(route(destination).unwrap_err().kind, RefusalKind::Limit);
        }
        let origin = own_queue(topic, "r");
        assert_eq!(check(&origin).unwrap_err().kind, RefusalKind::Limit);
        let queue = QueueOrigin { queue: Arc::from(long), ..own_queue(queue, "r") };
        assert_eq!(check(&queue).unwrap_err().kind, RefusalKind::Limit);
    }

    #[test]
    fn every_argument_has_amqps_name() {
        let arguments = Arguments {
            dead_letter_exchange: Some("e".into()),
            dead_letter_routing_key: Some("k".into()),
            queue_type: Some(QueueType::Quorum),
            expires: Some(1),
            max_length: Some(2),
            max_length_bytes: Some(3),
            max_priority: Some(4),
            message_ttl: Some(5),
            max_age: Some("7D".into()),
            stream_max_segment_size_bytes: Some(6),
            stream_filter_size_bytes: Some(7),
        };
        let declaration = Declaration { arguments, ..Declaration::QUEUE };
        let (options, table) = declare_options(&declaration);
        assert_eq!((options.durable, options.exclusive, options.auto_delete), (true, false, false));
        let shown: Vec<String> = table
            .inner()
            .iter()
            .map(|(name, value)| match value {
                AMQPValue::LongString(text) => format!("{name}={text}"),
                AMQPValue::LongLongInt(number) => format!("{name}={number}"),
                other => format!("{name} is {other:?}"),
            })
            .collect();
        assert_eq!(
            shown.join(" "),
            "x-dead-letter-exchange=e x-dead-letter-routing-key=k x-expires=1 x-max-age=7D \
             x-max-length=2 x-max-length-bytes=3 x-max-priority=4 x-message-ttl=5 \
             x-queue-type=quorum x-stream-filter-size-bytes=7 x-stream-max-segment-size-bytes=6"
        );
    }

    #[test]
    fn destinations_as_the_plugin_shows_them() {
        let cases = [
            ("", "n", "/queue/n"),
            ("", "a/b%c", "/queue/a%2Fb%25c"),
            ("amq.topic", "a.b", "/topic/a.b"),
            ("amq.topic", "\u{e9}\u{1}\u{7f}", "/topic/%C3%A9%01\u{7f}"),
            ("e/x", "k", "/exchange/e%2Fx/k"),
            ("e", "", "/exchange/e"),
        ];
        for (exchange, key, expected) in cases {
            assert_eq!(shown(exchange, key), expected);
        }
        assert_eq!(delivered("e", "k").to_string(), "/exchange/e/k");
    }
}
