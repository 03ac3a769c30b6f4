//! The node's one queue for all its plain topic subscriptions.
//!
//! RabbitMQ sends each message once per node, whatever the number of browsers; the fan-out is
//! done here. The queue is exclusive, so it is declared, bound and consumed on one connection,
//! and goes with it: what others publish meanwhile passes by.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Consumer};
use tokio::sync::Notify;
use tracing::warn;

use super::bindings::{self, Bindings, Waiter};
use super::connection::{Keeper, Link, Shared, Turns, random_name};
use super::handover::Handover;
use super::known::{DENIED, Refusals};
use super::properties::{self, Incoming};
use super::recent::Recent;
use super::recovery::Missing;
use super::refusal::{self, Fault};
use super::topology;
use crate::destination::{TOPIC_EXCHANGE, Topic};
use crate::relay::error::Refusal;
use crate::relay::mailbox::{Level, Mailbox, Submit, SubscriptionNumber, Token};
use crate::relay::topics::Topics;

const PREFETCH: u16 = 2_000;
/// Deliveries per ack.
const BURST: usize = 500;
/// Binds under way at a time.
const BINDS: usize = 64;
const SWEEP: Duration = Duration::from_secs(10);
/// In the memory of duplicates: the queue's name changes with each connection, its subscribers
/// do not.
const NODE: &str = "stomp-relay.node.";
/// What is refused where the node queue is.
const REFUSED: &str = "the queue of this node";

/// The handle.
pub(super) struct NodeQueue {
    shared: Arc<Shared>,
    node_id: String,
    topics: Topics,
    recent: Arc<Mutex<Recent>>,
    bindings: Mutex<Bindings<Topic>>,
    /// Patterns that RabbitMQ did not bind lately.
    denied: Mutex<Refusals<Arc<str>>>,
    wake: Notify,
    is_up: AtomicBool,
    /// Messages in the queue when RabbitMQ was asked last.
    pub(super) depth: AtomicUsize,
    /// Deliveries that the last ack was for.
    pub(super) burst: AtomicUsize,
}

impl std::fmt::Debug for NodeQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeQueue").field("is_up", &self.is_up).finish_non_exhaustive()
    }
}

impl NodeQueue {
    pub(super) fn spawn(
        shared: &Arc<Shared>,
        keeper: Arc<Keeper>,
        node_id: String,
        recent: Arc<Mutex<Recent>>,
    ) -> Arc<Self> {
        let node_queue = Arc::new(Self {
            shared: shared.clone(),
            node_id,
            topics: Topics::new(),
            recent,
            bindings: Mutex::new(Bindings::new(None)),
            denied: Mutex::default(),
            wake: Notify::new(),
            is_up: AtomicBool::new(false),
            depth: AtomicUsize::new(0),
            burst: AtomicUsize::new(0),
        });
        shared.spawn(run(node_queue.clone(), keeper));
        node_queue
    }

    pub(super) fn subscribe(
        &self,
        to: &Arc<Mailbox>,
        token: Option<Token>,
        subscription: SubscriptionNumber,
        topic: Topic,
    ) -> Submit {
        if let Err(refusal) = topology::short(topic.key()) {
            return Submit::Refused(refusal);
        }
        if self.denied().holds(topic.key(), Instant::now()) {
            return Submit::Refused(refusal::refused(403));
        }
        self.topics.subscribe(&topic, to, subscription);
        let waiter = Waiter { to: to.clone(), subscription, token };
        if self.bindings().subscribe(waiter, topic, Instant::now()) {
            return Submit::Done(Level::Confirmed);
        }
        self.wake.notify_one();
        Submit::Pending
    }

    /// Whether the subscription was one of these.
    pub(super) fn unsubscribe(&self, session: u64, subscription: SubscriptionNumber) -> bool {
        let topic = self.bindings().unsubscribe(session, subscription, Instant::now());
        let Some(topic) = topic else { return false };
        self.topics.unsubscribe(&topic, session, subscription);
        true
    }

    pub(super) fn session_ended(&self, session: u64) {
        let subscriptions = self.bindings().session_ended(session, Instant::now());
        for (number, topic) in &subscriptions {
            self.topics.unsubscribe(topic, session, *number);
        }
    }

    /// Whether the queue is declared and consumed.
    pub(super) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    fn bindings(&self) -> MutexGuard<'_, Bindings<Topic>> {
        self.bindings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn denied(&self) -> MutexGuard<'_, Refusals<Arc<str>>> {
        self.denied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse(&self, topic: &Topic, refusal: &Refusal) {
        self.denied().add(topic.key().clone(), DENIED, Instant::now());
        let refused = self.bindings().refused(topic, Instant::now());
        refused.tell(refusal, |session, subscription| {
            self.topics.unsubscribe(topic, session, subscription);
        });
    }

