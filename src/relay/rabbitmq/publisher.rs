//! Publishes, many at a time, and answers when RabbitMQ confirms.
//!
//! There are a few lanes, each one AMQP channel; a session's hash chooses its lane, so its
//! messages stay in order. The ledger has every message until it is answered; a lane that loses
//! its channel opens another and goes on from there.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation};
use tokio::sync::Notify;
use tracing::warn;
use ulid::Ulid;

use super::Unroutable;
use super::connection::{Backoff, Keeper, Link, Shared};
use super::declarer::{DeclareError, Declarer};
use super::ledger::{Buffer, Ledger, Limits, Loss, Outgoing, Pending};
use super::properties;
use super::refusal::{self, Fault};
use super::topology::{self, Route};
use crate::destination::Destination;
use crate::message::Message;
use crate::relay::error::Refusal;
use crate::relay::mailbox::{Event, Level, Mailbox, Submit, Token};
use crate::relay::origin::{Declaration, QueueOrigin};

const LANES: usize = 4;
/// Messages in flight on a lane.
const WINDOW: usize = 1_024;
/// How often is looked for messages that have waited too long.
const TICK: Duration = Duration::from_millis(250);

/// The handle.
#[derive(Debug)]
pub(super) struct Publisher {
    shared: Arc<Shared>,
    keeper: Arc<Keeper>,
    declarer: Arc<Declarer>,
    unroutable: Unroutable,
    ledger: Mutex<Ledger>,
    wakes: [Notify; LANES],
}

impl Publisher {
    pub(super) fn spawn(
        shared: &Arc<Shared>,
        keeper: Arc<Keeper>,
        declarer: Arc<Declarer>,
        unroutable: Unroutable,
        limits: Limits,
    ) -> Arc<Self> {
        let publisher = Arc::new(Self {
            shared: shared.clone(),
            keeper,
            declarer,
            unroutable,
            ledger: Mutex::new(Ledger::new(LANES, limits)),
            wakes: std::array::from_fn(|_| Notify::new()),
        });
        for lane in 0..LANES {
            shared.spawn(run_lane(publisher.clone(), lane));
        }
        shared.spawn(expire(publisher.clone()));
        publisher
    }

    pub(super) fn publish(
        &self,
        from: &Arc<Mailbox>,
        token: Option<Token>,
        message: Arc<Message>,
    ) -> Submit {
        if let Err(refusal) = topology::route(&message.destination) {
            return Submit::Refused(refusal);
        }
        if properties::check_size(&message).is_err() {
            return Submit::Refused(refusal::headers_too_large());
        }
        let lane = usize::try_from(from.session() % LANES as u64).unwrap_or(0);
        let pending = Pending::new(from.clone(), token, message, Instant::now());
        self.ledger().submit(lane, pending);
        if let Some(wake) = self.wakes.get(lane) {
            wake.notify_one();
        }
        Submit::Pending
    }

    pub(super) fn has_room(&self, waiter: &Arc<Mailbox>) -> bool {
        self.ledger().has_room(waiter)
    }

    pub(super) fn session_ended(&self, mailbox: &Arc<Mailbox>) {
        self.ledger().forget(mailbox);
    }

    /// Messages without an answer.
    pub(super) fn open(&self) -> usize {
        self.ledger().len()
    }

