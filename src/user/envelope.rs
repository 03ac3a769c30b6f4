//! What one relay says to another about a user: a message for the user's sessions there, or a
//! notice. One line of JSON, then the body as it is. Pure.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::destination::{Destination, UserDestination};
use crate::message::Message;
use crate::persistence::UnreadId;
use crate::stomp::Headers;

/// Something for the sessions of a user on another node.
#[derive(Clone, Debug)]
pub(super) struct Envelope {
    pub(super) to: UserDestination,
    pub(super) message: Arc<Message>,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Kind {
    /// Stored under that id, so that it need not be kept again.
    Stored(UnreadId),
    /// Stored nowhere: where nobody takes it, it is to be kept.
    Pushed,
    /// Never to be kept.
    Fleeting,
    /// Of the relay's own; nobody proves to have got it.
    Notice,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    user: String,
    target: String,
    kind: Kind,
    persistent: bool,
    x_id: Option<String>,
    headers: Vec<(String, String)>,
}

impl Envelope {
    pub(super) fn new(to: &UserDestination, message: &Arc<Message>, kind: Kind) -> Self {
        Self { to: to.clone(), message: message.clone(), kind }
    }

    pub(super) fn to_bytes(&self) -> Bytes {
        let Self { to, message, kind } = self;
        let headers = message.headers.iter();
        let head = Head {
            user: to.user.to_string(),
            target: to.target.to_string(),
            kind: *kind,
            persistent: message.persistent,
            x_id: message.x_id.map(|id| id.to_string()),
            headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        };
        let mut out = serde_json::to_vec(&head).expect("strings and numbers are always JSON");
        out.push(b'\n');
        out.extend_from_slice(&message.body);
        Bytes::from(out)
    }

    /// `None` where it is none: of a relay of another version.
    pub(super) fn from_bytes(bytes: &Bytes) -> Option<Self> {
        // JSON has no raw line feed, so the first one ends the head.
        let end = memchr::memchr(b'\n', bytes)?;
        let head: Head = serde_json::from_slice(bytes.get(..end)?).ok()?;
        let to = UserDestination { user: Arc::from(head.user), target: Arc::from(head.target) };
        let headers: Headers =
            head.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let destination = Destination::User(to.clone());
        let shown = destination.to_string();
        // A copy, since a message that waits must not hold its whole batch.
        let body = Bytes::copy_from_slice(bytes.get(end + 1..)?);
        let mut message = Message::new(destination, shown, headers, body);
        message.persistent = head.persistent;
        message.x_id = match head.x_id {
            Some(text) => Some(Ulid::from_string(&text).ok()?),
            None => None,
        };
        Some(Self { to, message: Arc::new(message), kind: head.kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_comes_back_whole() {
        let to = UserDestination { user: Arc::from("a:b\n\0"), target: Arc::from("queue/a/b%") };
        let headers: Headers =
            [("a", "1\n\"\0"), ("", ""), ("a", "\u{1f980}")].into_iter().collect();
        let kinds = [Kind::Stored(7), Kind::Pushed, Kind::Fleeting, Kind::Notice];
        for (kind, body) in kinds.into_iter().zip([&b""[..], b"\n\0\xff\n{", b"x", b"{}"]) {
            let destination = Destination::User(to.clone());
            let shown = destination.to_string();
            let body = Bytes::from_static(body);
            let mut message = Message::new(destination, shown, headers.clone(), body);
            message.persistent = kind == Kind::Pushed;
            message.x_id = (kind != Kind::Notice).then(|| Ulid::from_bytes([9; 16]));
            let message = Arc::new(message);
            let bytes = Envelope::new(&to, &message, kind).to_bytes();
            let back = Envelope::from_bytes(&bytes).unwrap();
            assert_eq!((&back.to, back.kind), (&to, kind));
            assert_eq!(back.message.destination, message.destination);
            assert_eq!(back.message.shown, message.shown);
            assert_eq!(back.message.headers, message.headers);
            assert_eq!(back.message.body, message.body);
            let of = |message: &Message| (message.persistent, message.x_id);
            assert_eq!(of(&back.message), of(&message));
        }
        for bad in [&b""[..], b"{}", b"{}\n", b"\xff\n"] {
            assert!(Envelope::from_bytes(&Bytes::from_static(bad)).is_none());
        }
    }
}
