//! The one async part of a session: it reads, gives what it read to the machine, performs what
//! the machine says, and writes. One task owns one connection; others reach it by its mailbox.
//!
//! Reading never waits for writing. What the socket does not take stays in `out`; as long as
//! something is there the mailbox is left as it is, so that its limits count.

mod burst;
mod delay;
mod ending;
mod feed;
mod perform;
mod turn;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};

use crate::auth::{Authenticator, Principal};
use crate::message::Message;
use crate::relay::Broker;
use crate::relay::mailbox::{Entry, Event, Mailbox, Signals};
use crate::stomp::{self, Decoder};
use crate::telemetry::Metrics;
use crate::ticker::Ticker;
use crate::transport::{Kind, ReadLimits, Transport};
use crate::user::Users;

use super::proof::{Proofs, Settled};
use super::sessions::{Place, Sessions};
use super::{Action, After, Outgoing, Session, Settings, Wire};
use turn::Turn;

/// Written in one turn, so that one session does not hold up the others of its worker.
const TURN_BYTES: usize = 64 * 1024;
/// Nothing is read while more than this waits for the socket.
const OUT_BYTES: usize = 256 * 1024;
/// The transport is asked this often what the other side has, where no PONG tells.
const PROOF: Duration = Duration::from_secs(1);

/// Never sent: there is nobody to send it to (RFC 6455 section 7.4.1).
const LOST: u16 = 1006;
const SLOW_READER: (u16, &str) = (4500, "slow reader");

/// Limits of a connection; the narrow ones hold before CONNECTED.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    pub narrow: stomp::Limits,
    pub wide: stomp::Limits,
    pub narrow_read: ReadLimits,
    pub wide_read: ReadLimits,
    /// How long the socket may take nothing while something waits.
    pub outbound_stall: Duration,
    /// How long a message waits for others to go out with, on WebSocket.
    pub write_delay: Duration,
    /// What is published at once, so small that receivers are seen to be crowded before they have
    /// too much.
    pub burst_frames: usize,
    pub burst_bytes: usize,
}

/// What all drivers of a server use.
#[derive(Debug)]
pub struct Services {
    pub settings: Arc<Settings>,
    pub limits: ConnectionLimits,
    pub broker: Broker,
    pub users: Users,
    pub authenticator: Arc<Authenticator>,
    pub sessions: Arc<Sessions>,
    pub ticker: Ticker,
    pub metrics: Metrics,
}

/// Bytes that were read and wait until the session takes frames again.
#[derive(Debug, Default)]
struct Held {
    raw: BytesMut,
    data: Bytes,
}

