//! The built relay as a process of its own, on free loopback ports and with its data in a folder
//! of its own. It runs with `--dev`: accounts alice, bob and carol, everything allowed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in tests a panic is how to fail")]
#![allow(clippy::print_stdout, reason = "the test's output is where its relay's log is shown")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tempfile::TempDir;

use crate::PATIENCE;

const POLL: Duration = Duration::from_millis(20);

/// A running relay. It is killed when this is dropped, and its log is shown where a test fails.
#[derive(Debug)]
pub struct Relay {
    folder: TempDir,
    setup: Setup,
    child: Child,
    addresses: Addresses,
    runs: usize,
}

/// What a relay is started with. The default: an embedded broker and SQLite.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    broker: Option<String>,
    store: Option<String>,
    config: String,
    log_level: Option<String>,
    workers: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Addresses {
    http: SocketAddr,
    admin: SocketAddr,
    tcp: SocketAddr,
}

/// An answer of the relay's HTTP doors.
#[derive(Debug)]
pub struct HttpAnswer {
    pub status: u16,
    pub body: String,
}

impl Setup {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `--broker`.
    #[must_use]
    pub fn broker(mut self, url: &str) -> Self {
        self.broker = Some(url.to_owned());
        self
    }

    /// `--store`.
    #[must_use]
    pub fn store(mut self, url: &str) -> Self {
        self.store = Some(url.to_owned());
        self
    }

    /// Lines of the config file (TOML).
    #[must_use]
    pub fn config(mut self, toml: &str) -> Self {
        self.config.push_str(toml);
        self.config.push('\n');
        self
    }

    /// `STOMP_RELAY_LOG`.
    #[must_use]
    pub fn log_level(mut self, level: &str) -> Self {
        self.log_level = Some(level.to_owned());
        self
    }

    /// `TOKIO_WORKER_THREADS`: so many threads instead of one for each core.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// Starts the relay and waits until it is ready.
    ///
    /// # Panics
    /// Where it does not come up; its log is in the text.
    #[must_use]
    pub fn start(self) -> Relay {
        let folder = TempDir::with_prefix("stomp-relay-").unwrap();
        fs::write(folder.path().join("relay.toml"), &self.config).unwrap();
        let (child, addresses) = launch(folder.path(), &self, 1);
        Relay { folder, setup: self, child, addresses, runs: 1 }
    }
}

