//! Wrong passwords, counted per address and user, so that guessing takes for ever.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(60);
/// How many pairs of address and user are counted at once.
const MAX_ENTRIES: usize = 10_000;

/// The counts of the last minute.
#[derive(Debug)]
pub(super) struct Failures {
    /// None: nothing is limited.
    limit: Option<NonZeroU32>,
    windows: Mutex<HashMap<(IpAddr, String), Window>>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    count: u32,
}

impl Failures {
    pub(super) fn new(limit: Option<NonZeroU32>) -> Self {
        Self { limit, windows: Mutex::default() }
    }

    /// How long the pair has to wait, where it has failed too often.
    pub(super) fn wait(&self, peer: IpAddr, user: &str, now: Instant) -> Option<Duration> {
        let limit = self.limit?;
        let windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let window = windows.get(&(network(peer), user.to_owned()))?;
        let rest = WINDOW.checked_sub(now.saturating_duration_since(window.began))?;
        (window.count >= limit.get() && !rest.is_zero()).then_some(rest)
    }

    /// Counts one failure.
    pub(super) fn record(&self, peer: IpAddr, user: &str, now: Instant) {
        if self.limit.is_none() {
            return;
        }
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (network(peer), user.to_owned());
        let over = |window: &Window| now.saturating_duration_since(window.began) >= WINDOW;
        if !windows.contains_key(&key) && windows.len() >= MAX_ENTRIES {
            windows.retain(|_, window| !over(window));
            // Whoever invents names to push out a count pushes out invented ones first.
            let least = windows.iter().min_by_key(|(_, window)| window.count);
            if let Some(least) = least.map(|(key, _)| key.clone())
                && windows.len() >= MAX_ENTRIES
            {
                windows.remove(&least);
            }
        }
        let window = windows.entry(key).or_insert(Window { began: now, count: 0 });
        if over(window) {
            *window = Window { began: now, count: 0 };
        }
        window.count = window.count.saturating_add(1);
    }
}

/// Who has one IPv6 address has the 2^64 around it too.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pair_that_failed_waits_and_only_for_a_minute() {
        let failures = Failures::new(NonZeroU32::new(3));
        let (now, own): (_, IpAddr) = (Instant::now(), "10.0.0.1".parse().unwrap());
        for _ in 0..3 {
            assert_eq!(failures.wait(own, "alice", now), None);
            failures.record(own, "alice", now);
        }
        let later = now + Duration::from_secs(20);
        assert_eq!(failures.wait(own, "alice", later), Some(Duration::from_secs(40)));
        assert_eq!(failures.wait("::ffff:10.0.0.1".parse().unwrap(), "alice", now), Some(WINDOW));
        assert_eq!(failures.wait(own, "bob", now), None);
        assert_eq!(failures.wait("10.0.0.2".parse().unwrap(), "alice", now), None);
        assert_eq!(failures.wait(own, "alice", now + WINDOW), None);
        failures.record(own, "alice", now + WINDOW);
        assert_eq!(failures.wait(own, "alice", now + WINDOW), None);
    }

    #[test]
    fn a_block_of_ipv6_is_one_address() {
        let failures = Failures::new(NonZeroU32::new(1));
        let now = Instant::now();
        failures.record("2001:db8::1".parse().unwrap(), "alice", now);
        assert!(failures.wait("2001:db8::2".parse().unwrap(), "alice", now).is_some());
        assert!(failures.wait("2001:db8:0:1::1".parse().unwrap(), "alice", now).is_none());
    }

    #[test]
    fn invented_names_do_not_push_out_a_count() {
        let failures = Failures::new(NonZeroU32::new(2));
        let (now, own): (_, IpAddr) = (Instant::now(), "10.0.0.1".parse().unwrap());
        failures.record(own, "alice", now);
        failures.record(own, "alice", now);
        // A few more than there is room for; each of these costs a search.
        for number in 0..MAX_ENTRIES + 20 {
            failures.record(own, &number.to_string(), now);
        }
        assert!(failures.wait(own, "alice", now).is_some());
        assert_eq!(failures.windows.lock().unwrap().len(), MAX_ENTRIES);
    }

    #[test]
    fn off() {
        let failures = Failures::new(None);
        let (now, own): (_, IpAddr) = (Instant::now(), "10.0.0.1".parse().unwrap());
        for _ in 0..100 {
            failures.record(own, "alice", now);
        }
        assert_eq!(failures.wait(own, "alice", now), None);
    }
}
