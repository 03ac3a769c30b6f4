//! From node to node: what one relay has for the sessions of another.
//!
//! One direct exchange, and one binding per node: RabbitMQ knows nothing of users. What is sent
//! is opaque here. Two channels on the connection that publishes: one for batches, one at a time
//! and confirmed, and one to say which batches of others were seen, which may get lost. What
//! comes in is in [`super::inbox`].

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, ExchangeKind};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::connection::{Backoff, Keeper, Link, Shared, random_name};
use super::inbox::Inbox;
use super::ledger::Limits;
use super::parcels::{Done, Outgoing, Parcels};
use super::topology::NODES_EXCHANGE;
use crate::relay::mailbox::{Event, Mailbox};

/// The `type` of a batch, and of the word that one was seen.
pub(super) const BATCH: &str = "batch";
pub(super) const SEEN: &str = "seen";
/// How often is looked for what has waited too long.
const TICK: Duration = Duration::from_millis(250);
/// What is under way at the end gets so long, in each direction.
const CLOSE: Duration = Duration::from_secs(3);

type Receiver = Box<dyn Fn(Bytes) + Send + Sync>;

/// The way to other nodes.
pub struct Nodes {
    pub(super) shared: Arc<Shared>,
    pub(super) node_id: Arc<str>,
    /// Tells this process's batches from those of the one before it.
    pub(super) epoch: String,
    parcels: Mutex<Parcels>,
    seen: Mutex<VecDeque<Seen>>,
    publish: Notify,
    tell: Notify,
    receiver: OnceLock<Receiver>,
    /// Nothing more is to come in; nothing more does.
    pub(super) closing: CancellationToken,
    pub(super) closed: CancellationToken,
}

/// Word for another node that a batch of its was seen.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) node: ShortString,
    pub(super) epoch: ShortString,
    pub(super) number: ShortString,
}

impl Nodes {
    pub(super) fn spawn(
        shared: &Arc<Shared>,
        publish: &Arc<Keeper>,
        node: &Arc<Keeper>,
        node_id: &str,
        limits: Limits,
    ) -> Arc<Self> {
        let nodes = Arc::new(Self {
            shared: shared.clone(),
            node_id: Arc::from(node_id),
            epoch: random_name(),
            parcels: Mutex::new(Parcels::new(limits)),
            seen: Mutex::default(),
            publish: Notify::new(),
            tell: Notify::new(),
            receiver: OnceLock::new(),
            closing: CancellationToken::new(),
            closed: CancellationToken::new(),
        });
        shared.spawn(run(nodes.clone(), publish.clone()));
        shared.spawn(tick(nodes.clone()));
        shared.spawn(Inbox::new(nodes.clone()).run(node.clone()));
        nodes
    }

    /// Who is handed what comes from other nodes. Only the first one is.
    pub fn listen(&self, receiver: impl Fn(Bytes) + Send + Sync + 'static) {
        // The second is a mistake of the caller, and hears nothing.
        let _ = self.receiver.set(Box::new(receiver));
    }

    /// Sends something to another node, in order. `done` is called later, from another task:
    /// when that node has it, or when it is known that it may not. What nobody waits for may be
    /// dropped where there is too much of it.
    pub fn send(&self, node: &Arc<str>, body: Bytes, done: Option<Done>) {
        self.shared.counters.node_pushes.add(1);
        self.parcels().put(node, body, done, Instant::now());
        self.publish.notify_one();
        self.tell.notify_one();
    }

    /// Whether more may be sent. Where not, the waiter gets `Event::Room` when it may.
    pub fn has_room(&self, waiter: &Arc<Mailbox>) -> bool {
        self.parcels().has_room(waiter)
    }

