//! How queues of the embedded broker come and go.
//!
//! The map of queues is locked for as long as a queue comes or goes, so that nobody subscribes to
//! one that is about to be deleted. Order of locks: the map, a queue, a mailbox.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use super::queue::{Gone, Queue};
use super::stored_queue::StoredQueue;
use super::{Embedded, QUEUES, lock};
use ulid::Ulid;

use crate::relay::error::{self, Refusal, RefusalKind};
use crate::relay::mailbox::{Event, Level, Mailbox, Submit, SubscriptionNumber, Token};
use crate::relay::origin::{
    Arguments, ConsumerArguments, Declaration, Origin, QueueOrigin, QueueType,
};
use crate::relay::{AckMode, SubscribeRequest};

/// An empty queue without consumers goes after this.
const QUEUE_IDLE: Duration = Duration::from_secs(300);

pub(super) type Shared = Arc<Mutex<Queue>>;
pub(super) type Map = HashMap<Arc<str>, Shared>;

impl Embedded {
    /// The queue of that name, declared where it is missing.
    pub(super) fn declared(
        &self,
        name: &Arc<str>,
        declaration: &Declaration,
        session: u64,
    ) -> Result<Shared, Refusal> {
        if let Some(queue) = self.known(name) {
            fits(&lock(&queue), name, declaration, session)?;
            return Ok(queue);
        }
        self.declare(&mut self.change(), name, declaration, session)
    }

    fn declare(
        &self,
        map: &mut Map,
        name: &Arc<str>,
        declaration: &Declaration,
        session: u64,
    ) -> Result<Shared, Refusal> {
        if let Some(queue) = map.get(name) {
            fits(&lock(queue), name, declaration, session)?;
            return Ok(queue.clone());
        }
        supported(&declaration.arguments)?;
        if map.len() >= QUEUES {
            return Err(Refusal::new(
                RefusalKind::Outage,
                "Too many queues",
                format!("the embedded broker holds at most {QUEUES} queues\n"),
            ));
        }
        let owner = declaration.exclusive.then_some(session);
        if owner.is_some() {
            lock(&self.owned).entry(session).or_default().push(name.clone());
        }
        let queue = Arc::new(Mutex::new(Queue::new(name.clone(), declaration.clone(), owner)));
        map.insert(name.clone(), queue.clone());
        Ok(queue)
    }

    /// Subscribes a queue: declares and binds it first where that is asked for.
    pub(super) fn consume(
        &self,
        to: &Arc<Mailbox>,
        token: Option<Token>,
        request: &SubscribeRequest,
        origin: &QueueOrigin,
    ) -> Result<Submit, Refusal> {
        let mut map = self.change();
        let is_new = !map.contains_key(&origin.queue);
        let queue = match &origin.declare {
            Some(declaration) => {
                self.declare(&mut map, &origin.queue, declaration, to.session())?
            }
            None => {
                let known = map.get(&origin.queue).cloned();
                known.ok_or_else(|| error::not_found("queue", &origin.queue))?
            }
        };
        if lock(&queue).owner.is_some_and(|owner| owner != to.session()) {
            return Err(error::resource_locked(&origin.queue));
        }
        let mut submit = Submit::Done(Level::Memory);
        if let Some(binding) = &origin.binding
            && !lock(&queue).bindings.contains(binding)
        {
            if let Err(refusal) = self.exchanges.bind(&queue, binding) {
                if is_new {
                    self.remove(&mut map, &origin.queue);
                }
                return Err(refusal);
            }
            let mut queue = lock(&queue);
            queue.bindings.push(binding.clone());
            queue.is_stored = false;
        }
        if self.store(&origin.queue, &queue, token.map(|token| (to.clone(), token))) {
            submit = Submit::Pending;
        }
        let gone = lock(&queue).subscribe(to, request.subscription, request.prefetch);
        drop(map);
        self.let_go(&origin.queue, gone);
        Ok(submit)
    }