/// One connection and its session.
#[derive(Debug)]
pub struct Driver {
    services: Arc<Services>,
    transport: Transport,
    mailbox: Arc<Mailbox>,
    place: Place,
    decoder: Decoder,
    session: Session,
    held: Option<Box<Held>>,
    /// The broker or the store has no room for more.
    is_blocked: bool,
    /// Questions for stored messages. One at a time, and only once what came before is written,
    /// so that a session never has more than one page in memory.
    pulls: VecDeque<Action>,
    is_pulling: bool,
    /// Entries that came after the end; they are given back.
    late: Vec<Entry>,
    has_sent: bool,
    /// Others run first: much was published.
    yields: bool,
    /// A receiver that what was published is too much for, and how long it is waited for.
    crowded: Option<Box<(Arc<Mailbox>, Instant)>>,
    /// What the peer's kernel had not acknowledged when it was last asked.
    unacknowledged: u32,
    out: Vec<u8>,
    /// Since when the socket takes nothing.
    stalled: Option<Instant>,
    gathering: delay::Gathering,
    armed: Option<Instant>,
    proofs: Proofs,
    over: Option<(u16, &'static str)>,
}

enum Wake {
    Read(io::Result<Option<BytesMut>>),
    Writable(io::Result<()>),
    Mail(Signals),
}

impl Driver {
    /// A session on a connection. `principal` is who the interceptor let in at the upgrade;
    /// `early` are bytes that came with the upgrade.
    #[must_use]
    pub fn new(
        services: Arc<Services>,
        transport: Transport,
        place: Place,
        subprotocol: Option<stomp::Version>,
        principal: Option<Principal>,
        early: Bytes,
    ) -> Self {
        let now = Instant::now();
        let wire = match transport.kind() {
            Kind::Tcp => Wire::Tcp,
            Kind::WebSocket => Wire::WebSocket,
            Kind::SockJs => Wire::SockJs,
        };
        let principal = principal.map(|who| {
            let until = expiry(&who, now);
            (who, until)
        });
        let settings = services.settings.clone();
        let name = place.name();
        let session = Session::new(settings, name, wire, subprotocol, principal, now);
        let held = (!early.is_empty())
            .then(|| Box::new(Held { raw: BytesMut::from(early), data: Bytes::new() }));
        Self {
            decoder: Decoder::new(services.limits.narrow),
            mailbox: place.mailbox().clone(),
            services,
            transport,
            place,
            session,
            held,
            is_blocked: false,
            pulls: VecDeque::new(),
            is_pulling: false,
            late: Vec::new(),
            has_sent: false,
            yields: false,
            crowded: None,
            unacknowledged: 0,
            out: Vec::new(),
            stalled: None,
            gathering: None,
            armed: None,
            proofs: Proofs::new(wire),
            over: None,
        }
    }

    /// Runs the session to its end. What waits is a pointer and little more: a task keeps room for
    /// the largest thing its future ever holds, and most sessions do nothing most of the time.
    pub fn run(self) -> impl Future<Output = ()> + Send + 'static {
        let mut driver = Box::new(self);
        async move {
            driver.converse().await;
            let goodbye = Box::pin(driver.linger());
            goodbye.await;
        }
    }

    async fn converse(&mut self) {
        self.services.metrics.sessions_opened.inc();
        self.services.metrics.sessions.inc();
        self.turn(|driver, turn| driver.transport.put_open(&mut turn.scratch));
        while self.over.is_none() {
            let (wake, entries) = self.next().await;
            self.turn(|driver, turn| driver.handle(wake, entries, turn));
        }
        self.end();
    }

    async fn next(&mut self) -> (Wake, Vec<Entry>) {
        let mut entries = Vec::new();
        let wake = poll_fn(|cx| self.poll_next(cx, &mut entries)).await;
        (wake, entries)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, entries: &mut Vec<Entry>) -> Poll<Wake> {
        if std::mem::take(&mut self.yields) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.poll_gathered(cx).is_ready() {
            let into = self.out.is_empty().then_some(entries);
            if let Poll::Ready(signals) = self.mailbox.poll_take(cx, TURN_BYTES, into) {
                return Poll::Ready(Wake::Mail(signals));
            }
        }
        if !self.out.is_empty()
            && let Poll::Ready(result) = self.transport.poll_writable(cx)
        {
            return Poll::Ready(Wake::Writable(result));
        }
        if self.reads() {
            return self.transport.poll_read(cx).map(Wake::Read);
        }
        Poll::Pending
    }

    /// Whether more is read. Not while much of what was answered waits for the socket: a client
    /// that does not read its receipts is not to fill the memory with them.
    fn reads(&self) -> bool {
        self.held.is_none()
            && !self.is_blocked
            && self.crowded.is_none()
            && self.out.len() <= OUT_BYTES
    }

    /// One turn: something happens, its actions are performed, what came of it is written.
    fn turn(&mut self, happen: impl FnOnce(&mut Self, &mut Turn)) {
        let mut turn = Turn::take();
        happen(self, &mut turn);
        self.perform(&mut turn);
        self.feed_held(&mut turn);
        self.publish_burst(&mut turn);
        self.perform(&mut turn);
        self.flush(&mut turn);
        self.arm();
        turn.give_back();
    }

