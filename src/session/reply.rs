//! `reply-to`: where answers to a message go.
//!
//! `/temp-queue/N` is a queue of this session's own. It is made when it is first named, its
//! receiver is told its name, and what is sent there comes here as messages of a subscription
//! `/temp-queue/N` that nobody asked for.

use std::sync::Arc;

use ulid::Ulid;

use crate::destination::{Destination, DestinationError, reply_to_shown};
use crate::relay::AckMode;
use crate::relay::error::{Refusal, RefusalKind};
use crate::relay::origin::{Arguments, Declaration, Origin, Place, QueueOrigin};
use crate::stomp::{Command, Headers};

use super::action::Action;
use super::machine::{BrokerKind, Context, Session};
use super::send::refusal_of;
use super::subscriptions::Feed;

pub(super) const TEMP_QUEUE: &str = "/temp-queue/";

/// Where answers to a SEND go.
#[derive(Debug)]
pub(super) struct ReplyTo {
    /// What the receiver of the message is told.
    pub(super) shown: String,
    /// The queue is to be made: the subscription's id and the queue's name.
    fresh: Option<(String, Arc<str>)>,
}

impl Session {
    /// What a SEND's `reply-to` means.
    pub(super) fn reply_to(&self, headers: &Headers) -> Result<Option<ReplyTo>, Refusal> {
        let Some(text) = headers.get("reply-to") else { return Ok(None) };
        let Some(name) = text.strip_prefix(TEMP_QUEUE) else {
            let shown = reply_to_shown(text);
            // Whoever answers may be trusted with names that the one who asks is not.
            let result = Destination::for_send_within(&shown, &self.settings.names);
            if let Err(error @ DestinationError::Reserved { .. }) = result {
                return Err(refusal_of(&error));
            }
            // RabbitMQ's clients want the bare name; it is shown when it comes back.
            let is_rabbit = self.settings.broker == BrokerKind::RabbitMq;
            let shown = if is_rabbit { text.to_owned() } else { shown };
            return Ok(Some(ReplyTo { shown, fresh: None }));
        };
        if self.settings.broker == BrokerKind::RabbitMq {
            let body = "reply-to:/temp-queue is not served with RabbitMQ yet\n";
            let kind = RefusalKind::UnknownDestination;
            return Err(Refusal::new(kind, "Unsupported destination", body));
        }
        if name.is_empty() {
            let error = DestinationError::Invalid { kind: "temp-queue", rest: String::new() };
            return Err(refusal_of(&error));
        }
        let known = self.subscriptions.by_id(text).map(|subscription| &subscription.feed);
        let (queue, fresh) = match known {
            Some(Feed::Broker(Place::Queue(queue))) => (queue.clone(), None),
            _ => {
                self.has_room_for_subscription()?;
                let queue: Arc<str> = Arc::from(format!("amq.gen-{}", Ulid::generate()));
                (queue.clone(), Some((text.to_owned(), queue)))
            }
        };
        Ok(Some(ReplyTo { shown: format!("/reply-queue/{queue}"), fresh }))
    }

    /// Makes the queue of answers, where it is not there yet.
    pub(super) fn open_reply_queue(&mut self, reply_to: Option<ReplyTo>, out: &mut Vec<Action>) {
        let Some((id, queue)) = reply_to.and_then(|reply_to| reply_to.fresh) else { return };
        let origin = Origin::Queue(Box::new(QueueOrigin {
            queue,
            declare: Some(Declaration {
                durable: false,
                auto_delete: true,
                exclusive: true,
                arguments: Arguments::default(),
            }),
            binding: None,
        }));
        let (ack, feed) = (AckMode::Auto, Feed::Broker(origin.place()));
        let subscription = self.subscriptions.add(Some(&id), &id, feed, ack, self.version).number;
        let context = Context {
            command: Command::Subscribe,
            destination: Some(id.clone()),
            id: Some(id),
            receipt: None,
        };
        self.ask(origin, subscription, ack, self.settings.limits.prefetch, context, out);
    }
}
