//! What a session costs that has nothing to do: memory, and the CPU of heart-beats.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::connection::{Connection, Target};
use crate::load::{connect_all, first_connections};
use crate::process::{self, Sample};
use crate::report::Report;
use crate::wire::{self, Found};
use crate::{Failure, Result};

const LOOK: Duration = Duration::from_millis(20);
/// How long a burst and large frames may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// Sessions that write their large frame at a time.
const LARGE_AT_ONCE: u64 = 16;

/// What is done.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    pub connections: usize,
    /// What a server may take to give back what connecting took.
    pub settle: Duration,
    /// Messages to every session; 0 for none.
    pub burst: usize,
    /// Bytes of a SEND of every session; 0 for none.
    pub large: usize,
    /// The body's bytes of a burst's messages.
    pub size: usize,
    /// How long the CPU of doing nothing is measured; 0 for not at all.
    pub hold: Duration,
}

#[derive(Debug, Default)]
struct Counters {
    messages: AtomicU64,
    receipts: AtomicU64,
    failed: AtomicU64,
}

/// Runs it.
///
/// # Errors
/// Where the server refuses, or ends a connection.
pub async fn run(idle: &Idle, target: &Target, pids: &[u32]) -> Result<Report> {
    process::allow_files(idle.connections)?;
    let mut report =
        Report { mode: "idle".into(), url: target.url.to_string(), ..Report::default() };
    report.set("connections", idle.connections);
    first_connections(target).await?;
    let sessions = idle.connections as u64;
    let memory = Memory { before: process::rss_kib(pids)?, sessions, pids };
    let connections = connect_all(idle.connections, |_| async {
        let mut connection = Connection::open(target).await?;
        connection.subscribe(DESTINATION, "").await?;
        Ok(connection)
    });
    let connections = connections.await?;
    let counters = Arc::new(Counters::default());
    let (large, orders) = watch::channel(0);
    let mut tasks = JoinSet::new();
    for (number, connection) in connections.into_iter().enumerate() {
        let session = Session { number: number as u64, large: idle.large };
        tasks.spawn(session.run(connection, orders.clone(), counters.clone()));
    }
    report.figure("idle_kib_at_once", memory.each()?);
    sleep(idle.settle).await;
    report.figure("idle_kib", memory.each()?);
    if !idle.hold.is_zero() {
        hold(idle, pids, &mut report).await?;
    }
    if idle.burst > 0 {
        report.set("burst", idle.burst);
        burst(idle, target, &counters).await?;
        report.figure("idle_kib_after_burst", memory.settled().await?);
    }
    if idle.large > 0 {
        report.set("large", idle.large);
        for upto in (0..sessions + LARGE_AT_ONCE).step_by(16) {
            // The receiver lives in the tasks; where all have ended the wait below says so.
            let _ = large.send(upto);
            wait(&counters.receipts, upto.min(sessions), &counters).await?;
        }
        report.figure("idle_kib_after_large", memory.settled().await?);
    }
    match counters.failed.load(Ordering::Relaxed) {
        0 => Ok(report),
        failed => Err(Failure(format!("{failed} sessions were ended"))),
    }
}

const DESTINATION: &str = "/topic/bench-idle";

struct Memory<'a> {
    before: u64,
    sessions: u64,
    pids: &'a [u32],
}

impl Memory<'_> {
    /// KiB of each session.
    fn each(&self) -> Result<f64> {
        let now = process::rss_kib(self.pids)?;
        Ok((now as f64 - self.before as f64) / self.sessions.max(1) as f64)
    }

    /// The same after the second that a server may take.
    async fn settled(&self) -> Result<f64> {
        sleep(Duration::from_secs(1)).await;
        self.each()
    }
}

