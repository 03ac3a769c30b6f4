//! Destinations, parsed once at the edge into one canonical form.
//!
//! Rules, subscriptions and unread messages work on [`Destination`] only, never on the text a
//! client wrote, so that two spellings of one place can never be judged differently.
//!
//! | text | canonical |
//! |---|---|
//! | `/queue/N`, `N` | queue `N` |
//! | `/amq/queue/N`, `/reply-queue/N` | queue `N`, which must be there already |
//! | `/reply-queue/amq.gen-X` | the queue of somebody's answers |
//! | `/topic/a/b`, `/topic/a.b`, `/exchange/amq.topic/a.b` | topic `a.b`; `*` one word, `#` or `**` any number |
//! | `/exchange/E/K`, `/exchange/E` | exchange `E`, routing key `K` |
//! | `/user/NAME/queue/x` (SEND), `/user/queue/x` (SUBSCRIBE) | user `NAME`, target `queue/x` |
//! | `/app/a/b`, `/app/a.b` | application `a.b` |
//!
//! `%2F` is a literal `/` and `%25` a literal `%`; any other `%XX` stands for itself.

mod error;
mod names;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;

pub use error::DestinationError;
pub(crate) use names::unescape;
pub use names::{AllowedNames, MAX_USER_BYTES, escape, is_user_name};

/// AMQP short strings end at 255 bytes, and so do destinations.
pub const MAX_BYTES: usize = 255;
/// The exchange behind `/topic`.
pub const TOPIC_EXCHANGE: &str = "amq.topic";

/// Where a message goes, in canonical form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// Competing consumers; the queue's name. It is made where it is missing.
    Queue(Arc<str>),
    /// The same queues; one that is missing is not made.
    AmqQueue(Arc<str>),
    /// The queue of a session's answers, as its `reply-to` named it.
    ReplyQueue(Arc<str>),
    /// Everybody who subscribes a matching pattern; words joined by dots (an AMQP routing key).
    Topic(Topic),
    /// Whoever is bound to an AMQP exchange.
    Exchange(Exchange),
    /// Every session of one user.
    User(UserDestination),
    /// The application; words joined by dots.
    App(Arc<str>),
}

/// A topic's key, or a pattern of topics.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Topic {
    key: Arc<str>,
    wildcard: bool,
}

impl Topic {
    /// A topic from its canonical key, as AMQP writes it: `a.b`, `a.*`, `a.#`.
    #[must_use]
    pub fn from_key(key: &str) -> Self {
        let wildcard = key.split('.').any(|word| word == "*" || word == "#");
        Self { key: Arc::from(key), wildcard }
    }

    /// A key in which `*` and `#` stand for themselves.
    #[must_use]
    pub fn literal(key: &Arc<str>) -> Self {
        Self { key: key.clone(), wildcard: false }
    }

    /// The AMQP routing or binding key.
    #[must_use]
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// Whether a word is `*` or `#`.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.wildcard
    }
}

/// An exchange other than the one behind `/topic`, and a routing or binding key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Exchange {
    pub name: Arc<str>,
    /// May be empty.
    pub key: Arc<str>,
}

/// A destination of one user.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UserDestination {
    pub user: Arc<str>,
    /// `queue/x`, `topic/x` or `exchange/x`, the rest canonical as a topic's key is.
    pub target: Arc<str>,
}

impl Destination {
    /// The destination of a SEND, where no reserved name is allowed.
    ///
    /// # Errors
    /// Where the text is no destination one can send to.
    pub fn for_send(text: &str) -> Result<Self, DestinationError> {
        Self::for_send_within(text, &AllowedNames::default())
    }

    /// The destination of a SEND.
    ///
    /// # Errors
    /// Where the text is no destination one can send to.
    pub fn for_send_within(text: &str, allowed: &AllowedNames) -> Result<Self, DestinationError> {
        let Split { kind, rest } = split(text)?;
        let destination = match kind {
            "user" => Self::User(user_send(rest)?),
            _ => Self::common(kind, rest, text, allowed)?,
        };
        match &destination {
            Self::Topic(topic) if topic.wildcard => {
                let kind = if kind == "exchange" { "exchange" } else { "topic" };
                Err(DestinationError::Invalid { kind, rest: rest.into() })
            }
            _ => Ok(destination),
        }
    }

