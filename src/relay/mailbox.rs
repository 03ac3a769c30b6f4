//! The one channel on the message path: what a session is to be sent.
//!
//! Bounded in frames and bytes; what does not fit ends the session (close code 4500) and is
//! never dropped in silence. One lock per burst; the session is woken only where the mailbox
//! was empty.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use super::error::Refusal;
use crate::message::Message;
use crate::persistence::Page;

/// A subscription's number within its session; never a client's text.
pub type SubscriptionNumber = u32;
/// What a session calls one of its requests, to know the answer by.
pub type Token = u64;

/// One thing for a session to do. 16 bytes, since a fan-out writes one per subscriber.
#[derive(Debug)]
pub enum Entry {
    /// A message that nobody settles.
    Shared { message: Arc<Message>, subscription: SubscriptionNumber },
    /// A message with something of its own.
    Own(Box<Delivery>),
    /// Not a message.
    Event(Box<Event>),
}

/// A message for one subscription, with what only this delivery has.
#[derive(Debug)]
pub struct Delivery {
    pub message: Arc<Message>,
    pub subscription: SubscriptionNumber,
    pub redelivered: bool,
    pub source: Source,
}

/// Where a delivery comes from, which says how it is settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A broker's queue; the tag is the consumer's own and is given back when settling.
    Queue { queue: Arc<str>, tag: u64 },
    /// Pushed to a user who is there; with the id it has in the store, where it was stored too.
    User { unread_id: Option<u64> },
}

/// How far a SEND got: the `x-receipt-level` of its RECEIPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Memory,
    Stored,
    Pushed,
    Confirmed,
    Accepted,
}

impl Level {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Stored => "stored",
            Self::Pushed => "pushed",
            Self::Confirmed => "confirmed",
            Self::Accepted => "accepted",
        }
    }
}

/// An answer that comes later, or something that happens to a session.
#[derive(Debug)]
pub enum Event {
    /// The publish or the subscribe of that token is done.
    Done { token: Token, result: Result<Level, Refusal> },
    /// The server ended a subscription.
    Cancelled { subscription: SubscriptionNumber, refusal: Refusal },
    /// The name of a queue of answers. Where it comes a second time the first one is gone.
    ReplyQueue { subscription: SubscriptionNumber, result: Result<Arc<str>, Refusal> },
    /// Login at CONNECT is decided.
    Authenticated(Result<crate::auth::Principal, crate::auth::AuthError>),
    /// A page of unread messages that was asked for.
    Page { subscription: SubscriptionNumber, result: Result<Page, Refusal> },
    /// What was refused for want of room may be tried again.
    Room,
    /// A deadline may be due.
    Tick,
    /// The server ends the session.
    Close { code: u16, reason: &'static str },
}

/// What a `publish` or `subscribe` call says at once.
#[derive(Debug)]
pub enum Submit {
    Done(Level),
    Refused(Refusal),
    /// `Event::Done` with the token follows.
    Pending,
}

/// How much a mailbox holds.
#[derive(Clone, Copy, Debug)]
pub struct MailboxLimits {
    pub frames: usize,
    pub bytes: usize,
}

/// A session's mailbox, and by it the session's address.
pub struct Mailbox {
    session: u64,
    limits: MailboxLimits,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    entries: Vec<Entry>,
    messages: usize,
    bytes: usize,
    waker: Option<Waker>,
    state: State,
    signals: Signals,
    /// Senders that wait for it to be less full.
    waiters: Vec<Weak<Mailbox>>,
    /// Somebody waits, or did in vain: what is taken out is looked at.
    is_waited_for: bool,
    /// It was waited for in vain, and is not again until it is less full.
    is_stalled: bool,
}

/// What is not in the line of entries, and goes before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    pub tick: bool,
    pub room: bool,
    pub close: Option<(u16, &'static str)>,
    /// Something did not fit.
    pub overflown: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Something did not fit; the session is about to end.
    Overflown,
    Closed,
}

/// The session has ended or is about to; the message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

impl Mailbox {
    /// `session` is unique in this process.
    #[must_use]
    pub fn new(session: u64, limits: MailboxLimits) -> Arc<Self> {
        let inner = Inner {
            entries: Vec::new(),
            messages: 0,
            bytes: 0,
            waker: None,
            state: State::Open,
            signals: Signals::default(),
            waiters: Vec::new(),
            is_waited_for: false,
            is_stalled: false,
        };
        Arc::new(Self { session, limits, inner: Mutex::new(inner) })
    }

    /// The session's number, unique in this process.
    #[must_use]
    pub fn session(&self) -> u64 {
        self.session
    }

    /// Puts a message in. The one that makes the mailbox overflow is still taken, so that it can
    /// be kept as unread when the session ends; those after it are not.
    ///
    /// # Errors
    /// [`Gone`] where the session has ended, or is about to.
    pub fn push(&self, entry: Entry) -> Result<(), Gone> {
        let mut inner = self.lock();
        if inner.state != State::Open {
            return Err(Gone);
        }
        let waker = inner.put(entry, self.limits);
        drop(inner);
        wake(waker);
        Ok(())
    }