    fn handle(&mut self, wake: Wake, entries: Vec<Entry>, turn: &mut Turn) {
        let now = Instant::now();
        match wake {
            Wake::Read(Ok(Some(bytes))) => {
                self.services.metrics.bytes_received.inc_by(bytes.len() as u64);
                self.feed(Held { raw: bytes, data: Bytes::new() }, now, turn);
            }
            Wake::Writable(Ok(())) => {}
            // The other side is gone; what it did not prove to have is kept.
            Wake::Read(Ok(None) | Err(_)) | Wake::Writable(Err(_)) => {
                self.over.get_or_insert((LOST, "connection lost"));
            }
            Wake::Mail(signals) => {
                self.signals(signals, now, turn);
                for entry in entries {
                    // ERROR is the last frame (1.2, "ERROR").
                    if self.over.is_some() {
                        self.late.push(entry);
                    } else {
                        self.entry(entry, now, turn);
                    }
                }
            }
        }
    }

    fn signals(&mut self, signals: Signals, now: Instant, turn: &mut Turn) {
        if let Some((code, reason)) = signals.close {
            self.session.event(Event::Close { code, reason }, now, &mut turn.actions);
        }
        if signals.overflown {
            self.slow_reader();
        }
        if signals.room {
            self.is_blocked = false;
            self.crowded = None;
        }
        if signals.tick {
            self.armed = None;
            self.tick(now, turn);
        }
    }

    fn tick(&mut self, now: Instant, turn: &mut Turn) {
        if !self.reads() {
            // Nothing is read, so silence proves nothing.
            self.session.paused(now);
        }
        self.lose_patience(now);
        self.follow_ping(now);
        self.session.tick(now, &mut turn.actions);
        if !self.transport.tick(now, &mut turn.scratch) {
            self.over.get_or_insert((LOST, "nobody receives"));
        }
        let stall = self.services.limits.outbound_stall;
        if self.stalled.is_some_and(|since| now >= since + stall) {
            self.slow_reader();
        }
        self.ask_for_proof(turn);
    }

    /// The time for a PONG begins anew while the peer takes what lies before the PING: a slow
    /// line may need longer for that than a PONG has.
    fn follow_ping(&mut self, now: Instant) {
        if !self.proofs.is_pinging() {
            return;
        }
        let open = self.transport.unacknowledged().unwrap_or(0);
        if open > 0 && open < self.unacknowledged {
            self.session.pinged(now);
        }
        self.unacknowledged = open;
    }

    fn slow_reader(&mut self) {
        if self.over.is_none() {
            self.services.metrics.slow_readers.inc();
            tracing::info!(session = self.place.name(), "slow reader");
            self.over = Some(SLOW_READER);
        }
    }

    /// One entry of the mailbox.
    fn entry(&mut self, entry: Entry, now: Instant, turn: &mut Turn) {
        match entry {
            Entry::Event(event) => match *event {
                Event::Authenticated(result) => self.authenticated(result, now, turn),
                event => {
                    self.is_pulling &= !matches!(event, Event::Page { .. });
                    self.session.event(event, now, &mut turn.actions);
                }
            },
            entry => {
                let Turn { head, actions, .. } = turn;
                if let Some(outgoing) = self.session.deliver(entry, now, head, actions) {
                    let head = std::mem::take(&mut turn.head);
                    self.put_message(&head, outgoing, turn);
                    turn.head = head;
                }
            }
        }
        self.perform(turn);
    }

    fn put_message(&mut self, head: &[u8], outgoing: Outgoing, turn: &mut Turn) {
        let Outgoing { message, own_id, after } = outgoing;
        let version = self.session.version();
        let is_json = self.transport.is_json();
        let tail = if is_json { message.json_tail(version) } else { message.tail(version) };
        let tail = if own_id { tail.without_id() } else { tail.with_id() };
        self.transport.put(&mut turn.scratch, message.is_text(), head, tail);
        turn.speaks = true;
        turn.delivered += 1;
        match after {
            After::Nothing => {}
            After::Settle { subscription, queue, tag } => {
                let end = self.pending(turn);
                self.proofs.settle(end, Settled { subscription, queue, tag });
            }
            After::Prove { unread_id } => {
                let end = self.pending(turn);
                self.proofs.prove(end, message, unread_id);
            }
        }
    }

