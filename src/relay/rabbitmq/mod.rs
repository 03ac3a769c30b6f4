//! RabbitMQ behind the relay, over AMQP 0-9-1.
//!
//! All calls return at once and come from any thread; answers come into the mailbox. Work is
//! spread over connections by what RabbitMQ does to them: one only declares (errors there close
//! channels), one publishes (an alarm blocks it), others consume, and one has the node's own
//! queue, which is exclusive to it.
//!
//! | part | what it does |
//! |---|---|
//! | [`dialer`], [`connection`], [`state`] | connects, supervises, backs off; says how it is |
//! | [`declarer`], [`known`] | declares queues, looks for exchanges |
//! | [`publisher`], [`ledger`], [`preparing`], [`outcome`], [`unroutable`] | publishes and keeps what is not confirmed |
//! | [`consumer`], [`subscription`], [`attached`], [`acks`], [`stream`], [`pool`] | `/queue`, and topics with acks |
//! | [`exclusives`], [`probe`] | queues that are one session's alone |
//! | [`node_queue`], [`bindings`], [`handover`] | all other topic subscriptions |
//! | [`exchange_queues`], [`bindings`] | all other subscriptions to exchanges |
//! | [`recovery`] | holds publishing until subscriptions are back |
//! | [`nodes`], [`parcels`], [`inbox`] | from node to node: messages for users |
//! | [`metrics`], [`counters`] | what Prometheus is told |
//! | [`topology`], [`properties`], [`values`], [`refusal`], [`recent`] | AMQP's words for ours |

mod acks;
mod attached;
mod bindings;
mod connection;
mod consumer;
mod counters;
mod declarer;
mod dialer;
mod exchange_queues;
mod exclusives;
mod handover;
mod inbox;
mod known;
mod ledger;
mod metrics;
mod node_queue;
mod nodes;
mod outcome;
mod parcels;
mod pool;
mod preparing;
mod probe;
mod properties;
mod publisher;
mod recent;
mod recovery;
mod refusal;
mod state;
mod stream;
mod subscription;
mod topology;
mod unroutable;
mod values;

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::collector::Collector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use counters::Snapshot;
pub use nodes::Nodes;
pub use parcels::{Done, Fate};
pub use state::Condition;

use self::connection::{Keeper, Shared};
use self::consumer::Consumers;
use self::counters::Counters;
use self::declarer::Declarer;
use self::dialer::Dialer;
use self::exchange_queues::ExchangeQueues;
use self::exclusives::Exclusives;
use self::ledger::Limits;
use self::node_queue::NodeQueue;
use self::probe::Transient;
use self::publisher::Publisher;
use self::recent::Recent;
use self::recovery::Recovery;
use self::state::State;
use super::mailbox::{Level, Mailbox, Submit, SubscriptionNumber, Token};
use super::origin::{Declaration, Origin, QueueOrigin, QueueType};
use super::{Settlement, SubscribeRequest};
use crate::destination::Destination;
use crate::message::Message;

/// Answers under way to one session, which acknowledges none.
const ANSWERS_PREFETCH: u16 = 1_000;

/// A `/queue` message for which there is no queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unroutable {
    /// It is refused.
    #[default]
    Error,
    /// The queue is declared and the message published again, as RabbitMQ's STOMP plugin does.
    Keep,
}

/// A queue that is deleted while it is consumed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueueDeleted {
    /// It is declared again, and the subscription goes on.
    #[default]
    Redeclare,
    /// The subscription ends with an error.
    Refuse,
}

/// Where RabbitMQ is and how it is used.
#[derive(Clone)]
pub struct Config {
    /// `amqp://` or `amqps://`; the nodes of one cluster.
    pub urls: Vec<String>,
    /// Names this relay among several; part of a queue's name.
    pub node_id: String,
    pub unroutable: Unroutable,
    pub queue_deleted: QueueDeleted,
    /// What `/queue/N` is, where its headers do not say.
    pub queue_type: QueueType,
    /// Messages that wait for RabbitMQ, of all sessions together.
    pub outage_messages: usize,
    /// The same in bytes.
    pub outage_bytes: usize,
    /// A message that has waited so long is refused.
    pub outage_time: Duration,
}

impl fmt::Debug for Config {
    /// URLs have passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("urls", &self.urls.len())
            .field("node_id", &self.node_id)
            .field("unroutable", &self.unroutable)
            .field("queue_deleted", &self.queue_deleted)
            .field("queue_type", &self.queue_type)
            .field("outage_messages", &self.outage_messages)
            .field("outage_bytes", &self.outage_bytes)
            .field("outage_time", &self.outage_time)
            .finish()
    }
}

/// RabbitMQ could not be used at start-up. One line, without any password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StartError(String);

