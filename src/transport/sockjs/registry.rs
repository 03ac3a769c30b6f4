//! The sessions of one endpoint by the names that clients chose for them.
//!
//! A client's name finds a session, and never is one: two endpoints may have sessions of the same
//! name, and inside the server a session has a name that nobody can guess.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::pipe::{Busy, Pipe};

/// How a session receives. It does not change while it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Xhr,
    XhrStreaming,
    EventSource,
    HtmlFile,
    Jsonp,
}

/// Whose session it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    User(Arc<str>),
    /// Nobody was logged in when it began.
    Address(IpAddr),
}

/// A session as requests find it.
#[derive(Clone, Debug)]
pub struct Found {
    pub pipe: Arc<Pipe>,
    pub kind: Kind,
    pub owner: Owner,
}

/// All sessions of an endpoint.
#[derive(Debug, Default)]
pub struct Registry {
    sessions: Mutex<HashMap<Box<str>, Found>>,
}

/// What ends a session for those who look for it, when it is dropped.
#[derive(Debug)]
pub struct Registered {
    registry: Arc<Registry>,
    name: Box<str>,
    pipe: Arc<Pipe>,
}

/// The receiver of a session. Dropped before [`Attached::finish`] it takes the session with it:
/// its connection broke.
#[derive(Debug)]
pub struct Attached {
    registry: Arc<Registry>,
    name: Box<str>,
    pipe: Arc<Pipe>,
    number: u64,
    is_finished: bool,
}

impl Registry {
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Found> {
        self.lock().get(name).cloned()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Enters a session. None where another request was faster.
    #[must_use]
    pub fn insert(self: &Arc<Self>, name: &str, found: Found) -> Option<Registered> {
        let pipe = found.pipe.clone();
        let mut sessions = self.lock();
        if sessions.contains_key(name) {
            return None;
        }
        sessions.insert(name.into(), found);
        Some(Registered { registry: self.clone(), name: name.into(), pipe })
    }

    /// Becomes the receiver of that session. None where it is not that name's any more.
    ///
    /// # Errors
    /// [`Busy`] where it has a receiver.
    pub fn attach(
        self: &Arc<Self>,
        name: &str,
        pipe: &Arc<Pipe>,
    ) -> Result<Option<Attached>, Busy> {
        let sessions = self.lock();
        if sessions.get(name).is_none_or(|found| !Arc::ptr_eq(&found.pipe, pipe)) {
            return Ok(None);
        }
        let number = pipe.attach()?;
        let (registry, pipe) = (self.clone(), pipe.clone());
        Ok(Some(Attached { registry, name: name.into(), pipe, number, is_finished: false }))
    }

    fn remove(sessions: &mut HashMap<Box<str>, Found>, name: &str, pipe: &Arc<Pipe>) {
        if sessions.get(name).is_some_and(|found| Arc::ptr_eq(&found.pipe, pipe)) {
            sessions.remove(name);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Found>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registered {
    #[must_use]
    pub fn pipe(&self) -> &Arc<Pipe> {
        &self.pipe
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        Registry::remove(&mut self.registry.lock(), &self.name, &self.pipe);
        self.pipe.give_up();
    }
}

impl Attached {
    #[must_use]
    pub fn pipe(&self) -> &Arc<Pipe> {
        &self.pipe
    }

    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The response ends, and has everything that it was to have.
    pub fn finish(&mut self) {
        if !std::mem::replace(&mut self.is_finished, true) {
            self.pipe.detach(self.number, Instant::now());
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        // One step, so that nobody attaches to a session that is about to go.
        let mut sessions = self.registry.lock();
        if self.pipe.abort(self.number) {
            Registry::remove(&mut sessions, &self.name, &self.pipe);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::sockjs::payload::PayloadLimits;
    use crate::transport::sockjs::pipe::PipeConfig;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    fn found() -> Found {
        let config = PipeConfig { disconnect_delay: Duration::from_secs(5), messages_ahead: 10 };
        let limits = PayloadLimits { bytes: 100, messages: 10 };
        let owner = Owner::Address(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Found { pipe: Pipe::new(config, limits, Instant::now()), kind: Kind::Xhr, owner }
    }

    #[test]
    fn a_receiver_that_breaks_takes_its_session_with_it() {
        let registry = Arc::new(Registry::default());
        let (first, second) = (found(), found());
        let registered = registry.insert("a", first.clone()).unwrap();
        assert!(registry.insert("a", second.clone()).is_none());
        let mut attached = registry.attach("a", &first.pipe).unwrap().unwrap();
        assert!(registry.attach("a", &first.pipe).is_err());
        attached.finish();
        drop(attached);
        assert_eq!(registry.count(), 1);
        drop(registry.attach("a", &first.pipe).unwrap().unwrap());
        assert_eq!(registry.count(), 0);
        // The name is free at once, and the old session's end does not touch the new one.
        let _kept = registry.insert("a", second.clone()).unwrap();
        drop(registered);
        assert!(registry.attach("a", &first.pipe).unwrap().is_none());
        assert!(registry.attach("a", &second.pipe).unwrap().is_some());
    }
}
