//! A frame that waits for an answer to one before it, and all behind it with it: frames take
//! effect in the order in which they came.
//!
//! RabbitMQ answers over a network. What a session sends to a topic right after its SUBSCRIBE has
//! to come to it, so it waits for the binding; a queue of answers has to have a name before
//! anybody is told of it.

use std::sync::Arc;
use std::time::Instant;

use crate::relay::error::{Refusal, RefusalKind};
use crate::relay::mailbox::SubscriptionNumber;
use crate::stomp::{Command, Frame};

use super::action::Action;
use super::machine::{BrokerKind, Context, Session};
use super::subscriptions::Feed;
use super::waiting::Waiting;

/// A frame, before which nothing else is taken.
#[derive(Debug)]
pub(super) struct Held {
    frame: Frame,
    until: Until,
    pub(super) since: Instant,
}

/// What a frame waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// The queue of that subscription has a name.
    Named(SubscriptionNumber),
    /// All SUBSCRIBEs are answered.
    Subscribed,
}

impl Session {
    /// Whether a frame must not take effect before SUBSCRIBEs that are under way.
    pub(super) fn comes_too_early(&self, frame: &Frame) -> bool {
        let follows = match frame.command {
            // A queue keeps what comes before its consumer.
            Command::Send => frame
                .headers
                .get("destination")
                .is_some_and(|to| to.starts_with("/topic/") || to.starts_with("/exchange/")),
            Command::Commit => true,
            Command::Connect
            | Command::Stomp
            | Command::Subscribe
            | Command::Unsubscribe
            | Command::Ack
            | Command::Nack
            | Command::Begin
            | Command::Abort
            | Command::Disconnect
            | Command::Connected
            | Command::Message
            | Command::Receipt
            | Command::Error => false,
        };
        follows && self.settings.broker == BrokerKind::RabbitMq && self.is_subscribing()
    }

    fn is_subscribing(&self) -> bool {
        self.waiting.iter().any(|(_, waiting)| matches!(waiting, Waiting::Subscribe { .. }))
    }

    pub(super) fn hold(&mut self, frame: Frame, until: Until, now: Instant) {
        self.held = Some(Box::new(Held { frame, until, since: now }));
    }

    pub(super) fn is_held_until(&self, until: Until) -> bool {
        self.held.as_ref().is_some_and(|held| held.until == until)
    }

    /// A SUBSCRIBE that is under way is over before it was answered: it is answered now, before
    /// whatever ends it.
    pub(super) fn answer_early(&mut self, number: SubscriptionNumber, out: &mut Vec<Action>) {
        let found = self.waiting.iter().find_map(|(token, waiting)| match waiting {
            Waiting::Subscribe { subscription, .. } if *subscription == number => Some(token),
            _ => None,
        });
        if let Some(token) = found
            && let Some(Waiting::Subscribe { context, .. }) = self.waiting.remove(token)
        {
            self.receipt(context.receipt, None, out);
        }
    }

    /// Takes the frame that waits, where it need not wait any more.
    pub(super) fn release(&mut self, now: Instant, out: &mut Vec<Action>) {
        let is_free = self.held.as_ref().is_some_and(|held| match held.until {
            Until::Named(number) => matches!(
                self.subscriptions.get(number).map(|subscription| &subscription.feed),
                Some(Feed::Answers(Some(_)))
            ),
            Until::Subscribed => !self.is_subscribing(),
        });
        if is_free && let Some(held) = self.held.take() {
            self.frame(held.frame, now, out);
        }
    }

    /// The broker has not answered in time.
    pub(super) fn give_up_held(&mut self, out: &mut Vec<Action>) {
        let Some(held) = &self.held else { return };
        if let Until::Named(number) = held.until {
            self.end_subscription(number, out);
        }
        let body = "The broker did not answer in time.\n";
        self.refuse_held(Refusal::new(RefusalKind::Outage, "Broker not available", body), out);
    }

    pub(super) fn refuse_held(&mut self, refusal: Refusal, out: &mut Vec<Action>) {
        let Some(held) = self.held.take() else { return };
        let text = |name: &str| held.frame.headers.get(name).map(str::to_owned);
        let context = Context {
            command: held.frame.command,
            destination: text("destination").map(Arc::from),
            id: None,
            receipt: text("receipt"),
        };
        if let Some(transaction) = text("transaction") {
            if held.frame.command == Command::Commit {
                self.transactions.abort(&transaction);
            } else {
                self.transactions.refuse(&transaction, &refusal);
            }
        }
        self.refuse(refusal, &context, out);
    }
}