    /// The same in numbers.
    pub(super) fn buffer(&self) -> Buffer {
        self.ledger().buffer()
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn confirm(&self, pending: &Pending) {
        self.shared.counters.confirmed.add(1);
        answer(pending, Ok(Level::Confirmed));
    }

    fn refuse(&self, pending: &Pending, refusal: Refusal) {
        self.shared.counters.refused.add(1);
        answer(pending, Err(refusal));
    }

    /// Tells those who waited for room.
    fn wake_waiters(&self) {
        let waiters = self.ledger().woken();
        for waiter in waiters.iter().filter_map(std::sync::Weak::upgrade) {
            waiter.event(Event::Room);
        }
    }
}

fn answer(pending: &Pending, result: Result<Level, Refusal>) {
    if let Some(token) = pending.token {
        pending.from.event(Event::Done { token, result });
    }
}

async fn expire(publisher: Arc<Publisher>) {
    loop {
        tokio::select! {
            () = publisher.shared.stop.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
        let expired = publisher.ledger().expire(Instant::now());
        if expired.is_empty() {
            continue;
        }
        publisher.shared.counters.expired.add(expired.len() as u64);
        for pending in &expired {
            publisher.refuse(pending, refusal::outage());
        }
        publisher.wake_waiters();
    }
}

async fn run_lane(publisher: Arc<Publisher>, number: usize) {
    let mut backoff = Backoff::default();
    while let Some(link) = publisher.keeper.link().await {
        match open(&link).await {
            Ok(channel) => {
                backoff = Backoff::default();
                Lane::new(&publisher, number, &link, channel).run().await;
            }
            Err(error) => {
                if link.is_alive() {
                    warn!("RabbitMQ opens no channel to publish on: {error}");
                }
                tokio::time::sleep(backoff.next(Duration::from_secs(5))).await;
            }
        }
        if publisher.shared.stop.is_cancelled() {
            return;
        }
    }
}

async fn open(link: &Link) -> lapin::Result<Channel> {
    let channel = link.open_channel().await?;
    link.answer(channel.confirm_select(ConfirmSelectOptions::default())).await?;
    Ok(channel)
}

/// How a publish ended.
struct Outcome {
    number: u64,
    id: Ulid,
    /// The queue it was for, where it was mandatory.
    queue: Option<Arc<str>>,
    handed: Instant,
    result: lapin::Result<Confirmation>,
}

impl Outcome {
    fn is_taken(&self) -> bool {
        matches!(self.result, Ok(Confirmation::Ack(_)))
    }
}

type Publishing = Pin<Box<dyn Future<Output = Outcome> + Send>>;
type Declaring = Pin<Box<dyn Future<Output = Result<(), DeclareError>> + Send>>;

/// A lane while it has a channel.
struct Lane<'a> {
    publisher: &'a Publisher,
    number: usize,
    link: &'a Link,
    channel: Channel,
    in_flight: FuturesUnordered<Publishing>,
    /// `x-id`s of messages that came back and are not confirmed yet.
    returned: HashMap<Ulid, u32>,
    /// RabbitMQ's reply code, where it closed the channel.
    code: Option<u16>,
    /// The queue of the message that is next, while it is declared.
    declaring: Option<(Arc<str>, Declaring)>,
}

impl<'a> Lane<'a> {
    fn new(publisher: &'a Publisher, number: usize, link: &'a Link, channel: Channel) -> Self {
        let in_flight = FuturesUnordered::new();
        Self {
            publisher,
            number,
            link,
            channel,
            in_flight,
            returned: HashMap::new(),
            code: None,
            declaring: None,
        }
    }

    /// Until the channel is gone.
    async fn run(mut self) {
        let Some(wake) = self.publisher.wakes.get(self.number) else { return };
        loop {
            if self.link.is_worn() {
                if self.in_flight.is_empty() {
                    return;
                }
            } else if self.declaring.is_none() {
                self.fill();
            }
            let busy = !self.in_flight.is_empty();
            tokio::select! {
                biased;
                () = self.publisher.shared.stop.cancelled() => return,
                Some(first) = self.in_flight.next(), if busy => {
                    if let Some(loss) = self.settle(first) {
                        return self.lost(loss);
                    }
                }
                result = declared(&mut self.declaring) => {
                    if self.declared(result).is_err() {
                        return;
                    }
                }
                () = gone(self.link, busy) => return self.lost(Loss::Connection),
                () = wake.notified() => {}
            }
        }
    }

