//! Where a subscription's messages come from: a fan-out, or a queue. Pure.
//!
//! The mapping is that of RabbitMQ's STOMP plugin, name for name, so that clients of either use
//! one queue. What the plugin would make a queue of its own for and is plain (`ack:auto`, no
//! queue headers) is a fan-out here: many subscribers, one copy from the broker.
//!
//! | destination | plain | with acks or queue headers |
//! |---|---|---|
//! | `/queue/N` | queue `N`, durable | the same, declared as the headers say |
//! | `/amq/queue/N`, `/reply-queue/N` | queue `N`, not declared | the same |
//! | `/topic/K`, `/exchange/E/K` | fan-out | a queue of its own, bound to `E` with `K` |

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use md5::{Digest as _, Md5};

use super::AckMode;
use crate::destination::{Destination, Exchange, TOPIC_EXCHANGE};
use crate::stomp::Headers;

/// Milliseconds that RabbitMQ's timers take.
const MAX_MILLISECONDS: u64 = u32::MAX as u64;

/// Where a subscription's messages come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Everybody who listens gets a copy: a topic or an exchange.
    Fanout(Destination),
    /// Each message goes to one consumer of the queue.
    Queue(Box<QueueOrigin>),
}

/// A queue that a subscription consumes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueOrigin {
    pub queue: Arc<str>,
    /// None: it is not declared, and must be there.
    pub declare: Option<Declaration>,
    /// What it is bound to: a topic or an exchange.
    pub binding: Option<Destination>,
    pub consumer: ConsumerArguments,
}

/// What a consumer of a queue says beside its prefetch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerArguments {
    /// Those with a higher one are served first.
    pub priority: Option<i32>,
    /// Of a stream: where to begin.
    pub stream_offset: Option<StreamOffset>,
    /// Of a stream: only messages with one of these values.
    pub stream_filter: Vec<Arc<str>>,
    /// And those without any.
    pub match_unfiltered: Option<bool>,
}

/// `x-stream-offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamOffset {
    First,
    Last,
    Next,
    Offset(u64),
    /// Seconds since 1970.
    Timestamp(u64),
}

impl StreamOffset {
    fn parse(text: &str) -> Option<Self> {
        // What AMQP can say.
        let number = |text: &str| text.parse().ok().filter(|number| i64::try_from(*number).is_ok());
        match text.split_once('=') {
            None => match text {
                "first" => Some(Self::First),
                "last" => Some(Self::Last),
                "next" => Some(Self::Next),
                _ => None,
            },
            Some(("offset", text)) => number(text).map(Self::Offset),
            Some(("timestamp", text)) => number(text).map(Self::Timestamp),
            Some(_) => None,
        }
    }
}

/// Where a subscription is, as far as it matters for ending it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Fanout(Destination),
    Queue(Arc<str>),
}

/// What a queue is declared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    pub durable: bool,
    /// It goes with its last consumer.
    pub auto_delete: bool,
    /// It is one session's, and goes with it.
    pub exclusive: bool,
    pub arguments: Arguments,
}

impl Declaration {
    /// What `/queue/N` is where nobody says otherwise.
    pub const QUEUE: Self =
        Self { durable: true, auto_delete: false, exclusive: false, arguments: Arguments::NONE };
    /// A queue for answers to one session.
    pub const ANSWERS: Self =
        Self { durable: false, auto_delete: true, exclusive: true, arguments: Arguments::NONE };
}

/// The arguments of a queue that the plugin knows. Times in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    pub dead_letter_exchange: Option<Arc<str>>,
    pub dead_letter_routing_key: Option<Arc<str>>,
    pub queue_type: Option<QueueType>,
    pub expires: Option<u64>,
    pub max_length: Option<u64>,
    pub max_length_bytes: Option<u64>,
    pub max_priority: Option<u8>,
    pub message_ttl: Option<u64>,
    /// Of a stream: how long it keeps what it has, such as `7D`.
    pub max_age: Option<Arc<str>>,
    pub stream_max_segment_size_bytes: Option<u64>,
    pub stream_filter_size_bytes: Option<u64>,
}

