//! What RabbitMQ is known to have, and what it lately said no to. Pure.
//!
//! Names come from clients, so nothing is remembered without end. A no is remembered longer each
//! time, so that a client that does not give up costs a closed channel now and then and not one
//! for each of its messages.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::relay::origin::Declaration;

/// Of each kind.
const MOST: usize = 10_000;
/// How long somebody is taken to be still denied what RabbitMQ has denied: the first time, the
/// second, which then doubles, and at most.
pub(super) const DENIED: (Duration, Duration, Duration) =
    (Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(60));

#[derive(Debug, Default)]
pub(super) struct Known {
    queues: HashMap<Arc<str>, Declaration>,
    exchanges: HashSet<Arc<str>>,
    /// Exchanges that were not there. Somebody may be about to declare one.
    absent: Refusals<Arc<str>>,
    /// Exchanges that the relay may not publish to, or not with that key.
    denied: Refusals<(Arc<str>, Option<Arc<str>>)>,
}

impl Known {
    /// Whether the queue is there as declared like that.
    pub(super) fn has_queue(&self, name: &str, declaration: &Declaration) -> bool {
        self.queues.get(name) == Some(declaration)
    }

    pub(super) fn add_queue(&mut self, name: &Arc<str>, declaration: &Declaration) {
        if self.queues.len() >= MOST {
            self.queues.clear();
        }
        self.queues.insert(name.clone(), declaration.clone());
    }

    pub(super) fn forget_queue(&mut self, name: &str) {
        self.queues.remove(name);
    }

    pub(super) fn has_exchange(&self, name: &str) -> bool {
        self.exchanges.contains(name)
    }

    pub(super) fn add_exchange(&mut self, name: &Arc<str>) {
        if self.exchanges.len() >= MOST {
            self.exchanges.clear();
        }
        self.exchanges.insert(name.clone());
        self.absent.forget(name);
    }

    pub(super) fn forget_exchanges(&mut self) {
        self.exchanges.clear();
    }

    /// There is no such exchange. The first time nothing is remembered: who sends too early
    /// tries again.
    pub(super) fn add_absent(&mut self, name: &Arc<str>, now: Instant) {
        self.exchanges.remove(name);
        let pauses = (Duration::ZERO, Duration::from_millis(100), Duration::from_secs(5));
        self.absent.add(name.clone(), pauses, now);
    }

    pub(super) fn is_absent(&self, name: &Arc<str>, now: Instant) -> bool {
        self.absent.holds(name, now)
    }

    /// The relay may not publish there; `key`: where it is about that key only.
    pub(super) fn add_denied(&mut self, name: &str, key: Option<&Arc<str>>, now: Instant) {
        self.denied.add((Arc::from(name), key.cloned()), DENIED, now);
    }

    pub(super) fn is_denied(&self, name: &str, key: &Arc<str>, now: Instant) -> bool {
        if self.denied.is_empty() {
            return false;
        }
        let name = Arc::<str>::from(name);
        self.denied.holds(&(name.clone(), None), now)
            || self.denied.holds(&(name, Some(key.clone())), now)
    }

    /// RabbitMQ was away, and who knows what it did meanwhile.
    pub(super) fn forget_all(&mut self) {
        *self = Self::default();
    }
}

/// Who was told no, how often, and until when nobody needs to ask again.
#[derive(Debug)]
pub(super) struct Refusals<K>(HashMap<K, (u32, Instant)>);

impl<K> Default for Refusals<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Refusals<K> {
    /// `pauses`: the first, the second, which then doubles, and the longest.
    pub(super) fn add(&mut self, key: K, pauses: (Duration, Duration, Duration), now: Instant) {
        let (first, second, longest) = pauses;
        if self.0.len() >= MOST {
            self.0.clear();
        }
        let (times, until) = self.0.entry(key).or_insert((0, now));
        if now.saturating_duration_since(*until) > longest {
            // That was another story.
            *times = 0;
        }
        let pause = match *times {
            0 => first,
            more => second.saturating_mul(1 << (more - 1).min(10)).min(longest),
        };
        *times += 1;
        *until = now + pause;
    }

    pub(super) fn holds(&self, key: &K, now: Instant) -> bool {
        self.0.get(key).is_some_and(|(_, until)| now < *until)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn forget(&mut self, key: &K) {
        self.0.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Arc<str> {
        Arc::from(text)
    }

    #[test]
    fn a_queue_is_known_as_it_was_declared() {
        let mut known = Known::default();
        known.add_queue(&name("q"), &Declaration::QUEUE);
        assert!(known.has_queue("q", &Declaration::QUEUE));
        let other = Declaration { auto_delete: true, ..Declaration::QUEUE };
        assert!(!known.has_queue("q", &other) && !known.has_queue("r", &Declaration::QUEUE));
        known.forget_queue("q");
        assert!(!known.has_queue("q", &Declaration::QUEUE));
    }

    #[test]
    fn an_exchange_that_is_not_there_is_asked_for_less_and_less_often() {
        let mut known = Known::default();
        let (e, mut now) = (name("e"), Instant::now());
        known.add_exchange(&e);
        for pause in [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            known.add_absent(&e, now);
            assert!(!known.has_exchange("e"));
            let pause = Duration::from_millis(pause);
            assert!(pause.is_zero() || known.is_absent(&e, now + pause / 2));
            now += pause;
            assert!(!known.is_absent(&e, now), "{pause:?}");
        }
        // Once it was there, or after a while, that is forgotten.
        known.add_exchange(&e);
        known.add_absent(&e, now);
        known.add_absent(&e, now);
        assert!(!known.is_absent(&e, now + Duration::from_millis(100)));
        now += Duration::from_secs(6);
        known.add_absent(&e, now);
        assert!(!known.is_absent(&e, now));
        assert!(!known.is_absent(&name("f"), now));
    }

    #[test]
    fn a_denied_key_is_not_a_denied_exchange() {
        let mut known = Known::default();
        let now = Instant::now();
        let (e, f, k) = (name("e"), name("f"), name("k"));
        known.add_denied(&e, Some(&k), now);
        known.add_denied(&f, None, now);
        assert!(known.is_denied(&e, &k, now) && !known.is_denied(&e, &name("l"), now));
        assert!(known.is_denied(&f, &k, now));
        assert!(!known.is_denied(&f, &k, now + Duration::from_secs(1)));
        // That it is there says nothing about it.
        known.add_exchange(&f);
        assert!(known.is_denied(&f, &k, now));
    }

    #[test]
    fn names_without_end_are_not_remembered() {
        let mut known = Known::default();
        let now = Instant::now();
        for number in 0..MOST + 10 {
            let name = name(&number.to_string());
            known.add_queue(&name, &Declaration::QUEUE);
            known.add_exchange(&name);
            known.add_absent(&name, now);
            known.add_denied(&name, None, now);
        }
        let sizes =
            [known.queues.len(), known.exchanges.len(), known.absent.0.len(), known.denied.0.len()];
        assert!(sizes.iter().all(|size| *size <= MOST), "{sizes:?}");
    }
}
