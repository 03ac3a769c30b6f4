//! Every key there is: its name, what it takes, its default.

use std::time::Duration;

use super::values::{parse_size, parse_time};

/// A key of the config. `[]` in a name stands for one element of a list of tables.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// As the environment would write it; none: not set, or found elsewhere.
    pub(super) default: Option<&'static str>,
    /// What follows where it is not set.
    pub(super) note: &'static str,
}

/// What a key takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Text,
    /// A text that is not printed.
    Secret,
    /// A text, or `off`.
    Switch,
    Choice(&'static [&'static str]),
    /// `true` or `false`.
    Flag,
    /// Texts, or one text.
    List,
    /// Addresses that may hold a password, which is not printed.
    Addresses,
    Size {
        min: u64,
        max: u64,
    },
    Count {
        min: u64,
        max: u64,
    },
    /// A count from 1, or `off`.
    Cap {
        max: u64,
    },
    Time {
        min: Duration,
        max: Duration,
    },
}

/// What stands in place of a secret in printed configs.
pub(super) const REDACTED: &str = "(redacted)";

/// A value that its key takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    List(Vec<String>),
    Number(u64),
    Time(Duration),
    Flag(bool),
    Off,
}

/// A value as somebody wrote it.
#[derive(Debug)]
pub(super) enum Written<'a> {
    Text(&'a str),
    Number(u64),
    List(Vec<String>),
    Flag(bool),
    /// Something no key takes, by its name in TOML.
    Other(&'static str),
}

impl Kind {
    /// Judges a written value.
    pub(super) fn read(self, written: Written<'_>) -> Result<Value, String> {
        match (self, written) {
            (_, Written::Text("")) => Err("is empty".into()),
            (Self::Text | Self::Secret, Written::Text(text)) => Ok(Value::Text(text.into())),
            (Self::Switch | Self::Cap { .. }, Written::Text("off")) => Ok(Value::Off),
            (Self::Switch, Written::Text(text)) => Ok(Value::Text(text.into())),
            (Self::Choice(choices), Written::Text(text)) if choices.contains(&text) => {
                Ok(Value::Text(text.into()))
            }
            (Self::Flag, Written::Flag(flag)) => Ok(Value::Flag(flag)),
            (Self::Flag, Written::Text("true")) => Ok(Value::Flag(true)),
            (Self::Flag, Written::Text("false")) => Ok(Value::Flag(false)),
            (Self::List | Self::Addresses, Written::Text(text)) => {
                Ok(Value::List(vec![text.into()]))
            }
            (Self::List | Self::Addresses, Written::List(texts)) => Ok(Value::List(texts)),
            (Self::Size { min, max }, Written::Text(text)) => within(parse_size(text)?, min, max),
            (Self::Size { min, max } | Self::Count { min, max }, Written::Number(number)) => {
                within(number, min, max)
            }
            (Self::Cap { max }, Written::Number(number)) => within(number, 1, max),
            (Self::Time { min, max }, Written::Text(text)) => {
                let time = parse_time(text)?;
                if (min..=max).contains(&time) {
                    Ok(Value::Time(time))
                } else {
                    let (min, max) = (super::values::show_time(min), super::values::show_time(max));
                    Err(format!("is not between {min} and {max}"))
                }
            }
            (_, written) => Err(format!("is {}, but takes {}", written.name(), self.name())),
        }
    }

    /// Judges a text of the environment or the command line.
    pub(super) fn read_text(self, text: &str) -> Result<Value, String> {
        match self {
            Self::List | Self::Addresses => {
                let texts = text.split(',').map(|item| item.trim().to_owned());
                self.read(Written::List(texts.filter(|item| !item.is_empty()).collect()))
            }
            Self::Count { .. } | Self::Cap { .. } => match text.parse() {
                Ok(number) => self.read(Written::Number(number)),
                Err(_) => self.read(Written::Text(text)),
            },
            _ => self.read(Written::Text(text)),
        }
    }

    fn name(self) -> String {
        match self {
            Self::Text | Self::Secret => "a text".into(),
            Self::Switch => "a text or \"off\"".into(),
            Self::Flag => "true or false".into(),
            Self::Choice(choices) => format!("one of \"{}\"", choices.join("\", \"")),
            Self::List | Self::Addresses => "a list of texts".into(),
            Self::Size { .. } => "a size such as \"256KiB\"".into(),
            Self::Count { .. } => "a whole number".into(),
            Self::Cap { .. } => "a whole number or \"off\"".into(),
            Self::Time { .. } => "a time such as \"10s\"".into(),
        }
    }
}

impl Written<'_> {
    fn name(&self) -> String {
        match self {
            Self::Text(text) => format!("{text:?}"),
            Self::Number(number) => number.to_string(),
            Self::List(_) => "a list".into(),
            Self::Flag(_) => "a truth value".into(),
            Self::Other(name) => (*name).into(),
        }
    }
}

