//! Destinations, parsed once at the edge into one canonical form.
//!
//! Rules, subscriptions and unread messages work on [`Destination`] only, never on the text a
//! client wrote, so that two spellings of one place can never be judged differently.
//!
//! | text | canonical |
//! |---|---|
//! | `/queue/N`, `N` | queue `N` |
//! | `/topic/a/b`, `/topic/a.b` | topic `a.b`; `*` one word, `#` or `**` any number |
//! | `/user/NAME/queue/x` (SEND), `/user/queue/x` (SUBSCRIBE) | user `NAME`, target `queue/x` |
//! | `/app/a/b`, `/app/a.b` | application `a.b` |
//!
//! `%2F` is a literal `/` and `%25` a literal `%`; any other `%XX` stands for itself.

use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;

/// AMQP short strings end at 255 bytes, and so do destinations.
pub const MAX_BYTES: usize = 255;
/// The longest user name in bytes of UTF-8.
pub const MAX_USER_BYTES: usize = 128;

/// Queue names no client reaches, whatever the rules say.
const RESERVED: [&str; 3] = ["stomp-relay.", "amq.", "stomp-subscription-"];

/// Where a message goes, in canonical form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// Competing consumers; the queue's name.
    Queue(Arc<str>),
    /// Everybody who subscribes a matching pattern; words joined by dots (an AMQP routing key).
    Topic(Topic),
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

/// A destination of one user.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UserDestination {
    pub user: Arc<str>,
    /// `queue/x`, `topic/x` or `exchange/x`, the rest canonical as a topic's key is.
    pub target: Arc<str>,
}

/// Why a text is no destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DestinationError {
    Blank,
    TooLong {
        bytes: usize,
        limit: usize,
    },
    /// A control character; the text is not repeated.
    Control,
    /// No known first segment.
    Unknown {
        text: String,
    },
    /// A known first segment, then something it does not take.
    Invalid {
        kind: &'static str,
        rest: String,
    },
    /// A name no client reaches.
    Reserved {
        text: String,
    },
    /// Another user's destination.
    NotOwn {
        text: String,
    },
}

impl DestinationError {
    /// The `message` header and the body of the ERROR, RabbitMQ's where it has one.
    #[must_use]
    pub fn text(&self) -> (&'static str, String) {
        match self {
            Self::Blank => ("Invalid destination", "Destination cannot be blank\n".into()),
            Self::TooLong { bytes, limit } => (
                "Destination too long",
                format!("A destination has at most {limit} bytes, this one has {bytes}.\n"),
            ),
            Self::Control => {
                ("Invalid destination", "A destination has no control characters.\n".into())
            }
            Self::Unknown { text } => (
                "Unknown destination",
                format!(
                    "'{text}' is not a valid destination.\n\
                     Valid destination types are: /queue/, /topic/, /user/, /app/.\n"
                ),
            ),
            Self::Invalid { kind, rest } => {
                ("Invalid destination", format!("'/{rest}' is not a valid {kind} destination\n"))
            }
            Self::Reserved { text } => {
                ("access_refused", format!("access to '{text}' refused: the name is reserved\n"))
            }
            Self::NotOwn { text } => (
                "access_refused",
                format!("access to '{text}' refused: one's own messages are at /user/queue/NAME\n"),
            ),
        }
    }
}

impl Destination {
    /// The destination of a SEND.
    ///
    /// # Errors
    /// Where the text is no destination one can send to.
    pub fn for_send(text: &str) -> Result<Self, DestinationError> {
        let (kind, rest) = split(text)?;
        let destination = match kind {
            "user" => Self::User(user_send(rest)?),
            _ => Self::common(kind, rest, text)?,
        };
        match &destination {
            Self::Topic(topic) if topic.wildcard => {
                Err(DestinationError::Invalid { kind: "topic", rest: rest.into() })
            }
            _ => Ok(destination),
        }
    }

    /// The destination of a SUBSCRIBE by `own_user`, to whom `/user/queue/x` belongs.
    ///
    /// # Errors
    /// Where the text is no destination, or another user's.
    pub fn for_subscribe(text: &str, own_user: &str) -> Result<Self, DestinationError> {
        let (kind, rest) = split(text)?;
        match kind {
            "user" => {
                if !is_target(rest) {
                    return Err(DestinationError::NotOwn { text: text.into() });
                }
                let target = target(rest)?;
                Ok(Self::User(UserDestination { user: Arc::from(own_user), target }))
            }
            _ => Self::common(kind, rest, text),
        }
    }

    fn common(kind: &str, rest: &str, text: &str) -> Result<Self, DestinationError> {
        let invalid = |kind| DestinationError::Invalid { kind, rest: rest.into() };
        match kind {
            "queue" => {
                if rest.is_empty() || rest.contains('/') {
                    return Err(invalid("queue"));
                }
                let name = unescape(rest);
                if RESERVED.iter().any(|prefix| name.starts_with(prefix)) {
                    return Err(DestinationError::Reserved { text: text.into() });
                }
                Ok(Self::Queue(Arc::from(name)))
            }
            "topic" => {
                let key = topic_key(rest).ok_or_else(|| invalid("topic"))?;
                Ok(Self::Topic(Topic::from_key(&key)))
            }
            "app" => {
                let key = topic_key(rest).ok_or_else(|| invalid("app"))?;
                Ok(Self::App(Arc::from(key)))
            }
            _ => Err(DestinationError::Unknown { text: text.into() }),
        }
    }

