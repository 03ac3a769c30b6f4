//! First figures: what a delivered message and an idle session cost the relay.
//!
//! ```text
//! cargo build --release --bin stomp-relay
//! cargo run --release -p system-tests --example figures -- target/release/stomp-relay
//! ```
//!
//! Starts the relay with `--dev` on free loopback ports and its data in a temporary folder, sends
//! a bounded load, reads the relay's CPU and memory from /proc, and stops it.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const SUBSCRIBERS: usize = 100;
const WINDOW: u64 = 200;
const MESSAGES: u64 = 6_000;
const IDLE: usize = 1_000;
const LARGE: usize = 60_000;

struct Relay {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Relay {
    fn start(program: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let program = std::fs::canonicalize(program)?;
        let mut child = Command::new(program)
            .args(["--dev", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .env("STOMP_RELAY_LOG", "warn")
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().ok_or("no standard output")?;
        let mut address = None;
        for line in BufReader::new(out).lines() {
            let line = line?;
            if let Some((_, rest)) = line.split_once("ws://") {
                address = rest.split_once('/').map(|(address, _)| address.to_owned());
            }
            if line.contains("Ctrl-C") {
                break;
            }
        }
        let address = address.ok_or("the relay did not say where it listens")?;
        Ok(Self { child, address, _folder: folder })
    }

    /// Microseconds of CPU so far.
    fn cpu(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let rest = stat.rsplit_once(')').ok_or("no stat")?.1;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        Ok(ticks * 10_000.0)
    }

    fn rss_kib(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS")).ok_or("no VmRSS")?;
        Ok(line.split_whitespace().nth(1).ok_or("no VmRSS")?.parse()?)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    async fn connect(address: &str) -> Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut client = Self { stream, buffer: Vec::new() };
        client.until(b"\r\n\r\n").await?;
        client.send("CONNECT\naccept-version:1.2\nlogin:guest\npasscode:guest\n\n\0").await?;
        client.until(b"\n\n\0").await?;
        Ok(client)
    }

    /// One text frame, masked with zeros.
    async fn send(&mut self, text: &str) -> Result<()> {
        let mut frame = vec![0x81];
        put_length(&mut frame, text.len());
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(text.as_bytes());
        Ok(self.stream.write_all(&frame).await?)
    }

    async fn until(&mut self, end: &[u8]) -> Result<()> {
        loop {
            let found = self.buffer.windows(end.len()).position(|window| window == end);
            if let Some(at) = found {
                self.buffer.drain(..at + end.len());
                return Ok(());
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err("the relay closed the connection".into());
            }
        }
    }
}

fn put_length(frame: &mut Vec<u8>, length: usize) {
    match u16::try_from(length) {
        Ok(short) if short < 126 => frame.push(0x80 | u8::try_from(short).unwrap_or(0)),
        Ok(medium) => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&medium.to_be_bytes());
        }
        Err(_) => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

/// One sender, a hundred receivers, at most a window of messages under way.
async fn fan_out(relay: &Relay) -> Result<f64> {
    let count = Arc::new(AtomicU64::new(0));
    let news = Arc::new(Notify::new());
    for number in 0..SUBSCRIBERS {
        let mut client = Client::connect(&relay.address).await?;
        let frame = format!("SUBSCRIBE\nid:s{number}\ndestination:/topic/f\nreceipt:r\n\n\0");
        client.send(&frame).await?;
        client.until(b"\n\n\0").await?;
        let (count, news) = (count.clone(), news.clone());
        tokio::spawn(async move {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(read) = client.stream.read(&mut buffer).await {
                if read == 0 {
                    return;
                }
                let ends = buffer[..read].iter().filter(|byte| **byte == 0).count() as u64;
                // Lengths of 126 to 255 bytes have a zero byte in the WebSocket head too.
                count.fetch_add(ends, Ordering::Relaxed);
                news.notify_one();
            }
        });
    }
    let mut sender = Client::connect(&relay.address).await?;
    let body = "x".repeat(100);
    let frame = format!("SEND\ndestination:/topic/f\n\n{body}\0");
    // How many zero bytes one delivery has is seen by the first.
    sender.send(&frame).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let zeros = count.swap(0, Ordering::Relaxed) / SUBSCRIBERS as u64;
    let before = relay.cpu()?;
    let mut sent = 0;
    while sent < MESSAGES {
        for _ in 0..WINDOW {
            sender.send(&frame).await?;
        }
        sent += WINDOW;
        let all = sent * zeros * SUBSCRIBERS as u64;
        let arrived = async {
            while count.load(Ordering::Relaxed) < all {
                news.notified().await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(20), arrived).await.is_err() {
            let count = count.load(Ordering::Relaxed);
            return Err(format!("{count} of {all} zero bytes came").into());
        }
    }
    let cpu = relay.cpu()? - before;
    Ok(cpu / (MESSAGES * SUBSCRIBERS as u64) as f64)
}

/// KiB per idle session, and after each has sent one large message.
async fn idle(relay: &Relay) -> Result<(f64, f64, f64)> {
    let (before, cpu) = (relay.rss_kib()?, relay.cpu()?);
    let mut clients = Vec::new();
    for number in 0..IDLE {
        let mut client = Client::connect(&relay.address).await?;
        let frame = format!("SUBSCRIBE\nid:s\ndestination:/topic/idle{number}\nreceipt:r\n\n\0");
        client.send(&frame).await?;
        client.until(b"\n\n\0").await?;
        clients.push(client);
    }
    let connect = (relay.cpu()? - cpu) / IDLE as f64;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let settled = relay.rss_kib()?;
    let body = "x".repeat(LARGE);
    let frame = format!("SEND\ndestination:/topic/nobody\nreceipt:big\n\n{body}\0");
    for client in &mut clients {
        client.send(&frame).await?;
        client.until(b"big\n").await?;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = relay.rss_kib()?;
    Ok(((settled - before) / IDLE as f64, (after - before) / IDLE as f64, connect))
}

#[tokio::main]
async fn main() -> Result<()> {
    let program = std::env::args().nth(1).unwrap_or_else(|| "target/release/stomp-relay".into());
    let mut out = io::stdout();
    let relay = Relay::start(&program)?;
    let (idle, after_large, connect) = idle(&relay).await?;
    writeln!(
        out,
        "idle session: {idle:.2} KiB; after one {LARGE}-byte SEND each: {after_large:.2} KiB"
    )?;
    writeln!(out, "connect with login and subscribe: {connect:.0} us of CPU")?;
    drop(relay);
    let relay = Relay::start(&program)?;
    let cost = fan_out(&relay).await?;
    writeln!(
        out,
        "fan-out 1 to {SUBSCRIBERS}, window {WINDOW}: {cost:.3} us of CPU per delivered message"
    )?;
    Ok(())
}
