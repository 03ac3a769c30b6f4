//! What this node's shared queues are bound to, and who uses each binding. Pure.
//!
//! A key is a [`Topic`](crate::destination::Topic) of the node queue, or an
//! [`Exchange`](crate::destination::Exchange) with a queue of its own. How many sessions use one
//! does not matter.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::relay::error::{Refusal, RefusalKind};
use crate::relay::mailbox::{Event, Level, Mailbox, SubscriptionNumber, Token};

/// A binding outlives its last user by as much: people reload pages.
const LINGER: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Bindings<K> {
    entries: HashMap<K, Entry>,
    /// What to bind, oldest first.
    wanted: VecDeque<K>,
    sessions: HashMap<u64, Session<K>>,
    /// Bound longer ago, it is bound once more for a newcomer. `None`: bound is bound.
    fresh: Option<Duration>,
}

#[derive(Debug, Default)]
struct Entry {
    users: usize,
    /// When the last user went.
    unused: Option<Instant>,
    /// On the connection that there is now.
    bound: Option<Instant>,
    is_wanted: bool,
    waiters: Vec<Waiter>,
}

#[derive(Debug)]
struct Session<K> {
    mailbox: Arc<Mailbox>,
    subscriptions: Vec<(SubscriptionNumber, K)>,
}

/// Who waits to hear that it is bound.
#[derive(Clone, Debug)]
pub(super) struct Waiter {
    pub(super) to: Arc<Mailbox>,
    pub(super) subscription: SubscriptionNumber,
    pub(super) token: Option<Token>,
}

impl Waiter {
    fn is(&self, session: u64, subscription: SubscriptionNumber) -> bool {
        self.to.session() == session && self.subscription == subscription
    }
}

/// Who loses a subscription because RabbitMQ does not bind it.
#[derive(Debug, Default)]
pub(super) struct Refused {
    /// Those who asked.
    pub(super) waiters: Vec<Waiter>,
    /// Those who had it, before an outage.
    pub(super) holders: Vec<(Arc<Mailbox>, SubscriptionNumber)>,
}

impl Refused {
    /// Tells them, once `forget` has forgotten the subscription (its session and number).
    pub(super) fn tell(self, refusal: &Refusal, mut forget: impl FnMut(u64, SubscriptionNumber)) {
        for Waiter { to, subscription, token } in self.waiters {
            forget(to.session(), subscription);
            if let Some(token) = token {
                to.event(Event::Done { token, result: Err(refusal.clone()) });
            }
        }
        for (to, subscription) in self.holders {
            forget(to.session(), subscription);
            let refusal = Refusal { kind: RefusalKind::Cancelled, ..refusal.clone() };
            to.event(Event::Cancelled { subscription, refusal });
        }
    }
}

/// Tells those who waited that it is bound.
pub(super) fn confirm(waiters: Vec<Waiter>) {
    for Waiter { to, token, .. } in waiters {
        if let Some(token) = token {
            to.event(Event::Done { token, result: Ok(Level::Confirmed) });
        }
    }
}

impl<K: Clone + Eq + Hash> Bindings<K> {
    pub(super) fn new(fresh: Option<Duration>) -> Self {
        let (entries, wanted, sessions) = (HashMap::new(), VecDeque::new(), HashMap::new());
        Self { entries, wanted, sessions, fresh }
    }

    /// One user more. Whether it is bound already; else the waiter is given back when it is.
    pub(super) fn subscribe(&mut self, waiter: Waiter, key: K, now: Instant) -> bool {
        let entry = self.entries.entry(key.clone()).or_default();
        entry.users += 1;
        entry.unused = None;
        let is_fresh = entry.bound.is_some_and(|at| {
            self.fresh.is_none_or(|fresh| now.saturating_duration_since(at) < fresh)
        });
        let session = self
            .sessions
            .entry(waiter.to.session())
            .or_insert_with(|| Session { mailbox: waiter.to.clone(), subscriptions: Vec::new() });
        session.subscriptions.push((waiter.subscription, key.clone()));
        if is_fresh {
            return true;
        }
        entry.waiters.push(waiter);
        if !entry.is_wanted {
            entry.is_wanted = true;
            self.wanted.push_back(key);
        }
        false
    }

    /// One user less; what it was subscribed to.
    pub(super) fn unsubscribe(
        &mut self,
        session: u64,
        subscription: SubscriptionNumber,
        now: Instant,
    ) -> Option<K> {
        let known = self.sessions.get_mut(&session)?;
        let place = known.subscriptions.iter().position(|(number, _)| *number == subscription)?;
        let (_, key) = known.subscriptions.swap_remove(place);
        if known.subscriptions.is_empty() {
            self.sessions.remove(&session);
        }
        self.release(&key, session, subscription, now);
        Some(key)
    }

    pub(super) fn session_ended(
        &mut self,
        session: u64,
        now: Instant,
    ) -> Vec<(SubscriptionNumber, K)> {
        let Some(Session { subscriptions, .. }) = self.sessions.remove(&session) else {
            return Vec::new();
        };
        for (subscription, key) in &subscriptions {
            self.release(key, session, *subscription, now);
        }
        subscriptions
    }

