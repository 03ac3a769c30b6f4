//! Sessions on other nodes: what goes to them, and what comes from there.
//!
//! A message that is stored is pushed and forgotten. One that is stored nowhere is waited for: the
//! sender's RECEIPT comes when the other nodes have it, and where one does not say so in time it
//! is kept as unread.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::destination::UserDestination;
use crate::message::Message;
use crate::persistence::{Keep, Op, UnreadId};
use crate::relay::error::{Refusal, RefusalKind};
use crate::relay::mailbox::Level;
use crate::relay::rabbitmq::{Done, Fate, Nodes};

use super::envelope::{Envelope, Kind};
use super::pump::{self, Answer, Job, Then, answer_with};
use super::registry::Users;
use super::{Shared, UNREAD_TARGET};

/// The other nodes where a message goes.
pub(super) struct Abroad<'a> {
    shared: &'a Arc<Shared>,
    way: &'a Arc<Nodes>,
    nodes: Vec<Arc<str>>,
}

impl<'a> Abroad<'a> {
    /// `None` where it goes nowhere.
    pub(super) fn new(shared: &'a Arc<Shared>, nodes: Vec<Arc<str>>) -> Option<Self> {
        let way = shared.nodes.as_ref()?;
        (!nodes.is_empty()).then_some(Self { shared, way, nodes })
    }

    /// Sends the message there. Gives the answer back where it need not wait for that.
    pub(super) fn send(
        self,
        to: &UserDestination,
        message: &Arc<Message>,
        keep: Keep,
        unread_id: Option<UnreadId>,
        answer: Option<Answer>,
    ) -> Option<Answer> {
        let kind = match (unread_id, keep) {
            (Some(id), _) => Kind::Stored(id),
            (None, Keep::Never) => Kind::Fleeting,
            (None, Keep::IfAbsent | Keep::Always) => Kind::Pushed,
        };
        let bytes = Envelope::new(to, message, kind).to_bytes();
        if unread_id.is_some() {
            for node in &self.nodes {
                self.way.send(node, bytes.clone(), None);
            }
            return answer;
        }
        let push = Arc::new(Push {
            shared: self.shared.clone(),
            to: to.clone(),
            message: message.clone(),
            keep,
            state: Mutex::new(State { open: self.nodes.len(), worst: Fate::Taken, answer }),
        });
        for node in &self.nodes {
            let push = push.clone();
            let done: Done = Box::new(move |fate| push.done(fate));
            self.way.send(node, bytes.clone(), Some(done));
        }
        None
    }
}

/// A message that is stored nowhere, on its way to other nodes.
struct Push {
    shared: Arc<Shared>,
    to: UserDestination,
    message: Arc<Message>,
    keep: Keep,
    state: Mutex<State>,
}

struct State {
    /// Nodes that have not answered.
    open: usize,
    worst: Fate,
    answer: Option<Answer>,
}

impl Push {
    fn done(&self, fate: Fate) {
        let (worst, answer) = {
            let mut state = self.state();
            state.open = state.open.saturating_sub(1);
            state.worst = match (state.worst, fate) {
                (Fate::Late, _) | (_, Fate::Late) => Fate::Late,
                (Fate::Missing, _) | (_, Fate::Missing) => Fate::Missing,
                (Fate::Taken, Fate::Taken) => Fate::Taken,
            };
            if state.open > 0 {
                return;
            }
            (state.worst, state.answer.take())
        };
        match (worst, self.keep) {
            (Fate::Taken, _) => answer_with(answer, &Ok((Level::Pushed, 0))),
            (Fate::Missing | Fate::Late, Keep::IfAbsent | Keep::Always) => self.keep(answer),
            // As where it was sent to somebody who has just gone.
            (Fate::Missing, Keep::Never) => answer_with(answer, &Ok((Level::Pushed, 0))),
            (Fate::Late, Keep::Never) => answer_with(answer, &Err(away())),
        }
    }

    fn keep(&self, answer: Option<Answer>) {
        let mut users = self.shared.registry.lock(&self.to.user);
        users.begin(&self.to.user);
        let op = Op::Append { message: self.message.clone(), keep: Keep::Always };
        let then = Then::Deliver { answer, live: false };
        self.shared.line.put(Job { op, then, since: pump::now() });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn away() -> Refusal {
    let body = "The other nodes could not be reached in time.\n";
    Refusal::new(RefusalKind::Outage, "Broker not available", body)
}

/// A notice to a user's sessions on other nodes. Nobody waits for it.
pub(super) fn notify(way: &Nodes, nodes: &[Arc<str>], user: &Arc<str>, message: &Arc<Message>) {
    let to = UserDestination { user: user.clone(), target: Arc::from(UNREAD_TARGET) };
    let bytes = Envelope::new(&to, message, Kind::Notice).to_bytes();
    for node in nodes {
        way.send(node, bytes.clone(), None);
    }
}

/// Something came from another node.
pub(super) fn arrived(shared: &Shared, bytes: &Bytes) {
    let Some(envelope) = Envelope::from_bytes(bytes) else {
        tracing::error!("another node sent what cannot be read; do they have the same version?");
        return;
    };
    let mut users = shared.registry.lock(&envelope.to.user);
    if users.is_idle(&envelope.to.user) {
        return take(shared, &mut users, envelope);
    }
    // The store may know already of a session whose registration is still in the line here.
    users.begin(&envelope.to.user);
    let Envelope { message, kind, .. } = envelope;
    let op = Op::Append { message, keep: Keep::Never };
    shared.line.put(Job { op, then: Then::Arrived(kind), since: pump::now() });
}

/// Into the mailboxes of the user's sessions here.
pub(super) fn take(shared: &Shared, users: &mut Users, envelope: Envelope) {
    let Envelope { to, message, kind } = envelope;
    let unread_id = match kind {
        Kind::Notice => return users.notify(&to.user, UNREAD_TARGET, || message),
        Kind::Stored(id) => Some(id),
        Kind::Pushed | Kind::Fleeting => None,
    };
    let taken = users.push(&to, &message, unread_id);
    if taken > 0 || kind != Kind::Pushed {
        return;
    }
    // Whoever was here has gone, or is about to.
    users.begin(&to.user);
    let are_all_gone = users.are_all_gone(&to);
    let op = Op::Append { message, keep: Keep::Always };
    let then = Then::Deliver { answer: None, live: false };
    let job = Job { op, then, since: pump::now() };
    if are_all_gone {
        users.hold(&to.user, job);
    } else {
        shared.line.put(job);
    }
}