    /// Puts several in, with one lock and one wake. Says whether a sender should wait for it with
    /// [`Mailbox::wait_for_room`] before it sends more.
    ///
    /// # Errors
    /// [`Gone`] where not all were taken.
    pub fn push_all(&self, entries: impl Iterator<Item = Entry>) -> Result<bool, Gone> {
        let mut inner = self.lock();
        let mut result = Ok(());
        let mut waker = None;
        for entry in entries {
            if inner.state != State::Open {
                result = Err(Gone);
                break;
            }
            waker = inner.put(entry, self.limits).or(waker);
        }
        let is_crowded = inner.is_crowded(self.limits);
        drop(inner);
        wake(waker);
        result.map(|()| is_crowded)
    }

    /// The waiter gets [`Event::Room`] once this is less full; `false` where it is already.
    pub fn wait_for_room(&self, waiter: &Arc<Self>) -> bool {
        let mut inner = self.lock();
        let is_crowded = inner.is_crowded(self.limits);
        if is_crowded {
            inner.waiters.push(Arc::downgrade(waiter));
            inner.is_waited_for = true;
        }
        is_crowded
    }

    /// Its session does not get on: nobody waits for it until it does.
    pub fn give_up(&self) {
        let mut inner = self.lock();
        (inner.is_stalled, inner.is_waited_for) = (true, true);
        inner.waiters = Vec::new();
    }

    /// Puts an answer or an event in, whatever the limits: a session has only as many of them
    /// open as it asked for.
    pub fn event(&self, event: Event) {
        let mut inner = self.lock();
        if inner.state == State::Closed {
            return;
        }
        match event {
            Event::Tick => inner.signals.tick = true,
            Event::Room => inner.signals.room = true,
            Event::Close { code, reason } => inner.signals.close = Some((code, reason)),
            event => inner.entries.push(Entry::Event(Box::new(event))),
        }
        let waker = inner.waker.take();
        drop(inner);
        wake(waker);
    }

    /// Takes signals, and where `into` is given what is there, in order, up to about `bytes`.
    /// Waits where there is nothing of it.
    pub fn poll_take(
        &self,
        cx: &mut Context<'_>,
        bytes: usize,
        into: Option<&mut Vec<Entry>>,
    ) -> Poll<Signals> {
        let mut inner = self.lock();
        let signals = std::mem::take(&mut inner.signals);
        let mut waiters = None;
        let has_entries = match into {
            Some(into) if !inner.entries.is_empty() => {
                inner.take(bytes, into);
                if inner.is_waited_for {
                    waiters = inner.take_waiters(self.limits);
                }
                true
            }
            _ => false,
        };
        if signals == Signals::default() && !has_entries {
            match &mut inner.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        if let Some(waiters) = waiters {
            drop(inner);
            tell_room(&waiters);
        }
        Poll::Ready(signals)
    }

    /// Ends the mailbox and gives back what nobody read.
    #[must_use]
    pub fn close(&self) -> Vec<Entry> {
        let mut inner = self.lock();
        inner.state = State::Closed;
        inner.waker = None;
        let (entries, waiters) =
            (std::mem::take(&mut inner.entries), std::mem::take(&mut inner.waiters));
        drop(inner);
        tell_room(&waiters);
        entries
    }

    /// Whether messages are taken.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.lock().state == State::Open
    }

    /// Whether the session has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.lock().state == State::Closed
    }

    /// Messages and bytes that wait.
    #[must_use]
    pub fn depth(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.messages, inner.bytes)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn put(&mut self, entry: Entry, limits: MailboxLimits) -> Option<Waker> {
        self.messages += 1;
        self.bytes += entry.size();
        self.entries.push(entry);
        if self.messages > limits.frames || self.bytes > limits.bytes {
            self.state = State::Overflown;
            self.signals.overflown = true;
        }
        self.waker.take()
    }

    fn is_crowded(&self, limits: MailboxLimits) -> bool {
        self.state == State::Open
            && !self.is_stalled
            && (self.messages > limits.frames / 2 || self.bytes > limits.bytes / 2)
    }

    /// Those who wait, once it is emptier than when they began to, by far.
    fn take_waiters(&mut self, limits: MailboxLimits) -> Option<Vec<Weak<Mailbox>>> {
        if self.messages > limits.frames / 4 || self.bytes > limits.bytes / 4 {
            return None;
        }
        (self.is_stalled, self.is_waited_for) = (false, false);
        Some(std::mem::take(&mut self.waiters))
    }

