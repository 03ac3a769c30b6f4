//! A queue of the embedded broker: competing consumers, each with its own window of deliveries.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::message::Message;
use crate::relay::Settlement;
use crate::relay::mailbox::{Delivery, Entry, Mailbox, Source, SubscriptionNumber};

/// NACKed this often, a message moves to the dead queue.
pub(super) const MAX_NACKS: u8 = 20;

type ConsumerKey = (u64, SubscriptionNumber);

/// A message in a queue. Its number is its place, and its name in the journal.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) number: u64,
    pub(super) message: Arc<Message>,
    pub(super) stored: bool,
    redelivered: bool,
    nacks: u8,
}

impl Item {
    pub(super) fn new(number: u64, message: Arc<Message>, stored: bool) -> Self {
        Self { number, message, stored, redelivered: false, nacks: 0 }
    }

    /// One that was in the journal at start-up: nobody knows who has seen it.
    pub(super) fn recovered(number: u64, message: Arc<Message>) -> Self {
        Self { redelivered: true, ..Self::new(number, message, true) }
    }
}

#[derive(Debug)]
struct Consumer {
    mailbox: Arc<Mailbox>,
    window: usize,
    unacked: BTreeMap<u64, Item>,
    /// In the ring of those who can take more.
    waiting: bool,
    /// UNSUBSCRIBEd: gets nothing more, may still settle what it has.
    cancelled: bool,
}

