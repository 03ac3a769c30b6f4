//! The embedded broker: queues, topics and exchanges in this process.

mod exchanges;
mod journal;
mod lifecycle;
mod queue;
mod stored_queue;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Instant, SystemTime};

use crate::destination::Destination;
use crate::message::Message;
use crate::relay::error::{Refusal, RefusalKind};
use crate::relay::mailbox::{Level, Mailbox, Submit, SubscriptionNumber, Token};
use crate::relay::origin::{Declaration, Origin, Place};
use crate::relay::{Settlement, SubscribeRequest, Together};
use exchanges::Exchanges;
pub use journal::JournalError;
use journal::{Answer, Append, Journal, Record};
use lifecycle::{Map, Shared};
use queue::{Gone, Item, Queue};

/// A queue's limit; beyond it SENDs are refused.
const QUEUE_MESSAGES: usize = 100_000;
const QUEUE_BYTES: usize = 64 << 20;
const QUEUES: usize = 10_000;

/// Queues, topics and exchanges of one process.
#[derive(Debug)]
pub struct Embedded {
    exchanges: Exchanges,
    queues: RwLock<Map>,
    /// The exclusive queues of each session that has any.
    owned: Mutex<HashMap<u64, Vec<Arc<str>>>>,
    next_number: AtomicU64,
    journal: Option<Journal>,
}

/// What became of a message for a queue.
enum Put {
    /// In the queue; where it is to be on disk too, an answer follows from there.
    In {
        is_answered: bool,
        level: Level,
    },
    Full(Refusal),
    /// The queue is gone.
    Deleted,
}

impl Embedded {
    /// A broker whose `persistent:true` queue messages and durable subscriptions lie in `journal`,
    /// or in memory only.
    ///
    /// # Errors
    /// Where the journal cannot be opened or read.
    pub fn open(journal: Option<&Path>) -> Result<Self, JournalError> {
        let (journal, found) = match journal.map(Journal::open).transpose()? {
            Some((journal, found)) => (Some(journal), found),
            None => (None, journal::Found::default()),
        };
        let next = found.messages.iter().map(|record| record.number + 1).max().unwrap_or(1);
        let broker = Self {
            exchanges: Exchanges::new(),
            queues: RwLock::default(),
            owned: Mutex::default(),
            next_number: AtomicU64::new(next),
            journal,
        };
        found.queues.into_iter().for_each(|queue| broker.recover(queue));
        let (now, wall) = (Instant::now(), SystemTime::now());
        for Record { queue: name, number, message, expires } in found.messages {
            let left = expires.map(|at| at.duration_since(wall).unwrap_or_default());
            let expires = left.and_then(|left| now.checked_add(left));
            if let Ok(queue) = broker.declared(&name, &Declaration::QUEUE, 0) {
                let gone = lock(&queue).push(Item::recovered(number, Arc::new(message), expires));
                broker.let_go(&name, gone);
            }
        }
        Ok(broker)
    }

    /// Publishes. `declare`: what the queue is where it is missing.
    pub fn publish(
        &self,
        from: &Arc<Mailbox>,
        token: Option<Token>,
        message: &Arc<Message>,
        declare: Option<&Declaration>,
    ) -> Submit {
        let answer = token.map(|token| (from.clone(), token));
        match &message.destination {
            Destination::Queue(name) => {
                let declaration = declare.unwrap_or(&Declaration::QUEUE);
                self.send(name, declaration, from.session(), message, &answer)
            }
            // As RabbitMQ has it: what nobody declared gets nothing, and nobody is told.
            Destination::AmqQueue(name) | Destination::ReplyQueue(name) => match self.known(name) {
                Some(queue) => submit(self.put(name, &queue, message, answer, false)),
                None => Submit::Done(Level::Memory),
            },
            Destination::Topic(_) | Destination::Exchange(_) => self.fan_out(message, &answer),
            Destination::User(_) | Destination::App(_) => Submit::Refused(no_place()),
        }
    }

    /// Publishes messages to one topic at once, where no queue is bound.
    pub fn publish_together(&self, messages: &[(Token, Arc<Message>)]) -> Together {
        self.exchanges.publish_together(messages)
    }