    /// Bytes that wait for the kernel.
    fn pending(&self, turn: &Turn) -> u64 {
        (self.out.len() + turn.scratch.len()) as u64
    }

    /// Writes what the turn made, as far as the kernel takes it.
    fn flush(&mut self, turn: &mut Turn) {
        let now = Instant::now();
        let mut is_new_ping = false;
        if self.out.is_empty() && self.proofs.wants_ping() {
            // What it proves goes out before it or in the same write.
            self.session.pinged(now);
            self.ping(turn);
            is_new_ping = true;
        }
        if self.out.is_empty() && turn.scratch.is_empty() {
            self.resume(turn);
            return;
        }
        let is_fresh = self.out.is_empty();
        if !is_fresh {
            self.out.append(&mut turn.scratch);
        }
        let bytes = if is_fresh { &turn.scratch } else { &self.out };
        // One step for all of them: every thread counts here.
        self.services.metrics.messages_delivered.inc_by(std::mem::take(&mut turn.delivered));
        let Ok(written) = self.transport.write(bytes, now) else {
            self.over.get_or_insert((LOST, "connection lost"));
            return;
        };
        if written > 0 {
            if turn.speaks || !is_fresh {
                self.session.said(now);
            }
            self.stalled = None;
            self.services.metrics.bytes_sent.inc_by(written as u64);
        }
        if is_fresh {
            self.out = turn.scratch.get(written..).unwrap_or_default().to_vec();
        } else if written == self.out.len() {
            self.out = Vec::new();
        } else {
            self.out.drain(..written);
        }
        if self.out.is_empty() {
            self.stalled = None
        } else {
            self.stalled.get_or_insert(now);
        }
        if is_new_ping {
            self.unacknowledged = self.transport.unacknowledged().unwrap_or(0);
        }
        turn.scratch.clear();
        for Settled { subscription, queue, tag } in self.proofs.written(written as u64) {
            self.session.written(subscription, &queue, tag, &mut turn.actions);
        }
        self.perform(turn);
        self.resume(turn);
    }

    /// Goes on with what waited for the socket.
    fn resume(&mut self, turn: &mut Turn) {
        if self.out.is_empty() && turn.scratch.is_empty() {
            self.pull();
        }
    }

    /// Arms the ticker for the earliest deadline.
    fn arm(&mut self) {
        let stall = self.stalled.map(|since| since + self.services.limits.outbound_stall);
        let proof = self.proofs.wants_asking().then(|| Instant::now() + PROOF);
        let transport = self.transport.deadline();
        let deadlines = [self.session.deadline(), transport, stall, proof, self.patience()];
        let deadline = deadlines.into_iter().flatten().min();
        if let Some(at) = deadline
            && self.armed.is_none_or(|armed| at < armed)
        {
            self.armed = Some(at);
            self.services.ticker.arm(at, &self.mailbox);
        }
    }

    fn user(&self) -> Option<Arc<str>> {
        self.session.principal().map(|principal| principal.name.clone())
    }

    fn restore(&self, messages: Vec<Arc<Message>>) {
        if let Some(user) = self.user()
            && !messages.is_empty()
        {
            self.services.metrics.unread_restored.inc_by(messages.len() as u64);
            self.services.users.restore(&user, messages);
        }
    }
}

fn expiry(principal: &Principal, now: Instant) -> Option<Instant> {
    let left = principal.expires_at?.duration_since(SystemTime::now()).unwrap_or_default();
    now.checked_add(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_run<F: Future>(_: fn(Driver) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_waiting_session_is_small() {
        let (waiting, driver) = (size_of_run(Driver::run), size_of::<Driver>());
        assert!(waiting <= 512, "a session's future has {waiting} bytes");
        assert!(driver <= 1024, "a driver has {driver} bytes");
    }
}
