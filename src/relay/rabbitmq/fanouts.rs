//! Which exchanges and keys this node listens to, and who uses them. Pure.
//!
//! What an exchange does with a key, AMQP does not tell, so what comes of one binding cannot be
//! told from what comes of another. Each has a queue of its own; how many browsers use it does
//! not matter.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::destination::Exchange;
use crate::relay::mailbox::{Mailbox, SubscriptionNumber, Token};

/// A queue outlives its last user by as much: people reload pages.
const LINGER: Duration = Duration::from_secs(60);
/// A newcomer has it bound once more where that was longer ago: an exchange that was deleted and
/// declared anew has lost its bindings, and nobody is told.
const FRESH: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Fanouts {
    entries: HashMap<Exchange, Entry>,
    /// What to bind, oldest first.
    wanted: VecDeque<Exchange>,
    sessions: HashMap<u64, Session>,
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
struct Session {
    mailbox: Arc<Mailbox>,
    subscriptions: Vec<(SubscriptionNumber, Exchange)>,
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

impl Fanouts {
    /// One user more. Whether it is bound already; else the waiter is given back when it is.
    pub(super) fn subscribe(&mut self, waiter: Waiter, exchange: Exchange, now: Instant) -> bool {
        let entry = self.entries.entry(exchange.clone()).or_default();
        entry.users += 1;
        entry.unused = None;
        let is_fresh = entry.bound.is_some_and(|at| now.saturating_duration_since(at) < FRESH);
        let session = self
            .sessions
            .entry(waiter.to.session())
            .or_insert_with(|| Session { mailbox: waiter.to.clone(), subscriptions: Vec::new() });
        session.subscriptions.push((waiter.subscription, exchange.clone()));
        if is_fresh {
            return true;
        }
        entry.waiters.push(waiter);
        if !entry.is_wanted {
            entry.is_wanted = true;
            self.wanted.push_back(exchange);
        }
        false
    }

    /// One user less; what it was subscribed to.
    pub(super) fn unsubscribe(
        &mut self,
        session: u64,
        subscription: SubscriptionNumber,
        now: Instant,
    ) -> Option<Exchange> {
        let known = self.sessions.get_mut(&session)?;
        let place = known.subscriptions.iter().position(|(number, _)| *number == subscription)?;
        let (_, exchange) = known.subscriptions.swap_remove(place);
        if known.subscriptions.is_empty() {
            self.sessions.remove(&session);
        }
        self.release(&exchange, session, subscription, now);
        Some(exchange)
    }

    pub(super) fn session_ended(
        &mut self,
        session: u64,
        now: Instant,
    ) -> Vec<(SubscriptionNumber, Exchange)> {
        let Some(Session { subscriptions, .. }) = self.sessions.remove(&session) else {
            return Vec::new();
        };
        for (subscription, exchange) in &subscriptions {
            self.release(exchange, session, *subscription, now);
        }
        subscriptions
    }

    fn release(
        &mut self,
        exchange: &Exchange,
        session: u64,
        subscription: SubscriptionNumber,
        now: Instant,
    ) {
        if let Some(entry) = self.entries.get_mut(exchange) {
            entry.waiters.retain(|waiter| !waiter.is(session, subscription));
            entry.users = entry.users.saturating_sub(1);
            if entry.users == 0 {
                entry.unused = Some(now);
            }
        }
    }

    /// What to bind next. What nobody wants any more is forgotten.
    pub(super) fn next_wanted(&mut self) -> Option<Exchange> {
        while let Some(exchange) = self.wanted.pop_front() {
            let Some(entry) = self.entries.get_mut(&exchange) else { continue };
            entry.is_wanted = false;
            if entry.users > 0 || entry.bound.is_some() {
                return Some(exchange);
            }
            self.entries.remove(&exchange);
        }
        None
    }

    pub(super) fn is_bound(&self, exchange: &Exchange) -> bool {
        self.entries.get(exchange).is_some_and(|entry| entry.bound.is_some())
    }

    /// It is bound; those who waited for it.
    pub(super) fn bound(&mut self, exchange: &Exchange, now: Instant) -> Vec<Waiter> {
        let Some(entry) = self.entries.get_mut(exchange) else { return Vec::new() };
        entry.bound = Some(now);
        if entry.users == 0 && entry.unused.is_none() {
            entry.unused = Some(now);
        }
        std::mem::take(&mut entry.waiters)
    }

    /// Its queue is gone, by somebody else's doing. It is made again where it has users.
    pub(super) fn lost(&mut self, exchange: &Exchange) {
        let Some(entry) = self.entries.get_mut(exchange) else { return };
        entry.bound = None;
        if entry.users == 0 {
            self.entries.remove(exchange);
        } else if !std::mem::replace(&mut entry.is_wanted, true) {
            self.wanted.push_back(exchange.clone());
        }
    }

    /// RabbitMQ does not bind it. Those who had it keep a queue that is there.
    pub(super) fn refused(&mut self, exchange: &Exchange, now: Instant) -> Refused {
        let Some(entry) = self.entries.get_mut(exchange) else { return Refused::default() };
        let waiters = std::mem::take(&mut entry.waiters);
        let has_queue = entry.bound.is_some();
        for waiter in &waiters {
            self.unsubscribe(waiter.to.session(), waiter.subscription, now);
        }
        let mut holders = Vec::new();
        if !has_queue {
            for session in self.sessions.values() {
                let of = session.subscriptions.iter().filter(|(_, known)| known == exchange);
                holders.extend(of.map(|(number, _)| (session.mailbox.clone(), *number)));
            }
            for (mailbox, number) in &holders {
                self.unsubscribe(mailbox.session(), *number, now);
            }
            self.entries.remove(exchange);
        }
        Refused { waiters, holders }
    }

    /// Without users for a minute. They are forgotten here.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Exchange> {
        let is_late = |entry: &Entry| {
            let since = entry.unused.filter(|_| entry.bound.is_some());
            since.is_some_and(|since| now.saturating_duration_since(since) >= LINGER)
        };
        let late = self.entries.iter().filter(|(_, entry)| is_late(entry));
        let late: Vec<Exchange> = late.map(|(exchange, _)| exchange.clone()).collect();
        for exchange in &late {
            self.entries.remove(exchange);
        }
        late
    }

    /// All queues are gone. What has users is to be bound again.
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
    use crate::relay::mailbox::MailboxLimits;

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
        let (mut fanouts, start) = (Fanouts::default(), Instant::now());
        let e = exchange("e");
        assert!(!fanouts.subscribe(waiter(1, 1), e.clone(), start));
        assert!(!fanouts.subscribe(waiter(2, 1), e.clone(), start));
        assert_eq!(fanouts.next_wanted(), Some(e.clone()));
        assert_eq!(fanouts.next_wanted(), None);
        assert_eq!(tokens(&fanouts.bound(&e, start)), [11, 21]);
        assert!(fanouts.subscribe(waiter(3, 1), e.clone(), start + FRESH / 2));
        // Bound long ago: whether the binding is still there is asked once more.
        assert!(!fanouts.subscribe(waiter(4, 1), e.clone(), start + FRESH));
        assert_eq!(fanouts.next_wanted(), Some(e.clone()));
        assert_eq!(tokens(&fanouts.bound(&e, start + FRESH)), [41]);
        for session in 1..=3 {
            assert_eq!(fanouts.unsubscribe(session, 1, start), Some(e.clone()));
            assert_eq!(fanouts.unsubscribe(session, 1, start), None);
        }
        assert!(fanouts.expire(start + LINGER * 2).is_empty());
        assert_eq!(fanouts.session_ended(4, start), [(1, e.clone())]);
        assert!(fanouts.expire(start + LINGER / 2).is_empty());
        assert_eq!(fanouts.expire(start + LINGER), std::slice::from_ref(&e));
        assert!(!fanouts.subscribe(waiter(1, 1), e, start + LINGER));
        assert!(fanouts.sessions.len() == 1 && fanouts.entries.len() == 1);
    }

    #[test]
    fn who_asked_for_what_is_not_there_is_refused_and_who_had_it_is_told() {
        let (mut fanouts, now) = (Fanouts::default(), Instant::now());
        let e = exchange("e");
        fanouts.subscribe(waiter(1, 1), e.clone(), now);
        fanouts.subscribe(waiter(1, 2), exchange("f"), now);
        let refused = fanouts.refused(&e, now);
        assert_eq!((tokens(&refused.waiters), refused.holders.len()), (vec![11], 0));
        assert_eq!(fanouts.entries.len(), 1);

        fanouts.subscribe(waiter(1, 3), e.clone(), now);
        fanouts.bound(&e, now);
        // The exchange is gone: who comes now is told, who is there keeps what it has.
        let later = now + FRESH;
        fanouts.subscribe(waiter(2, 1), e.clone(), later);
        let refused = fanouts.refused(&e, later);
        assert_eq!((tokens(&refused.waiters), refused.holders.len()), (vec![21], 0));
        // After an outage nobody has anything.
        fanouts.reset();
        fanouts.subscribe(waiter(3, 1), e.clone(), later);
        let refused = fanouts.refused(&e, later);
        let holders: Vec<_> = refused.holders.iter().map(|(to, n)| (to.session(), *n)).collect();
        assert_eq!((tokens(&refused.waiters), holders), (vec![31], vec![(1, 3)]));
        let left = fanouts.session_ended(1, later);
        assert_eq!(left, [(2, exchange("f"))]);
        assert!(fanouts.sessions.is_empty());
    }

    #[test]
    fn after_a_reset_what_has_users_is_bound_again() {
        let (mut fanouts, now) = (Fanouts::default(), Instant::now());
        for (name, session) in [("used", 1), ("unused", 2), ("new", 3)] {
            fanouts.subscribe(waiter(session, 1), exchange(name), now);
        }
        for name in ["used", "unused"] {
            fanouts.bound(&exchange(name), now);
        }
        fanouts.session_ended(2, now);
        fanouts.reset();
        let mut wanted = Vec::from_iter(std::iter::from_fn(|| fanouts.next_wanted()));
        wanted.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(wanted, [exchange("new"), exchange("used")]);
        assert_eq!(tokens(&fanouts.bound(&exchange("new"), now)), [31]);
        // Its queue deleted by somebody: once more.
        fanouts.lost(&exchange("used"));
        fanouts.lost(&exchange("used"));
        assert_eq!(fanouts.next_wanted(), Some(exchange("used")));
        assert_eq!(fanouts.next_wanted(), None);
    }

    #[test]
    fn who_goes_while_waiting_is_not_told() {
        let (mut fanouts, now) = (Fanouts::default(), Instant::now());
        fanouts.subscribe(waiter(1, 1), exchange("e"), now);
        fanouts.subscribe(waiter(2, 1), exchange("f"), now);
        assert_eq!(fanouts.next_wanted(), Some(exchange("e")));
        fanouts.session_ended(1, now);
        fanouts.session_ended(2, now);
        // Nobody wants it any more.
        assert_eq!(fanouts.next_wanted(), None);
        assert!(fanouts.bound(&exchange("e"), now).is_empty());
        assert_eq!(fanouts.expire(now + LINGER), [exchange("e")]);
    }
}
