//! Sessions, or subscriptions, that come and go.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::try_join_all;

use crate::clock;
use crate::connect::{Latencies, come, due};
use crate::connection::{Connection, Target};
use crate::load::{connect_all, warn_of_own_cost};
use crate::process::{self, Sample};
use crate::report::Report;
use crate::{Failure, Result};

/// What comes and goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A session: connect, subscribe, DISCONNECT with its RECEIPT.
    Session,
    /// The same, but the socket is closed without a word.
    Drop,
    /// A subscription of a session that stays.
    Subscription,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Drop => "drop",
            Self::Subscription => "subscription",
        }
    }
}

/// How they do.
#[derive(Clone, Copy, Debug)]
pub struct Churn {
    pub kind: Kind,
    /// Sessions that stay, with a subscription each.
    pub staying: usize,
    pub at_once: usize,
    /// So many cycles a second; None for as fast as it goes.
    pub rate: Option<f64>,
    pub time: Duration,
}

/// Runs it.
///
/// # Errors
/// Where the server refuses.
pub async fn run(churn: &Churn, target: &Target, pids: &[u32]) -> Result<Report> {
    process::allow_files(churn.staying + churn.at_once)?;
    let mut report =
        Report { mode: "churn".into(), url: target.url.to_string(), ..Report::default() };
    report.set("kind", churn.kind.name());
    report.set("staying", churn.staying);
    report.set("at_once", churn.at_once);
    if let Some(rate) = churn.rate {
        report.set("rate", rate);
    }
    let staying = connect_all(churn.staying, |_| come(target)).await?;
    let rss = process::rss_kib(pids)?;
    let latencies = Latencies::new()?;
    let next = AtomicUsize::new(0);
    let done = AtomicUsize::new(0);
    let start = clock::now();
    let end = start + clock::nanos(churn.time);
    let before = Sample::take(pids)?;
    let workers = (0..churn.at_once.max(1)).map(|_| async {
        let mut session = match churn.kind {
            Kind::Subscription => Some(Connection::open(target).await?),
            Kind::Session | Kind::Drop => None,
        };
        while clock::now() < end {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let due = due(start, number, churn.rate).await;
            cycle(churn.kind, target, session.as_mut(), number).await?;
            latencies.record(due);
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok::<_, Failure>(session)
    });
    let sessions = try_join_all(workers).await?;
    let spent = Sample::take(pids)?.since(&before);
    report.spent("cycle", done.load(Ordering::Relaxed) as u64, spent);
    report.latency(&latencies.take());
    if !pids.is_empty() {
        report.figure("rss_growth_kib", process::rss_kib(pids)? as f64 - rss as f64);
    }
    warn_of_own_cost(&mut report, spent);
    drop((staying, sessions));
    Ok(report)
}

async fn cycle(
    kind: Kind,
    target: &Target,
    session: Option<&mut Connection>,
    number: usize,
) -> Result<()> {
    match (kind, session) {
        (Kind::Subscription, Some(session)) => {
            let id = session.subscribe(&format!("/topic/bench-churn.{number}"), "").await?;
            session.unsubscribe(&id).await
        }
        (Kind::Session | Kind::Subscription, _) => come(target).await?.disconnect().await,
        (Kind::Drop, _) => come(target).await.map(drop),
    }
}
