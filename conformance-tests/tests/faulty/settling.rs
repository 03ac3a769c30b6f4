//! ACK and NACK (1.2, "ACK", "NACK").

use conformance_tests::Version;

use super::fault::Fault;
use super::frame::Frame;
use super::refusal::Refusal;
use super::session::{AckMode, State, Step, Unacked};

impl State {
    pub(super) fn ack(&mut self, me: usize, frame: &Frame) -> Result<(), Refusal> {
        let Some(id) = self.acked(me, frame) else {
            if self.has(Fault::AckWithoutIdTaken) {
                return Ok(());
            }
            return Err(Refusal::syntax("Missing header"));
        };
        let (of, number) = given(id).unwrap_or((usize::MAX, 0));
        let given = self.sessions[me].given.contains(&number)
            || number <= self.sessions[me].delivered && self.has(Fault::AckInAutoTaken);
        let never = of != me || !given;
        if self.sessions[me].version == Version::V11
            && frame.get("subscription").is_none()
            && self.has(Fault::AckNeedsSubscription)
        {
            return Err(Refusal::syntax("Missing header"));
        }
        let of_another = never && of < self.sessions.len() && self.has(Fault::AckOfAnotherTaken);
        let passes = match frame.command.as_str() {
            "NACK" => Fault::NackOfUnknownTaken,
            _ => Fault::AckOfUnknownTaken,
        };
        if never && !of_another && !self.has(passes) {
            return Err(Refusal::syntax("Subscription not found"));
        }
        let unacked = self.sessions[me].unacked.iter().find(|unacked| unacked.number == number);
        if unacked.is_none() && !never && self.has(Fault::SecondAckRefused) {
            return Err(Refusal::syntax("Subscription not found"));
        }
        if unacked.is_some_and(|u| u.queue.starts_with("own-")) && self.has(Fault::TopicAckRefused)
        {
            return Err(Refusal::syntax("Subscription not found"));
        }
        let subscribed = unacked.is_some_and(|unacked| {
            self.sessions[me].subscriptions.iter().any(|s| s.number == unacked.subscription)
        });
        if unacked.is_some() && !subscribed && self.has(Fault::AckAfterUnsubscribeRefused) {
            return Err(Refusal::syntax("Subscription not found"));
        }
        if let Some(name) = frame.get("transaction") {
            let open = self.is_open(me, name);
            if !open && !self.has(Fault::AckInUnknownTransactionTaken) {
                return Err(Refusal::syntax("Bad transaction"));
            }
            if open && !self.has(Fault::AckInTransactionAtOnce) {
                let steps = &mut self.sessions[me].transactions;
                steps.entry(name.into()).or_default().push(Step::Settle(frame.clone()));
                self.receipt(me, frame);
                return Ok(());
            }
        }
        self.settle(me, frame);
        self.receipt(me, frame);
        Ok(())
    }

    /// What the frame names: 1.2 the MESSAGE's `ack`, 1.1 and 1.0 its `message-id`.
    fn acked<'a>(&self, me: usize, frame: &'a Frame) -> Option<&'a str> {
        let by_id = self.sessions[me].version == Version::V12 || self.has(Fault::AckAlwaysById);
        frame.get(if by_id { "id" } else { "message-id" })
    }

    /// Settles a delivery, in mode `client` all before it of its subscription too.
    pub(super) fn settle(&mut self, me: usize, frame: &Frame) {
        let Some((_, number)) = self.acked(me, frame).and_then(given) else { return };
        let ignored = if frame.command == "NACK" { Fault::NackIgnored } else { Fault::AckIgnored };
        if self.has(ignored) {
            return;
        }
        let faults = self.faults;
        let session = &mut self.sessions[me];
        // Settled before: no effect.
        let Some(named) = session.unacked.iter().find(|u| u.number == number) else { return };
        let (subscription, ack) = (named.subscription, named.ack);
        let cumulative = match ack {
            AckMode::Client => !faults.has(Fault::CumulativeIsIndividual),
            AckMode::Individual => faults.has(Fault::IndividualIsCumulative),
            AckMode::Auto => false,
        };
        let everywhere = faults.has(Fault::CumulativeEverywhere);
        let taken = |unacked: &Unacked| {
            let before =
                unacked.number < number && (everywhere || unacked.subscription == subscription);
            unacked.number == number || cumulative && before || faults.has(Fault::AckSettlesAll)
        };
        let (settled, kept) = std::mem::take(&mut session.unacked).into_iter().partition(taken);
        session.unacked = kept;
        let settled: Vec<Unacked> = settled;
        let queues: Vec<String> = settled.iter().map(|unacked| unacked.queue.clone()).collect();
        let comes_again = frame.command == "NACK"
            && (frame.get("requeue") != Some("false") || self.has(Fault::RequeueIgnored))
            && !self.has(Fault::NackIsAck);
        for Unacked { queue, stored, .. } in settled {
            if comes_again {
                self.broker.put_back(&queue, stored);
            }
        }
        for queue in queues {
            self.pump(&queue);
        }
    }
}

/// The session and the delivery that an id was given to: `session-3-7`.
fn given(id: &str) -> Option<(usize, u64)> {
    let (session, number) = id.strip_prefix("session-")?.split_once('-')?;
    Some((session.parse().ok()?, number.parse().ok()?))
}