    /// Publishes what the window allows.
    fn fill(&mut self) {
        while self.in_flight.len() < WINDOW {
            let Some(next) = self.publisher.ledger().next(self.number, WINDOW) else { return };
            // Checked when it was submitted.
            let Ok(route) = topology::route(&next.message.destination) else { return };
            if let Some(queue) = &route.queue
                && !self.publisher.declarer.knows(queue)
            {
                let declarer = self.publisher.declarer.clone();
                let origin = QueueOrigin {
                    queue: queue.clone(),
                    declare: Some(Declaration::QUEUE),
                    binding: None,
                };
                let declare = Box::pin(async move { declarer.declare(origin).await });
                self.declaring = Some((queue.clone(), declare));
                return;
            }
            if self.publisher.ledger().handed(self.number, next.number) {
                let counters = &self.publisher.shared.counters;
                counters.published.add(1);
                counters.republished.add(u64::from(next.republished));
                self.in_flight.push(publish(self.channel.clone(), route, next));
            }
        }
    }

    /// The queue of the next message is there, or it will not be.
    fn declared(&mut self, result: Result<(), DeclareError>) -> Result<(), ()> {
        let Some((queue, _)) = self.declaring.take() else { return Ok(()) };
        let refusal = match result {
            Ok(()) => return Ok(()),
            Err(DeclareError::Stopped) => return Err(()),
            Err(DeclareError::Refused(refusal)) => refusal,
        };
        let refused = {
            let mut ledger = self.publisher.ledger();
            // The one it was declared for may have waited too long meanwhile.
            match ledger.next(self.number, WINDOW) {
                Some(next) if next.message.destination == Destination::Queue(queue) => {
                    ledger.done(self.number, next.number)
                }
                _ => None,
            }
        };
        if let Some(pending) = refused {
            self.publisher.refuse(&pending, refusal);
            self.publisher.wake_waiters();
        }
        Ok(())
    }

    /// Answers what is confirmed. `Some`: the channel is gone.
    fn settle(&mut self, first: Outcome) -> Option<Loss> {
        let mut batch = vec![first];
        self.take_ready(&mut batch);
        if batch.iter().any(|outcome| outcome.queue.is_some() && outcome.is_taken()) {
            // lapin gives a returned message to whichever confirm comes next, in no order within
            // one frame. Taking the lock it confirms under means that the frame is done with, so
            // that every confirm that could have a return of this batch is in it.
            barrier(&self.channel);
            self.take_ready(&mut batch);
        }
        batch.sort_unstable_by_key(|outcome| outcome.number);
        for outcome in &batch {
            if let Ok(Confirmation::Ack(Some(message)) | Confirmation::Nack(Some(message))) =
                &outcome.result
                && let Some(id) = properties::x_id(&message.delivery.properties)
            {
                *self.returned.entry(id).or_default() += 1;
            }
        }
        let mut loss = None;
        let mut unroutable = Vec::new();
        for outcome in batch {
            match outcome.result {
                Err(error) => {
                    let fault = Fault::of(&error);
                    if let Fault::Refused(code) = fault {
                        self.code = Some(code);
                    }
                    loss = worst(loss, fault);
                }
                Ok(Confirmation::Ack(_)) if self.came_back(&outcome) => {
                    if let Some(queue) = &outcome.queue {
                        self.publisher.declarer.forget(queue);
                    }
                    unroutable.push(outcome.number);
                }
                Ok(Confirmation::Ack(_)) => {
                    let time = outcome.handed.elapsed();
                    self.publisher.shared.confirm_time.observe(time.as_secs_f64());
                    let done = self.publisher.ledger().done(self.number, outcome.number);
                    done.iter().for_each(|pending| self.publisher.confirm(pending));
                }
                Ok(Confirmation::Nack(_) | Confirmation::NotRequested) => {
                    let done = self.publisher.ledger().done(self.number, outcome.number);
                    done.iter().for_each(|pending| {
                        self.publisher.refuse(pending, refusal::not_accepted());
                    });
                }
            }
        }
        self.unroutable(&unroutable);
        self.publisher.wake_waiters();
        loss
    }

