//! Subscriptions that have a consumer of their own: `/queue`, and topics with acks.
//!
//! Each is a task with a channel of its own, see [`super::subscription`]; here is who they are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::QueueDeleted;
use super::connection::{Link, Shared};
use super::declarer::Declarer;
use super::exclusives::Exclusives;
use super::pool::Pool;
use super::recent::Recent;
use super::subscription::Worker;
use super::topology;
use crate::relay::Settlement;
use crate::relay::mailbox::{Event, Level, Mailbox, Submit, SubscriptionNumber, Token};
use crate::relay::origin::QueueOrigin;

/// The handle.
#[derive(Debug)]
pub(super) struct Consumers {
    pub(super) shared: Arc<Shared>,
    pub(super) declarer: Arc<Declarer>,
    pub(super) recent: Arc<Mutex<Recent>>,
    pub(super) queue_deleted: QueueDeleted,
    pub(super) exclusives: Arc<Exclusives>,
    pool: Arc<Pool>,
    sessions: Mutex<HashMap<u64, HashMap<SubscriptionNumber, Arc<Subscription>>>>,
}

/// One subscription, as its session and its task know it.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) to: Arc<Mailbox>,
    pub(super) number: SubscriptionNumber,
    pub(super) origin: QueueOrigin,
    pub(super) prefetch: u16,
    /// The queue is the session's alone: it is declared on the connection that consumes it.
    pub(super) is_exclusive: bool,
    inbox: Mutex<Inbox>,
    wake: Notify,
}

/// What the session wants of the task.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    pub(super) settlements: Vec<(u64, Settlement)>,
    pub(super) unsubscribe: Option<Unsubscribe>,
    pub(super) session_ended: bool,
}

/// UNSUBSCRIBE.
#[derive(Debug)]
pub(super) struct Unsubscribe {
    pub(super) token: Option<Token>,
    /// The subscription's own queue goes too.
    pub(super) delete: bool,
}

impl Subscription {
    /// Waits until there is something to look at in the inbox.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Waits until the subscription is to end.
    pub(super) async fn ending(&self) {
        loop {
            if self.is_ending() {
                return;
            }
            self.wake.notified().await;
        }
    }

    /// Whether its queue is one of answers: exclusive, and named by RabbitMQ.
    pub(super) fn is_for_answers(&self) -> bool {
        self.origin.queue.is_empty()
    }

    pub(super) fn is_ending(&self) -> bool {
        let inbox = self.inbox();
        inbox.unsubscribe.is_some() || inbox.session_ended
    }

    pub(super) fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, what: impl FnOnce(&mut Inbox)) {
        what(&mut self.inbox());
        self.wake.notify_one();
    }
}

impl Consumers {
    pub(super) fn new(
        shared: &Arc<Shared>,
        first: Arc<Link>,
        declarer: Arc<Declarer>,
        recent: Arc<Mutex<Recent>>,
        queue_deleted: QueueDeleted,
        exclusives: Arc<Exclusives>,
    ) -> Arc<Self> {
        Arc::new(Self {
            shared: shared.clone(),
            declarer,
            recent,
            queue_deleted,
            exclusives,
            pool: Pool::new(shared, "consume", Some(first)),
            sessions: Mutex::default(),
        })
    }

