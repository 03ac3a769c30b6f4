//! What happened between the relay and RabbitMQ, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($(#[doc = $help:literal] $name:ident,)*) => {
        #[derive(Debug, Default)]
        pub(super) struct Counters { $(pub(super) $name: Counter,)* }

        /// All counters since start-up.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Snapshot { $(#[doc = $help] pub $name: u64,)* }

        impl Snapshot {
            /// Names, what they mean, and values.
            pub(super) fn described(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), $help.trim_ascii(), self.$name),)*]
            }
        }

        impl Counters {
            pub(super) fn snapshot(&self) -> Snapshot {
                Snapshot { $($name: self.$name.0.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Messages handed to a channel, each time they were.
    published,
    /// Messages handed to a channel again, since RabbitMQ may or may not have had them.
    republished,
    /// Messages that RabbitMQ confirmed.
    confirmed,
    /// Messages that were answered with a refusal.
    refused,
    /// Messages refused because there was no queue for them.
    unroutable,
    /// Messages refused because they waited too long.
    expired,
    /// Messages that came from RabbitMQ.
    received,
    /// Messages dropped because this node had got them a moment ago.
    duplicates,
    /// Channels that RabbitMQ closed.
    closed_channels,
    /// Connections that were lost.
    lost_connections,
    /// Connections that came back.
    reconnects,
    /// Times that topic messages passed by, the node queue being away.
    node_queue_gaps,
    /// Messages and notices for sessions on other nodes.
    node_pushes,
    /// Messages and notices from other nodes.
    node_pushes_received,
    /// Batches for other nodes that RabbitMQ gave back, the node having no queue or a full one.
    node_pushes_returned,
}

#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }
}
