//! The server under test, in this process.

use std::net::SocketAddr;
use std::panic;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use stomp_relay::cli::Serve;
use stomp_relay::config::Config;
use stomp_relay::server::Server;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::PATIENCE;
use crate::client::{Client, Via};
use crate::http::{Answer, Http, Request, get};
use crate::services;

/// Threads of the servers, by which their panics are told from those of a test.
const THREADS: &str = "server";
const POLL: Duration = Duration::from_millis(10);

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// A server with memory for everything, `--dev` accounts, and all transports at `/ws`, or with
/// the echo services.
pub(crate) struct Relay {
    server: Option<Server>,
    kind: Kind,
    pub(crate) http: SocketAddr,
    admin: SocketAddr,
    _folder: TempDir,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Stomp,
    Echo,
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if std::thread::current().name() == Some(THREADS) {
                PANICS.fetch_add(1, Ordering::SeqCst);
            }
            usual(info);
        }));
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(2).thread_name(THREADS).enable_all().build().unwrap()
    })
}

impl Relay {
    /// STOMP, with more lines for the endpoint and, before it, for the rest of the config.
    pub(crate) fn stomp(endpoint: &str, rest: &str) -> Self {
        let transports = r#"["websocket", "xhr", "xhr_streaming", "eventsource", "htmlfile",
            "jsonp", "iframe"]"#;
        let transports = if endpoint.contains("transports") {
            String::new()
        } else {
            format!("transports = {transports}\n")
        };
        let toml = format!("{rest}\n[[endpoint]]\npath = \"/ws\"\n{transports}{endpoint}\n");
        Self::start(Kind::Stomp, &toml, |_| {})
    }

    /// The services of the example, with all that `change` makes of them.
    pub(crate) fn echo_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start(Kind::Echo, "", change)
    }

    pub(crate) fn echo() -> Self {
        Self::echo_with(|_| {})
    }

    fn start(kind: Kind, toml: &str, change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("relay.toml");
        std::fs::write(&file, toml).unwrap();
        let serve = Serve {
            dev: true,
            config: Some(file),
            listen: Some("127.0.0.1:0".into()),
            admin_listen: Some("127.0.0.1:0".into()),
            broker: Some("embedded::memory:".into()),
            store: Some("memory:".into()),
            ..Serve::default()
        };
        let mut config = Config::load(&serve, std::iter::empty()).unwrap();
        config.node_id = Some("test".into());
        config.static_dir = None;
        if kind == Kind::Echo {
            config.endpoints = services::endpoints(&config);
        }
        change(&mut config);
        let server = runtime().block_on(async {
            match kind {
                Kind::Stomp => Server::start(config).await,
                Kind::Echo => Server::start_with(config, services::service).await,
            }
        });
        let server = server.unwrap();
        let addresses = server.addresses();
        Self {
            server: Some(server),
            kind,
            http: addresses.http,
            admin: addresses.admin,
            _folder: folder,
        }
    }

    pub(crate) fn connect(&self) -> Http {
        Http::to(self.http)
    }

    /// The answer on a connection of its own.
    pub(crate) fn ask(&self, request: &Request) -> Answer {
        self.connect().answer(request)
    }

    /// What follows a name in `/metrics`.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let answer = Http::to(self.admin).answer(&get("/metrics").with("Connection", "close"));
        let text = answer.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
    }

    pub(crate) fn sessions(&self) -> u64 {
        self.metric("stomp_relay_sessions")
    }

    /// Waits until so many sessions are open.
    pub(crate) fn has_sessions(&self, wanted: u64) {
        wait_for(|| {
            let sessions = self.sessions();
            (sessions == wanted).then_some(()).ok_or(format!("{sessions} sessions, not {wanted}"))
        });
    }

    /// Nothing has panicked, a session works, and none is left.
    pub(crate) fn is_well(&self) {
        match self.kind {
            Kind::Stomp => {
                let mut canary = Client::open(self, "/ws", Via::XhrStreaming);
                canary.connect();
                canary.send(&["DISCONNECT\nreceipt:bye\n\n\0"]);
                assert_eq!(canary.frame(), "RECEIPT\nreceipt-id:bye\n\n");
                assert_eq!(canary.closed().0, 1000);
                self.has_sessions(0);
            }
            Kind::Echo => {
                let mut canary = Client::open(self, "/echo", Via::Xhr);
                canary.send(&["canary"]);
                assert_eq!(canary.messages(), ["canary"]);
            }
        }
        assert_eq!(PANICS.load(Ordering::SeqCst), 0, "the server panicked");
    }

    /// Ends it as a signal does, elsewhere: the answer comes once it has ended.
    pub(crate) fn stop(mut self) -> impl FnOnce() {
        let server = self.server.take().unwrap();
        let stopping = runtime().spawn(server.stop());
        move || runtime().block_on(stopping).unwrap()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _guard = runtime().enter();
        drop(self.server.take());
    }
}

/// Asks until the answer is good.
pub(crate) fn wait_for<T>(mut question: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        match question() {
            Ok(answer) => return answer,
            Err(text) => assert!(Instant::now() < end, "{text}"),
        }
        runtime().block_on(async { tokio::time::sleep(POLL).await });
    }
}
