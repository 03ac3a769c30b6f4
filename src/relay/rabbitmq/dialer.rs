//! Dials RabbitMQ.
//!
//! A failed connect of lapin leaks a little, and one that is dropped leaks a thread: so the port
//! is tried first, and no connect is ever dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};
use tokio::net::TcpStream;

use super::connection::{Link, random};
use super::refusal::Fault;

const PREFLIGHT_TIME: Duration = Duration::from_secs(5);
const CONNECT_TIME: Duration = Duration::from_secs(30);
/// In seconds. A dead peer is noticed after twice that.
const HEARTBEAT: u16 = 10;
/// Connects that hang may be as many; each holds a thread until its peer gives up.
const MAX_HANGING: usize = 8;

/// Why a connect failed, in one line for the operator; never with the password.
#[derive(Debug)]
pub(super) struct DialError {
    pub(super) text: String,
    pub(super) kind: Failure,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nobody there, which costs nothing to ask.
    Unreachable,
    /// Somebody there, but no AMQP: starting, or stopping.
    Unready,
    /// The login or the virtual host is refused, and will be.
    Refused,
}

impl Failure {
    /// The longest pause before the next try.
    pub(super) const fn longest_pause(self) -> Duration {
        match self {
            Self::Unreachable => Duration::from_secs(4),
            Self::Unready => Duration::from_secs(8),
            Self::Refused => Duration::from_secs(30),
        }
    }
}

/// Knows where RabbitMQ is.
#[derive(Debug)]
pub(super) struct Dialer {
    targets: Vec<Target>,
    hanging: Arc<AtomicUsize>,
}

struct Target {
    uri: AMQPUri,
    address: String,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.address)
    }
}

impl Dialer {
    /// # Errors
    /// One line, where a URL is none; it is not repeated, since it may hold a password.
    pub(super) fn new(urls: &[String]) -> Result<Self, String> {
        let mut targets = Vec::new();
        for (index, url) in urls.iter().enumerate() {
            let mut uri: AMQPUri =
                url.parse().map_err(|error| format!("RabbitMQ URL {}: {error}", index + 1))?;
            uri.query.heartbeat.get_or_insert(HEARTBEAT);
            let address = format!("{}:{}", uri.authority.host, uri.authority.port);
            targets.push(Target { uri, address });
        }
        if targets.is_empty() {
            return Err("RabbitMQ: no URL is configured".into());
        }
        Ok(Self { targets, hanging: Arc::default() })
    }

    /// Connects to one of the nodes, in random order.
    pub(super) async fn dial(&self, name: &str) -> Result<Arc<Link>, DialError> {
        let first = usize::try_from(random(self.targets.len() as u64)).unwrap_or(0);
        let (front, back) = self.targets.split_at(first);
        let mut failure = DialError { text: String::new(), kind: Failure::Unreachable };
        for target in back.iter().chain(front) {
            match self.dial_one(target, name).await {
                Ok(link) => return Ok(link),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn dial_one(&self, target: &Target, name: &str) -> Result<Arc<Link>, DialError> {
        let fail = |kind, reason: String| DialError {
            text: format!("RabbitMQ at {}: {reason}", target.address),
            kind,
        };
        let unready = |reason: &str| fail(Failure::Unready, reason.into());
        let authority = &target.uri.authority;
        let host = authority.host.trim_start_matches('[').trim_end_matches(']');
        let socket = TcpStream::connect((host, authority.port));
        match tokio::time::timeout(PREFLIGHT_TIME, socket).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                return Err(fail(Failure::Unreachable, format!("cannot connect: {error}")));
            }
            Err(_) => return Err(fail(Failure::Unreachable, "cannot connect: no answer".into())),
        }
        if self.hanging.load(Ordering::Relaxed) >= MAX_HANGING {
            return Err(unready("connects still hang"));
        }
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("stomp-relay {name}").into_bytes().into());
        let connect = Connection::connect_uri(target.uri.clone(), properties);
        let hanging = self.hanging.clone();
        hanging.fetch_add(1, Ordering::Relaxed);
        let connect = tokio::spawn(async move {
            let result = connect.await;
            hanging.fetch_sub(1, Ordering::Relaxed);
            result
        });
        // Beyond that time the task goes on, and its connection is closed when it comes.
        match tokio::time::timeout(CONNECT_TIME, connect).await {
            Ok(Ok(Ok(connection))) => Ok(Link::new(connection, target.address.clone())),
            Ok(Ok(Err(error))) => {
                let (kind, reason) = explain(&error, &target.uri);
                Err(fail(kind, reason))
            }
            Ok(Err(_)) => Err(unready("the connect was ended")),
            Err(_) => Err(unready("connected, but no AMQP answer came")),
        }
    }
}

/// `authority` has the password; only the user's name is told.
fn explain(error: &lapin::Error, uri: &AMQPUri) -> (Failure, String) {
    match Fault::of(error) {
        Fault::Refused(403) => {
            let user = &uri.authority.userinfo.username;
            (Failure::Refused, format!("the login of user '{user}' was refused"))
        }
        Fault::Violation => (Failure::Refused, format!("virtual host '{}': {error}", uri.vhost)),
        Fault::Refused(_) | Fault::Gone => (Failure::Unready, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let check = |urls: &[&str]| {
            let urls: Vec<String> = urls.iter().map(|url| (*url).to_owned()).collect();
            Dialer::new(&urls).map(|dialer| format!("{:?}", dialer.targets))
        };
        assert_eq!(check(&["amqp://u:secret@h:1/v"]).unwrap(), "[h:1]");
        assert_eq!(check(&["amqp://a", "amqps://b/%2f"]).unwrap(), "[a:5672, b:5671]");
        assert_eq!(check(&[]).unwrap_err(), "RabbitMQ: no URL is configured");
        for bad in ["http://u:secret@h", "secret", "amqp://u:secret@h:port"] {
            let error = check(&["amqp://h", bad]).unwrap_err();
            assert!(error.starts_with("RabbitMQ URL 2: "), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
