//! What a STOMP server with queues, topics and transactions may do, as simply as it can be said.
//! Nothing here is shared with the server: no ring of consumers, no windows of deliveries on
//! their way, no mailboxes. The model says which answers are allowed, not which one comes.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// NACKed this often, a message goes to the queue's dead queue.
const MOST_NACKS: u8 = 20;

/// A client's session; never used twice.
pub(crate) type SessionId = usize;
/// A subscription; its id may be used again, for another one.
type Number = usize;
/// A message's place in its queue: messages keep it when they come back.
type Place = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Auto,
    Client,
    Individual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settlement {
    Ack,
    Nack,
    /// NACK with `requeue:false`.
    Discard,
}

/// Where a message comes to lie.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum QueueKey {
    Named(String),
    /// The queue of one subscription to a topic, which goes with it.
    Own(Number),
}

#[derive(Clone, Debug)]
struct Msg {
    body: String,
    /// As its sender wrote it.
    destination: String,
    nacks: u8,
    /// Some client got it before: it comes as redelivered.
    was_seen: bool,
    /// It may have been on its way to a client that did not read and is gone.
    was_on_its_way: bool,
}

#[derive(Debug, Default)]
struct Queue {
    next: Place,
    ready: BTreeMap<Place, Msg>,
}

#[derive(Debug)]
enum Feed {
    /// A copy of each message, in order.
    Copies {
        pattern: String,
        due: VecDeque<(String, String)>,
    },
    Queue {
        key: QueueKey,
        window: usize,
        pattern: Option<String>,
    },
}

#[derive(Debug)]
struct Subscription {
    number: Number,
    feed: Feed,
    mode: Mode,
    /// Of the messages that nobody had before, the last one it got.
    last_new: Option<Place>,
}

#[derive(Debug)]
struct Unacked {
    subscription: Number,
    mode: Mode,
    queue: QueueKey,
    place: Place,
    msg: Msg,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Send { destination: String, body: String },
    Settle { id: String, settlement: Settlement },
}

#[derive(Debug, Default)]
struct Session {
    subscriptions: BTreeMap<String, Subscription>,
    /// In the order in which they came.
    unacked: Vec<(String, Unacked)>,
    transactions: HashMap<String, Vec<Step>>,
    /// Those that an ACK may have named at any time.
    ids: BTreeSet<String>,
}

/// A MESSAGE as a client got it.
#[derive(Debug)]
pub(crate) struct Delivered<'a> {
    pub(crate) subscription: &'a str,
    pub(crate) body: &'a str,
    pub(crate) destination: &'a str,
    pub(crate) redelivered: bool,
    /// What an ACK of it has to name.
    pub(crate) id: &'a str,
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    sessions: BTreeMap<SessionId, Session>,
    queues: BTreeMap<QueueKey, Queue>,
    next: Number,
}

impl Model {
    pub(crate) fn connect(&mut self, session: SessionId) {
        self.sessions.insert(session, Session::default());
    }

    pub(crate) fn subscribe(
        &mut self,
        session: SessionId,
        id: &str,
        destination: &str,
        mode: Mode,
        window: usize,
    ) {
        let number = self.next;
        self.next += 1;
        let feed = match (destination.strip_prefix("/topic/"), mode) {
            (None, _) => {
                let key = QueueKey::Named(queue_name(destination));
                Feed::Queue { key, window, pattern: None }
            }
            (Some(pattern), Mode::Auto) => {
                Feed::Copies { pattern: pattern.into(), due: VecDeque::new() }
            }
            (Some(pattern), Mode::Client | Mode::Individual) => {
                let key = QueueKey::Own(number);
                Feed::Queue { key, window, pattern: Some(pattern.into()) }
            }
        };
        if let Feed::Queue { key, .. } = &feed {
            self.queues.entry(key.clone()).or_default();
        }
        let subscription = Subscription { number, feed, mode, last_new: None };
        self.session(session).subscriptions.insert(id.into(), subscription);
    }

    /// `has_read`: nothing is on its way to the client.
    pub(crate) fn unsubscribe(&mut self, session: SessionId, id: &str, has_read: bool) {
        let Some(subscription) = self.session(session).subscriptions.remove(id) else { return };
        self.forsake(&subscription, has_read);
    }

    /// The session ends, however it does: what it did not settle goes back.
    pub(crate) fn end(&mut self, session: SessionId, has_read: bool) {
        let Some(ended) = self.sessions.remove(&session) else { return };
        for (_, unacked) in ended.unacked {
            self.give_back(&unacked.queue, unacked.place, unacked.msg);
        }
        for subscription in ended.subscriptions.values() {
            self.forsake(subscription, has_read);
        }
    }

