//! A message on its way, and what one subscriber gets of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ulid::Ulid;

use crate::destination::Destination;
use crate::stomp::{Command, Headers, Version, encode};
use crate::transport::sockjs::escape;

/// Says that the body is not as it was sent.
const BODY_ENCODING: &str = "x-body-encoding";

/// One published message. Shared by all its receivers; encoded once for all of them.
#[derive(Debug)]
pub struct Message {
    pub destination: Destination,
    /// The `destination` header of the MESSAGE.
    pub shown: Arc<str>,
    /// The sender's headers that pass, without `destination` and `content-length`.
    pub headers: Headers,
    pub body: Bytes,
    /// The sender wrote `persistent:true`.
    pub persistent: bool,
    /// Every receiver may have got it before: it was published again after an outage.
    pub redelivered: bool,
    /// What tells one message from another across redeliveries, stores and nodes.
    pub x_id: Option<Ulid>,
    number: u64,
    text: OnceLock<bool>,
    /// Encoded per version; the second and third stay empty where all are alike.
    tails: [OnceLock<Tail>; 3],
    /// The same as JSON, where somebody receives it over SockJS.
    json_tails: OnceLock<Box<[OnceLock<Tail>; 3]>>,
}

/// How the body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    AsItIs,
    Base64,
}

/// The part of a MESSAGE frame that all receivers share: from `message-id` to NUL.
#[derive(Debug)]
pub struct Tail {
    bytes: Bytes,
    after_id: usize,
}

impl Tail {
    /// With the `message-id` line.
    #[must_use]
    pub fn with_id(&self) -> &[u8] {
        &self.bytes
    }

    /// Without it, for a delivery that has a message-id of its own.
    #[must_use]
    pub fn without_id(&self) -> &[u8] {
        self.bytes.get(self.after_id..).unwrap_or_default()
    }
}

impl Message {
    #[must_use]
    pub fn new(destination: Destination, shown: Arc<str>, headers: Headers, body: Bytes) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            destination,
            shown,
            headers,
            body,
            persistent: false,
            redelivered: false,
            x_id: None,
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            text: OnceLock::new(),
            tails: Default::default(),
            json_tails: OnceLock::new(),
        }
    }

    /// Grows from message to message of this process: the order in which they came in.
    #[must_use]
    pub fn order(&self) -> u64 {
        self.number
    }

    /// Headers and body in bytes: what limits count.
    #[must_use]
    pub fn size(&self) -> usize {
        self.headers.text_len() + self.body.len() + self.shown.len()
    }

    /// Whether the body is valid UTF-8 and may go out as a text frame; checked once.
    #[must_use]
    pub fn is_text(&self) -> bool {
        *self.text.get_or_init(|| simdutf8::basic::from_utf8(&self.body).is_ok())
    }

    /// The shared part of the frame, encoded at the first call.
    pub fn tail(&self, version: Version) -> &Tail {
        self.slot(&self.tails, version).get_or_init(|| self.encode(version, Body::AsItIs))
    }

    /// The same as the inside of a JSON string. A body that is no text goes as base64.
    pub fn json_tail(&self, version: Version) -> &Tail {
        let tails = self.json_tails.get_or_init(Box::default);
        self.slot(tails, version).get_or_init(|| {
            let body = if self.is_text() { Body::AsItIs } else { Body::Base64 };
            let tail = self.encode(version, body);
            let (id, rest) = tail.bytes.split_at(tail.after_id);
            let mut out = Vec::with_capacity(tail.bytes.len() * 9 / 8);
            escape::push(&mut out, id);
            let after_id = out.len();
            escape::push(&mut out, rest);
            Tail { bytes: Bytes::from(out), after_id }
        })
    }

    fn slot<'a>(&self, slots: &'a [OnceLock<Tail>; 3], version: Version) -> &'a OnceLock<Tail> {
        let [first, second, third] = slots;
        match version {
            Version::V12 => first,
            _ if self.is_plain() => first,
            Version::V11 => second,
            Version::V10 => third,
        }
    }

    fn is_plain(&self) -> bool {
        encode::is_plain(&self.shown)
            && self.headers.iter().all(|(n, v)| encode::is_plain(n) && encode::is_plain(v))
    }

    fn encode(&self, version: Version, body: Body) -> Tail {
        let mut out = Vec::with_capacity(self.size() + 128 + 4 * self.headers.len());
        out.extend_from_slice(b"message-id:");
        encode::push_decimal(&mut out, boot());
        out.push(b'-');
        encode::push_decimal(&mut out, self.number);
        out.push(b'\n');
        let after_id = out.len();
        let mut header = |name: &str, value: &str| {
            encode::encode_header(&mut out, name, value, Command::Message, version);
        };
        header("destination", &self.shown);
        if body == Body::Base64 {
            // The first of a name counts, whatever the sender wrote.
            header(BODY_ENCODING, "base64");
        }
        for (name, value) in self.headers.iter() {
            header(name, value);
        }
        if self.persistent && !self.headers.contains("persistent") {
            header("persistent", "true");
        }
        if let Some(id) = self.x_id {
            header("x-id", &id.to_string());
        }
        match body {
            Body::AsItIs => encode::encode_end(&mut out, &self.body),
            Body::Base64 => encode::encode_end(&mut out, STANDARD.encode(&self.body).as_bytes()),
        }
        Tail { bytes: Bytes::from(out), after_id }
    }
}

