//! Plain subscriptions to exchanges: one queue for each exchange and key that somebody on this
//! node listens to, and the fan-out to sessions is done here.
//!
//! What an exchange does with a key, AMQP does not tell, so what comes of one binding cannot be
//! told from what comes of another: one queue for all would not do.
//!
//! The queues are exclusive, so they are declared, bound and consumed on one connection, and go
//! with it: what others publish meanwhile passes by. All are consumed on one channel; what
//! RabbitMQ may refuse is asked on another one, which may be closed over it without harm, and
//! whether an exchange is there is asked on another connection.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, SelectAll, StreamExt};
use futures_util::{Stream, stream};
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions,
    QueueDeleteOptions,
};
use lapin::types::{FieldTable, ShortString};
use tokio::sync::Notify;
use tracing::warn;

use super::bindings::{self, Bindings, Waiter};
use super::connection::{Keeper, Link, Shared, Turns, random_name};
use super::declarer::{DeclareError, Declarer, Need};
use super::known::{DENIED, Refusals};
use super::properties::{self, Incoming};
use super::recent::Recent;
use super::refusal::{self, Fault};
use super::topology;
use crate::destination::{Exchange, Topic};
use crate::relay::error::Refusal;
use crate::relay::mailbox::{Level, Mailbox, Submit, SubscriptionNumber, Token};
use crate::relay::topics::Topics;

/// Of each queue.
const PREFETCH: u16 = 2_000;
/// Deliveries that are acked together.
const BURST: usize = 500;
/// Binds at a time.
const BINDS: usize = 16;
const SWEEP: Duration = Duration::from_secs(10);
/// An exchange that was deleted and declared anew has lost its bindings, and nobody is told.
const FRESH: Duration = Duration::from_secs(5);

/// The handle.
pub(super) struct ExchangeQueues {
    shared: Arc<Shared>,
    node_id: String,
    /// By [`place`].
    listeners: Topics,
    recent: Arc<Mutex<Recent>>,
    declarer: Arc<Declarer>,
    bindings: Mutex<Bindings<Exchange>>,
    /// What RabbitMQ did not bind lately, though it is there.
    denied: Mutex<Refusals<Exchange>>,
    wake: Notify,
}

impl std::fmt::Debug for ExchangeQueues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExchangeQueues").finish_non_exhaustive()
    }
}

impl ExchangeQueues {
    /// `keeper`: the connection that has the node's exclusive queues.
    pub(super) fn spawn(
        shared: &Arc<Shared>,
        keeper: Arc<Keeper>,
        node_id: String,
        declarer: Arc<Declarer>,
        recent: Arc<Mutex<Recent>>,
    ) -> Arc<Self> {
        let queues = Arc::new(Self {
            shared: shared.clone(),
            node_id,
            listeners: Topics::new(),
            recent,
            declarer,
            bindings: Mutex::new(Bindings::new(Some(FRESH))),
            denied: Mutex::default(),
            wake: Notify::new(),
        });
        shared.spawn(run(queues.clone(), keeper));
        queues
    }

    pub(super) fn subscribe(
        &self,
        to: &Arc<Mailbox>,
        token: Option<Token>,
        subscription: SubscriptionNumber,
        exchange: Exchange,
    ) -> Submit {
        let Exchange { name, key } = &exchange;
        let fits = topology::short(name).and(topology::short(key));
        if let Err(refusal) = fits.and(topology::repeatable(&[name, key])) {
            return Submit::Refused(refusal);
        }
        if self.denied().holds(&exchange, Instant::now()) {
            return Submit::Refused(refusal::refused(403));
        }
        self.listeners.subscribe(&place(&exchange), to, subscription);
        let waiter = Waiter { to: to.clone(), subscription, token };
        if self.bindings().subscribe(waiter, exchange, Instant::now()) {
            return Submit::Done(Level::Confirmed);
        }
        self.wake.notify_one();
        Submit::Pending
    }

    /// Whether the subscription was one of these.
    pub(super) fn unsubscribe(&self, session: u64, subscription: SubscriptionNumber) -> bool {
        let exchange = self.bindings().unsubscribe(session, subscription, Instant::now());
        let Some(exchange) = exchange else { return false };
        self.listeners.unsubscribe(&place(&exchange), session, subscription);
        true
    }

    pub(super) fn session_ended(&self, session: u64) {
        let subscriptions = self.bindings().session_ended(session, Instant::now());
        for (number, exchange) in &subscriptions {
            self.listeners.unsubscribe(&place(exchange), session, *number);
        }
    }

    fn bindings(&self) -> MutexGuard<'_, Bindings<Exchange>> {
        self.bindings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn denied(&self) -> MutexGuard<'_, Refusals<Exchange>> {
        self.denied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse(&self, exchange: &Exchange, refusal: &Refusal) {
        let refused = self.bindings().refused(exchange, Instant::now());
        let place = place(exchange);
        refused.tell(refusal, |session, subscription| {
            self.listeners.unsubscribe(&place, session, subscription);
        });
    }

