//! Between sessions: brokers, and the mailboxes by which they reach sessions.

pub mod error;
pub mod mailbox;
pub mod rabbitmq;
pub mod topics;

use crate::destination::Destination;
use crate::stomp::Headers;
use mailbox::SubscriptionNumber;

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
    /// Back into the queue.
    Requeue,
    /// NACK with `requeue:false`: dropped, or dead-lettered where the queue says so.
    Discard,
}
