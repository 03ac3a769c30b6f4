//! What comes from other nodes: an exclusive queue of this node's, bound by the node's id.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Consumer};
use ulid::Ulid;

use super::connection::{Backoff, Keeper, Link, random_name};
use super::nodes::{BATCH, Nodes, SEEN, Seen, declare_exchange, short, split};
use super::recent::Recent;
use super::refusal::Fault;
use super::topology::{self, NODES_EXCHANGE};

/// What comes a second time is a duplicate, whatever was said of it.
const ANY_AGAIN: bool = true;
/// Batches under way.
const PREFETCH: u16 = 256;
/// Deliveries per ack.
const BURST: usize = 64;
/// What is refused where the queue is.
const REFUSED: &str = "the queue for messages of other nodes";

pub(super) struct Inbox {
    nodes: Arc<Nodes>,
    /// Batches that came: by the sender's epoch, and the number as an id.
    recent: Recent,
}

enum End {
    Lost,
    Closed,
}

impl Inbox {
    pub(super) fn new(nodes: Arc<Nodes>) -> Self {
        Self { nodes, recent: Recent::default() }
    }

    pub(super) async fn run(mut self, keeper: Arc<Keeper>) {
        let mut backoff = Backoff::default();
        loop {
            let link = tokio::select! {
                // Without a queue there is nothing to be taken from it.
                () = self.nodes.closing.cancelled() => break,
                link = keeper.link() => link,
            };
            let Some(link) = link else { break };
            let began = Instant::now();
            let result = link.answer(self.serve(&link)).await;
            match result {
                Ok(End::Closed) => break,
                Ok(End::Lost) => {}
                Err(error) => {
                    if let Fault::Refused(_) = Fault::of(&error) {
                        keeper.closed_channel(&link);
                        self.nodes.shared.state.refuse(REFUSED, Some(error.to_string()));
                    }
                }
            }
            if began.elapsed() > Duration::from_secs(10) {
                backoff = Backoff::default();
            }
            if link.is_alive() {
                tokio::time::sleep(backoff.next(Duration::from_secs(30))).await;
            }
        }
        self.nodes.closed.cancel();
    }

    async fn serve(&mut self, link: &Link) -> lapin::Result<End> {
        let (channel, queue, mut consumer) = self.open(link).await?;
        self.nodes.shared.state.refuse(REFUSED, None);
        loop {
            tokio::select! {
                biased;
                () = self.nodes.shared.stop.cancelled() => return Ok(End::Closed),
                () = self.nodes.closing.cancelled() => break,
                delivery = consumer.next() => match delivery {
                    Some(delivery) => self.take_burst(delivery?, &channel, &mut consumer).await?,
                    None => return Ok(End::Lost),
                },
            }
        }
        // From now on whoever sends something is told that nobody takes it.
        let key = short(&self.nodes.node_id);
        let exchange = NODES_EXCHANGE.into();
        channel.queue_unbind(queue.clone(), exchange, key, FieldTable::default()).await?;
        loop {
            let options = QueueDeclareOptions { passive: true, ..Default::default() };
            let left = channel.queue_declare(queue.clone(), options, FieldTable::default()).await?;
            // The answer comes behind all that the queue had given out before.
            while let Some(Some(delivery)) = consumer.next().now_or_never() {
                self.take_burst(delivery?, &channel, &mut consumer).await?;
            }
            if left.message_count() == 0 {
                return Ok(End::Closed);
            }
        }
    }

    async fn open(&self, link: &Link) -> lapin::Result<(Channel, ShortString, Consumer)> {
        let channel = link.open_channel().await?;
        declare_exchange(&channel).await?;
        let name = topology::inbox(&self.nodes.node_id, &random_name());
        // The length of the node's id is checked at start-up.
        let name = ShortString::try_new(name).unwrap_or_default();
        let (options, arguments) = topology::inbox_options();
        let queue = channel.queue_declare(name, options, arguments).await?.name().clone();
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions { exclusive: true, ..Default::default() };
        let tag = ShortString::from("stomp-relay.inbox");
        let consumer =
            channel.basic_consume(queue.clone(), tag, options, FieldTable::default()).await?;
        let key = short(&self.nodes.node_id);
        let options = QueueBindOptions::default();
        let exchange = NODES_EXCHANGE.into();
        channel.queue_bind(queue.clone(), exchange, key, options, FieldTable::default()).await?;
        Ok((channel, queue, consumer))
    }

    /// Hands on what is there by now, then acks it and says that it was seen.
    async fn take_burst(
        &mut self,
        first: Delivery,
        channel: &Channel,
        consumer: &mut Consumer,
    ) -> lapin::Result<()> {
        let mut last = first.delivery_tag;
        let mut seen = Vec::new();
        seen.extend(self.take(first));
        for _ in 1..BURST {
            let Some(Some(delivery)) = consumer.next().now_or_never() else { break };
            let delivery = delivery?;
            last = delivery.delivery_tag;
            seen.extend(self.take(delivery));
        }
        self.nodes.say_seen(seen);
        channel.basic_ack(last, BasicAckOptions { multiple: true }).await
    }

    fn take(&mut self, delivery: Delivery) -> Option<Seen> {
        let Delivery { properties, data, .. } = delivery;
        let epoch = properties.correlation_id().clone()?;
        let number_text = properties.message_id().clone()?;
        let number: u64 = number_text.as_str().parse().ok()?;
        match properties.kind().as_ref()?.as_str() {
            SEEN => {
                if epoch.as_str() == self.nodes.epoch {
                    self.nodes.was_seen(number);
                }
                None
            }
            BATCH => {
                let node = properties.reply_to().clone()?;
                let id = Ulid::from(u128::from(number));
                if self.recent.note(epoch.as_str(), id, ANY_AGAIN, Instant::now()) {
                    self.nodes.shared.counters.duplicates.add(1);
                } else {
                    split(data.into()).into_iter().for_each(|body| self.nodes.received(body));
                }
                Some(Seen { node, epoch, number: number_text })
            }
            _ => None,
        }
    }
}