/// The broker.
#[derive(Debug)]
pub struct RabbitMq {
    shared: Arc<Shared>,
    publisher: Arc<Publisher>,
    consumers: Arc<Consumers>,
    node_queue: Arc<NodeQueue>,
    publish_keeper: Arc<Keeper>,
    node_keeper: Arc<Keeper>,
    node_id: String,
    limits: Limits,
    exchange_queues: Arc<ExchangeQueues>,
    queue_type: QueueType,
    transient: Transient,
}

/// What the parts share, where the config can be used.
fn shared(config: &Config) -> Result<Arc<Shared>, StartError> {
    const MAX_NODE_ID: usize = 128;
    let length = config.node_id.len();
    if !(1..=MAX_NODE_ID).contains(&length) {
        return Err(StartError(format!(
            "the node id has 1 to {MAX_NODE_ID} bytes, this one has {length}"
        )));
    }
    Ok(Arc::new(Shared {
        dialer: Dialer::new(&config.urls).map_err(StartError)?,
        state: State::default(),
        recovery: Recovery::default(),
        counters: Counters::default(),
        confirm_time: metrics::confirm_histogram(),
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
        runtime: tokio::runtime::Handle::current(),
        connected: tokio::sync::Notify::new(),
    }))
}

impl RabbitMq {
    /// Connects. Everything goes on in tasks of the runtime this is called in.
    ///
    /// # Errors
    /// Where a URL is none, RabbitMQ does not answer, or it refuses the login.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let shared = shared(&config)?;
        let dial =
            async |name| shared.dialer.dial(name).await.map_err(|error| StartError(error.text));
        let declare = dial("declare").await?;
        let publish = dial("publish").await?;
        let consume = dial("consume").await?;
        let node = dial("node queue").await?;

        let transient = probe::transient(&shared).await.map_err(|error| StartError(error.text))?;