    fn release(&mut self, key: &K, session: u64, subscription: SubscriptionNumber, now: Instant) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.waiters.retain(|waiter| !waiter.is(session, subscription));
            entry.users = entry.users.saturating_sub(1);
            if entry.users == 0 {
                entry.unused = Some(now);
            }
        }
    }

    /// What to bind next. What nobody wants any more is forgotten.
    pub(super) fn next_wanted(&mut self) -> Option<K> {
        while let Some(key) = self.wanted.pop_front() {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            entry.is_wanted = false;
            if entry.users > 0 || entry.bound.is_some() {
                return Some(key);
            }
            self.entries.remove(&key);
        }
        None
    }

    pub(super) fn is_bound(&self, key: &K) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.bound.is_some())
    }

    /// It is bound; those who waited for it.
    pub(super) fn bound(&mut self, key: &K, now: Instant) -> Vec<Waiter> {
        let Some(entry) = self.entries.get_mut(key) else { return Vec::new() };
        entry.bound = Some(now);
        if entry.users == 0 && entry.unused.is_none() {
            entry.unused = Some(now);
        }
        std::mem::take(&mut entry.waiters)
    }

    /// It is not bound, or not any more. It is bound again where it has users.
    pub(super) fn lost(&mut self, key: &K) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.bound = None;
        if entry.users == 0 {
            self.entries.remove(key);
        } else if !std::mem::replace(&mut entry.is_wanted, true) {
            self.wanted.push_back(key.clone());
        }
    }

    /// RabbitMQ does not bind it. Those who had it keep a binding that is there.
    pub(super) fn refused(&mut self, key: &K, now: Instant) -> Refused {
        let Some(entry) = self.entries.get_mut(key) else { return Refused::default() };
        let waiters = std::mem::take(&mut entry.waiters);
        for waiter in &waiters {
            self.unsubscribe(waiter.to.session(), waiter.subscription, now);
        }
        let holders = if self.is_bound(key) { Vec::new() } else { self.holders(key) };
        for (mailbox, number) in &holders {
            self.unsubscribe(mailbox.session(), *number, now);
        }
        if !self.is_bound(key) {
            self.entries.remove(key);
        }
        Refused { waiters, holders }
    }

    fn holders(&self, key: &K) -> Vec<(Arc<Mailbox>, SubscriptionNumber)> {
        // Mostly nobody has it, and there are many sessions.
        if self.entries.get(key).is_none_or(|entry| entry.users == 0) {
            return Vec::new();
        }
        let subscriptions = self.sessions.values().flat_map(|session| {
            let of = session.subscriptions.iter().filter(|(_, known)| known == key);
            of.map(|(number, _)| (session.mailbox.clone(), *number))
        });
        subscriptions.collect()
    }

    /// Some of those without users for a minute. They are forgotten here.
    pub(super) fn expire(&mut self, now: Instant, most: usize) -> Vec<K> {
        let is_late = |entry: &Entry| {
            let since = entry.unused.filter(|_| entry.bound.is_some());
            since.is_some_and(|since| now.saturating_duration_since(since) >= LINGER)
        };
        let late = self.entries.iter().filter(|(_, entry)| is_late(entry));
        let late: Vec<K> = late.map(|(key, _)| key.clone()).take(most).collect();
        for key in &late {
            self.entries.remove(key);
        }
        late
    }

    /// All bindings are gone. What has users is to be bound again.
    pub(super) fn reset(&mut self) {
        self.entries.retain(|_, entry| {
            entry.bound = None;
            entry.is_wanted = true;
            entry.users > 0
        });
        self.wanted = self.entries.keys().cloned().collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::Exchange;
    use crate::relay::mailbox::MailboxLimits;

    const FRESH: Duration = Duration::from_secs(5);

    fn exchange(name: &str) -> Exchange {
        Exchange { name: Arc::from(name), key: Arc::from("k") }
    }

    fn waiter(session: u64, subscription: SubscriptionNumber) -> Waiter {
        let to = Mailbox::new(session, MailboxLimits { frames: 1, bytes: 1 });
        Waiter { to, subscription, token: Some(session * 10 + u64::from(subscription)) }
    }

    fn tokens(waiters: &[Waiter]) -> Vec<Token> {
        waiters.iter().filter_map(|waiter| waiter.token).collect()
    }

    #[test]
    fn one_queue_however_many_users() {
        let (mut bindings, start) = (Bindings::new(Some(FRESH)), Instant::now());
        let e = exchange("e");
        assert!(!bindings.subscribe(waiter(1, 1), e.clone(), start));
        assert!(!bindings.subscribe(waiter(2, 1), e.clone(), start));
        assert_eq!(bindings.next_wanted(), Some(e.clone()));
        assert_eq!(bindings.next_wanted(), None);
        assert_eq!(tokens(&bindings.bound(&e, start)), [11, 21]);
        assert!(bindings.subscribe(waiter(3, 1), e.clone(), start + FRESH / 2));
        // Bound long ago: whether the binding is still there is asked once more.
        assert!(!bindings.subscribe(waiter(4, 1), e.clone(), start + FRESH));
        assert_eq!(bindings.next_wanted(), Some(e.clone()));
        assert_eq!(tokens(&bindings.bound(&e, start + FRESH)), [41]);
        for session in 1..=3 {
            assert_eq!(bindings.unsubscribe(session, 1, start), Some(e.clone()));
            assert_eq!(bindings.unsubscribe(session, 1, start), None);
        }
        assert!(bindings.expire(start + LINGER * 2, 9).is_empty());
        assert_eq!(bindings.session_ended(4, start), [(1, e.clone())]);
        assert!(bindings.expire(start + LINGER / 2, 9).is_empty());
        assert_eq!(bindings.expire(start + LINGER, 9), std::slice::from_ref(&e));
        assert!(!bindings.subscribe(waiter(1, 1), e, start + LINGER));
        assert!(bindings.sessions.len() == 1 && bindings.entries.len() == 1);
    }

    #[test]
    fn who_asked_for_what_is_not_there_is_refused_and_who_had_it_is_told() {
        let (mut bindings, now) = (Bindings::new(Some(FRESH)), Instant::now());
        let e = exchange("e");
        bindings.subscribe(waiter(1, 1), e.clone(), now);
        bindings.subscribe(waiter(1, 2), exchange("f"), now);
        let refused = bindings.refused(&e, now);
        assert_eq!((tokens(&refused.waiters), refused.holders.len()), (vec![11], 0));
        assert_eq!(bindings.entries.len(), 1);

        bindings.subscribe(waiter(1, 3), e.clone(), now);
        bindings.bound(&e, now);
        // The exchange is gone: who comes now is told, who is there keeps what it has.
        let later = now + FRESH;
        bindings.subscribe(waiter(2, 1), e.clone(), later);
        let refused = bindings.refused(&e, later);
        assert_eq!((tokens(&refused.waiters), refused.holders.len()), (vec![21], 0));
        // After an outage nobody has anything.
        bindings.reset();
        bindings.subscribe(waiter(3, 1), e.clone(), later);
        let refused = bindings.refused(&e, later);
        let holders: Vec<_> = refused.holders.iter().map(|(to, n)| (to.session(), *n)).collect();
        assert_eq!((tokens(&refused.waiters), holders), (vec![31], vec![(1, 3)]));
        let left = bindings.session_ended(1, later);
        assert_eq!(left, [(2, exchange("f"))]);
        assert!(bindings.sessions.is_empty());
    }

    #[test]
    fn what_does_not_age_is_bound_once() {
        let (mut bindings, start) = (Bindings::new(None), Instant::now());
        let e = exchange("e");
        assert!(!bindings.subscribe(waiter(1, 1), e.clone(), start));
        assert_eq!(bindings.next_wanted(), Some(e.clone()));
        bindings.bound(&e, start);
        assert!(bindings.subscribe(waiter(2, 1), e, start + LINGER));
        assert_eq!(bindings.next_wanted(), None);
    }

    #[test]
    fn after_a_reset_what_has_users_is_bound_again() {
        let (mut bindings, now) = (Bindings::new(Some(FRESH)), Instant::now());
        for (name, session) in [("used", 1), ("unused", 2), ("new", 3)] {
            bindings.subscribe(waiter(session, 1), exchange(name), now);
        }
        for name in ["used", "unused"] {
            bindings.bound(&exchange(name), now);
        }
        bindings.session_ended(2, now);
        bindings.reset();
        let mut wanted = Vec::from_iter(std::iter::from_fn(|| bindings.next_wanted()));
        wanted.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(wanted, [exchange("new"), exchange("used")]);
        assert_eq!(tokens(&bindings.bound(&exchange("new"), now)), [31]);
        // Its queue deleted by somebody: once more.
        bindings.lost(&exchange("used"));
        bindings.lost(&exchange("used"));
        assert_eq!(bindings.next_wanted(), Some(exchange("used")));
        assert_eq!(bindings.next_wanted(), None);
    }

    #[test]
    fn who_goes_while_waiting_is_not_told() {
        let (mut bindings, now) = (Bindings::new(Some(FRESH)), Instant::now());
        bindings.subscribe(waiter(1, 1), exchange("e"), now);
        bindings.subscribe(waiter(2, 1), exchange("f"), now);
        assert_eq!(bindings.next_wanted(), Some(exchange("e")));
        bindings.session_ended(1, now);
        bindings.session_ended(2, now);
        // Nobody wants it any more.
        assert_eq!(bindings.next_wanted(), None);
        assert!(bindings.bound(&exchange("e"), now).is_empty());
        assert_eq!(bindings.expire(now + LINGER, 9), [exchange("e")]);
    }
}