    pub(crate) fn send(&mut self, destination: &str, body: &str) {
        let msg = Msg {
            body: body.into(),
            destination: destination.into(),
            nacks: 0,
            was_seen: false,
            was_on_its_way: false,
        };
        let Some(topic) = destination.strip_prefix("/topic/") else {
            return self.put(QueueKey::Named(queue_name(destination)), msg);
        };
        let mut keys = Vec::new();
        let sessions = self.sessions.values_mut();
        for Subscription { feed, .. } in sessions.flat_map(|s| s.subscriptions.values_mut()) {
            match feed {
                Feed::Copies { pattern, due } if matches(pattern, topic) => {
                    due.push_back((body.into(), destination.into()));
                }
                Feed::Queue { key, pattern: Some(pattern), .. } if matches(pattern, topic) => {
                    keys.push(key.clone());
                }
                Feed::Copies { .. } | Feed::Queue { .. } => {}
            }
        }
        keys.into_iter().for_each(|key| self.put(key, msg.clone()));
    }

    pub(crate) fn settle(&mut self, session: SessionId, id: &str, settlement: Settlement) {
        let unacked = &mut self.session(session).unacked;
        // Settled before: no effect.
        let Some(at) = unacked.iter().position(|(other, _)| other == id) else { return };
        let (subscription, mode) = (unacked[at].1.subscription, unacked[at].1.mode);
        let mut index = 0;
        let taken: Vec<Unacked> = unacked
            .extract_if(.., |(_, other)| {
                let is_before = index < at;
                index += 1;
                let is_it = index - 1 == at;
                is_it || is_before && mode == Mode::Client && other.subscription == subscription
            })
            .map(|(_, unacked)| unacked)
            .collect();
        for Unacked { queue, place, mut msg, .. } in taken {
            if settlement != Settlement::Nack {
                continue;
            }
            msg.nacks += 1;
            if msg.nacks < MOST_NACKS {
                self.give_back(&queue, place, msg);
            } else if let QueueKey::Named(name) = queue {
                let msg = Msg { nacks: 0, was_seen: false, was_on_its_way: false, ..msg };
                self.put(QueueKey::Named(format!("{name}.dead")), msg);
            }
        }
    }

    pub(crate) fn begin(&mut self, session: SessionId, transaction: &str) {
        self.session(session).transactions.insert(transaction.into(), Vec::new());
    }

    pub(crate) fn add(&mut self, session: SessionId, transaction: &str, step: Step) {
        let steps = self.session(session).transactions.get_mut(transaction);
        steps.expect("an open transaction").push(step);
    }

    /// COMMIT does all of it, ABORT nothing.
    pub(crate) fn finish(&mut self, session: SessionId, transaction: &str, commits: bool) {
        let steps = self.session(session).transactions.remove(transaction);
        for step in steps.unwrap_or_default().into_iter().filter(|_| commits) {
            match step {
                Step::Send { destination, body } => self.send(&destination, &body),
                Step::Settle { id, settlement } => self.settle(session, &id, settlement),
            }
        }
    }

    /// A client got a message: whether it may.
    pub(crate) fn delivered(
        &mut self,
        session: SessionId,
        got: &Delivered<'_>,
    ) -> Result<(), String> {
        let Self { sessions, queues, .. } = self;
        let of = sessions.get_mut(&session).ok_or("the session is over")?;
        let subscription = of.subscriptions.get_mut(got.subscription);
        let subscription = subscription.ok_or("the client has no such subscription")?;
        let (key, window) = match &mut subscription.feed {
            Feed::Copies { due, .. } => {
                let next = due.pop_front().ok_or("no message is due here")?;
                let is_next = (got.body, got.destination) == (next.0.as_str(), next.1.as_str());
                let is_right = is_next && !got.redelivered;
                return is_right.then_some(()).ok_or(format!("{next:?} is due, and as new"));
            }
            Feed::Queue { key, window, .. } => (key, *window),
        };
        let queue = queues.get_mut(key).ok_or("the queue is gone")?;
        let found = queue.ready.iter().find(|(_, msg)| msg.body == got.body);
        let place = *found.ok_or("the queue has no such message, or somebody else has it")?.0;
        let mut msg = queue.ready.remove(&place).ok_or("it is there")?;
        if got.destination != msg.destination {
            return Err(format!("it was sent to {}", msg.destination));
        }
        match (got.redelivered, msg.was_seen, msg.was_on_its_way) {
            (false, true, _) => return Err("it came before, and is not redelivered".into()),
            (true, false, false) => return Err("nobody had it before".into()),
            (false, false, _) => {
                if subscription.last_new.replace(place) > Some(place) {
                    return Err("it was sent before another that came first".into());
                }
            }
            (true, _, _) => {}
        }
        if subscription.mode != Mode::Auto {
            if !of.ids.insert(got.id.to_owned()) {
                return Err(format!("{} is the id of another message too", got.id));
            }
            let (queue, number, mode) = (key.clone(), subscription.number, subscription.mode);
            msg.was_seen = true;
            let unacked = Unacked { subscription: number, mode, queue, place, msg };
            of.unacked.push((got.id.to_owned(), unacked));
            if of.out(number) > window {
                return Err(format!("{window} messages without ACK are all it wants"));
            }
        }
        Ok(())
    }