    /// The words that rules look at: the kind, for a user destination the user's name, then the
    /// words of the name. A user's name is always one word.
    #[must_use]
    pub fn words(&self) -> SmallVec<[&str; 8]> {
        let mut words = SmallVec::new();
        match self {
            Self::Queue(name) => {
                words.push("queue");
                words.extend(name.split('.'));
            }
            Self::Topic(topic) => {
                words.push("topic");
                words.extend(topic.key.split('.'));
            }
            Self::User(UserDestination { user, target }) => {
                words.push("user");
                words.push(&**user);
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
            Self::Queue(name) => write!(f, "/queue/{}", escape(name)),
            Self::Topic(topic) => write!(f, "/topic/{}", escape(&topic.key)),
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

/// The first segment and what follows it.
fn split(text: &str) -> Result<(&str, &str), DestinationError> {
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
    match text.strip_prefix('/') {
        // RabbitMQ takes a name without slashes for a queue.
        None if text.contains('/') => Err(unknown()),
        None => Ok(("queue", text)),
        Some(path) => path.split_once('/').ok_or_else(unknown),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(result: Result<Destination, DestinationError>) -> String {
        match result {
            Ok(Destination::User(user)) => format!("user {} {}", user.user, user.target),
            Ok(destination) => destination.words().join(" "),
            Err(error) => format!("{}: {}", error.text().0, error.text().1.trim_end()),
        }
    }

    #[test]
    fn canonical_form_of_send() {
        let cases = [
            ("/queue/a", "queue a"),
            ("a", "queue a"),
            ("/queue/a.b", "queue a b"),
            ("/queue/a%2Fb", "queue a/b"),
            ("/queue/a%252Fb", "queue a%2Fb"),
            ("/queue/%2e%00", "queue %2e%00"),
            ("/topic/a/b", "topic a b"),
            ("/topic/a.b", "topic a b"),
            ("/topic/a%2Fb", "topic a/b"),
            ("/user/bob/queue/x", "user bob queue/x"),
            ("/user/b%2Fo%25b/queue/x/y", "user b/o%b queue/x.y"),
            ("/app/unread/read", "app unread read"),
            ("/topic/a.*", "Invalid destination: '/a.*' is not a valid topic destination"),
            ("/topic/**", "Invalid destination: '/**' is not a valid topic destination"),
            ("/topic/", "Invalid destination: '/' is not a valid topic destination"),
            ("/topic/a..b", "Invalid destination: '/a..b' is not a valid topic destination"),
            ("/queue/a/b", "Invalid destination: '/a/b' is not a valid queue destination"),
            ("/queue/", "Invalid destination: '/' is not a valid queue destination"),
            ("/user/queue/x", "Invalid destination: '/queue/x' is not a valid user destination"),
            ("/user//queue/x", "Invalid destination: '//queue/x' is not a valid user destination"),
            ("/user/bob", "Invalid destination: '/bob' is not a valid user destination"),
            ("/user/bob/", "Invalid destination: '/bob/' is not a valid user destination"),
            (
                "/user/bob/queue/*",
                "Invalid destination: '/bob/queue/*' is not a valid user destination",
            ),
            ("", "Invalid destination: Destination cannot be blank"),
            ("/queue/a\tb", "Invalid destination: A destination has no control characters."),
            (
                "/queue/stomp-relay.x",
                "access_refused: access to '/queue/stomp-relay.x' refused: the name is reserved",
            ),
            ("/queue/amq%2F", "queue amq/"),
        ];
        for (text, expected) in cases {
            assert_eq!(shown(Destination::for_send(text)), expected, "{text}");
        }
        for unknown in ["/QUEUE/x", "/foo/x", "/queue", "//queue/x", "x/y", "/"] {
            assert!(
                matches!(Destination::for_send(unknown), Err(DestinationError::Unknown { .. })),
                "{unknown}"
            );
        }
        let long = format!("/queue/{}", "x".repeat(300));
        assert!(matches!(
            Destination::for_send(&long),
            Err(DestinationError::TooLong { bytes: 307, limit: MAX_BYTES })
        ));
    }

    #[test]
    fn canonical_form_of_subscribe() {
        let cases = [
            ("/topic/a/*/b", "topic a * b"),
            ("/topic/a/**", "topic a #"),
            ("/topic/#", "topic #"),
            ("/user/queue/x", "user alice queue/x"),
            (
                "/user/bob/queue/x",
                "access_refused: access to '/user/bob/queue/x' refused: \
                 one's own messages are at /user/queue/NAME",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(shown(Destination::for_subscribe(text, "alice")), expected, "{text}");
        }
    }

    #[test]
    fn shown_to_its_receiver() {
        for (text, shown) in [
            ("/queue/a%2Fb", "/queue/a%2Fb"),
            ("/topic/a/b", "/topic/a.b"),
            ("/user/bob/queue/x/y", "/user/queue/x.y"),
        ] {
            let destination = Destination::for_send(text).unwrap();
            assert_eq!(destination.to_string(), shown);
        }
    }
}
