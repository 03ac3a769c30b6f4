//! How RabbitMQ is, as this node's connections find it: one line in the log for each change.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use tracing::{error, info, warn};

use super::connection::Link;

/// How RabbitMQ is. The texts are for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    Up,
    /// An alarm of memory or disk: it delivers, and takes no messages.
    Blocked(String),
    /// Not there, or not answering. It is dialled again.
    Away(String),
    /// It will not have this relay: login, virtual host, permission. It is asked again, seldom.
    Refused(String),
}

impl Condition {
    /// A closed set: a label of metrics and logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Blocked(_) => "blocked",
            Self::Away(_) => "away",
            Self::Refused(_) => "refused",
        }
    }

    /// All names.
    pub const NAMES: [&'static str; 4] = ["up", "blocked", "away", "refused"];

    const fn badness(&self) -> u8 {
        match self {
            Self::Up => 0,
            Self::Blocked(_) => 1,
            Self::Away(_) => 2,
            Self::Refused(_) => 3,
        }
    }
}

/// A connection's place in [`State`].
pub(super) type Place = u64;

/// What all connections find.
#[derive(Debug)]
pub(super) struct State(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    connections: BTreeMap<Place, Connection>,
    next: Place,
    /// What is refused on a connection that is up, by what it is about.
    refused: BTreeMap<&'static str, String>,
    logged: &'static str,
    since: Instant,
}

#[derive(Debug)]
struct Connection {
    name: &'static str,
    is_open: bool,
    condition: Condition,
    link: Weak<Link>,
}

impl Default for State {
    fn default() -> Self {
        Self(Mutex::new(Inner {
            connections: BTreeMap::new(),
            next: 0,
            refused: BTreeMap::new(),
            logged: Condition::Up.name(),
            since: Instant::now(),
        }))
    }
}

impl State {
    /// A connection that is to be kept up from now on. One that was never up is no trouble before
    /// a try has failed.
    pub(super) fn enter(&self, name: &'static str) -> Place {
        let mut inner = self.lock();
        inner.next += 1;
        let place = inner.next;
        let connection =
            Connection { name, is_open: false, condition: Condition::Up, link: Weak::new() };
        inner.connections.insert(place, connection);
        place
    }

    /// That connection is not wanted any more.
    pub(super) fn leave(&self, place: Place) {
        let mut inner = self.lock();
        inner.connections.remove(&place);
        inner.log();
    }

    /// What that connection finds. Blocked is open too.
    pub(super) fn set(&self, place: Place, condition: Condition) {
        let mut inner = self.lock();
        if let Some(connection) = inner.connections.get_mut(&place) {
            connection.is_open = matches!(condition, Condition::Up | Condition::Blocked(_));
            connection.condition = condition;
        }
        inner.log();
    }

    /// That connection is up.
    pub(super) fn opened(&self, place: Place, link: &Arc<Link>) {
        if let Some(connection) = self.lock().connections.get_mut(&place) {
            connection.link = Arc::downgrade(link);
        }
        self.set(place, Condition::Up);
    }

    /// RabbitMQ refuses something that the relay cannot do without, or does no longer.
    pub(super) fn refuse(&self, what: &'static str, reason: Option<String>) {
        let mut inner = self.lock();
        match reason {
            Some(reason) => inner.refused.insert(what, reason),
            None => inner.refused.remove(what),
        };
        inner.log();
    }

    /// The worst that any connection finds.
    pub(super) fn condition(&self) -> Condition {
        self.lock().condition()
    }

    /// Names of connections, and how many of each are up.
    pub(super) fn open(&self) -> BTreeMap<&'static str, u64> {
        let mut open = BTreeMap::new();
        for connection in self.lock().connections.values() {
            *open.entry(connection.name).or_default() += u64::from(connection.is_open);
        }
        open
    }

    /// Channels that are open on all connections.
    pub(super) fn channels(&self) -> usize {
        let inner = self.lock();
        let links = inner.connections.values().filter_map(|connection| connection.link.upgrade());
        links.map(|link| link.channels()).sum()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn condition(&self) -> Condition {
        if let Some((what, reason)) = self.refused.first_key_value() {
            return Condition::Refused(format!("{what}: {reason}"));
        }
        let worst = self.connections.values().map(|connection| &connection.condition);
        worst.max_by_key(|condition| condition.badness()).cloned().unwrap_or(Condition::Up)
    }

    /// One line where all together is not what it was. A reason that changes is no change: the
    /// nodes of a cluster are asked in turn.
    fn log(&mut self) {
        let condition = self.condition();
        let state = condition.name();
        if state == self.logged {
            return;
        }
        let before = std::mem::replace(&mut self.logged, state);
        let seconds = self.since.elapsed().as_secs_f32();
        self.since = Instant::now();
        match condition {
            Condition::Up => info!(state, before, seconds, "RabbitMQ is back"),
            Condition::Blocked(reason) => warn!(
                state,
                before, reason, "RabbitMQ takes no messages; who sends waits, deliveries go on"
            ),
            Condition::Away(reason) => {
                warn!(state, before, reason, "RabbitMQ is away; sessions stay, messages wait");
            }
            Condition::Refused(reason) => {
                error!(state, before, reason, "RabbitMQ refuses this relay; sessions stay");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_of_all_connections_counts() {
        let state = State::default();
        let [publish, consume, other] =
            ["publish", "consume", "consume"].map(|name| state.enter(name));
        assert_eq!(state.condition(), Condition::Up);
        let open = || Vec::from_iter(state.open());
        assert_eq!(open(), [("consume", 0), ("publish", 0)]);
        let blocked = || Condition::Blocked("low on memory".into());
        let away = || Condition::Away("no answer".into());
        let refused = || Condition::Refused("the login".into());
        let steps = [
            (consume, Condition::Up, Condition::Up),
            (publish, blocked(), blocked()),
            (other, away(), away()),
            (consume, refused(), refused()),
            (other, Condition::Up, refused()),
            (consume, Condition::Up, blocked()),
            (publish, Condition::Up, Condition::Up),
        ];
        for (place, found, expected) in steps {
            state.set(place, found);
            assert_eq!(state.condition(), expected);
            assert_eq!(state.lock().logged, expected.name());
        }
        assert_eq!(open(), [("consume", 2), ("publish", 1)]);
        state.refuse("the node queue", Some("no permission".into()));
        assert_eq!(state.condition(), Condition::Refused("the node queue: no permission".into()));
        state.refuse("the node queue", None);
        state.set(other, away());
        state.leave(other);
        assert_eq!(state.condition(), Condition::Up);
        assert_eq!(open(), [("consume", 1), ("publish", 1)]);
    }
}