    /// Finishes what is under way, first what goes out, then what comes in. Others must not think
    /// any more that somebody is here.
    pub async fn close(&self) {
        let sent = async {
            while self.parcels().is_awaited() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(CLOSE, sent).await.is_err() {
            warn!("other nodes did not take everything before the end");
        }
        self.parcels().give_up();
        self.tell_all();
        self.closing.cancel();
        if tokio::time::timeout(CLOSE, self.closed.cancelled()).await.is_err() {
            warn!("messages of other nodes were left in the queue of this one");
        }
    }

    /// Something from another node.
    pub(super) fn received(&self, body: Bytes) {
        self.shared.counters.node_pushes_received.add(1);
        if let Some(receiver) = self.receiver.get() {
            receiver(body);
        }
    }

    /// Another node is told that its batch was seen.
    pub(super) fn say_seen(&self, seen: impl IntoIterator<Item = Seen>) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).extend(seen);
        self.publish.notify_one();
    }

    /// Another node has a batch of ours.
    pub(super) fn was_seen(&self, number: u64) {
        self.parcels().seen(number);
        self.tell.notify_one();
    }

    fn parcels(&self) -> MutexGuard<'_, Parcels> {
        self.parcels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_all(&self) {
        let (told, waiters) = {
            let mut parcels = self.parcels();
            (parcels.take_told(), parcels.woken())
        };
        for (done, fate) in told {
            done(fate);
        }
        for waiter in waiters.iter().filter_map(Weak::upgrade) {
            waiter.event(Event::Room);
        }
    }

    /// Until a channel is lost.
    async fn publish_on(&self, link: &Link) -> lapin::Result<()> {
        let batches = link.open_channel().await?;
        link.answer(batches.confirm_select(ConfirmSelectOptions::default())).await?;
        link.answer(declare_exchange(&batches)).await?;
        let word = link.open_channel().await?;
        let mut open = None;
        loop {
            self.publish_seen(&word).await?;
            if open.is_none()
                && let Some(outgoing) = self.parcels().next(Instant::now())
            {
                open = Some(Box::pin(self.publish_batch(batches.clone(), outgoing)));
            }
            let answer = async {
                match &mut open {
                    Some(publish) => publish.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.shared.stop.cancelled() => return Ok(()),
                answer = answer => {
                    open = None;
                    match answer? {
                        Confirmation::Ack(None) => self.parcels().confirmed(Instant::now()),
                        Confirmation::Ack(Some(_)) | Confirmation::Nack(_)
                        | Confirmation::NotRequested => {
                            self.shared.counters.node_pushes_returned.add(1);
                            self.parcels().returned(Instant::now());
                        }
                    }
                    self.tell.notify_one();
                }
                () = link.lost() => return Ok(()),
                () = self.publish.notified() => {}
            }
        }
    }

    async fn publish_batch(
        &self,
        channel: Channel,
        outgoing: Outgoing,
    ) -> lapin::Result<Confirmation> {
        let Outgoing { number, node, bodies, republished } = outgoing;
        let mut headers = FieldTable::default();
        if republished {
            headers.insert("x-republished".into(), AMQPValue::LongString("true".into()));
        }
        let properties = BasicProperties::default()
            .with_type(BATCH.into())
            .with_message_id(number.to_string().into())
            .with_correlation_id(self.epoch.as_str().into())
            .with_reply_to(short(&self.node_id))
            .with_headers(headers);
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let body = join(&bodies);
        let exchange = NODES_EXCHANGE.into();
        channel.basic_publish(exchange, short(&node), options, &body, properties).await?.await
    }

    async fn publish_seen(&self, channel: &Channel) -> lapin::Result<()> {
        let seen = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *seen)
        };
        for Seen { node, epoch, number } in seen {
            let properties = BasicProperties::default()
                .with_type(SEEN.into())
                .with_message_id(number)
                .with_correlation_id(epoch);
            let options = BasicPublishOptions::default();
            // Where it does not get there the batch comes again, and so does the word.
            drop(
                channel
                    .basic_publish(NODES_EXCHANGE.into(), node, options, &[], properties)
                    .await?,
            );
        }
        Ok(())
    }
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nodes").field("node_id", &self.node_id).finish_non_exhaustive()
    }
}

/// Both who publishes and who binds may be the first.
pub(super) async fn declare_exchange(channel: &Channel) -> lapin::Result<()> {
    let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let kind = ExchangeKind::Direct;
    channel.exchange_declare(NODES_EXCHANGE.into(), kind, options, FieldTable::default()).await
}

/// A node's id: its length is checked at start-up.
pub(super) fn short(node_id: &str) -> ShortString {
    ShortString::try_new(node_id).unwrap_or_default()
}

/// Several bodies in one, each behind its length.
fn join(bodies: &[Bytes]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(bodies.iter().map(|body| body.len() + 4).sum());
    for body in bodies {
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        joined.extend_from_slice(&length.to_be_bytes());
        joined.extend_from_slice(body);
    }
    joined
}

/// The same back. Stops where it is none of ours.
pub(super) fn split(mut rest: Bytes) -> Vec<Bytes> {
    let mut bodies = Vec::new();
    while let Some((length, _)) = rest.split_first_chunk::<4>() {
        let end = 4_usize.saturating_add(u32::from_be_bytes(*length) as usize);
        if end > rest.len() {
            break;
        }
        let body = rest.split_to(end);
        bodies.push(body.slice(4..));
    }
    bodies
}

async fn run(nodes: Arc<Nodes>, keeper: Arc<Keeper>) {
    let mut backoff = Backoff::default();
    while let Some(link) = keeper.link().await {
        let began = Instant::now();
        let result = nodes.publish_on(&link).await;
        nodes.parcels().lost();
        if nodes.shared.stop.is_cancelled() {
            return;
        }
        if link.is_alive() {
            if let Err(error) = result {
                keeper.closed_channel(&link);
                warn!("RabbitMQ takes no messages for other nodes: {error}");
            }
            if began.elapsed() > Duration::from_secs(10) {
                backoff = Backoff::default();
            }
            tokio::time::sleep(backoff.next(Duration::from_secs(5))).await;
        }
    }
}

/// Tells what became of parcels, and looks at the time.
async fn tick(nodes: Arc<Nodes>) {
    loop {
        tokio::select! {
            () = nodes.shared.stop.cancelled() => return nodes.tell_all(),
            () = nodes.tell.notified() => {}
            () = tokio::time::sleep(TICK) => {
                nodes.parcels().tick(Instant::now());
                nodes.publish.notify_one();
            }
        }
        nodes.tell_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_there_and_back() {
        let large = vec![b'x'; 70_000];
        for bodies in [vec![], vec![&b""[..]], vec![b"a", b"", &large], vec![&[0, 0, 0, 9]]] {
            let bodies: Vec<Bytes> = bodies.into_iter().map(Bytes::copy_from_slice).collect();
            assert_eq!(split(join(&bodies).into()), bodies);
        }
        for bad in [&[0, 0, 0][..], &[0, 0, 0, 2, 1], &[255, 255, 255, 255, 1]] {
            assert_eq!(split(Bytes::copy_from_slice(bad)), [] as [Bytes; 0]);
        }
    }
}