fn within(number: u64, min: u64, max: u64) -> Result<Value, String> {
    if (min..=max).contains(&number) {
        Ok(Value::Number(number))
    } else {
        Err(format!("is {number}, which is not between {min} and {max}"))
    }
}

const fn key(name: &'static str, kind: Kind, default: &'static str) -> Key {
    Key { name, kind, default: Some(default), note: "" }
}

const fn unset(name: &'static str, kind: Kind, note: &'static str) -> Key {
    Key { name, kind, default: None, note }
}

const fn count(min: u64, max: u64) -> Kind {
    Kind::Count { min, max }
}

const fn size(min: u64, max: u64) -> Kind {
    Kind::Size { min, max }
}

const fn time(min_millis: u64, max_millis: u64) -> Kind {
    Kind::Time { min: Duration::from_millis(min_millis), max: Duration::from_millis(max_millis) }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;
const MINUTE: u64 = 60_000;
const DAY: u64 = 86_400_000;
/// Counts of things that are kept in memory one by one.
const MANY: u64 = 1_000_000;
const ANSWER: Kind = Kind::Choice(&["close", "message"]);

/// All keys, in the order in which they are printed; those of one section stand together.
pub(super) const KEYS: &[Key] = &[
    key("listen", Kind::Text, "127.0.0.1:8080"),
    unset("public_url", Kind::Text, "the address browsers use, where a proxy stands before"),
    key("trusted_proxies", Kind::List, ""),
    key("admin.listen", Kind::Text, "127.0.0.1:9090"),
    unset("admin.token", Kind::Secret, "none: the admin port is for loopback only"),
    key("tcp.listen", Kind::Switch, "off"),
    key("broker.url", Kind::Addresses, "embedded:"),
    key("store.url", Kind::Addresses, "sqlite:stomp-relay.db"),
    unset("node.id", Kind::Text, "random, kept beside the data"),
    key("static.dir", Kind::Switch, "off"),
    unset("auth.chain", Kind::List, "the logins that are configured: \"jwt\", \"users\""),
    unset("auth.users.file", Kind::Text, "lines of name:hash[:role,role]"),
    unset("auth.jwt.issuer", Kind::Text, "not checked"),
    key("auth.jwt.audience", Kind::List, ""),
    key("auth.jwt.user_claim", Kind::Text, "sub"),
    key("auth.jwt.roles_claim", Kind::Text, "roles"),
    key("auth.jwt.leeway", time(0, 5 * MINUTE), "5s"),
    key("auth.jwt.cookie", Kind::Switch, "off"),
    key("auth.jwt.query", Kind::Switch, "off"),
    unset("auth.jwt.keys[].alg", Kind::Choice(&["HS256", "RS256", "ES256"]), "required"),
    unset("auth.jwt.keys[].kid", Kind::Text, "tokens of any kid"),
    unset("auth.jwt.keys[].secret", Kind::Secret, "HS256"),
    unset("auth.jwt.keys[].secret_file", Kind::Text, "HS256"),
    unset("auth.jwt.keys[].pem", Kind::Secret, "RS256, ES256"),
    unset("auth.jwt.keys[].pem_file", Kind::Text, "RS256, ES256"),
    unset(
        "relay.allow_names",
        Kind::List,
        "none; --dev: amq.topic, amq.direct, amq.fanout, amq.headers",
    ),
    key("relay.queue_type", Kind::Choice(&["classic", "quorum"]), "classic"),
    key("relay.queue_deleted", Kind::Choice(&["redeclare", "refuse"]), "redeclare"),
    key("relay.unroutable", Kind::Choice(&["error", "keep"]), "error"),
    key("relay.outage.messages", count(0, MANY), "10000"),
    key("relay.outage.bytes", size(0, 16 * 1024 * MIB), "64MiB"),
    key("relay.outage.time", time(0, 10 * MINUTE), "30s"),
    key("websocket.write_delay", time(0, 100), "0s"),
    key("errors.denied", ANSWER, "close"),
    key("errors.unknown_destination", ANSWER, "close"),
    key("errors.unroutable", ANSWER, "close"),
    key("errors.limit", ANSWER, "close"),
    key("errors.outage", ANSWER, "message"),
    key("errors.store", ANSWER, "message"),
    key("errors.cancelled", ANSWER, "message"),
    key("limits.frame_bytes", size(KIB, 16 * MIB), "256KiB"),
    key("limits.headers", count(8, 1000), "64"),
    key("limits.header_name_bytes", size(16, 255), "255"),
    key("limits.header_value_bytes", size(256, MIB), "8KiB"),
    key("limits.destination_bytes", size(16, 255), "255"),
    unset("limits.websocket_message_bytes", size(KIB, 16 * MIB), "as limits.frame_bytes"),
    key("limits.fragments", count(1, MANY), "1024"),
    key("limits.connect_time", time(100, 10 * MINUTE), "10s"),
    key("limits.frame_time", time(100, 10 * MINUTE), "30s"),
    key("limits.http_head_time", time(100, 10 * MINUTE), "10s"),
    key("limits.http_body_time", time(100, 10 * MINUTE), "10s"),
    key("limits.sockjs_body_bytes", size(KIB, 16 * MIB), "512KiB"),
    key("limits.sockjs_messages", count(1, MANY), "1024"),
    key("limits.outbound_bytes", size(16 * KIB, 1024 * MIB), "1MiB"),
    key("limits.outbound_frames", count(16, MANY), "4096"),
    key("limits.outbound_stall", time(100, 10 * MINUTE), "10s"),
    key("limits.subscriptions", count(1, 100_000), "1000"),
    key("limits.unacked", count(1, 65_535), "1000"),
    key("limits.prefetch", count(1, 65_535), "100"),
    key("limits.ack_time", time(1000, 30 * DAY), "25m"),
    key("limits.transactions", count(0, 10_000), "16"),
    key("limits.transaction_actions", count(1, MANY), "1024"),
    key("limits.transaction_bytes", size(KIB, 1024 * MIB), "1MiB"),
    key("limits.sessions_per_user", Kind::Cap { max: 10 * MANY }, "1000"),
    key("limits.sessions_per_address", Kind::Cap { max: 10 * MANY }, "off"),
    unset("limits.sessions", count(1, 10 * MANY), "80 % of the limit of open files"),
    key("limits.auth_failures", Kind::Cap { max: MANY }, "10"),
    key("limits.unread_messages", count(1, 10 * MANY), "1000"),
    key("limits.unread_bytes", size(KIB, TIB), "10MiB"),
    key("limits.unread_age", time(1000, 3650 * DAY), "7d"),
    key("limits.unread_total_bytes", size(KIB, 1024 * TIB), "1GiB"),
    key("limits.drain_time", time(0, 60 * MINUTE), "30s"),
    unset("endpoint[].path", Kind::Text, "required"),
    key("endpoint[].allowed_origins", Kind::List, ""),
    key("endpoint[].auth", Kind::Choice(&["handshake", "connect"]), "connect"),
    key("endpoint[].sockjs", Kind::Flag, "true"),
    key("endpoint[].transports", Kind::List, "websocket,xhr,xhr_streaming,eventsource"),
    key("endpoint[].base_url", Kind::Switch, "off"),
    key(
        "endpoint[].client_library_url",
        Kind::Text,
        "https://cdn.jsdelivr.net/npm/sockjs-client@1/dist/sockjs.min.js",
    ),
    key("endpoint[].stream_bytes_limit", size(KIB, 1024 * MIB), "128KiB"),
    key("endpoint[].session_cookie_needed", Kind::Flag, "true"),
    key("endpoint[].heartbeat_time", time(1000, 10 * MINUTE), "25s"),
    key("endpoint[].disconnect_delay", time(100, 10 * MINUTE), "5s"),
    key("endpoint[].http_message_cache_size", count(1, MANY), "100"),
    key("endpoint[].web_socket_enabled", Kind::Flag, "true"),
    key("endpoint[].suppress_cors", Kind::Flag, "false"),
    key("rule[].frame", Kind::Choice(&["SEND", "SUBSCRIBE", "*"]), "*"),
    unset("rule[].destination", Kind::Text, "required"),
    unset("rule[].allow", Kind::Text, "required"),
    unset("unread[].destination", Kind::Text, "required"),
    key("unread[].store", Kind::Choice(&["absent", "always", "never"]), "absent"),
    key("unread[].replay", Kind::Choice(&["header", "always"]), "header"),
    key("unread[].read", Kind::Choice(&["explicit", "delivered"]), "explicit"),
];

/// The key of that name, `[]` for elements.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Whether keys begin with that name and a dot: it is a table.
pub(super) fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

/// Whether it is a list of tables.
pub(super) fn is_list(name: &str) -> bool {
    KEYS.iter().any(|key| key.name.strip_prefix(name).is_some_and(|rest| rest.starts_with("[].")))
}

/// The section a key is in: all before its last dot.
pub(super) fn section_of(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(section, _)| section)
}

/// The known name nearest to one that is not known, where one is near.
pub(super) fn nearest(name: &str) -> Option<String> {
    let names = KEYS.iter().flat_map(|key| [key.name, section_of(key.name)]);
    let (distance, known) = names
        .filter(|known| !known.is_empty())
        .map(|known| known.replace("[]", ""))
        .map(|known| (strsim::damerau_levenshtein(name, &known), known))
        .min()?;
    (distance <= 2.max(name.len() / 4)).then_some(known)
}

/// The environment variable of a key, less its prefix.
pub(super) fn variable(name: &str) -> String {
    name.to_uppercase().replace('.', "_")
}
