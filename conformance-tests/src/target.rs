//! The server under test: its address, an account of it, and how to speak to it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::ServerName;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue, Uri};

use crate::dial::{Endpoint, Place, Stream};
use crate::profile::Profile;
use crate::template::Values;
use crate::tls::Tls;
use crate::transcript::{Case, Transport, Version};

/// For the handshake with a server in this process.
const MEMORY_URL: &str = "ws://in-process/ws";
/// Headers that make the request one for a WebSocket.
const HANDSHAKE: [&str; 4] =
    ["connection", "upgrade", "sec-websocket-key", "sec-websocket-version"];

/// The server under test, and an account of it.
#[derive(Clone)]
pub struct Target {
    pub(crate) endpoint: Endpoint,
    pub(crate) account: Account,
    pub(crate) profile: Profile,
    line: Line,
    host: String,
    /// What `${queue}` and `${topic}` begin with.
    queues: String,
    topics: String,
}

/// What is under the STOMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Tcp,
    WebSocket,
    SockJs,
}

impl Line {
    const fn of(transport: Transport) -> Self {
        match transport {
            Transport::Tcp => Self::Tcp,
            Transport::WsText | Transport::WsBinary => Self::WebSocket,
            Transport::SockJs => Self::SockJs,
        }
    }
}

/// Who logs in.
#[derive(Clone)]
pub(crate) struct Account {
    /// Empty: CONNECT has neither login nor passcode.
    pub(crate) login: String,
    pub(crate) passcode: String,
    /// Further headers of CONNECT.
    pub(crate) headers: Vec<(String, String)>,
}

impl Account {
    /// The lines of CONNECT that log in.
    pub(crate) fn put(&self, bytes: &mut Vec<u8>) {
        if !self.login.is_empty() {
            let lines = format!("login:{}\npasscode:{}\n", self.login, self.passcode);
            bytes.extend_from_slice(lines.as_bytes());
        }
        bytes.extend_from_slice(&self.lines());
    }

    /// The further headers, each with its end of line.
    pub(crate) fn lines(&self) -> Vec<u8> {
        let lines = self.headers.iter().map(|(name, value)| format!("{name}:{value}\n"));
        lines.collect::<String>().into_bytes()
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("url", &self.shown_url()).finish_non_exhaustive()
    }
}

/// Why there can be no such target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetError(String);

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TargetError {}

