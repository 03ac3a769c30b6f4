//! Publishers and subscribers: fan-out, pairs and queues are the same load in different shapes.

mod publisher;
mod shared;
mod subscriber;

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::clock::{self, SECOND};
use crate::connection::{Connection, Target};
use crate::process::{self, Sample, Spent};
use crate::report::Report;
use crate::{Failure, Result};

pub use publisher::Pace;
use publisher::Publisher;
use shared::{Lane, Shared};
use subscriber::Subscriber;

/// How often the run looks at its counters.
const LOOK: Duration = Duration::from_millis(5);
/// Connections that are being made at a time.
const AT_ONCE: usize = 32;
/// The last deliveries may take this long after the one before.
const STALL: u64 = 10 * SECOND;
/// Subscriptions on one connection, where they only have to be there.
const SUBSCRIPTIONS_EACH: usize = 500;

/// How deliveries are acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    Auto,
    Client,
    ClientIndividual,
}

impl Ack {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Client => "client",
            Self::ClientIndividual => "client-individual",
        }
    }
}

/// What each destination does with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Every subscriber gets it.
    Topic,
    /// One of the subscribers gets it.
    Queue,
}

/// What shows that a message was dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// A subscriber has it.
    Deliveries,
    /// The server has sent its RECEIPT.
    Receipts,
}

impl Counted {
    /// One of them, in the names of figures.
    fn name(self) -> &'static str {
        match self {
            Self::Deliveries => "delivered",
            Self::Receipts => "receipt",
        }
    }
}

/// A load.
#[derive(Clone, Debug)]
pub struct Load {
    pub mode: &'static str,
    pub shape: Shape,
    pub counted: Counted,
    pub publishers: usize,
    pub subscribers: usize,
    pub destinations: usize,
    /// The beginning of their names.
    pub destination: String,
    /// The body's bytes.
    pub size: usize,
    pub pace: Pace,
    pub ack: Ack,
    /// Header lines of SUBSCRIBE and SEND.
    pub subscribe_headers: String,
    pub send_headers: String,
    /// Subscriptions of other destinations, which get nothing.
    pub elsewhere: usize,
    /// Further subscribers that read so many bytes a second.
    pub slow: usize,
    pub slow_rate: usize,
    /// Run by a shell when all are connected; each line `name number` that it prints is a figure.
    pub look: Option<String>,
    pub until: Until,
}

/// When it is enough.
#[derive(Clone, Copy, Debug)]
pub struct Until {
    /// Deliveries before anything is measured, for a server that must get warm.
    pub warm_up: u64,
    /// Both have to be reached.
    pub deliveries: u64,
    pub time: Duration,
    /// It ends here, whatever was reached.
    pub limit: Duration,
}

/// Runs it.
///
/// # Errors
/// Where the server refuses, or ends a connection.
pub async fn run(load: &Load, target: &Target, pids: &[u32]) -> Result<Report> {
    let extra = load.elsewhere.div_ceil(SUBSCRIPTIONS_EACH);
    process::allow_files(load.publishers + load.subscribers + load.slow + extra)?;
    let (mut field, seen) = Field::set_up(load, target).await?;
    let result = field.measure(load, pids).await;
    field.shared.stop();
    let (spent, delivered, reads) = result?;
    let lost = field.drain().await?;
    let mut report = report(load, target);
    report.spent(load.counted.name(), delivered, spent);
    report.figure("messages_per_read", delivered as f64 / reads.max(1) as f64);
    for (name, value) in seen {
        report.figure(&name, value);
    }
    field.shared.with_histogram(|histogram| report.latency(histogram));
    if load.slow > 0 {
        report.figure("slow_subscribers_closed", field.shared.closed_slow() as f64);
    }
    if delivered < load.until.deliveries {
        report.warnings.push(format!("the time limit came after {delivered} of them"));
    }
    if lost > 0 {
        report.warnings.push(format!("{lost} of them did not come"));
    }
    warn_of_own_cost(&mut report, spent);
    Ok(report)
}

fn report(load: &Load, target: &Target) -> Report {
    let mut report =
        Report { mode: load.mode.to_owned(), url: target.url.to_string(), ..Report::default() };
    report.set("publishers", load.publishers);
    report.set("subscribers", load.subscribers);
    report.set("destinations", load.destinations);
    report.set("size", load.size);
    match load.pace {
        Pace::Window(window) => report.set("window", window),
        Pace::Rate(rate) => report.set("rate", rate),
    }
    if load.shape == Shape::Queue {
        report.set("ack", load.ack.name());
    }
    if load.elsewhere > 0 {
        report.set("elsewhere", load.elsewhere);
    }
    if load.slow > 0 {
        report.set("slow", load.slow);
    }
    report
}

