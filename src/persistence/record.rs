//! How a message is written into a store, and built again.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::{StoreError, Stored, UnreadId};
use crate::destination::{Destination, UserDestination};
use crate::message::Message;
use crate::stomp::Headers;

/// The user destination of a message to be kept.
///
/// # Errors
/// `Broken` for any other destination: a mistake of the caller.
pub(super) fn place(message: &Message) -> Result<&UserDestination, StoreError> {
    match &message.destination {
        Destination::User(destination) => Ok(destination),
        other @ (Destination::Queue(_)
        | Destination::AmqQueue(_)
        | Destination::ReplyQueue(_)
        | Destination::Topic(_)
        | Destination::Exchange(_)
        | Destination::App(_)) => {
            Err(StoreError::Broken(format!("a message to {other} is no unread message")))
        }
    }
}

/// A JSON list of names and values in wire order: readable with sqlite3 and redis-cli.
pub(super) fn headers_to_json(headers: &Headers) -> String {
    let pairs: Vec<(&str, &str)> = headers.iter().collect();
    serde_json::to_string(&pairs).expect("strings are always JSON")
}

/// # Errors
/// `Broken` where the text is not what [`headers_to_json`] wrote.
pub(super) fn headers_from_json(text: &str) -> Result<Headers, StoreError> {
    let pairs: Vec<(String, String)> =
        serde_json::from_str(text).map_err(|error| unreadable("headers", &error))?;
    Ok(pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect())
}

/// What stands beside the body.
pub(super) struct Parts {
    pub(super) user: Arc<str>,
    pub(super) target: Arc<str>,
    pub(super) headers: Headers,
    pub(super) persistent: bool,
    pub(super) x_id: Option<Ulid>,
}

pub(super) fn rebuild(parts: Parts, body: Bytes) -> Arc<Message> {
    let Parts { user, target, headers, persistent, x_id } = parts;
    let destination = Destination::User(UserDestination { user, target });
    let shown = destination.to_string();
    let mut message = Message::new(destination, shown.into(), headers, body);
    message.persistent = persistent;
    message.x_id = x_id;
    Arc::new(message)
}

/// A record of Redis: one line of JSON, then the body as it is.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    target: String,
    x_id: Option<String>,
    created_at: i64,
    persistent: bool,
    headers: Vec<(String, String)>,
}

pub(super) fn to_bytes(message: &Message, target: &str, created_at: i64) -> Vec<u8> {
    let head = Head {
        target: target.to_owned(),
        x_id: message.x_id.map(|id| id.to_string()),
        created_at,
        persistent: message.persistent,
        headers: message.headers.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
    };
    let mut out = serde_json::to_vec(&head).expect("strings and numbers are always JSON");
    out.push(b'\n');
    out.extend_from_slice(&message.body);
    out
}

/// # Errors
/// `Broken` where the bytes are not what [`to_bytes`] wrote.
pub(super) fn from_bytes(
    id: UnreadId,
    user: &Arc<str>,
    bytes: Vec<u8>,
) -> Result<Stored, StoreError> {
    // JSON has no raw line feed, so the first one ends the head.
    let end = memchr::memchr(b'\n', &bytes)
        .ok_or_else(|| StoreError::Broken("a stored message has no head".into()))?;
    let bytes = Bytes::from(bytes);
    let head: Head =
        serde_json::from_slice(&bytes[..end]).map_err(|error| unreadable("message", &error))?;
    let x_id = match head.x_id {
        Some(text) => Some(Ulid::from_string(&text).map_err(|error| unreadable("x-id", &error))?),
        None => None,
    };
    let parts = Parts {
        user: user.clone(),
        target: Arc::from(head.target),
        headers: head.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect(),
        persistent: head.persistent,
        x_id,
    };
    let message = rebuild(parts, bytes.slice(end + 1..));
    Ok(Stored { id, message, created_at: head.created_at })
}

fn unreadable(what: &str, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Broken(format!("the {what} of a stored message cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_whole() {
        let user = Arc::<str>::from("a:b\n\0");
        let headers: Headers =
            [("a", "1\n\"\0"), ("", ""), ("a", "\u{1f980}")].into_iter().collect();
        for (body, persistent, x_id) in
            [(&b""[..], true, None), (&b"\n\0\xff\n{"[..], false, Some(Ulid::from_bytes([9; 16])))]
        {
            let parts = Parts {
                user: user.clone(),
                target: Arc::from("queue/a/b%"),
                headers: headers.clone(),
                persistent,
                x_id,
            };
            let message = rebuild(parts, Bytes::from_static(body));
            let stored =
                from_bytes(7, &user, to_bytes(&message, "queue/a/b%", -5)).expect("readable");
            assert_eq!((stored.id, stored.created_at), (7, -5));
            assert_eq!(stored.message.destination, message.destination);
            assert_eq!(&*stored.message.shown, "/user/queue/a%2Fb%25");
            assert_eq!(stored.message.headers, headers);
            assert_eq!(stored.message.body, body);
            assert_eq!((stored.message.persistent, stored.message.x_id), (persistent, x_id));
        }
        for bad in [&b""[..], b"{}", b"{}\n", b"\xff\n"] {
            assert!(matches!(from_bytes(1, &user, bad.to_vec()), Err(StoreError::Broken(_))));
        }
        assert!(headers_from_json("[[1]]").is_err());
    }
}