    /// Everybody has read everything: nobody may be waiting for what is there.
    pub(crate) fn check_rest(&self) -> Result<(), String> {
        for (session, of) in &self.sessions {
            for (id, subscription) in &of.subscriptions {
                match &subscription.feed {
                    Feed::Copies { due, .. } if !due.is_empty() => {
                        return Err(format!("session {session}, {id}: {due:?} did not come"));
                    }
                    Feed::Queue { key, window, .. }
                        if of.out(subscription.number) < *window
                            || subscription.mode == Mode::Auto =>
                    {
                        let ready = self.queues.get(key).and_then(|q| q.ready.first_key_value());
                        if let Some((_, msg)) = ready {
                            return Err(format!("session {session}, {id}: {} waits", msg.body));
                        }
                    }
                    Feed::Copies { .. } | Feed::Queue { .. } => {}
                }
            }
        }
        Ok(())
    }

    /// What lies in the queues that anybody reaches, in order.
    pub(crate) fn left(&self) -> BTreeMap<String, Vec<String>> {
        let named = self.queues.iter().filter_map(|(key, queue)| match key {
            QueueKey::Named(name) => Some((name.clone(), queue)),
            QueueKey::Own(_) => None,
        });
        named
            .map(|(name, queue)| (name, queue.ready.values().map(|m| m.body.clone()).collect()))
            .collect()
    }

    /// Ids that an ACK may name, in the order in which they came.
    pub(crate) fn unacked(&self, session: SessionId) -> Vec<String> {
        let session = self.sessions.get(&session);
        session.map_or(Vec::new(), |of| of.unacked.iter().map(|(id, _)| id.clone()).collect())
    }

    /// The message that an ACK of that id is about.
    pub(crate) fn body(&self, session: SessionId, id: &str) -> Option<String> {
        let unacked = &self.sessions.get(&session)?.unacked;
        unacked.iter().find(|(other, _)| other == id).map(|(_, unacked)| unacked.msg.body.clone())
    }

    pub(crate) fn subscriptions(&self, session: SessionId) -> Vec<String> {
        let session = self.sessions.get(&session);
        session.map_or(Vec::new(), |of| of.subscriptions.keys().cloned().collect())
    }

    pub(crate) fn open_transactions(&self, session: SessionId) -> BTreeSet<String> {
        let session = self.sessions.get(&session);
        session.map_or(BTreeSet::new(), |of| of.transactions.keys().cloned().collect())
    }

    fn session(&mut self, session: SessionId) -> &mut Session {
        self.sessions.get_mut(&session).expect("a session that is connected")
    }

    fn put(&mut self, key: QueueKey, msg: Msg) {
        let queue = self.queues.entry(key).or_default();
        queue.ready.insert(queue.next, msg);
        queue.next += 1;
    }

    /// Back to its place; with its own queue gone it is gone too.
    fn give_back(&mut self, key: &QueueKey, place: Place, msg: Msg) {
        if let Some(queue) = self.queues.get_mut(key) {
            queue.ready.insert(place, msg);
        }
    }

    /// A subscription is over; what was on its way to it goes back as redelivered.
    fn forsake(&mut self, subscription: &Subscription, has_read: bool) {
        let Feed::Queue { key, .. } = &subscription.feed else { return };
        if matches!(key, QueueKey::Own(_)) {
            self.queues.remove(key);
        } else if let Some(queue) = self.queues.get_mut(key).filter(|_| !has_read) {
            queue.ready.values_mut().for_each(|msg| msg.was_on_its_way = true);
        }
    }
}

impl Session {
    /// How many messages of that subscription wait for an ACK.
    fn out(&self, number: Number) -> usize {
        self.unacked.iter().filter(|(_, unacked)| unacked.subscription == number).count()
    }
}

fn queue_name(destination: &str) -> String {
    destination.strip_prefix("/queue/").unwrap_or(destination).to_owned()
}

/// Whether a topic is one of a pattern's: `*` is one word, `#` any number.
fn matches(pattern: &str, topic: &str) -> bool {
    fn words(pattern: &[&str], topic: &[&str]) -> bool {
        match (pattern.split_first(), topic.split_first()) {
            (None, None) => true,
            (Some((&"#", rest)), _) => {
                words(rest, topic) || !topic.is_empty() && words(pattern, &topic[1..])
            }
            (Some((word, pattern)), Some((first, topic))) => {
                (*word == "*" || word == first) && words(pattern, topic)
            }
            (None, Some(_)) | (Some(_), None) => false,
        }
    }
    let pattern: Vec<&str> = pattern.split('.').collect();
    words(&pattern, &topic.split('.').collect::<Vec<_>>())
}
