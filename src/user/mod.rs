//! User destinations: every session of a user gets a message, and what nobody was there for is
//! kept until it is pulled.
//!
//! All that concerns one user passes one line (`pump`), in the order in which it came in, so that
//! a message can never fall between "somebody is there" and "keep it". Where the store is this
//! process's own and nothing of the user is in that line, a message for somebody present takes
//! the short way: it goes straight into the mailboxes.

mod abroad;
mod envelope;
mod pump;
mod registry;
mod request;
mod rules;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::destination::{Destination, UserDestination};
use crate::message::Message;
use crate::persistence::{Keep, Op, Page, Store, UnreadId, Which};
use crate::relay::error::{Refusal, RefusalKind};
use crate::relay::mailbox::{Level, Mailbox, Submit, SubscriptionNumber, Token};
use crate::relay::rabbitmq::Nodes;
use crate::stomp::Headers;
use pump::{Answer, Job, Line, Then};
use registry::Registry;
pub use request::ReadRequest;
pub use rules::{Read, Replay, Rule, Rules, Storing};

/// Where a user's sessions hear of changes to what is unread.
pub const UNREAD_TARGET: &str = crate::persistence::NOTICES;
/// Where a session hears of its own refused frames.
pub const ERRORS_TARGET: &str = "queue/errors";

/// How much may wait for the store.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    pub messages: usize,
    pub bytes: usize,
    /// How long a SEND waits before it is refused.
    pub time: Duration,
}

/// Users, their sessions, and what they have not read.
#[derive(Clone, Debug)]
pub struct Users {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    registry: Registry,
    line: Line,
    rules: Rules,
    /// Presence is known in this process alone.
    is_local: bool,
    is_away: AtomicBool,
    /// The way to relays with the same store.
    nodes: Option<Arc<Nodes>>,
}

impl Users {
    /// Starts the line to the store. `nodes`: the way to other relays with the same store. Must be
    /// called within a tokio runtime.
    #[must_use]
    pub fn start(store: Store, rules: Rules, waiting: Waiting, nodes: Option<Arc<Nodes>>) -> Self {
        let is_local = store.is_local();
        let shared = Arc::new(Shared {
            registry: Registry::new(),
            line: Line::new(waiting),
            rules,
            is_local,
            is_away: AtomicBool::new(false),
            nodes,
        });
        if let Some(nodes) = &shared.nodes {
            // Not a strong one: the nodes are held by what they would hold.
            let shared = Arc::downgrade(&shared);
            nodes.listen(move |bytes| {
                if let Some(shared) = shared.upgrade() {
                    abroad::arrived(&shared, &bytes);
                }
            });
        }
        tokio::spawn(pump::run(shared.clone(), store));
        Self { shared }
    }

