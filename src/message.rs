//! A message on its way, and what one subscriber gets of it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use ulid::Ulid;

use crate::destination::Destination;
use crate::stomp::{Command, Headers, Version, encode};

/// One published message. Shared by all its receivers; encoded once for all of them.
#[derive(Debug)]
pub struct Message {
    pub destination: Destination,
    /// The `destination` header of the MESSAGE.
    pub shown: String,
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
    pub fn new(destination: Destination, shown: String, headers: Headers, body: Bytes) -> Self {
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
        let [first, second, third] = &self.tails;
        let slot = match version {
            Version::V12 => first,
            _ if self.is_plain() => return self.tail(Version::V12),
            Version::V11 => second,
            Version::V10 => third,
        };
        slot.get_or_init(|| self.encode(version))
    }

    fn is_plain(&self) -> bool {
        encode::is_plain(&self.shown)
            && self.headers.iter().all(|(n, v)| encode::is_plain(n) && encode::is_plain(v))
    }

    fn encode(&self, version: Version) -> Tail {
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
        for (name, value) in self.headers.iter() {
            header(name, value);
        }
        if self.persistent && !self.headers.contains("persistent") {
            header("persistent", "true");
        }
        if let Some(id) = self.x_id {
            header("x-id", &id.to_string());
        }
        encode::encode_end(&mut out, &self.body);
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
    fn each_version_has_its_own_escapes() {
        let destination = Destination::for_send("/topic/a").unwrap();
        let headers: Headers = [("a", "b:c")].into_iter().collect();
        let message = Message::new(destination, "/topic/a".into(), headers, Bytes::new());
        assert_eq!(message.tail(Version::V12).without_id(), b"destination:/topic/a\na:b\\cc\n\n\0");
        assert_eq!(message.tail(Version::V10).without_id(), b"destination:/topic/a\na:b:c\n\n\0");
    }
}
