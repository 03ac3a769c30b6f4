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
use crate::relay::error::{Refusal, RefusalKind, resource_locked};
use crate::relay::mailbox::Mailbox;
use crate::relay::origin::{ConsumerArguments, Declaration, QueueOrigin};

/// A SEND that waits for its queue holds up others behind it, so it does not wait for long.
const DECLARE_TIME: Duration = Duration::from_secs(5);
/// Of one session: all of them, and each subscription to one, are on one connection, which others
/// have too.
const MOST: usize = 200;

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
    queues: Queues,
    /// The connection of each session that has, or had, such queues.
    homes: HashMap<u64, Seat>,
}

#[derive(Debug, Default)]
struct Queues {
    by_name: HashMap<Arc<str>, Owned>,
    /// What each session has that is not about to go.
    counts: HashMap<u64, Counts>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    queues: usize,
    users: usize,
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

impl Queues {
    /// Makes the queue the session's, where it is nobody's. `false`: it is about to be nobody's.
    fn take(
        &mut self,
        session: u64,
        queue: &Arc<str>,
        declaration: &Declaration,
        users: usize,
    ) -> Result<bool, Refusal> {
        let has = self.count(session);
        let owned = self.by_name.get_mut(queue);
        if owned.as_ref().is_some_and(|owned| owned.is_leaving) {
            return Ok(false);
        }
        if owned.as_ref().is_some_and(|owned| owned.session != session) {
            return Err(resource_locked(queue));
        }
        if owned.is_none() && has.queues >= MOST || users > 0 && has.users >= MOST {
            return Err(too_many());
        }
        let counts = self.counts.entry(session).or_default();
        counts.users += users;
        if let Some(owned) = owned {
            owned.users += users;
        } else {
            counts.queues += 1;
            let (declaration, on) = (declaration.clone(), Weak::new());
            let owned = Owned { session, declaration, users, on, is_leaving: false };
            self.by_name.insert(queue.clone(), owned);
        }
        Ok(true)
    }

    /// One of `users` subscriptions of the session, or none of them, is done with the queue.
    /// Whether it is nobody's any more. A queue that goes with its last consumer is gone; any
    /// other stays the session's, unless it was never declared.
    fn release(&mut self, session: u64, queue: &Arc<str>, users: usize, was_there: bool) -> bool {
        let Some(owned) = self.by_name.get_mut(queue).filter(|owned| owned.session == session)
        else {
            return false;
        };
        owned.users = owned.users.saturating_sub(users);
        let is_unused = owned.users == 0 && !owned.is_leaving;
        let goes = owned.declaration.auto_delete || !was_there && owned.on.strong_count() == 0;
        let is_free = is_unused && goes;
        if let Some(counts) = self.counts.get_mut(&session) {
            counts.users = counts.users.saturating_sub(users);
            counts.queues = counts.queues.saturating_sub(usize::from(is_free));
            if *counts == Counts::default() {
                self.counts.remove(&session);
            }
        }
        if is_free {
            self.by_name.remove(queue);
        }
        is_free
    }

    /// The session's queues, which are about to go.
    fn leave(&mut self, session: u64) -> Vec<Arc<str>> {
        self.counts.remove(&session);
        let mut queues = Vec::new();
        for (name, owned) in &mut self.by_name {
            if owned.session == session {
                owned.is_leaving = true;
                queues.push(name.clone());
            }
        }
        queues
    }