    fn take(&mut self, bytes: usize, into: &mut Vec<Entry>) {
        if self.bytes <= bytes {
            (self.messages, self.bytes) = (0, 0);
            if into.is_empty() {
                // The caller's vector would keep its capacity here; a fresh one costs nothing.
                *into = std::mem::take(&mut self.entries);
            } else {
                into.append(&mut self.entries);
            }
            return;
        }
        let mut taken = 0;
        let mut size = 0;
        for entry in &self.entries {
            if size >= bytes {
                break;
            }
            size += entry.size();
            self.messages -= usize::from(!matches!(entry, Entry::Event(_)));
            taken += 1;
        }
        self.bytes -= size;
        into.extend(self.entries.drain(..taken));
    }
}

impl Entry {
    /// What it counts towards the limit in bytes.
    fn size(&self) -> usize {
        const OVERHEAD: usize = 64;
        match self {
            Self::Shared { message, .. } => message.size() + OVERHEAD,
            Self::Own(delivery) => delivery.message.size() + OVERHEAD,
            Self::Event(_) => 0,
        }
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox").field("session", &self.session).finish_non_exhaustive()
    }
}

fn tell_room(waiters: &[Weak<Mailbox>]) {
    waiters.iter().filter_map(Weak::upgrade).for_each(|waiter| waiter.event(Event::Room));
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::Destination;
    use crate::stomp::Headers;
    use bytes::Bytes;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn entry(bytes: usize) -> Entry {
        let destination = Destination::for_send("/topic/a").unwrap();
        let body = Bytes::from(vec![b'x'; bytes]);
        let message = Message::new(destination, "".into(), Headers::default(), body);
        Entry::Shared { message: Arc::new(message), subscription: 1 }
    }

    #[test]
    fn an_entry_is_16_bytes() {
        assert_eq!(size_of::<Entry>(), 16);
    }

    #[test]
    fn wakes_once_per_burst_and_takes_by_bytes() {
        let mailbox = Mailbox::new(1, MailboxLimits { frames: 10, bytes: 10_000 });
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let mut cx = Context::from_waker(&waker);
        let mut out = Vec::new();
        let mut take = |out: &mut Vec<Entry>| mailbox.poll_take(&mut cx, 1000, Some(out));
        assert_eq!(take(&mut out), Poll::Pending);
        for _ in 0..3 {
            mailbox.push(entry(600)).unwrap();
        }
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert_eq!(take(&mut out), Poll::Ready(Signals::default()));
        assert_eq!(out.len(), 2);
        assert_eq!(mailbox.depth(), (1, 664));
        assert_eq!(take(&mut out), Poll::Ready(Signals::default()));
        assert_eq!((out.len(), mailbox.depth()), (3, (0, 0)));
    }

    #[test]
    fn overflow_keeps_the_last_straw_and_refuses_what_follows() {
        for limits in
            [MailboxLimits { frames: 1, bytes: 10_000 }, MailboxLimits { frames: 9, bytes: 100 }]
        {
            let mailbox = Mailbox::new(1, limits);
            mailbox.push(entry(10)).unwrap();
            mailbox.push(entry(90)).unwrap();
            assert_eq!(mailbox.push(entry(1)), Err(Gone));
            let mut cx = Context::from_waker(Waker::noop());
            let Poll::Ready(signals) = mailbox.poll_take(&mut cx, 1, None) else {
                panic!("pending")
            };
            assert!(signals.overflown);
            assert_eq!(mailbox.close().len(), 2);
            mailbox.event(Event::Tick);
            assert!(mailbox.close().is_empty());
        }
    }

    #[test]
    fn a_sender_waits_for_one_that_is_crowded_and_gets_on() {
        let limits = MailboxLimits { frames: 8, bytes: 1 << 20 };
        let (crowded, sender) = (Mailbox::new(1, limits), Mailbox::new(2, limits));
        let mut cx = Context::from_waker(Waker::noop());
        let mut has_room =
            || matches!(sender.poll_take(&mut cx, 0, None), Poll::Ready(signals) if signals.room);
        let entries = |count| std::iter::repeat_with(|| entry(10)).take(count);
        assert_eq!(crowded.push_all(entries(4)), Ok(false));
        assert!(!crowded.wait_for_room(&sender));
        assert_eq!(crowded.push_all(entries(1)), Ok(true));
        assert!(crowded.wait_for_room(&sender));
        assert!(!has_room());
        let mut taken = Vec::new();
        let mut take = |bytes| {
            let mut cx = Context::from_waker(Waker::noop());
            assert!(crowded.poll_take(&mut cx, bytes, Some(&mut taken)).is_ready());
        };
        // Three are left, then none.
        take(100);
        assert!(!has_room());
        take(10_000);
        assert!(has_room());
        // One that does not get on is not waited for until it does.
        assert_eq!(crowded.push_all(entries(5)), Ok(true));
        crowded.give_up();
        assert_eq!(crowded.push_all(entries(1)), Ok(false));
        take(10_000);
        assert_eq!(crowded.push_all(entries(5)), Ok(true));
    }
}