impl Target {
    /// A server at `tcp://`, `tls://`, `ws://` or `wss://`, or a SockJS endpoint at `http://` or
    /// `https://`, where `login` may use any
    /// `/queue/conf-*` and `/topic/conf-*`, wildcards included. Without a login, none is sent.
    /// The roots of the system are trusted.
    ///
    /// # Errors
    /// Where the URL is another one, or login or passcode would not fit in a header.
    pub fn new(
        url: &str,
        login: &str,
        passcode: &str,
        profile: Profile,
    ) -> Result<Self, TargetError> {
        let shown = without_secrets(url);
        let refused = |why: &str| Err(TargetError(format!("{shown}: {why}")));
        let Ok(uri) = url.parse::<Uri>() else { return refused("this is no URL") };
        let (line, tls, default_port) = match uri.scheme_str() {
            Some("tcp") => (Line::Tcp, false, 61613),
            Some("tls") => (Line::Tcp, true, 61614),
            Some("ws") => (Line::WebSocket, false, 80),
            Some("wss") => (Line::WebSocket, true, 443),
            Some("http") => (Line::SockJs, false, 80),
            Some("https") => (Line::SockJs, true, 443),
            _ => {
                return refused(
                    "the URL must begin with tcp://, tls://, ws://, wss://, or for SockJS with \
                     http:// or https://",
                );
            }
        };
        let Some(host) = uri.host().filter(|host| !host.is_empty()) else {
            return refused("the URL has no host");
        };
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return refused("the account belongs in --login and --passcode");
        }
        if line == Line::Tcp && !matches!(uri.path(), "" | "/") {
            return refused("a path is for ws:// and wss://");
        }
        if [login, passcode].iter().any(|text| text.contains(['\n', '\r', '\0'])) {
            return Err(TargetError("login and passcode cannot have line ends or NUL".into()));
        }
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
        let tls = match (tls, name) {
            (false, _) => None,
            (true, Ok(name)) => Some((Tls::system(), name)),
            (true, Err(_)) => return refused("a certificate cannot be for this host's name"),
        };
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(default_port));
        let place = Place::Network(authority);
        let endpoint = Endpoint { place, tls, url: url.to_owned(), headers: Vec::new() };
        Ok(Self::at(endpoint, line, login, passcode, profile))
    }

    /// A server in this process: `open` makes a connection to it. The cases for TCP are played.
    /// All waiting is by tokio's clock, so that a test may pause it.
    pub fn in_process<S: Stream + 'static>(
        open: impl Fn() -> S + Send + Sync + 'static,
        login: &str,
        passcode: &str,
        profile: Profile,
    ) -> Self {
        let place = Place::Memory(Arc::new(move || Box::new(open())));
        let endpoint = Endpoint { place, tls: None, url: MEMORY_URL.into(), headers: Vec::new() };
        Self::at(endpoint, Line::Tcp, login, passcode, profile)
    }

    fn at(endpoint: Endpoint, line: Line, login: &str, passcode: &str, profile: Profile) -> Self {
        let (login, passcode) = (login.to_owned(), passcode.to_owned());
        Self {
            endpoint,
            account: Account { login, passcode, headers: Vec::new() },
            profile,
            line,
            host: "/".into(),
            queues: "/queue/".into(),
            topics: "/topic/".into(),
        }
    }

    /// The same server, its connections taken for WebSocket.
    #[must_use]
    pub fn over_web_socket(self) -> Self {
        Self { line: Line::WebSocket, ..self }
    }

    /// Judges the certificate of `tls://` and `wss://` in another way.
    #[must_use]
    pub fn trusting(mut self, tls: &Tls) -> Self {
        if let Some((own, _)) = &mut self.endpoint.tls {
            *own = tls.clone();
        }
        self
    }

    /// A further header of the request for a WebSocket.
    ///
    /// # Errors
    /// On TCP, where the text is no header, and where it is one that makes the WebSocket.
    pub fn with_header(mut self, name: &str, value: &str) -> Result<Self, TargetError> {
        if self.line == Line::Tcp {
            return Err(TargetError(
                "--header is for the HTTP request of ws://, wss:// and SockJS; \
                 a header of CONNECT is given by --connect-header"
                    .into(),
            ));
        }
        let parsed = (name.parse::<HeaderName>(), HeaderValue::from_str(value));
        let (Ok(name), Ok(value)) = parsed else {
            return Err(TargetError(format!("`{name}` with this value is no HTTP header")));
        };
        if HANDSHAKE.contains(&name.as_str()) {
            return Err(TargetError(format!("`{name}` is the handshake's own header")));
        }
        self.endpoint.headers.push((name, value));
        Ok(self)
    }

    /// A further header of every CONNECT that logs in with the account.
    ///
    /// # Errors
    /// Where the text is no header of CONNECT, which has no escapes.
    pub fn with_connect_header(mut self, name: &str, value: &str) -> Result<Self, TargetError> {
        let ends = ['\n', '\r', '\0'];
        if name.is_empty() || name.contains(':') || name.contains(ends) || value.contains(ends) {
            return Err(TargetError(format!("`{name}` with this value is no header of CONNECT")));
        }
        self.account.headers.push((name.to_owned(), value.to_owned()));
        Ok(self)
    }

    /// CONNECT's `host`: `/` where nothing is said.
    ///
    /// # Errors
    /// Where it would not fit in a header.
    pub fn with_host(self, host: &str) -> Result<Self, TargetError> {
        if host.contains(['\n', '\r', '\0']) {
            return Err(TargetError("the host cannot have line ends or NUL".into()));
        }
        Ok(Self { host: host.to_owned(), ..self })
    }

    /// What the names of queues and topics begin with.
    ///
    /// # Errors
    /// Where a prefix would not fit in a header.
    pub fn with_prefixes(self, queues: &str, topics: &str) -> Result<Self, TargetError> {
        if [queues, topics].iter().any(|text| text.contains(['\n', '\r', '\0'])) {
            return Err(TargetError("a prefix cannot have line ends or NUL".into()));
        }
        Ok(Self { queues: queues.to_owned(), topics: topics.to_owned(), ..self })
    }

    /// The URL as it may be shown: without its query.
    #[must_use]
    pub fn shown_url(&self) -> String {
        match &self.endpoint.place {
            Place::Network(_) => without_secrets(&self.endpoint.url),
            Place::Memory(_) => "in this process".into(),
        }
    }

    /// The kind of server.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The path of the URL.
    pub(crate) fn path(&self) -> String {
        let uri = self.endpoint.url.parse::<Uri>();
        uri.map(|uri| uri.path().to_owned()).unwrap_or_default()
    }

    pub(crate) fn line(&self) -> Line {
        self.line
    }

    /// What is dialled: of SockJS a session of its own each time.
    pub(crate) fn dialled(&self) -> Transport {
        match self.line {
            Line::Tcp => Transport::Tcp,
            Line::WebSocket => Transport::WsText,
            Line::SockJs => Transport::SockJs,
        }
    }

    pub(crate) fn plays(&self, case: &Case, transport: Transport) -> bool {
        let plugin = self.profile.rabbitmq || !case.tags.iter().any(|tag| tag == "rabbitmq");
        let fits = transport != Transport::SockJs || case.is_text();
        plugin && fits && self.line == Line::of(transport)
    }

    /// Fresh names, so that cases, runs and machines never meet in one queue.
    pub(crate) fn values(&self, version: Version) -> Values {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unique = format!("conf-{:x}-{:x}-{count}", since.as_micros(), std::process::id());
        let pairs = [
            ("version", version.name().to_owned()),
            ("login", self.account.login.clone()),
            ("passcode", self.account.passcode.clone()),
            ("host", self.host.clone()),
            ("queue", format!("{}{unique}", in_header(&self.queues, version))),
            ("topic", format!("{}{unique}", in_header(&self.topics, version))),
            ("unique", unique),
        ];
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value.into_bytes())).collect()
    }
}

