//! The node's one queue for all its plain topic subscriptions.
//!
//! RabbitMQ sends each message once per node, whatever the number of browsers; the fan-out is
//! done here. The queue is exclusive, so it is declared, bound and consumed on one connection,
//! and goes with it: what others publish meanwhile passes by.

use std::collections::HashMap;
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

use super::bindings::Bindings;
use super::connection::{Backoff, Keeper, Link, Shared, random_name};
use super::handover::Handover;
use super::properties::{self, Incoming};
use super::recent::Recent;
use super::recovery::Missing;
use super::refusal::Fault;
use super::topology;
use crate::destination::{TOPIC_EXCHANGE, Topic};
use crate::relay::mailbox::{Event, Level, Mailbox, Submit, SubscriptionNumber, Token};
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
    table: Mutex<Table>,
    wake: Notify,
    is_up: AtomicBool,
    /// Messages in the queue when RabbitMQ was asked last.
    pub(super) depth: AtomicUsize,
    /// Deliveries that the last ack was for.
    pub(super) burst: AtomicUsize,
}

#[derive(Debug, Default)]
struct Table {
    bindings: Bindings,
    sessions: HashMap<u64, Vec<(SubscriptionNumber, Topic)>>,
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
            table: Mutex::default(),
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
        self.topics.subscribe(&topic, to, subscription);
        let bound = {
            let mut table = self.table();
            let waiter = token.map(|token| (to.clone(), token));
            let bound = table.bindings.acquire(topic.key(), waiter);
            table.sessions.entry(to.session()).or_default().push((subscription, topic));
            bound
        };
        if bound {
            return Submit::Done(Level::Confirmed);
        }
        self.wake.notify_one();
        Submit::Pending
    }

    /// Whether the subscription was one of these.
    pub(super) fn unsubscribe(&self, session: u64, subscription: SubscriptionNumber) -> bool {
        let topic = {
            let mut table = self.table();
            let Table { bindings, sessions } = &mut *table;
            let Some(subscriptions) = sessions.get_mut(&session) else { return false };
            let place = subscriptions.iter().position(|(number, _)| *number == subscription);
            let Some(place) = place else { return false };
            let (_, topic) = subscriptions.swap_remove(place);
            if subscriptions.is_empty() {
                sessions.remove(&session);
            }
            bindings.release(topic.key(), Instant::now());
            topic
        };
        self.topics.unsubscribe(&topic, session, subscription);
        true
    }

    pub(super) fn session_ended(&self, session: u64) {
        let subscriptions = {
            let mut table = self.table();
            let Some(subscriptions) = table.sessions.remove(&session) else { return };
            let now = Instant::now();
            for (_, topic) in &subscriptions {
                table.bindings.release(topic.key(), now);
            }
            subscriptions
        };
        for (number, topic) in &subscriptions {
            self.topics.unsubscribe(topic, session, *number);
        }
    }

    /// Whether the queue is declared and consumed.
    pub(super) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until the channel is lost.
    async fn serve(&self, link: &Link, gap: &mut Option<(Instant, Missing)>) -> lapin::Result<()> {
        let (channel, mut consumer) = self.open(link).await?;
        self.bind(&channel).await?;
        self.is_up.store(true, Ordering::Relaxed);
        self.shared.state.refuse(REFUSED, None);
        if let Some((since, _)) = gap.take() {
            let seconds = since.elapsed().as_secs_f32();
            warn!(seconds, "topic messages of others passed by while the node queue was away");
        }
        let mut handover = Handover::new(&self.topics);
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                () = self.shared.stop.cancelled() => return Ok(()),
                delivery = consumer.next() => match delivery {
                    Some(delivery) => {
                        let last = self.take_burst(delivery?, &mut consumer, &mut handover)?;
                        // What is not acked yet counts towards the prefetch.
                        handover.wait().await;
                        let options = BasicAckOptions { multiple: true };
                        channel.basic_ack(last, options).await?;
                    }
                    None => return Ok(()),
                },
                () = self.wake.notified() => self.bind(&channel).await?,
                _ = sweep.tick() => {
                    self.unbind(&channel).await?;
                    self.ask_depth(&channel).await?;
                }
            }
        }
    }

    async fn open(&self, link: &Link) -> lapin::Result<(Channel, Consumer)> {
        let name = topology::node_queue(&self.node_id, &random_name());
        // The length of the node's id is checked at start-up.
        let name = ShortString::try_new(name).unwrap_or_default();
        let channel = link.open_channel().await?;
        let (options, arguments) = topology::node_queue_options();
        let queue = channel.queue_declare(name, options, arguments).await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let name = queue.name().clone();
        self.table().bindings.reset(name.clone());
        let tag = ShortString::from("stomp-relay.node");
        let options = BasicConsumeOptions { exclusive: true, ..Default::default() };
        let consumer = channel.basic_consume(name, tag, options, FieldTable::default()).await?;
        Ok((channel, consumer))
    }

    /// Binds what is wanted and not bound yet.
    async fn bind(&self, channel: &Channel) -> lapin::Result<()> {
        loop {
            let (queue, wanted) = {
                let mut table = self.table();
                let wanted: Vec<_> =
                    std::iter::from_fn(|| table.bindings.next_wanted()).take(BINDS).collect();
                (table.bindings.queue(), wanted)
            };
            if wanted.is_empty() {
                return Ok(());
            }
            let binds = wanted.iter().filter_map(|pattern| {
                let key = topology::short(pattern).ok()?;
                let exchange = TOPIC_EXCHANGE.into();
                let options = QueueBindOptions::default();
                Some(channel.queue_bind(
                    queue.clone(),
                    exchange,
                    key,
                    options,
                    FieldTable::default(),
                ))
            });
            join_all(binds).await.into_iter().collect::<lapin::Result<()>>()?;
            let waiters: Vec<_> = {
                let mut table = self.table();
                wanted.iter().flat_map(|pattern| table.bindings.bound(pattern)).collect()
            };
            for (waiter, token) in waiters {
                waiter.event(Event::Done { token, result: Ok(Level::Confirmed) });
            }
        }
    }

    async fn unbind(&self, channel: &Channel) -> lapin::Result<()> {
        let (queue, expired) = {
            let mut table = self.table();
            (table.bindings.queue(), table.bindings.expire(Instant::now()))
        };
        for pattern in expired {
            let Ok(key) = topology::short(&pattern) else { continue };
            let exchange = TOPIC_EXCHANGE.into();
            channel.queue_unbind(queue.clone(), exchange, key, FieldTable::default()).await?;
        }
        Ok(())
    }

    async fn ask_depth(&self, channel: &Channel) -> lapin::Result<()> {
        let name = self.table().bindings.queue();
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let queue = channel.queue_declare(name, options, FieldTable::default()).await?;
        let depth = usize::try_from(queue.message_count()).unwrap_or(usize::MAX);
        self.depth.store(depth, Ordering::Relaxed);
        Ok(())
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

async fn run(node_queue: Arc<NodeQueue>, keeper: Arc<Keeper>) {
    let mut backoff = Backoff::default();
    let mut gap = None;
    while let Some(link) = keeper.link().await {
        let began = Instant::now();
        let result = link.answer(node_queue.serve(&link, &mut gap)).await;
        if node_queue.is_up.swap(false, Ordering::Relaxed) {
            gap = Some((Instant::now(), node_queue.shared.recovery.lost()));
            node_queue.shared.counters.node_queue_gaps.add(1);
        }
        if node_queue.shared.stop.is_cancelled() {
            return;
        }
        if let Err(error) = result
            && let Fault::Refused(_) = Fault::of(&error)
        {
            keeper.closed_channel(&link);
            node_queue.shared.state.refuse(REFUSED, Some(error.to_string()));
        }
        if began.elapsed() > SWEEP {
            backoff = Backoff::default();
        }
        if link.is_alive() {
            tokio::time::sleep(backoff.next(Duration::from_secs(30))).await;
        }
    }
}
