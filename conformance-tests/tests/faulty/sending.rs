//! SEND, and the transactions that may hold it (1.2, "SEND", "BEGIN", "COMMIT", "ABORT").

use std::sync::Arc;

use super::broker::Consumer;
use super::destination::{Destination, is_pattern, shown_queue};
use super::fault::Fault;
use super::frame::Frame;
use super::refusal::Refusal;
use super::session::{AckMode, State, Step, Subscription};

const TRANSACTIONS: usize = 16;

/// Headers of a SEND that are the server's own in a MESSAGE.
const DROPPED: [&str; 8] = [
    "destination",
    "content-length",
    "receipt",
    "transaction",
    "subscription",
    "message-id",
    "ack",
    "redelivered",
];
/// Headers that are AMQP properties, so that a broker may know them and nothing else.
const PROPERTIES: [&str; 7] = [
    "content-type",
    "content-encoding",
    "correlation-id",
    "priority",
    "type",
    "app-id",
    "persistent",
];
const NUMBERS: [&str; 3] = ["priority", "expiration", "timestamp"];

impl State {
    pub(super) fn send(&mut self, me: usize, frame: &Frame) -> Result<(), Refusal> {
        let Some(text) = frame.get("destination") else {
            if self.has(Fault::SendWithoutDestinationTaken) {
                self.receipt(me, frame);
                return Ok(());
            }
            return Err(self.missing_destination(frame));
        };
        for name in NUMBERS {
            let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
            if frame.get(name).is_some_and(|value| value.is_empty() || !digits(value)) {
                return Err(Refusal::syntax("Invalid header"));
            }
        }
        let transaction = match frame.get("transaction") {
            Some(name) if self.is_open(me, name) => Some(name),
            Some(_) if self.has(Fault::SendInUnknownTransactionTaken) => None,
            Some(_) => return Err(Refusal::syntax("Bad transaction")),
            None => None,
        };
        let destination = Destination::parse(text, self.faults)?;
        let to_pattern = matches!(&destination, Destination::Topic(key) if is_pattern(key));
        if to_pattern && !self.has(Fault::SendToPatternTaken) {
            return Err(Refusal::limit("Invalid destination"));
        }
        let steps = &mut self.sessions[me].transactions;
        let name = match transaction {
            // What is sent beside a transaction waits for nobody.
            None if !steps.is_empty() && self.faults.has(Fault::AllWaitsForCommit) => {
                steps.keys().next().cloned()
            }
            Some(_) if steps.len() > 1 && self.faults.has(Fault::LastTransactionTakesAll) => {
                steps.keys().next_back().cloned()
            }
            name => {
                name.filter(|_| !self.faults.has(Fault::SendInTransactionAtOnce)).map(Into::into)
            }
        };
        if let Some(open) = name.and_then(|name| steps.get_mut(&name)) {
            open.push(Step::Send(frame.clone()));
        } else if self.has(Fault::SendLate) {
            self.sessions[me].late = Some(frame.clone());
        } else {
            self.send_now(me, frame)?;
        }
        self.receipt(me, frame);
        Ok(())
    }

    /// What a frame without destination is told.
    pub(super) fn missing_destination(&self, frame: &Frame) -> Refusal {
        let other_case = frame.headers.iter().any(|(name, _)| name == "Destination");
        if other_case && self.has(Fault::OtherText) {
            return Refusal::syntax("Invalid header");
        }
        Refusal::syntax(if self.has(Fault::OtherText) {
            "Bad frame"
        } else {
            "Missing destination"
        })
    }

    pub(super) fn send_now(&mut self, me: usize, frame: &Frame) -> Result<(), Refusal> {
        let text = frame.get("destination").unwrap_or_default();
        let destination = Destination::parse(text, self.faults)?;
        let mut message = Frame { body: frame.body.clone(), ..Frame::new("MESSAGE") };
        message.headers = frame.headers.clone();
        message.headers.retain(|(name, _)| self.passes(name));
        self.reply_to(me, &mut message);
        let shown = match &destination {
            Destination::Queue(name) | Destination::Existing(name) => {
                shown_queue(name, self.faults)
            }
            // A topic is shown as its sender wrote it.
            Destination::Topic(_) => text.to_owned(),
        };
        message.headers.insert(0, ("destination".into(), shown));
        let message = Arc::new(message);
        let queues = match &destination {
            Destination::Queue(name) => {
                let queue = self.queue(me, name);
                self.broker.declare(&queue);
                vec![queue]
            }
            Destination::Existing(name) => vec![name.clone()],
            Destination::Topic(key) => {
                self.broker.retain(key, &message);
                let mut queues = self.broker.bound(key);
                if self.has(Fault::TopicsAreQueues) {
                    queues.push(key.clone());
                }
                queues
            }
        };
        for queue in queues {
            self.broker.put(&queue, &message);
            self.pump(&queue);
        }
        Ok(())
    }

