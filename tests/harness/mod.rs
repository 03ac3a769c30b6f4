//! Decoder, session machine and embedded broker, put together without socket, driver or server:
//! what the driver does, as little of it as will do. Whoever uses it tells it the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use stomp_relay::auth::policy::{Defaults, Policy};
use stomp_relay::auth::{AuthError, Principal};
use stomp_relay::cli::Serve;
use stomp_relay::config::{Config, Limits};
use stomp_relay::relay::embedded::Embedded;
use stomp_relay::relay::mailbox::{Entry, Level, Mailbox, MailboxLimits, Source, Submit, Token};
use stomp_relay::relay::origin::Place;
use stomp_relay::session::{
    self, Action, After, BrokerKind, Outgoing, Session, Settings, Violation, Wire,
};
use stomp_relay::stomp::{self, Decoder, DecoderEvent, Frame, Headers, Version, encode};
use stomp_relay::user::Rules;

/// As `--dev` has it.
pub(crate) const ACCOUNT: &str = "guest";

/// What all connections share.
pub(crate) struct Shared {
    broker: Embedded,
    settings: Arc<Settings>,
    narrow: stomp::Limits,
    wide: stomp::Limits,
    mailbox: MailboxLimits,
    next: AtomicU64,
}

impl Shared {
    pub(crate) fn new() -> Self {
        // The limits that the program has where nothing is configured.
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
            broker: Embedded::open(None).unwrap(),
            settings: Arc::new(settings),
            narrow: stomp::Limits {
                frame_bytes: stomp_relay::config::BYTES_BEFORE_CONNECTED,
                ..wide
            },
            wide,
            mailbox: MailboxLimits { frames: limits.outbound_frames, bytes: limits.outbound_bytes },
            next: AtomicU64::new(0),
        }
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
    mailbox: Arc<Mailbox>,
    pub(crate) decoder: Decoder,
    pub(crate) session: Session,
    /// What is to be written; the user takes it.
    pub(crate) out: Vec<u8>,
    pub(crate) actions: Vec<Action>,
    pub(crate) is_over: bool,
}

impl Connection {
    pub(crate) fn new(
        shared: Arc<Shared>,
        wire: Wire,
        subprotocol: Option<Version>,
        now: Instant,
    ) -> Self {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let settings = shared.settings.clone();
        let name = format!("session-{number}");
        let session = Session::new(settings, &name, wire, subprotocol, None, now);
        Self {
            mailbox: Mailbox::new(number, shared.mailbox),
            decoder: Decoder::new(shared.narrow),
            session,
            shared,
            out: Vec::new(),
            actions: Vec::new(),
            is_over: false,
        }
    }

    /// Takes bytes; `change` may put something else in a frame's place before it is judged.
    pub(crate) fn take_bytes(
        &mut self,
        mut bytes: Bytes,
        now: Instant,
        change: &mut dyn FnMut(Frame) -> Frame,
    ) {
        while !bytes.is_empty() && !self.is_over {
            match self.decoder.decode(&mut bytes) {
                Ok(Some(DecoderEvent::Frame(frame))) => {
                    self.session.frame(change(frame), now, &mut self.actions);
                }
                Ok(Some(DecoderEvent::HeartBeat) | None) => {}
                Err(error) => self.session.garbled(Violation::from(error), &mut self.actions),
            }
            self.perform();
        }
    }

    /// Takes what is in the mailbox; pending where there is nothing.
    pub(crate) fn poll_mail(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        let mut entries = Vec::new();
        let poll = self.mailbox.poll_take(cx, usize::MAX, Some(&mut entries));
        entries.into_iter().for_each(|entry| self.take_entry(entry, now));
        poll.map(|_| ())
    }

    fn take_entry(&mut self, entry: Entry, now: Instant) {
        match entry {
            Entry::Event(event) => self.session.event(*event, now, &mut self.actions),
            entry => {
                let mut head = Vec::new();
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
            After::Prove { .. } => panic!("nobody sends to a user here"),
        }
    }

    pub(crate) fn perform(&mut self) {
        while !self.actions.is_empty() {
            for action in std::mem::take(&mut self.actions) {
                self.act(action);
            }
        }
    }

    fn act(&mut self, action: Action) {
        let shared = self.shared.clone();
        let broker = &shared.broker;
        match action {
            Action::Send(frame) => self.put_frame(&frame),
            Action::Written(bytes) => self.out.extend_from_slice(&bytes),
            Action::Authenticate(headers) => self.authenticate(&headers),
            Action::Connected => {
                self.decoder.set_limits(shared.wide);
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
            Action::Ping => panic!("nobody is silent for so long here"),
            Action::Deliver { .. }
            | Action::SendToUser { .. }
            | Action::SubscribeUser { .. }
            | Action::UnsubscribeUser { .. }
            | Action::Replay { .. }
            | Action::Page { .. }
            | Action::MarkRead { .. }
            | Action::Restore(_) => panic!("nothing here is about users: {action:?}"),
        }
    }

    fn put_frame(&mut self, frame: &Frame) {
        encode::encode(&mut self.out, frame, self.session.version());
    }

    fn authenticate(&mut self, headers: &Headers) {
        let get = |name| headers.get(name).unwrap_or_default();
        let result = if (get("login"), get("passcode")) == (ACCOUNT, ACCOUNT) {
            Ok(Principal { name: ACCOUNT.into(), roles: Vec::new(), expires_at: None })
        } else {
            Err(AuthError::refused(get("login")))
        };
        self.session.authenticated(result, None, Instant::now(), &mut self.actions);
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
        let mut left: Vec<(u32, Place)> = self.session.end().broker;
        for entry in self.mailbox.close() {
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
