//! A private redis-server on a free loopback port, with its data in a folder of its own. What it
//! answered is on the disk: `appendfsync always`.

#![allow(clippy::unwrap_used, reason = "in tests a panic is how to fail")]

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(20);

/// A private redis-server; it ends when this is dropped.
#[derive(Debug)]
pub struct RedisServer {
    folder: TempDir,
    port: u16,
    settings: Vec<String>,
    child: Child,
}

impl RedisServer {
    /// Starts one; `settings` are further arguments of redis-server.
    ///
    /// # Panics
    /// Where it does not answer.
    #[must_use]
    pub fn start(settings: &[&str]) -> Self {
        let port = {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            listener.local_addr().unwrap().port()
        };
        let folder = tempfile::tempdir().unwrap();
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect::<Vec<_>>();
        let child = launch(folder.path(), port, &settings);
        let server = Self { folder, port, settings, child };
        server.wait();
        server
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    fn wait(&self) {
        let end = Instant::now() + DEADLINE;
        while !matches!(self.try_command("PING"), Ok(pong) if pong == "+PONG") {
            assert!(Instant::now() < end, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// As with kill -9; the data stays.
    ///
    /// # Panics
    /// Where it was no process any more.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again with the data it had.
    ///
    /// # Panics
    /// Where it does not answer.
    pub fn restart(&mut self) {
        self.child = launch(self.folder.path(), self.port, &self.settings);
        self.wait();
    }

    /// Sends a signal: `-STOP`, `-CONT`.
    ///
    /// # Panics
    /// Where it was no process any more.
    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// An inline command; the first line of the answer.
    ///
    /// # Panics
    /// Where none comes.
    #[must_use]
    pub fn command(&self, line: &str) -> String {
        self.try_command(line).unwrap()
    }

    fn try_command(&self, line: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.write_all(format!("{line}\r\n").as_bytes())?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        Ok(answer.trim_end().to_owned())
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn launch(folder: &Path, port: u16, settings: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""])
        .args(["--appendonly", "yes", "--appendfsync", "always", "--dir"])
        .arg(folder)
        .args(settings)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}
