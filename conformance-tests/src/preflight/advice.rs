//! What a server did in place of CONNECTED, and what to do about it, in one line.

use std::io::ErrorKind;
use std::time::Duration;

use rustls::{CertificateError, Error as TlsError};
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::http::{HeaderMap, StatusCode};

use crate::dial::{DialError, Phase, Place};
use crate::reader::{ServerFrame, show, show_bare};
use crate::target::{Line, Target};

/// How much of what came is shown.
const SHOWN: usize = 80;
/// A TLS record that holds an alert.
const TLS_ALERT: &[u8] = &[0x15, 0x03];

/// What came of the first CONNECT.
#[derive(Debug)]
pub(super) enum Answer {
    NoConnection(DialError),
    Frame(ServerFrame),
    /// Bytes that no STOMP server begins with.
    NoStomp(Vec<u8>),
    Malformed(String),
    Closed {
        code: Option<u16>,
        reason: String,
        came: Vec<u8>,
    },
    Silence {
        came: Vec<u8>,
    },
}

impl Answer {
    /// Whether a port that speaks TLS answers like this where it is not spoken to in TLS.
    pub(super) fn may_be_tls(&self) -> bool {
        match self {
            Self::NoStomp(came) | Self::NoConnection(DialError::Upgrade { came, .. }) => {
                came.is_empty() || came.starts_with(TLS_ALERT) || asks_for_https(came)
            }
            Self::Closed { came, code: None, .. } => came.is_empty(),
            Self::NoConnection(_)
            | Self::Frame(_)
            | Self::Malformed(_)
            | Self::Closed { .. }
            | Self::Silence { .. } => false,
        }
    }
}

/// "Client sent an HTTP request to an HTTPS server", "The plain HTTP request was sent to HTTPS port".
fn asks_for_https(came: &[u8]) -> bool {
    came.starts_with(b"HTTP/1.") && came.windows(5).any(|word| word == b"HTTPS")
}

pub(super) struct Advice<'a> {
    pub(super) target: &'a Target,
    pub(super) limit: Duration,
}

