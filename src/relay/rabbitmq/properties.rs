//! Headers of a SEND as AMQP properties, and back. Pure.
//!
//! The names are those of RabbitMQ's STOMP plugin, so that STOMP clients of RabbitMQ itself,
//! AMQP clients and clients of this relay understand each other. Two directions, one rule: what
//! the relay says by itself, nobody else says for it.

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::protocol::basic::AMQPProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use ulid::Ulid;

use super::{topology, values};
use crate::destination::reply_to_shown;
use crate::message::Message;
use crate::stomp::Headers;

/// A content header is one AMQP frame and cannot be split. A larger one than was negotiated
/// (RabbitMQ: 128 KiB) closes the connection, and with it everybody else's.
const MAX_HEADER_BYTES: usize = 120 * 1024;

const X_ID: &str = "x-id";
const X_REPUBLISHED: &str = "x-republished";

/// Header names that pass in neither direction: only the relay or the broker says them. `CC`
/// and `BCC` as text make RabbitMQ close the channel, as lists they would add routing keys.
const OURS: [&str; 20] = [
    "CC",
    "BCC",
    "user-id",
    "receipt",
    "receipt-id",
    "transaction",
    "subscription",
    "message-id",
    "ack",
    "redelivered",
    "destination",
    "content-length",
    "unread-id",
    "x-destination",
    "x-error",
    "x-user",
    "x-session",
    "x-roles",
    "x-receipt-level",
    "x-body-encoding",
];

fn is_ours(name: &str) -> bool {
    OURS.contains(&name)
        || name == X_ID
        || name == X_REPUBLISHED
        || name.starts_with("x-unread-")
        || name == "x-unread"
}

/// The headers do not fit into one AMQP frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

/// Whether the headers of a message fit into one AMQP frame.
///
/// # Errors
/// [`TooLarge`] where they do not.
pub(super) fn check_size(message: &Message) -> Result<(), TooLarge> {
    // Per table entry: a length byte, a type byte and four bytes of length.
    let bytes = message.headers.text_len() + 6 * message.headers.len();
    if bytes > MAX_HEADER_BYTES { Err(TooLarge) } else { Ok(()) }
}

type Short = (&'static str, fn(BasicProperties, ShortString) -> BasicProperties);

/// Headers that are properties of their own in AMQP, as text.
const SHORT: [Short; 7] = [
    ("content-type", AMQPProperties::with_content_type),
    ("content-encoding", AMQPProperties::with_content_encoding),
    ("correlation-id", AMQPProperties::with_correlation_id),
    ("reply-to", AMQPProperties::with_reply_to),
    ("amqp-message-id", AMQPProperties::with_message_id),
    ("type", AMQPProperties::with_type),
    ("app-id", AMQPProperties::with_app_id),
];

/// The AMQP properties of a message. What AMQP could not take is left out.
pub(super) fn outgoing(message: &Message, id: Ulid, republished: bool) -> BasicProperties {
    let headers = &message.headers;
    let mut properties = BasicProperties::default();
    for (name, with) in SHORT {
        if let Some(Ok(value)) = headers.get(name).map(ShortString::try_new) {
            properties = with(properties, value);
        }
    }
    if let Some(Ok(priority)) = headers.get("priority").map(str::parse) {
        properties = properties.with_priority(priority);
    }
    if let Some(Ok(timestamp)) = headers.get("timestamp").map(str::parse) {
        properties = properties.with_timestamp(timestamp);
    }
    if let Some(expiration) = headers.get("expiration").and_then(expiration) {
        properties = properties.with_expiration(expiration);
    }
    if message.persistent {
        properties = properties.with_delivery_mode(2);
    }
    let mut table = FieldTable::default();
    for (name, value) in headers.iter() {
        put(&mut table, name, value);
    }
    table.insert(ShortString::from(X_ID), text(&id.to_string()));
    if republished {
        table.insert(ShortString::from(X_REPUBLISHED), text("true"));
    }
    properties.with_headers(table)
}

/// RabbitMQ closes the channel on anything but a number of up to 32 bits.
fn expiration(value: &str) -> Option<ShortString> {
    if !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let milliseconds: u32 = value.parse().ok()?;
    ShortString::try_new(milliseconds.to_string()).ok()
}

fn is_property(name: &str) -> bool {
    matches!(name, "priority" | "timestamp" | "expiration" | "persistent")
        || SHORT.iter().any(|(short, _)| *short == name)
}

fn put(table: &mut FieldTable, name: &str, value: &str) {
    if name.is_empty() || is_ours(name) || is_property(name) || table.contains_key(name) {
        return;
    }
    if let Ok(name) = ShortString::try_new(name) {
        table.insert(name, text(value));
    }
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.as_bytes().into())
}

