//! Which topic patterns the node queue is bound to, and who uses them. Pure.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lapin::types::ShortString;

use crate::relay::mailbox::{Mailbox, Token};

/// A binding outlives its last user by as much: people reload pages.
const LINGER: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Bindings {
    patterns: HashMap<Arc<str>, Binding>,
    /// Patterns to bind, oldest first.
    wanted: VecDeque<Arc<str>>,
    queue: ShortString,
}

#[derive(Debug, Default)]
struct Binding {
    users: usize,
    /// When the last user went.
    unused: Option<Instant>,
    bound: bool,
    waiters: Vec<(Arc<Mailbox>, Token)>,
}

impl Bindings {
    /// One user more. Whether the pattern is bound already; else `waiter` is given back when it
    /// is.
    pub(super) fn acquire(
        &mut self,
        pattern: &Arc<str>,
        waiter: Option<(Arc<Mailbox>, Token)>,
    ) -> bool {
        let known = self.patterns.contains_key(pattern);
        let binding = self.patterns.entry(pattern.clone()).or_default();
        binding.users += 1;
        binding.unused = None;
        if !binding.bound {
            binding.waiters.extend(waiter);
        }
        if !known {
            self.wanted.push_back(pattern.clone());
        }
        binding.bound
    }

    /// One user less.
    pub(super) fn release(&mut self, pattern: &Arc<str>, now: Instant) {
        if let Some(binding) = self.patterns.get_mut(pattern) {
            binding.users = binding.users.saturating_sub(1);
            if binding.users == 0 {
                binding.unused = Some(now);
            }
        }
    }

    /// A pattern to bind.
    pub(super) fn next_wanted(&mut self) -> Option<Arc<str>> {
        self.wanted.pop_front()
    }

    /// The pattern is bound; those who waited for it.
    pub(super) fn bound(&mut self, pattern: &Arc<str>) -> Vec<(Arc<Mailbox>, Token)> {
        match self.patterns.get_mut(pattern) {
            Some(binding) => {
                binding.bound = true;
                std::mem::take(&mut binding.waiters)
            }
            None => Vec::new(),
        }
    }

    /// Patterns to unbind: without users for a minute. They are forgotten here.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Arc<str>> {
        let late = |binding: &Binding| {
            binding.bound && binding.unused.is_some_and(|since| now.duration_since(since) >= LINGER)
        };
        let expired: Vec<_> = self
            .patterns
            .iter()
            .filter(|(_, binding)| late(binding))
            .map(|(pattern, _)| pattern.clone())
            .collect();
        for pattern in &expired {
            self.patterns.remove(pattern);
        }
        expired
    }

    /// The queue that all patterns are bound to.
    pub(super) fn queue(&self) -> ShortString {
        self.queue.clone()
    }

    /// The queue is a new one without bindings. What has users is to be bound again.
    pub(super) fn reset(&mut self, queue: ShortString) {
        self.queue = queue;
        self.patterns.retain(|_, binding| {
            binding.bound = false;
            binding.users > 0
        });
        self.wanted = self.patterns.keys().cloned().collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::mailbox::MailboxLimits;

    fn waiter(token: u64) -> Option<(Arc<Mailbox>, Token)> {
        Some((Mailbox::new(token, MailboxLimits { frames: 1, bytes: 1 }), token))
    }

    fn tokens(waiters: &[(Arc<Mailbox>, Token)]) -> Vec<Token> {
        waiters.iter().map(|(_, token)| *token).collect()
    }

    #[test]
    fn one_binding_per_pattern_however_many_users() {
        let mut bindings = Bindings::default();
        let pattern: Arc<str> = Arc::from("a.#");
        let start = Instant::now();
        assert!(!bindings.acquire(&pattern, waiter(1)));
        assert!(!bindings.acquire(&pattern, waiter(2)));
        assert_eq!(bindings.next_wanted().as_ref(), Some(&pattern));
        assert_eq!(bindings.next_wanted(), None);
        assert_eq!(tokens(&bindings.bound(&pattern)), [1, 2]);
        assert!(bindings.acquire(&pattern, waiter(3)));
        for _ in 0..2 {
            bindings.release(&pattern, start);
        }
        assert!(bindings.expire(start + LINGER).is_empty());
        bindings.release(&pattern, start);
        assert!(bindings.expire(start + LINGER - Duration::from_millis(1)).is_empty());
        assert!(bindings.acquire(&pattern, None));
        assert!(bindings.expire(start + LINGER).is_empty());
        bindings.release(&pattern, start + LINGER);
        assert_eq!(bindings.expire(start + LINGER * 2), std::slice::from_ref(&pattern));
        assert!(!bindings.acquire(&pattern, None));
        assert_eq!(bindings.next_wanted(), Some(pattern));
    }

    #[test]
    fn after_a_reset_what_has_users_is_bound_again() {
        let mut bindings = Bindings::default();
        let patterns: [Arc<str>; 3] = [Arc::from("used"), Arc::from("unused"), Arc::from("new")];
        for (pattern, token) in patterns.iter().zip(1..) {
            bindings.acquire(pattern, waiter(token));
        }
        for pattern in &patterns[..2] {
            bindings.bound(pattern);
        }
        bindings.release(&patterns[1], Instant::now());
        bindings.reset("q2".into());
        assert_eq!(bindings.queue().as_str(), "q2");
        let mut wanted = Vec::from_iter(std::iter::from_fn(|| bindings.next_wanted()));
        wanted.sort();
        assert_eq!(wanted, [patterns[2].clone(), patterns[0].clone()]);
        assert_eq!(tokens(&bindings.bound(&patterns[2])), [3]);
        assert!(bindings.acquire(&patterns[2], None));
    }
}
