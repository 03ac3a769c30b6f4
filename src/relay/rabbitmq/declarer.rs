//! Declares queues and looks for exchanges, one after the other, on a connection used for
//! nothing else.
//!
//! RabbitMQ answers a declare it does not like by closing the channel. Here nobody else is on
//! that channel, and the one who asked is known. For a queue on a node that is away it may not
//! answer for a minute; then the others are asked for on another channel.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, ExchangeKind};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::connection::{Keeper, Link, Shared};
use super::known::Known;
use super::refusal::{self, Fault};
use super::topology;
use crate::destination::Exchange;
use crate::relay::error::{Refusal, not_found};
use crate::relay::origin::{QueueOrigin, binding_key};

const REQUESTS: usize = 256;
/// After so long without an answer the others do not wait for it any more.
const HANGS: Duration = Duration::from_secs(3);
const TRIES: u32 = 4;
/// lapin remembers on each channel what was declared there.
const MAX_USES: u32 = 1_000;

/// Why a queue was not declared.
#[derive(Debug)]
pub(super) enum DeclareError {
    Refused(Refusal),
    /// Its node of the cluster is away.
    Unavailable,
    /// The relay ends.
    Stopped,
}

/// What has to be there.
#[derive(Clone, Debug)]
pub(super) enum Need {
    /// It is declared and bound, as far as its origin says so.
    Queue(Box<QueueOrigin>),
    /// Not declared: what kind it is, AMQP does not tell.
    Exchange(Arc<str>),
    /// Nothing is declared: only whether the queue is there is asked.
    Found(Arc<str>),
}

impl Need {
    fn queue(&self) -> Option<&Arc<str>> {
        match self {
            Self::Queue(origin) => Some(&origin.queue),
            Self::Found(queue) => Some(queue),
            Self::Exchange(_) => None,
        }
    }
}

struct Request {
    need: Need,
    reply: oneshot::Sender<Result<(), DeclareError>>,
}

/// The handle.
pub(super) struct Declarer {
    requests: mpsc::Sender<Request>,
    known: Arc<Mutex<Known>>,
}

impl std::fmt::Debug for Declarer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Declarer").finish_non_exhaustive()
    }
}

impl Declarer {
    pub(super) fn spawn(shared: &Arc<Shared>, first: Arc<Link>) -> Arc<Self> {
        let (sender, requests) = mpsc::channel(REQUESTS);
        let known = Arc::<Mutex<Known>>::default();
        let keeper = Arc::new(Keeper::spawn(shared, "declare", Some(first)));
        let shared = shared.clone();
        let worker = Worker { shared, keeper, known: known.clone(), channel: None };
        worker.shared.clone().spawn(worker.run(requests));
        Arc::new(Self { requests: sender, known })
    }

    /// Sees to it that it is there. Waits while RabbitMQ is away.
    pub(super) async fn get(&self, need: Need) -> Result<(), DeclareError> {
        let (reply, answer) = oneshot::channel();
        let request = Request { need, reply };
        self.requests.send(request).await.map_err(|_| DeclareError::Stopped)?;
        answer.await.unwrap_or(Err(DeclareError::Stopped))
    }

    /// Whether it was there since the last outage.
    pub(super) fn knows(&self, need: &Need) -> bool {
        let known = lock(&self.known);
        match need {
            Need::Queue(origin) => match &origin.declare {
                Some(declaration) if origin.binding.is_none() => {
                    known.has_queue(&origin.queue, declaration)
                }
                _ => false,
            },
            Need::Exchange(name) => known.has_exchange(name),
            Need::Found(_) => false,
        }
    }

    /// The queue turned out to be gone.
    pub(super) fn forget(&self, queue: &str) {
        lock(&self.known).forget_queue(queue);
    }

    /// One of the exchanges turned out to be gone.
    pub(super) fn forget_exchanges(&self) {
        lock(&self.known).forget_exchanges();
    }

