//! What happened between the relay and RabbitMQ, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        #[derive(Debug, Default)]
        pub(super) struct Counters { $(pub(super) $name: Counter,)* }

        /// All counters since start-up.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Snapshot { $($(#[$doc])* pub $name: u64,)* }

        impl Snapshot {
            /// Names and values.
            #[must_use]
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
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
    /// Of them, those that RabbitMQ may have had already.
    republished,
    /// Messages that RabbitMQ confirmed.
    confirmed,
    /// Messages that were answered with a refusal.
    refused,
    /// Of them, those for which there was no queue.
    unroutable,
    /// Of them, those that waited too long.
    expired,
    /// Messages that came from RabbitMQ.
    received,
    /// Of them, those that this node had got a moment ago.
    duplicates,
    /// Channels that RabbitMQ closed.
    closed_channels,
    /// Connections that were lost.
    lost_connections,
    /// Times that topic messages passed by, the node queue being away.
    node_queue_gaps,
}

#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }
}
