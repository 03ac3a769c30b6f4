//! SUBSCRIBE, UNSUBSCRIBE, and the MESSAGEs between them (1.2, "SUBSCRIBE", "MESSAGE").

use super::broker::{Consumer, Stored};
use super::destination::Destination;
use super::fault::Fault;
use super::frame::Frame;
use super::refusal::Refusal;
use super::session::{AckMode, Session, State, Subscription, Unacked};

use conformance_tests::Version;

const SUBSCRIPTIONS: usize = 1000;
const PREFETCH: usize = 100;

impl State {
    pub(super) fn subscribe(&mut self, me: usize, frame: &Frame) -> Result<(), Refusal> {
        let text = match frame.get("destination") {
            Some(text) => text,
            None if self.has(Fault::SubscribeWithoutDestinationTaken) => return Ok(()),
            None => return Err(self.missing_destination(frame)),
        };
        let mut frame = frame.clone();
        if frame.get("id") == Some("0") && self.has(Fault::IdZeroIsNone) {
            frame.remove("id");
        }
        let frame = &frame;
        let id = frame.get("id");
        if id.is_some_and(|id| id.len() > 64) && self.has(Fault::IdsShort) {
            return Err(Refusal::limit("Header too long"));
        }
        let session = &self.sessions[me];
        let needs_id = session.version > Version::V10 || self.has(Fault::IdRequiredIn10);
        if id.is_none() && needs_id && !self.has(Fault::SubscribeWithoutIdTaken) {
            return Err(Refusal::syntax("Missing header"));
        }
        let ids_are_shared = self.sessions.len() > 1 && self.has(Fault::IdsShared);
        let mut taken =
            self.sessions.iter().enumerate().filter(|(at, _)| *at == me || ids_are_shared);
        let taken = taken.any(|(_, session)| id.is_some_and(|id| session.by_id(id).is_some()));
        if taken && !self.has(Fault::SameIdTaken) {
            return Err(Refusal::syntax("Duplicated subscription identifier"));
        }
        self.ack_mode(frame)?;
        if frame.get("selector").is_some() && self.has(Fault::SelectorRefused) {
            return Err(Refusal::syntax("Invalid header"));
        }
        if self.sessions[me].subscriptions.len() >= SUBSCRIPTIONS {
            return Err(Refusal::limit("Too many subscriptions"));
        }
        Destination::parse(text, self.faults)?;
        if is_durable(frame) && id.is_none() && !self.has(Fault::DurableWithoutIdTaken) {
            return Err(Refusal::syntax("Missing Header"));
        }
        if self.has(Fault::SubscribeLate) {
            self.receipt(me, frame);
        }
        if self.has(Fault::SubscribeLate)
            || frame.get("receipt").is_none() && self.has(Fault::SubscribeOvertaken)
        {
            self.sessions[me].late = Some(frame.clone());
            return Ok(());
        }
        self.subscribe_now(me, frame)
    }

    /// The RECEIPT goes before what the queue has kept.
    pub(super) fn subscribe_now(&mut self, me: usize, frame: &Frame) -> Result<(), Refusal> {
        let text = frame.get("destination").unwrap_or_default();
        let destination = Destination::parse(text, self.faults)?;
        let session = &mut self.sessions[me];
        session.subscribed += 1;
        let number = session.subscribed;
        let own = format!("own-{}-{number}", session.name);
        let queue = match &destination {
            Destination::Queue(name) => {
                let queue = self.queue(me, name);
                self.broker.declare(&queue);
                queue
            }
            Destination::Existing(name) if self.broker.has(name) => name.clone(),
            Destination::Existing(_) => return Err(Refusal::limit("not_found")),
            Destination::Topic(key) if is_durable(frame) && !self.has(Fault::DurableIgnored) => {
                let queue = durable(key, frame);
                self.broker.bind(&queue, key);
                queue
            }
            Destination::Topic(key) => {
                self.broker.declare_passing(&own);
                self.broker.bind(&own, key);
                own
            }
        };
        let ack = self.ack_mode(frame)?;
        let prefetch = frame.get("prefetch-count").and_then(|text| text.parse().ok());
        let prefetch = prefetch.filter(|_| !self.has(Fault::PrefetchIgnored));
        let subscription = Subscription {
            number,
            id: frame.get("id").map(str::to_owned),
            destination: text.to_owned(),
            queue: queue.clone(),
            ack,
            prefetch: prefetch.unwrap_or(PREFETCH),
        };
        self.sessions[me].subscriptions.push(subscription);
        self.broker.consume(&queue, Consumer { session: me as u64, subscription: number });
        if !self.has(Fault::SubscribeLate) {
            self.receipt(me, frame);
        }
        self.pump(&queue);
        Ok(())
    }

