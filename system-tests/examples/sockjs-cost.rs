//! What SockJS costs: a delivered message over a framed WebSocket and over xhr_streaming against a
//! raw WebSocket and a bare hyper server that writes chunks, and an idle xhr_streaming session
//! against a bare streaming response, all in one run.
//!
//! ```text
//! cargo build --release --bin stomp-relay
//! cargo run --release -p system-tests --example sockjs-cost -- target/release/stomp-relay
//! ```
//!
//! Starts the relay with `--dev` and itself as the bare server, on free loopback ports, sends a
//! bounded load, reads CPU and memory from /proc, and stops both. Needs 12,000 open files.

#![allow(clippy::print_stdout, reason = "that is how it speaks")]

#[path = "sockjs-cost/client.rs"]
mod client;
#[path = "sockjs-cost/floor.rs"]
mod floor;
#[path = "sockjs-cost/process.rs"]
mod process;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use client::{Line, Receiver, Sender, Way};
use process::Process;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const SUBSCRIBERS: usize = 100;
const WINDOW: u64 = 200;
const MESSAGES: u64 = 4_000;
const ROUNDS: usize = 3;
const IDLE: usize = 5_000;
/// Idle sessions beat for so long.
const BEATING: Duration = Duration::from_secs(20);
/// A byte that is in every body once.
const MARK: u8 = b'`';

#[tokio::main]
async fn main() -> Result<()> {
    let argument = std::env::args().nth(1).ok_or("usage: sockjs-cost RELAY")?;
    if argument == "--floor" {
        return floor::serve().await;
    }
    process::raise_file_limit()?;
    println!("fan-out 1 to {SUBSCRIBERS}, window {WINDOW}, 100-byte bodies,");
    println!("microseconds of server CPU per delivered message:");
    let ways = [Way::Raw, Way::Framed, Way::XhrStreaming, Way::Floor];
    println!("round  {}", ways.map(|way| format!("{:>14}", way.name())).join(""));
    let mut sums = [0.0; 4];
    for round in 1..=ROUNDS {
        let mut line = format!("{round:>5}  ");
        for (sum, way) in sums.iter_mut().zip(ways) {
            let cost = fan_out(&argument, way).await?;
            *sum += cost;
            line += &format!("{cost:>14.3}");
        }
        println!("{line}");
    }
    let [raw, framed, streaming, floor] = sums;
    println!("framed websocket / raw websocket      {:.2}", framed / raw);
    println!("xhr_streaming / bare hyper chunks     {:.2}", streaming / floor);
    println!("xhr_streaming / raw websocket         {:.2}", streaming / raw);

    println!("\n{IDLE} idle sessions, KiB of server memory (RSS) each:");
    let bare = idle(&argument, Way::Floor, 0).await?;
    println!("bare hyper streaming response         {:.1}", bare.kib);
    let quiet = idle(&argument, Way::XhrStreaming, 0).await?;
    println!("xhr_streaming, CONNECT, SUBSCRIBE     {:.1}", quiet.kib);
    println!("difference                            {:.1}", quiet.kib - bare.kib);
    let beating = idle(&argument, Way::XhrStreaming, 10_000).await?;
    println!("CPU of a core, 10 s heart-beats to the client {:.2} %", beating.cpu_percent);
    Ok(())
}

async fn start(program: &str, way: Way) -> Result<Process> {
    match way {
        Way::Floor => {
            let own = std::env::current_exe()?;
            Process::start(own.to_str().ok_or("no path")?, &["--floor"]).await
        }
        Way::Raw | Way::Framed | Way::XhrStreaming => {
            let flags = ["--dev", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
            Process::start(program, &flags).await
        }
    }
}

/// One sender, a hundred receivers, at most a window of messages under way.
async fn fan_out(program: &str, way: Way) -> Result<f64> {
    let server = start(program, way).await?;
    let count = Arc::new(AtomicU64::new(0));
    let news = Arc::new(Notify::new());
    let mut receivers = Vec::new();
    for number in 0..SUBSCRIBERS {
        receivers.push(Receiver::open(&server.address, way, number, "/topic/f", 0).await?);
    }
    for receiver in receivers {
        let (count, news) = (count.clone(), news.clone());
        tokio::spawn(receiver.run(move |bytes| {
            let marks = bytes.iter().filter(|byte| **byte == MARK).count() as u64;
            count.fetch_add(marks, Ordering::Relaxed);
            news.notify_one();
        }));
    }
    let body = format!("`{}", "x".repeat(99));
    let mut sender = Sender::open(&server.address, way).await?;
    let wait = async |wanted: u64| -> Result<()> {
        let arrived = async {
            while count.load(Ordering::Relaxed) < wanted {
                news.notified().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), arrived).await.map_err(|_| {
            format!("{}: {} of {wanted} came", way.name(), count.load(Ordering::Relaxed))
        })?;
        Ok(())
    };
    // Everybody warm.
    sender.publish("/topic/f", &body, 10).await?;
    wait(10 * SUBSCRIBERS as u64).await?;
    let before = server.cpu()?;
    let mut sent = 10;
    while sent < MESSAGES + 10 {
        sender.publish("/topic/f", &body, WINDOW).await?;
        sent += WINDOW;
        wait(sent * SUBSCRIBERS as u64).await?;
    }
    Ok((server.cpu()? - before) / (MESSAGES * SUBSCRIBERS as u64) as f64)
}

struct Idle {
    kib: f64,
    cpu_percent: f64,
}

async fn idle(program: &str, way: Way, beats: u32) -> Result<Idle> {
    let server = start(program, way).await?;
    let before = server.rss_kib()?;
    let mut line = Line::connect(&server.address).await?;
    let mut receivers = Vec::with_capacity(IDLE);
    for number in 0..IDLE {
        let topic = format!("/topic/idle{number}");
        let receiver =
            Receiver::open_by(&mut line, &server.address, way, number, &topic, beats).await?;
        receivers.push(receiver);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let kib = (server.rss_kib()? - before) / IDLE as f64;
    let mut cpu_percent = 0.0;
    if beats > 0 {
        let before = server.cpu()?;
        for receiver in receivers {
            tokio::spawn(receiver.run(|_| {}));
        }
        tokio::time::sleep(BEATING).await;
        cpu_percent = (server.cpu()? - before) / BEATING.as_micros() as f64 * 100.0;
    }
    Ok(Idle { kib, cpu_percent })
}
