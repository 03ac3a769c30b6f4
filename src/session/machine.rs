//! The session's state and its clockwork; the frames themselves are in `connect`, `send`,
//! `subscribe` and `app`.
//!
//! ```text
//!            CONNECT            decided             DISCONNECT, sends open
//!  Start ------------> Authenticating ---> Connected ----------------------> Leaving
//!    |  known already ------------------------^  |                              |
//!    +-------- violation, refusal, deadline -----+----------> Over <------------+
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::auth::Principal;
use crate::auth::policy::Policy;
use crate::destination::AllowedNames;
use crate::relay::error::Refusal;
use crate::relay::mailbox::{Event, Level, SubscriptionNumber, Token};
use crate::stomp::{Command, Frame, Headers, Version};
use crate::user::Rules;

use super::acks::Acks;
use super::action::Action;
use super::connect::Connect;
use super::error::{Errors, Violation, code};
use super::held::{Held, Until};
use super::liveness::{Liveness, Wire};
use super::send::Sent;
use super::subscriptions::Subscriptions;
use super::transactions::Transactions;
use super::waiting::{Requests, Waiting};

/// A DISCONNECT waits so long for what was sent before it.
const LEAVE_TIME: Duration = Duration::from_secs(5);

/// What one session may have.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of destinations, ids, receipts and names of transactions.
    pub destination_bytes: usize,
    pub subscriptions: usize,
    pub unacked: usize,
    /// Where SUBSCRIBE names none.
    pub prefetch: u16,
    pub ack_time: Duration,
    pub transactions: usize,
    pub transaction_actions: usize,
    pub transaction_bytes: usize,
    pub connect_time: Duration,
    /// From a frame's first byte to its last.
    pub frame_time: Duration,
    /// A SEND that waits for the broker is refused after that.
    pub outage_time: Duration,
}

/// What all sessions of a server share.
#[derive(Debug)]
pub struct Settings {
    pub limits: Limits,
    pub errors: Errors,
    pub policy: Policy,
    pub unread: Rules,
    /// The best level a RECEIPT has here.
    pub level: Level,
    pub broker: BrokerKind,
    /// Reserved names that clients reach all the same.
    pub names: AllowedNames,
}

/// What is behind, as far as a session has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerKind {
    /// All queues are this process's own, so that those of durable subscriptions can be their
    /// user's own.
    Embedded,
    /// Queues have the names that RabbitMQ's STOMP plugin gives them, and every message an x-id.
    RabbitMq,
}

/// Where a session is in its life.
#[derive(Debug)]
pub(super) enum Phase {
    Start,
    /// CONNECT was taken; nothing more is read until it is decided who that is.
    Authenticating(Connect),
    Connected,
    /// DISCONNECT was taken; its RECEIPT waits for what was sent before.
    Leaving {
        receipt: String,
        by: Instant,
    },
    Over,
}

/// The frame that a later answer belongs to, as far as the client is told of it.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) command: Command,
    pub(super) destination: Option<Arc<str>>,
    pub(super) id: Option<String>,
    pub(super) receipt: Option<String>,
}

/// One client's session.
#[derive(Debug)]
pub struct Session {
    pub(super) settings: Arc<Settings>,
    /// Not to be guessed; ids that the client gives back begin with it.
    pub(super) name: Box<str>,
    pub(super) phase: Phase,
    pub(super) version: Version,
    pub(super) subprotocol: Option<Version>,
    pub(super) principal: Option<Principal>,
    pub(super) expires: Option<Instant>,
    pub(super) since: Instant,
    pub(super) frame_since: Option<Instant>,
    pub(super) live: Liveness,
    pub(super) subscriptions: Subscriptions,
    /// Where the last SEND went.
    pub(super) sent: Option<Box<Sent>>,
    pub(super) acks: Acks,
    pub(super) transactions: Transactions,
    /// The SUBSCRIBEs of pages that are on their way.
    pub(super) pages: Vec<(SubscriptionNumber, Context)>,
    pub(super) waiting: Requests,
    /// A frame before which nothing else is taken.
    pub(super) held: Option<Box<Held>>,
}

