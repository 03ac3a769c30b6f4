//! Which sessions of which user are in this process, and for which destinations.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::pump::Job;
use crate::destination::UserDestination;
use crate::message::Message;
use crate::persistence::UnreadId;
use crate::relay::mailbox::{Delivery, Entry, Mailbox, Source, SubscriptionNumber};

const SHARDS: usize = 16;

#[derive(Debug)]
pub(super) struct Registry {
    hasher: RandomState,
    shards: Vec<Mutex<Users>>,
}

/// The users of one shard.
#[derive(Debug, Default)]
pub(super) struct Users {
    users: HashMap<Arc<str>, User>,
}

#[derive(Debug, Default)]
struct User {
    /// How much of this user is in the line to the store.
    in_line: usize,
    present: Vec<Present>,
    /// Messages that came while all sessions were about to end: they wait for what these give
    /// back, which was sent before.
    held: Vec<Job>,
}

#[derive(Debug)]
struct Present {
    target: Arc<str>,
    mailbox: Arc<Mailbox>,
    subscription: SubscriptionNumber,
}

impl Registry {
    pub(super) fn new() -> Self {
        Self { hasher: RandomState::new(), shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// The shard of that user. What is put into the line for a user is put there under this
    /// lock, so that the line's order is the order of decisions here.
    pub(super) fn lock(&self, user: &str) -> MutexGuard<'_, Users> {
        let shard = usize::try_from(self.hasher.hash_one(user) % SHARDS as u64).unwrap_or(0);
        let shard = self.shards.get(shard).or_else(|| self.shards.first());
        let shard = shard.expect("a registry has 16 shards");
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Users {
    /// Nothing of the user is in the line.
    pub(super) fn is_idle(&self, user: &str) -> bool {
        self.users.get(user).is_none_or(|user| user.in_line == 0)
    }

    /// Something of the user goes into the line.
    pub(super) fn begin(&mut self, user: &Arc<str>) {
        self.users.entry(user.clone()).or_default().in_line += 1;
    }

    /// Something of the user has come out of the line.
    pub(super) fn end(&mut self, user: &str) {
        if let Some(entry) = self.users.get_mut(user) {
            entry.in_line = entry.in_line.saturating_sub(1);
        }
        self.forget_if_gone(user);
    }

    /// A session is there from now on, unless it has ended meanwhile.
    pub(super) fn add(
        &mut self,
        to: &UserDestination,
        mailbox: &Arc<Mailbox>,
        subscription: SubscriptionNumber,
    ) {
        // Looked at under the lock that `remove` takes after the mailbox was closed.
        if mailbox.is_closed() {
            return;
        }
        let present = Present { target: to.target.clone(), mailbox: mailbox.clone(), subscription };
        self.users.entry(to.user.clone()).or_default().present.push(present);
    }

    pub(super) fn remove(
        &mut self,
        to: &UserDestination,
        session: u64,
        subscription: SubscriptionNumber,
    ) {
        if let Some(user) = self.users.get_mut(&to.user) {
            user.present.retain(|present| {
                present.mailbox.session() != session || present.subscription != subscription
            });
        }
        self.forget_if_gone(&to.user);
    }

    /// Puts the message into the mailbox of every session that is there for it. Returns how many
    /// took it.
    pub(super) fn push(
        &self,
        to: &UserDestination,
        message: &Arc<Message>,
        unread_id: Option<UnreadId>,
    ) -> usize {
        let Some(user) = self.users.get(&to.user) else { return 0 };
        let present = user.present.iter().filter(|present| present.target == to.target);
        present
            .filter(|present| {
                let delivery = Delivery {
                    message: message.clone(),
                    subscription: present.subscription,
                    redelivered: false,
                    source: Source::User { unread_id },
                };
                present.mailbox.push(Entry::Own(Box::new(delivery))).is_ok()
            })
            .count()
    }

    /// Whether there are sessions for it, and all of them are about to end.
    pub(super) fn are_all_gone(&self, to: &UserDestination) -> bool {
        let present = self.users.get(&to.user).map(|user| user.present.iter());
        let mut present =
            present.into_iter().flatten().filter(|present| present.target == to.target).peekable();
        present.peek().is_some() && present.all(|present| !present.mailbox.is_open())
    }

    /// Lets a message wait until a session of the user has ended.
    pub(super) fn hold(&mut self, user: &Arc<str>, job: Job) {
        self.users.entry(user.clone()).or_default().held.push(job);
    }

    /// A session has ended: what waited for it, in the order in which it was sent.
    pub(super) fn take_held(&mut self, user: &str) -> Vec<Job> {
        let Some(entry) = self.users.get_mut(user) else { return Vec::new() };
        let mut held = std::mem::take(&mut entry.held);
        held.sort_by_key(Job::order);
        let (waiting, free) = held
            .into_iter()
            .partition(|job| job.destination().is_some_and(|to| self.are_all_gone(to)));
        if let Some(entry) = self.users.get_mut(user) {
            entry.held = waiting;
        }
        free
    }

    /// Puts a notice into the mailboxes; nobody proves to have got it.
    pub(super) fn notify(&self, user: &str, target: &str, message: impl FnOnce() -> Arc<Message>) {
        let Some(user) = self.users.get(user) else { return };
        let mut present = user.present.iter().filter(|p| &*p.target == target).peekable();
        if present.peek().is_none() {
            return;
        }
        let message = message();
        for Present { mailbox, subscription, .. } in present {
            // A session that is gone needs no notice.
            let _ = mailbox
                .push(Entry::Shared { message: message.clone(), subscription: *subscription });
        }
    }

    fn forget_if_gone(&mut self, user: &str) {
        let gone = |user: &User| user.in_line == 0 && user.present.is_empty();
        if self.users.get(user).is_some_and(gone) {
            self.users.remove(user);
        }
    }
}