impl Arguments {
    const NONE: Self = Self {
        dead_letter_exchange: None,
        dead_letter_routing_key: None,
        queue_type: None,
        expires: None,
        max_length: None,
        max_length_bytes: None,
        max_priority: None,
        message_ttl: None,
        max_age: None,
        stream_max_segment_size_bytes: None,
        stream_filter_size_bytes: None,
    };
}

/// `x-queue-type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueType {
    Classic,
    Quorum,
    Stream,
}

impl QueueType {
    /// As AMQP has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Quorum => "quorum",
            Self::Stream => "stream",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Classic, Self::Quorum, Self::Stream].into_iter().find(|kind| kind.name() == name)
    }
}

/// The headers of a SUBSCRIBE or SEND that are about a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueHeaders {
    pub durable: Option<bool>,
    pub auto_delete: Option<bool>,
    pub exclusive: Option<bool>,
    /// `x-queue-name`.
    pub name: Option<Arc<str>>,
    pub arguments: Arguments,
    /// Of a SUBSCRIBE.
    pub consumer: ConsumerArguments,
}

/// A header that has a value it cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadQueueHeader {
    pub name: &'static str,
    /// What it takes.
    pub takes: &'static str,
}

impl QueueHeaders {
    /// Those of a SUBSCRIBE or UNSUBSCRIBE.
    ///
    /// # Errors
    /// The first that has a value it cannot have.
    pub fn of_subscribe(headers: &Headers) -> Result<Self, BadQueueHeader> {
        let mut read = Self::of_send(headers)?;
        // The older name; in a SEND it is about the message.
        read.durable = read.durable.or_else(|| flag(headers, "persistent"));
        read.consumer = consumer(headers)?;
        Ok(read)
    }

    /// Those of a SEND.
    ///
    /// # Errors
    /// The first that has a value it cannot have.
    pub fn of_send(headers: &Headers) -> Result<Self, BadQueueHeader> {
        // Most messages have none of them, and there are many names to look for.
        let may_be = |name: &str| {
            name.starts_with("x-") || matches!(name, "durable" | "auto-delete" | "exclusive")
        };
        if !headers.iter().any(|(name, _)| may_be(name)) {
            return Ok(Self::default());
        }
        let text = |name: &str| headers.get(name).map(Arc::from);
        let number = |name: &'static str, most: u64| match headers.get(name) {
            None => Ok(None),
            Some(value) => {
                let number = value.parse().ok().filter(|number| *number <= most);
                let bad = BadQueueHeader { name, takes: "a number" };
                number.map(Some).ok_or(bad)
            }
        };
        let most = u64::from(u32::MAX) << 16;
        let queue_type = match headers.get("x-queue-type") {
            None => None,
            Some(value) => Some(QueueType::from_name(value).ok_or(BadQueueHeader {
                name: "x-queue-type",
                takes: "classic, quorum or stream",
            })?),
        };
        let priority = number("x-max-priority", 255)?;
        Ok(Self {
            durable: flag(headers, "durable"),
            auto_delete: flag(headers, "auto-delete"),
            exclusive: flag(headers, "exclusive"),
            name: text("x-queue-name"),
            consumer: ConsumerArguments::default(),
            arguments: Arguments {
                dead_letter_exchange: text("x-dead-letter-exchange"),
                dead_letter_routing_key: text("x-dead-letter-routing-key"),
                queue_type,
                expires: number("x-expires", MAX_MILLISECONDS)?,
                max_length: number("x-max-length", most)?,
                max_length_bytes: number("x-max-length-bytes", most)?,
                max_priority: priority.and_then(|priority| u8::try_from(priority).ok()),
                message_ttl: number("x-message-ttl", MAX_MILLISECONDS)?,
                max_age: text("x-max-age"),
                stream_max_segment_size_bytes: number("x-stream-max-segment-size-bytes", most)?,
                stream_filter_size_bytes: number("x-stream-filter-size-bytes", 255)?,
            },
        })
    }

    /// Whether none of them is there. What a consumer says makes no queue: where it is the only
    /// one, there is none to be served before.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let Self { durable, auto_delete, exclusive, name, arguments, consumer: _ } = self;
        let flags = [durable, auto_delete, exclusive];
        flags.iter().all(|flag| flag.is_none())
            && name.is_none()
            && *arguments == Arguments::default()
    }

    /// How `/queue/N` is declared with them.
    #[must_use]
    pub fn queue(&self) -> Declaration {
        let exclusive = self.exclusive.unwrap_or(self.durable == Some(false));
        Declaration {
            // An exclusive queue does not outlive its session, so it is not durable.
            durable: self.durable.unwrap_or(true) && self.exclusive != Some(true),
            auto_delete: self.auto_delete.unwrap_or(self.durable == Some(false)),
            exclusive,
            arguments: self.arguments.clone(),
        }
    }

    /// How the own queue of a topic's subscription is declared with them.
    fn own(&self) -> Declaration {
        Declaration {
            durable: self.durable == Some(true),
            auto_delete: self.auto_delete.unwrap_or(true),
            exclusive: self.exclusive == Some(true),
            arguments: self.arguments.clone(),
        }
    }
}

