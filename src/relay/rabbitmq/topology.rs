//! Destinations as exchanges, routing keys and queues, and back. Pure.

use std::fmt::Write as _;
use std::sync::Arc;

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use crate::destination::{Destination, Exchange, TOPIC_EXCHANGE, Topic};
use crate::relay::error::{Refusal, RefusalKind};
use crate::relay::origin::{
    Arguments, ConsumerArguments, Declaration, QueueOrigin, QueueType, StreamOffset, binding_key,
};

/// What the node queue may hold: beyond it RabbitMQ drops the oldest.
const NODE_QUEUE_BYTES: i64 = 256 * 1024 * 1024;

/// Where RabbitMQ is to put a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) exchange: ShortString,
    pub(super) key: ShortString,
    pub(super) goal: Goal,
}

/// What has to be there before a message is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// Nothing: it is always there, or missing without harm.
    Open,
    /// The queue of that name. Its messages are published `mandatory`.
    Queue(Arc<str>),
    /// The exchange: RabbitMQ closes the channel over one that is not there, and it is
    /// everybody's.
    Exchange(Exchange),
}

/// The route of a SEND.
///
/// # Errors
/// Where the destination is not RabbitMQ's, or its name does not fit into AMQP.
pub(super) fn route(destination: &Destination) -> Result<Route, Refusal> {
    match destination {
        Destination::Queue(name) => {
            repeatable(&[name])?;
            let goal = Goal::Queue(name.clone());
            Ok(Route { exchange: ShortString::default(), key: short(name)?, goal })
        }
        Destination::Topic(topic) if !topic.is_wildcard() => Ok(Route {
            exchange: short(TOPIC_EXCHANGE)?,
            key: short(topic.key())?,
            goal: Goal::Open,
        }),
        // Not declared, so that it may be missing: then the message is dropped, as the plugin does.
        Destination::AmqQueue(name) | Destination::ReplyQueue(name) => {
            Ok(Route { exchange: ShortString::default(), key: short(name)?, goal: Goal::Open })
        }
        Destination::Exchange(exchange) => {
            repeatable(&[&exchange.name, &exchange.key])?;
            let goal = Goal::Exchange(exchange.clone());
            Ok(Route { exchange: short(&exchange.name)?, key: short(&exchange.key)?, goal })
        }
        Destination::Topic(_) | Destination::User(_) | Destination::App(_) => Err(unknown()),
    }
}

/// A declaration as the config wants it: what is there for good and has no type of its own gets
/// the configured one.
pub(super) fn typed(mut declaration: Declaration, queue_type: QueueType) -> Declaration {
    let Declaration { durable, auto_delete, exclusive, ref mut arguments } = declaration;
    let is_lasting = durable && !auto_delete && !exclusive;
    // A queue is classic where nothing is said; saying it would be another declaration.
    if is_lasting && arguments.queue_type.is_none() && queue_type != QueueType::Classic {
        arguments.queue_type = Some(queue_type);
    }
    declaration
}

/// The same where RabbitMQ takes no queue that is neither durable nor exclusive, from 4.3 on.
pub(super) fn made_exclusive(mut declaration: Declaration) -> Declaration {
    declaration.exclusive |= !declaration.durable;
    declaration
}

/// Whether such a queue may be gone without anybody's doing: whoever sends to it says each time
/// what it is to be, so it is declared again.
pub(super) fn goes_by_itself(declaration: &Declaration) -> bool {
    declaration.auto_delete || declaration.exclusive || declaration.arguments.expires.is_some()
}

/// A queue of answers. RabbitMQ names it.
pub(super) fn answers() -> QueueOrigin {
    let declare = Some(Declaration::ANSWERS);
    QueueOrigin {
        queue: Arc::from(""),
        declare,
        binding: None,
        consumer: ConsumerArguments::default(),
    }
}

/// Whether all names of it fit into AMQP.
///
/// # Errors
/// Where one does not.
pub(super) fn check(origin: &QueueOrigin) -> Result<(), Refusal> {
    short(&origin.queue)?;
    let mut names: Vec<&str> = vec![&origin.queue];
    if let Some((exchange, key)) = origin.binding.as_ref().and_then(binding_key) {
        short(exchange)?;
        short(key)?;
        names.extend([exchange, key]);
    }
    repeatable(&names)?;
    origin.declare.as_ref().map_or(Ok(()), |declare| check_declaration(&origin.queue, declare))
}