/// Says where this program was the limit, or in the server's way. Where both are mostly idle it
/// does not matter what it costs.
pub fn warn_of_own_cost(report: &mut Report, spent: Spent) {
    let is_busy = spent.own > spent.nanos / 2;
    if is_busy && spent.server.is_some_and(|server| server < spent.own) {
        report.warnings.push("the load generator cost more CPU than the server".into());
    }
    let threads = tokio::runtime::Handle::current().metrics().num_workers() as f64;
    if spent.own as f64 > 0.95 * threads * spent.nanos as f64 {
        report.warnings.push("the load generator was at its limit; see --threads".into());
    }
}

/// All connections of a load.
struct Field {
    shared: Arc<Shared>,
    publishers: Vec<JoinHandle<Option<Connection>>>,
    others: Vec<JoinHandle<()>>,
}

impl Drop for Field {
    fn drop(&mut self) {
        for task in &self.others {
            task.abort();
        }
        for task in &self.publishers {
            task.abort();
        }
    }
}

impl Field {
    /// Connects everybody and lets publishers begin; what was seen in between.
    async fn set_up(load: &Load, target: &Target) -> Result<(Self, Vec<(String, f64)>)> {
        let lanes = (0..load.publishers).map(|number| {
            let fan = load.lanes(number).map(|destination| load.fan(destination)).max();
            Lane::new(fan.unwrap_or(1), load.pace)
        });
        let shared = Arc::new(Shared::new(lanes.collect())?);
        let mut others = Vec::new();
        let elsewhere = connect_all(load.elsewhere.div_ceil(SUBSCRIPTIONS_EACH), |number| {
            load.connect_elsewhere(number, target)
        });
        for connection in elsewhere.await? {
            others.push(tokio::spawn(subscriber::keep(connection, shared.clone())));
        }
        let slow = connect_all(load.slow, |number| load.connect_subscriber(number, target)).await?;
        for connection in slow {
            others.push(tokio::spawn(subscriber::read_slowly(
                connection,
                load.slow_rate,
                shared.clone(),
            )));
        }
        let connections =
            connect_all(load.subscribers, |number| load.connect_subscriber(number, target)).await?;
        for connection in connections {
            let subscriber = Subscriber { size: load.size, ack: load.ack };
            others.push(tokio::spawn(subscriber.run(connection, shared.clone())));
        }
        if !target.receipts {
            // Nothing says when the last SUBSCRIBE is done.
            sleep(Duration::from_secs(1)).await;
        }
        let connections = connect_all(load.publishers, |_| Connection::open(target)).await?;
        let seen = match load.look.clone() {
            // Subscribers go on reading and beating meanwhile.
            Some(command) => tokio::task::spawn_blocking(move || process::look(&command))
                .await
                .map_err(|error| Failure(error.to_string()))??,
            None => Vec::new(),
        };
        let start = clock::now();
        let mut publishers = Vec::new();
        for (number, connection) in connections.into_iter().enumerate() {
            let publisher = Publisher::new(load, number, &connection, start)?;
            publishers.push(tokio::spawn(publisher.run(connection, shared.clone())));
        }
        Ok((Self { shared, publishers, others }, seen))
    }

    /// Lets it get warm, then measures. What was spent, deliveries, reads.
    async fn measure(&self, load: &Load, pids: &[u32]) -> Result<(Spent, u64, u64)> {
        let shared = &self.shared;
        let limit = Instant::now() + load.until.limit;
        while shared.delivered() < load.until.warm_up && Instant::now() < limit {
            shared.check()?;
            sleep(LOOK).await;
        }
        let before = Sample::take(pids)?;
        let (delivered, reads) = (shared.delivered(), shared.reads());
        shared.record(true);
        let enough = Instant::now() + load.until.time;
        loop {
            shared.check()?;
            sleep(LOOK).await;
            let now = Instant::now();
            let is_enough =
                shared.delivered() - delivered >= load.until.deliveries && now >= enough;
            if is_enough || now >= limit {
                break;
            }
        }
        shared.record(false);
        let (delivered, reads) = (shared.delivered() - delivered, shared.reads() - reads);
        Ok((Sample::take(pids)?.since(&before), delivered, reads))
    }

    /// Waits for what is still on its way, and says how much never came.
    async fn drain(&mut self) -> Result<u64> {
        // A closed socket would take with it what the server has not read yet.
        let mut open = Vec::new();
        for publisher in self.publishers.drain(..) {
            open.push(publisher.await.map_err(|error| Failure(error.to_string()))?);
        }
        let mut last = (self.shared.missing(), clock::now());
        while last.0 > 0 && clock::now() - last.1 < STALL {
            self.shared.check()?;
            sleep(LOOK).await;
            let missing = self.shared.missing();
            if missing != last.0 {
                last = (missing, clock::now());
            }
        }
        drop(open);
        Ok(last.0)
    }
}