    fn ack_mode(&self, frame: &Frame) -> Result<AckMode, Refusal> {
        match frame.get("ack") {
            None if self.has(Fault::DefaultIsClient) => Ok(AckMode::Client),
            Some("auto") if self.has(Fault::AutoIsClient) => Ok(AckMode::Client),
            Some("client") if self.has(Fault::ClientIsAuto) => Ok(AckMode::Auto),
            Some("client") if self.has(Fault::ClientIsIndividual) => Ok(AckMode::Individual),
            Some("client-individual") if self.has(Fault::IndividualIsClient) => Ok(AckMode::Client),
            None | Some("auto") => Ok(AckMode::Auto),
            Some("client") => Ok(AckMode::Client),
            Some("client-individual") => Ok(AckMode::Individual),
            Some(_) if self.has(Fault::UnknownAckModeTaken) => Ok(AckMode::Auto),
            Some(_) => Err(Refusal::syntax("Processing error")),
        }
    }

    pub(super) fn unsubscribe(&mut self, me: usize, frame: &Frame) -> Result<(), Refusal> {
        let session = &self.sessions[me];
        let by_destination =
            |text| session.subscriptions.iter().position(|s| s.destination == text);
        let found = match (frame.get("id"), frame.get("destination")) {
            (Some(id), _) if self.has(Fault::UnsubscribeEndsLast) => {
                session.by_id(id).map(|_| session.subscriptions.len() - 1)
            }
            (Some(id), _) => session.by_id(id),
            (None, Some(text)) if session.version == Version::V10 => by_destination(text),
            _ if self.has(Fault::UnsubscribeWithoutIdTaken) => None,
            _ => return Err(Refusal::syntax("Missing destination or id")),
        };
        if found.is_none() && self.has(Fault::UnsubscribeOfUnknownRefused) {
            return Err(Refusal::syntax("No subscription found"));
        }
        // One that is not there is fine: it is not there.
        if let Some(at) = found.filter(|_| !self.has(Fault::UnsubscribeIgnored)) {
            self.unsubscribe_at(me, at, frame);
        }
        self.receipt(me, frame);
        Ok(())
    }

    fn unsubscribe_at(&mut self, me: usize, at: usize, frame: &Frame) {
        let session = &mut self.sessions[me];
        let ended = if self.faults.has(Fault::UnsubscribeEndsAll) {
            std::mem::take(&mut session.subscriptions)
        } else {
            vec![session.subscriptions.remove(at)]
        };
        for subscription in &ended {
            let consumer = Consumer { session: me as u64, subscription: subscription.number };
            if !self.has(Fault::UnsubscribeKeepsSending) {
                self.broker.cancel(&subscription.queue, consumer);
            }
            if is_durable(frame) {
                self.broker.delete(&subscription.queue);
            }
        }
        let session = &mut self.sessions[me];
        if self.faults.has(Fault::UnsubscribeKeepsSending) || self.faults.has(Fault::IdNotFreed) {
            session.subscriptions.extend(ended);
        } else if self.faults.has(Fault::NoRedeliveryAfterUnsubscribe) {
            session.unacked.retain(|unacked| unacked.subscription != ended[0].number);
        }
    }

    /// Delivers what a queue has to those who take it.
    pub(super) fn pump(&mut self, queue: &str) {
        loop {
            let sessions = &self.sessions;
            let takes = |consumer: Consumer| {
                sessions.get(at(consumer)).is_some_and(|s| s.takes(consumer.subscription))
            };
            let Some((consumer, stored)) = self.broker.next(queue, takes) else { return };
            let all = self.broker.consumers(queue);
            if all.len() > 1 && self.has(Fault::QueueReachesAll) {
                for other in all {
                    self.deliver(other, queue, &stored);
                }
            } else {
                self.deliver(consumer, queue, &stored);
            }
        }
    }

    fn deliver(&mut self, consumer: Consumer, queue: &str, stored: &Stored) {
        let me = at(consumer);
        let session = &mut self.sessions[me];
        let found = session.subscriptions.iter().find(|s| s.number == consumer.subscription);
        let Some(subscription) = found else { return };
        session.delivered += 1;
        let number = session.delivered;
        let (id, ack) = (subscription.id.clone(), subscription.ack);
        if ack != AckMode::Auto {
            let (queue, stored) = (queue.to_owned(), stored.clone());
            let subscription = consumer.subscription;
            session.given.insert(number);
            session.unacked.push(Unacked { number, subscription, ack, queue, stored });
        }
        let message = self.message(me, number, id, ack, stored);
        self.say(me, &message);
        if self.has(Fault::MessageTwice) {
            self.say(me, &message);
        }
    }

