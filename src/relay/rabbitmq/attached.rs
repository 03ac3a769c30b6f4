//! A consumer on its channel.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::types::ShortString;
use lapin::{Channel, Consumer};

use super::connection::Link;

/// A consumer on its channel.
pub(super) struct Attached {
    pub(super) link: Arc<Link>,
    pub(super) channel: Channel,
    pub(super) consumer: Consumer,
    /// Our tags of deliveries that are out, and RabbitMQ's. Ours are never used twice, so that
    /// one from before an outage means nothing after it.
    pub(super) out: BTreeMap<u64, u64>,
    pub(super) since: Instant,
}

impl Attached {
    /// The next delivery, or the end of the stream or the connection.
    pub(super) async fn next(&mut self) -> Option<lapin::Result<Delivery>> {
        let Self { link, consumer, .. } = self;
        let next = link.answer(async { Ok(consumer.next().await) });
        next.await.unwrap_or_else(|error| Some(Err(error)))
    }

    /// What is not settled goes back into the queue.
    pub(super) async fn close(&self) {
        if self.channel.status().connected() {
            drop(self.link.answer(self.channel.close(200, ShortString::from("done"))).await);
        }
    }
}
