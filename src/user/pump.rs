//! The line to the store: operations go in under a user's lock, come out in order, are applied
//! in batches, and have their effects in order.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

use crate::destination::{Destination, UserDestination};
use crate::message::Message;
use crate::persistence::{Keep, Op, Outcome, Page, Store, StoreError, UnreadId};
use crate::relay::error::{Refusal, RefusalKind};
use crate::relay::mailbox::{Event, Level, Mailbox, SubscriptionNumber, Token};

use super::abroad::{self, Abroad};
use super::envelope::{Envelope, Kind};
use super::{Shared, UNREAD_TARGET, Waiting, notice, registry};

/// Operations of one call to the store.
const BATCH: usize = 512;
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(1);

/// One operation, and what follows it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) op: Op,
    pub(super) then: Then,
    pub(super) since: Instant,
}

/// Who waits for a result.
#[derive(Debug)]
pub(super) enum Answer {
    Session {
        mailbox: Arc<Mailbox>,
        token: Token,
    },
    /// Is told how many messages are left.
    Caller(oneshot::Sender<Result<u64, Refusal>>),
}

#[derive(Debug)]
pub(super) enum Then {
    /// After an append; `live`: it is to be pushed to who is there.
    Deliver {
        answer: Option<Answer>,
        live: bool,
    },
    /// After a registration, or a page instead of it.
    Register {
        mailbox: Arc<Mailbox>,
        subscription: SubscriptionNumber,
        to: UserDestination,
        token: Option<Token>,
    },
    Page {
        mailbox: Arc<Mailbox>,
        subscription: SubscriptionNumber,
    },
    Fetch(oneshot::Sender<Result<Page, Refusal>>),
    Read {
        request: Bytes,
        answer: Option<Answer>,
    },
    /// From another node, behind what was in the line of its user. The operation has no effect.
    Arrived(Kind),
    /// After the end of a subscription, whose registration may have been behind it in the line.
    Unregister {
        to: UserDestination,
        session: u64,
        subscription: SubscriptionNumber,
    },
}

/// What waits for the store.
#[derive(Debug)]
pub(super) struct Line {
    waiting: Waiting,
    state: Mutex<LineState>,
    filled: Notify,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct LineState {
    jobs: VecDeque<Job>,
    /// Jobs and bytes taken out, but not done yet, are counted too.
    count: usize,
    bytes: usize,
    waiters: Vec<Weak<Mailbox>>,
    closing: bool,
}

/// The time at which something goes into the line.
pub(super) fn now() -> Instant {
    Instant::now()
}

/// What a sender is told when the store was away for too long.
pub(super) fn away() -> Refusal {
    Refusal::new(
        RefusalKind::Store,
        "Store not available",
        "messages for users cannot be kept or read at the moment; try again later\n",
    )
}

impl Line {
    pub(super) fn new(waiting: Waiting) -> Self {
        Self { waiting, state: Mutex::default(), filled: Notify::new(), emptied: Notify::new() }
    }

    pub(super) fn put(&self, job: Job) {
        let mut state = self.lock();
        state.count += 1;
        state.bytes += job.size();
        state.jobs.push_back(job);
        drop(state);
        self.filled.notify_one();
    }

    pub(super) fn has_room(&self, waiter: &Arc<Mailbox>) -> bool {
        let mut state = self.lock();
        if state.count < self.waiting.messages && state.bytes < self.waiting.bytes {
            return true;
        }
        state.waiters.push(Arc::downgrade(waiter));
        false
    }

    pub(super) async fn close(&self) {
        self.lock().closing = true;
        self.filled.notify_one();
        self.emptied().await;
    }

    /// Waits until nothing is in it.
    pub(super) async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.lock().count == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// The next jobs; none where the line has ended.
    async fn take(&self) -> Option<Vec<Job>> {
        loop {
            {
                let mut state = self.lock();
                if !state.jobs.is_empty() {
                    let count = state.jobs.len().min(BATCH);
                    return Some(state.jobs.drain(..count).collect());
                }
                if state.closing {
                    return None;
                }
            }
            self.filled.notified().await;
        }
    }