    pub(super) fn subscribe(
        self: &Arc<Self>,
        to: &Arc<Mailbox>,
        token: Option<Token>,
        number: SubscriptionNumber,
        mut origin: QueueOrigin,
        prefetch: u16,
    ) -> Submit {
        if let Err(refusal) = topology::check(&origin) {
            return Submit::Refused(refusal);
        }
        // However it names a queue of its own, it is that one.
        if let Some(own) = self.exclusives.declaration(to.session(), &origin.queue) {
            origin.declare = Some(own);
        }
        let is_named = !origin.queue.is_empty();
        let is_exclusive = is_named && origin.declare.as_ref().is_some_and(|d| d.exclusive);
        let subscription = Arc::new(Subscription {
            to: to.clone(),
            number,
            origin,
            prefetch: prefetch.max(1),
            is_exclusive,
            inbox: Mutex::default(),
            wake: Notify::new(),
        });
        let before =
            self.sessions().entry(to.session()).or_default().insert(number, subscription.clone());
        if let Some(before) = before {
            // Unsubscribed, with deliveries that are still out: its number is another's now.
            before.tell(|inbox| inbox.session_ended = true);
        }
        if is_exclusive {
            self.shared.spawn(self.clone().run_exclusive(subscription, token));
        } else {
            let worker = Worker::new(self.clone(), subscription, self.pool.seat(), token);
            self.shared.spawn(async move {
                worker.run().await;
            });
        }
        Submit::Pending
    }

    async fn run_exclusive(self: Arc<Self>, subscription: Arc<Subscription>, token: Option<Token>) {
        let Subscription { to, origin, .. } = &*subscription;
        let (session, queue) = (to.session(), origin.queue.clone());
        let Some(declaration) = &origin.declare else { return };
        match self.exclusives.claim(to, &queue, declaration).await {
            Ok(seat) => {
                let was_there = Worker::new(self.clone(), subscription, seat, token).run().await;
                self.exclusives.release(session, &queue, was_there);
            }
            Err(refusal) => {
                self.forget(&subscription);
                if let Some(token) = token {
                    to.event(Event::Done { token, result: Err(refusal) });
                }
                let unsubscribe = subscription.inbox().unsubscribe.take();
                if let Some(Unsubscribe { token: Some(token), .. }) = unsubscribe {
                    to.event(Event::Done { token, result: Ok(Level::Confirmed) });
                }
            }
        }
    }

    pub(super) fn unsubscribe(
        &self,
        session: u64,
        subscription: SubscriptionNumber,
        token: Option<Token>,
        delete: bool,
    ) -> Submit {
        // Told under the lock: its task answers what it finds after it has left the table.
        let sessions = self.sessions();
        let known = sessions.get(&session).and_then(|session| session.get(&subscription));
        let Some(subscription) = known else { return Submit::Done(Level::Confirmed) };
        subscription.tell(|inbox| inbox.unsubscribe = Some(Unsubscribe { token, delete }));
        Submit::Pending
    }

    pub(super) fn settle(
        &self,
        session: u64,
        subscription: SubscriptionNumber,
        tags: &[u64],
        settlement: Settlement,
    ) {
        if let Some(subscription) = self.find(session, subscription) {
            let settlements = tags.iter().map(|tag| (*tag, settlement));
            subscription.tell(|inbox| inbox.settlements.extend(settlements));
        }
    }

    pub(super) fn session_ended(&self, session: u64) {
        self.exclusives.session_ended(session);
        let subscriptions = self.sessions().remove(&session);
        for subscription in subscriptions.into_iter().flat_map(HashMap::into_values) {
            subscription.tell(|inbox| inbox.session_ended = true);
        }
    }

    /// The task of a subscription is done with it.
    pub(super) fn forget(&self, subscription: &Arc<Subscription>) {
        let session = subscription.to.session();
        let mut sessions = self.sessions();
        let Some(subscriptions) = sessions.get_mut(&session) else { return };
        // Its number may have been given to another one meanwhile.
        if subscriptions
            .get(&subscription.number)
            .is_some_and(|known| Arc::ptr_eq(known, subscription))
        {
            subscriptions.remove(&subscription.number);
        }
        if subscriptions.is_empty() {
            sessions.remove(&session);
        }
    }

    fn find(&self, session: u64, number: SubscriptionNumber) -> Option<Arc<Subscription>> {
        self.sessions().get(&session)?.get(&number).cloned()
    }

    fn sessions(
        &self,
    ) -> MutexGuard<'_, HashMap<u64, HashMap<SubscriptionNumber, Arc<Subscription>>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