/// The `x-id` of a message, ours or another relay's.
pub(super) fn x_id(properties: &BasicProperties) -> Option<Ulid> {
    header(properties, X_ID).and_then(|text| Ulid::from_string(text).ok())
}

fn header<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a str> {
    match properties.headers().as_ref()?.inner().get(name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        _ => None,
    }
}

/// Where a message lies in its stream.
pub(super) fn stream_offset(properties: &BasicProperties) -> Option<u64> {
    match properties.headers().as_ref()?.inner().get("x-stream-offset")? {
        AMQPValue::LongLongInt(offset) => u64::try_from(*offset).ok(),
        AMQPValue::LongInt(offset) => u64::try_from(*offset).ok(),
        _ => None,
    }
}

/// What AMQP delivered.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) message: Message,
    /// A relay sent it again, not knowing whether RabbitMQ had it already.
    pub(super) republished: bool,
}

/// A MESSAGE from what AMQP delivered.
pub(super) fn incoming(
    exchange: &str,
    key: &str,
    properties: &BasicProperties,
    body: Vec<u8>,
) -> Incoming {
    let mut headers = Headers::default();
    push_properties(&mut headers, properties);
    let table = properties.headers().as_ref();
    for (name, value) in table.into_iter().flat_map(|table| table.inner().iter()) {
        push_header(&mut headers, name.as_str(), value);
    }
    let destination = topology::delivered(exchange, key);
    let shown = topology::shown(exchange, key);
    let mut message = Message::new(destination, shown.into(), headers, Bytes::from(body));
    message.persistent = *properties.delivery_mode() == Some(2);
    message.x_id = x_id(properties);
    let republished = header(properties, X_REPUBLISHED) == Some("true");
    Incoming { message, republished }
}

fn push_properties(headers: &mut Headers, properties: &BasicProperties) {
    let mut push = |name: &str, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.contains('\0')) {
            headers.push(name, value);
        }
    };
    push("content-type", properties.content_type().as_ref().map(ShortString::as_str));
    push("content-encoding", properties.content_encoding().as_ref().map(ShortString::as_str));
    // The plugin writes a mode of 1 like this; 2 is the message's own `persistent`.
    push("persistent", (*properties.delivery_mode() == Some(1)).then_some("1"));
    push("priority", properties.priority().map(|n| n.to_string()).as_deref());
    push("correlation-id", properties.correlation_id().as_ref().map(ShortString::as_str));
    let reply_to = properties.reply_to().as_ref().map(|name| reply_to_shown(name.as_str()));
    push("reply-to", reply_to.as_deref());
    push("expiration", properties.expiration().as_ref().map(ShortString::as_str));
    push("amqp-message-id", properties.message_id().as_ref().map(ShortString::as_str));
    push("timestamp", properties.timestamp().map(|n| n.to_string()).as_deref());
    push("type", properties.kind().as_ref().map(ShortString::as_str));
    push("user-id", properties.user_id().as_ref().map(ShortString::as_str));
    push("app-id", properties.app_id().as_ref().map(ShortString::as_str));
}