/// State of one queue; its owner keeps it behind a lock.
#[derive(Debug)]
pub(super) struct Queue {
    /// By number, so that what is requeued goes back to its place.
    ready: BTreeMap<u64, Item>,
    bytes: usize,
    unacked: usize,
    consumers: HashMap<ConsumerKey, Consumer>,
    ring: VecDeque<ConsumerKey>,
    idle_since: Option<Instant>,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            ready: BTreeMap::new(),
            bytes: 0,
            unacked: 0,
            consumers: HashMap::new(),
            ring: VecDeque::new(),
            idle_since: None,
        }
    }

    /// Messages, those out for an answer included, and their bytes.
    pub(super) fn depth(&self) -> (usize, usize) {
        (self.ready.len() + self.unacked, self.bytes)
    }

    pub(super) fn push(&mut self, item: Item) {
        self.bytes += item.message.size();
        self.ready.insert(item.number, item);
        self.deliver();
    }

    pub(super) fn subscribe(
        &mut self,
        mailbox: &Arc<Mailbox>,
        number: SubscriptionNumber,
        window: u16,
    ) {
        let key = (mailbox.session(), number);
        let consumer = Consumer {
            mailbox: mailbox.clone(),
            window: usize::from(window.max(1)),
            unacked: BTreeMap::new(),
            waiting: true,
            cancelled: false,
        };
        self.consumers.insert(key, consumer);
        self.ring.push_back(key);
        self.deliver();
    }

    /// Ends a subscription; what it has may still be settled.
    pub(super) fn unsubscribe(&mut self, session: u64, number: SubscriptionNumber) {
        let key = (session, number);
        if let Some(consumer) = self.consumers.get_mut(&key) {
            consumer.cancelled = true;
            if std::mem::take(&mut consumer.waiting) {
                self.ring.retain(|waiting| *waiting != key);
            }
            if consumer.unacked.is_empty() {
                self.consumers.remove(&key);
            }
        }
    }

    /// Ends a subscription whose session is gone; what it had goes back.
    pub(super) fn abandon(&mut self, session: u64, number: SubscriptionNumber) {
        let key = (session, number);
        let Some(consumer) = self.consumers.remove(&key) else { return };
        if consumer.waiting {
            self.ring.retain(|waiting| *waiting != key);
        }
        self.unacked -= consumer.unacked.len();
        for (_, item) in consumer.unacked {
            self.ready.insert(item.number, Item { redelivered: true, ..item });
        }
        self.deliver();
    }

    /// Settles deliveries; unknown tags have no effect. Returns what left the queue: settled for
    /// good, or NACKed too often (`true`).
    pub(super) fn settle(
        &mut self,
        session: u64,
        number: SubscriptionNumber,
        tags: &[u64],
        settlement: Settlement,
    ) -> Vec<(Item, bool)> {
        let key = (session, number);
        let Some(consumer) = self.consumers.get_mut(&key) else { return Vec::new() };
        let mut gone = Vec::new();
        for tag in tags {
            let Some(mut item) = consumer.unacked.remove(tag) else { continue };
            self.unacked -= 1;
            item.nacks += u8::from(settlement == Settlement::Requeue);
            let goes_back = match settlement {
                Settlement::Requeue => item.nacks < MAX_NACKS,
                Settlement::Return => true,
                Settlement::Ack | Settlement::Discard => false,
            };
            if goes_back {
                item.redelivered = true;
                self.ready.insert(item.number, item);
            } else {
                self.bytes -= item.message.size();
                gone.push((item, settlement == Settlement::Requeue));
            }
        }
        if consumer.cancelled {
            if consumer.unacked.is_empty() {
                self.consumers.remove(&key);
            }
        } else if !consumer.waiting && consumer.unacked.len() < consumer.window {
            consumer.waiting = true;
            self.ring.push_back(key);
        }
        self.deliver();
        gone
    }

    /// Takes back a message that found no other place; its NACKs are forgotten.
    pub(super) fn put_back(&mut self, item: Item) {
        self.push(Item { nacks: 0, ..item });
    }

    /// Whether nobody has used the queue since before `before`.
    pub(super) fn is_idle_since(&mut self, now: Instant, before: Instant) -> bool {
        if self.depth().0 > 0 || !self.consumers.is_empty() {
            self.idle_since = None;
            return false;
        }
        *self.idle_since.get_or_insert(now) <= before
    }

    /// Hands out what is ready, one message to each consumer in turn.
    fn deliver(&mut self) {
        while !self.ready.is_empty() {
            let Some(key) = self.ring.pop_front() else { return };
            let Some(consumer) = self.consumers.get_mut(&key) else { continue };
            consumer.waiting = false;
            if consumer.cancelled {
                continue;
            }
            let Some((number, item)) = self.ready.pop_first() else { return };
            let delivery = Delivery {
                message: item.message.clone(),
                subscription: key.1,
                redelivered: item.redelivered,
                source: Source::Queue { tag: number },
            };
            if consumer.mailbox.push(Entry::Own(Box::new(delivery))).is_err() {
                // The session is ending; its end takes the consumer out.
                self.ready.insert(number, item);
                continue;
            }
            consumer.unacked.insert(number, item);
            self.unacked += 1;
            if consumer.unacked.len() < consumer.window {
                consumer.waiting = true;
                self.ring.push_back(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::Destination;
    use crate::relay::mailbox::MailboxLimits;
    use crate::stomp::Headers;
    use bytes::Bytes;
    use std::task::{Context, Waker};

    fn mailbox(session: u64) -> Arc<Mailbox> {
        Mailbox::new(session, MailboxLimits { frames: 1000, bytes: 1 << 20 })
    }

    fn item(number: u64) -> Item {
        let destination = Destination::for_send("/queue/x").unwrap();
        let body = Bytes::from_static(b"x");
        let message = Message::new(destination, String::new(), Headers::default(), body);
        Item::new(number, Arc::new(message), false)
    }

    /// Tags and redelivered flags of what lies in a mailbox.
    fn taken(mailbox: &Mailbox) -> Vec<(u64, bool)> {
        let mut entries = Vec::new();
        let _ =
            mailbox.poll_take(&mut Context::from_waker(Waker::noop()), 1 << 20, Some(&mut entries));
        entries
            .iter()
            .map(|entry| match entry {
                Entry::Own(delivery) => match delivery.source {
                    Source::Queue { tag } => (tag, delivery.redelivered),
                    Source::User { .. } => panic!("not from a queue"),
                },
                _ => panic!("not a delivery"),
            })
            .collect()
    }

    #[test]
    fn consumers_take_turns_within_their_windows() {
        let (a, b) = (mailbox(1), mailbox(2));
        let mut queue = Queue::new();
        queue.subscribe(&a, 1, 2);
        queue.subscribe(&b, 1, 1);
        (1..=5).for_each(|n| queue.push(item(n)));
        assert_eq!(taken(&a), [(1, false), (3, false)]);
        assert_eq!(taken(&b), [(2, false)]);
        assert_eq!(queue.settle(2, 1, &[2, 99], Settlement::Ack).len(), 1);
        assert_eq!(taken(&b), [(4, false)]);
        assert_eq!(queue.depth().0, 4);
    }

    #[test]
    fn what_goes_back_goes_to_its_place() {
        let (a, b) = (mailbox(1), mailbox(2));
        let mut queue = Queue::new();
        queue.subscribe(&a, 1, 3);
        (1..=4).for_each(|n| queue.push(item(n)));
        queue.settle(1, 1, &[2], Settlement::Requeue);
        assert_eq!(taken(&a), [(1, false), (2, false), (3, false), (2, true)]);
        queue.unsubscribe(1, 1);
        queue.subscribe(&b, 1, 10);
        assert_eq!(taken(&b), [(4, false)]);
        assert_eq!(queue.settle(1, 1, &[1], Settlement::Ack).len(), 1);
        queue.abandon(1, 1);
        assert_eq!(taken(&b), [(2, true), (3, true)]);
    }

    #[test]
    fn nacked_too_often() {
        let a = mailbox(1);
        let mut queue = Queue::new();
        queue.subscribe(&a, 1, 1);
        queue.push(item(1));
        for _ in 1..MAX_NACKS {
            assert!(queue.settle(1, 1, &[1], Settlement::Requeue).is_empty());
        }
        let gone = queue.settle(1, 1, &[1], Settlement::Requeue);
        assert!(matches!(gone.as_slice(), [(_, true)]));
        assert_eq!(queue.depth(), (0, 0));
    }

    #[test]
    fn a_full_mailbox_gets_nothing_and_loses_nothing() {
        let a = Mailbox::new(1, MailboxLimits { frames: 1, bytes: 1 << 20 });
        let b = mailbox(2);
        let mut queue = Queue::new();
        queue.subscribe(&a, 1, 10);
        (1..=5).for_each(|n| queue.push(item(n)));
        queue.abandon(1, 1);
        queue.subscribe(&b, 1, 10);
        assert_eq!(taken(&b), [(1, true), (2, true), (3, false), (4, false), (5, false)]);
    }
}