    /// Subscribes to a queue, a topic or an exchange.
    pub fn subscribe(
        &self,
        to: &Arc<Mailbox>,
        token: Option<Token>,
        request: &SubscribeRequest,
    ) -> Submit {
        let result = match &request.origin {
            Origin::Fanout(destination) => self
                .exchanges
                .listen(to, request.subscription, destination)
                .map(|()| Submit::Done(Level::Memory)),
            Origin::Queue(origin) => self.consume(to, token, request, origin),
        };
        result.unwrap_or_else(Submit::Refused)
    }

    /// Ends a subscription; what it got from a queue may still be settled. `delete`: the queue
    /// goes, where it was the subscription's own.
    pub fn unsubscribe(
        &self,
        of: &Arc<Mailbox>,
        subscription: SubscriptionNumber,
        place: &Place,
        delete: bool,
    ) {
        let session = of.session();
        match place {
            Place::Fanout(destination) => self.exchanges.ignore(session, subscription, destination),
            Place::Queue(name) => self.leave_queue(name, delete, |queue| {
                queue.unsubscribe(session, subscription);
                Vec::new()
            }),
        }
    }

    /// Ends a subscription of a session that is gone; its open deliveries go back.
    pub fn abandon(&self, of: &Arc<Mailbox>, subscription: SubscriptionNumber, place: &Place) {
        let session = of.session();
        match place {
            Place::Fanout(destination) => self.exchanges.ignore(session, subscription, destination),
            Place::Queue(name) => {
                self.leave_queue(name, false, |queue| queue.abandon(session, subscription));
            }
        }
    }

    /// All subscriptions of a session are abandoned; what else was its own goes too.
    pub fn session_ended(&self, of: &Arc<Mailbox>) {
        self.remove_owned(of.session());
    }

    /// Settles deliveries of a queue.
    pub fn settle(
        &self,
        of: &Arc<Mailbox>,
        subscription: SubscriptionNumber,
        queue: &Arc<str>,
        tags: &[u64],
        settlement: Settlement,
    ) {
        let Some(known) = self.known(queue) else { return };
        let gone = lock(&known).settle(of.session(), subscription, tags, settlement);
        self.let_go(queue, gone);
    }

    /// Whether a session may go on sending; where not, `waiter` gets `Event::Room` later.
    #[must_use]
    pub fn has_room(&self, waiter: &Arc<Mailbox>) -> bool {
        self.journal.as_ref().is_none_or(|journal| journal.has_room(waiter))
    }

    /// Forgets queues that nobody uses. Called now and then.
    pub fn sweep(&self, now: Instant) {
        self.remove_idle(now);
    }

    /// Writes what the journal has not written yet.
    pub fn close(&self) {
        if let Some(journal) = &self.journal {
            journal.close();
        }
    }

    /// To a queue, declared where it is missing.
    fn send(
        &self,
        name: &Arc<str>,
        declaration: &Declaration,
        session: u64,
        message: &Arc<Message>,
        answer: &Answer,
    ) -> Submit {
        loop {
            let queue = match self.declared(name, declaration, session) {
                Ok(queue) => queue,
                Err(refusal) => return Submit::Refused(refusal),
            };
            match self.put(name, &queue, message, answer.clone(), false) {
                // Deleted between the look and the lock.
                Put::Deleted => {}
                put => return submit(put),
            }
        }
    }

    /// To whoever listens, and to the queues that are bound.
    fn fan_out(&self, message: &Arc<Message>, answer: &Answer) -> Submit {
        let queues = match self.exchanges.publish(message) {
            Ok(queues) => queues,
            Err(refusal) => return Submit::Refused(refusal),
        };
        // The journal writes in order: the last of them on disk means all.
        let last = queues.iter().rposition(|queue| self.keeps(&lock(queue), message));
        let mut result = Submit::Done(Level::Memory);
        for (place, queue) in queues.iter().enumerate() {
            let name = lock(queue).name().clone();
            let answer = answer.clone().filter(|_| last == Some(place));
            match self.put(&name, queue, message, answer, true) {
                Put::In { is_answered: true, .. } => result = Submit::Pending,
                Put::In { is_answered: false, level: Level::Stored } => {
                    result = match result {
                        Submit::Done(_) => Submit::Done(Level::Stored),
                        other => other,
                    };
                }
                Put::In { .. } | Put::Full(_) | Put::Deleted => {}
            }
        }
        result
    }

