//! Queues that are one session's alone.
//!
//! RabbitMQ locks an exclusive queue to the connection that declared it. Connections are shared
//! here: a session that has such queues has one of a few connections for all of them, and which
//! queue is whose is known here. What is another relay's or another program's, RabbitMQ says.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use lapin::options::QueueDeleteOptions;
use lapin::types::ShortString;
use tokio::sync::Notify;
use tracing::warn;

use super::connection::{Link, Shared};
use super::declarer::{DeclareError, declare_on};
use super::pool::{Pool, Seat};
use super::refusal::{self, Fault};
use super::topology;
use crate::relay::error::{Refusal, resource_locked};
use crate::relay::mailbox::Mailbox;
use crate::relay::origin::{ConsumerArguments, Declaration, QueueOrigin};

/// A SEND that waits for its queue holds up others behind it, so it does not wait for long.
const DECLARE_TIME: Duration = Duration::from_secs(5);

/// The handle.
#[derive(Debug)]
pub(super) struct Exclusives {
    shared: Arc<Shared>,
    pool: Arc<Pool>,
    table: Mutex<Table>,
    /// A queue is nobody's any more.
    freed: Notify,
}

#[derive(Debug, Default)]
struct Table {
    queues: HashMap<Arc<str>, Owned>,
    /// The connection of each session that has such queues.
    homes: HashMap<u64, Seat>,
}

#[derive(Debug)]
struct Owned {
    session: u64,
    declaration: Declaration,
    /// Subscriptions of its session.
    users: usize,
    /// The connection on which a SEND declared it.
    on: Weak<Link>,
    /// Its session has ended, and it is being deleted.
    is_leaving: bool,
}

