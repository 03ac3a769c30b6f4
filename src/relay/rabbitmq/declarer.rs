//! Declares and deletes queues and looks for exchanges, one after the other, on a connection used
//! for nothing else.
//!
//! RabbitMQ answers a declare it does not like by closing the channel. Here nobody else is on
//! that channel, and the one who asked is known. For a queue on a node that is away it may not
//! answer for a minute; then the others are asked for on another channel.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use lapin::options::{
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, ExchangeKind};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::connection::{Keeper, Link, Shared};
use super::known::Known;
use super::refusal::{self, Fault};
use super::topology;
use crate::relay::error::{Refusal, not_found};
use crate::relay::origin::{QueueOrigin, binding_key};

const REQUESTS: usize = 256;
const TRIES: u32 = 4;
/// lapin remembers on each channel what was declared there.
const MAX_USES: u32 = 1_000;
/// After so long without an answer the next requests do not wait for it any more.
const SLOW: Duration = Duration::from_millis(200);
/// And after so long the one who asked does not either.
const HANGS: Duration = Duration::from_secs(3);
/// Queues that RabbitMQ takes its time for; each has a channel.
const MOST_SLOW: usize = 200;

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
    /// The queue is deleted; `if_unused`: where nobody consumes it.
    Gone { queue: Arc<str>, if_unused: bool },
}

impl Need {
    fn queue(&self) -> Option<&Arc<str>> {
        match self {
            Self::Queue(origin) => Some(&origin.queue),
            Self::Found(queue) | Self::Gone { queue, .. } => Some(queue),
            Self::Exchange(_) => None,
        }
    }
}

struct Request {
    need: Need,
    reply: oneshot::Sender<Result<(), DeclareError>>,
    tries: u32,
}

