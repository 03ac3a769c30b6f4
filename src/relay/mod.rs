//! Between sessions: brokers, and the mailboxes by which they reach sessions.

pub mod embedded;
pub mod error;
pub mod mailbox;
pub mod rabbitmq;
pub mod topics;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::destination::Destination;
use crate::message::Message;
use crate::stomp::Headers;
use embedded::Embedded;
use mailbox::{Level, Mailbox, Submit, SubscriptionNumber, Token};
use rabbitmq::RabbitMq;

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
    /// A queue or a topic.
    pub destination: Destination,
    pub ack: AckMode,
    /// Deliveries under way without an answer, at least 1.
    pub prefetch: u16,
    /// The frame's headers, for what only the broker understands.
    pub headers: Headers,
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

impl Broker {
    /// Publishes to a queue or a topic. Where it says `Pending`, `Event::Done` follows.
    pub fn publish(&self, from: &Arc<Mailbox>, token: Token, message: Arc<Message>) -> Submit {
        match self {
            Self::Embedded(broker) => broker.publish(from, Some(token), &message),
            Self::RabbitMq(broker) => broker.publish(from, Some(token), message),
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

    /// Subscribes to a queue or a topic. Where it says `Pending`, `Event::Done` follows.
    pub fn subscribe(&self, to: &Arc<Mailbox>, token: Token, request: SubscribeRequest) -> Submit {
        match self {
            Self::Embedded(broker) => broker.subscribe(to, &request),
            Self::RabbitMq(broker) => broker.subscribe(to, Some(token), request),
        }
    }

    /// Ends a subscription; what it was sent may still be settled. Where it says `Pending` and
    /// there is a token, `Event::Done` follows.
    pub fn unsubscribe(
        &self,
        of: &Arc<Mailbox>,
        token: Option<Token>,
        subscription: SubscriptionNumber,
        destination: &Destination,
    ) -> Submit {
        match self {
            Self::Embedded(broker) => {
                broker.unsubscribe(of, subscription, destination);
                Submit::Done(Level::Memory)
            }
            Self::RabbitMq(broker) => broker.unsubscribe(of, subscription, token),
        }
    }

    /// Settles deliveries; tags that are not open any more have no effect.
    pub fn settle(
        &self,
        of: &Arc<Mailbox>,
        subscription: SubscriptionNumber,
        destination: &Destination,
        tags: &[u64],
        settlement: Settlement,
    ) {
        match self {
            Self::Embedded(broker) => {
                broker.settle(of, subscription, destination, tags, settlement);
            }
            Self::RabbitMq(broker) => broker.settle(of, subscription, tags, settlement),
        }
    }

    /// A session has ended: its subscriptions end, its open deliveries go back.
    pub fn session_ended(
        &self,
        of: &Arc<Mailbox>,
        subscriptions: &[(SubscriptionNumber, Destination)],
    ) {
        match self {
            Self::Embedded(broker) => {
                for (subscription, destination) in subscriptions {
                    broker.abandon(of, *subscription, destination);
                }
            }
            Self::RabbitMq(broker) => broker.session_ended(of),
        }
    }

    /// Whether messages can be published now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        match self {
            Self::Embedded(_) => true,
            Self::RabbitMq(broker) => broker.ready(),
        }
    }

    /// What happened so far, by name.
    #[must_use]
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        match self {
            Self::Embedded(_) => Vec::new(),
            Self::RabbitMq(broker) => broker.snapshot().named(),
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