    /// Makes a queue of answers and subscribes it.
    pub fn open_reply_queue(&self, to: &Arc<Mailbox>, subscription: SubscriptionNumber) {
        /// Nobody waits to ask for the next message: there is no ACK.
        const PREFETCH: u16 = 1_000;
        let queue: Arc<str> = Arc::from(format!("amq.gen-{}", Ulid::generate()));
        let origin = QueueOrigin {
            queue: queue.clone(),
            declare: Some(Declaration::ANSWERS),
            binding: None,
            consumer: ConsumerArguments::default(),
        };
        let request = SubscribeRequest {
            subscription,
            origin: Origin::Queue(Box::new(origin.clone())),
            ack: AckMode::Auto,
            prefetch: PREFETCH,
        };
        let result = self.consume(to, None, &request, &origin).map(|_| queue);
        to.event(Event::ReplyQueue { subscription, result });
    }

    /// Keeps what a queue is, where it is to survive a restart and is more than a name. Whether
    /// an answer follows.
    fn store(
        &self,
        name: &Arc<str>,
        queue: &Shared,
        answer: Option<(Arc<Mailbox>, Token)>,
    ) -> bool {
        let Some(journal) = &self.journal else { return false };
        let mut queue = lock(queue);
        let Declaration { durable, auto_delete, exclusive, arguments } = &queue.declaration;
        let survives = *durable && !auto_delete && !exclusive;
        let is_plain = queue.bindings.is_empty() && *arguments == Arguments::default();
        if !survives || is_plain || queue.is_stored {
            return false;
        }
        let stored = StoredQueue {
            name: name.clone(),
            declaration: queue.declaration.clone(),
            bindings: queue.bindings.clone(),
        };
        queue.is_stored = true;
        let is_answered = answer.is_some();
        journal.declare(stored, answer);
        is_answered
    }

    /// Takes in what the journal had at start-up.
    pub(super) fn recover(&self, stored: StoredQueue) {
        let StoredQueue { name, declaration, bindings } = stored;
        let Ok(queue) = self.declared(&name, &declaration, 0) else { return };
        for binding in &bindings {
            if let Err(refusal) = self.exchanges.bind(&queue, binding) {
                tracing::warn!(queue = %name, %refusal, "a stored binding has no exchange");
            }
        }
        let mut queue = lock(&queue);
        (queue.bindings, queue.is_stored) = (bindings, true);
    }

    /// A subscription ends; its queue may go with it.
    pub(super) fn leave_queue(
        &self,
        name: &Arc<str>,
        delete: bool,
        leave: impl FnOnce(&mut Queue) -> Vec<Gone>,
    ) {
        let mut map = self.change();
        let Some(queue) = map.get(name).cloned() else { return };
        let (gone, goes) = {
            let mut queue = lock(&queue);
            let gone = leave(&mut queue);
            // What has no bindings is shared by whoever knows its name.
            (gone, queue.is_forsaken() || delete && !queue.bindings.is_empty())
        };
        if goes {
            self.remove(&mut map, name);
        }
        drop(map);
        self.let_go(name, gone);
    }

    /// The queues of a session go with it.
    pub(super) fn remove_owned(&self, session: u64) {
        let Some(names) = lock(&self.owned).remove(&session) else { return };
        let mut map = self.change();
        for name in names {
            let is_own = map.get(&name).is_some_and(|queue| lock(queue).owner == Some(session));
            if is_own {
                self.remove(&mut map, &name);
            }
        }
    }

    /// Forgets queues that nobody has used for five minutes, or for as long as they say.
    pub(super) fn remove_idle(&self, now: Instant) {
        let mut expired = Vec::new();
        let mut idle = Vec::new();
        for (name, queue) in self.queues().iter() {
            let mut state = lock(queue);
            let gone = state.expire();
            if !gone.is_empty() {
                expired.push((name.clone(), gone));
            }
            if state.is_idle(now, QUEUE_IDLE) {
                idle.push(name.clone());
            }
        }
        for (name, gone) in expired {
            self.let_go(&name, gone);
        }
        let mut map = self.change();
        for name in idle {
            // Somebody may have come meanwhile.
            if map.get(&name).is_some_and(|queue| lock(queue).is_idle(now, QUEUE_IDLE)) {
                self.remove(&mut map, &name);
            }
        }
    }