    /// Hands on what is there by now, at most a burst. The last one's delivery tag.
    fn take_burst(
        &self,
        first: Delivery,
        consumer: &mut Consumer,
        handover: &mut Handover<'_>,
    ) -> lapin::Result<u64> {
        let mut last = first.delivery_tag;
        let mut burst = 1;
        self.take(first, handover);
        let mut context = Context::from_waker(Waker::noop());
        for _ in 1..BURST {
            if handover.is_crowded() {
                break;
            }
            let Poll::Ready(Some(delivery)) = consumer.poll_next_unpin(&mut context) else { break };
            // What has come has come, whatever becomes of the connection.
            let delivery = delivery.inspect_err(|_| handover.flush())?;
            last = delivery.delivery_tag;
            burst += 1;
            self.take(delivery, handover);
        }
        self.burst.store(burst, Ordering::Relaxed);
        handover.flush();
        Ok(last)
    }

    fn take(&self, delivery: Delivery, handover: &mut Handover<'_>) {
        self.shared.counters.received.add(1);
        let Delivery { exchange, routing_key, redelivered, properties, data, .. } = delivery;
        let key = routing_key.as_str();
        let Incoming { mut message, republished } =
            properties::incoming(exchange.as_str(), key, &properties, data);
        if let Some(id) = message.x_id {
            let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            if recent.note(NODE, id, republished, Instant::now()) && !redelivered {
                self.shared.counters.duplicates.add(1);
                return;
            }
        }
        if republished || redelivered {
            // Shared by all receivers, so it is a header of the message and not of a delivery.
            message.redelivered = true;
        }
        handover.add(routing_key, message);
    }
}

/// The queue on a connection.
struct Attached<'a> {
    node_queue: &'a NodeQueue,
    keeper: &'a Keeper,
    link: &'a Link,
    name: ShortString,
    /// It is consumed here.
    channel: Channel,
    /// It is bound here: RabbitMQ closes the channel where it denies a pattern.
    binder: Option<Channel>,
    /// There may be more to unbind.
    is_unbinding: bool,
}