    fn message(
        &self,
        me: usize,
        number: u64,
        subscription: Option<String>,
        ack: AckMode,
        stored: &Stored,
    ) -> Frame {
        let session = &self.sessions[me];
        let mut message = Frame { body: stored.frame.body.clone(), ..Frame::new("MESSAGE") };
        if let Some(id) = subscription {
            message = message.with("subscription", &id);
        }
        let number = match number {
            2.. if self.has(Fault::MessageIdsRepeat) => 1,
            number => number,
        };
        message = message.with("message-id", &format!("{}-{number}", session.name));
        message = message.with("redelivered", if stored.redelivered { "true" } else { "false" });
        // 1.2, "MESSAGE": "If the message is received from a subscription that requires explicit
        // acknowledgment ... then the MESSAGE frame MUST also contain an ack header".
        let needed = ack != AckMode::Auto || self.has(Fault::AckHeaderInAuto);
        if needed && (session.version == Version::V12 || self.has(Fault::AckHeaderBefore12)) {
            message = message.with("ack", &format!("{}-{number}", session.name));
        }
        // A header that is passed on although it is the server's own comes first, and counts.
        let forged = stored.frame.headers.iter().filter(|(name, _)| message.get(name).is_some());
        let forged: Vec<_> = forged.cloned().collect();
        message.headers.splice(0..0, forged);
        message.headers.extend(stored.frame.headers.iter().cloned());
        self.spoil(&mut message);
        message
    }

    fn spoil(&self, message: &mut Frame) {
        for (fault, name) in [
            (Fault::MessageWithoutSubscription, "subscription"),
            (Fault::MessageWithoutId, "message-id"),
            (Fault::MessageWithoutDestination, "destination"),
            (Fault::AckHeaderMissing, "ack"),
        ] {
            if message.get(name).is_some() && self.has(fault) {
                message.remove(name);
            }
        }
        if message.get("redelivered") == Some("true") && self.has(Fault::RedeliveredMissing) {
            message.set("redelivered", "false");
        }
        if self.has(Fault::RedeliveredAlways) {
            message.set("redelivered", "true");
        }
        if self.has(Fault::SubscriptionWrong) {
            message.set("subscription", "1");
        }
        let destination = message.get("destination").unwrap_or_default();
        let lower = destination.to_lowercase();
        if destination != lower && self.has(Fault::DestinationLowerCased) {
            message.set("destination", &lower);
        }
        if message.get("content-type").is_none() && self.has(Fault::ContentTypeGuessed) {
            message.set("content-type", "text/plain");
        }
        self.spoil_body(&mut message.body);
        if !message.body.is_ascii() && self.has(Fault::LengthInCharacters) {
            let length = String::from_utf8_lossy(&message.body).chars().count();
            message.set("content-length", &length.to_string());
        }
    }

    fn spoil_body(&self, body: &mut Vec<u8>) {
        let text = String::from_utf8_lossy(body);
        if text.trim().len() < text.len() && self.has(Fault::BodyTrimmed) {
            *body = body.trim_ascii().to_vec();
        } else if body.contains(&0) && self.has(Fault::BodyEndsAtNul) {
            let end = body.iter().position(|byte| *byte == 0);
            body.truncate(end.unwrap_or(body.len()));
        } else if body.contains(&b'\r') && self.has(Fault::BodyLineEndsChanged) {
            body.retain(|byte| *byte != b'\r');
        } else if text.contains('\u{fffd}') && self.has(Fault::BodyMadeText) {
            *body = text.into_owned().into_bytes();
        } else if body.contains(&b'\\') && self.has(Fault::EscapesInBody) {
            *body = text.replace("\\n", "\n").replace("\\c", ":").into_bytes();
        } else if body.is_empty() && self.has(Fault::EmptyBodyFilled) {
            *body = b"null".to_vec();
        }
    }
}

impl Session {
    pub(super) fn by_id(&self, id: &str) -> Option<usize> {
        self.subscriptions.iter().position(|s| s.id.as_deref() == Some(id))
    }

    /// Whether a subscription takes one more message.
    fn takes(&self, subscription: u64) -> bool {
        let Some(found) = self.subscriptions.iter().find(|s| s.number == subscription) else {
            return false;
        };
        let open = self.unacked.iter().filter(|unacked| unacked.subscription == subscription);
        open.count() < found.prefetch
    }
}

fn at(consumer: Consumer) -> usize {
    usize::try_from(consumer.session).unwrap_or(usize::MAX)
}

fn is_durable(frame: &Frame) -> bool {
    ["durable", "persistent"].iter().any(|name| frame.get(name) == Some("true"))
}

/// The queue of a durable subscription: of its topic and its id, whoever asks.
fn durable(key: &str, frame: &Frame) -> String {
    format!("durable-{key}-{}", frame.get("id").unwrap_or_default())
}