impl Relay {
    /// WebSocket, and the API.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        self.addresses.http
    }

    #[must_use]
    pub fn tcp_address(&self) -> SocketAddr {
        self.addresses.tcp
    }

    /// The process, to look at its memory.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it has logged since it was started last.
    #[must_use]
    pub fn log(&self) -> String {
        log(self.folder.path(), self.runs)
    }

    /// As with kill -9.
    ///
    /// # Panics
    /// Where it had ended before.
    pub fn kill(&mut self) {
        assert_eq!(self.child.try_wait().unwrap(), None, "the relay had ended before");
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again with the data it had, on other ports.
    ///
    /// # Panics
    /// Where it does not come up.
    pub fn restart(&mut self) {
        self.runs += 1;
        (self.child, self.addresses) = launch(self.folder.path(), &self.setup, self.runs);
    }

    /// Sends a signal: `-TERM`, `-INT`, `-STOP`, `-CONT`.
    ///
    /// # Panics
    /// Where it had ended before.
    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// Where it has not after `time`.
    pub async fn ended(&mut self, time: Duration) -> ExitStatus {
        let end = Instant::now() + time;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "the relay has not ended after {time:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Whether it says that it is ready, RabbitMQ and store included.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        is_ready(self.addresses.admin)
    }

    /// Its answer to `/readyz`.
    ///
    /// # Panics
    /// Where none comes.
    #[must_use]
    pub fn readyz(&self) -> HttpAnswer {
        request(self.addresses.admin, "GET", "/readyz", None, None).unwrap()
    }

    /// Waits until it says that it is ready, RabbitMQ and store included.
    ///
    /// # Panics
    /// Where that takes too long.
    pub async fn ready(&self) {
        let end = Instant::now() + PATIENCE;
        while !is_ready(self.addresses.admin) {
            assert!(Instant::now() < end, "the relay is not ready again");
            tokio::time::sleep(POLL).await;
        }
    }

    /// An answer of the admin port.
    ///
    /// # Panics
    /// Where none comes.
    #[must_use]
    pub fn admin(&self, path: &str) -> HttpAnswer {
        request(self.addresses.admin, "GET", path, None, None).unwrap()
    }

    /// A counter or gauge of `/metrics`; with its labels, where it has some.
    ///
    /// # Panics
    /// Where there is none of that name.
    #[must_use]
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.admin("/metrics").body;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no metric {name} in\n{text}")).trim().parse().unwrap()
    }

    /// Waits until a metric has the value.
    ///
    /// # Panics
    /// Where that takes too long.
    pub async fn metric_is(&self, name: &str, value: f64) {
        let end = Instant::now() + PATIENCE;
        loop {
            let now = self.metric(name);
            if (now - value).abs() < 0.5 {
                return;
            }
            assert!(Instant::now() < end, "{name} is {now}, not {value}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// A call of the API with the user's password.
    ///
    /// # Panics
    /// Where no answer comes.
    #[must_use]
    pub fn api(&self, method: &str, path: &str, user: &str, body: Option<&str>) -> HttpAnswer {
        request(self.addresses.http, method, path, Some(user), body).unwrap()
    }

    /// `GET /api/unread` of the user: the one page that has everything.
    ///
    /// # Panics
    /// Where the answer is another, or has more pages.
    #[must_use]
    pub fn unread(&self, user: &str) -> Vec<Value> {
        let answer = self.api("GET", "/api/unread?limit=500", user, None);
        assert_eq!(answer.status, 200, "{}", answer.body);
        let page: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!((&page["left"], &page["truncated"]), (&0.into(), &0.into()), "{page}");
        page["messages"].as_array().unwrap().clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            for run in 1..=self.runs {
                println!("--- the relay's log, run {run}:\n{}", log(self.folder.path(), run));
            }
        }
    }
}

/// Where the binary is: `RELAY` says, or else it is beside the test's own.
fn binary() -> PathBuf {
    let path = std::env::var_os("RELAY").map_or_else(
        || {
            // target/debug/deps/NAME-HASH
            let own = std::env::current_exe().unwrap();
            own.ancestors().nth(2).unwrap().join("stomp-relay")
        },
        PathBuf::from,
    );
    assert!(
        path.is_file(),
        "there is no relay at {}: build it first (cargo build), or name it in RELAY",
        path.display()
    );
    path.canonicalize().unwrap()
}

fn launch(folder: &Path, setup: &Setup, run: usize) -> (Child, Addresses) {
    let output = folder.join(format!("output-{run}"));
    let log_file = File::create(folder.join(format!("log-{run}"))).unwrap();
    let mut command = Command::new(binary());
    command
        .args(["--dev", "--config", "relay.toml"])
        .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .args(["--tcp-listen", "127.0.0.1:0"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(File::create(&output).unwrap())
        .stderr(log_file);
    for (flag, value) in [("--broker", &setup.broker), ("--store", &setup.store)] {
        if let Some(value) = value {
            command.args([flag, value]);
        }
    }
    if let Some(level) = &setup.log_level {
        command.env("STOMP_RELAY_LOG", level);
    }
    if let Some(workers) = setup.workers {
        command.env("TOKIO_WORKER_THREADS", workers.to_string());
    }
    let mut child = command.spawn().unwrap();
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(addresses) = addresses(&fs::read_to_string(&output).unwrap())
            && is_ready(addresses.admin)
        {
            return (child, addresses);
        }
        let ended = child.try_wait().unwrap();
        if ended.is_some() || Instant::now() > end {
            child.kill().ok();
            child.wait().ok();
            panic!("the relay did not start ({ended:?}):\n{}", log(folder, run));
        }
        std::thread::sleep(POLL);
    }
}

/// Reads the addresses out of what it prints once its doors are open.
fn addresses(greeting: &str) -> Option<Addresses> {
    greeting.contains("Ctrl-C stops it").then(|| {
        let address = |label: &str, before: &str| {
            let line = greeting.lines().find_map(|line| line.trim().strip_prefix(label)).unwrap();
            let address = line.trim().strip_prefix(before).unwrap();
            let end = address.find(['/', ' ']).unwrap_or(address.len());
            address.get(..end).unwrap().parse().unwrap()
        };
        Addresses {
            http: address("WebSocket", "ws://"),
            admin: address("admin", "http://"),
            tcp: address("TCP", ""),
        }
    })
}

fn is_ready(admin: SocketAddr) -> bool {
    request(admin, "GET", "/readyz", None, None).is_ok_and(|answer| answer.status == 200)
}

fn log(folder: &Path, run: usize) -> String {
    fs::read_to_string(folder.join(format!("log-{run}"))).unwrap_or_default()
}

/// One HTTP request on a connection of its own. The password is the user's name.
fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    user: Option<&str>,
    body: Option<&str>,
) -> std::io::Result<HttpAnswer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    if let Some(user) = user {
        head += &format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("{user}:{user}")));
    }
    if let Some(body) = body {
        head += "Content-Type: application/json\r\n";
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    stream.write_all(format!("{head}\r\n{}", body.unwrap_or_default()).as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let bad = || std::io::Error::other(format!("no HTTP answer: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(bad)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(bad)?;
    Ok(HttpAnswer { status, body: body.to_owned() })
}
