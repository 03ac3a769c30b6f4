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
    seen: HashMap<u64, Instant>,
    order: VecDeque<(u64, Instant)>,
}

impl Recent {
    /// Notes that `id` came from `queue`; whether it had come from there in the last 60 s.
    pub(super) fn note(&mut self, queue: &str, id: Ulid, now: Instant) -> bool {
        while let Some((oldest, at)) = self.order.front().copied()
            && (now.duration_since(at) >= WINDOW || self.order.len() >= MOST)
        {
            self.order.pop_front();
            // One that came again meanwhile has a later entry.
            if self.seen.get(&oldest) == Some(&at) {
                self.seen.remove(&oldest);
            }
        }
        let key = self.hasher.hash_one((queue, id));
        self.order.push_back((key, now));
        self.seen.insert(key, now).is_some()
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
            ("a", id, 0, false),
            ("b", id, 1, false),
            ("a", Ulid::from_parts(1, 2), 1, false),
            ("a", id, 59, true),
            ("a", id, 100, true),
            ("b", id, 61, false),
            ("a", id, 161, false),
        ];
        for (queue, id, at, expected) in cases {
            let now = start + Duration::from_secs(at);
            assert_eq!(recent.note(queue, id, now), expected, "{queue} at {at}");
        }
    }

    #[test]
    fn holds_so_many_and_no_more() {
        let mut recent = Recent::default();
        let now = Instant::now();
        for number in 0..MOST as u128 + 10 {
            recent.note("q", Ulid::from_parts(1, number), now);
        }
        assert_eq!((recent.seen.len(), recent.order.len()), (MOST, MOST));
        assert!(!recent.note("q", Ulid::from_parts(1, 0), now));
    }
}
