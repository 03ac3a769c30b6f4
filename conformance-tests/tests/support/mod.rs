//! Little servers on loopback, and the built program.

#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod authority;
pub(crate) mod broker;

use std::future::Future;
use std::net::SocketAddr;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

/// A program that takes this long beyond its own limits hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Serves every connection until the test ends.
pub(crate) async fn serve<F, S>(each: F) -> SocketAddr
where
    F: Fn(TcpStream) -> S + Send + 'static,
    S: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(each(stream));
        }
    });
    address
}

/// A port where nobody listens.
pub(crate) async fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

pub(crate) fn program<'a>(args: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stomp-conformance"));
    command.args(args).env_remove("STOMP_PASSCODE").stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// What the program said, and how long it took.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Ran {
    pub(crate) fn of(output: Output, took: Duration) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let Output { status, stdout, stderr } = output;
        let code = status.code().unwrap_or_else(|| panic!("{status}"));
        Self { code, stdout: text(stdout), stderr: text(stderr), took }
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { code, stdout, stderr, took } = self;
        write!(f, "exit {code} after {took:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

/// Runs it to its end.
pub(crate) async fn run<'a>(args: impl IntoIterator<Item = &'a str>) -> Ran {
    let start = Instant::now();
    let output = tokio::time::timeout(PATIENCE, program(args).output());
    let output = output.await.expect("the program hangs").unwrap();
    Ran::of(output, start.elapsed())
}
