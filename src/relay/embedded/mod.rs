//! The embedded broker: queues and topics in this process.

mod journal;
mod queue;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::destination::Destination;
use crate::message::Message;
use crate::relay::error::{Refusal, RefusalKind};
use crate::relay::mailbox::{Level, Mailbox, Submit, SubscriptionNumber, Token};
use crate::relay::topics::Topics;
use crate::relay::{Settlement, SubscribeRequest};
pub use journal::JournalError;
use journal::{Journal, Record};
use queue::{Item, Queue};

/// A queue's limit; beyond it SENDs are refused.
const QUEUE_MESSAGES: usize = 100_000;
const QUEUE_BYTES: usize = 64 << 20;
const QUEUES: usize = 10_000;
/// An empty queue without consumers goes after this.
const QUEUE_IDLE: Duration = Duration::from_secs(300);

/// Queues and topics of one process.
#[derive(Debug)]
pub struct Embedded {
    topics: Topics,
    queues: Mutex<HashMap<Arc<str>, Arc<Mutex<Queue>>>>,
    next_number: AtomicU64,
    journal: Option<Journal>,
}

impl Embedded {
    /// A broker whose `persistent:true` queue messages lie in `journal`, or in memory only.
    ///
    /// # Errors
    /// Where the journal cannot be opened or read.
    pub fn open(journal: Option<&Path>) -> Result<Self, JournalError> {
        let (journal, records) = match journal.map(Journal::open).transpose()? {
            Some((journal, records)) => (Some(journal), records),
            None => (None, Vec::new()),
        };
        let next = records.iter().map(|record| record.number + 1).max().unwrap_or(1);
        let broker = Self {
            topics: Topics::new(),
            queues: Mutex::default(),
            next_number: AtomicU64::new(next),
            journal,
        };
        for Record { queue, number, message } in records {
            if let Some(queue) = broker.queue(&queue) {
                lock(&queue).push(Item::recovered(number, Arc::new(message)));
            }
        }
        Ok(broker)
    }

    /// Publishes to a queue or a topic.
    pub fn publish(
        &self,
        from: &Arc<Mailbox>,
        token: Option<Token>,
        message: &Arc<Message>,
    ) -> Submit {
        match &message.destination {
            Destination::Queue(name) => self.enqueue(name, message.clone(), Some((from, token))),
            Destination::Topic(topic) => {
                self.topics.publish(topic.key(), message);
                Submit::Done(Level::Memory)
            }
            Destination::User(_) | Destination::App(_) => Submit::Refused(no_place()),
        }
    }

    /// Subscribes to a queue or a topic.
    pub fn subscribe(&self, to: &Arc<Mailbox>, request: &SubscribeRequest) -> Submit {
        match &request.destination {
            Destination::Queue(name) => {
                let Some(queue) = self.queue(name) else { return Submit::Refused(too_many()) };
                lock(&queue).subscribe(to, request.subscription, request.prefetch);
                Submit::Done(Level::Memory)
            }
            Destination::Topic(topic) => {
                self.topics.subscribe(topic, to, request.subscription);
                Submit::Done(Level::Memory)
            }
            Destination::User(_) | Destination::App(_) => Submit::Refused(no_place()),
        }
    }

    /// Ends a subscription; what it got from a queue may still be settled.
    pub fn unsubscribe(
        &self,
        of: &Arc<Mailbox>,
        subscription: SubscriptionNumber,
        destination: &Destination,
    ) {
        match destination {
            Destination::Queue(name) => {
                if let Some(queue) = self.known(name) {
                    lock(&queue).unsubscribe(of.session(), subscription);
                }
            }
            Destination::Topic(topic) => {
                self.topics.unsubscribe(topic, of.session(), subscription);
            }
            Destination::User(_) | Destination::App(_) => {}
        }
    }

