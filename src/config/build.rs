//! Values to the structs of each part, with the checks that a single value cannot have.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use super::keys::{REDACTED, Value};
use super::source::Settings;
use super::types::*;
use super::values::{parse_address, parse_range};
use super::{Config, login, sockjs};
use crate::auth::policy::{Defaults, Policy};
use crate::auth::secret::Secret;

/// What is said of a secret that was left out when the config was printed.
pub(super) const REDACTION: &str = "was left out when this config was printed; write it again";

/// The file of the embedded broker, beside the store's.
const BROKER_FILE: &str = "stomp-relay-broker.db";

/// Builds the config. Where something is wrong it is noted, and a default stands in for it so
/// that what follows is judged too.
pub(super) fn build(s: &mut Settings) -> Config {
    let listen = address(s, "listen").unwrap_or_else(nowhere);
    let admin = admin(s);
    let tcp_listen = address(s, "tcp.listen");
    let store = store(s);
    let broker = broker(s, &store);
    let mut limits = limits(s);
    if s.dev && s.written("limits.sessions_per_user").is_none() {
        limits.sessions_per_user = None;
    }
    let endpoints = endpoints(s);
    let auth = login::auth(s, limits.auth_failures);
    if let Some(jwt) = &auth.jwt
        && jwt.cookie.is_some()
        && endpoints.iter().any(|endpoint| endpoint.allowed_origins.iter().any(|o| o == "*"))
    {
        s.mistake(
            "auth.jwt.cookie",
            "is not safe while an endpoint allows the origin \"*\": any page could use the login",
        );
    }
    let rules = login::rules(s);
    let defaults = match (s.dev, &broker) {
        (true, _) => Defaults::Everything,
        (false, BrokerConfig::Embedded { .. }) => Defaults::Embedded,
        (false, BrokerConfig::RabbitMq { .. }) => Defaults::RabbitMq,
    };
    let notice = Policy::new(rules.clone(), defaults).queue_notice();
    s.warnings.extend(notice.map(str::to_owned));
    Config {
        dev: s.dev,
        listen,
        admin,
        tcp_listen,
        broker,
        store,
        public_url: public_url(s),
        trusted_proxies: trusted_proxies(s),
        node_id: node_id(s),
        static_dir: static_dir(s),
        endpoints,
        auth,
        relay: relay(s),
        websocket: WebSocketConfig { write_delay: time(s, "websocket.write_delay") },
        rules,
        errors: errors(s),
        unread: login::unread(s),
        limits,
        warnings: std::mem::take(&mut s.warnings),
    }
}

fn nowhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn address(s: &mut Settings, name: &str) -> Option<SocketAddr> {
    let text = s.text(name)?;
    match parse_address(&text) {
        Ok(address) => {
            if s.dev && !address.ip().to_canonical().is_loopback() {
                s.mistake(name, "is not loopback, but --dev has passwords that everybody knows");
            }
            Some(address)
        }
        Err(error) => {
            s.mistake(name, error);
            None
        }
    }
}

fn admin(s: &mut Settings) -> AdminConfig {
    let listen = address(s, "admin.listen").unwrap_or_else(nowhere);
    let token = s.text("admin.token");
    match &token {
        Some(token) if token == REDACTED => s.mistake("admin.token", REDACTION),
        Some(token) if token.len() < 16 => {
            s.mistake("admin.token", "is too short to be safe; use at least 16 characters");
        }
        Some(token) if !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
            s.mistake("admin.token", "has characters that cannot stand in an HTTP header");
        }
        None if !s.dev && !listen.ip().to_canonical().is_loopback() => {
            s.mistake("admin.listen", "is not loopback, which needs admin.token");
        }
        Some(_) | None => {}
    }
    AdminConfig { listen, token: token.map(Secret::new) }
}

fn store(s: &mut Settings) -> StoreConfig {
    let texts = s.list("store.url");
    let text = texts.first().map_or("", String::as_str);
    if texts.len() != 1 {
        s.mistake("store.url", "takes one address");
    }
    if text == "memory:" {
        return StoreConfig::Memory;
    }
    if let Some(path) = text.strip_prefix("sqlite:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() || path == ":memory:" {
            s.mistake("store.url", "names no file; write sqlite:PATH, or memory:");
        }
        return StoreConfig::Sqlite { path: PathBuf::from(path) };
    }
    if !is_upstream(s, "store.url", text, &["redis", "rediss"]) {
        s.mistake("store.url", "takes sqlite:PATH, redis://HOST, rediss://HOST or memory:");
    }
    StoreConfig::Redis { url: Secret::new(text) }
}