    fn count(&self, session: u64) -> Counts {
        self.counts.get(&session).copied().unwrap_or_default()
    }
}

fn too_many() -> Refusal {
    let body = format!(
        "A session may have {MOST} exclusive queues and as many subscriptions to them, \
         and those on a connection to RabbitMQ not too many together.\n"
    );
    Refusal::new(RefusalKind::Limit, "Too many exclusive queues", body)
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
        let owned = table.queues.by_name.get(queue).filter(|owned| owned.session == session);
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

    /// The session's subscription to that queue has ended; whether the queue was ever there.
    pub(super) fn release(&self, session: u64, queue: &Arc<str>, was_there: bool) {
        self.let_go(session, queue, 1, was_there);
    }

    fn let_go(&self, session: u64, queue: &Arc<str>, users: usize, was_there: bool) {
        let is_free = self.table().queues.release(session, queue, users, was_there);
        if is_free {
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
            .by_name
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
            if let Some(owned) = self.table().queues.by_name.get_mut(queue) {
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
        self.let_go(of.session(), queue, 0, false);
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
        let has_none = queues.count(session) == Counts::default();
        let home = homes.entry(session).or_insert_with(|| self.pool.home());
        if has_none && home.is_spent() {
            *home = self.pool.home();
        }
        let seat = home.beside().ok_or_else(too_many)?;
        Ok(queues.take(session, queue, declaration, users)?.then_some(seat))
    }

    /// Its queues go. Until they have, nobody else gets them.
    pub(super) fn session_ended(self: &Arc<Self>, session: u64) {
        let (home, queues) = {
            let mut table = self.table();
            let Some(home) = table.homes.remove(&session) else { return };
            let queues = table.queues.leave(session);
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
                table.queues.by_name.remove(queue);
            }
            drop(table);
            exclusives.freed.notify_waiters();
        });
    }

    async fn delete(&self, home: &Seat, queues: &[Arc<str>]) {
        let Some(link) = home.kept() else {
            // Without its connection there are no queues of it either.
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

#[cfg(test)]
mod tests {
    use super::*;

    const DECLARATION: Declaration = Declaration { exclusive: true, ..Declaration::ANSWERS };

    fn name(number: usize) -> Arc<str> {
        Arc::from(format!("q{number}"))
    }

    #[test]
    fn a_queue_is_one_sessions_until_it_has_gone() {
        let (mut queues, q) = (Queues::default(), name(1));
        let lasting = Declaration { auto_delete: false, ..DECLARATION };
        let take = |queues: &mut Queues, session, users| queues.take(session, &q, &lasting, users);
        assert!(take(&mut queues, 1, 0).unwrap());
        assert!(take(&mut queues, 1, 1).unwrap());
        assert_eq!(take(&mut queues, 2, 1).unwrap_err().kind, RefusalKind::Denied);
        assert_eq!(queues.count(1), Counts { queues: 1, users: 1 });
        assert_eq!(queues.count(2), Counts::default());
        // A SEND whose declare fails takes no subscription away.
        assert!(!queues.release(1, &q, 0, false));
        // One that was consumed stays.
        assert!(!queues.release(1, &q, 1, true));
        assert_eq!(queues.leave(1), std::slice::from_ref(&q));
        assert_eq!(queues.count(1), Counts::default());
        assert!(!take(&mut queues, 2, 1).unwrap());
        queues.by_name.clear();
        assert!(take(&mut queues, 2, 1).unwrap());
        // It was never there.
        assert!(queues.release(2, &q, 1, false));
        assert!(queues.counts.is_empty() && queues.by_name.is_empty());
    }

    #[test]
    fn a_session_has_so_many() {
        let mut queues = Queues::default();
        let mut take =
            |session, number, users| queues.take(session, &name(number), &DECLARATION, users);
        for number in 0..MOST {
            assert!(take(1, number, 1).unwrap());
        }
        assert_eq!(take(1, MOST, 0).unwrap_err().kind, RefusalKind::Limit);
        assert_eq!(take(1, 0, 1).unwrap_err().kind, RefusalKind::Limit);
        // It sends to those that it has, and others have theirs.
        assert!(take(1, 0, 0).unwrap());
        assert!(take(2, MOST, 1).unwrap());
        assert!(queues.release(1, &name(0), 1, true));
        assert!(queues.take(1, &name(0), &DECLARATION, 1).unwrap());
    }
}