    /// The destination of a SUBSCRIBE by `own_user`, where no reserved name is allowed.
    ///
    /// # Errors
    /// Where the text is no destination, or another user's.
    pub fn for_subscribe(text: &str, own_user: &str) -> Result<Self, DestinationError> {
        Self::for_subscribe_within(text, own_user, &AllowedNames::default())
    }

    /// The destination of a SUBSCRIBE by `own_user`, to whom `/user/queue/x` belongs.
    ///
    /// # Errors
    /// Where the text is no destination, or another user's.
    pub fn for_subscribe_within(
        text: &str,
        own_user: &str,
        allowed: &AllowedNames,
    ) -> Result<Self, DestinationError> {
        let Split { kind, rest } = split(text)?;
        if kind != "user" {
            return Self::common(kind, rest, text, allowed);
        }
        if !is_target(rest) {
            return Err(DestinationError::NotOwn { text: text.into() });
        }
        let target = target(rest)?;
        Ok(Self::User(UserDestination { user: Arc::from(own_user), target }))
    }

    fn common(
        kind: &str,
        rest: &str,
        text: &str,
        allowed: &AllowedNames,
    ) -> Result<Self, DestinationError> {
        let invalid = |kind| DestinationError::Invalid { kind, rest: rest.into() };
        let reachable = |name: String| match allowed.reaches(&name) {
            true => Ok(Arc::from(name)),
            false => Err(DestinationError::Reserved { text: text.into() }),
        };
        match kind {
            "queue" | "amq/queue" => {
                let is_amq = kind == "amq/queue";
                if rest.is_empty() || rest.contains('/') {
                    return Err(invalid(if is_amq { "amq/queue" } else { "queue" }));
                }
                let name = reachable(unescape(rest))?;
                Ok(if is_amq { Self::AmqQueue(name) } else { Self::Queue(name) })
            }
            "reply-queue" if rest.is_empty() => Err(invalid("reply-queue")),
            "reply-queue" => match unescape(rest) {
                name if name.starts_with(names::GENERATED) => Ok(Self::ReplyQueue(name.into())),
                // Any other is a queue like those of /amq/queue, and judged as one.
                name => reachable(name).map(Self::AmqQueue),
            },
            "topic" => {
                let key = topic_key(rest).ok_or_else(|| invalid("topic"))?;
                Ok(Self::Topic(Topic::from_key(&key)))
            }
            "exchange" => {
                let (name, key) = rest.split_once('/').unwrap_or((rest, ""));
                if name.is_empty() || key.contains('/') {
                    return Err(invalid("exchange"));
                }
                let name: Arc<str> = reachable(unescape(name))?;
                if &*name == TOPIC_EXCHANGE {
                    let key = topic_key(key).ok_or_else(|| invalid("exchange"))?;
                    return Ok(Self::Topic(Topic::from_key(&key)));
                }
                Ok(Self::Exchange(Exchange { name, key: Arc::from(unescape(key)) }))
            }
            // Only a `reply-to` may name one.
            "temp-queue" => Err(invalid("temp-queue")),
            "app" => {
                let key = topic_key(rest).ok_or_else(|| invalid("app"))?;
                Ok(Self::App(Arc::from(key)))
            }
            _ => Err(DestinationError::Unknown { text: text.into() }),
        }
    }

    /// The words that rules look at: the kind, for a user or an exchange its name, then the words
    /// of the name or key. A queue is the same one by whatever way it is reached; only queues of
    /// answers are a kind of their own.
    #[must_use]
    pub fn words(&self) -> SmallVec<[&str; 8]> {
        let mut words = SmallVec::new();
        match self {
            Self::Queue(name) | Self::AmqQueue(name) => {
                words.push("queue");
                words.extend(name.split('.'));
            }
            Self::ReplyQueue(name) => words.extend(["reply-queue", &**name]),
            Self::Topic(topic) => {
                words.push("topic");
                words.extend(topic.key.split('.'));
            }
            Self::Exchange(Exchange { name, key }) => {
                words.extend(["exchange", &**name]);
                if !key.is_empty() {
                    words.extend(key.split('.'));
                }
            }
            Self::User(UserDestination { user, target }) => {
                words.extend(["user", &**user]);
                let (kind, rest) = target.split_once('/').unwrap_or((target, ""));
                words.push(kind);
                words.extend(rest.split('.'));
            }
            Self::App(key) => {
                words.push("app");
                words.extend(key.split('.'));
            }
        }
        words
    }
}

