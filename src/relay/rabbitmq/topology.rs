//! Destinations as exchanges, routing keys and queues, and back. Pure.

use std::fmt::Write as _;
use std::sync::Arc;

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use crate::destination::{Destination, Topic};
use crate::relay::error::{Refusal, RefusalKind};

/// The exchange behind `/topic`.
pub(super) const TOPIC_EXCHANGE: &str = "amq.topic";

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
        Destination::Topic(_) | Destination::User(_) | Destination::App(_) => Err(unknown()),
    }
}

/// A queue that a subscription consumes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// `/queue/N`: durable, shared by whoever subscribes it.
    Queue(Arc<str>),
    /// A topic subscription's own queue, gone with its consumer.
    Own { queue: Arc<str>, topic: Topic },
}

impl Source {
    pub(super) fn queue(&self) -> &Arc<str> {
        match self {
            Self::Queue(queue) | Self::Own { queue, .. } => queue,
        }
    }

    /// Declared as RabbitMQ's STOMP plugin declares it, so that both can use one queue.
    pub(super) fn options(&self) -> QueueDeclareOptions {
        match self {
            Self::Queue(_) => QueueDeclareOptions::durable(),
            Self::Own { .. } => QueueDeclareOptions { auto_delete: true, ..Default::default() },
        }
    }
}

/// The queue behind a subscription with acks, or to `/queue`; `random` names a topic's own queue.
///
/// # Errors
/// Where the destination is not RabbitMQ's, or its name does not fit into AMQP.
pub(super) fn source(destination: &Destination, random: &str) -> Result<Source, Refusal> {
    match destination {
        Destination::Queue(name) => {
            short(name)?;
            Ok(Source::Queue(name.clone()))
        }
        Destination::Topic(topic) => {
            short(topic.key())?;
            let queue = Arc::from(format!("stomp-subscription-{random}"));
            Ok(Source::Own { queue, topic: topic.clone() })
        }
        Destination::User(_) | Destination::App(_) => Err(unknown()),
    }
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

/// The canonical destination of what AMQP delivers, where it has one.
pub(super) fn delivered(exchange: &str, key: &str) -> Option<Destination> {
    match exchange {
        "" => Some(Destination::Queue(Arc::from(key))),
        TOPIC_EXCHANGE => Some(Destination::Topic(Topic::from_key(key))),
        _ => None,
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
        for destination in [queue, topic] {
            assert_eq!(route(&destination).unwrap_err().kind, RefusalKind::Limit);
            assert_eq!(source(&destination, "r").unwrap_err().kind, RefusalKind::Limit);
        }
    }

    #[test]
    fn sources_are_declared_as_the_plugin_declares_them() {
        let queue = source(&Destination::for_subscribe("/queue/n", "u").unwrap(), "r").unwrap();
        assert_eq!(&**queue.queue(), "n");
        let options = queue.options();
        assert_eq!((options.durable, options.exclusive, options.auto_delete), (true, false, false));
        let own = source(&Destination::for_subscribe("/topic/a.#", "u").unwrap(), "r").unwrap();
        assert_eq!(&**own.queue(), "stomp-subscription-r");
        let options = own.options();
        assert_eq!((options.durable, options.exclusive, options.auto_delete), (false, false, true));
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
        assert_eq!(delivered("e", "k"), None);
    }
}