    fn take(&self, of: &Exchange, delivery: Delivery) {
        self.shared.counters.received.add(1);
        let Delivery { exchange, routing_key, redelivered, properties, data, .. } = delivery;
        let (exchange, key) = (exchange.as_str(), routing_key.as_str());
        let Incoming { mut message, republished } =
            properties::incoming(exchange, key, &properties, data);
        let place = place(of);
        if let Some(id) = message.x_id {
            let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            if recent.note(place.key(), id, republished, Instant::now()) && !redelivered {
                self.shared.counters.duplicates.add(1);
                return;
            }
        }
        // Shared by all receivers, so it is a header of the message and not of a delivery.
        message.redelivered |= republished || redelivered;
        self.listeners.publish(place.key(), &Arc::new(message));
    }
}

/// What it is in the table of listeners: an exchange's name has no NUL, nor has any key.
fn place(exchange: &Exchange) -> Topic {
    Topic::literal(&Arc::from(format!("{}\0{}", exchange.name, exchange.key)))
}

enum Item {
    Delivery(Arc<Exchange>, Box<lapin::Result<Delivery>>),
    /// The consumer of that queue is over.
    End(Arc<Exchange>, ShortString),
}

type Deliveries = Pin<Box<dyn Stream<Item = Item> + Send>>;
type Looking = Pin<Box<dyn Future<Output = (Exchange, Result<(), DeclareError>)> + Send>>;

/// The queues on a connection.
struct Attached<'a> {
    queues: &'a ExchangeQueues,
    keeper: &'a Keeper,
    link: &'a Link,
    channel: Channel,
    /// To declare and to bind.
    asking: Option<Channel>,
    /// The queue of each; it is the consumer's tag too.
    names: HashMap<Exchange, ShortString>,
    deliveries: SelectAll<Deliveries>,
    /// Exchanges that are being looked for.
    looking: FuturesUnordered<Looking>,
}

