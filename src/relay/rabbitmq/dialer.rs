//! Dials RabbitMQ.
//!
//! A failed connect of lapin leaks a little, and one that is dropped leaks a thread: so the port
//! is tried first, and no connect is ever dropped. Where connects have hung, AMQP's greeting is
//! waited for as well before lapin is let loose.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties, ErrorKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::connection::{Link, random};
use super::refusal::Fault;

const PREFLIGHT_TIME: Duration = Duration::from_secs(3);
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// One that takes longer is slow: the next node is tried beside it.
const HEAD_START: Duration = Duration::from_secs(2);
/// In seconds. A dead peer is noticed after twice that.
const HEARTBEAT: u16 = 10;
/// AMQP 0-9-1's protocol header, which a server answers with connection.start.
const PROTOCOL_HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";
/// To one node so many connects may hang; each holds a thread until its peer gives up.
const MAX_HANGING: usize = 8;
const SILENT: &str = "connected, but no AMQP answer came";

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
}

struct Target {
    uri: AMQPUri,
    address: String,
    hanging: Arc<AtomicUsize>,
    /// The last connect took long, or never came to an end.
    is_slow: Arc<AtomicBool>,
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
            targets.push(Target { uri, address, hanging: Arc::default(), is_slow: Arc::default() });
        }
        if targets.is_empty() {
            return Err("RabbitMQ: no URL is configured".into());
        }
        Ok(Self { targets })
    }

    /// Connects to one of the nodes. They are tried in random order, so that many relays spread
    /// over them. One that is slow holds up nobody: the next is tried beside it, and whichever is
    /// first is taken.
    pub(super) async fn dial(&self, name: &str) -> Result<Arc<Link>, DialError> {
        let mut failure = DialError { text: String::new(), kind: Failure::Unreachable };
        let mut order = shuffled(self.targets.iter().collect()).into_iter();
        let mut tries = FuturesUnordered::new();
        loop {
            match order.next() {
                Some(target) => tries.push(self.dial_one(target, name)),
                None if tries.is_empty() => return Err(failure),
                None => {}
            }
            let patience = if order.len() > 0 { HEAD_START } else { Duration::MAX };
            match tokio::time::timeout(patience, tries.next()).await {
                Ok(Some(Ok(link))) => return Ok(link),
                // What one node refuses no other will take, so that is what matters.
                Ok(Some(Err(error))) if failure.kind != Failure::Refused => failure = error,
                Ok(Some(Err(_)) | None) | Err(_) => {}
            }
        }
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
        let socket = match tokio::time::timeout(PREFLIGHT_TIME, socket).await {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) => {
                return Err(fail(Failure::Unreachable, format!("cannot connect: {error}")));
            }
            Err(_) => return Err(fail(Failure::Unreachable, "cannot connect: no answer".into())),
        };
        if target.is_slow.load(Ordering::Relaxed)
            && target.uri.scheme == AMQPScheme::AMQP
            && tokio::time::timeout(PREFLIGHT_TIME, greeting(socket)).await.is_err()
        {
            return Err(unready(SILENT));
        }
        if target.hanging.load(Ordering::Relaxed) >= MAX_HANGING {
            return Err(unready("connects still hang"));
        }
        // Beyond that time the task goes on, and its connection is closed when it comes.
        match tokio::time::timeout(CONNECT_TIME, target.connect(name)).await {
            Ok(Ok(Ok(connection))) => Ok(Link::new(connection, target.address.clone())),
            Ok(Ok(Err(error))) => {
                let (kind, reason) = explain(&error, &target.uri);
                Err(fail(kind, reason))
            }
            Ok(Err(_)) => Err(unready("the connect was ended")),
            Err(_) => Err(unready(SILENT)),
        }
    }
}

impl Target {
    /// lapin's connect, in a task of its own that is never dropped.
    fn connect(&self, name: &str) -> JoinHandle<lapin::Result<Connection>> {
        let properties = ConnectionProperties::default()
            .with_connection_name(format!("stomp-relay {name}").into_bytes().into());
        let connect = Connection::connect_uri(self.uri.clone(), properties);
        let (hanging, is_slow) = (self.hanging.clone(), self.is_slow.clone());
        hanging.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            let mut connect = std::pin::pin!(connect);
            let result = match tokio::time::timeout(HEAD_START, &mut connect).await {
                Ok(result) => {
                    is_slow.store(false, Ordering::Relaxed);
                    result
                }
                Err(_) => {
                    is_slow.store(true, Ordering::Relaxed);
                    connect.await
                }
            };
            hanging.fetch_sub(1, Ordering::Relaxed);
            result
        })
    }
}

/// Waits for the server's first byte, or for the connection's end. Whatever comes, lapin sees the
/// same; a future of ours may be dropped where nothing does.
async fn greeting(mut socket: TcpStream) {
    if socket.write_all(PROTOCOL_HEADER).await.is_ok() {
        drop(socket.read(&mut [0]).await);
    }
}

/// In random order.
fn shuffled<T>(mut items: Vec<T>) -> Vec<T> {
    for end in (1..items.len()).rev() {
        let place = usize::try_from(random(end as u64 + 1)).unwrap_or(end);
        items.swap(end, place);
    }
    items
}

/// `authority` has the password; only the user's name is told.
fn explain(error: &lapin::Error, uri: &AMQPUri) -> (Failure, String) {
    match Fault::of(error) {
        Fault::Refused(403) => {
            let user = &uri.authority.userinfo.username;
            (Failure::Refused, format!("the login of user '{user}' was refused"))
        }
        Fault::Violation if is_about_the_virtual_host(error) => {
            (Failure::Refused, format!("virtual host '{}': {error}", uri.vhost))
        }
        Fault::Refused(_) | Fault::Unavailable | Fault::Violation | Fault::Gone => {
            (Failure::Unready, error.to_string())
        }
    }
}

/// It does not exist, or is not for this user. One that only starts is another error.
fn is_about_the_virtual_host(error: &lapin::Error) -> bool {
    const NOT_ALLOWED: u16 = 530;
    matches!(error.kind(), ErrorKind::ProtocolError(amqp) if amqp.get_id() == NOT_ALLOWED)
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

    #[test]
    fn every_order_comes_up() {
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1_000 {
            seen.insert(shuffled(vec![1, 2, 3]));
        }
        assert_eq!(seen.len(), 6, "{seen:?}");
        assert!(shuffled(Vec::<u8>::new()).is_empty());
    }

    /// A process that is stopped takes connections and says nothing.
    #[tokio::test]
    async fn a_node_that_hung_before_is_asked_for_its_greeting_first() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("amqp://{}/%2f", silent.local_addr().unwrap());
        let dialer = Dialer::new(&[url]).unwrap();
        let target = &dialer.targets[0];
        target.is_slow.store(true, Ordering::Relaxed);
        let error = dialer.dial("test").await.unwrap_err();
        assert_eq!(error.kind, Failure::Unready);
        assert!(error.text.ends_with(SILENT), "{error:?}");
        // No connect was begun that nobody could end.
        assert_eq!(target.hanging.load(Ordering::Relaxed), 0);
    }
}