impl Exclusives {
    pub(super) fn new(shared: &Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            shared: shared.clone(),
            pool: Pool::new(shared, "exclusive", None),
            table: Mutex::default(),
            freed: Notify::new(),
        })
    }

    /// How the session has declared that queue, where it is its own.
    pub(super) fn declaration(&self, session: u64, queue: &str) -> Option<Declaration> {
        let table = self.table();
        let owned = table.queues.get(queue).filter(|owned| owned.session == session);
        owned.map(|owned| owned.declaration.clone())
    }

    /// A seat for a subscription to that queue, which is the session's from now on; the other
    /// side of it is [`Self::release`].
    pub(super) async fn claim(
        &self,
        of: &Arc<Mailbox>,
        queue: &Arc<str>,
        declaration: &Declaration,
    ) -> Result<Seat, Refusal> {
        self.own(of, queue, declaration, 1).await
    }

    /// The session's subscription to that queue has ended. A queue that goes with its last
    /// consumer is gone; any other stays the session's, unless it was never declared.
    pub(super) fn release(&self, session: u64, queue: &Arc<str>, was_there: bool) {
        let mut table = self.table();
        let Some(owned) = table.queues.get_mut(queue).filter(|owned| owned.session == session)
        else {
            return;
        };
        owned.users = owned.users.saturating_sub(1);
        let is_unused = owned.users == 0 && !owned.is_leaving;
        let goes = owned.declaration.auto_delete || !was_there && owned.on.strong_count() == 0;
        if is_unused && goes {
            table.queues.remove(queue);
            drop(table);
            self.freed.notify_waiters();
        }
    }

    /// Declares the queue for a SEND of that session.
    pub(super) async fn declare(
        &self,
        of: &Arc<Mailbox>,
        queue: &Arc<str>,
        declaration: &Declaration,
    ) -> Result<(), DeclareError> {
        let declare = self.declare_now(of, queue, declaration);
        match tokio::time::timeout(DECLARE_TIME, declare).await {
            Ok(result) => result,
            Err(_) => Err(DeclareError::Refused(refusal::outage(false))),
        }
    }

    async fn declare_now(
        &self,
        of: &Arc<Mailbox>,
        queue: &Arc<str>,
        declaration: &Declaration,
    ) -> Result<(), DeclareError> {
        let seat = self.own(of, queue, declaration, 0).await.map_err(DeclareError::Refused)?;
        let Some(link) = seat.link().await else { return Err(DeclareError::Stopped) };
        let is_there = self
            .table()
            .queues
            .get(queue)
            .is_some_and(|owned| std::ptr::eq(owned.on.as_ptr(), Arc::as_ptr(&link)));
        if is_there {
            return Ok(());
        }
        let origin = QueueOrigin {
            queue: queue.clone(),
            declare: Some(declaration.clone()),
            binding: None,
            consumer: ConsumerArguments::default(),
        };
        let result = on_channel(&link, async |channel| declare_on(channel, &origin).await).await;
        let Err(error) = result else {
            if let Some(owned) = self.table().queues.get_mut(queue) {
                owned.on = Arc::downgrade(&link);
            }
            return Ok(());
        };
        let refusal = match Fault::of(&error) {
            Fault::Refused(code) => {
                seat.closed_channel(&link);
                warn!("RabbitMQ refuses to declare a queue: {error}");
                refusal::of_queue(code, queue)
            }
            Fault::Unavailable => {
                seat.closed_channel(&link);
                refusal::unavailable()
            }
            Fault::Violation | Fault::Gone => refusal::outage(false),
        };
        self.release(of.session(), queue, false);
        Err(DeclareError::Refused(refusal))
    }

    /// Makes the queue the session's, where it is nobody's.
    async fn own(
        &self,
        of: &Arc<Mailbox>,
        queue: &Arc<str>,
        declaration: &Declaration,
        users: usize,
    ) -> Result<Seat, Refusal> {
        loop {
            let freed = self.freed.notified();
            if let Some(seat) = self.own_now(of, queue, declaration, users)? {
                return Ok(seat);
            }
            freed.await;
        }
    }

    /// The same. `None`: it is about to be nobody's.
    fn own_now(
        &self,
        of: &Arc<Mailbox>,
        queue: &Arc<str>,
        declaration: &Declaration,
        users: usize,
    ) -> Result<Option<Seat>, Refusal> {
        // The session's end is told only after its mailbox was closed; so it is looked at under
        // the lock.
        let mut table = self.table();
        let Table { queues, homes } = &mut *table;
        let session = of.session();
        if of.is_closed() {
            return Err(resource_locked(queue));
        }
        match queues.get_mut(queue) {
            Some(owned) if owned.is_leaving => return Ok(None),
            Some(owned) if owned.session == session => owned.users += users,
            Some(_) => return Err(resource_locked(queue)),
            None => {
                let (declaration, on) = (declaration.clone(), Weak::new());
                let owned = Owned { session, declaration, users, on, is_leaving: false };
                queues.insert(queue.clone(), owned);
            }
        }
        let home = homes.entry(session).or_insert_with(|| self.pool.seat());
        Ok(Some(home.beside()))
    }

    /// Its queues go. Until they have, nobody else gets them.
    pub(super) fn session_ended(self: &Arc<Self>, session: u64) {
        let (home, queues) = {
            let mut table = self.table();
            let Some(home) = table.homes.remove(&session) else { return };
            let mut queues = Vec::new();
            for (name, owned) in &mut table.queues {
                if owned.session == session {
                    owned.is_leaving = true;
                    queues.push(name.clone());
                }
            }
            (home, queues)
        };
        if queues.is_empty() {
            return;
        }
        let exclusives = self.clone();
        self.shared.spawn(async move {
            exclusives.delete(&home, &queues).await;
            let mut table = exclusives.table();
            for queue in &queues {
                table.queues.remove(queue);
            }
            drop(table);
            exclusives.freed.notify_waiters();
        });
    }

    async fn delete(&self, home: &Seat, queues: &[Arc<str>]) {
        let Some(link) = home.current() else {
            // Without a connection there are no queues of it either.
            return;
        };
        for queue in queues {
            let name = topology::short(queue).unwrap_or_default();
            let result = on_channel(&link, async |channel| {
                channel.queue_delete(name, QueueDeleteOptions::default()).await.map(drop)
            })
            .await;
            if let Err(error) = result
                && let Fault::Refused(_) = Fault::of(&error)
            {
                home.closed_channel(&link);
                warn!("RabbitMQ does not delete a session's queue: {error}");
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does one thing on a channel of its own.
async fn on_channel(
    link: &Link,
    work: impl AsyncFnOnce(&lapin::Channel) -> lapin::Result<()>,
) -> lapin::Result<()> {
    let channel = link.open_channel().await?;
    link.answer(work(&channel)).await?;
    // It was done; a channel that does not close goes with the connection.
    drop(link.answer(channel.close(200, ShortString::from("done"))).await);
    Ok(())
}