impl Attached<'_> {
    /// Until the channel is lost.
    async fn run(&mut self) -> lapin::Result<()> {
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            self.bind().await?;
            tokio::select! {
                () = self.queues.shared.stop.cancelled() => return Ok(()),
                () = self.link.lost() => return Ok(()),
                Some(first) = self.deliveries.next(), if !self.deliveries.is_empty() => {
                    self.take_burst(first).await?;
                }
                Some((exchange, found)) = self.looking.next(), if !self.looking.is_empty() => {
                    match found {
                        Ok(()) => self.bind_now(&exchange).await?,
                        Err(DeclareError::Refused(refusal)) => {
                            self.queues.refuse(&exchange, &refusal);
                        }
                        Err(DeclareError::Unavailable) => {
                            self.queues.refuse(&exchange, &refusal::outage(false));
                        }
                        Err(DeclareError::Stopped) => return Ok(()),
                    }
                }
                () = self.queues.wake.notified() => {}
                _ = sweep.tick() => {
                    if self.link.is_spent() {
                        return Ok(());
                    }
                    self.expire().await?;
                }
            }
        }
    }

    /// Binds what is wanted and not bound yet; some of it, so that deliveries do not wait.
    async fn bind(&mut self) -> lapin::Result<()> {
        for _ in 0..BINDS {
            let wanted = self.queues.bindings().next_wanted();
            let Some(exchange) = wanted else { return Ok(()) };
            let need = Need::Exchange(exchange.name.clone());
            if self.queues.declarer.knows(&need) {
                self.bind_now(&exchange).await?;
            } else {
                // On the declarer's connection, which nobody needs for long: this one has queues.
                let declarer = self.queues.declarer.clone();
                self.looking.push(Box::pin(async move { (exchange, declarer.get(need).await) }));
            }
        }
        self.queues.wake.notify_one();
        Ok(())
    }

    async fn bind_now(&mut self, exchange: &Exchange) -> lapin::Result<()> {
        let Err(error) = self.bind_one(exchange).await else {
            let waiters = self.queues.bindings().bound(exchange, Instant::now());
            bindings::confirm(waiters);
            return Ok(());
        };
        // Anything else is asked again on another channel, after a pause.
        let Fault::Refused(code) = Fault::of(&error) else { return Err(error) };
        self.keeper.closed_channel(self.link);
        warn!("RabbitMQ refuses to bind an exchange: {error}");
        self.asking = None;
        self.drop_unused(exchange).await?;
        match code {
            403 => self.queues.denied().add(exchange.clone(), DENIED, Instant::now()),
            404 => self.queues.declarer.forget_exchanges(),
            _ => {}
        }
        self.queues.refuse(exchange, &refusal::of_exchange(code, &exchange.name));
        Ok(())
    }

    async fn bind_one(&mut self, exchange: &Exchange) -> lapin::Result<()> {
        let link = self.link;
        let asking = self.asking().await?;
        let known = self.names.get(exchange).cloned();
        let is_known = known.is_some();
        let queue = match known {
            Some(queue) => queue,
            None => {
                let name = topology::node_queue(&self.queues.node_id, &random_name());
                // The length of the node's id is checked at start-up.
                let name = ShortString::try_new(name).unwrap_or_default();
                let (options, arguments) = topology::node_queue_options();
                link.answer(asking.queue_declare(name.clone(), options, arguments)).await?;
                self.names.insert(exchange.clone(), name.clone());
                name
            }
        };
        // Their lengths were checked when they were asked for.
        let name = topology::short(&exchange.name).unwrap_or_default();
        let key = topology::short(&exchange.key).unwrap_or_default();
        let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
        link.answer(asking.queue_bind(queue.clone(), name, key, options, arguments)).await?;
        if !is_known {
            self.consume(exchange, queue).await?;
        }
        Ok(())
    }

    async fn consume(&mut self, exchange: &Exchange, queue: ShortString) -> lapin::Result<()> {
        let options = BasicConsumeOptions { exclusive: true, ..Default::default() };
        let consume = self.channel.basic_consume(
            queue.clone(),
            queue.clone(),
            options,
            FieldTable::default(),
        );
        let consumer = self.link.answer(consume).await?;
        let of = Arc::new(exchange.clone());
        let end = stream::iter([Item::End(of.clone(), queue)]);
        let deliveries =
            consumer.map(move |delivery| Item::Delivery(of.clone(), Box::new(delivery)));
        self.deliveries.push(Box::pin(deliveries.chain(end)));
        Ok(())
    }

    async fn asking(&mut self) -> lapin::Result<Channel> {
        if let Some(channel) = &self.asking
            && channel.status().connected()
        {
            return Ok(channel.clone());
        }
        let channel = self.link.open_channel().await?;
        self.asking = Some(channel.clone());
        Ok(channel)
    }

    /// The queue of a binding that was refused goes, unless it had others before. Nobody consumes
    /// it, so it would not go by itself.
    async fn drop_unused(&mut self, exchange: &Exchange) -> lapin::Result<()> {
        // It is consumed from the first time that it is bound.
        if self.queues.bindings().is_bound(exchange) {
            return Ok(());
        }
        let Some(queue) = self.names.remove(exchange) else { return Ok(()) };
        let asking = self.asking().await?;
        let delete = asking.queue_delete(queue, QueueDeleteOptions::default());
        self.link.answer(delete).await.map(drop)
    }

    /// Those without users go: an auto-delete queue goes with its consumer.
    async fn expire(&mut self) -> lapin::Result<()> {
        let expired = self.queues.bindings().expire(Instant::now(), BINDS);
        for exchange in expired {
            let Some(tag) = self.names.remove(&exchange) else { continue };
            let cancel = self.channel.basic_cancel(tag, BasicCancelOptions::default());
            self.link.answer(cancel).await?;
        }
        Ok(())
    }

    /// Hands on what is there by now, at most a burst. Each is acked by itself: the queues'
    /// deliveries are not taken in the order of their tags.
    async fn take_burst(&mut self, first: Item) -> lapin::Result<()> {
        let tags = self.take_ready(first)?;
        let options = BasicAckOptions { multiple: false };
        let acks = tags.into_iter().map(|tag| self.channel.basic_ack(tag, options));
        join_all(acks).await.into_iter().collect()
    }

    /// The delivery tags of what was taken.
    fn take_ready(&mut self, first: Item) -> lapin::Result<Vec<u64>> {
        let mut tags = Vec::new();
        self.take(first, &mut tags)?;
        let mut context = Context::from_waker(Waker::noop());
        while tags.len() < BURST
            && let Poll::Ready(Some(item)) = self.deliveries.poll_next_unpin(&mut context)
        {
            self.take(item, &mut tags)?;
        }
        Ok(tags)
    }

    fn take(&mut self, item: Item, tags: &mut Vec<u64>) -> lapin::Result<()> {
        match item {
            Item::Delivery(of, delivery) => {
                let delivery = (*delivery)?;
                tags.push(delivery.delivery_tag);
                self.queues.take(&of, delivery);
            }
            // Either it has expired, or somebody deleted the queue.
            Item::End(of, queue) => {
                if self.names.get(&*of) == Some(&queue) {
                    self.names.remove(&*of);
                    self.queues.bindings().lost(&of);
                }
            }
        }
        Ok(())
    }
}

async fn run(queues: Arc<ExchangeQueues>, keeper: Arc<Keeper>) {
    let mut turns = Turns::new(keeper.clone());
    while let Some(link) = turns.next().await {
        let result = link.answer(serve(&queues, &keeper, &link)).await;
        // Who subscribes from now on waits.
        queues.bindings().reset();
        if let Some(error) = turns.over(result) {
            warn!("RabbitMQ closed the channel of exchanges: {error}");
        }
    }
}

async fn serve(queues: &ExchangeQueues, keeper: &Keeper, link: &Link) -> lapin::Result<()> {
    let channel = link.open_channel().await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    queues.bindings().reset();
    let (asking, names) = (None, HashMap::new());
    let (deliveries, looking) = (SelectAll::new(), FuturesUnordered::new());
    Attached { queues, keeper, link, channel, asking, names, deliveries, looking }.run().await
}