impl Attached<'_> {
    /// Until the channel is lost.
    async fn run(
        &mut self,
        mut consumer: Consumer,
        gap: &mut Option<(Instant, Missing)>,
    ) -> lapin::Result<()> {
        let node_queue = self.node_queue;
        while self.bind().await? {}
        node_queue.is_up.store(true, Ordering::Relaxed);
        node_queue.shared.state.refuse(REFUSED, None);
        if let Some((since, _)) = gap.take() {
            let seconds = since.elapsed().as_secs_f32();
            warn!(seconds, "topic messages of others passed by while the node queue was away");
        }
        let mut handover = Handover::new(&node_queue.topics);
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                () = node_queue.shared.stop.cancelled() => return Ok(()),
                delivery = consumer.next() => match delivery {
                    Some(delivery) => {
                        let last = node_queue.take_burst(delivery?, &mut consumer, &mut handover)?;
                        // What is not acked yet counts towards the prefetch.
                        handover.wait().await;
                        let options = BasicAckOptions { multiple: true };
                        self.channel.basic_ack(last, options).await?;
                    }
                    None => return Ok(()),
                },
                () = node_queue.wake.notified() => {
                    // A part at a time, so that deliveries do not wait for thousands.
                    if self.bind().await? {
                        node_queue.wake.notify_one();
                    }
                    if std::mem::take(&mut self.is_unbinding) {
                        self.unbind().await?;
                    }
                }
                _ = sweep.tick() => {
                    if self.link.is_spent() {
                        return Ok(());
                    }
                    self.unbind().await?;
                    self.ask_depth().await?;
                }
            }
        }
    }

    /// Binds some of what is wanted and not bound yet. Whether there may be more.
    async fn bind(&mut self) -> lapin::Result<bool> {
        let wanted: Vec<_> = {
            let mut bindings = self.node_queue.bindings();
            std::iter::from_fn(|| bindings.next_wanted()).take(BINDS).collect()
        };
        if wanted.is_empty() {
            return Ok(false);
        }
        let binder = self.binder().await?;
        let binds = wanted.iter().map(|topic| {
            let (queue, exchange) = (self.name.clone(), TOPIC_EXCHANGE.into());
            let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
            binder.queue_bind(queue, exchange, key_of(topic), options, arguments)
        });
        // Answered in this order, so the first that fails is the one that was refused.
        let results = join_all(binds).await;
        let mut refused = None;
        for (topic, result) in wanted.iter().zip(results) {
            match result {
                Ok(()) => {
                    let waiters = self.node_queue.bindings().bound(topic, Instant::now());
                    bindings::confirm(waiters);
                }
                Err(_) if refused.is_some() => self.node_queue.bindings().lost(topic),
                Err(error) => {
                    let code = self.denied_by(&error).ok_or(error)?;
                    refused = Some(topic);
                    self.node_queue.refuse(topic, &refusal::refused(code));
                }
            }
        }
        Ok(true)
    }

    /// Whether RabbitMQ closed the binder's channel over this one thing; the reply code.
    fn denied_by(&mut self, error: &lapin::Error) -> Option<u16> {
        let Fault::Refused(code) = Fault::of(error) else { return None };
        warn!("RabbitMQ refuses to bind or unbind a topic: {error}");
        self.keeper.closed_channel(self.link);
        self.binder = None;
        Some(code)
    }

    async fn binder(&mut self) -> lapin::Result<Channel> {
        match &self.binder {
            Some(channel) if channel.status().connected() => Ok(channel.clone()),
            _ => Ok(self.binder.insert(self.link.open_channel().await?).clone()),
        }
    }

    /// Unbinds some of what nobody uses any more; the rest soon, so that deliveries do not wait.
    async fn unbind(&mut self) -> lapin::Result<()> {
        let expired = self.node_queue.bindings().expire(Instant::now(), BINDS);
        if expired.is_empty() {
            return Ok(());
        }
        let binder = self.binder().await?;
        let unbinds = expired.iter().map(|topic| {
            let (queue, exchange) = (self.name.clone(), TOPIC_EXCHANGE.into());
            binder.queue_unbind(queue, exchange, key_of(topic), FieldTable::default())
        });
        for result in join_all(unbinds).await {
            let Err(error) = result else { continue };
            // The bindings stay, and what comes of them is for nobody.
            self.denied_by(&error).ok_or(error)?;
            break;
        }
        self.is_unbinding = true;
        self.node_queue.wake.notify_one();
        Ok(())
    }

    async fn ask_depth(&self) -> lapin::Result<()> {
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let queue =
            self.channel.queue_declare(self.name.clone(), options, FieldTable::default()).await?;
        let depth = usize::try_from(queue.message_count()).unwrap_or(usize::MAX);
        self.node_queue.depth.store(depth, Ordering::Relaxed);
        Ok(())
    }
}

/// Its length was checked when it was asked for.
fn key_of(topic: &Topic) -> ShortString {
    topology::short(topic.key()).unwrap_or_default()
}

async fn run(node_queue: Arc<NodeQueue>, keeper: Arc<Keeper>) {
    let shared = &node_queue.shared;
    let mut turns = Turns::new(keeper.clone());
    let mut gap = None;
    while let Some(link) = turns.next().await {
        let result = link.answer(serve(&node_queue, &keeper, &link, &mut gap)).await;
        // Who subscribes from now on waits.
        node_queue.bindings().reset();
        if node_queue.is_up.swap(false, Ordering::Relaxed) {
            gap = Some((Instant::now(), shared.recovery.lost()));
            shared.counters.node_queue_gaps.add(1);
        }
        if let Some(error) = turns.over(result) {
            shared.state.refuse(REFUSED, Some(error.to_string()));
        }
    }
}

/// Until the channel is lost.
async fn serve(
    node_queue: &NodeQueue,
    keeper: &Keeper,
    link: &Link,
    gap: &mut Option<(Instant, Missing)>,
) -> lapin::Result<()> {
    let name = topology::node_queue(&node_queue.node_id, &random_name());
    // The length of the node's id is checked at start-up.
    let name = ShortString::try_new(name).unwrap_or_default();
    let channel = link.open_channel().await?;
    let (options, arguments) = topology::node_queue_options();
    channel.queue_declare(name.clone(), options, arguments).await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    node_queue.bindings().reset();
    let tag = ShortString::from("stomp-relay.node");
    let options = BasicConsumeOptions { exclusive: true, ..Default::default() };
    let consumer = channel.basic_consume(name.clone(), tag, options, FieldTable::default()).await?;
    let (binder, is_unbinding) = (None, false);
    let mut attached = Attached { node_queue, keeper, link, name, channel, binder, is_unbinding };
    attached.run(consumer, gap).await
}
