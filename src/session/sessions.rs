//! Who is connected: how many there may be, and how to reach them all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use ulid::Ulid;

use crate::relay::mailbox::{Event, Mailbox, MailboxLimits};

/// How many sessions there may be.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    pub total: usize,
    pub per_user: Option<usize>,
    pub per_address: Option<usize>,
    /// Without a login yet.
    pub per_address_before_connected: usize,
    pub mailbox: MailboxLimits,
}

/// All sessions of this process.
#[derive(Debug)]
pub struct Sessions {
    limits: SessionLimits,
    state: Mutex<State>,
    left: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    draining: bool,
    open: HashMap<u64, Arc<Mailbox>>,
    users: HashMap<Arc<str>, usize>,
    addresses: HashMap<IpAddr, Address>,
}

#[derive(Debug, Default)]
struct Address {
    sessions: usize,
    unknown: usize,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlace {
    Draining,
    Total,
    Address,
    User,
}

/// A session's place among the others; given up when it is dropped.
#[derive(Debug)]
pub struct Place {
    sessions: Arc<Sessions>,
    mailbox: Arc<Mailbox>,
    name: Box<str>,
    address: IpAddr,
    user: Option<Arc<str>>,
    is_open: bool,
}

impl Sessions {
    #[must_use]
    pub fn new(limits: SessionLimits) -> Arc<Self> {
        Arc::new(Self { limits, state: Mutex::default(), left: Notify::new() })
    }

    /// A place for a new session; `user` where who it is is known already.
    ///
    /// # Errors
    /// Where a limit is reached, or the server is about to stop.
    pub fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        user: Option<&Arc<str>>,
    ) -> Result<Place, NoPlace> {
        let mut state = self.lock();
        if state.draining {
            return Err(NoPlace::Draining);
        }
        if state.open.len() >= self.limits.total {
            return Err(NoPlace::Total);
        }
        let of_address = state.addresses.entry(address).or_default();
        let is_full = self.limits.per_address.is_some_and(|most| of_address.sessions >= most)
            || of_address.unknown >= self.limits.per_address_before_connected && user.is_none();
        if is_full {
            return Err(NoPlace::Address);
        }
        if let Some(user) = user {
            let count = state.users.entry(user.clone()).or_default();
            if self.limits.per_user.is_some_and(|most| *count >= most) {
                if state.addresses.get(&address).is_some_and(|address| address.sessions == 0) {
                    state.addresses.remove(&address);
                }
                return Err(NoPlace::User);
            }
            *count += 1;
        }
        let of_address = state.addresses.entry(address).or_default();
        of_address.sessions += 1;
        of_address.unknown += usize::from(user.is_none());
        state.next += 1;
        let number = state.next;
        let mailbox = Mailbox::new(number, self.limits.mailbox);
        state.open.insert(number, mailbox.clone());
        drop(state);
        Ok(Place {
            sessions: self.clone(),
            mailbox,
            name: Ulid::generate().to_string().to_lowercase().into(),
            address,
            user: user.cloned(),
            is_open: true,
        })
    }

    /// How many sessions are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().open.len()
    }

    /// Lets nobody in any more and ends all sessions with that close code.
    pub fn drain(&self, code: u16, reason: &'static str) {
        let mut state = self.lock();
        state.draining = true;
        let open: Vec<_> = state.open.values().cloned().collect();
        drop(state);
        open.iter().for_each(|mailbox| mailbox.event(Event::Close { code, reason }));
    }

    /// Waits until no session is open.
    pub async fn empty(&self) {
        loop {
            let left = self.left.notified();
            if self.count() == 0 {
                return;
            }
            left.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    #[must_use]
    pub fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    /// The session's name: nobody can guess it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// It is known now who it is; `false` where the user has too many sessions.
    pub fn take_user(&mut self, user: &Arc<str>) -> bool {
        let mut state = self.sessions.lock();
        let count = state.users.entry(user.clone()).or_default();
        if self.sessions.limits.per_user.is_some_and(|most| *count >= most) {
            return false;
        }
        *count += 1;
        if let Some(address) = state.addresses.get_mut(&self.address) {
            address.unknown = address.unknown.saturating_sub(1);
        }
        drop(state);
        self.user = Some(user.clone());
        true
    }

    /// Gives the place up.
    pub fn leave(&mut self) {
        if !std::mem::take(&mut self.is_open) {
            return;
        }
        let mut state = self.sessions.lock();
        state.open.remove(&self.mailbox.session());
        if let Some(user) = &self.user
            && let Some(count) = state.users.get_mut(user)
        {
            *count -= 1;
            if *count == 0 {
                state.users.remove(user);
            }
        }
        if let Some(address) = state.addresses.get_mut(&self.address) {
            address.sessions -= 1;
            address.unknown -= usize::from(self.user.is_none() && address.unknown > 0);
            if address.sessions == 0 {
                state.addresses.remove(&self.address);
            }
        }
        drop(state);
        self.sessions.left.notify_waiters();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}
