//! Decoder, session machine and embedded broker, put together without socket, driver or server:
//! what the driver does, as little of it as will do. Whoever uses it tells it the time.
//!
//! There is no store: a message to a user is taken and goes nowhere, and nothing is unread.

#![allow(dead_code, reason = "each test uses its part of it")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use stomp_relay::auth::policy::{Defaults, Policy};
use stomp_relay::auth::{AuthError, Principal};
use stomp_relay::cli::Serve;
use stomp_relay::config::{Config, Limits};
use stomp_relay::persistence::Page;
use stomp_relay::relay::embedded::Embedded;
use stomp_relay::relay::mailbox::{
    Entry, Event, Level, Mailbox, MailboxLimits, Source, Submit, SubscriptionNumber, Token,
};
use stomp_relay::relay::origin::Place;
use stomp_relay::session::{
    self, Action, After, BrokerKind, Errors, Outgoing, Session, Settings, Violation, Wire,
};
use stomp_relay::stomp::{self, Decoder, DecoderEvent, Frame, Headers, Version, encode};
use stomp_relay::user::Rules;

/// As `--dev` has it.
pub(crate) const ACCOUNT: &str = "guest";

/// What a server is configured with.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) settings: Arc<Settings>,
    pub(crate) narrow: stomp::Limits,
    pub(crate) wide: stomp::Limits,
    pub(crate) mailbox: MailboxLimits,
}

impl Setup {
    /// The limits that the program has where nothing is configured.
    pub(crate) fn new() -> Self {
        let serve = Serve { dev: true, ..Serve::default() };
        let config = Config::load(&serve, std::iter::empty()).unwrap();
        let limits = &config.limits;
        let wide = stomp::Limits {
            frame_bytes: limits.frame_bytes,
            headers: limits.headers,
            header_name_bytes: limits.header_name_bytes,
            header_value_bytes: limits.header_value_bytes,
        };
        let settings = Settings {
            limits: session_limits(limits),
            errors: config.errors,
            policy: Policy::new(Vec::new(), Defaults::Everything),
            unread: Rules::new(Vec::new()),
            level: Level::Stored,
            broker: BrokerKind::Embedded,
            names: config.relay.allow_names.iter().map(String::as_str).collect(),
        };
        Self {
            settings: Arc::new(settings),
            narrow: stomp::Limits {
                frame_bytes: stomp_relay::config::BYTES_BEFORE_CONNECTED,
                ..wide
            },
            wide,
            mailbox: MailboxLimits { frames: limits.outbound_frames, bytes: limits.outbound_bytes },
        }
    }
}

impl Setup {
    /// The same with other limits of a session and other answers to refusals.
    pub(crate) fn with_limits(&self, limits: session::Limits, errors: Errors) -> Self {
        let usual = &self.settings;
        let settings = Settings {
            limits,
            errors,
            policy: usual.policy.clone(),
            unread: usual.unread.clone(),
            level: usual.level,
            broker: usual.broker,
            names: usual.names.clone(),
        };
        Self { settings: Arc::new(settings), ..self.clone() }
    }
}

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) broker: Embedded,
    pub(crate) setup: Setup,
    next: AtomicU64,
}

impl Shared {
    pub(crate) fn new() -> Self {
        Self::with(Setup::new())
    }

    /// A broker of its own, so that names of sessions begin anew.
    pub(crate) fn with(setup: Setup) -> Self {
        Self { broker: Embedded::open(None).unwrap(), setup, next: AtomicU64::new(0) }
    }
}

fn session_limits(limits: &Limits) -> session::Limits {
    session::Limits {
        subscriptions: limits.subscriptions,
        unacked: limits.unacked,
        prefetch: limits.prefetch,
        ack_time: limits.ack_time,
        transactions: limits.transactions,
        transaction_actions: limits.transaction_actions,
        transaction_bytes: limits.transaction_bytes,
        destination_bytes: limits.destination_bytes,
        connect_time: limits.connect_time,
        frame_time: limits.frame_time,
        outage_time: Duration::from_secs(30),
    }
}

/// One connection.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) decoder: Decoder,
    pub(crate) session: Session,
    /// What is to be written; the user takes it.
    pub(crate) out: Vec<u8>,
    pub(crate) actions: Vec<Action>,
    pub(crate) is_over: bool,
    /// The frames that the session took, where somebody wants to know.
    pub(crate) taken: Option<Vec<Frame>>,
    /// Read, and not given to the session yet, which does not take frames.
    held: VecDeque<Bytes>,
    /// Entries of the mailbox that came after the end.
    late: Vec<Entry>,
    /// Answers that a store would give.
    answers: VecDeque<Event>,
    now: Instant,
}

