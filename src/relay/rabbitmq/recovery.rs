//! After an outage subscriptions come back before anything is published: what a session sends to
//! a topic then reaches those who listened before. Pure but for the waiting.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// Nobody waits longer for a subscription that does not come back.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which subscriptions have lost their connection and are not back yet.
#[derive(Clone, Debug)]
pub(super) struct Recovery(Arc<watch::Sender<Books>>);

#[derive(Clone, Copy, Debug, Default)]
struct Books {
    missing: usize,
    /// When the last one went.
    last: Option<Instant>,
}

/// A subscription without its connection, until this is dropped.
#[derive(Debug)]
pub(super) struct Missing(Recovery);

impl Default for Recovery {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Books::default())))
    }
}

impl Recovery {
    /// A subscription is without its connection from now on.
    pub(super) fn lost(&self) -> Missing {
        self.0.send_modify(|books| {
            books.missing += 1;
            books.last = Some(Instant::now());
        });
        Missing(self.clone())
    }

    /// Until when whoever publishes, on a channel that he has had since `since`, is to wait at
    /// most. `None`: he need not.
    pub(super) fn hold(&self, since: Instant, now: Instant) -> Option<Instant> {
        let books = *self.0.borrow();
        let until = books.last.map_or(since, |last| last.max(since)) + PATIENCE;
        (books.missing > 0 && until > now).then_some(until)
    }

    /// Waits until all are back, or until then.
    pub(super) async fn over(&self, until: Option<Instant>) {
        let Some(until) = until else { return std::future::pending().await };
        let mut books = self.0.subscribe();
        let all_back = books.wait_for(|books| books.missing == 0);
        // It is over either way.
        drop(tokio::time::timeout_at(until.into(), all_back).await);
    }
}

impl Drop for Missing {
    fn drop(&mut self) {
        self.0.0.send_modify(|books| books.missing = books.missing.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_publishes_waits_for_those_who_listen_and_not_for_ever() {
        let recovery = Recovery::default();
        let start = Instant::now();
        assert_eq!(recovery.hold(start, start), None);
        let (first, second) = (recovery.lost(), recovery.lost());
        let later = Instant::now() + Duration::from_secs(60);
        let until = recovery.hold(later, later).unwrap();
        assert_eq!(until, later + PATIENCE);
        assert_eq!(recovery.hold(later, until), None);
        // One that goes while others publish is waited for as well.
        assert!(recovery.hold(start - PATIENCE * 2, Instant::now()).is_some());
        drop(first);
        assert!(recovery.hold(later, later).is_some());
        let waiting = tokio::spawn({
            let recovery = recovery.clone();
            async move { recovery.over(Some(until)).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(second);
        waiting.await.unwrap();
        assert_eq!(recovery.hold(later, later), None);
    }
}