    /// The `[[unread]]` rules.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.shared.rules
    }

    /// Whether a session may go on sending; where not, `waiter` gets `Event::Room` later.
    #[must_use]
    pub fn has_room(&self, waiter: &Arc<Mailbox>) -> bool {
        let nodes = self.shared.nodes.as_ref();
        self.shared.line.has_room(waiter) && nodes.is_none_or(|nodes| nodes.has_room(waiter))
    }

    /// Sends a message to a user. Its destination is the user's and it has an x-id. `never` is
    /// the sender's wish that it be not kept.
    pub fn send(
        &self,
        from: &Arc<Mailbox>,
        token: Option<Token>,
        message: Arc<Message>,
        never: bool,
    ) -> Submit {
        let Destination::User(to) = message.destination.clone() else {
            return Submit::Refused(Refusal::new(
                RefusalKind::UnknownDestination,
                "Unknown destination",
                "not a user's destination\n",
            ));
        };
        let keep = self.shared.rules.keep(&message, never);
        let mut users = self.shared.registry.lock(&to.user);
        if self.shared.is_local && keep != Keep::Always && users.is_idle(&to.user) {
            let taken = users.push(&to, &message, None);
            if taken > 0 || keep == Keep::Never {
                return Submit::Done(Level::Pushed);
            }
        }
        users.begin(&to.user);
        let answer = token.map(|token| Answer::Session { mailbox: from.clone(), token });
        let pending = answer.is_some();
        let then = Then::Deliver { answer, live: true };
        let job = Job { op: Op::Append { message, keep }, then, since: pump::now() };
        if self.shared.is_local && keep == Keep::IfAbsent && users.are_all_gone(&to) {
            users.hold(&to.user, job);
        } else {
            self.shared.line.put(job);
        }
        if pending { Submit::Pending } else { Submit::Done(Level::Stored) }
    }

    /// Keeps messages that a session was sent but did not acknowledge.
    pub fn restore(&self, user: &Arc<str>, messages: Vec<Arc<Message>>) {
        let mut users = self.shared.registry.lock(user);
        self.put_back(&mut users, user, messages);
    }

    /// Takes all subscriptions of an ended session out and keeps what it did not prove to have
    /// got. One step, so that nothing sent meanwhile comes before it.
    pub fn session_ended(
        &self,
        user: &Arc<str>,
        mailbox: &Arc<Mailbox>,
        subscriptions: &[(SubscriptionNumber, UserDestination)],
        messages: Vec<Arc<Message>>,
    ) {
        let mut users = self.shared.registry.lock(user);
        for (subscription, to) in subscriptions {
            self.take_out(&mut users, mailbox, *subscription, to);
        }
        self.put_back(&mut users, user, messages);
        for job in users.take_held(user) {
            self.shared.line.put(job);
        }
    }

    fn put_back(&self, users: &mut registry::Users, user: &Arc<str>, messages: Vec<Arc<Message>>) {
        for message in messages {
            let keep = match self.shared.rules.storing(&message.destination) {
                Storing::Never => continue,
                Storing::Absent | Storing::Always => Keep::Always,
            };
            users.begin(user);
            self.shared.line.put(Job {
                op: Op::Append { message, keep },
                then: Then::Deliver { answer: None, live: false },
                since: pump::now(),
            });
        }
    }

    /// Makes a session present for a destination. `Event::Done` with the token follows.
    pub fn subscribe(
        &self,
        mailbox: &Arc<Mailbox>,
        subscription: SubscriptionNumber,
        to: &UserDestination,
        token: Token,
    ) {
        self.submit(
            &to.user,
            Op::Register {
                user: to.user.clone(),
                target: to.target.clone(),
                session: mailbox.session(),
            },
            Then::Register {
                mailbox: mailbox.clone(),
                subscription,
                to: to.clone(),
                token: Some(token),
            },
        );
    }

    /// Asks for the next stored messages after `after`; where none is left the session is
    /// present from then on. `Event::Page` follows, an empty one at the end.
    pub fn replay(
        &self,
        mailbox: &Arc<Mailbox>,
        subscription: SubscriptionNumber,
        to: &UserDestination,
        after: UnreadId,
        limit: u32,
    ) {
        self.submit(
            &to.user,
            Op::PageOrRegister {
                user: to.user.clone(),
                target: to.target.clone(),
                after,
                limit,
                session: mailbox.session(),
            },
            Then::Register { mailbox: mailbox.clone(), subscription, to: to.clone(), token: None },
        );
    }

    /// Takes a session's subscription out.
    pub fn unsubscribe(
        &self,
        mailbox: &Arc<Mailbox>,
        subscription: SubscriptionNumber,
        to: &UserDestination,
    ) {
        let mut users = self.shared.registry.lock(&to.user);
        self.take_out(&mut users, mailbox, subscription, to);
    }

    fn take_out(
        &self,
        users: &mut registry::Users,
        mailbox: &Arc<Mailbox>,
        subscription: SubscriptionNumber,
        to: &UserDestination,
    ) {
        users.remove(to, mailbox.session(), subscription);
        users.begin(&to.user);
        self.shared.line.put(Job {
            op: Op::Unregister {
                user: to.user.clone(),
                target: to.target.clone(),
                session: mailbox.session(),
            },
            then: Then::Unregister { to: to.clone(), session: mailbox.session(), subscription },
            since: pump::now(),
        });
    }

    /// Asks for one page of all the user's stored messages. `Event::Page` follows.
    pub fn page(
        &self,
        mailbox: &Arc<Mailbox>,
        subscription: SubscriptionNumber,
        user: &Arc<str>,
        after: UnreadId,
        limit: u32,
    ) {
        self.submit(
            user,
            Op::Page { user: user.clone(), target: None, after, limit },
            Then::Page { mailbox: mailbox.clone(), subscription },
        );
    }

    /// The same for somebody who is no session.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn fetch(
        &self,
        user: &Arc<str>,
        after: UnreadId,
        limit: u32,
    ) -> Result<Page, Refusal> {
        let (sender, receiver) = oneshot::channel();
        self.submit(
            user,
            Op::Page { user: user.clone(), target: None, after, limit },
            Then::Fetch(sender),
        );
        receiver.await.unwrap_or_else(|_| Err(pump::away()))
    }

    /// Marks messages as read. `request` is what the user's sessions are told.
    pub fn mark_read(
        &self,
        user: &Arc<str>,
        which: Which,
        request: Bytes,
        answer: Option<(&Arc<Mailbox>, Token)>,
    ) {
        let answer =
            answer.map(|(mailbox, token)| Answer::Session { mailbox: mailbox.clone(), token });
        self.submit(
            user,
            Op::MarkRead { user: user.clone(), which },
            Then::Read { request, answer },
        );
    }

    /// The same for somebody who is no session; says how many are left.
    ///
    /// # Errors
    /// Where the store is away.
    pub async fn read(
        &self,
        user: &Arc<str>,
        which: Which,
        request: Bytes,
    ) -> Result<u64, Refusal> {
        let (sender, receiver) = oneshot::channel();
        self.submit(
            user,
            Op::MarkRead { user: user.clone(), which },
            Then::Read { request, answer: Some(Answer::Caller(sender)) },
        );
        receiver.await.unwrap_or_else(|_| Err(pump::away()))
    }

    /// Whether the store answered the last time it was asked.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.shared.is_away.load(Ordering::Relaxed)
    }

    /// Waits until nothing is in the line any more, then ends it. All sessions have ended.
    pub async fn close(&self) {
        if let Some(nodes) = &self.shared.nodes {
            // From then on no node thinks that somebody is here.
            self.shared.line.emptied().await;
            nodes.close().await;
        }
        self.shared.line.close().await;
    }

    fn submit(&self, user: &Arc<str>, op: Op, then: Then) {
        let mut users = self.shared.registry.lock(user);
        users.begin(user);
        self.shared.line.put(Job { op, then, since: pump::now() });
    }
}

/// A message of the relay's own for `/user/queue/unread`.
fn notice(user: &Arc<str>, body: String) -> Arc<Message> {
    let to = UserDestination { user: user.clone(), target: Arc::from(UNREAD_TARGET) };
    let shown = to.to_string();
    let headers: Headers = [("content-type", "application/json")].into_iter().collect();
    Arc::new(Message::new(Destination::User(to), shown, headers, Bytes::from(body)))
}