    fn came_back(&mut self, outcome: &Outcome) -> bool {
        if outcome.queue.is_none() {
            return false;
        }
        let Some(count) = self.returned.get_mut(&outcome.id) else { return false };
        *count -= 1;
        if *count == 0 {
            self.returned.remove(&outcome.id);
        }
        true
    }

    fn unroutable(&self, numbers: &[u64]) {
        if numbers.is_empty() {
            return;
        }
        let refused = {
            let mut ledger = self.publisher.ledger();
            match self.publisher.unroutable {
                Unroutable::Keep => ledger.returned(self.number, numbers),
                Unroutable::Error => {
                    numbers.iter().filter_map(|number| ledger.done(self.number, *number)).collect()
                }
            }
        };
        self.publisher.shared.counters.unroutable.add(refused.len() as u64);
        for pending in &refused {
            self.publisher.refuse(pending, refusal::unroutable());
        }
    }

    /// Takes what is resolved by now.
    fn take_ready(&mut self, batch: &mut Vec<Outcome>) {
        let mut context = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(outcome)) = self.in_flight.poll_next_unpin(&mut context) {
            batch.push(outcome);
        }
    }

    fn lost(&self, loss: Loss) {
        match loss {
            Loss::Channel => {
                self.publisher.keeper.closed_channel(self.link);
                warn!("RabbitMQ closed a channel over a message; the others go on another one");
            }
            // Queues may be gone with it.
            Loss::Connection | Loss::Violation => self.publisher.declarer.forget_all(),
        }
        let refused = self.publisher.ledger().lost(self.number, loss);
        if let Some(pending) = refused {
            let refusal = match (loss, self.code) {
                (Loss::Channel, Some(code)) => refusal::refused(code),
                _ => refusal::not_accepted(),
            };
            self.publisher.refuse(&pending, refusal);
            self.publisher.wake_waiters();
        }
    }
}

/// What the errors of a channel's publishes say together: only some have the reason.
fn worst(so_far: Option<Loss>, fault: Fault) -> Option<Loss> {
    let loss = match fault {
        Fault::Refused(_) => Loss::Channel,
        Fault::Violation => Loss::Violation,
        Fault::Gone => Loss::Connection,
    };
    match so_far {
        Some(Loss::Channel | Loss::Violation) => so_far,
        Some(Loss::Connection) | None => Some(loss),
    }
}

/// Sends a message at once, so that the order of calls is the order on the wire, and waits for
/// the confirm.
fn publish(channel: Channel, route: Route, next: Outgoing) -> Publishing {
    let handed = Instant::now();
    let mut publishing: Publishing = Box::pin(async move {
        let properties = properties::outgoing(&next.message, next.id, next.republished);
        let options =
            BasicPublishOptions { mandatory: route.queue.is_some(), ..Default::default() };
        let body = &next.message.body;
        let publish = channel.basic_publish(route.exchange, route.key, options, body, properties);
        let result = match publish.await {
            Ok(confirm) => confirm.await,
            Err(error) => Err(error),
        };
        Outcome { number: next.number, id: next.id, queue: route.queue, handed, result }
    });
    let mut context = Context::from_waker(Waker::noop());
    match publishing.as_mut().poll(&mut context) {
        Poll::Pending => publishing,
        Poll::Ready(outcome) => Box::pin(std::future::ready(outcome)),
    }
}

/// Waits until lapin is not within a frame of confirms.
fn barrier(channel: &Channel) {
    let wait = std::pin::pin!(channel.wait_for_confirms());
    // The lock is taken in the first poll; what comes after it is of no use here.
    let _first = wait.poll(&mut Context::from_waker(Waker::noop())).is_ready();
}

async fn declared(declaring: &mut Option<(Arc<str>, Declaring)>) -> Result<(), DeclareError> {
    match declaring {
        Some((_, declare)) => declare.await,
        None => std::future::pending().await,
    }
}

/// Waits for the connection's end. What is in flight says better why, so it has a moment.
async fn gone(link: &Link, busy: bool) {
    link.lost().await;
    if busy {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