impl Connection {
    pub(crate) fn new(
        shared: Arc<Shared>,
        wire: Wire,
        subprotocol: Option<Version>,
        now: Instant,
    ) -> Self {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let settings = shared.setup.settings.clone();
        let name = format!("session-{number}");
        let session = Session::new(settings, &name, wire, subprotocol, None, now);
        Self {
            mailbox: Mailbox::new(number, shared.setup.mailbox),
            decoder: Decoder::new(shared.setup.narrow),
            session,
            shared,
            out: Vec::new(),
            actions: Vec::new(),
            is_over: false,
            taken: None,
            held: VecDeque::new(),
            late: Vec::new(),
            answers: VecDeque::new(),
            now,
        }
    }

    /// Takes bytes; `change` may put something else in a frame's place before it is judged.
    pub(crate) fn take_bytes(
        &mut self,
        bytes: Bytes,
        now: Instant,
        change: &mut dyn FnMut(Frame) -> Frame,
    ) {
        self.now = now;
        self.held.push_back(bytes);
        self.feed(change);
        self.session.heard(self.decoder.in_frame(), now);
    }

    fn feed(&mut self, change: &mut dyn FnMut(Frame) -> Frame) {
        while !self.is_over
            && self.session.takes_frames()
            && let Some(mut bytes) = self.held.pop_front()
        {
            match self.decoder.decode(&mut bytes) {
                Ok(Some(DecoderEvent::Frame(frame))) => {
                    let frame = change(frame);
                    if let Some(taken) = &mut self.taken {
                        taken.push(frame.clone());
                    }
                    self.session.frame_done();
                    self.session.frame(frame, self.now, &mut self.actions);
                }
                Ok(Some(DecoderEvent::HeartBeat) | None) => {}
                Err(error) => self.session.garbled(Violation::from(error), &mut self.actions),
            }
            if !bytes.is_empty() {
                self.held.push_front(bytes);
            }
            self.perform();
        }
    }

    /// Takes what is in the mailbox; pending where there is nothing.
    pub(crate) fn poll_mail(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        self.now = now;
        let mut entries = Vec::new();
        let Poll::Ready(signals) = self.mailbox.poll_take(cx, usize::MAX, Some(&mut entries))
        else {
            return Poll::Pending;
        };
        if let Some((code, reason)) = signals.close {
            self.session.event(Event::Close { code, reason }, now, &mut self.actions);
            self.perform();
        }
        // A slow reader.
        self.is_over |= signals.overflown;
        for entry in entries {
            // ERROR is the last frame (1.2, "ERROR").
            if self.is_over {
                self.late.push(entry);
            } else {
                self.take_entry(entry);
            }
        }
        self.feed(&mut std::convert::identity);
        Poll::Ready(())
    }

    /// Takes what is in the mailbox until there is nothing more.
    pub(crate) fn take_mail(&mut self, now: Instant) {
        /// Each time something may come of what was read, but not for ever.
        const TIMES: usize = 10_000;
        let mut cx = Context::from_waker(Waker::noop());
        let done = (0..TIMES).any(|_| self.poll_mail(&mut cx, now).is_pending());
        assert!(done, "the mailbox fills up again whenever it is read");
    }

