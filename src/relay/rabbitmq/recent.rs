//! The `x-id`s that came from RabbitMQ lately: by them a message that a relay published twice
//! is told from one that only looks so. Pure.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use ulid::Ulid;

const WINDOW: Duration = Duration::from_secs(60);
/// About 5 MiB. When more come in 60 s, the oldest are forgotten and a duplicate may pass,
/// marked as redelivered.
const MOST: usize = 100_000;

#[derive(Debug, Default)]
pub(super) struct Recent {
    hasher: RandomState,
    /// When it came last, and whether it was one that was published again, now or before.
    seen: HashMap<u64, (Instant, bool)>,
    order: VecDeque<(u64, Instant)>,
}

impl Recent {
    /// Notes that `id` came from `queue`. True where it is the same message a second time: it had
    /// come from there in the last 60 s, and one of the two was published again. Which of them is
    /// first in the queue is chance where a broker that hung goes on with both connections.
    pub(super) fn note(&mut self, queue: &str, id: Ulid, republished: bool, now: Instant) -> bool {
        while let Some((oldest, at)) = self.order.front().copied()
            && (now.duration_since(at) >= WINDOW || self.order.len() >= MOST)
        {
            self.order.pop_front();
            // One that came again meanwhile has a later entry.
            if self.seen.get(&oldest).is_some_and(|(last, _)| *last == at) {
                self.seen.remove(&oldest);
            }
        }
        let key = self.hasher.hash_one((queue, id));
        self.order.push_back((key, now));
        let before = self.seen.insert(key, (now, republished));
        let Some((_, was_republished)) = before else { return false };
        if was_republished {
            self.seen.insert(key, (now, true));
        }
        republished || was_republished
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_id_from_the_same_queue_within_a_minute() {
        let mut recent = Recent::default();
        let start = Instant::now();
        let id = Ulid::from_parts(1, 1);
        let cases = [
            ("a", id, false, 0, false),
            ("b", id, true, 1, false),
            ("a", Ulid::from_parts(1, 2), true, 1, false),
            // Twice, and never published again: somebody else's business.
            ("a", id, false, 59, false),
            ("a", id, true, 100, true),
            ("a", id, false, 101, true),
            ("a", id, false, 102, true),
            ("b", id, false, 61, false),
            ("b", id, false, 62, false),
            ("a", id, true, 162, false),
        ];
        for (queue, id, republished, at, expected) in cases {
            let now = start + Duration::from_secs(at);
            let is_duplicate = recent.note(queue, id, republished, now);
            assert_eq!(is_duplicate, expected, "{queue} at {at}");
        }
    }

    #[test]
    fn holds_so_many_and_no_more() {
        let mut recent = Recent::default();
        let now = Instant::now();
        for number in 0..MOST as u128 + 10 {
            recent.note("q", Ulid::from_parts(1, number), true, now);
        }
        assert_eq!((recent.seen.len(), recent.order.len()), (MOST, MOST));
        assert!(!recent.note("q", Ulid::from_parts(1, 0), true, now));
    }
}
