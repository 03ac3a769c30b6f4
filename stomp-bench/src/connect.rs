//! What coming costs: connection, login and one subscription; and what coming and going costs.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use tokio::time::sleep;

use crate::clock::{self, SECOND};
use crate::connection::{Connection, Target};
use crate::load::{first_connections, warn_of_own_cost};
use crate::process::{self, Sample};
use crate::report::Report;
use crate::{Failure, Result};

/// How connections are made.
#[derive(Clone, Copy, Debug)]
pub struct Connect {
    pub connections: usize,
    /// How many at a time.
    pub at_once: usize,
    /// So many a second; None for as fast as it goes.
    pub rate: Option<f64>,
}

/// Runs it.
///
/// # Errors
/// Where the server refuses.
pub async fn run(connect: &Connect, target: &Target, pids: &[u32]) -> Result<Report> {
    process::allow_files(connect.connections)?;
    let mut report =
        Report { mode: "connect".into(), url: target.url.to_string(), ..Report::default() };
    report.set("connections", connect.connections);
    report.set("at_once", connect.at_once);
    if let Some(rate) = connect.rate {
        report.set("rate", rate);
    }
    first_connections(target).await?;
    let histogram = Latencies::new()?;
    let next = AtomicUsize::new(0);
    let start = clock::now();
    let before = Sample::take(pids)?;
    let workers = (0..connect.at_once.max(1)).map(|_| async {
        // They stay open, so that the cost of closing is not counted.
        let mut open = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= connect.connections {
                return Ok::<_, Failure>(open);
            }
            let due = due(start, number, connect.rate).await;
            open.push(come(target).await?);
            histogram.record(due);
        }
    });
    let open = try_join_all(workers).await?;
    let spent = Sample::take(pids)?.since(&before);
    report.spent("connect", connect.connections as u64, spent);
    report.latency(&histogram.take());
    warn_of_own_cost(&mut report, spent);
    drop(open);
    Ok(report)
}

/// Waits until it is a connection's turn, and says when that was.
pub(crate) async fn due(start: u64, number: usize, rate: Option<f64>) -> u64 {
    let Some(rate) = rate else { return clock::now() };
    let due = start + clock::whole(number as f64 * SECOND as f64 / rate);
    let now = clock::now();
    if due > now {
        sleep(Duration::from_nanos(due - now)).await;
    }
    due
}

/// A session with a subscription of its own.
pub(crate) async fn come(target: &Target) -> Result<Connection> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut connection = Connection::open(target).await?;
    connection.subscribe(&format!("/topic/bench-connect.{number}"), "").await?;
    Ok(connection)
}

/// From when something was due to when it was done.
#[derive(Debug)]
pub(crate) struct Latencies(Mutex<Histogram<u64>>);

impl Latencies {
    pub(crate) fn new() -> Result<Self> {
        let histogram = Histogram::new_with_bounds(1_000, 60 * SECOND, 3);
        Ok(Self(Mutex::new(histogram.map_err(|error| Failure(error.to_string()))?)))
    }

    pub(crate) fn record(&self, due: u64) {
        let mut histogram = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        histogram.saturating_record(clock::now().saturating_sub(due));
    }

    pub(crate) fn take(self) -> Histogram<u64> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}