    /// The time goes on.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.now = now;
        self.session.tick(now, &mut self.actions);
        self.perform();
        self.feed(&mut std::convert::identity);
    }

    fn take_entry(&mut self, entry: Entry) {
        match entry {
            Entry::Event(event) => self.session.event(*event, self.now, &mut self.actions),
            entry => {
                let (mut head, now) = (Vec::new(), self.now);
                if let Some(outgoing) =
                    self.session.deliver(entry, now, &mut head, &mut self.actions)
                {
                    self.put_message(&head, &outgoing);
                }
            }
        }
        self.perform();
    }

    fn put_message(&mut self, head: &[u8], outgoing: &Outgoing) {
        let Outgoing { message, own_id, after } = outgoing;
        let tail = message.tail(self.session.version());
        self.out.extend_from_slice(head);
        self.out.extend_from_slice(if *own_id { tail.without_id() } else { tail.with_id() });
        match after {
            After::Nothing => {}
            // What is written is taken at once here.
            After::Settle { subscription, queue, tag } => {
                self.session.written(*subscription, queue, *tag, &mut self.actions);
            }
            After::Prove { .. } => panic!("nothing is sent to a user here"),
        }
    }

    pub(crate) fn perform(&mut self) {
        loop {
            for action in std::mem::take(&mut self.actions) {
                if !(self.is_over && action.is_output()) {
                    self.act(action);
                }
            }
            // Those of a store come later than what was asked for at the same time.
            if self.actions.is_empty() {
                let Some(answer) = self.answers.pop_front() else { return };
                self.session.event(answer, self.now, &mut self.actions);
            }
        }
    }

    fn act(&mut self, action: Action) {
        let shared = self.shared.clone();
        let broker = &shared.broker;
        match action {
            Action::Send(frame) => encode::encode(&mut self.out, &frame, self.session.version()),
            Action::Written(bytes) => self.out.extend_from_slice(&bytes),
            Action::Authenticate(headers) => self.authenticate(&headers),
            Action::Connected => {
                self.decoder.set_limits(shared.setup.wide);
                self.decoder.set_version(self.session.version());
            }
            Action::Publish { token, message, declare } => {
                let declare = declare.as_deref();
                let submit = broker.publish(&self.mailbox, Some(token), &message, declare);
                self.submitted(token, submit);
            }
            Action::Subscribe { token, request } => {
                let submit = broker.subscribe(&self.mailbox, Some(token), &request);
                self.submitted(token, submit);
            }
            Action::OpenReplyQueue { subscription } => {
                broker.open_reply_queue(&self.mailbox, subscription);
            }
            Action::Unsubscribe { token, subscription, place, delete } => {
                broker.unsubscribe(&self.mailbox, subscription, &place, delete);
                if let Some(token) = token {
                    self.submitted(token, Submit::Done(Level::Memory));
                }
            }
            Action::Settle { subscription, queue, tags, settlement } => {
                broker.settle(&self.mailbox, subscription, &queue, &tags, settlement);
            }
            Action::Close { .. } => self.is_over = true,
            Action::HeartBeat => self.out.push(b'\n'),
            // WebSocket's, of which there is none here.
            Action::Ping => {}
            Action::SendToUser { token, .. } | Action::SubscribeUser { token, .. } => {
                self.submitted(token, Submit::Done(Level::Memory));
            }
            Action::MarkRead { token, .. } => {
                let token = token.into_iter();
                token.for_each(|token| self.submitted(token, Submit::Done(Level::Memory)));
            }
            Action::Replay { subscription, .. } | Action::Page { subscription, .. } => {
                let result = Ok(Page::default());
                self.answers.push_back(Event::Page { subscription, result });
            }
            Action::UnsubscribeUser { .. } => {}
            Action::Deliver { .. } | Action::Restore(_) => panic!("nothing is unread here"),
        }
    }

    fn authenticate(&mut self, headers: &Headers) {
        let get = |name| headers.get(name).unwrap_or_default();
        let result = if (get("login"), get("passcode")) == (ACCOUNT, ACCOUNT) {
            Ok(Principal { name: ACCOUNT.into(), roles: Vec::new(), expires_at: None })
        } else {
            Err(AuthError::refused(get("login")))
        };
        self.session.authenticated(result, None, self.now, &mut self.actions);
    }

    fn submitted(&mut self, token: Token, submit: Submit) {
        let result = match submit {
            Submit::Done(level) => Ok(level),
            Submit::Refused(refusal) => Err(refusal),
            Submit::Pending => return,
        };
        self.session.done(token, result, &mut self.actions);
    }

    /// The client is gone: what it did not settle goes back.
    pub(crate) fn end(mut self) {
        let broker = &self.shared.broker;
        let mut left: Vec<(SubscriptionNumber, Place)> = self.session.end().broker;
        for entry in self.late.into_iter().chain(self.mailbox.close()) {
            if let Entry::Own(delivery) = entry
                && let Source::Queue { queue, .. } = delivery.source
            {
                left.push((delivery.subscription, Place::Queue(queue)));
            }
        }
        for (subscription, place) in &left {
            broker.abandon(&self.mailbox, *subscription, place);
        }
        broker.session_ended(&self.mailbox);
    }
}