fn broker(s: &mut Settings, store: &StoreConfig) -> BrokerConfig {
    let texts = s.list("broker.url");
    if let [text] = texts.as_slice()
        && let Some(path) = text.strip_prefix("embedded:")
    {
        let path = match (path, store) {
            ("", StoreConfig::Sqlite { path }) => {
                path.parent().unwrap_or(Path::new("")).join(BROKER_FILE)
            }
            ("", _) => PathBuf::from(BROKER_FILE),
            (path, _) => PathBuf::from(path),
        };
        return BrokerConfig::Embedded { path };
    }
    if texts.is_empty() {
        s.mistake("broker.url", "is empty");
    }
    for text in &texts {
        if !is_upstream(s, "broker.url", text, &["amqp", "amqps"]) {
            s.mistake("broker.url", "takes embedded:[PATH], or amqp://HOST and amqps://HOST");
        }
    }
    BrokerConfig::RabbitMq { urls: texts.into_iter().map(Secret::new).collect() }
}

/// Whether the text is an address of one of the schemes. It is not repeated in mistakes, since
/// it may hold a password.
fn is_upstream(s: &mut Settings, name: &str, text: &str, schemes: &[&str]) -> bool {
    let Ok(url) = Url::parse(text) else { return false };
    if url.password() == Some(REDACTED) {
        s.mistake(name, REDACTION);
    }
    schemes.contains(&url.scheme()) && url.host_str().is_some_and(|host| !host.is_empty())
}

fn public_url(s: &mut Settings) -> Option<Url> {
    let text = s.text("public_url")?;
    match Url::parse(&text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Some(url),
        _ => {
            s.mistake("public_url", format!("{text:?} is no address; write \"https://HOST\""));
            None
        }
    }
}

fn trusted_proxies(s: &mut Settings) -> Vec<AddressRange> {
    let mut ranges = Vec::new();
    for text in s.list("trusted_proxies") {
        match parse_range(&text) {
            Ok(range) => ranges.push(range),
            Err(error) => s.mistake("trusted_proxies", error),
        }
    }
    ranges
}

/// It becomes part of queue names and routing keys.
fn node_id(s: &mut Settings) -> Option<String> {
    let id = s.text("node.id")?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if id.len() > 64 || !id.bytes().all(plain) {
        s.mistake("node.id", "takes up to 64 letters, digits, - and _");
    }
    Some(id)
}

fn static_dir(s: &mut Settings) -> Option<PathBuf> {
    let dir = match s.text("static.dir") {
        Some(text) => {
            let dir = PathBuf::from(text);
            if !dir.is_dir() {
                s.mistake("static.dir", "is no directory");
            }
            return Some(dir);
        }
        None if s.dev && s.written("static.dir").is_none() => "stomp-js-demo/dist",
        None => return None,
    };
    // Next to the working directory, or in it.
    [Path::new("").join(dir), Path::new("..").join(dir)].into_iter().find(|dir| dir.is_dir())
}

fn endpoints(s: &mut Settings) -> Vec<EndpointConfig> {
    let mut endpoints: Vec<EndpointConfig> = Vec::new();
    for index in 0..s.length("endpoint") {
        let name = |key: &str| format!("endpoint[{index}].{key}");
        let path = s.text(&name("path")).unwrap_or_default();
        match path_mistake(&path, &endpoints) {
            Some(text) if !path.is_empty() || s.needs(&name("path")) => {
                s.mistake(&name("path"), text);
            }
            _ => {}
        }
        let allowed_origins = origins(s, &name("allowed_origins"));
        let auth = choice(
            s,
            &name("auth"),
            &[("connect", EndpointAuth::Connect), ("handshake", EndpointAuth::Handshake)],
        );
        let sockjs = sockjs::options(s, index, &allowed_origins);
        let loopback_origins = s.dev;
        endpoints.push(EndpointConfig { path, allowed_origins, loopback_origins, auth, sockjs });
    }
    if endpoints.is_empty() {
        endpoints.push(EndpointConfig {
            path: "/ws".into(),
            allowed_origins: Vec::new(),
            loopback_origins: s.dev,
            auth: EndpointAuth::Connect,
            sockjs: sockjs::options(s, 0, &[]),
        });
    }
    endpoints
}

fn path_mistake(path: &str, others: &[EndpointConfig]) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
    if path.is_empty() {
        Some("is missing".into())
    } else if !path.starts_with('/') || path.ends_with('/') || path.contains("//") {
        Some(format!("{path:?} does not begin with one / and end without"))
    } else if !path.bytes().all(plain) || path.split('/').any(|part| part == "." || part == "..") {
        Some(format!("{path:?} has more than letters, digits, - _ . ~ and /"))
    } else if path == "/api" || path.starts_with("/api/") {
        Some(format!("{path:?} belongs to the HTTP API"))
    } else if others.iter().any(|other| other.path == path) {
        Some(format!("{path:?} is there twice"))
    } else {
        None
    }
}

fn origins(s: &mut Settings, name: &str) -> Vec<String> {
    let mut origins = Vec::new();
    for text in s.list(name) {
        if text == "*" {
            origins.push(text);
            continue;
        }
        match Url::parse(&text) {
            Ok(url)
                if url.origin().is_tuple()
                    && matches!(url.path(), "" | "/")
                    && url.query().is_none()
                    && url.fragment().is_none()
                    && url.username().is_empty()
                    && url.password().is_none() =>
            {
                origins.push(url.origin().ascii_serialization());
            }
            _ => s.mistake(
                name,
                format!("{text:?} is no origin; write \"https://HOST[:PORT]\" or \"*\""),
            ),
        }
    }
    origins
}