impl Advice<'_> {
    pub(super) fn of(&self, answer: &Answer) -> String {
        match answer {
            Answer::NoConnection(error) => self.no_connection(error),
            Answer::Frame(frame) if frame.command == b"ERROR" => self.refused(frame),
            Answer::Frame(frame) if frame.command == b"CONNECT" => {
                "it sends back what it is sent, so it is an echo server and no STOMP server".into()
            }
            Answer::Frame(frame) => format!(
                "it answers CONNECT by {} and not by CONNECTED, so it is no STOMP server",
                show(&frame.command)
            ),
            Answer::NoStomp(came) => self.no_stomp(came),
            Answer::Malformed(text) => format!("it answers CONNECT by what is no frame: {text}"),
            Answer::Closed { code, reason, came } => self.closed(*code, reason, came),
            Answer::Silence { came } if came.is_empty() => format!(
                "it takes the connection and says nothing to CONNECT within {:?}; \
                 is it a STOMP server, and is it well? --timeout gives it more time",
                self.limit
            ),
            Answer::Silence { came } => format!(
                "no whole frame answers CONNECT within {:?}, only {}",
                self.limit,
                shown(came)
            ),
        }
    }

    pub(super) fn tls_port(&self) -> String {
        let scheme = match self.target.line() {
            Line::Tcp => "tls://",
            Line::WebSocket => "wss://",
            Line::SockJs => "https://",
        };
        format!("this port speaks TLS; use {scheme}")
    }

    fn place(&self) -> &str {
        match &self.target.endpoint.place {
            Place::Network(authority) => authority,
            Place::Memory(_) => "this process",
        }
    }

    fn plain_scheme(&self) -> &'static str {
        match self.target.line() {
            Line::Tcp => "tcp://",
            Line::WebSocket => "ws://",
            Line::SockJs => "http://",
        }
    }

    fn no_connection(&self, error: &DialError) -> String {
        let limit = self.limit;
        match error {
            DialError::Lookup(error) => {
                format!("there is no such host ({}); check its name", one_line(&error.to_string()))
            }
            DialError::Connect(error) if error.kind() == ErrorKind::ConnectionRefused => {
                format!("nothing listens at {}; start the server, or check the port", self.place())
            }
            DialError::Connect(error) => format!(
                "no connection to {} ({}); check host, port and firewall",
                self.place(),
                one_line(&error.to_string())
            ),
            DialError::Tls(error) => self.tls(error),
            DialError::Upgrade { error, came } => self.upgrade(error, came),
            DialError::Slow { phase: Phase::Lookup, .. } => {
                format!("looking up the host took longer than {limit:?}; check its name")
            }
            DialError::Slow { phase: Phase::Connect, .. } => format!(
                "{} does not answer within {limit:?}; check host, port and firewall",
                self.place()
            ),
            DialError::Slow { phase: Phase::Tls, .. } => format!(
                "no answer to the TLS handshake within {limit:?}; where the port is plain, use {}",
                self.plain_scheme()
            ),
            DialError::Slow { phase: Phase::Upgrade, .. } => format!(
                "no answer to the request for a WebSocket within {limit:?}; \
                 where the port is plain STOMP, use tcp://"
            ),
        }
    }

    fn tls(&self, error: &std::io::Error) -> String {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
        let plain = self.plain_scheme();
        match inner {
            Some(TlsError::InvalidCertificate(wrong)) => self.certificate(wrong),
            Some(TlsError::InvalidMessage(_)) => {
                format!("what answers there is not TLS; use {plain}")
            }
            Some(TlsError::AlertReceived(alert)) => format!(
                "it refuses the TLS handshake ({alert:?}); \
                 a server that asks for a client certificate cannot be played to"
            ),
            Some(other) => format!("the TLS handshake fails: {}", one_line(&other.to_string())),
            None => format!(
                "it closes the connection in the TLS handshake ({}); \
                 where the port is plain, use {plain}",
                one_line(&error.to_string())
            ),
        }
    }

    fn certificate(&self, wrong: &CertificateError) -> String {
        let or_not = "or look away by --insecure";
        match wrong {
            CertificateError::UnknownIssuer => format!(
                "its certificate is signed by nobody trusted here; \
                 give its root certificate by --ca FILE, {or_not}"
            ),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                format!("its certificate has expired; renew it, {or_not}")
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                format!("its certificate is not valid yet; check the clocks, {or_not}")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                let host = self.place().rsplit_once(':').map_or("", |(host, _)| host);
                let mut names = String::new();
                if let CertificateError::NotValidForNameContext { presented, .. } = wrong {
                    names = format!(" but for {}", one_line(&presented.join(", ")));
                }
                format!("its certificate is not for {host}{names}; use that name, {or_not}")
            }
            other => {
                format!(
                    "its certificate is refused ({}); mend it, {or_not}",
                    one_line(&other.to_string())
                )
            }
        }
    }

    fn upgrade(&self, error: &WsError, came: &[u8]) -> String {
        match error {
            WsError::Http(response) => self.status(response.status(), response.headers()),
            _ if came.starts_with(TLS_ALERT) => self.tls_port(),
            _ if came.starts_with(b"ERROR\n") || came.starts_with(b"ERROR\r\n") => {
                "a plain STOMP server answers there; use tcp://".into()
            }
            _ if let Some(status) = old_status(came) => self.status(status, &HeaderMap::new()),
            _ if came.starts_with(b"HTTP/") => format!(
                "its answer to the request for a WebSocket is none ({})",
                one_line(&error.to_string())
            ),
            _ if came.is_empty() => "it closes the connection on the request for a WebSocket; \
                                     where the port is plain STOMP, use tcp://"
                .into(),
            _ => format!("no web server answers there but {}; check the port", kind_of(came)),
        }
    }

    fn status(&self, status: StatusCode, headers: &HeaderMap) -> String {
        let path = self.target.path();
        let is_sockjs = self.target.line() == Line::SockJs;
        let advice = match status.as_u16() {
            400 | 404 if is_sockjs => format!(
                "there is no SockJS at {path}, or it is without WebSocket; check the path, which is \
                 the one pages give to `new SockJS`"
            ),
            200 => format!(
                "{path} is a page, or an interceptor refused the handshake; \
                 check the path, and log in by --header"
            ),
            301 | 302 | 303 | 307 | 308 => {
                let to = headers.get("location").and_then(|value| value.to_str().ok());
                format!("the way leads to {}; use that URL", show(to.unwrap_or("").as_bytes()))
            }
            400 => format!(
                "it takes no WebSocket at {path}; check the path, \
                 of a SockJS endpoint it is {}/websocket",
                path.trim_end_matches('/')
            ),
            401 => "it wants a login before the WebSocket; give it by \
                    --header 'Authorization: ...' or --header 'Cookie: ...'"
                .into(),
            403 => "it refuses this client; give its cookie or token by --header, \
                    or an origin it allows by --header 'Origin: ...'"
                .into(),
            404 => format!("there is no WebSocket at {path}; check the path"),
            426 => "it wants another WebSocket version or subprotocol; name one by \
                    --header 'Sec-WebSocket-Protocol: v12.stomp'"
                .into(),
            500..=599 => "the server, or a proxy before it, is not well".into(),
            _ => "check the URL".into(),
        };
        format!("HTTP {} in place of a WebSocket: {advice}", status.as_u16())
    }

    fn refused(&self, frame: &ServerFrame) -> String {
        let message = frame.header(b"message").unwrap_or_default();
        let body = frame.body.split(|byte| matches!(byte, b'\n' | b'\r')).next();
        let body = body.filter(|line| !line.is_empty() && *line != message);
        let body = body.map(|line| format!(" ({})", shown(line))).unwrap_or_default();
        let advice = self.check_account();
        format!("it refuses CONNECT: {}{body}; {advice}", shown(message))
    }

    fn check_account(&self) -> &'static str {
        if self.target.account.login.is_empty() {
            "none was sent: give --login and --passcode"
        } else {
            "check --login and --passcode, and --host where it has virtual hosts"
        }
    }

    fn closed(&self, code: Option<u16>, reason: &str, came: &[u8]) -> String {
        let with = match code {
            None => String::new(),
            Some(code) if reason.is_empty() => format!(" with {code}"),
            Some(code) => format!(" with {code} {}", shown(reason.as_bytes())),
        };
        let what = if came.is_empty() {
            "without an answer".to_owned()
        } else {
            format!("within a frame, after {}", shown(came))
        };
        format!("it closes the connection on CONNECT{with}, {what}; {}", self.check_account())
    }

    fn no_stomp(&self, came: &[u8]) -> String {
        match came {
            [b'H', b'T', b'T', b'P', b'/', ..] if self.target.line() == Line::Tcp => {
                let scheme = if self.target.endpoint.tls.is_some() { "wss" } else { "ws" };
                format!(
                    "a web server answers there; where its STOMP is WebSocket, \
                     use {scheme}://{}/PATH",
                    self.place()
                )
            }
            _ if came.starts_with(TLS_ALERT) => self.tls_port(),
            _ => format!("no STOMP server answers there but {}; check the port", kind_of(came)),
        }
    }
}

/// Of an answer in HTTP/1.0, which no WebSocket follows whatever the status is.
fn old_status(came: &[u8]) -> Option<StatusCode> {
    let status = came.strip_prefix(b"HTTP/1.0 ")?.get(..3)?;
    StatusCode::from_bytes(status).ok()
}

/// What is known by how it begins.
fn kind_of(came: &[u8]) -> String {
    let name = [
        (&b"SSH-"[..], "SSH"),
        (b"AMQP", "AMQP"),
        (b"HTTP/", "HTTP"),
        (b"220 ", "SMTP or FTP"),
        (b"<!DOCTYPE", "HTML"),
    ]
    .into_iter()
    .find(|(start, _)| came.starts_with(start))
    .map(|(_, name)| format!("{name}: "));
    format!("{}{}", name.unwrap_or_default(), shown(came))
}

fn shown(bytes: &[u8]) -> String {
    match bytes.get(..SHOWN) {
        Some(start) if bytes.len() > SHOWN => format!("{}...", show(start)),
        _ => show(bytes),
    }
}

/// A library's text may have several lines, and a peer's words in them.
fn one_line(text: &str) -> String {
    show_bare(text.as_bytes()).replace("\\n", " ").replace("\\\"", "\"")
}