        let recent = Arc::new(Mutex::new(Recent::default()));
        let exclusives = Exclusives::new(&shared);
        let declarer = Declarer::spawn(&shared, declare);
        let limits = Limits {
            messages: config.outage_messages,
            bytes: config.outage_bytes,
            time: config.outage_time,
        };
        let publish_keeper = Arc::new(Keeper::spawn(&shared, "publish", Some(publish)));
        let node_keeper = Arc::new(Keeper::spawn(&shared, "node queue", Some(node)));
        let queue_type = config.queue_type;
        let queue = topology::typed(Declaration::QUEUE, queue_type);
        let publisher = Publisher::spawn(
            &shared,
            publish_keeper.clone(),
            declarer.clone(),
            exclusives.clone(),
            config.unroutable,
            queue,
            limits,
        );
        let consumers = Consumers::new(
            &shared,
            consume,
            declarer.clone(),
            recent.clone(),
            config.queue_deleted,
            exclusives,
        );
        let node_id = config.node_id;
        let exchange_queues = ExchangeQueues::spawn(
            &shared,
            node_keeper.clone(),
            node_id.clone(),
            declarer,
            recent.clone(),
        );
        let node_queue = NodeQueue::spawn(&shared, node_keeper.clone(), node_id.clone(), recent);
        Ok(Self {
            shared,
            publisher,
            consumers,
            node_queue,
            publish_keeper,
            node_keeper,
            node_id,
            limits,
            exchange_queues,
            queue_type,
            transient,
        })
    }

    /// The way to other relays on the same RabbitMQ. To be called once, and only where there may
    /// be others: it costs a queue and three channels.
    #[must_use]
    pub fn nodes(&self) -> Arc<Nodes> {
        let Self { shared, publish_keeper, node_keeper, node_id, limits, .. } = self;
        Nodes::spawn(shared, publish_keeper, node_keeper, node_id, *limits)
    }

    /// Publishes. `Pending`: where there is a token, `Event::Done` says that RabbitMQ confirmed,
    /// or why not.
    pub fn publish(
        &self,
        from: &Arc<Mailbox>,
        token: Option<Token>,
        message: Arc<Message>,
        declare: Option<&Declaration>,
    ) -> Submit {
        let declare = declare.map(|declare| self.fitting(declare.clone()));
        self.publisher.publish(from, token, message, declare)
    }

    /// Whether more may be published. Where not, the waiter gets `Event::Room` when it may.
    pub fn has_room(&self, waiter: &Arc<Mailbox>) -> bool {
        self.publisher.has_room(waiter)
    }

    /// Subscribes. `Done` where nothing had to be asked of RabbitMQ, else `Event::Done` follows,
    /// also where RabbitMQ is away for now.
    pub fn subscribe(
        &self,
        to: &Arc<Mailbox>,
        token: Option<Token>,
        request: SubscribeRequest,
    ) -> Submit {
        let SubscribeRequest { subscription, origin, prefetch, .. } = request;
        let origin = match origin {
            Origin::Fanout(Destination::Topic(topic)) => {
                return self.node_queue.subscribe(to, token, subscription, topic);
            }
            Origin::Fanout(Destination::Exchange(exchange)) => {
                return self.exchange_queues.subscribe(to, token, subscription, exchange);
            }
            Origin::Fanout(_) => return Submit::Refused(topology::unknown()),
            Origin::Queue(origin) => *origin,
        };
        // Durable subscriptions have the type that the plugin gives them, since they are shared
        // with its clients by name.
        let declare = match &origin.binding {
            None => origin.declare.map(|declaration| self.fitting(declaration)),
            Some(_) => origin.declare.map(|declaration| self.allowed(declaration)),
        };
        let origin = QueueOrigin { declare, ..origin };
        self.consumers.subscribe(to, token, subscription, origin, prefetch)
    }

    /// A declaration as the config and RabbitMQ want it.
    fn fitting(&self, declaration: Declaration) -> Declaration {
        self.allowed(topology::typed(declaration, self.queue_type))
    }

    fn allowed(&self, declaration: Declaration) -> Declaration {
        match self.transient {
            Transient::Shared => declaration,
            Transient::Exclusive => topology::made_exclusive(declaration),
        }
    }

    /// Makes a queue of answers, which RabbitMQ names, and subscribes it. `Event::ReplyQueue`
    /// follows, once for each connection that it has had.
    pub fn open_reply_queue(&self, to: &Arc<Mailbox>, subscription: SubscriptionNumber) {
        self.consumers.subscribe(to, None, subscription, topology::answers(), ANSWERS_PREFETCH);
    }

    /// Ends a subscription; one that is not there is fine. Of a queue's subscription, deliveries
    /// that are out may still be settled. `delete`: a queue of its own goes too.
    pub fn unsubscribe(
        &self,
        to: &Arc<Mailbox>,
        subscription: SubscriptionNumber,
        token: Option<Token>,
        delete: bool,
    ) -> Submit {
        let session = to.session();
        if self.node_queue.unsubscribe(session, subscription)
            || self.exchange_queues.unsubscribe(session, subscription)
        {
            return Submit::Done(Level::Confirmed);
        }
        self.consumers.unsubscribe(session, subscription, token, delete)
    }

    /// Settles deliveries by their tags. Those that are not out any more have no effect.
    pub fn settle(
        &self,
        of: &Arc<Mailbox>,
        subscription: SubscriptionNumber,
        tags: &[u64],
        settlement: Settlement,
    ) {
        self.consumers.settle(of.session(), subscription, tags, settlement);
    }

    /// Ends all subscriptions of a session; what it did not settle goes back into the queues.
    pub fn session_ended(&self, mailbox: &Arc<Mailbox>) {
        self.publisher.session_ended(mailbox);
        self.node_queue.session_ended(mailbox.session());
        self.exchange_queues.session_ended(mailbox.session());
        self.consumers.session_ended(mailbox.session());
    }

    /// Whether all connections are up, and messages are taken.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.condition() == Condition::Up
    }

    /// How RabbitMQ is, the worst that any part of this node finds.
    #[must_use]
    pub fn condition(&self) -> Condition {
        match self.shared.state.condition() {
            Condition::Up if !self.node_queue.is_up() => {
                Condition::Away("this node's queue is not declared yet".into())
            }
            condition => condition,
        }
    }

    /// What Prometheus is told.
    #[must_use]
    pub fn collector(&self) -> Box<dyn Collector> {
        Box::new(metrics::Metrics {
            shared: self.shared.clone(),
            publisher: self.publisher.clone(),
            node_queue: self.node_queue.clone(),
        })
    }

    /// What happened so far.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.shared.counters.snapshot()
    }

    /// Waits until all messages are confirmed or refused, then disconnects; `within` bounds the
    /// waiting.
    pub async fn shutdown(&self, within: Duration) {
        const POLL: Duration = Duration::from_millis(20);
        const CLOSE: Duration = Duration::from_secs(3);
        let confirmed = async {
            while self.publisher.open() > 0 {
                tokio::time::sleep(POLL).await;
            }
        };
        let left = tokio::time::timeout(within, confirmed).await.is_err();
        if left {
            let open = self.publisher.open();
            tracing::warn!("RabbitMQ did not confirm {open} messages before the end");
        }
        self.shared.stop.cancel();
        self.shared.tasks.close();
        // A task that still waits for RabbitMQ ends with the process.
        drop(tokio::time::timeout(CLOSE, self.shared.tasks.wait()).await);
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}
