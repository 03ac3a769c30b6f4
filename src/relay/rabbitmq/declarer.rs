//! Declares queues, one after the other, on a connection used for nothing else.
//!
//! RabbitMQ answers a declare it does not like by closing the channel. Here nobody else is on
//! that channel, and the one who asked is known.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lapin::Channel;
use lapin::options::QueueBindOptions;
use lapin::types::FieldTable;
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::connection::{Keeper, Link, Shared};
use super::refusal::{self, Fault};
use super::topology;
use crate::relay::error::Refusal;
use crate::relay::origin::{Declaration, QueueOrigin, binding_key};

const REQUESTS: usize = 256;
const TRIES: u32 = 4;
/// Names come from clients, so they are not remembered without end.
const MAX_KNOWN: usize = 10_000;
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

struct Request {
    origin: QueueOrigin,
    reply: oneshot::Sender<Result<(), DeclareError>>,
}

/// The handle.
pub(super) struct Declarer {
    requests: mpsc::Sender<Request>,
    /// Queues behind `/queue` that are there, as far as this node knows.
    known: Arc<Mutex<HashSet<Arc<str>>>>,
}

impl std::fmt::Debug for Declarer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Declarer").finish_non_exhaustive()
    }
}

impl Declarer {
    pub(super) fn spawn(shared: &Arc<Shared>, first: Arc<Link>) -> Arc<Self> {
        let (sender, requests) = mpsc::channel(REQUESTS);
        let known = Arc::new(Mutex::new(HashSet::new()));
        let keeper = Keeper::spawn(shared, "declare", Some(first));
        let worker = Worker { keeper, known: known.clone(), channel: None };
        shared.spawn(worker.run(requests, shared.clone()));
        Arc::new(Self { requests: sender, known })
    }

    /// Declares the queue and binds it, as far as its origin says so. Waits while RabbitMQ is
    /// away.
    pub(super) async fn declare(&self, origin: QueueOrigin) -> Result<(), DeclareError> {
        let (reply, answer) = oneshot::channel();
        let request = Request { origin, reply };
        self.requests.send(request).await.map_err(|_| DeclareError::Stopped)?;
        answer.await.unwrap_or(Err(DeclareError::Stopped))
    }

    /// Whether the queue was declared since the last outage.
    pub(super) fn knows(&self, queue: &str) -> bool {
        lock(&self.known).contains(queue)
    }

    /// The queue turned out to be gone.
    pub(super) fn forget(&self, queue: &str) {
        lock(&self.known).remove(queue);
    }

    /// RabbitMQ was away, and who knows what it did meanwhile.
    pub(super) fn forget_all(&self) {
        lock(&self.known).clear();
    }
}

fn lock(known: &Mutex<HashSet<Arc<str>>>) -> MutexGuard<'_, HashSet<Arc<str>>> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Worker {
    keeper: Keeper,
    known: Arc<Mutex<HashSet<Arc<str>>>>,
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
            let result = self.serve(&request.origin).await;
            // Who does not wait any more does not need it.
            drop(request.reply.send(result));
        }
    }

    async fn serve(&mut self, origin: &QueueOrigin) -> Result<(), DeclareError> {
        for _ in 0..TRIES {
            let Some((link, channel)) = self.channel().await else {
                return Err(DeclareError::Stopped);
            };
            let Some(channel) = channel else { continue };
            let Err(error) = link.answer(declare_on(&channel, origin)).await else {
                self.declared(origin);
                return Ok(());
            };
            self.channel = None;
            match Fault::of(&error) {
                Fault::Refused(code) => {
                    self.keeper.closed_channel(&link);
                    warn!("RabbitMQ refuses to declare a queue: {error}");
                    return Err(DeclareError::Refused(refusal::refused(code)));
                }
                Fault::Unavailable => {
                    self.keeper.closed_channel(&link);
                    return Err(DeclareError::Unavailable);
                }
                Fault::Violation | Fault::Gone => lock(&self.known).clear(),
            }
        }
        Err(DeclareError::Refused(refusal::outage(false)))
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

    fn declared(&self, origin: &QueueOrigin) {
        if is_plain(origin) {
            let mut known = lock(&self.known);
            if known.len() >= MAX_KNOWN {
                known.clear();
            }
            known.insert(origin.queue.clone());
        }
    }
}

/// Whether it is a queue as `/queue/N` has it, which need not be declared again.
pub(super) fn is_plain(origin: &QueueOrigin) -> bool {
    origin.declare.as_ref() == Some(&Declaration::QUEUE) && origin.binding.is_none()
}

async fn declare_on(channel: &Channel, origin: &QueueOrigin) -> lapin::Result<()> {
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