    /// Whether a header of a SEND reaches the receiver.
    fn passes(&self, name: &str) -> bool {
        if name.starts_with("x-") || !PROPERTIES.contains(&name) && !DROPPED.contains(&name) {
            return !self.has(Fault::CustomHeadersLost) || name == "reply-to";
        }
        let forged = match name {
            "subscription" => Fault::ForgedSubscriptionPasses,
            "message-id" => Fault::ForgedMessageIdPasses,
            "ack" => Fault::ForgedAckPasses,
            "redelivered" => Fault::ForgedRedeliveredPasses,
            "transaction" => Fault::TransactionPasses,
            "destination" | "content-length" | "receipt" => return false,
            "content-type" => return !self.has(Fault::ContentTypeLost),
            _ => return !self.has(Fault::PropertiesLost),
        };
        self.has(forged)
    }

    /// `reply-to:/temp-queue/N`: a queue of the session's own, read under that name.
    fn reply_to(&mut self, me: usize, message: &mut Frame) {
        let Some(id) = message.get("reply-to").filter(|to| to.starts_with("/temp-queue/")) else {
            return;
        };
        if self.has(Fault::ReplyToPassedOn) {
            return;
        }
        let id = id.to_owned();
        let session = &mut self.sessions[me];
        let found = session.subscriptions.iter().find(|s| s.id.as_deref() == Some(id.as_str()));
        let queue = if let Some(found) = found {
            found.queue.clone()
        } else {
            session.subscribed += 1;
            let number = session.subscribed;
            let queue = format!("amq.gen-{}-{number}", session.name);
            session.subscriptions.push(Subscription {
                number,
                id: Some(id.clone()).filter(|_| !self.faults.has(Fault::ReplyWithoutSubscription)),
                destination: id,
                queue: queue.clone(),
                ack: AckMode::Auto,
                prefetch: usize::MAX,
            });
            self.broker.declare_passing(&queue);
            self.broker.consume(&queue, Consumer { session: me as u64, subscription: number });
            queue
        };
        message.set("reply-to", &format!("/reply-queue/{queue}"));
    }

    pub(super) fn is_open(&self, me: usize, transaction: &str) -> bool {
        self.sessions[me].transactions.contains_key(transaction)
    }

    pub(super) fn begin(&mut self, me: usize, frame: &Frame) -> Result<(), Refusal> {
        let Some(name) = self.transaction(frame)? else { return Ok(()) };
        let elsewhere = self.sessions.iter().any(|s| s.transactions.contains_key(&name));
        if self.is_open(me, &name) && !self.has(Fault::BeginTwiceTaken)
            || elsewhere && self.has(Fault::TransactionIdsShared)
        {
            return Err(Refusal::syntax("Bad transaction"));
        }
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !plain && self.has(Fault::TransactionIdsPlain) {
            return Err(Refusal::syntax("Bad transaction"));
        }
        let open = &mut self.sessions[me].transactions;
        if open.len() >= TRANSACTIONS && !self.faults.has(Fault::TransactionsUnlimited) {
            return Err(Refusal::limit("Transaction too big"));
        }
        open.insert(name, Vec::new());
        self.receipt(me, frame);
        Ok(())
    }

    /// None where the frame is to be ignored.
    fn transaction(&self, frame: &Frame) -> Result<Option<String>, Refusal> {
        match frame.get("transaction") {
            Some(name) => Ok(Some(name.to_owned())),
            None if self.has(Fault::MissingTransactionIgnored) => Ok(None),
            None => Err(Refusal::syntax("Missing transaction")),
        }
    }

    pub(super) fn commit(&mut self, me: usize, frame: &Frame) -> Result<(), Refusal> {
        let Some(name) = self.transaction(frame)? else { return Ok(()) };
        let mut steps = match self.take(me, &name, Fault::IdNotFreedByCommit) {
            Some(steps) => steps,
            None if self.has(Fault::CommitUnknownTaken) => Vec::new(),
            None => return Err(Refusal::syntax("Bad transaction")),
        };
        if steps.len() > 1 && self.has(Fault::CommitReversed) {
            steps.reverse();
        }
        for step in steps {
            if !self.has(Fault::CommitDoesNothing) {
                self.step(me, step);
            }
        }
        self.receipt(me, frame);
        Ok(())
    }

    pub(super) fn abort(&mut self, me: usize, frame: &Frame) -> Result<(), Refusal> {
        let Some(name) = self.transaction(frame)? else { return Ok(()) };
        let steps = match self.take(me, &name, Fault::IdNotFreedByAbort) {
            Some(steps) => steps,
            None if self.has(Fault::AbortUnknownTaken) => Vec::new(),
            None => return Err(Refusal::syntax("Bad transaction")),
        };
        let others = !self.sessions[me].transactions.is_empty();
        if others && self.has(Fault::AbortDropsAll) {
            self.sessions[me].transactions.values_mut().for_each(Vec::clear);
        }
        for step in steps {
            if self.has(Fault::AbortCommits) {
                self.step(me, step);
            }
        }
        self.receipt(me, frame);
        Ok(())
    }

    fn take(&mut self, me: usize, name: &str, not_freed: Fault) -> Option<Vec<Step>> {
        let keeps = self.has(not_freed);
        let open = &mut self.sessions[me].transactions;
        if keeps { open.get_mut(name).map(std::mem::take) } else { open.remove(name) }
    }

    pub(super) fn step(&mut self, me: usize, step: Step) {
        match step {
            // It was judged when it came.
            Step::Send(frame) => self.send_now(me, &frame).unwrap_or_default(),
            Step::Settle(frame) => self.settle(me, &frame),
        }
    }
}