impl Load {
    fn name(&self, destination: usize) -> String {
        format!("{}.{destination}", self.destination)
    }

    /// The destinations of a publisher.
    fn lanes(&self, publisher: usize) -> impl Iterator<Item = usize> + use<> {
        let (publishers, destinations) = (self.publishers, self.destinations);
        let first = publisher % destinations;
        (first..destinations).step_by(publishers.max(1))
    }

    /// How many deliveries a message to that destination is.
    fn fan(&self, destination: usize) -> u64 {
        match self.shape {
            Shape::Queue => 1,
            Shape::Topic => {
                let more = destination < self.subscribers % self.destinations;
                (self.subscribers / self.destinations) as u64 + u64::from(more)
            }
        }
    }

    async fn connect_subscriber(&self, number: usize, target: &Target) -> Result<Connection> {
        let mut connection = Connection::open(target).await?;
        let destination = self.name(number % self.destinations);
        let headers = format!("ack:{}\n{}", self.ack.name(), self.subscribe_headers);
        connection.subscribe(&destination, &headers).await?;
        Ok(connection)
    }

    async fn connect_elsewhere(&self, number: usize, target: &Target) -> Result<Connection> {
        let mut connection = Connection::open(target).await?;
        let first = number * SUBSCRIPTIONS_EACH;
        for topic in first..self.elsewhere.min(first + SUBSCRIPTIONS_EACH) {
            connection.subscribe(&format!("/topic/bench-elsewhere.{topic}"), "").await?;
        }
        Ok(connection)
    }
}

/// Lets a server make what it makes once, at its first connections, and be done with their end.
///
/// # Errors
/// Where it refuses.
pub async fn first_connections(target: &Target) -> Result<()> {
    let connections = connect_all(2 * AT_ONCE, |_| async {
        let mut connection = Connection::open(target).await?;
        connection.subscribe("/topic/bench-first", "").await?;
        Ok(connection)
    });
    drop(connections.await?);
    sleep(Duration::from_millis(500)).await;
    Ok(())
}

/// Makes connections, some at a time.
///
/// # Errors
/// The first one that fails.
pub async fn connect_all<F, C>(count: usize, connect: C) -> Result<Vec<Connection>>
where
    C: Fn(usize) -> F,
    F: Future<Output = Result<Connection>>,
{
    let mut made = Vec::with_capacity(count);
    let mut running = FuturesUnordered::new();
    for number in 0..count {
        running.push(connect(number));
        if running.len() >= AT_ONCE
            && let Some(connection) = running.next().await
        {
            made.push(connection?);
        }
    }
    while let Some(connection) = running.next().await {
        made.push(connection?);
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(publishers: usize, subscribers: usize, destinations: usize) -> Load {
        let until =
            Until { warm_up: 0, deliveries: 0, time: Duration::ZERO, limit: Duration::ZERO };
        Load {
            mode: "fanout",
            shape: Shape::Topic,
            counted: Counted::Deliveries,
            publishers,
            subscribers,
            destinations,
            destination: "/topic/x".into(),
            size: 100,
            pace: Pace::Window(1),
            ack: Ack::Auto,
            subscribe_headers: String::new(),
            send_headers: String::new(),
            elsewhere: 0,
            slow: 0,
            slow_rate: 0,
            look: None,
            until,
        }
    }

    #[test]
    fn publishers_share_the_destinations() {
        let lanes = |publishers, destinations, number| -> Vec<usize> {
            load(publishers, 1, destinations).lanes(number).collect()
        };
        assert_eq!(lanes(1, 3, 0), [0, 1, 2]);
        assert_eq!(lanes(2, 3, 1), [1]);
        assert_eq!(lanes(2, 3, 0), [0, 2]);
        assert_eq!(lanes(3, 3, 2), [2]);
        assert_eq!(lanes(5, 2, 4), [0]);
    }

    #[test]
    fn every_subscriber_is_counted_once() {
        for (subscribers, destinations) in [(100, 1), (10, 3), (3, 3), (2, 5)] {
            let load = load(1, subscribers, destinations);
            let sum: u64 = (0..destinations).map(|destination| load.fan(destination)).sum();
            assert_eq!(sum, subscribers as u64);
        }
        let queue = Load { shape: Shape::Queue, ..load(1, 100, 1) };
        assert_eq!(queue.fan(0), 1);
    }
}