    /// Ends a subscription of a session that is gone; its open deliveries go back.
    pub fn abandon(
        &self,
        of: &Arc<Mailbox>,
        subscription: SubscriptionNumber,
        destination: &Destination,
    ) {
        match destination {
            Destination::Queue(name) => {
                if let Some(queue) = self.known(name) {
                    lock(&queue).abandon(of.session(), subscription);
                }
            }
            _ => self.unsubscribe(of, subscription, destination),
        }
    }

    /// Settles deliveries of a queue.
    pub fn settle(
        &self,
        of: &Arc<Mailbox>,
        subscription: SubscriptionNumber,
        destination: &Destination,
        tags: &[u64],
        settlement: Settlement,
    ) {
        let Destination::Queue(name) = destination else { return };
        let Some(queue) = self.known(name) else { return };
        let gone = lock(&queue).settle(of.session(), subscription, tags, settlement);
        for (item, is_dead) in gone {
            // Its journal entry goes only once the dead queue has its own.
            if is_dead && let Submit::Refused(refusal) = self.bury(name, &item.message) {
                tracing::error!(queue = %name, %refusal, "a message found no place in the dead queue");
                lock(&queue).put_back(item);
                continue;
            }
            if let (true, Some(journal)) = (item.stored, &self.journal) {
                journal.remove(item.number);
            }
        }
    }

    /// Whether a session may go on sending; where not, `waiter` gets `Event::Room` later.
    #[must_use]
    pub fn has_room(&self, waiter: &Arc<Mailbox>) -> bool {
        self.journal.as_ref().is_none_or(|journal| journal.has_room(waiter))
    }

    /// Forgets queues that nobody has used for five minutes. Called now and then.
    pub fn sweep(&self, now: Instant) {
        let Some(before) = now.checked_sub(QUEUE_IDLE) else { return };
        let mut queues = lock(&self.queues);
        queues.retain(|_, queue| {
            // Somebody who holds the queue is about to use it.
            Arc::strong_count(queue) > 1 || !lock(queue).is_idle_since(now, before)
        });
    }

    /// Writes what the journal has not written yet.
    pub fn close(&self) {
        if let Some(journal) = &self.journal {
            journal.close();
        }
    }

    /// Moves a message that was NACKed too often to the queue's dead queue.
    fn bury(&self, name: &str, message: &Message) -> Submit {
        let dead: Arc<str> = Arc::from(format!("{name}.dead"));
        // Addressed anew: it is settled where it lies.
        let mut copy = Message::new(
            Destination::Queue(dead.clone()),
            message.shown.clone(),
            message.headers.clone(),
            message.body.clone(),
        );
        (copy.persistent, copy.x_id) = (message.persistent, message.x_id);
        self.enqueue(&dead, Arc::new(copy), None)
    }

    fn enqueue(
        &self,
        name: &Arc<str>,
        message: Arc<Message>,
        from: Option<(&Arc<Mailbox>, Option<Token>)>,
    ) -> Submit {
        let Some(queue) = self.queue(name) else { return Submit::Refused(too_many()) };
        let stored = message.persistent && self.journal.is_some();
        let mut queue = lock(&queue);
        let (messages, bytes) = queue.depth();
        if messages >= QUEUE_MESSAGES || bytes >= QUEUE_BYTES {
            return Submit::Refused(Refusal::new(
                RefusalKind::Outage,
                "Queue full",
                format!("queue '{name}' holds {messages} messages and {bytes} bytes\n"),
            ));
        }
        // Under the queue's lock, so that numbers are in the order of the queue.
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let submit = match (&self.journal, stored) {
            (Some(journal), true) => {
                let answer = from.and_then(|(mailbox, token)| Some((mailbox.clone(), token?)));
                let answered = answer.is_some();
                journal.append(name.clone(), number, message.clone(), answer);
                if answered { Submit::Pending } else { Submit::Done(Level::Stored) }
            }
            _ => Submit::Done(Level::Memory),
        };
        queue.push(Item::new(number, message, stored));
        submit
    }

