//! The one handle on a store: requests go to the worker that owns it, one after the other.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot};

use super::{Caps, Op, Outcome, StoreError, redis, sqlite};

/// How often a worker looks after leases and age.
const TICK: Duration = Duration::from_secs(5);
/// How long a health probe may take.
const PROBE: Duration = Duration::from_secs(2);
/// Requests that may wait for the worker; whoever asks beyond that waits.
const QUEUE: usize = 16;

/// What a worker is asked to do.
pub(super) enum Request {
    Apply { now: i64, ops: Vec<Op>, answer: oneshot::Sender<Result<Vec<Outcome>, StoreError>> },
    Sweep { now: i64, answer: oneshot::Sender<Result<u64, StoreError>> },
    Tick { now: i64 },
    Ready { answer: oneshot::Sender<bool> },
    Close { answer: oneshot::Sender<()> },
}

/// Where unread messages are kept.
#[derive(Debug)]
pub struct Store {
    requests: mpsc::Sender<Request>,
    kind: &'static str,
}

impl Store {
    /// Opens `sqlite:PATH`, `redis://HOST`, `rediss://HOST` or `memory:`. `node` names this relay
    /// among several. Runs in a tokio runtime with time and I/O.
    ///
    /// # Errors
    /// One line that says what is wrong with the URL or with what is behind it; no credentials.
    pub async fn open(url: &str, caps: Caps, node: &str) -> Result<Self, StoreError> {
        let (scheme, rest) = url.split_once(':').unwrap_or((url, ""));
        let (requests, waiting) = mpsc::channel(QUEUE);
        let kind = match scheme {
            "sqlite" if !rest.is_empty() => {
                sqlite::start(Some(rest.into()), caps, waiting).await?;
                "sqlite"
            }
            "memory" if rest.is_empty() => {
                sqlite::start(None, caps, waiting).await?;
                "memory"
            }
            "redis" | "rediss" => {
                redis::start(url, caps, node, waiting).await?;
                "redis"
            }
            // The rest of the URL may hold a password and is not repeated.
            _ => {
                return Err(StoreError::Broken(format!(
                    "store.url: `{scheme}:` is no store; there are sqlite:PATH, redis://HOST, \
                     rediss://HOST and memory:"
                )));
            }
        };
        tick(requests.downgrade());
        Ok(Self { requests, kind })
    }

    /// `sqlite`, `memory` or `redis`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Whether presence is known in this process alone, so that it may be asked there.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.kind != "redis"
    }

    /// Applies the operations in order, each atomically, with one answer each; SQLite in one
    /// transaction. A page may hold a mebibyte: few of them belong in one call.
    ///
    /// # Errors
    /// Where not all could be done. None counts as done then, and doing them again is harmless.
    pub async fn apply(&self, ops: Vec<Op>) -> Result<Vec<Outcome>, StoreError> {
        self.apply_at(now(), ops).await
    }

    /// [`Store::apply`] with a clock of one's own: milliseconds since 1970.
    ///
    /// # Errors
    /// As [`Store::apply`].
    #[doc(hidden)]
    pub async fn apply_at(&self, now: i64, ops: Vec<Op>) -> Result<Vec<Outcome>, StoreError> {
        self.ask(|answer| Request::Apply { now, ops, answer }).await?
    }

    /// Removes some of the messages past their age, as the worker does by itself now and then;
    /// answers how many.
    ///
    /// # Errors
    /// As [`Store::apply`].
    #[doc(hidden)]
    pub async fn sweep_at(&self, now: i64) -> Result<u64, StoreError> {
        self.ask(|answer| Request::Sweep { now, answer }).await?
    }

    /// Whether the store answers within 2 s, and takes writes as far as is known.
    pub async fn ready(&self) -> bool {
        let asked = self.ask(|answer| Request::Ready { answer });
        matches!(tokio::time::timeout(PROBE, asked).await, Ok(Ok(true)))
    }

    /// Finishes what waits, then closes; whatever is asked later is `Unavailable`.
    pub async fn close(&self) {
        // An error means that it is closed already.
        drop(self.ask(|answer| Request::Close { answer }).await);
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let closed = || StoreError::Unavailable("the store is closed".into());
        self.requests.send(request(answer)).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())
    }
}

/// Lets the worker look after leases and age until the store is closed or dropped.
fn tick(requests: mpsc::WeakSender<Request>) {
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(TICK).await;
            let Some(requests) = requests.upgrade() else { return };
            if requests.send(Request::Tick { now: now() }).await.is_err() {
                return;
            }
        }
    });
}

/// Milliseconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