/// Seconds at start-up: keeps message-ids of two runs apart.
fn boot() -> u64 {
    static BOOT: OnceLock<u64> = OnceLock::new();
    *BOOT.get_or_init(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_shared_where_versions_agree() {
        let destination = Destination::for_send("/topic/a").unwrap();
        let headers: Headers = [("a", "b")].into_iter().collect();
        let message =
            Message::new(destination, "/topic/a".into(), headers, Bytes::from_static(b"hi"));
        let tail = message.tail(Version::V12);
        assert_eq!(
            tail.without_id(),
            b"destination:/topic/a\na:b\ncontent-length:2\n\nhi\0".as_slice()
        );
        assert!(tail.with_id().starts_with(b"message-id:"));
        assert!(std::ptr::eq(tail, message.tail(Version::V10)));
    }

    #[test]
    fn json_is_text_whatever_the_body_is() {
        let destination = Destination::for_send("/topic/a").unwrap();
        let headers: Headers = [("x-body-encoding", "mine")].into_iter().collect();
        let message = |body: &'static [u8]| {
            let body = Bytes::from_static(body);
            Message::new(destination.clone(), "/topic/a".into(), headers.clone(), body)
        };
        assert_eq!(
            message(b"h\"i").json_tail(Version::V11).without_id(),
            br#"destination:/topic/a\nx-body-encoding:mine\ncontent-length:3\n\nh\"i\u0000"#
        );
        let binary = message(b"\xff\0");
        let tail = binary.json_tail(Version::V12);
        assert_eq!(
            tail.without_id(),
            br#"destination:/topic/a\nx-body-encoding:base64\nx-body-encoding:mine\ncontent-length:4\n\n/wA=\u0000"#
        );
        assert!(tail.with_id().starts_with(b"message-id:"));
    }

    #[test]
    fn each_version_has_its_own_escapes() {
        let destination = Destination::for_send("/topic/a").unwrap();
        let headers: Headers = [("a", "b:c")].into_iter().collect();
        let message = Message::new(destination, "/topic/a".into(), headers, Bytes::new());
        assert_eq!(message.tail(Version::V12).without_id(), b"destination:/topic/a\na:b\\cc\n\n\0");
        assert_eq!(message.tail(Version::V10).without_id(), b"destination:/topic/a\na:b:c\n\n\0");
    }
}