impl Session {
    /// A session at its start. `principal` is who the interceptor let in at the upgrade, and
    /// until when.
    #[must_use]
    pub fn new(
        settings: Arc<Settings>,
        name: &str,
        wire: Wire,
        subprotocol: Option<Version>,
        principal: Option<(Principal, Option<Instant>)>,
        now: Instant,
    ) -> Self {
        let (principal, expires) =
            principal.map_or((None, None), |(who, until)| (Some(who), until));
        Self {
            settings,
            name: name.into(),
            phase: Phase::Start,
            version: subprotocol.unwrap_or(Version::V12),
            subprotocol,
            principal,
            expires,
            since: now,
            frame_since: None,
            live: Liveness::new(wire, now),
            subscriptions: Subscriptions::default(),
            sent: None,
            acks: Acks::default(),
            transactions: Transactions::default(),
            pages: Vec::new(),
            waiting: Requests::default(),
            held: None,
        }
    }

    /// Takes a frame.
    pub fn frame(&mut self, frame: Frame, now: Instant, out: &mut Vec<Action>) {
        match self.phase {
            Phase::Start => match frame.command {
                Command::Connect | Command::Stomp => self.connect(frame.headers, now, out),
                _ => self.fail(
                    Violation::new("Illegal command", "You must log in using CONNECT first\n"),
                    out,
                ),
            },
            Phase::Connected if self.comes_too_early(&frame) => {
                self.hold(frame, Until::Subscribed, now);
            }
            Phase::Connected => {
                let receipt = frame.headers.get("receipt").map(str::to_owned);
                if let Err(violation) = self.connected_frame(frame, now, out) {
                    self.fail(Violation { receipt, ..violation }, out);
                }
            }
            Phase::Authenticating(_) | Phase::Leaving { .. } | Phase::Over => {}
        }
    }