fn consumer(headers: &Headers) -> Result<ConsumerArguments, BadQueueHeader> {
    fn read<T>(
        headers: &Headers,
        name: &'static str,
        takes: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, BadQueueHeader> {
        let Some(text) = headers.get(name) else { return Ok(None) };
        parse(text).map(Some).ok_or(BadQueueHeader { name, takes })
    }
    let offset = "first, last, next, offset=NUMBER or timestamp=SECONDS";
    let filter = headers.get("x-stream-filter").unwrap_or_default();
    Ok(ConsumerArguments {
        priority: read(headers, "x-priority", "a number", |text| text.parse().ok())?,
        stream_offset: read(headers, "x-stream-offset", offset, StreamOffset::parse)?,
        stream_filter: filter.split(',').filter(|one| !one.is_empty()).map(Arc::from).collect(),
        match_unfiltered: read(headers, "x-stream-match-unfiltered", "true or false", |text| {
            text.parse().ok()
        })?,
    })
}

/// As the plugin has it: anything but these is as if it were not there.
fn flag(headers: &Headers, name: &str) -> Option<bool> {
    match headers.get(name) {
        Some("true" | "True") => Some(true),
        Some("false" | "False") => Some(false),
        _ => None,
    }
}

/// What names the own queue of a subscription.
#[derive(Clone, Copy, Debug)]
pub struct OwnName<'a> {
    /// Of a durable subscription: the client's `id`.
    pub id: Option<&'a str>,
    /// Whose it is, where queues of one name may belong to several users.
    pub owner: Option<&'a str>,
    /// For every other.
    pub random: &'a str,
}

/// Where the messages of a SUBSCRIBE come from. `None`: not from a broker.
#[must_use]
pub fn origin(
    destination: &Destination,
    ack: AckMode,
    headers: &QueueHeaders,
    own: OwnName<'_>,
) -> Option<Origin> {
    let there = |queue: &Arc<str>| QueueOrigin {
        queue: queue.clone(),
        declare: None,
        binding: None,
        consumer: headers.consumer.clone(),
    };
    let queue = match destination {
        Destination::Queue(name) => QueueOrigin { declare: Some(headers.queue()), ..there(name) },
        Destination::AmqQueue(name) | Destination::ReplyQueue(name) => there(name),
        Destination::Topic(_) | Destination::Exchange(_) => {
            if ack == AckMode::Auto && headers.is_plain() {
                return Some(Origin::Fanout(destination.clone()));
            }
            let named = headers.name.clone();
            QueueOrigin {
                queue: named.unwrap_or_else(|| own_queue(destination, headers, own)),
                declare: Some(headers.own()),
                binding: Some(destination.clone()),
                consumer: headers.consumer.clone(),
            }
        }
        Destination::User(_) | Destination::App(_) => return None,
    };
    Some(Origin::Queue(Box::new(queue)))
}

impl Origin {
    #[must_use]
    pub fn place(&self) -> Place {
        match self {
            Self::Fanout(destination) => Place::Fanout(destination.clone()),
            Self::Queue(origin) => Place::Queue(origin.queue.clone()),
        }
    }
}

