//! A queue of the embedded broker: competing consumers, each with its own window of deliveries.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::destination::Destination;
use crate::message::Message;
use crate::relay::Settlement;
use crate::relay::mailbox::{Delivery, Entry, Mailbox, Source, SubscriptionNumber};
use crate::relay::origin::Declaration;

/// NACKed this often, a message moves to the dead queue.
pub(super) const MAX_NACKS: u8 = 20;

type ConsumerKey = (u64, SubscriptionNumber);

/// A message in a queue. Its number is its place, and its name in the journal.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) number: u64,
    pub(super) message: Arc<Message>,
    pub(super) stored: bool,
    /// Not to be delivered from then on.
    expires: Option<Instant>,
    redelivered: bool,
    nacks: u8,
}

impl Item {
    pub(super) fn new(
        number: u64,
        message: Arc<Message>,
        stored: bool,
        expires: Option<Instant>,
    ) -> Self {
        Self { number, message, stored, expires, redelivered: false, nacks: 0 }
    }

    /// One that was in the journal at start-up: nobody knows who has seen it.
    pub(super) fn recovered(number: u64, message: Arc<Message>, expires: Option<Instant>) -> Self {
        Self { redelivered: true, ..Self::new(number, message, true, expires) }
    }
}

/// A message that left its queue.
#[derive(Debug)]
pub(super) struct Gone {
    pub(super) item: Item,
    /// It was NACKed too often and belongs into the dead queue.
    pub(super) is_dead: bool,
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
    name: Arc<str>,
    pub(super) declaration: Declaration,
    /// The session that it belongs to, where it is exclusive.
    pub(super) owner: Option<u64>,
    /// Topics and exchanges it is bound to.
    pub(super) bindings: Vec<Destination>,
    /// Its declaration is in the journal.
    pub(super) is_stored: bool,
    /// It was deleted; whoever still holds it looks for another one.
    pub(super) is_deleted: bool,
    /// By number, so that what is requeued goes back to its place.
    ready: BTreeMap<u64, Item>,
    /// Of `ready` and of what is out.
    bytes: usize,
    ready_bytes: usize,
    unacked: usize,
    consumers: HashMap<ConsumerKey, Consumer>,
    /// Consumers that are not cancelled.
    active: usize,
    ring: VecDeque<ConsumerKey>,
    used: Instant,
}