fn relay(s: &mut Settings) -> RelayConfig {
    const DEV: [&str; 4] = ["amq.topic", "amq.direct", "amq.fanout", "amq.headers"];
    let allow_names = if s.dev && s.written("relay.allow_names").is_none() {
        DEV.map(str::to_owned).into()
    } else {
        s.list("relay.allow_names")
    };
    RelayConfig {
        allow_names,
        queue_type: choice(
            s,
            "relay.queue_type",
            &[("classic", QueueType::Classic), ("quorum", QueueType::Quorum)],
        ),
        queue_deleted: choice(
            s,
            "relay.queue_deleted",
            &[("redeclare", QueueDeleted::Redeclare), ("refuse", QueueDeleted::Refuse)],
        ),
        unroutable: choice(
            s,
            "relay.unroutable",
            &[("error", Unroutable::Error), ("keep", Unroutable::Keep)],
        ),
        outage: OutageConfig {
            messages: count(s, "relay.outage.messages"),
            bytes: count(s, "relay.outage.bytes"),
            time: time(s, "relay.outage.time"),
        },
    }
}

fn errors(s: &Settings) -> Errors {
    let answer = |kind: &str| {
        let answers = [("close", OnError::Close), ("message", OnError::Message)];
        choice(s, &format!("errors.{kind}"), &answers)
    };
    Errors {
        denied: answer("denied"),
        unknown_destination: answer("unknown_destination"),
        unroutable: answer("unroutable"),
        limit: answer("limit"),
        outage: answer("outage"),
        store: answer("store"),
        cancelled: answer("cancelled"),
    }
}

fn limits(s: &Settings) -> Limits {
    let count = |key: &str| count(s, &format!("limits.{key}"));
    let time = |key: &str| time(s, &format!("limits.{key}"));
    let number = |key: &str| s.number(&format!("limits.{key}"));
    let cap = |key: &str| number(key).map(as_usize);
    let frame_bytes = count("frame_bytes");
    Limits {
        frame_bytes,
        headers: count("headers"),
        header_name_bytes: count("header_name_bytes"),
        header_value_bytes: count("header_value_bytes"),
        destination_bytes: count("destination_bytes"),
        websocket_message_bytes: cap("websocket_message_bytes").unwrap_or(frame_bytes),
        fragments: count("fragments"),
        connect_time: time("connect_time"),
        frame_time: time("frame_time"),
        http_head_time: time("http_head_time"),
        http_body_time: time("http_body_time"),
        sockjs_body_bytes: count("sockjs_body_bytes"),
        sockjs_messages: count("sockjs_messages"),
        outbound_bytes: count("outbound_bytes"),
        outbound_frames: count("outbound_frames"),
        outbound_stall: time("outbound_stall"),
        subscriptions: count("subscriptions"),
        unacked: count("unacked"),
        prefetch: u16::try_from(count("prefetch")).unwrap_or(u16::MAX),
        ack_time: time("ack_time"),
        transactions: count("transactions"),
        transaction_actions: count("transaction_actions"),
        transaction_bytes: count("transaction_bytes"),
        sessions_per_user: cap("sessions_per_user"),
        sessions_per_address: cap("sessions_per_address"),
        sessions: cap("sessions").unwrap_or_else(sessions_by_files),
        auth_failures: number("auth_failures")
            .and_then(|number| u32::try_from(number).ok())
            .and_then(std::num::NonZeroU32::new),
        unread_messages: number("unread_messages").unwrap_or(0),
        unread_bytes: number("unread_bytes").unwrap_or(0),
        unread_age: time("unread_age"),
        unread_total_bytes: number("unread_total_bytes").unwrap_or(0),
        drain_time: time("drain_time"),
    }
}

/// 80 % of the files this process may open. Linux says it in a file of its own.
fn sessions_by_files() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let files = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    files.unwrap_or(1024).saturating_mul(4) / 5
}

/// The value that belongs to the chosen word; the first where none was, which was noted before.
pub(super) fn choice<T: Copy>(s: &Settings, name: &str, choices: &[(&str, T)]) -> T {
    let text = s.text(name);
    let chosen = choices.iter().find(|(word, _)| Some(*word) == text.as_deref());
    chosen.or(choices.first()).map(|(_, value)| *value).expect("a choice has words")
}

/// A number that has a default.
pub(super) fn count(s: &Settings, name: &str) -> usize {
    s.number(name).map_or(0, as_usize)
}

fn as_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

pub(super) fn time(s: &Settings, name: &str) -> Duration {
    match s.value(name) {
        Some(Value::Time(time)) => time,
        _ => Duration::ZERO,
    }
}