/// How the destination stands in a MESSAGE: as its receiver knows it, escaped.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // RabbitMQ shows all queues alike.
            Self::Queue(name) | Self::AmqQueue(name) | Self::ReplyQueue(name) => {
                write!(f, "/queue/{}", escape(name))
            }
            Self::Topic(topic) => write!(f, "/topic/{}", escape(&topic.key)),
            Self::Exchange(Exchange { name, key }) if key.is_empty() => {
                write!(f, "/exchange/{}", escape(name))
            }
            Self::Exchange(Exchange { name, key }) => {
                write!(f, "/exchange/{}/{}", escape(name), escape(key))
            }
            Self::User(user) => write!(f, "{user}"),
            Self::App(key) => write!(f, "/app/{}", escape(key)),
        }
    }
}

/// A user destination as its owner sees it: `/user/queue/x`.
impl fmt::Display for UserDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, rest) = self.target.split_once('/').unwrap_or((&self.target, ""));
        write!(f, "/user/{kind}/{}", escape(rest))
    }
}

/// A `reply-to` as its receiver sees it: one that can be sent to. A bare name is a queue's.
#[must_use]
pub fn reply_to_shown(text: &str) -> String {
    const KINDS: [&str; 8] = [
        "/temp-queue/",
        "/exchange/",
        "/topic/",
        "/queue/",
        "/amq/queue/",
        "/reply-queue/",
        "/user/",
        "/app/",
    ];
    if KINDS.iter().any(|kind| text.starts_with(kind)) {
        text.to_owned()
    } else {
        format!("/reply-queue/{text}")
    }
}

/// A destination's kind and what follows it.
struct Split<'a> {
    kind: &'a str,
    rest: &'a str,
}

fn split(text: &str) -> Result<Split<'_>, DestinationError> {
    if text.is_empty() {
        return Err(DestinationError::Blank);
    }
    if text.len() > MAX_BYTES {
        return Err(DestinationError::TooLong { bytes: text.len(), limit: MAX_BYTES });
    }
    if text.chars().any(char::is_control) {
        return Err(DestinationError::Control);
    }
    let unknown = || DestinationError::Unknown { text: text.into() };
    let Some(path) = text.strip_prefix('/') else {
        // RabbitMQ takes a name without slashes for a queue.
        return if text.contains('/') {
            Err(unknown())
        } else {
            Ok(Split { kind: "queue", rest: text })
        };
    };
    if let Some(rest) = path.strip_prefix("amq/queue/") {
        return Ok(Split { kind: "amq/queue", rest });
    }
    let (kind, rest) = path.split_once('/').ok_or_else(unknown)?;
    Ok(Split { kind, rest })
}

/// Slashes become dots, `**` becomes `#`; no word may be empty.
fn topic_key(rest: &str) -> Option<String> {
    let mut key = String::with_capacity(rest.len());
    for word in rest.split(['/', '.']) {
        if word.is_empty() {
            return None;
        }
        if !key.is_empty() {
            key.push('.');
        }
        match word {
            "**" => key.push('#'),
            _ => key.push_str(&unescape(word)),
        }
    }
    Some(key)
}

fn is_target(rest: &str) -> bool {
    ["queue/", "topic/", "exchange/"].iter().any(|kind| rest.starts_with(kind))
}

fn target(rest: &str) -> Result<Arc<str>, DestinationError> {
    let invalid = || DestinationError::Invalid { kind: "user", rest: rest.into() };
    if !is_target(rest) {
        return Err(invalid());
    }
    let (kind, name) = rest.split_once('/').ok_or_else(invalid)?;
    let key = topic_key(name).ok_or_else(invalid)?;
    if Topic::from_key(&key).wildcard {
        return Err(invalid());
    }
    Ok(Arc::from(format!("{kind}/{key}")))
}

fn user_send(rest: &str) -> Result<UserDestination, DestinationError> {
    let invalid = || DestinationError::Invalid { kind: "user", rest: rest.into() };
    let (name, after) = rest.split_once('/').ok_or_else(invalid)?;
    let user = unescape(name);
    if !is_user_name(&user) {
        return Err(invalid());
    }
    Ok(UserDestination { user: Arc::from(user), target: target(after).map_err(|_| invalid())? })
}
