//! The transcripts of `conformance-tests` played to decoder, session machine and embedded broker
//! alone: no socket, no driver, no server. What differs here and not there is the driver's.
//!
//! Left out are the cases tagged `slow`, which wait for heart-beats: nobody tells this machine
//! the time. WebSocket is the driver's and the frame layer's; the system tests play that.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in tests a panic is how to fail")]

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use conformance_tests::{Filter, Profile, Runner, Target, all_cases};
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
use stomp_relay::stomp::{self, Decoder, DecoderEvent, Frame, Headers, encode};
use stomp_relay::user::Rules;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// As `--dev` has it.
const ACCOUNT: &str = "guest";
/// The pipe holds more than any case sends, so that nobody waits for the other side to read.
const PIPE_BYTES: usize = 16 << 20;

/// What all connections share.
struct Shared {
    broker: Embedded,
    settings: Arc<Settings>,
    narrow: stomp::Limits,
    wide: stomp::Limits,
    mailbox: MailboxLimits,
    next: AtomicU64,
}

impl Shared {
    fn new() -> Self {
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

/// One connection: what the driver does, as little of it as will do.
struct Connection {
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox>,
    decoder: Decoder,
    session: Session,
    out: Vec<u8>,
    actions: Vec<Action>,
    is_over: bool,
}

impl Connection {
    fn new(shared: Arc<Shared>) -> Self {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let settings = shared.settings.clone();
        let name = format!("session-{number}");
        let session = Session::new(settings, &name, Wire::Tcp, None, None, Instant::now());
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

    async fn run(mut self, mut stream: DuplexStream) {
        let mut buffer = BytesMut::new();
        while !self.is_over {
            let mut entries = Vec::new();
            let mailbox = self.mailbox.clone();
            tokio::select! {
                read = stream.read_buf(&mut buffer) => match read {
                    Ok(count) if count > 0 => self.take_bytes(buffer.split().freeze()),
                    _ => break,
                },
                _ = poll_fn(|cx| mailbox.poll_take(cx, usize::MAX, Some(&mut entries))) => {
                    entries.into_iter().for_each(|entry| self.take_entry(entry));
                }
            }
            // The client may be gone: then the next read says so.
            stream.write_all(&std::mem::take(&mut self.out)).await.ok();
        }
        self.end();
    }

    fn take_bytes(&mut self, mut bytes: Bytes) {
        while !bytes.is_empty() && !self.is_over {
            match self.decoder.decode(&mut bytes) {
                Ok(Some(DecoderEvent::Frame(frame))) => {
                    self.session.frame(frame, Instant::now(), &mut self.actions);
                }
                Ok(Some(DecoderEvent::HeartBeat) | None) => {}
                Err(error) => self.session.garbled(Violation::from(error), &mut self.actions),
            }
            self.perform();
        }
    }

    fn take_entry(&mut self, entry: Entry) {
        let now = Instant::now();
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
            // A pipe takes everything at once.
            After::Settle { subscription, queue, tag } => {
                self.session.written(*subscription, queue, *tag, &mut self.actions);
            }
            After::Prove { .. } => panic!("no transcript sends to a user"),
        }
    }

    fn perform(&mut self) {
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
            Action::HeartBeat | Action::Ping => panic!("nobody has told the time"),
            Action::Deliver { .. }
            | Action::SendToUser { .. }
            | Action::SubscribeUser { .. }
            | Action::UnsubscribeUser { .. }
            | Action::Replay { .. }
            | Action::Page { .. }
            | Action::MarkRead { .. }
            | Action::Restore(_) => panic!("no transcript is about users: {action:?}"),
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

    fn end(mut self) {
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

#[tokio::test]
async fn the_session_machine_answers_as_the_transcripts_say() {
    let shared = Arc::new(Shared::new());
    let open = move || {
        let (client, server) = tokio::io::duplex(PIPE_BYTES);
        tokio::spawn(Connection::new(shared.clone()).run(server));
        client
    };
    let profile = Profile::stomp_relay().unwrap();
    let target = Target::in_process(open, ACCOUNT, ACCOUNT, profile);
    let filter = Filter { skip_tags: vec!["slow".into()], ..Filter::default() };
    let report = Runner::default().run(&target, &filter, all_cases().unwrap()).await;
    assert!(report.is_success(), "{report}");
    // Enough ran to mean something.
    assert!(report.outcomes.len() > 400, "{report}");
}
