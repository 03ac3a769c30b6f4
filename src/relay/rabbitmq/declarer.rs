//! Declares queues and looks for exchanges, one after the other, on a connection used for
//! nothing else.
//!
//! RabbitMQ answers a declare it does not like by closing the channel. Here nobody else is on
//! that channel, and the one who asked is known.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

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
        let keeper = Keeper::spawn(shared, "declare", Some(first));
        let worker = Worker { keeper, known: known.clone(), channel: None };
        shared.spawn(worker.run(requests, shared.clone()));
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
    keeper: Keeper,
    known: Arc<Mutex<Known>>,
    channel: Option<(Arc<Link>, Channel, u32)>,
}

impl Worker {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>, shared: Arc<Shared>) {
        loop {
            let request = tokio::select! {
                () = shared.stop.cancelled() => return,
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
        for _ in 0..TRIES {
            let Some((link, channel)) = self.channel().await else {
                return Err(DeclareError::Stopped);
            };
            let Some(channel) = channel else { continue };
            let Err(error) = link.answer(ask(&channel, need)).await else {
                self.is_there(need);
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

    fn is_there(&self, need: &Need) {
        let mut known = lock(&self.known);
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
}

async fn ask(channel: &Channel, need: &Need) -> lapin::Result<()> {
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