    fn connected_frame(
        &mut self,
        frame: Frame,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> Result<(), Violation> {
        let limit = self.settings.limits.destination_bytes;
        for name in ["receipt", "id", "transaction"] {
            if frame.headers.get(name).is_some_and(|value| value.len() > limit) {
                return Err(Violation {
                    code: code::POLICY,
                    ..Violation::new(
                        "Header too long",
                        format!("'{name}' may have at most {limit} bytes\n"),
                    )
                });
            }
        }
        match frame.command {
            Command::Connect | Command::Stomp => Err(Violation::new(
                "Already connected",
                "A session has one CONNECT; open another connection for another login.\n",
            )),
            Command::Send => self.send(frame, now, out),
            Command::Subscribe => self.subscribe(&frame.headers, out),
            Command::Unsubscribe => self.unsubscribe(&frame.headers, out),
            Command::Ack | Command::Nack => self.ack(frame.command, &frame.headers, out),
            Command::Begin => self.begin(&frame.headers, out),
            Command::Commit => self.commit(&frame.headers, out),
            Command::Abort => self.abort(&frame.headers, out),
            Command::Disconnect => {
                self.disconnect(&frame.headers, now, out);
                Ok(())
            }
            Command::Connected | Command::Message | Command::Receipt | Command::Error => {
                Err(Violation::new(
                    "Bad command",
                    format!("{} is a server's frame\n", frame.command.name()),
                ))
            }
        }
    }

    /// Takes an answer or an event.
    pub fn event(&mut self, event: Event, now: Instant, out: &mut Vec<Action>) {
        if self.is_over() {
            return;
        }
        match event {
            Event::Done { token, result } => {
                self.done(token, result, out);
                self.release(now, out);
            }
            Event::ReplyQueue { subscription, result } => {
                self.reply_queue(subscription, result, now, out);
            }
            Event::Cancelled { subscription, refusal } => self.cancel(subscription, &refusal, out),
            Event::Page { subscription, result } => self.page(subscription, result, now, out),
            Event::Close { code, reason } => self.close(code, reason, out),
            // The driver's own.
            Event::Authenticated(_) | Event::Room | Event::Tick => {}
        }
    }

    /// What became of a request.
    pub fn done(&mut self, token: Token, result: Result<Level, Refusal>, out: &mut Vec<Action>) {
        let Some(waiting) = self.waiting.remove(token).filter(|_| !self.is_over()) else { return };
        match (waiting, result) {
            (Waiting::Send { context, commit: None }, Ok(level)) => {
                self.receipt(context.receipt, Some(level), out);
            }
            (Waiting::Send { context, commit }, Err(refusal)) => {
                // The COMMIT of a refused SEND gets no RECEIPT.
                let waiting = commit.and_then(|commit| self.waiting.remove(commit));
                let context = match waiting {
                    Some(Waiting::Commit { context: commit, .. }) => {
                        Context { receipt: commit.receipt, ..context }
                    }
                    _ => context,
                };
                self.refuse(refusal, &context, out);
            }
            (Waiting::Send { commit: Some(commit), .. }, Ok(_)) => self.committed(commit, out),
            (Waiting::Subscribe { context, .. }, Ok(_)) => {
                self.receipt(context.receipt, None, out);
                // Who subscribes may have nothing else to say for a long time.
                self.give_back();
            }
            (Waiting::Subscribe { context, subscription }, Err(refusal)) => {
                self.subscriptions.remove(subscription);
                self.refuse(refusal, &context, out);
            }
            // However it ended, the subscription is over.
            (Waiting::Unsubscribe { receipt }, _) => self.receipt(Some(receipt), None, out),
            (Waiting::Commit { .. }, _) => {}
        }
        self.leave_when_done(out);
    }

    /// Tables that are empty keep no memory: most sessions are idle most of the time.
    pub(super) fn give_back(&mut self) {
        self.waiting.give_back();
        self.sent = None;
        self.acks.give_back();
    }

    /// Says what is to be known later under the token that is returned.
    pub(super) fn wait(&mut self, waiting: Waiting) -> Token {
        self.waiting.add(waiting)
    }

    fn committed(&mut self, commit: Token, out: &mut Vec<Action>) {
        if let Some(Waiting::Commit { context, left }) = self.waiting.get_mut(commit) {
            *left -= 1;
            if *left == 0 {
                let receipt = context.receipt.take();
                self.waiting.remove(commit);
                self.receipt(receipt, None, out);
            }
        }
    }

    /// Whether the session has a subscription of that number.
    #[must_use]
    pub fn subscribes(&self, subscription: SubscriptionNumber) -> bool {
        self.subscriptions.get(subscription).is_some()
    }

    /// Whether frames may be given to the session now.
    #[must_use]
    pub fn takes_frames(&self) -> bool {
        matches!(self.phase, Phase::Start | Phase::Connected) && self.held.is_none()
    }

    /// Nothing is written any more, whatever still comes.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self.phase, Phase::Connected | Phase::Leaving { .. })
    }

    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The user's name; empty where it is not known yet.
    pub(super) fn user_name(&self) -> &str {
        self.principal.as_ref().map_or("", |principal| &principal.name)
    }

    /// Who it is, once that is known.
    #[must_use]
    pub fn principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }

    fn disconnect(&mut self, headers: &Headers, now: Instant, out: &mut Vec<Action>) {
        match headers.get("receipt") {
            Some(receipt) => {
                self.phase = Phase::Leaving { receipt: receipt.to_owned(), by: now + LEAVE_TIME };
                self.leave_when_done(out);
            }
            None => self.close(code::NORMAL, "DISCONNECT", out),
        }
    }

    fn leave_when_done(&mut self, out: &mut Vec<Action>) {
        if let Phase::Leaving { receipt, .. } = &self.phase
            && self.waiting.is_empty()
        {
            let receipt = receipt.clone();
            self.receipt(Some(receipt), None, out);
            self.close(code::NORMAL, "DISCONNECT", out);
        }
    }

    pub(super) fn receipt(
        &self,
        receipt: Option<String>,
        level: Option<Level>,
        out: &mut Vec<Action>,
    ) {
        let Some(receipt) = receipt else { return };
        let mut frame = Frame::new(Command::Receipt).with("receipt-id", &receipt);
        if let Some(level) = level {
            frame.headers.push("x-receipt-level", level.name());
        }
        out.push(Action::Send(frame));
    }

    pub(super) fn close(&mut self, code: u16, reason: &'static str, out: &mut Vec<Action>) {
        if !matches!(self.phase, Phase::Over) {
            self.phase = Phase::Over;
            out.push(Action::Close { code, reason });
        }
    }
}