    /// The queue of that name, made where it is missing; none where there are too many.
    fn queue(&self, name: &Arc<str>) -> Option<Arc<Mutex<Queue>>> {
        let mut queues = lock(&self.queues);
        if let Some(queue) = queues.get(name) {
            return Some(queue.clone());
        }
        if queues.len() >= QUEUES {
            return None;
        }
        let queue = Arc::new(Mutex::new(Queue::new()));
        queues.insert(name.clone(), queue.clone());
        Some(queue)
    }

    fn known(&self, name: &Arc<str>) -> Option<Arc<Mutex<Queue>>> {
        lock(&self.queues).get(name).cloned()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn too_many() -> Refusal {
    Refusal::new(
        RefusalKind::Outage,
        "Too many queues",
        format!("the embedded broker holds at most {QUEUES} queues\n"),
    )
}

fn no_place() -> Refusal {
    Refusal::new(
        RefusalKind::UnknownDestination,
        "Unknown destination",
        "no broker has such a destination\n",
    )
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use bytes::Bytes;

    use super::*;
    use crate::relay::AckMode;
    use crate::relay::mailbox::{Delivery, Entry, MailboxLimits, Source};
    use crate::stomp::Headers;

    fn subscribe(broker: &Embedded, to: &Arc<Mailbox>, queue: &str) {
        let destination = Destination::for_subscribe(queue, "alice").unwrap();
        let request = SubscribeRequest {
            subscription: 1,
            destination,
            ack: AckMode::ClientIndividual,
            prefetch: 1,
            headers: Headers::default(),
        };
        assert!(matches!(broker.subscribe(to, &request), Submit::Done(_)));
    }

    fn delivered(to: &Arc<Mailbox>) -> Option<Delivery> {
        let mut entries = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        let _ = to.poll_take(&mut cx, 1 << 20, Some(&mut entries));
        match entries.pop() {
            Some(Entry::Own(delivery)) => Some(*delivery),
            None => None,
            other => panic!("{other:?}"),
        }
    }

    /// Settles a delivery as a session does: where the message says that it lies.
    fn settle(broker: &Embedded, of: &Arc<Mailbox>, got: &Delivery, settlement: Settlement) {
        let Source::Queue { tag } = got.source else { panic!("not from a queue") };
        broker.settle(of, 1, &got.message.destination, &[tag], settlement);
    }

    #[test]
    fn what_is_nacked_too_often_moves_and_can_be_taken_there() {
        let broker = Embedded::open(None).unwrap();
        let mailbox = |session| Mailbox::new(session, MailboxLimits { frames: 99, bytes: 9999 });
        let (a, b) = (mailbox(1), mailbox(2));
        let destination = Destination::for_send("/queue/q").unwrap();
        let body = Bytes::from_static(b"x");
        let message = Message::new(destination, "/queue/q".into(), Headers::default(), body);
        subscribe(&broker, &a, "/queue/q");
        broker.publish(&a, None, &Arc::new(message));
        for _ in 0..queue::MAX_NACKS {
            let got = delivered(&a).unwrap();
            settle(&broker, &a, &got, Settlement::Requeue);
        }
        assert!(delivered(&a).is_none());
        subscribe(&broker, &b, "/queue/q.dead");
        let got = delivered(&b).unwrap();
        settle(&broker, &b, &got, Settlement::Ack);
        broker.abandon(&b, 1, &got.message.destination);
        subscribe(&broker, &b, "/queue/q.dead");
        assert!(delivered(&b).is_none());
    }

    #[test]
    fn what_a_session_gives_back_is_no_nack() {
        let broker = Embedded::open(None).unwrap();
        let a = Mailbox::new(1, MailboxLimits { frames: 99, bytes: 9999 });
        let destination = Destination::for_send("/queue/q").unwrap();
        let message = Message::new(destination, String::new(), Headers::default(), Bytes::new());
        subscribe(&broker, &a, "/queue/q");
        broker.publish(&a, None, &Arc::new(message));
        for _ in 0..=2 * queue::MAX_NACKS {
            let got = delivered(&a).unwrap();
            settle(&broker, &a, &got, Settlement::Return);
        }
        assert!(delivered(&a).is_some());
    }
}