/// As it stands in a header (1.2, "Value Encoding").
fn in_header(text: &str, version: Version) -> String {
    match version {
        Version::V10 => text.to_owned(),
        Version::V11 | Version::V12 => text.replace('\\', "\\\\").replace(':', "\\c"),
    }
}

/// A URL without account and query, which may hold a password or a token.
fn without_secrets(url: &str) -> String {
    let (base, query) = url.split_once('?').map_or((url, ""), |(base, _)| (base, "?***"));
    let (scheme, rest) = base.split_once("://").unwrap_or(("", base));
    let end = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if scheme.is_empty() { host.to_owned() } else { format!("{scheme}://{host}{path}{query}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(url: &str) -> Result<Target, TargetError> {
        Target::new(url, "u", "p", Profile::spec())
    }

    fn authority(target: &Target) -> &str {
        match &target.endpoint.place {
            Place::Network(authority) => authority,
            Place::Memory(_) => "",
        }
    }

    #[test]
    fn urls() {
        let cases = [
            ("tcp://127.0.0.1:1", "127.0.0.1:1", Line::Tcp, false),
            ("tcp://a", "a:61613", Line::Tcp, false),
            ("tls://a/", "a:61614", Line::Tcp, true),
            ("ws://[::1]:8080/ws", "[::1]:8080", Line::WebSocket, false),
            ("ws://a", "a:80", Line::WebSocket, false),
            ("wss://a/b?c=d", "a:443", Line::WebSocket, true),
            ("wss://[::1]/", "[::1]:443", Line::WebSocket, true),
            ("http://a/ws", "a:80", Line::SockJs, false),
            ("https://a:1/ws/", "a:1", Line::SockJs, true),
        ];
        for (url, expected, line, tls) in cases {
            let target = new(url).unwrap();
            let found = (authority(&target), target.line, target.endpoint.tls.is_some());
            assert_eq!(found, (expected, line, tls), "{url}");
        }
    }

    #[test]
    fn what_is_no_target() {
        let cases = [
            ("", "no URL"),
            ("a", "must begin with tcp://"),
            ("a:1", "must begin with tcp://"),
            ("ftp://a", "must begin with tcp://"),
            ("tcp://a/path", "a path is for ws://"),
            ("ws://joe:s3cret@a/ws", "the account belongs in --login"),
            ("tls://a_b..c:1", "a certificate cannot be for this host"),
        ];
        for (url, expected) in cases {
            let error = new(url).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("s3cret"), "{url}: {error}");
        }
        assert!(Target::new("tcp://a:1", "u\n", "p", Profile::spec()).is_err());
    }

    #[test]
    fn urls_are_shown_without_secrets() {
        for (url, shown) in [
            ("tcp://a:1", "tcp://a:1"),
            ("ws://a/ws?token=x", "ws://a/ws?***"),
            ("ws://u:p@w@a:1/ws", "ws://a:1/ws"),
            ("u:p@a", "a"),
        ] {
            assert_eq!(without_secrets(url), shown);
        }
        assert!(!format!("{:?}", new("ws://a/?token=x").unwrap()).contains("token"));
    }

    #[test]
    fn headers() {
        let web = || new("ws://a/").unwrap();
        assert!(web().with_header("Cookie", "a=b").is_ok());
        for (name, value, expected) in [
            ("a b", "c", "`a b` with this value is no HTTP header"),
            ("a", "b\nc", "`a` with this value is no HTTP header"),
            ("Upgrade", "h2c", "`upgrade` is the handshake's own header"),
        ] {
            assert_eq!(web().with_header(name, value).unwrap_err().to_string(), expected);
        }
        let on_tcp = new("tcp://a").unwrap().with_header("Cookie", "a=b").unwrap_err();
        assert!(on_tcp.to_string().contains("--connect-header"), "{on_tcp}");
        assert!(web().with_connect_header("x", "a:b").is_ok());
        for (name, value) in [("", "a"), ("a:b", "c"), ("a", "b\nc"), ("a", "b\0")] {
            assert!(web().with_connect_header(name, value).is_err(), "{name} {value}");
        }
    }

    #[test]
    fn given_values_are_those_the_parser_knows() {
        let values = new("tcp://a:1").unwrap().values(Version::V12);
        let mut given = crate::transcript::GIVEN.to_vec();
        given.sort_unstable();
        assert_eq!(values.keys().collect::<Vec<_>>(), given);
    }

    #[test]
    fn prefixes_stand_escaped_in_headers() {
        let target = new("tcp://a:1").unwrap().with_prefixes("queue://", "t.").unwrap();
        for (version, expected) in
            [(Version::V10, "queue://conf-"), (Version::V12, "queue\\c//conf-")]
        {
            let values = target.values(version);
            let queue = String::from_utf8(values["queue"].clone()).unwrap();
            assert!(queue.starts_with(expected), "{queue}");
            assert!(values["topic"].starts_with(b"t.conf-"));
        }
        assert!(new("tcp://a:1").unwrap().with_prefixes("a\n", "b").is_err());
    }

    #[test]
    fn cases_of_rabbitmq_are_played_by_its_profiles() {
        let text = "# t\n@id a\n@level field\n@section s\n@why w\n@tags x rabbitmq\n@connect\n";
        let cases = crate::parse("f", text).unwrap();
        for (profile, expected) in
            [("spec", false), ("spring", false), ("rabbitmq", true), ("stomp-relay", true)]
        {
            let profile = Profile::named(profile).unwrap();
            let target = Target::new("tcp://a:1", "u", "p", profile).unwrap();
            assert_eq!(target.plays(&cases[0], Transport::Tcp), expected, "{target:?}");
            assert!(!target.plays(&cases[0], Transport::WsText));
        }
    }
}
