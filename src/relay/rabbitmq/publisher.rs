//! Publishes, many at a time, and answers when RabbitMQ confirms.
//!
//! There are a few lanes, each one AMQP channel; a session's hash chooses its lane, so its
//! messages stay in order. The ledger has every message until it is answered; a lane that loses
//! its channel opens another and goes on from there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::ConfirmSelectOptions;
use lapin::{Channel, Confirmation};
use tokio::sync::Notify;
use tracing::warn;
use ulid::Ulid;

use super::connection::{Backoff, Keeper, Link, Shared};
use super::declarer::{DeclareError, Declarer};
use super::exclusives::Exclusives;
use super::ledger::{Buffer, Ledger, Limits, Loss, Pending};
use super::outcome::{Outcome, Publishing, barrier, publish, worst};
use super::preparing::{Preparing, prepare, prepared};
use super::properties;
use super::refusal::{self, Fault};
use super::state::Condition;
use super::topology;
use super::{Unroutable, unroutable};
use crate::destination::{Destination, TOPIC_EXCHANGE};
use crate::message::Message;
use crate::relay::error::Refusal;
use crate::relay::mailbox::{Event, Level, Mailbox, Submit, Token};
use crate::relay::origin::Declaration;

const LANES: usize = 4;
/// Messages in flight on a lane.
const WINDOW: usize = 1_024;
/// Before a message goes again that RabbitMQ did not take: a queue that ends takes a moment to.
const NACK_PAUSE: Duration = Duration::from_millis(15);
/// How often is looked for messages that have waited too long.
const TICK: Duration = Duration::from_millis(250);

/// The handle.
#[derive(Debug)]
pub(super) struct Publisher {
    pub(super) shared: Arc<Shared>,
    keeper: Arc<Keeper>,
    pub(super) declarer: Arc<Declarer>,
    pub(super) exclusives: Arc<Exclusives>,
    unroutable: Unroutable,
    /// What a queue is where its sender says nothing.
    pub(super) queue: Arc<Declaration>,
    ledger: Mutex<Ledger>,
    wakes: [Notify; LANES],
}