    /// Whether a message in that queue survives a restart.
    fn keeps(&self, queue: &Queue, message: &Message) -> bool {
        message.persistent && queue.declaration.durable && self.journal.is_some()
    }

    /// Puts a message into a queue. One that is bound and full gives up its oldest: an absent
    /// subscriber must not stop a topic for everybody.
    fn put(
        &self,
        name: &Arc<str>,
        queue: &Shared,
        message: &Arc<Message>,
        answer: Answer,
        is_bound: bool,
    ) -> Put {
        let mut state = lock(queue);
        if state.is_deleted {
            return Put::Deleted;
        }
        let (messages, bytes) = state.depth();
        let is_full = messages >= QUEUE_MESSAGES || bytes >= QUEUE_BYTES;
        if is_full && !is_bound {
            return Put::Full(Refusal::new(
                RefusalKind::Outage,
                "Queue full",
                format!("queue '{name}' holds {messages} messages and {bytes} bytes\n"),
            ));
        }
        let mut gone = if is_full { state.drop_oldest() } else { Vec::new() };
        // Under the queue's lock, so that numbers are in the order of the queue.
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let expires = state.expiry(message);
        let is_kept = self.keeps(&state, message);
        let mut is_answered = false;
        if let (Some(journal), true) = (&self.journal, is_kept) {
            is_answered = answer.is_some();
            let wall =
                expires.map(|at| SystemTime::now() + at.saturating_duration_since(Instant::now()));
            let (queue, message) = (name.clone(), message.clone());
            journal.append(Append { queue, number, message, expires: wall }, answer);
        }
        gone.append(&mut state.push(Item::new(number, message.clone(), is_kept, expires)));
        drop(state);
        self.let_go(name, gone);
        Put::In { is_answered, level: if is_kept { Level::Stored } else { Level::Memory } }
    }

    /// What left a queue leaves the disk too; what was NACKed too often goes to the dead queue.
    fn let_go(&self, name: &Arc<str>, gone: Vec<Gone>) {
        for Gone { item, is_dead } in gone {
            // Its journal entry goes only once the dead queue has its own.
            if is_dead && let Submit::Refused(refusal) = self.bury(name, &item.message) {
                tracing::error!(queue = %name, %refusal, "a message found no place in the dead queue");
                if let Some(queue) = self.known(name) {
                    let gone = lock(&queue).put_back(item);
                    self.let_go(name, gone);
                }
                continue;
            }
            if let (true, Some(journal)) = (item.stored, &self.journal) {
                journal.remove(item.number);
            }
        }
    }

    /// Moves a message that was NACKed too often to the queue's dead queue.
    fn bury(&self, name: &str, message: &Message) -> Submit {
        let dead: Arc<str> = Arc::from(format!("{name}.dead"));
        let mut copy = Message::new(
            Destination::Queue(dead.clone()),
            message.shown.clone(),
            message.headers.clone(),
            message.body.clone(),
        );
        (copy.persistent, copy.x_id) = (message.persistent, message.x_id);
        self.send(&dead, &Declaration::QUEUE, 0, &Arc::new(copy), &None)
    }
}

