//! Names: how they are escaped, whose they may be, and which no client reaches.

use std::collections::BTreeSet;
use std::sync::Arc;

/// The longest user name in bytes of UTF-8.
pub const MAX_USER_BYTES: usize = 128;

/// What the server's own names, RabbitMQ's own, and those of durable subscriptions begin with.
const RESERVED: [&str; 3] = ["stomp-relay.", "amq.", "stomp-subscription-"];
/// What a broker calls the queues that it names itself. They are handed out as `reply-to`.
pub(super) const GENERATED: &str = "amq.gen-";

/// Queues and exchanges that clients reach though their names are reserved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedNames(Arc<BTreeSet<String>>);

impl AllowedNames {
    /// Whether clients reach a queue or an exchange of that name, where a rule lets them.
    #[must_use]
    pub fn reaches(&self, name: &str) -> bool {
        !RESERVED.iter().any(|prefix| name.starts_with(prefix)) || self.0.contains(name)
    }
}

impl<S: Into<String>> FromIterator<S> for AllowedNames {
    fn from_iter<I: IntoIterator<Item = S>>(names: I) -> Self {
        Self(Arc::new(names.into_iter().map(Into::into).collect()))
    }
}

/// Whether a name can be a user's: 1 to 128 bytes of UTF-8 without control characters.
#[must_use]
pub fn is_user_name(name: &str) -> bool {
    (1..=MAX_USER_BYTES).contains(&name.len()) && !name.chars().any(char::is_control)
}

/// `/` and `%` written so that they survive in a destination.
#[must_use]
pub fn escape(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2F")
}

pub(crate) fn unescape(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    // One pass, so that `%252F` is a literal `%2F`.
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        if let Some(tail) = after.strip_prefix("2F") {
            out.push('/');
            rest = tail;
        } else if let Some(tail) = after.strip_prefix("25") {
            out.push('%');
            rest = tail;
        } else {
            out.push('%');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}