/// Exchange and key that a queue is bound to, as AMQP names them.
#[must_use]
pub fn binding_key(binding: &Destination) -> Option<(&str, &Arc<str>)> {
    match binding {
        Destination::Topic(topic) => Some((TOPIC_EXCHANGE, topic.key())),
        Destination::Exchange(Exchange { name, key }) => Some((name, key)),
        Destination::Queue(_)
        | Destination::AmqQueue(_)
        | Destination::ReplyQueue(_)
        | Destination::User(_)
        | Destination::App(_) => None,
    }
}

fn own_queue(destination: &Destination, headers: &QueueHeaders, own: OwnName<'_>) -> Arc<str> {
    let key = binding_key(destination).map_or("", |(_, key)| key);
    let name = match own.id {
        Some(id) if headers.durable == Some(true) => durable_hash(key, id, own.owner),
        _ => own.random.to_owned(),
    };
    Arc::from(format!("stomp-subscription-{name}"))
}

/// The name that RabbitMQ's plugin (up to 4.3) gives the queue of a durable subscription: the MD5
/// of the Erlang term `{Key, Id}`. An owner makes it another one.
fn durable_hash(key: &str, id: &str, owner: Option<&str>) -> String {
    let parts = [Some(key), Some(id), owner];
    let count = if owner.is_some() { 3 } else { 2 };
    // Version, SMALL_TUPLE_EXT, arity.
    let mut term = vec![0x83, 0x68, count];
    for part in parts.into_iter().flatten() {
        // STRING_EXT: two bytes of length. Keys and ids are shorter than that.
        term.push(0x6b);
        term.extend_from_slice(&u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
        term.extend_from_slice(part.as_bytes());
    }
    URL_SAFE_NO_PAD.encode(Md5::digest(&term))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> QueueHeaders {
        QueueHeaders::of_subscribe(&pairs.iter().copied().collect()).unwrap()
    }

    /// One line for an origin: queue, D(urable) A(uto-delete) E(xclusive), what it is bound to.
    fn shown(text: &str, ack: AckMode, pairs: &[(&str, &str)]) -> String {
        let allowed = ["amq.direct", "amq.topic"].into_iter().collect();
        let destination = Destination::for_subscribe_within(text, "alice", &allowed).unwrap();
        let own = OwnName { id: Some("s1"), owner: None, random: "RANDOM" };
        match origin(&destination, ack, &read(pairs), own) {
            None => "none".into(),
            Some(Origin::Fanout(destination)) => format!("fan-out {destination}"),
            Some(Origin::Queue(origin)) => {
                let QueueOrigin { queue, declare, binding, .. } = *origin;
                let flag = |is: bool, letter| if is { letter } else { "-" };
                let declare = declare.map_or("not declared".into(), |d| {
                    flag(d.durable, "D").to_owned()
                        + flag(d.auto_delete, "A")
                        + flag(d.exclusive, "E")
                });
                let binding = binding.map_or(String::new(), |binding| format!(" {binding}"));
                format!("{queue} {declare}{binding}")
            }
        }
    }

    #[test]
    fn as_the_plugin_has_it() {
        use AckMode::{Auto, Client};
        let durable = "stomp-subscription-Cta_PSGU6FS1dBpW6GMIUA D-- /topic/dur2";
        type Case<'a> = (&'a str, AckMode, &'a [(&'a str, &'a str)], &'a str);
        let cases: [Case<'_>; 17] = [
            ("/queue/a", Auto, &[], "a D--"),
            ("/queue/a", Client, &[("durable", "false")], "a -AE"),
            ("/queue/a", Auto, &[("durable", "false"), ("exclusive", "false")], "a -A-"),
            ("/queue/a", Auto, &[("exclusive", "true")], "a --E"),
            ("/queue/a", Auto, &[("auto-delete", "true")], "a DA-"),
            ("/queue/a", Auto, &[("auto-delete", "yes")], "a D--"),
            ("/queue/a", Auto, &[("x-queue-name", "b")], "a D--"),
            ("/amq/queue/a", Client, &[], "a not declared"),
            ("/reply-queue/amq.gen-a", Auto, &[], "amq.gen-a not declared"),
            ("/topic/a", Auto, &[], "fan-out /topic/a"),
            ("/exchange/amq.direct/k", Auto, &[], "fan-out /exchange/amq.direct/k"),
            ("/exchange/amq.topic/k", Auto, &[], "fan-out /topic/k"),
            ("/topic/a", Client, &[], "stomp-subscription-RANDOM -A- /topic/a"),
            ("/topic/a", Auto, &[("x-queue-name", "q")], "q -A- /topic/a"),
            ("/topic/dur2", Client, &[("durable", "true"), ("auto-delete", "false")], durable),
            ("/topic/dur2", Auto, &[("persistent", "true"), ("auto-delete", "false")], durable),
            ("/user/queue/x", Auto, &[], "none"),
        ];
        for (text, ack, headers, expected) in cases {
            assert_eq!(shown(text, ack, headers), expected, "{text} {headers:?}");
        }
    }

    #[test]
    fn what_a_consumer_says() {
        use StreamOffset as S;
        for (text, expected) in [
            ("first", Some(S::First)),
            ("last", Some(S::Last)),
            ("next", Some(S::Next)),
            ("offset=0", Some(S::Offset(0))),
            ("offset=9223372036854775807", Some(S::Offset(i64::MAX.unsigned_abs()))),
            ("offset=9223372036854775808", None),
            ("timestamp=1700000000", Some(S::Timestamp(1_700_000_000))),
            ("offset=-1", None),
            ("offset=", None),
            ("offset", None),
            ("First", None),
            ("5", None),
            ("", None),
        ] {
            assert_eq!(StreamOffset::parse(text), expected, "{text}");
        }
        let headers = read(&[
            ("x-priority", "-3"),
            ("x-stream-filter", "a,,b"),
            ("x-stream-match-unfiltered", "true"),
        ]);
        assert!(headers.is_plain());
        let expected = ConsumerArguments {
            priority: Some(-3),
            stream_offset: None,
            stream_filter: vec!["a".into(), "b".into()],
            match_unfiltered: Some(true),
        };
        assert_eq!(headers.consumer, expected);
        for (name, value) in [
            ("x-priority", "high"),
            ("x-priority", "2147483648"),
            ("x-stream-offset", "now"),
            ("x-stream-match-unfiltered", "yes"),
        ] {
            let headers: Headers = [(name, value)].into_iter().collect();
            assert_eq!(QueueHeaders::of_subscribe(&headers).unwrap_err().name, name, "{value}");
            // Of a SEND they mean nothing.
            assert!(QueueHeaders::of_send(&headers).is_ok());
        }
    }

    #[test]
    fn an_owner_has_queues_of_its_own() {
        let names = [None, Some("alice"), Some("bob")].map(|owner| durable_hash("k", "s", owner));
        assert_ne!(names[0], names[1]);
        assert_ne!(names[1], names[2]);
    }

    #[test]
    fn arguments() {
        let headers = read(&[
            ("x-message-ttl", "1000"),
            ("x-expires", "0"),
            ("x-max-priority", "9"),
            ("x-queue-type", "quorum"),
            ("x-dead-letter-exchange", ""),
            ("x-overflow", "reject-publish"),
        ]);
        let arguments = headers.arguments;
        assert_eq!((arguments.message_ttl, arguments.expires), (Some(1000), Some(0)));
        assert_eq!(arguments.max_priority, Some(9));
        assert_eq!(arguments.queue_type, Some(QueueType::Quorum));
        assert_eq!(arguments.dead_letter_exchange.as_deref(), Some(""));
        assert!(read(&[("x-overflow", "reject-publish")]).is_plain());
        for (name, value) in [
            ("x-message-ttl", "soon"),
            ("x-message-ttl", "-1"),
            ("x-message-ttl", "4294967296"),
            ("x-max-priority", "256"),
            ("x-max-length", ""),
            ("x-queue-type", "fast"),
        ] {
            let headers: Headers = [(name, value)].into_iter().collect();
            assert_eq!(QueueHeaders::of_send(&headers).unwrap_err().name, name, "{value}");
        }
    }
}