fn submit(put: Put) -> Submit {
    match put {
        Put::In { is_answered: true, .. } => Submit::Pending,
        Put::In { is_answered: false, level } => Submit::Done(level),
        Put::Full(refusal) => Submit::Refused(refusal),
        Put::Deleted => Submit::Done(Level::Memory),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    use crate::relay::mailbox::{Delivery, Entry, Event, MailboxLimits, Source};
    use crate::relay::origin::{self, OwnName, QueueHeaders};
    use crate::stomp::Headers;

    fn request(text: &str, headers: &[(&str, &str)]) -> SubscribeRequest {
        let allowed = ["amq.direct"].into_iter().collect();
        let destination = Destination::for_subscribe_within(text, "alice", &allowed).unwrap();
        let headers = headers.iter().copied().collect();
        let headers = QueueHeaders::of_subscribe(&headers).unwrap();
        let (ack, own) =
            (AckMode::ClientIndividual, OwnName { id: Some("s"), owner: None, random: "r" });
        let origin = origin::origin(&destination, ack, &headers, own).unwrap();
        SubscribeRequest { subscription: 1, origin, ack, prefetch: 1 }
    }

    fn subscribe(broker: &Embedded, to: &Arc<Mailbox>, queue: &str) {
        let request = request(queue, &[]);
        assert!(matches!(broker.subscribe(to, None, &request), Submit::Done(_)));
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
        let Source::Queue { queue, tag } = &got.source else { panic!("not from a queue") };
        broker.settle(of, 1, queue, &[*tag], settlement);
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
        broker.publish(&a, None, &Arc::new(message), None);
        for _ in 0..queue::MAX_NACKS {
            let got = delivered(&a).unwrap();
            settle(&broker, &a, &got, Settlement::Requeue);
        }
        assert!(delivered(&a).is_none());
        subscribe(&broker, &b, "/queue/q.dead");
        let got = delivered(&b).unwrap();
        settle(&broker, &b, &got, Settlement::Ack);
        broker.abandon(&b, 1, &Place::Queue("q.dead".into()));
        subscribe(&broker, &b, "/queue/q.dead");
        assert!(delivered(&b).is_none());
    }

    #[test]
    fn a_queue_that_goes_with_its_consumers_leaves_no_dead_queue() {
        let broker = Embedded::open(None).unwrap();
        let a = mailbox(1);
        let request = request("/topic/a", &[]);
        assert!(matches!(broker.subscribe(&a, None, &request), Submit::Done(_)));
        send(&broker, &a, "/topic/a", "x");
        for _ in 0..queue::MAX_NACKS {
            settle(&broker, &a, &delivered(&a).unwrap(), Settlement::Requeue);
        }
        assert!(delivered(&a).is_none());
        broker.unsubscribe(&a, 1, &request.origin.place(), false);
        assert_eq!(broker.queues.read().unwrap().keys().collect::<Vec<_>>(), [] as [&Arc<str>; 0]);
    }

    #[test]
    fn what_a_session_gives_back_is_no_nack() {
        let broker = Embedded::open(None).unwrap();
        let a = Mailbox::new(1, MailboxLimits { frames: 99, bytes: 9999 });
        let destination = Destination::for_send("/queue/q").unwrap();
        let message = Message::new(destination, "".into(), Headers::default(), Bytes::new());
        subscribe(&broker, &a, "/queue/q");
        broker.publish(&a, None, &Arc::new(message), None);
        for _ in 0..=2 * queue::MAX_NACKS {
            let got = delivered(&a).unwrap();
            settle(&broker, &a, &got, Settlement::Return);
        }
        assert!(delivered(&a).is_some());
    }

    fn mailbox(session: u64) -> Arc<Mailbox> {
        Mailbox::new(session, MailboxLimits { frames: 99, bytes: 99_999 })
    }

    fn send(broker: &Embedded, from: &Arc<Mailbox>, text: &str, body: &'static str) -> Submit {
        let allowed = ["amq.direct"].into_iter().collect();
        let destination = Destination::for_send_within(text, &allowed).unwrap();
        let body = Bytes::from_static(body.as_bytes());
        let mut message = Message::new(destination, text.into(), Headers::default(), body);
        message.persistent = true;
        broker.publish(from, None, &Arc::new(message), None)
    }

    fn bodies(to: &Arc<Mailbox>) -> Vec<String> {
        let mut entries = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        let _ = to.poll_take(&mut cx, 1 << 20, Some(&mut entries));
        let text = |entry: &Entry| match entry {
            Entry::Own(delivery) => String::from_utf8(delivery.message.body.to_vec()).unwrap(),
            Entry::Event(event) => match &**event {
                Event::Cancelled { refusal, .. } => refusal.message.to_owned(),
                other => panic!("{other:?}"),
            },
            Entry::Shared { .. } => panic!("of a queue"),
        };
        entries.iter().map(text).collect()
    }

    const DURABLE: [(&str, &str); 2] = [("durable", "true"), ("auto-delete", "false")];

    #[test]
    fn a_durable_subscription_keeps_what_comes_while_nobody_listens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("q.db");
        let (a, b, c) = (mailbox(1), mailbox(2), mailbox(3));
        let durable = request("/topic/news.*", &DURABLE);
        let place = durable.origin.place();
        {
            let broker = Embedded::open(Some(&path)).unwrap();
            assert!(matches!(broker.subscribe(&a, None, &durable), Submit::Done(_)));
            broker.abandon(&a, 1, &place);
            assert!(matches!(send(&broker, &c, "/topic/news.x", "1"), Submit::Done(Level::Stored)));
            assert!(matches!(send(&broker, &c, "/topic/other", "2"), Submit::Done(Level::Memory)));
            broker.close();
        }
        let broker = Embedded::open(Some(&path)).unwrap();
        send(&broker, &c, "/topic/news.y", "3");
        broker.subscribe(&b, None, &SubscribeRequest { prefetch: 9, ..durable });
        assert_eq!(bodies(&b), ["1", "3"]);
        broker.unsubscribe(&b, 1, &place, true);
        assert!(matches!(send(&broker, &c, "/topic/news.x", "4"), Submit::Done(Level::Memory)));
    }

    #[test]
    fn a_queue_of_ones_own_goes_with_its_consumer() {
        let broker = Embedded::open(None).unwrap();
        let (a, b) = (mailbox(1), mailbox(2));
        let own = request("/topic/t", &[]);
        broker.subscribe(&a, None, &own);
        send(&broker, &b, "/topic/t", "1");
        assert_eq!(bodies(&a), ["1"]);
        broker.unsubscribe(&a, 1, &own.origin.place(), false);
        let Place::Queue(name) = own.origin.place() else { panic!("a queue") };
        assert!(broker.known(&name).is_none());
        assert!(broker.exchanges.publish(&message("/topic/t")).unwrap().is_empty());
    }

    fn message(text: &str) -> Arc<Message> {
        let destination = Destination::for_send(text).unwrap();
        Arc::new(Message::new(destination, text.into(), Headers::default(), Bytes::new()))
    }

    #[test]
    fn an_exclusive_queue_is_one_sessions() {
        let broker = Embedded::open(None).unwrap();
        let (a, b) = (mailbox(1), mailbox(2));
        broker.subscribe(&a, None, &request("/queue/q", &[("exclusive", "true")]));
        let refused = |submit| match submit {
            Submit::Refused(refusal) => refusal.message,
            other => panic!("{other:?}"),
        };
        for text in ["/queue/q", "/amq/queue/q"] {
            let submit = broker.subscribe(&b, None, &request(text, &[]));
            assert_eq!(refused(submit), "resource_locked", "{text}");
        }
        assert_eq!(refused(send(&broker, &b, "/queue/q", "x")), "resource_locked");
        assert!(matches!(send(&broker, &b, "/amq/queue/q", "y"), Submit::Done(_)));
        assert_eq!(bodies(&a), ["y"]);
        broker.abandon(&a, 1, &Place::Queue("q".into()));
        broker.session_ended(&a);
        assert!(broker.known(&"q".into()).is_none());
    }

    #[test]
    fn refusals_have_rabbitmqs_words() {
        let broker = Embedded::open(None).unwrap();
        let a = mailbox(1);
        broker.subscribe(&a, None, &request("/queue/q", &[("x-message-ttl", "1000")]));
        type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);
        let cases: [Case<'_>; 5] = [
            ("/queue/q", &[("x-message-ttl", "2000")], "precondition_failed"),
            ("/queue/q", &[("auto-delete", "true")], "precondition_failed"),
            ("/amq/queue/none", &[], "not_found"),
            ("/exchange/none/k", &[], "not_found"),
            ("/queue/r", &[("x-queue-type", "stream")], "Unsupported queue argument"),
        ];
        for (text, headers, expected) in cases {
            let request = SubscribeRequest { subscription: 2, ..request(text, headers) };
            match broker.subscribe(&a, None, &request) {
                Submit::Refused(refusal) => assert_eq!(refusal.message, expected, "{text}"),
                other => panic!("{text} {other:?}"),
            }
        }
        // Nothing of a refused one is left.
        assert_eq!(broker.queues.read().unwrap().len(), 1);
    }

    #[test]
    fn who_shares_a_deleted_queue_is_told() {
        let broker = Embedded::open(None).unwrap();
        let (a, b) = (mailbox(1), mailbox(2));
        let durable = request("/exchange/amq.direct/k", &DURABLE);
        broker.subscribe(&a, None, &durable);
        broker.subscribe(&b, None, &durable);
        broker.unsubscribe(&a, 1, &durable.origin.place(), true);
        assert_eq!(bodies(&b), ["Server cancelled subscription"]);
    }
}
