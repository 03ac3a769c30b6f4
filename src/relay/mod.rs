//! Between sessions: brokers, and the mailboxes by which they reach sessions.

pub mod embedded;
pub mod error;
pub mod mailbox;
pub mod origin;
pub mod rabbitmq;
pub mod topics;
mod words;

use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;

use crate::message::Message;
use embedded::Embedded;
use mailbox::{Level, Mailbox, Submit, SubscriptionNumber, Token};
use origin::{Declaration, Origin, Place};
use rabbitmq::{Condition, Nodes, RabbitMq};

/// The `ack` header of a SUBSCRIBE (1.2, "SUBSCRIBE ack Header").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckMode {
    Auto,
    /// ACK is cumulative within the subscription.
    Client,
    ClientIndividual,
}

/// What a session asks of a broker.
#[derive(Debug)]
pub struct SubscribeRequest {
    pub subscription: SubscriptionNumber,
    pub origin: Origin,
    pub ack: AckMode,
    /// Deliveries under way without an answer, at least 1.
    pub prefetch: u16,
}

/// What becomes of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    Ack,
    /// NACK: back into the queue.
    Requeue,
    /// Back into the queue, and nobody's fault: its receiver has gone.
    Return,
    /// NACK with `requeue:false`: dropped, or dead-lettered where the queue says so.
    Discard,
}

/// What is behind the relay.
#[derive(Debug)]
pub enum Broker {
    Embedded(Box<Embedded>),
    RabbitMq(RabbitMq),
}

/// What became of messages that were to be published together.
#[derive(Debug)]
pub enum Together {
    /// Who listens has them; for this one of them the sender should wait before it sends more.
    Published { crowded: Option<Arc<Mailbox>> },
    /// They must be published one by one.
    Refused,
}

impl Broker {
    /// Publishes to a queue, a topic or an exchange. `declare`: what the queue is to be where it
    /// is missing. Where it says `Pending`, `Event::Done` follows.
    pub fn publish(
        &self,
        from: &Arc<Mailbox>,
        token: Token,
        message: Arc<Message>,
        declare: Option<&Declaration>,
    ) -> Submit {
        match self {
            Self::Embedded(broker) => broker.publish(from, Some(token), &message, declare),
            Self::RabbitMq(broker) => broker.publish(from, Some(token), message, declare),
        }
    }

    /// Publishes messages to one topic at once, where nothing but sessions takes them.
    pub fn publish_together(&self, messages: &[(Token, Arc<Message>)]) -> Together {
        match self {
            Self::Embedded(broker) => broker.publish_together(messages),
            Self::RabbitMq(_) => Together::Refused,
        }
    }

    /// Whether a session may go on sending; where not, `waiter` gets `Event::Room` later.
    #[must_use]
    pub fn has_room(&self, waiter: &Arc<Mailbox>) -> bool {
        match self {
            Self::Embedded(broker) => broker.has_room(waiter),
            Self::RabbitMq(broker) => broker.has_room(waiter),
        }
    }

    /// Subscribes. Where it says `Pending`, `Event::Done` follows.
    pub fn subscribe(&self, to: &Arc<Mailbox>, token: Token, request: SubscribeRequest) -> Submit {
        match self {
            Self::Embedded(broker) => broker.subscribe(to, Some(token), &request),
            Self::RabbitMq(broker) => broker.subscribe(to, Some(token), request),
        }
    }

    /// Makes a queue of answers to that session and subscribes it. `Event::ReplyQueue` follows.
    pub fn open_reply_queue(&self, to: &Arc<Mailbox>, subscription: SubscriptionNumber) {
        match self {
            Self::Embedded(broker) => broker.open_reply_queue(to, subscription),
            Self::RabbitMq(broker) => broker.open_reply_queue(to, subscription),
        }
    }

    /// Ends a subscription; what it was sent may still be settled. `delete`: its queue goes too.
    /// Where it says `Pending` and there is a token, `Event::Done` follows.
    pub fn unsubscribe(
        &self,
        of: &Arc<Mailbox>,
        token: Option<Token>,
        subscription: SubscriptionNumber,
        place: &Place,
        delete: bool,
    ) -> Submit {
        match self {
            Self::Embedded(broker) => {
                broker.unsubscribe(of, subscription, place, delete);
                Submit::Done(Level::Memory)
            }
            Self::RabbitMq(broker) => broker.unsubscribe(of, subscription, token, delete),
        }
    }

    /// Settles deliveries of a queue; tags that are not open any more have no effect.
    pub fn settle(
        &self,
        of: &Arc<Mailbox>,
        subscription: SubscriptionNumber,
        queue: &Arc<str>,
        tags: &[u64],
        settlement: Settlement,
    ) {
        match self {
            Self::Embedded(broker) => broker.settle(of, subscription, queue, tags, settlement),
            Self::RabbitMq(broker) => broker.settle(of, subscription, tags, settlement),
        }
    }

    /// A session has ended: its subscriptions end, its open deliveries go back.
    pub fn session_ended(&self, of: &Arc<Mailbox>, subscriptions: &[(SubscriptionNumber, Place)]) {
        match self {
            Self::Embedded(broker) => {
                for (subscription, place) in subscriptions {
                    broker.abandon(of, *subscription, place);
                }
                broker.session_ended(of);
            }
            Self::RabbitMq(broker) => broker.session_ended(of),
        }
    }

    /// How the broker is.
    #[must_use]
    pub fn condition(&self) -> Condition {
        match self {
            Self::Embedded(_) => Condition::Up,
            Self::RabbitMq(broker) => broker.condition(),
        }
    }

    /// The way to other relays with the same broker, where it has one. To be called once.
    #[must_use]
    pub fn nodes(&self) -> Option<Arc<Nodes>> {
        match self {
            Self::Embedded(_) => None,
            Self::RabbitMq(broker) => Some(broker.nodes()),
        }
    }

    /// What Prometheus is told of it.
    #[must_use]
    pub fn collector(&self) -> Option<Box<dyn Collector>> {
        match self {
            Self::Embedded(_) => None,
            Self::RabbitMq(broker) => Some(broker.collector()),
        }
    }

    /// Housekeeping, every minute or so.
    pub fn sweep(&self, now: Instant) {
        match self {
            Self::Embedded(broker) => broker.sweep(now),
            Self::RabbitMq(_) => {}
        }
    }

    /// Finishes what is under way.
    pub async fn shutdown(&self, within: Duration) {
        match self {
            Self::Embedded(broker) => broker.close(),
            Self::RabbitMq(broker) => broker.shutdown(within).await,
        }
    }
}