async fn hold(idle: &Idle, pids: &[u32], report: &mut Report) -> Result<()> {
    let before = Sample::take(pids)?;
    sleep(idle.hold).await;
    let spent = Sample::take(pids)?.since(&before);
    let seconds = idle.connections as f64 * spent.nanos as f64 / 1e9;
    if let Some(server) = spent.server {
        report.figure("hold_server_cpu_us_per_session_second", server as f64 / 1e3 / seconds);
        report.figure("hold_server_cpu_percent", server as f64 * 100.0 / spent.nanos as f64);
    }
    report.figure("hold_bench_cpu_us_per_session_second", spent.own as f64 / 1e3 / seconds);
    Ok(())
}

async fn burst(idle: &Idle, target: &Target, counters: &Counters) -> Result<()> {
    let mut publisher = Connection::open(target).await?;
    let body = "x".repeat(idle.size);
    let frame =
        format!("SEND\ndestination:{DESTINATION}\ncontent-length:{}\n\n{body}\0", idle.size);
    for _ in 0..idle.burst {
        publisher.put(frame.as_bytes());
    }
    publisher.flush().await?;
    wait(&counters.messages, (idle.burst * idle.connections) as u64, counters).await?;
    Ok(())
}

async fn wait(counter: &AtomicU64, wanted: u64, counters: &Counters) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let count = counter.load(Ordering::Relaxed);
        let failed = counters.failed.load(Ordering::Relaxed);
        if count >= wanted {
            return Ok(());
        }
        if failed > 0 || Instant::now() > end {
            return Err(Failure(format!("{count} of {wanted} came, {failed} sessions were ended")));
        }
        sleep(LOOK).await;
    }
}

struct Session {
    number: u64,
    large: usize,
}

impl Session {
    async fn run(
        self,
        mut connection: Connection,
        mut orders: watch::Receiver<u64>,
        counters: Arc<Counters>,
    ) {
        let every = connection.beat_every().map_or(Duration::MAX, Duration::from_nanos);
        let mut next = clock_after(every);
        let mut is_sent = false;
        loop {
            tokio::select! {
                result = poll_fn(|cx| receive(&mut connection, cx, &counters)) => {
                    if result.is_err() {
                        counters.failed.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                }
                () = sleep_until(next) => {
                    connection.beat();
                    next = clock_after(every);
                }
                changed = orders.changed(), if !is_sent => {
                    if changed.is_err() {
                        return;
                    }
                    if *orders.borrow_and_update() > self.number {
                        is_sent = true;
                        connection.put(&large_frame(self.large));
                    }
                }
            }
        }
    }
}

/// The next moment to beat; None where there is none.
fn clock_after(every: Duration) -> Option<Instant> {
    Instant::now().checked_add(every)
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Made anew for each, so that the generator's own sessions stay small.
fn large_frame(size: usize) -> Vec<u8> {
    let head = format!(
        "SEND\ndestination:/topic/bench-idle-large\nreceipt:large\ncontent-length:{size}\n\n"
    );
    let mut frame = head.into_bytes();
    frame.resize(frame.len() + size, b'x');
    frame.push(0);
    frame
}

/// Ready where the connection ends.
fn receive(
    connection: &mut Connection,
    cx: &mut Context<'_>,
    counters: &Counters,
) -> Poll<std::io::Result<()>> {
    loop {
        let mut messages = 0;
        let mut is_over = false;
        let received = connection.poll_receive(cx, &mut |found, _, _| match found {
            Found::Frame(frame) if frame.starts_with(b"MESSAGE") => messages += 1,
            Found::Frame(frame) if frame.starts_with(b"RECEIPT") => {
                if wire::header(frame, "receipt-id") == Some(b"large") {
                    counters.receipts.fetch_add(1, Ordering::Relaxed);
                }
            }
            Found::Frame(_) | Found::Close(_) => is_over = true,
            Found::Ping(_) => {}
        });
        counters.messages.fetch_add(messages, Ordering::Relaxed);
        if is_over {
            return Poll::Ready(Err(std::io::ErrorKind::ConnectionAborted.into()));
        }
        if let Poll::Ready(Err(error)) = connection.poll_flush(cx) {
            return Poll::Ready(Err(error));
        }
        match received {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        }
    }
}