    /// RabbitMQ does not let the relay publish there, or only not with that key.
    pub(super) fn deny(&self, exchange: &Exchange, only_key: bool) {
        let key = only_key.then_some(&exchange.key);
        lock(&self.known).add_denied(&exchange.name, key, Instant::now());
    }

    /// Whether RabbitMQ has said so a moment ago.
    pub(super) fn is_denied(&self, exchange: &Exchange) -> bool {
        lock(&self.known).is_denied(&exchange.name, &exchange.key, Instant::now())
    }

    /// RabbitMQ was away, and who knows what it did meanwhile.
    pub(super) fn forget_all(&self) {
        lock(&self.known).forget_all();
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Worker {
    shared: Arc<Shared>,
    keeper: Arc<Keeper>,
    known: Arc<Mutex<Known>>,
    channel: Option<(Arc<Link>, Channel, u32)>,
}

impl Worker {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        loop {
            let request = tokio::select! {
                () = self.shared.stop.cancelled() => return,
                request = requests.recv() => request,
            };
            let Some(request) = request else { return };
            if request.reply.is_closed() {
                continue;
            }
            let result = self.serve(&request.need).await;
            // Who does not wait any more does not need it.
            drop(request.reply.send(result));
        }
    }

    async fn serve(&mut self, need: &Need) -> Result<(), DeclareError> {
        if let Need::Exchange(name) = need
            && lock(&self.known).is_absent(name, Instant::now())
        {
            return Err(DeclareError::Refused(not_found("exchange", name)));
        }
        if need.queue().is_some_and(|queue| lock(&self.known).is_hanging(queue)) {
            return Err(DeclareError::Unavailable);
        }
        for _ in 0..TRIES {
            let Some((link, channel)) = self.channel().await else {
                return Err(DeclareError::Stopped);
            };
            let Some(channel) = channel else { continue };
            let Some(result) = self.ask(&link, channel, need).await else {
                return Err(DeclareError::Unavailable);
            };
            let Err(error) = result else {
                is_there(&self.known, need);
                return Ok(());
            };
            self.channel = None;
            match Fault::of(&error) {
                Fault::Refused(code) => {
                    self.keeper.closed_channel(&link);
                    return Err(DeclareError::Refused(self.refused(need, code, &error)));
                }
                Fault::Unavailable => {
                    self.keeper.closed_channel(&link);
                    return Err(DeclareError::Unavailable);
                }
                Fault::Violation | Fault::Gone => lock(&self.known).forget_all(),
            }
        }
        Err(DeclareError::Refused(refusal::outage(false)))
    }

    /// `None`: RabbitMQ answers, but not for this queue.
    async fn ask(
        &mut self,
        link: &Arc<Link>,
        channel: Channel,
        need: &Need,
    ) -> Option<lapin::Result<()>> {
        let mut asking = Box::pin(ask(link.clone(), channel, need.clone()));
        if let Ok(result) = tokio::time::timeout(HANGS, &mut asking).await {
            return Some(result);
        }
        // One that does not answer at all opens no channel either, until it does or is given up.
        let other = link.open_channel().await;
        if let Some(result) = (&mut asking).now_or_never() {
            return Some(result);
        }
        match (other, need.queue()) {
            (Ok(other), Some(queue)) if lock(&self.known).add_hanging(queue) => {
                self.channel = Some((link.clone(), other, 0));
                let (known, keeper) = (self.known.clone(), self.keeper.clone());
                self.shared.spawn(hang(asking, need.clone(), link.clone(), known, keeper));
                None
            }
            _ => Some(asking.await),
        }
    }

    fn refused(&self, need: &Need, code: u16, error: &lapin::Error) -> Refusal {
        match need {
            Need::Exchange(name) => {
                lock(&self.known).add_absent(name, Instant::now());
                refusal::of_exchange(code, name)
            }
            Need::Found(name) => refusal::of_queue(code, name),
            Need::Queue(origin) => {
                warn!("RabbitMQ refuses to declare a queue: {error}");
                refusal::of_declare(code, origin)
            }
        }
    }

    /// The channel in use, or a new one. `None`: the relay ends.
    async fn channel(&mut self) -> Option<(Arc<Link>, Option<Channel>)> {
        if let Some((link, channel, uses)) = &mut self.channel
            && *uses < MAX_USES
            && link.is_alive()
            && !link.is_worn()
            && channel.status().connected()
        {
            *uses += 1;
            return Some((link.clone(), Some(channel.clone())));
        }
        if let Some((link, channel, _)) = self.channel.take()
            && link.is_alive()
        {
            // One that RabbitMQ closed already says so; that is fine.
            drop(link.answer(channel.close(200, "done".into())).await);
        }
        let link = self.keeper.link().await?;
        let channel = link.open_channel().await.ok();
        self.channel = channel.clone().map(|channel| (link.clone(), channel, 1));
        Some((link, channel))
    }
}

fn is_there(known: &Mutex<Known>, need: &Need) {
    let mut known = lock(known);
    match need {
        Need::Exchange(name) => known.add_exchange(name),
        Need::Found(_) => {}
        Need::Queue(origin) => {
            if let (Some(declaration), None) = (&origin.declare, &origin.binding) {
                known.add_queue(&origin.queue, declaration);
            }
        }
    }
}

/// Waits for an answer that nobody else waits for.
async fn hang(
    asking: impl Future<Output = lapin::Result<()>>,
    need: Need,
    link: Arc<Link>,
    known: Arc<Mutex<Known>>,
    keeper: Arc<Keeper>,
) {
    let Some(queue) = need.queue() else { return };
    warn!("RabbitMQ does not answer for queue {queue:?}; its senders are told");
    let result = asking.await;
    lock(&known).no_longer_hanging(queue);
    match result {
        Ok(()) => is_there(&known, &need),
        Err(error) => {
            if let Fault::Refused(_) | Fault::Unavailable = Fault::of(&error) {
                keeper.closed_channel(&link);
            }
        }
    }
}

async fn ask(link: Arc<Link>, channel: Channel, need: Need) -> lapin::Result<()> {
    link.answer(ask_on(&channel, &need)).await
}

async fn ask_on(channel: &Channel, need: &Need) -> lapin::Result<()> {
    match need {
        Need::Queue(origin) => declare_on(channel, origin).await,
        Need::Exchange(name) => {
            // Its length was checked when it was asked for.
            let Ok(name) = topology::short(name) else { return Ok(()) };
            let options = ExchangeDeclareOptions { passive: true, ..Default::default() };
            // Where it is passive, RabbitMQ does not look at the kind.
            channel
                .exchange_declare(name, ExchangeKind::Direct, options, FieldTable::default())
                .await
        }
        Need::Found(name) => {
            let Ok(name) = topology::short(name) else { return Ok(()) };
            let options = QueueDeclareOptions { passive: true, ..Default::default() };
            channel.queue_declare(name, options, FieldTable::default()).await.map(drop)
        }
    }
}

pub(super) async fn declare_on(channel: &Channel, origin: &QueueOrigin) -> lapin::Result<()> {
    // Lengths were checked when it was asked for.
    let Ok(queue) = topology::short(&origin.queue) else { return Ok(()) };
    if let Some(declaration) = &origin.declare {
        let (options, arguments) = topology::declare_options(declaration);
        channel.queue_declare(queue.clone(), options, arguments).await?;
    }
    if let Some((exchange, key)) = origin.binding.as_ref().and_then(binding_key)
        && let (Ok(exchange), Ok(key)) = (topology::short(exchange), topology::short(key))
    {
        let options = QueueBindOptions::default();
        channel.queue_bind(queue, exchange, key, options, FieldTable::default()).await?;
    }
    Ok(())
}