    /// Deletes a queue. Those who still consume from it are told.
    fn remove(&self, map: &mut Map, name: &Arc<str>) {
        let Some(queue) = map.remove(name) else { return };
        let (bindings, subscribers, gone, is_stored) = {
            let mut state = lock(&queue);
            let subscribers = state.subscribers();
            let gone = state.delete();
            (std::mem::take(&mut state.bindings), subscribers, gone, state.is_stored)
        };
        for binding in bindings {
            self.exchanges.unbind(&queue, &binding);
        }
        for (mailbox, subscription) in subscribers {
            tell_cancelled(&mailbox, subscription);
        }
        if let Some(journal) = &self.journal
            && (is_stored || gone.iter().any(|gone| gone.item.stored))
        {
            journal.delete(name.clone());
        }
    }

    pub(super) fn known(&self, name: &Arc<str>) -> Option<Shared> {
        self.queues().get(name).cloned()
    }

    fn queues(&self) -> RwLockReadGuard<'_, Map> {
        self.queues.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Map> {
        self.queues.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell_cancelled(mailbox: &Arc<Mailbox>, subscription: SubscriptionNumber) {
    let refusal = Refusal::new(
        RefusalKind::Cancelled,
        "Server cancelled subscription",
        "The server has canceled a subscription.\n",
    );
    mailbox.event(Event::Cancelled { subscription, refusal });
}

/// Whether the queue that is there is the one that was asked for. Who asks for nothing in
/// particular takes it as it is.
fn fits(queue: &Queue, name: &str, wanted: &Declaration, session: u64) -> Result<(), Refusal> {
    if queue.owner.is_some_and(|owner| owner != session) {
        return Err(error::resource_locked(name));
    }
    let is = &queue.declaration;
    let unequal = [
        ("durable", is.durable != wanted.durable),
        ("auto_delete", is.auto_delete != wanted.auto_delete),
        ("exclusive", is.exclusive != wanted.exclusive),
        ("x-message-ttl", is.arguments.message_ttl != wanted.arguments.message_ttl),
        ("x-expires", is.arguments.expires != wanted.arguments.expires),
        ("x-max-length", is.arguments.max_length != wanted.arguments.max_length),
        ("x-max-length-bytes", is.arguments.max_length_bytes != wanted.arguments.max_length_bytes),
    ];
    match unequal.into_iter().find(|(_, unequal)| *unequal) {
        Some((argument, _)) if *wanted != Declaration::QUEUE => {
            Err(error::precondition_failed(name, argument))
        }
        _ => Ok(()),
    }
}

/// What this broker does not do is refused: taken for a plain queue it would lose messages.
fn supported(arguments: &Arguments) -> Result<(), Refusal> {
    let refused = [
        ("x-dead-letter-exchange", arguments.dead_letter_exchange.is_some()),
        ("x-dead-letter-routing-key", arguments.dead_letter_routing_key.is_some()),
        ("x-max-priority", arguments.max_priority.is_some()),
        (
            "x-queue-type",
            matches!(arguments.queue_type, Some(QueueType::Quorum | QueueType::Stream)),
        ),
        ("x-max-age", arguments.max_age.is_some()),
        ("x-stream-max-segment-size-bytes", arguments.stream_max_segment_size_bytes.is_some()),
        ("x-stream-filter-size-bytes", arguments.stream_filter_size_bytes.is_some()),
    ];
    match refused.into_iter().find(|(_, refused)| *refused) {
        Some((name, _)) => Err(Refusal::new(
            RefusalKind::UnknownDestination,
            "Unsupported queue argument",
            format!("'{name}': the embedded broker has no such queues; RabbitMQ has\n"),
        )),
        None => Ok(()),
    }
}