/// Whether what is to become a name in RabbitMQ later fits into AMQP: a dead letter is published
/// by RabbitMQ itself, which does not look.
///
/// # Errors
/// Where one does not.
pub(super) fn check_declaration(queue: &str, declaration: &Declaration) -> Result<(), Refusal> {
    let Arguments { dead_letter_exchange, dead_letter_routing_key, max_age, .. } =
        &declaration.arguments;
    for name in [dead_letter_exchange, dead_letter_routing_key].into_iter().flatten() {
        short(name)?;
    }
    let texts = [dead_letter_exchange, dead_letter_routing_key, max_age];
    texts.into_iter().flatten().try_for_each(|text| repeatable(&[queue, text]))
}

/// RabbitMQ repeats names where it refuses something, and cuts its text at 252 bytes, also within
/// a character. lapin then gives up the connection, which is everybody's. So names that are not
/// ASCII have to be so short that the end of RabbitMQ's text is behind them.
///
/// # Errors
/// Where they are not.
pub(super) fn repeatable(names: &[&str]) -> Result<(), Refusal> {
    const MOST: usize = 100;
    let bytes: usize = names.iter().map(|name| name.len()).sum();
    if bytes <= MOST || names.iter().all(|name| name.is_ascii()) {
        return Ok(());
    }
    let body = format!("Names that are not ASCII have at most {MOST} bytes, these have {bytes}.\n");
    Err(Refusal::new(RefusalKind::Limit, "Destination too long", body))
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

/// What a consumer is started with, the same as the plugin does it.
pub(super) fn consume_arguments(consumer: &ConsumerArguments) -> FieldTable {
    let ConsumerArguments { priority, stream_offset, stream_filter, match_unfiltered } = consumer;
    let mut table = FieldTable::default();
    let mut put = |name: &str, value| {
        table.insert(ShortString::from(name), value);
    };
    let text = |text: &str| AMQPValue::LongString(text.as_bytes().into());
    let long = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    if let Some(priority) = priority {
        put("x-priority", AMQPValue::LongInt(*priority));
    }
    match stream_offset {
        None => {}
        Some(StreamOffset::First) => put("x-stream-offset", text("first")),
        Some(StreamOffset::Last) => put("x-stream-offset", text("last")),
        Some(StreamOffset::Next) => put("x-stream-offset", text("next")),
        Some(StreamOffset::Offset(offset)) => {
            put("x-stream-offset", AMQPValue::LongLongInt(long(*offset)));
        }
        Some(StreamOffset::Timestamp(seconds)) => {
            put("x-stream-offset", AMQPValue::Timestamp(*seconds));
        }
    }
    if !stream_filter.is_empty() {
        let filters: Vec<_> = stream_filter.iter().map(|filter| text(filter)).collect();
        put("x-stream-filter", AMQPValue::FieldArray(filters.into()));
    }
    if let Some(is) = match_unfiltered {
        put("x-stream-match-unfiltered", AMQPValue::Boolean(*is));
    }
    table
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

/// What RabbitMQ has no place for.
pub(super) fn unknown() -> Refusal {
    let body = "RabbitMQ has queues, topics and exchanges only.\n";
    Refusal::new(RefusalKind::UnknownDestination, "Unknown destination", body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        let cases = [
            ("/queue/a%2Fb", Some(("", "a/b", "queue a/b"))),
            ("/topic/a/b", Some(("amq.topic", "a.b", ""))),
            ("/amq/queue/a", Some(("", "a", ""))),
            ("/reply-queue/amq.gen-a", Some(("", "amq.gen-a", ""))),
            ("/exchange/e%2F/k", Some(("e/", "k", "exchange e/"))),
            ("/exchange/e", Some(("e", "", "exchange e"))),
            ("/app/x", None),
            ("/user/bob/queue/x", None),
        ];
        for (text, expected) in cases {
            let route = route(&Destination::for_send(text).unwrap()).ok();
            let seen = route.as_ref().map(|route| {
                let goal = match &route.goal {
                    Goal::Open => String::new(),
                    Goal::Queue(name) => format!("queue {name}"),
                    Goal::Exchange(exchange) => format!("exchange {}", exchange.name),
                };
                (route.exchange.as_str(), route.key.as_str(), goal)
            });
            let expected = expected.map(|(exchange, key, goal)| (exchange, key, goal.to_owned()));
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
        let exchange = |name: &str, key: &str| {
            Destination::Exchange(Exchange { name: Arc::from(name), key: Arc::from(key) })
        };
        for destination in [&queue, &topic, &exchange(&long, "k"), &exchange("e", &long)] {
            assert_eq!(route(destination).unwrap_err().kind, RefusalKind::Limit);
        }
        for number in 0..2 {
            let name = |of| (number == of).then(|| Arc::from(long.as_str()));
            let arguments = Arguments {
                dead_letter_exchange: name(0),
                dead_letter_routing_key: name(1),
                ..Arguments::default()
            };
            let declaration = Declaration { arguments, ..Declaration::QUEUE };
            assert_eq!(check_declaration("q", &declaration).unwrap_err().kind, RefusalKind::Limit);
        }
    }

    #[test]
    fn what_rabbitmq_may_repeat_ends_before_it_cuts_its_text() {
        let accents = "\u{e9}".repeat(50);
        let ascii = "x".repeat(255);
        assert!(repeatable(&[&ascii, &ascii]).is_ok() && repeatable(&[&accents]).is_ok());
        assert!(repeatable(&[&accents, "x"]).is_err() && repeatable(&[&ascii, "\u{e9}"]).is_err());
        let longer = format!("/queue/{accents}x");
        assert_eq!(
            route(&Destination::for_send(&longer).unwrap()).unwrap_err().kind,
            RefusalKind::Limit
        );
        // Nothing is asked about these before they are published, and RabbitMQ is silent.
        for text in [format!("/topic/{accents}x"), format!("/amq/queue/{accents}x")] {
            assert!(route(&Destination::for_send(&text).unwrap()).is_ok());
        }
        let origin = |queue: &str, binding: &Destination| {
            let (binding, declare) = (Some(binding.clone()), Some(Declaration::QUEUE));
            let consumer = ConsumerArguments::default();
            QueueOrigin { queue: Arc::from(queue), declare, binding, consumer }
        };
        for origin in
            [origin("q", &topic), origin("q", &exchange("e", &long)), origin(&long, &queue)]
        {
            assert_eq!(check(&origin).unwrap_err().kind, RefusalKind::Limit);
        }
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
    fn what_a_consumer_says() {
        let shown = |consumer: &ConsumerArguments| -> Vec<String> {
            let table = consume_arguments(consumer);
            table.inner().iter().map(|(name, value)| format!("{name} {value:?}")).collect()
        };
        assert!(shown(&ConsumerArguments::default()).is_empty());
        let consumer = ConsumerArguments {
            priority: Some(-1),
            stream_offset: Some(StreamOffset::Offset(7)),
            stream_filter: vec!["a".into()],
            match_unfiltered: Some(true),
        };
        assert_eq!(
            shown(&consumer),
            [
                "x-priority LongInt(-1)",
                "x-stream-filter FieldArray(FieldArray([LongString(LongString([97]))]))",
                "x-stream-match-unfiltered Boolean(true)",
                "x-stream-offset LongLongInt(7)",
            ]
        );
        for (offset, expected) in [
            (StreamOffset::Next, "LongString(LongString([110, 101, 120, 116]))"),
            (StreamOffset::Timestamp(5), "Timestamp(5)"),
        ] {
            let consumer = ConsumerArguments { stream_offset: Some(offset), ..Default::default() };
            assert_eq!(shown(&consumer), [format!("x-stream-offset {expected}")]);
        }
    }

    #[test]
    fn a_declaration_as_the_config_and_rabbitmq_want_it() {
        let quorum = |declaration: &Declaration| {
            typed(declaration.clone(), QueueType::Quorum).arguments.queue_type
        };
        let transient = Declaration { durable: false, ..Declaration::QUEUE };
        let arguments =
            Arguments { queue_type: Some(QueueType::Stream), ..Declaration::QUEUE.arguments };
        assert_eq!(quorum(&Declaration::QUEUE), Some(QueueType::Quorum));
        assert_eq!(
            quorum(&Declaration { arguments, ..Declaration::QUEUE }),
            Some(QueueType::Stream)
        );
        assert_eq!(quorum(&transient), None);
        assert_eq!(quorum(&Declaration { auto_delete: true, ..Declaration::QUEUE }), None);
        assert_eq!(typed(Declaration::QUEUE, QueueType::Classic), Declaration::QUEUE);
        assert!(made_exclusive(transient).exclusive);
        assert!(!made_exclusive(Declaration::QUEUE).exclusive);
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