/// An AMQP header as text, where it is nothing that somebody else says.
fn push_header(headers: &mut Headers, name: &str, value: &AMQPValue) {
    // STOMP has no escape for NUL.
    let unusable = name.is_empty() || name.contains('\0');
    if unusable || is_ours(name) || name == "persistent" || headers.contains(name) {
        return;
    }
    if let Some(text) = values::text(value) {
        headers.push(name, &text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::Destination;
    use lapin::types::FieldArray;

    const ID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

    fn sent(headers: &[(&str, &str)], persistent: bool, republished: bool) -> BasicProperties {
        let headers: Headers = headers.iter().copied().collect();
        let destination = Destination::for_send("/queue/a").unwrap();
        let mut message = Message::new(destination, "/queue/a".into(), headers, Bytes::new());
        message.persistent = persistent;
        outgoing(&message, Ulid::from_string(ID).unwrap(), republished)
    }

    fn table(properties: &BasicProperties) -> Vec<(String, String)> {
        let table = properties.headers().as_ref().unwrap().inner();
        table
            .iter()
            .map(|(name, value)| match value {
                AMQPValue::LongString(text) => (name.to_string(), text.to_string()),
                other => panic!("{name} is {other:?}"),
            })
            .collect()
    }

    fn got(properties: &BasicProperties) -> Incoming {
        incoming("", "a", properties, Vec::new())
    }

    fn shown(properties: &BasicProperties) -> Vec<(String, String)> {
        let headers = got(properties).message.headers;
        headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn every_property_there_and_back() {
        let headers = [
            ("content-type", "text/plain"),
            ("content-encoding", "gzip"),
            ("priority", "7"),
            ("correlation-id", "c"),
            ("reply-to", "/queue/r"),
            ("expiration", "60000"),
            ("amqp-message-id", "m"),
            ("timestamp", "1700000000"),
            ("type", "t"),
            ("app-id", "app"),
            ("x-own", "o"),
        ];
        let properties = sent(&headers, true, false);
        assert_eq!(*properties.delivery_mode(), Some(2));
        assert_eq!(table(&properties), pairs(&[("x-id", ID), ("x-own", "o")]));
        assert_eq!(shown(&properties), pairs(&headers));
        let incoming = got(&properties);
        assert!(incoming.message.persistent && !incoming.republished);
        assert_eq!(incoming.message.x_id, Ulid::from_string(ID).ok());
        assert_eq!(&*incoming.message.shown, "/queue/a");
    }

    #[test]
    fn what_amqp_would_close_the_channel_for_is_left_out() {
        let long = "x".repeat(256);
        let headers = [
            ("CC", "other"),
            ("BCC", "other"),
            ("user-id", "guest"),
            ("expiration", "-1"),
            ("expiration", ""),
            ("expiration", "1s"),
            ("expiration", "4294967296"),
            ("priority", "256"),
            ("priority", "high"),
            ("timestamp", "-1"),
            ("content-type", &long),
            ("correlation-id", &long),
            (&long, "v"),
            ("", "v"),
            ("x-id", "spoofed"),
            ("x-republished", "true"),
            ("x-unread-left", "1"),
            ("content-length", "5"),
            ("receipt", "r"),
            ("persistent", "true"),
        ];
        let properties = sent(&headers, false, false);
        assert_eq!(table(&properties), pairs(&[("x-id", ID)]));
        assert_eq!(
            properties,
            BasicProperties::default().with_headers(properties.headers().clone().unwrap())
        );
        // 65,535 and the largest that RabbitMQ takes.
        for expiration in ["0", "65535", "4294967295"] {
            let properties = sent(&[("expiration", expiration)], false, false);
            assert_eq!(properties.expiration().as_ref().unwrap().as_str(), expiration);
        }
    }

    #[test]
    fn the_first_of_a_repeated_header_counts() {
        let headers = [
            ("type", "a"),
            ("type", "b"),
            ("k", "1"),
            ("k", "2"),
            ("priority", "1"),
            ("priority", "2"),
        ];
        let properties = sent(&headers, false, true);
        assert_eq!(properties.kind().as_ref().unwrap().as_str(), "a");
        assert_eq!(*properties.priority(), Some(1));
        let expected = [("k", "1"), ("x-id", ID), ("x-republished", "true")];
        assert_eq!(table(&properties), pairs(&expected));
        let incoming = got(&properties);
        assert!(incoming.republished);
        assert!(!incoming.message.headers.contains("x-republished"));
    }

    #[test]
    fn names_of_255_bytes_pass() {
        let longest = "x".repeat(255);
        assert!(table(&sent(&[(&longest, "v")], false, false)).contains(&(longest, "v".into())));
    }

    #[test]
    fn headers_from_amqp() {
        let mut headers = FieldTable::default();
        let values = [
            ("a-text", AMQPValue::LongString("t".into())),
            ("b-int", AMQPValue::LongInt(-5)),
            ("c-long", AMQPValue::LongLongInt(1 << 40)),
            ("bool", AMQPValue::Boolean(true)),
            ("float", AMQPValue::Double(1.0)),
            ("list", AMQPValue::FieldArray(FieldArray::default())),
            ("void", AMQPValue::Void),
            ("short", AMQPValue::ShortInt(1)),
            ("bad-utf8", AMQPValue::LongString(vec![0xff_u8, 0xfe].into())),
            ("nul", AMQPValue::LongString("a\0b".into())),
            ("d-na\nme", AMQPValue::LongString("v".into())),
            ("d-na\0me", AMQPValue::LongString("v".into())),
            ("", AMQPValue::LongString("v".into())),
            ("destination", AMQPValue::LongString("/queue/forged".into())),
            ("message-id", AMQPValue::LongString("forged".into())),
            ("subscription", AMQPValue::LongString("forged".into())),
            ("ack", AMQPValue::LongString("forged".into())),
            ("redelivered", AMQPValue::LongString("false".into())),
            ("content-length", AMQPValue::LongString("1".into())),
            ("x-receipt-level", AMQPValue::LongString("confirmed".into())),
            ("x-unread-end", AMQPValue::LongString("true".into())),
            ("unread-id", AMQPValue::LongInt(1)),
            ("persistent", AMQPValue::LongString("true".into())),
            ("content-type", AMQPValue::LongString("forged".into())),
            ("x-id", AMQPValue::LongString("no ulid".into())),
        ];
        for (name, value) in values {
            headers.insert(name.into(), value);
        }
        let properties = BasicProperties::default()
            .with_content_type("text/plain".into())
            .with_delivery_mode(1)
            .with_reply_to("amq.gen-1".into())
            .with_headers(headers);
        let expected = [
            ("content-type", "text/plain"),
            ("persistent", "1"),
            ("reply-to", "/reply-queue/amq.gen-1"),
            ("a-text", "t"),
            ("b-int", "-5"),
            ("bool", "true"),
            ("c-long", "1099511627776"),
            ("d-na\nme", "v"),
            ("float", "1.0"),
            ("list", "[]"),
            ("short", "1"),
            ("void", ""),
        ];
        assert_eq!(shown(&properties), pairs(&expected));
        let message = got(&properties).message;
        assert_eq!((message.persistent, message.x_id), (false, None));
    }

    #[test]
    fn an_exchange_is_shown() {
        let message = incoming("e", "k", &BasicProperties::default(), Vec::new()).message;
        assert_eq!(&*message.shown, "/exchange/e/k");
        assert_eq!(message.destination.to_string(), "/exchange/e/k");
    }

    #[test]
    fn headers_that_would_not_fit_a_frame_are_refused() {
        let check = |bytes: usize| {
            let value = "v".repeat(bytes);
            let headers: Headers = [("h", value.as_str())].into_iter().collect();
            let destination = Destination::for_send("/queue/a").unwrap();
            check_size(&Message::new(destination, "".into(), headers, Bytes::new()))
        };
        assert_eq!(check(100 * 1024), Ok(()));
        assert_eq!(check(130 * 1024), Err(TooLarge));
    }
}
