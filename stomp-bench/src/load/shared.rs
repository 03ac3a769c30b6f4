//! What publishers and subscribers of a run know of each other: counters.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;

use futures_util::task::AtomicWaker;
use hdrhistogram::Histogram;

use super::publisher::Pace;
use crate::stamp::Stamp;
use crate::{Failure, Result};

/// A microsecond, and a minute: what latencies are told apart.
const SHORTEST: u64 = 1_000;
const LONGEST: u64 = 60_000_000_000;

/// The counters.
#[derive(Debug)]
pub(super) struct Shared {
    lanes: Vec<Lane>,
    delivered: AtomicU64,
    reads: AtomicU64,
    closed_slow: AtomicU64,
    is_recording: AtomicBool,
    histogram: Mutex<Histogram<u64>>,
    is_stopped: AtomicBool,
    failure: OnceLock<String>,
}

/// One publisher's.
#[derive(Debug)]
pub(super) struct Lane {
    /// Deliveries that its messages are to become.
    owed: AtomicU64,
    delivered: AtomicU64,
    /// How many may be under way before another message, in deliveries.
    window: Option<u64>,
    is_waiting: AtomicBool,
    waker: AtomicWaker,
}

impl Lane {
    /// `fan` is how many deliveries a message is.
    pub(super) fn new(fan: u64, pace: Pace) -> Self {
        let window = match pace {
            Pace::Window(messages) => Some((messages as u64).saturating_sub(1) * fan),
            Pace::Rate(_) => None,
        };
        Self {
            owed: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            window,
            is_waiting: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }
    }

    /// Whether the window has room for another message.
    pub(super) fn has_room(&self) -> bool {
        // A queue may deliver twice.
        let delivered = self.delivered.load(Ordering::Relaxed);
        let under_way = self.owed.load(Ordering::Relaxed).saturating_sub(delivered);
        self.window.is_none_or(|window| under_way <= window)
    }

    /// Whether something of it is still to come.
    pub(super) fn is_owed(&self) -> bool {
        self.owed.load(Ordering::Relaxed) > self.delivered.load(Ordering::Relaxed)
    }

    /// A message is about to be written.
    pub(super) fn owe(&self, deliveries: u64) {
        self.owed.fetch_add(deliveries, Ordering::Relaxed);
    }

    /// Asks to be woken when there is room. The caller looks once more after it.
    pub(super) fn wait(&self, waker: &Waker) {
        self.waker.register(waker);
        self.is_waiting.store(true, Ordering::SeqCst);
    }

    fn deliver(&self, count: u64) {
        self.delivered.fetch_add(count, Ordering::SeqCst);
        if self.is_waiting.load(Ordering::SeqCst) && self.has_room() {
            self.is_waiting.store(false, Ordering::SeqCst);
            self.waker.wake();
        }
    }
}

impl Shared {
    pub(super) fn new(lanes: Vec<Lane>) -> Result<Self> {
        let histogram = Histogram::new_with_bounds(SHORTEST, LONGEST, 3)
            .map_err(|error| Failure(error.to_string()))?;
        Ok(Self {
            lanes,
            delivered: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            closed_slow: AtomicU64::new(0),
            is_recording: AtomicBool::new(false),
            histogram: Mutex::new(histogram),
            is_stopped: AtomicBool::new(false),
            failure: OnceLock::new(),
        })
    }

    pub(super) fn lane(&self, publisher: usize) -> Option<&Lane> {
        self.lanes.get(publisher)
    }

    pub(super) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    pub(super) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Deliveries that are owed and have not come.
    pub(super) fn missing(&self) -> u64 {
        let owed: u64 = self.lanes.iter().map(|lane| lane.owed.load(Ordering::Relaxed)).sum();
        owed.saturating_sub(self.delivered())
    }

    pub(super) fn record(&self, on: bool) {
        self.is_recording.store(on, Ordering::Relaxed);
    }

    /// No publisher sends any more.
    pub(super) fn stop(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        self.lanes.iter().for_each(|lane| lane.waker.wake());
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::SeqCst)
    }

    /// The first failure is the one that is told.
    pub(super) fn fail(&self, text: String) {
        // What fails after it is a consequence.
        let _ = self.failure.set(text);
    }

    pub(super) fn check(&self) -> Result<()> {
        self.failure.get().map_or(Ok(()), |text| Err(Failure(text.clone())))
    }

    pub(super) fn slow_was_closed(&self) {
        self.closed_slow.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn closed_slow(&self) -> u64 {
        self.closed_slow.load(Ordering::Relaxed)
    }

    pub(super) fn with_histogram<R>(&self, show: impl FnOnce(&Histogram<u64>) -> R) -> R {
        show(&self.histogram())
    }

    fn histogram(&self) -> MutexGuard<'_, Histogram<u64>> {
        self.histogram.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts what one read brought: the shared counters are touched once for a run of messages of
/// one publisher.
pub(super) struct Tally<'a> {
    shared: &'a Shared,
    histogram: Option<MutexGuard<'a, Histogram<u64>>>,
    publisher: u32,
    run: u64,
    count: u64,
}

impl<'a> Tally<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        let is_recording = shared.is_recording.load(Ordering::Relaxed);
        let histogram = is_recording.then(|| shared.histogram());
        Self { shared, histogram, publisher: 0, run: 0, count: 0 }
    }

    /// A message with this stamp was read at `now`.
    pub(super) fn message(&mut self, stamp: Stamp, now: u64) {
        if stamp.publisher != self.publisher {
            self.end_run();
            self.publisher = stamp.publisher;
        }
        self.run += 1;
        if let Some(histogram) = &mut self.histogram {
            histogram.saturating_record(now.saturating_sub(stamp.due));
        }
    }

    fn end_run(&mut self) {
        let run = std::mem::take(&mut self.run);
        if run == 0 {
            return;
        }
        self.count += run;
        match self.shared.lane(self.publisher as usize) {
            Some(lane) => lane.deliver(run),
            None => self.shared.fail("a message that none of these publishers sent".into()),
        }
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        self.end_run();
        if self.count > 0 {
            self.shared.delivered.fetch_add(self.count, Ordering::Relaxed);
            self.shared.reads.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn the_window_counts_messages_and_wakes_once() {
        // Two messages of three deliveries each.
        let shared = Shared::new(vec![Lane::new(3, Pace::Window(2))]).unwrap();
        let lane = shared.lane(0).unwrap();
        for _ in 0..2 {
            assert!(lane.has_room());
            lane.owe(3);
        }
        assert!(!lane.has_room());
        let count = Arc::new(Count(AtomicUsize::new(0)));
        lane.wait(&Waker::from(count.clone()));
        let stamp = Stamp { due: 5, publisher: 0 };
        let deliver = |count| {
            let mut tally = Tally::new(&shared);
            (0..count).for_each(|_| tally.message(stamp, 9));
        };
        deliver(2);
        assert_eq!((lane.has_room(), count.0.load(Ordering::SeqCst)), (false, 0));
        deliver(1);
        assert_eq!((lane.has_room(), count.0.load(Ordering::SeqCst)), (true, 1));
        shared.record(true);
        deliver(3);
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert_eq!((shared.delivered(), shared.reads(), shared.missing()), (6, 3, 0));
        assert_eq!(shared.with_histogram(|histogram| histogram.len()), 3);
    }

    #[test]
    fn a_stranger_among_the_messages_is_a_failure() {
        let shared = Shared::new(vec![Lane::new(1, Pace::Rate(1.0))]).unwrap();
        Tally::new(&shared).message(Stamp { due: 0, publisher: 7 }, 1);
        assert!(shared.check().is_err());
    }
}