impl Request {
    fn answer(self, result: Result<(), DeclareError>) {
        // Who does not wait any more does not need it.
        drop(self.reply.send(result));
    }
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
        let desk = Arc::new(Desk {
            shared: shared.clone(),
            keeper: Keeper::spawn(shared, "declare", Some(first)),
            known: known.clone(),
            slow: Mutex::default(),
            again: sender.clone(),
        });
        shared.spawn(Worker { desk, channel: None }.run(requests));
        Arc::new(Self { requests: sender, known })
    }

    /// Sees to it that it is there. Waits while RabbitMQ is away.
    pub(super) async fn get(&self, need: Need) -> Result<(), DeclareError> {
        let (reply, answer) = oneshot::channel();
        let request = Request { need, reply, tries: 0 };
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
            Need::Found(_) | Need::Gone { .. } => false,
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
    pub(super) fn deny(&self, exchange: &str, key: &Arc<str>, only_key: bool) {
        let key = only_key.then_some(key);
        lock(&self.known).add_denied(exchange, key, Instant::now());
    }

    /// Whether RabbitMQ has said so a moment ago.
    pub(super) fn is_denied(&self, exchange: &str, key: &Arc<str>) -> bool {
        lock(&self.known).is_denied(exchange, key, Instant::now())
    }

    /// RabbitMQ was away, and who knows what it did meanwhile.
    pub(super) fn forget_all(&self) {
        lock(&self.known).forget_all();
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the worker and those who wait for slow queues share.
struct Desk {
    shared: Arc<Shared>,
    keeper: Keeper,
    known: Arc<Mutex<Known>>,
    /// Queues that RabbitMQ has not answered for yet.
    slow: Mutex<HashMap<Arc<str>, Slow>>,
    again: mpsc::Sender<Request>,
}

enum Slow {
    /// Who else asks for it.
    Waiting(Vec<Request>),
    /// Whoever asks for it is told.
    Hanging,
}

impl Slow {
    fn behind(self) -> Vec<Request> {
        match self {
            Self::Waiting(behind) => behind,
            Self::Hanging => Vec::new(),
        }
    }
}

impl Desk {
    fn slow(&self) -> MutexGuard<'_, HashMap<Arc<str>, Slow>> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False where there are too many.
    fn add_slow(&self, queue: &Arc<str>) -> bool {
        let mut slow = self.slow();
        let has_room = slow.len() < MOST_SLOW;
        if has_room {
            slow.insert(queue.clone(), Slow::Waiting(Vec::new()));
        }
        has_room
    }

    /// What needs not be asked is answered, or waits behind what is being asked.
    fn put_aside(&self, request: Request) -> Option<Request> {
        match &request.need {
            Need::Exchange(name) => {
                if lock(&self.known).is_absent(name, Instant::now()) {
                    let refusal = not_found("exchange", name);
                    request.answer(Err(DeclareError::Refused(refusal)));
                    return None;
                }
            }
            Need::Queue(_) | Need::Found(_) | Need::Gone { .. } => {
                let mut slow = self.slow();
                match request.need.queue().and_then(|queue| slow.get_mut(queue)) {
                    None => {}
                    Some(Slow::Waiting(behind)) => {
                        behind.push(request);
                        return None;
                    }
                    Some(Slow::Hanging) => {
                        request.answer(Err(DeclareError::Unavailable));
                        return None;
                    }
                }
            }
        }
        Some(request)
    }

    /// What becomes of a request that was asked. `None`: it is to be asked once more.
    fn judge(
        &self,
        need: &Need,
        link: &Link,
        result: lapin::Result<()>,
    ) -> Option<Result<(), DeclareError>> {
        let Err(error) = result else {
            self.is_done(need);
            return Some(Ok(()));
        };
        match Fault::of(&error) {
            Fault::Refused(code) => {
                self.keeper.closed_channel(link);
                Some(Err(DeclareError::Refused(self.refused(need, code, &error))))
            }
            Fault::Unavailable => {
                self.keeper.closed_channel(link);
                Some(Err(DeclareError::Unavailable))
            }
            Fault::Violation | Fault::Gone => {
                lock(&self.known).forget_all();
                None
            }
        }
    }

    fn is_done(&self, need: &Need) {
        let mut known = lock(&self.known);
        match need {
            Need::Exchange(name) => known.add_exchange(name),
            Need::Found(_) => {}
            Need::Gone { queue, .. } => known.forget_queue(queue),
            Need::Queue(origin) => {
                if let (Some(declaration), None) = (&origin.declare, &origin.binding) {
                    known.add_queue(&origin.queue, declaration);
                }
            }
        }
    }

    fn refused(&self, need: &Need, code: u16, error: &lapin::Error) -> Refusal {
        match need {
            Need::Exchange(name) => {
                lock(&self.known).add_absent(name, Instant::now());
                refusal::of_exchange(code, name)
            }
            Need::Found(name) | Need::Gone { queue: name, .. } => refusal::of_queue(code, name),
            Need::Queue(origin) => {
                warn!("RabbitMQ refuses to declare a queue: {error}");
                refusal::of_declare(code, origin)
            }
        }
    }

    /// Waits for the answer for a slow queue.
    async fn wait(&self, queue: Arc<str>, request: Request, link: Arc<Link>, mut asking: Asking) {
        let answer = tokio::time::timeout(HANGS, &mut asking).await;
        let Ok(result) = answer else {
            return self.hang(queue, request, link, asking).await;
        };
        match self.judge(&request.need, &link, result) {
            Some(answer) => request.answer(answer),
            None => self.ask_again(request).await,
        }
        let behind = self.slow().remove(&queue);
        for request in behind.into_iter().flat_map(Slow::behind) {
            self.ask_again(request).await;
        }
    }

    /// RabbitMQ answers, but not for this queue. Whoever asks for it is told, until it does.
    async fn hang(&self, queue: Arc<str>, request: Request, link: Arc<Link>, asking: Asking) {
        warn!("RabbitMQ does not answer for queue {queue:?}; its senders are told");
        let need = request.need.clone();
        request.answer(Err(DeclareError::Unavailable));
        let behind = self.slow().insert(queue.clone(), Slow::Hanging);
        for request in behind.into_iter().flat_map(Slow::behind) {
            request.answer(Err(DeclareError::Unavailable));
        }
        // Nobody waits for what comes of it.
        drop(self.judge(&need, &link, asking.await));
        self.slow().remove(&queue);
    }

    async fn ask_again(&self, request: Request) {
        // At the end of the relay nobody takes it; who asked sees that.
        drop(self.again.send(request).await);
    }
}

type Asking = Pin<Box<dyn Future<Output = lapin::Result<()>> + Send>>;

struct Worker {
    desk: Arc<Desk>,
    channel: Option<(Arc<Link>, Channel, u32)>,
}

/// How asking ended.
enum Asked {
    Answered(Request, lapin::Result<()>),
    /// Somebody else waits for the answer.
    Aside,
}

impl Worker {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        loop {
            let request = tokio::select! {
                () = self.desk.shared.stop.cancelled() => return,
                request = requests.recv() => request,
            };
            let Some(request) = request else { return };
            if !request.reply.is_closed() {
                self.serve(request).await;
            }
        }
    }

    async fn serve(&mut self, request: Request) {
        let Some(mut request) = self.desk.put_aside(request) else { return };
        while request.tries < TRIES {
            request.tries += 1;
            let Some((link, channel)) = self.channel().await else {
                return request.answer(Err(DeclareError::Stopped));
            };
            let Some(channel) = channel else { continue };
            match self.ask(&link, channel, request).await {
                Asked::Aside => return,
                Asked::Answered(asked, result) => {
                    if result.is_err() {
                        self.channel = None;
                    }
                    match self.desk.judge(&asked.need, &link, result) {
                        Some(answer) => return asked.answer(answer),
                        None => request = asked,
                    }
                }
            }
        }
        request.answer(Err(DeclareError::Refused(refusal::outage(false))));
    }

    async fn ask(&mut self, link: &Arc<Link>, channel: Channel, request: Request) -> Asked {
        let mut asking: Asking = Box::pin(ask(link.clone(), channel, request.need.clone()));
        if let Ok(result) = tokio::time::timeout(SLOW, &mut asking).await {
            return Asked::Answered(request, result);
        }
        // One that does not answer at all opens no channel either, until it does or is given up.
        let other = link.open_channel().await;
        if let Some(result) = (&mut asking).now_or_never() {
            return Asked::Answered(request, result);
        }
        let Some((other, queue)) = other.ok().zip(request.need.queue().cloned()) else {
            return Asked::Answered(request, asking.await);
        };
        if !self.desk.add_slow(&queue) {
            return Asked::Answered(request, asking.await);
        }
        self.channel = Some((link.clone(), other, 0));
        let (desk, link) = (self.desk.clone(), link.clone());
        self.desk.shared.spawn(async move { desk.wait(queue, request, link, asking).await });
        Asked::Aside
    }

    /// The channel in use, or a new one. `None`: the relay ends.
    async fn channel(&mut self) -> Option<(Arc<Link>, Option<Channel>)> {
        if let Some((link, channel, uses)) = &mut self.channel
            && *uses < MAX_USES
            && link.is_alive()
            && !self.desk.keeper.has_another(link)
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
        let link = self.desk.keeper.link().await?;
        let channel = link.open_channel().await.ok();
        self.channel = channel.clone().map(|channel| (link.clone(), channel, 1));
        Some((link, channel))
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
        Need::Gone { queue, if_unused } => {
            let Ok(queue) = topology::short(queue) else { return Ok(()) };
            let options = QueueDeleteOptions { if_unused: *if_unused, ..Default::default() };
            channel.queue_delete(queue, options).await.map(drop)
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
