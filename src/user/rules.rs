//! `[[unread]]`: what is kept for whom, when it is replayed, and when it counts as read.

use crate::destination::Destination;
use crate::message::Message;
use crate::pattern::Pattern;
use crate::persistence::Keep;

use super::{ERRORS_TARGET, UNREAD_TARGET};

/// When a message is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storing {
    /// Where nobody is present, or with `persistent:true`.
    Absent,
    Always,
    /// Wins over `persistent:true`.
    Never,
}

/// When stored messages come before live ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// Where SUBSCRIBE says `x-unread:replay`.
    Header,
    Always,
}

/// When a stored message counts as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// When the user says so.
    Explicit,
    /// When a session has proved to have got it.
    Delivered,
}

/// One `[[unread]]` table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub destination: Pattern,
    pub store: Storing,
    pub replay: Replay,
    pub read: Read,
}

/// The rules in order; the first that matches counts.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    rules: Vec<Rule>,
}

impl Rules {
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { rules }
    }

    /// When messages for that destination are kept.
    #[must_use]
    pub fn storing(&self, destination: &Destination) -> Storing {
        if let Destination::User(to) = destination
            && matches!(&*to.target, UNREAD_TARGET | ERRORS_TARGET)
        {
            return Storing::Never;
        }
        self.find(destination).map_or(Storing::Absent, |rule| rule.store)
    }

    #[must_use]
    pub fn replay(&self, destination: &Destination) -> Replay {
        self.find(destination).map_or(Replay::Header, |rule| rule.replay)
    }

    #[must_use]
    pub fn read(&self, destination: &Destination) -> Read {
        self.find(destination).map_or(Read::Explicit, |rule| rule.read)
    }

    /// What the store is to do with a message. `never` is the sender's wish.
    pub(super) fn keep(&self, message: &Message, never: bool) -> Keep {
        match self.storing(&message.destination) {
            _ if never => Keep::Never,
            Storing::Never => Keep::Never,
            Storing::Always => Keep::Always,
            Storing::Absent if message.persistent => Keep::Always,
            Storing::Absent => Keep::IfAbsent,
        }
    }

    fn find(&self, destination: &Destination) -> Option<&Rule> {
        let Destination::User(to) = destination else { return None };
        self.rules.iter().find(|rule| rule.destination.matches(destination, &to.user))
    }
}