impl Publisher {
    pub(super) fn spawn(
        shared: &Arc<Shared>,
        keeper: Arc<Keeper>,
        declarer: Arc<Declarer>,
        exclusives: Arc<Exclusives>,
        unroutable: Unroutable,
        queue: Declaration,
        limits: Limits,
    ) -> Arc<Self> {
        let publisher = Arc::new(Self {
            shared: shared.clone(),
            keeper,
            declarer,
            exclusives,
            unroutable,
            queue: Arc::new(queue),
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
        declare: Option<Declaration>,
    ) -> Submit {
        let checked = topology::route(&message.destination).and_then(|route| {
            declare
                .as_ref()
                .map_or(Ok(()), |declare| topology::check_declaration(route.key.as_str(), declare))
        });
        if let Err(refusal) = checked {
            return Submit::Refused(refusal);
        }
        if properties::check_size(&message).is_err() {
            return Submit::Refused(refusal::headers_too_large());
        }
        let lane = usize::try_from(from.session() % LANES as u64).unwrap_or(0);
        let pending =
            Pending::new(from.clone(), token, message, declare.map(Arc::new), Instant::now());
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

    pub(super) fn refuse(&self, pending: &Pending, refusal: Refusal) {
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
        let is_refused = matches!(publisher.shared.state.condition(), Condition::Refused(_));
        for pending in &expired {
            publisher.refuse(pending, refusal::outage(is_refused));
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

/// A lane while it has a channel.
struct Lane<'a> {
    publisher: &'a Arc<Publisher>,
    number: usize,
    link: &'a Link,
    channel: Channel,
    in_flight: FuturesUnordered<Publishing>,
    /// `x-id`s of messages that came back and are not confirmed yet.
    returned: HashMap<Ulid, u32>,
    /// RabbitMQ's reply code, where it closed the channel; whether it is about a routing key.
    code: Option<(u16, bool)>,
    /// The number of the message that is next, while what it needs is made.
    preparing: Option<(u64, Preparing)>,
    /// The number of the message for which that is done.
    prepared: Option<u64>,
    /// Nothing is published before: RabbitMQ did not take something a moment ago.
    pause: Option<tokio::time::Instant>,
}

impl<'a> Lane<'a> {
    fn new(publisher: &'a Arc<Publisher>, number: usize, link: &'a Link, channel: Channel) -> Self {
        let in_flight = FuturesUnordered::new();
        Self {
            publisher,
            number,
            link,
            channel,
            in_flight,
            returned: HashMap::new(),
            code: None,
            preparing: None,
            prepared: None,
            pause: None,
        }
    }

    /// Until the channel is gone.
    async fn run(mut self) {
        let Some(wake) = self.publisher.wakes.get(self.number) else { return };
        loop {
            let recovery = &self.publisher.shared.recovery;
            let held = recovery.hold(self.link.since, Instant::now());
            let blocked = self.link.is_blocked();
            if self.link.is_alive() && self.publisher.keeper.has_another(self.link) {
                if self.in_flight.is_empty() {
                    return;
                }
            } else if self.preparing.is_none() && held.is_none() && !blocked && self.pause.is_none()
            {
                self.fill();
            }
            if self.is_clogged() {
                return self.give_up().await;
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
                result = prepared(&mut self.preparing) => {
                    if self.prepared(result).is_err() {
                        return;
                    }
                }
                () = recovery.over(held) => {}
                () = self.link.unblocked(), if blocked => {}
                () = over(self.pause), if self.pause.is_some() => self.pause = None,
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
            if self.prepared != Some(next.number)
                && let Some(preparing) = prepare(self.publisher, &route.goal, &next)
            {
                self.preparing = Some((next.number, preparing));
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

    /// What the next message needs is there, or it will not be.
    fn prepared(&mut self, result: Result<(), DeclareError>) -> Result<(), ()> {
        let Some((number, _)) = self.preparing.take() else { return Ok(()) };
        let refusal = match result {
            Ok(()) => {
                self.prepared = Some(number);
                return Ok(());
            }
            Err(DeclareError::Stopped) => return Err(()),
            Err(DeclareError::Refused(refusal)) => refusal,
            // Those behind it are for other queues, and do not wait for this one.
            Err(DeclareError::Unavailable) => refusal::unavailable(),
        };
        // It may have waited too long meanwhile.
        let refused = self.publisher.ledger().done(self.number, number);
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
        if batch.iter().any(|outcome| outcome.queue().is_some() && outcome.is_taken()) {
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
        let (mut unroutable, mut nacked) = (Vec::new(), Vec::new());
        for outcome in batch {
            match outcome.result {
                Err(error) => {
                    let fault = Fault::of(&error);
                    if let Fault::Refused(code) = fault {
                        self.code = Some((code, refusal::is_about_key(&error)));
                    }
                    loss = worst(loss, fault);
                }
                Ok(Confirmation::Ack(_)) if self.came_back(&outcome) => {
                    if let Some(queue) = outcome.queue() {
                        self.publisher.declarer.forget(queue);
                    }
                    let keep = outcome.declare.as_deref().is_some_and(topology::goes_by_itself);
                    unroutable.push((outcome.number, keep));
                }
                Ok(Confirmation::Ack(_)) => {
                    let time = outcome.handed.elapsed();
                    self.publisher.shared.confirm_time.observe(time.as_secs_f64());
                    let done = self.publisher.ledger().done(self.number, outcome.number);
                    done.iter().for_each(|pending| self.publisher.confirm(pending));
                }
                Ok(Confirmation::Nack(_) | Confirmation::NotRequested) => {
                    nacked.push(outcome.number);
                }
            }
        }
        if !nacked.is_empty() {
            self.pause = Some(tokio::time::Instant::now() + NACK_PAUSE);
            for pending in &self.publisher.ledger().nacked(self.number, &nacked) {
                self.publisher.refuse(pending, refusal::not_accepted());
            }
        }
        self.unroutable(&unroutable);
        self.publisher.wake_waiters();
        loss
    }

    fn came_back(&mut self, outcome: &Outcome) -> bool {
        if outcome.queue().is_none() {
            return false;
        }
        let Some(count) = self.returned.get_mut(&outcome.id) else { return false };
        *count -= 1;
        if *count == 0 {
            self.returned.remove(&outcome.id);
        }
        true
    }

    /// Messages came back, and whether each one's queue is to be declared again whatever the
    /// config says.
    fn unroutable(&self, returned: &[(u64, bool)]) {
        if returned.is_empty() {
            return;
        }
        let all = self.publisher.unroutable == Unroutable::Keep;
        let (again, refused): (Vec<_>, Vec<_>) =
            returned.iter().copied().partition(|(_, keep)| all || *keep);
        let again: Vec<u64> = again.into_iter().map(|(number, _)| number).collect();
        let refused = {
            let mut ledger = self.publisher.ledger();
            let mut refusals = ledger.returned(self.number, &again);
            refusals
                .extend(refused.iter().filter_map(|(number, _)| ledger.done(self.number, *number)));
            refusals
        };
        if !refused.is_empty() {
            let task = unroutable::refuse(self.publisher.clone(), refused);
            self.publisher.shared.spawn(task);
        }
    }

    /// Takes what is resolved by now.
    fn take_ready(&mut self, batch: &mut Vec<Outcome>) {
        let mut context = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(outcome)) = self.in_flight.poll_next_unpin(&mut context) {
            batch.push(outcome);
        }
    }

    /// Messages that were refused, having waited too long, still wait for their confirms: a queue
    /// may take none while the others do. They would leave no place for new ones.
    fn is_clogged(&self) -> bool {
        self.in_flight.len() > WINDOW / 2 && {
            let known = self.publisher.ledger().in_flight(self.number);
            self.in_flight.len().saturating_sub(known) > WINDOW / 2
        }
    }

    /// Goes on with another channel. What has no answer is published again there.
    async fn give_up(self) {
        warn!(
            "RabbitMQ leaves too many messages unconfirmed on a channel; the others go on another"
        );
        self.publisher.ledger().lost(self.number, Loss::Connection);
        drop(self.link.answer(self.channel.close(200, "unconfirmed".into())).await);
    }

    fn lost(&self, loss: Loss) {
        let declarer = &self.publisher.declarer;
        match loss {
            Loss::Channel => {
                self.publisher.keeper.closed_channel(self.link);
                if let Some((404, _)) = self.code {
                    declarer.forget_exchanges();
                }
                warn!("RabbitMQ closed a channel over a message; the others go on another one");
            }
            // Queues may be gone with it.
            Loss::Connection | Loss::Violation => declarer.forget_all(),
        }
        let refused = self.publisher.ledger().lost(self.number, loss);
        let Some(pending) = refused else { return };
        let refusal = match (loss, self.code, &pending.message.destination) {
            (Loss::Channel, Some((code, only_key)), Destination::Exchange(exchange)) => {
                if code == 403 {
                    declarer.deny(&exchange.name, &exchange.key, only_key);
                }
                refusal::of_exchange(code, &exchange.name)
            }
            (Loss::Channel, Some((403, only_key)), Destination::Topic(topic)) => {
                declarer.deny(TOPIC_EXCHANGE, topic.key(), only_key);
                refusal::refused(403)
            }
            (Loss::Channel, Some((code, _)), _) => refusal::refused(code),
            _ => refusal::not_accepted(),
        };
        self.publisher.refuse(&pending, refusal);
        self.publisher.wake_waiters();
    }
}

async fn over(pause: Option<tokio::time::Instant>) {
    if let Some(until) = pause {
        tokio::time::sleep_until(until).await;
    }
}

/// Waits for the connection's end. What is in flight says better why, so it has a moment.
async fn gone(link: &Link, busy: bool) {
    link.lost().await;
    if busy {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