impl Queue {
    pub(super) fn new(name: Arc<str>, declaration: Declaration, owner: Option<u64>) -> Self {
        Self {
            name,
            declaration,
            owner,
            bindings: Vec::new(),
            is_stored: false,
            is_deleted: false,
            ready: BTreeMap::new(),
            bytes: 0,
            ready_bytes: 0,
            unacked: 0,
            consumers: HashMap::new(),
            active: 0,
            ring: VecDeque::new(),
            used: Instant::now(),
        }
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Messages, those out for an answer included, and their bytes.
    pub(super) fn depth(&self) -> (usize, usize) {
        (self.ready.len() + self.unacked, self.bytes)
    }

    /// When a message that comes in now is not to be delivered any more: by the queue's
    /// `x-message-ttl` or its own `expiration`, whichever is earlier.
    pub(super) fn expiry(&self, message: &Message) -> Option<Instant> {
        let own = message.headers.get("expiration").and_then(|text| text.parse().ok());
        let ttl = [own, self.declaration.arguments.message_ttl].into_iter().flatten().min()?;
        Instant::now().checked_add(Duration::from_millis(ttl))
    }

    /// Takes a message in. Returns what left the queue for it.
    pub(super) fn push(&mut self, item: Item) -> Vec<Gone> {
        // Where somebody waits, nothing else does: this message goes out at once, and a TTL of 0
        // has no time to pass.
        let goes_out = !self.ring.is_empty();
        self.bytes += item.message.size();
        self.enter(item);
        let mut gone = self.deliver(!goes_out);
        self.shorten(&mut gone);
        gone
    }

    pub(super) fn subscribe(
        &mut self,
        mailbox: &Arc<Mailbox>,
        number: SubscriptionNumber,
        window: u16,
    ) -> Vec<Gone> {
        let key = (mailbox.session(), number);
        let consumer = Consumer {
            mailbox: mailbox.clone(),
            window: usize::from(window.max(1)),
            unacked: BTreeMap::new(),
            waiting: true,
            cancelled: false,
        };
        self.consumers.insert(key, consumer);
        self.active += 1;
        self.ring.push_back(key);
        self.deliver(true)
    }

    /// Ends a subscription; what it has may still be settled.
    pub(super) fn unsubscribe(&mut self, session: u64, number: SubscriptionNumber) {
        let key = (session, number);
        if let Some(consumer) = self.consumers.get_mut(&key) {
            self.active -= usize::from(!consumer.cancelled);
            consumer.cancelled = true;
            if std::mem::take(&mut consumer.waiting) {
                self.ring.retain(|waiting| *waiting != key);
            }
            if consumer.unacked.is_empty() {
                self.consumers.remove(&key);
            }
            self.used = Instant::now();
        }
    }

    /// Ends a subscription whose session is gone; what it had goes back.
    pub(super) fn abandon(&mut self, session: u64, number: SubscriptionNumber) -> Vec<Gone> {
        let key = (session, number);
        let Some(consumer) = self.consumers.remove(&key) else { return Vec::new() };
        self.active -= usize::from(!consumer.cancelled);
        if consumer.waiting {
            self.ring.retain(|waiting| *waiting != key);
        }
        self.unacked -= consumer.unacked.len();
        for (_, item) in consumer.unacked {
            self.enter(Item { redelivered: true, ..item });
        }
        self.used = Instant::now();
        let mut gone = self.deliver(true);
        self.shorten(&mut gone);
        gone
    }

    /// Whether the last consumer of a queue that lives with its consumers has gone.
    pub(super) fn is_forsaken(&self) -> bool {
        self.declaration.auto_delete && self.active == 0
    }

    /// Settles deliveries; unknown tags have no effect. Returns what left the queue.
    pub(super) fn settle(
        &mut self,
        session: u64,
        number: SubscriptionNumber,
        tags: &[u64],
        settlement: Settlement,
    ) -> Vec<Gone> {
        let key = (session, number);
        let Some(consumer) = self.consumers.get_mut(&key) else { return Vec::new() };
        // Nobody would come for what a queue left behind that goes with its consumers.
        let has_dead_queue = !self.declaration.auto_delete && !self.declaration.exclusive;
        let mut gone = Vec::new();
        let mut back = Vec::new();
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
                back.push(item);
            } else {
                self.bytes -= item.message.size();
                gone.push(Gone {
                    item,
                    is_dead: settlement == Settlement::Requeue && has_dead_queue,
                });
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
        back.into_iter().for_each(|item| self.enter(item));
        gone.append(&mut self.deliver(true));
        self.shorten(&mut gone);
        gone
    }

    /// The oldest that waits goes.
    pub(super) fn drop_oldest(&mut self) -> Vec<Gone> {
        let item = self.leave();
        let gone = item.map(|item| {
            self.bytes -= item.message.size();
            Gone { item, is_dead: false }
        });
        gone.into_iter().collect()
    }

    /// Takes back a message that found no other place; its NACKs are forgotten.
    pub(super) fn put_back(&mut self, item: Item) -> Vec<Gone> {
        self.push(Item { nacks: 0, ..item })
    }

    /// Takes out what has expired. Delivering does that too, but somebody may have to come first.
    pub(super) fn expire(&mut self) -> Vec<Gone> {
        self.deliver(true)
    }

    /// Whether the queue goes for want of use: nobody listens and, unless `x-expires` says that
    /// this does not matter, it is empty. A durable subscription stays.
    pub(super) fn is_idle(&self, now: Instant, idle: Duration) -> bool {
        if self.active > 0 || !self.consumers.is_empty() {
            return false;
        }
        let unused = now.saturating_duration_since(self.used);
        match self.declaration.arguments.expires {
            Some(milliseconds) => unused >= Duration::from_millis(milliseconds),
            None => self.depth().0 == 0 && self.bindings.is_empty() && unused >= idle,
        }
    }

    /// Empties a queue that is deleted. What was out is nobody's any more.
    pub(super) fn delete(&mut self) -> Vec<Gone> {
        self.is_deleted = true;
        self.ring.clear();
        let out = std::mem::take(&mut self.consumers).into_values();
        let out = out.flat_map(|consumer| consumer.unacked.into_values());
        let items = std::mem::take(&mut self.ready).into_values().chain(out);
        (self.bytes, self.ready_bytes, self.unacked, self.active) = (0, 0, 0, 0);
        items.map(|item| Gone { item, is_dead: false }).collect()
    }

    /// Those who consume from it.
    pub(super) fn subscribers(&self) -> Vec<(Arc<Mailbox>, SubscriptionNumber)> {
        let active = self.consumers.iter().filter(|(_, consumer)| !consumer.cancelled);
        active.map(|((_, number), consumer)| (consumer.mailbox.clone(), *number)).collect()
    }

    fn enter(&mut self, item: Item) {
        self.ready_bytes += item.message.size();
        self.ready.insert(item.number, item);
    }

    fn leave(&mut self) -> Option<Item> {
        let (_, item) = self.ready.pop_first()?;
        self.ready_bytes -= item.message.size();
        Some(item)
    }

    /// Keeps to `x-max-length` and `x-max-length-bytes`: the oldest that wait go first.
    fn shorten(&mut self, gone: &mut Vec<Gone>) {
        let arguments = &self.declaration.arguments;
        let limit = |limit: Option<u64>| {
            limit.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX))
        };
        let (most, most_bytes) = (limit(arguments.max_length), limit(arguments.max_length_bytes));
        while self.ready.len() > most || self.ready_bytes > most_bytes {
            gone.append(&mut self.drop_oldest());
        }
    }

    /// Hands out what is ready, one message to each consumer in turn. Returns what has expired.
    fn deliver(&mut self, may_expire: bool) -> Vec<Gone> {
        let mut gone = Vec::new();
        while let Some(first) = self.ready.first_entry() {
            if may_expire && first.get().expires.is_some_and(|at| at <= Instant::now()) {
                gone.append(&mut self.drop_oldest());
                continue;
            }
            let Some(key) = self.ring.pop_front() else { break };
            let Some(consumer) = self.consumers.get_mut(&key) else { continue };
            consumer.waiting = false;
            if consumer.cancelled {
                continue;
            }
            let item = first.remove();
            let number = item.number;
            self.ready_bytes -= item.message.size();
            let delivery = Delivery {
                message: item.message.clone(),
                subscription: key.1,
                redelivered: item.redelivered,
                source: Source::Queue { queue: self.name.clone(), tag: number },
            };
            if consumer.mailbox.push(Entry::Own(Box::new(delivery))).is_err() {
                // The session is ending; its end takes the consumer out.
                self.enter(item);
                continue;
            }
            consumer.unacked.insert(number, item);
            self.unacked += 1;
            if consumer.unacked.len() < consumer.window {
                consumer.waiting = true;
                self.ring.push_back(key);
            }
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::Destination;
    use crate::relay::mailbox::MailboxLimits;
    use crate::relay::origin::Arguments;
    use crate::stomp::Headers;
    use bytes::Bytes;
    use std::task::{Context, Waker};

    fn mailbox(session: u64) -> Arc<Mailbox> {
        Mailbox::new(session, MailboxLimits { frames: 1000, bytes: 1 << 20 })
    }

    fn item(number: u64) -> Item {
        let destination = Destination::for_send("/queue/x").unwrap();
        let body = Bytes::from_static(b"x");
        let message = Message::new(destination, "".into(), Headers::default(), body);
        Item::new(number, Arc::new(message), false, None)
    }

    fn queue() -> Queue {
        Queue::new("x".into(), Declaration::QUEUE, None)
    }

    fn limited(arguments: Arguments) -> Queue {
        Queue::new("x".into(), Declaration { arguments, ..Declaration::QUEUE }, None)
    }

    fn push_all(queue: &mut Queue, numbers: std::ops::RangeInclusive<u64>) -> Vec<u64> {
        numbers.flat_map(|n| queue.push(item(n))).map(|gone| gone.item.number).collect()
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
                    Source::Queue { tag, .. } => (tag, delivery.redelivered),
                    Source::User { .. } => panic!("not from a queue"),
                },
                _ => panic!("not a delivery"),
            })
            .collect()
    }

    #[test]
    fn consumers_take_turns_within_their_windows() {
        let (a, b) = (mailbox(1), mailbox(2));
        let mut queue = queue();
        queue.subscribe(&a, 1, 2);
        queue.subscribe(&b, 1, 1);
        assert!(push_all(&mut queue, 1..=5).is_empty());
        assert_eq!(taken(&a), [(1, false), (3, false)]);
        assert_eq!(taken(&b), [(2, false)]);
        assert_eq!(queue.settle(2, 1, &[2, 99], Settlement::Ack).len(), 1);
        assert_eq!(taken(&b), [(4, false)]);
        assert_eq!(queue.depth().0, 4);
    }

    #[test]
    fn what_goes_back_goes_to_its_place() {
        let (a, b) = (mailbox(1), mailbox(2));
        let mut queue = queue();
        queue.subscribe(&a, 1, 3);
        assert!(push_all(&mut queue, 1..=4).is_empty());
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
        let mut queue = queue();
        queue.subscribe(&a, 1, 1);
        queue.push(item(1));
        for _ in 1..MAX_NACKS {
            assert!(queue.settle(1, 1, &[1], Settlement::Requeue).is_empty());
        }
        let gone = queue.settle(1, 1, &[1], Settlement::Requeue);
        assert!(matches!(gone.as_slice(), [Gone { is_dead: true, .. }]));
        assert_eq!(queue.depth(), (0, 0));
    }

    #[test]
    fn a_full_mailbox_gets_nothing_and_loses_nothing() {
        let a = Mailbox::new(1, MailboxLimits { frames: 1, bytes: 1 << 20 });
        let b = mailbox(2);
        let mut queue = queue();
        queue.subscribe(&a, 1, 10);
        assert!(push_all(&mut queue, 1..=5).is_empty());
        queue.abandon(1, 1);
        queue.subscribe(&b, 1, 10);
        assert_eq!(taken(&b), [(1, true), (2, true), (3, false), (4, false), (5, false)]);
    }

    #[test]
    fn the_oldest_go_where_the_length_is_limited() {
        let a = mailbox(1);
        let by_number = Arguments { max_length: Some(2), ..Arguments::default() };
        let mut queue = limited(by_number);
        assert_eq!(push_all(&mut queue, 1..=4), [1, 2]);
        queue.subscribe(&a, 1, 1);
        // What is out does not count.
        assert_eq!(push_all(&mut queue, 5..=6), [4]);
        assert_eq!(taken(&a), [(3, false)]);
        let by_bytes = Arguments { max_length_bytes: Some(2), ..Arguments::default() };
        assert_eq!(push_all(&mut limited(by_bytes), 1..=4), [1, 2]);
    }

    #[test]
    fn what_has_expired_is_not_delivered() {
        let a = mailbox(1);
        let mut queue = limited(Arguments { message_ttl: Some(0), ..Arguments::default() });
        let first = item(1);
        let expires = queue.expiry(&first.message);
        assert_eq!(queue.push(Item { expires, ..first }).len(), 1);
        queue.push(item(2));
        queue.subscribe(&a, 1, 9);
        assert_eq!(taken(&a), [(2, false)]);
        // Somebody waits for it, so that no time passes.
        queue.push(Item { expires, ..item(3) });
        assert_eq!(taken(&a), [(3, false)]);
    }

    #[test]
    fn a_deleted_queue_has_nothing_left() {
        let a = mailbox(1);
        let mut queue = queue();
        queue.subscribe(&a, 1, 1);
        assert!(push_all(&mut queue, 1..=3).is_empty());
        let numbers: Vec<u64> = queue.delete().iter().map(|gone| gone.item.number).collect();
        assert_eq!(numbers, [2, 3, 1]);
        assert_eq!(queue.depth(), (0, 0));
        assert!(queue.settle(1, 1, &[1], Settlement::Ack).is_empty());
    }

    #[test]
    fn a_queue_lives_with_its_consumers_where_it_was_declared_so() {
        let a = mailbox(1);
        let declaration = Declaration { auto_delete: true, ..Declaration::QUEUE };
        let mut queue = Queue::new("x".into(), declaration, None);
        queue.subscribe(&a, 1, 1);
        queue.subscribe(&a, 2, 1);
        queue.push(item(1));
        queue.unsubscribe(1, 1);
        assert!(!queue.is_forsaken());
        queue.abandon(1, 2);
        assert!(queue.is_forsaken());
    }
}