    fn done(&self, count: usize, bytes: usize) {
        let mut state = self.lock();
        state.count -= count;
        state.bytes -= bytes;
        let room =
            state.count <= self.waiting.messages / 2 && state.bytes <= self.waiting.bytes / 2;
        let waiters = if room { std::mem::take(&mut state.waiters) } else { Vec::new() };
        let empty = state.count == 0;
        drop(state);
        waiters.iter().filter_map(Weak::upgrade).for_each(|waiter| waiter.event(Event::Room));
        if empty {
            self.emptied.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, LineState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Job {
    fn size(&self) -> usize {
        match &self.op {
            Op::Append { message, .. } => message.size(),
            _ => 0,
        }
    }

    /// The place of its message among all; other jobs have none.
    pub(super) fn order(&self) -> u64 {
        match &self.op {
            Op::Append { message, .. } => message.order(),
            _ => 0,
        }
    }

    /// Where its message goes.
    pub(super) fn destination(&self) -> Option<&UserDestination> {
        match &self.op {
            Op::Append { message, .. } => match &message.destination {
                Destination::User(to) => Some(to),
                _ => None,
            },
            _ => None,
        }
    }

    fn user(&self) -> Arc<str> {
        match &self.op {
            Op::Append { message, .. } => match &message.destination {
                Destination::User(to) => to.user.clone(),
                _ => Arc::from(""),
            },
            Op::PageOrRegister { user, .. }
            | Op::Register { user, .. }
            | Op::Unregister { user, .. }
            | Op::Page { user, .. }
            | Op::MarkRead { user, .. } => user.clone(),
        }
    }

    /// Whether somebody waits for it who can be told to try again. What must not be lost waits
    /// for the store as long as it takes.
    fn may_be_refused(&self) -> bool {
        match &self.then {
            Then::Deliver { live, .. } => *live,
            Then::Page { .. } | Then::Fetch(_) => true,
            Then::Read { answer, .. } => answer.is_some(),
            Then::Register { .. } | Then::Unregister { .. } | Then::Arrived(_) => false,
        }
    }
}

/// Applies what is in the line until the line is closed.
pub(super) async fn run(shared: Arc<Shared>, store: Store) {
    while let Some(jobs) = shared.line.take().await {
        let (count, bytes) = (jobs.len(), jobs.iter().map(Job::size).sum());
        apply(&shared, &store, jobs).await;
        shared.line.done(count, bytes);
    }
    store.close().await;
}

/// Applies a batch, again and again while the store is away.
async fn apply(shared: &Arc<Shared>, store: &Store, mut jobs: Vec<Job>) {
    let mut pause = RETRY_FIRST;
    loop {
        jobs = match try_batch(shared, store, jobs).await {
            Ok(()) => return,
            Err(jobs) => try_singly(shared, store, jobs).await,
        };
        jobs = refuse_overdue(shared, jobs);
        if jobs.is_empty() {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MOST);
    }
}

/// Applies all at once; gives them back where the store did not take them.
async fn try_batch(shared: &Arc<Shared>, store: &Store, jobs: Vec<Job>) -> Result<(), Vec<Job>> {
    let ops = jobs.iter().map(|job| job.op.clone()).collect();
    match store.apply(ops).await {
        Ok(outcomes) => {
            if shared.is_away.swap(false, Ordering::Relaxed) {
                tracing::info!("the store of unread messages is back");
            }
            for (job, outcome) in jobs.into_iter().zip(outcomes) {
                finish(shared, job, outcome);
            }
            Ok(())
        }
        Err(error) => {
            if !shared.is_away.swap(true, Ordering::Relaxed) {
                let (StoreError::Unavailable(text) | StoreError::Broken(text)) = &error;
                tracing::error!(error = %text, "the store of unread messages is away");
            }
            Err(jobs)
        }
    }
}

/// A full disk fails what must be stored, and with it the batch. What needs no room, such as a
/// push to somebody who is there, is done all the same; the order within a user stays. Gives up
/// after a few failures in a row: then nothing works.
async fn try_singly(shared: &Arc<Shared>, store: &Store, jobs: Vec<Job>) -> Vec<Job> {
    const FAILURES: usize = 4;
    let mut left = Vec::new();
    let mut stuck: HashSet<Arc<str>> = HashSet::new();
    let mut failures = 0;
    for job in jobs {
        let user = job.user();
        if failures >= FAILURES || stuck.contains(&user) {
            left.push(job);
            continue;
        }
        match store.apply(vec![job.op.clone()]).await {
            Ok(outcomes) => {
                failures = 0;
                outcomes.into_iter().take(1).zip([job]).for_each(|(outcome, job)| {
                    finish(shared, job, outcome);
                });
            }
            Err(_) => {
                failures += 1;
                stuck.insert(user);
                left.push(job);
            }
        }
    }
    left
}

fn refuse_overdue(shared: &Shared, jobs: Vec<Job>) -> Vec<Job> {
    let limit = shared.line.waiting.time;
    let (overdue, rest) =
        jobs.into_iter().partition(|job| job.may_be_refused() && job.since.elapsed() >= limit);
    let overdue: Vec<Job> = overdue;
    for job in overdue {
        let user = job.user();
        match job.then {
            Then::Deliver { answer, .. } | Then::Read { answer, .. } => {
                answer_with(answer, &Err(away()));
            }
            Then::Page { mailbox, subscription } => {
                mailbox.event(Event::Page { subscription, result: Err(away()) });
            }
            Then::Fetch(sender) => {
                // A caller who has gone needs no answer.
                let _ = sender.send(Err(away()));
            }
            Then::Register { .. } | Then::Unregister { .. } | Then::Arrived(_) => {}
        }
        shared.registry.lock(&user).end(&user);
    }
    rest
}

/// The effects of one operation, under its user's lock.
fn finish(shared: &Arc<Shared>, job: Job, outcome: Outcome) {
    let user = job.user();
    let mut users = shared.registry.lock(&user);
    users.end(&user);
    match (job.then, outcome) {
        (Then::Deliver { answer, live }, outcome @ Outcome::Appended { .. }) => {
            let Op::Append { message, keep } = job.op else { return };
            let Destination::User(to) = message.destination.clone() else { return };
            let delivery = Delivery { to, message, keep, answer, live, since: job.since };
            delivery.finish(shared, &mut users, outcome);
        }
        (Then::Register { mailbox, subscription, to, token }, Outcome::Registered) => {
            users.add(&to, &mailbox, subscription);
            match token {
                Some(token) => {
                    mailbox.event(Event::Done { token, result: Ok(Level::Memory) });
                }
                None => {
                    mailbox.event(Event::Page { subscription, result: Ok(Page::default()) });
                }
            }
        }
        (
            Then::Register { mailbox, subscription, .. } | Then::Page { mailbox, subscription },
            Outcome::Page(page),
        ) => mailbox.event(Event::Page { subscription, result: Ok(page) }),
        (Then::Fetch(sender), Outcome::Page(page)) => {
            // A caller who has gone needs no answer.
            let _ = sender.send(Ok(page));
        }
        (Then::Read { request, answer }, Outcome::Read { removed, unread, hearers }) => {
            if removed > 0 {
                tell(shared, &users, &hearers, &user, || read(&user, unread, &request));
            }
            answer_with(answer, &Ok((Level::Stored, unread)));
        }
        (Then::Unregister { to, session, subscription }, _) => {
            users.remove(&to, session, subscription);
        }
        (Then::Arrived(kind), _) => {
            let Op::Append { message, .. } = job.op else { return };
            let Destination::User(to) = message.destination.clone() else { return };
            abroad::take(shared, &mut users, Envelope { to, message, kind });
        }
        (then, outcome) => tracing::error!(?then, ?outcome, "the store answered something else"),
    }
}

/// A message about which the store has decided.
struct Delivery {
    to: UserDestination,
    message: Arc<Message>,
    keep: Keep,
    answer: Option<Answer>,
    live: bool,
    since: Instant,
}

impl Delivery {
    fn finish(self, shared: &Arc<Shared>, users: &mut registry::Users, outcome: Outcome) {
        let Outcome::Appended { unread_id, new, present, unread, nodes, hearers, .. } = outcome
        else {
            return;
        };
        let Self { to, message, keep, answer, live, since } = self;
        let user = &to.user;
        let taken = if live && present { users.push(&to, &message, unread_id) } else { 0 };
        let abroad = Abroad::new(shared, if live { nodes } else { Vec::new() });
        let is_missed = live && present && taken == 0 && abroad.is_none();
        if is_missed && unread_id.is_none() && keep == Keep::IfAbsent {
            // Whoever was there has gone between the step and its effect, or is about to.
            users.begin(user);
            if users.are_all_gone(&to) {
                let op = Op::Append { message, keep };
                let then = Then::Deliver { answer, live: true };
                users.hold(user, Job { op, then, since });
            } else {
                let op = Op::Append { message, keep: Keep::Always };
                let then = Then::Deliver { answer, live: false };
                shared.line.put(Job { op, then, since });
            }
            return;
        }
        let answer = match abroad {
            Some(abroad) => abroad.send(&to, &message, keep, unread_id, answer),
            None => answer,
        };
        if let (Some(id), true) = (unread_id, new) {
            tell(shared, users, &hearers, user, || added(user, unread, id));
        }
        let level = if unread_id.is_some() { Level::Stored } else { Level::Pushed };
        answer_with(answer, &Ok((level, unread)));
    }
}

/// A notice to the user's sessions, here and on other nodes.
fn tell(
    shared: &Shared,
    users: &registry::Users,
    hearers: &[Arc<str>],
    user: &Arc<str>,
    message: impl FnOnce() -> Arc<Message>,
) {
    if let (Some(nodes), false) = (&shared.nodes, hearers.is_empty()) {
        let message = message();
        abroad::notify(nodes, hearers, user, &message);
        users.notify(user, UNREAD_TARGET, || message);
    } else {
        users.notify(user, UNREAD_TARGET, message);
    }
}

pub(super) fn answer_with(answer: Option<Answer>, result: &Result<(Level, u64), Refusal>) {
    match answer {
        Some(Answer::Session { mailbox, token }) => {
            let result = result.clone().map(|(level, _)| level);
            mailbox.event(Event::Done { token, result });
        }
        Some(Answer::Caller(sender)) => {
            // A caller who has gone needs no answer.
            let _ = sender.send(result.clone().map(|(_, unread)| unread));
        }
        None => {}
    }
}

fn added(user: &Arc<str>, unread: u64, id: UnreadId) -> Arc<Message> {
    notice(user, format!(r#"{{"unread":{unread},"added":["{id}"]}}"#))
}

fn read(user: &Arc<str>, unread: u64, request: &Bytes) -> Arc<Message> {
    let request = String::from_utf8_lossy(request);
    notice(user, format!(r#"{{"unread":{unread},"read":{request}}}"#))
}
