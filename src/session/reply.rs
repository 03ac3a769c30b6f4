//! `reply-to`: where answers to a message go.
//!
//! `/temp-queue/N` is a queue of this session's own. It is made when it is first named; its
//! receiver is told its name, and what is sent there comes here as messages of a subscription
//! `/temp-queue/N` that nobody asked for. The SEND that names it first waits until the broker has
//! said what the queue is called, and all frames behind it wait too, so that order is kept.

use std::sync::Arc;
use std::time::Instant;

use crate::destination::{Destination, DestinationError, reply_to_shown};
use crate::relay::AckMode;
use crate::relay::error::Refusal;
use crate::relay::mailbox::SubscriptionNumber;
use crate::stomp::{Frame, Headers};

use super::action::Action;
use super::held::Until;
use super::machine::{BrokerKind, Session};
use super::send::refusal_of;
use super::subscriptions::Feed;

pub(super) const TEMP_QUEUE: &str = "/temp-queue/";

/// Where answers to a SEND go.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReplyTo {
    Nowhere,
    /// What the receiver of the message is told.
    Shown(String),
    /// A queue of this session's own that is not there yet; its subscription's id.
    NotYet(String),
}

impl Session {
    /// What a SEND's `reply-to` means.
    pub(super) fn reply_to(&self, headers: &Headers) -> Result<ReplyTo, Refusal> {
        let Some(text) = headers.get("reply-to") else { return Ok(ReplyTo::Nowhere) };
        let is_rabbit = self.settings.broker == BrokerKind::RabbitMq;
        let Some(name) = text.strip_prefix(TEMP_QUEUE) else {
            let shown = reply_to_shown(text);
            // Whoever answers may be trusted with names that the one who asks is not.
            let result = Destination::for_send_within(&shown, &self.settings.names);
            if let Err(error @ DestinationError::Reserved { .. }) = result {
                return Err(refusal_of(&error));
            }
            // RabbitMQ's clients want the bare name; it is shown when it comes back.
            return Ok(ReplyTo::Shown(if is_rabbit { text.to_owned() } else { shown }));
        };
        self.fits(text)?;
        if name.is_empty() {
            let error = DestinationError::Invalid { kind: "temp-queue", rest: String::new() };
            return Err(refusal_of(&error));
        }
        match self.subscriptions.by_id(text).map(|subscription| &subscription.feed) {
            Some(Feed::Answers(Some(queue))) if is_rabbit => Ok(ReplyTo::Shown(queue.to_string())),
            Some(Feed::Answers(Some(queue))) => Ok(ReplyTo::Shown(reply_to_shown(queue))),
            _ => {
                self.has_room_for_subscription()?;
                Ok(ReplyTo::NotYet(text.to_owned()))
            }
        }
    }

    /// Asks for a queue of answers; `frame` is sent once it has a name.
    pub(super) fn hold_for_answers(
        &mut self,
        id: &str,
        frame: Frame,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let (ack, feed) = (AckMode::Auto, Feed::Answers(None));
        let subscription = self.subscriptions.add(Some(id), id, feed, ack, self.version).number;
        self.hold(frame, Until::Named(subscription), now);
        out.push(Action::OpenReplyQueue { subscription });
    }

    /// A queue of answers has a name, another one than before, or there is none.
    pub(super) fn reply_queue(
        &mut self,
        number: SubscriptionNumber,
        result: Result<Arc<str>, Refusal>,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        match result {
            Ok(name) => {
                if let Some(subscription) = self.subscriptions.get_mut(number) {
                    subscription.feed = Feed::Answers(Some(name));
                }
                self.release(now, out);
            }
            Err(refusal) => {
                self.subscriptions.remove(number);
                if self.is_held_until(Until::Named(number)) {
                    self.refuse_held(refusal, out);
                }
            }
        }
    }
}
