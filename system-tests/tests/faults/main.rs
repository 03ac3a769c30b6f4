//! The fault table: what breaks between the relay and RabbitMQ, made for real under load, and what
//! it cost. All rows run side by side where they need not have a RabbitMQ to themselves.
//!
//! It is its own harness, because the rows share servers and end in one table. Arguments that are
//! no options name the rows to run. `FAULTS=long` lets faults last; any `FAULTS` writes
//! docs/faults.md.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in tests a panic is how to fail")]
#![allow(clippy::print_stdout, reason = "the numbers of a run are worth reading")]

mod cluster;
mod load;
mod network;
mod refusals;
mod report;
mod server;

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use system_tests::rabbitmq::{RabbitMqCluster, RabbitMqServer};

use crate::report::Report;

/// What a row needs to know of the run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    is_long: bool,
}

impl Pace {
    /// How long something lasts: as it is in `make test`, and in a long run.
    pub(crate) fn time(self, short: f64, long: f64) -> Duration {
        Duration::from_secs_f64(if self.is_long { long } else { short })
    }

    pub(crate) fn count(self, short: usize, long: usize) -> usize {
        if self.is_long { long } else { short }
    }
}

type Running = Pin<Box<dyn Future<Output = Report> + Send>>;

/// What a row breaks, and so with whom it can share it.
#[derive(Clone, Copy)]
enum Row {
    /// Its own way to a RabbitMQ that all of these share; they run at once.
    Network(fn(Arc<RabbitMqServer>, Pace) -> Running),
    /// A RabbitMQ; these run one after the other.
    Server(fn(Arc<RabbitMqServer>, Pace) -> Running),
    /// The same for a second one, beside the first: its row takes as long as all others.
    Frozen(fn(Arc<RabbitMqServer>, Pace) -> Running),
    /// A cluster; these run one after the other.
    Cluster(fn(Arc<RabbitMqCluster>, Pace) -> Running),
}

macro_rules! row {
    ($kind:ident, $module:ident :: $name:ident) => {
        (stringify!($name), Row::$kind(|target, pace| Box::pin($module::$name(target, pace))))
    };
}

const ROWS: [(&str, Row); 19] = [
    row!(Server, server::killed),
    row!(Server, server::restarted),
    row!(Server, server::memory_alarm),
    row!(Server, server::disk_alarm),
    row!(Frozen, server::frozen),
    row!(Network, network::reset),
    row!(Network, network::black_hole),
    row!(Network, network::cut_before_the_confirm),
    row!(Network, network::half_closed),
    row!(Network, network::slow),
    row!(Network, network::nobody_listens),
    row!(Network, refusals::bad_credentials),
    row!(Network, refusals::queue_deleted),
    row!(Network, refusals::channel_closed),
    row!(Network, refusals::outage_closes),
    row!(Cluster, cluster::node_lost),
    row!(Cluster, cluster::minority),
    row!(Cluster, cluster::queue_away),
    row!(Cluster, cluster::node_wiped),
];

/// A row's name, and what runs it on its server or cluster.
type Named<T> = (&'static str, fn(Arc<T>, Pace) -> Running);

/// A row's name, how long it took, and its report or what went wrong.
type Done = (&'static str, Duration, Result<Report, String>);

/// Runs rows one after the other, or all at once, on what `start` gives.
async fn group<T: Send + Sync + 'static>(
    rows: Vec<Named<T>>,
    at_once: bool,
    start: fn() -> Result<T, String>,
    pace: Pace,
) -> Vec<Done> {
    if rows.is_empty() {
        return Vec::new();
    }
    let target = Arc::new(blocking(move || start().unwrap()).await);
    let mut done = Vec::new();
    let mut running = Vec::new();
    for (name, row) in rows {
        let began = Instant::now();
        let task = tokio::spawn(row(target.clone(), pace));
        running.push(async move {
            let result = task.await.map_err(|error| panic_text(error.into_panic().as_ref()));
            println!("row {name} ended after {:.0} s", began.elapsed().as_secs_f64());
            (name, began.elapsed(), result)
        });
        if !at_once && let Some(row) = running.pop() {
            done.push(row.await);
        }
    }
    done.extend(futures_util::future::join_all(running).await);
    done
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "it panicked".to_owned())
}

/// Runs what blocks without holding up the clients.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

async fn run(rows: &[(&'static str, Row)], pace: Pace) -> Vec<Done> {
    let (mut network, mut server, mut frozen, mut cluster) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (name, row) in rows {
        match row {
            Row::Network(row) => network.push((*name, *row)),
            Row::Server(row) => server.push((*name, *row)),
            Row::Frozen(row) => frozen.push((*name, *row)),
            Row::Cluster(row) => cluster.push((*name, *row)),
        }
    }
    let (network, server, frozen, cluster) = tokio::join!(
        group(network, true, RabbitMqServer::new, pace),
        group(server, false, RabbitMqServer::new, pace),
        group(frozen, false, RabbitMqServer::new, pace),
        group(cluster, false, RabbitMqCluster::new, pace),
    );
    [server, frozen, network, cluster].concat()
}

fn main() -> ExitCode {
    let (mut wanted, mut skipped) = (Vec::new(), Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--skip" {
            skipped.extend(arguments.next());
        } else if !argument.starts_with('-') {
            wanted.push(argument);
        }
    }
    let is_wanted = |name: &str| {
        let is_in = |parts: &[String]| parts.iter().any(|part| name.contains(&**part));
        (wanted.is_empty() || is_in(&wanted)) && !is_in(&skipped)
    };
    let rows: Vec<_> = ROWS.into_iter().filter(|(name, _)| is_wanted(name)).collect();
    if std::env::args().any(|argument| argument == "--list") {
        rows.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let mode = std::env::var("FAULTS").ok();
    let pace = Pace { is_long: mode.as_deref() == Some("long") };
    println!("\nrunning {} rows", rows.len());
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let done = runtime.block_on(run(&rows, pace));
    let mut reports = Vec::new();
    let mut failed = 0;
    for (name, time, result) in done {
        let judged = result.and_then(|report| {
            let complaint = report.outcome.as_ref().and_then(load::Outcome::complaint);
            reports.push((name, report));
            complaint.map_or(Ok(()), Err)
        });
        match judged {
            Ok(()) => println!("row {name} ... ok ({:.0} s)", time.as_secs_f64()),
            Err(why) => {
                failed += 1;
                println!("row {name} ... FAILED ({:.0} s): {why}", time.as_secs_f64());
            }
        }
    }
    println!("\n{}", report::table(&reports));
    if let Some(mode) = &mode
        && failed == 0
        && wanted.is_empty()
    {
        report::write(&reports, mode);
    }
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "test result: {result}. {} passed; {failed} failed; 0 ignored; finished in {:.0} s\n",
        rows.len() - failed,
        began.elapsed().as_secs_f64()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
