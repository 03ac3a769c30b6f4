//! The session machine alone, given whatever there is in whatever order: frames, answers to what
//! it asked and did not ask, deliveries, the time. Answers need not make sense; a broker or a
//! store that is confused must not confuse the session.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use stomp_relay::auth::{AuthError, Principal};
use stomp_relay::destination::{Destination, UserDestination};
use stomp_relay::message::Message;
use stomp_relay::persistence::{Page, Stored};
use stomp_relay::relay::error::{Refusal, RefusalKind};
use stomp_relay::relay::mailbox::{Delivery, Entry, Event, Level, Source, Token};
use stomp_relay::session::{Action, Errors, Limits, OnError, Session, Settings, Violation, Wire};
use stomp_relay::stomp::{Command, Frame, Headers, Version, encode};

use super::{cases, caught, tried};
use crate::harness::Setup;

const NAME: &str = "session-0";
const USER: &str = "alice";
const KINDS: [RefusalKind; 7] = [
    RefusalKind::Denied,
    RefusalKind::UnknownDestination,
    RefusalKind::Unroutable,
    RefusalKind::Limit,
    RefusalKind::Outage,
    RefusalKind::Store,
    RefusalKind::Cancelled,
];

/// Something that happens to a session.
#[derive(Clone, Debug)]
enum Happening {
    Frame(Readable),
    /// Of something that came, or of nothing.
    Settle {
        which: u64,
        command: Command,
        receipt: bool,
        in_transaction: bool,
    },
    Garbled,
    Authenticated {
        is_good: bool,
        expires_in: Option<u64>,
    },
    /// The answer to something that was asked, or to nothing.
    Done {
        which: usize,
        refused: Option<usize>,
    },
    Cancelled {
        subscription: u32,
        kind: usize,
    },
    ReplyQueue {
        subscription: u32,
        refused: Option<usize>,
    },
    Page {
        subscription: u32,
        stored: u64,
        left: u64,
        refused: Option<usize>,
    },
    Deliver {
        subscription: u32,
        what: Delivered,
    },
    Written {
        subscription: u32,
        tag: u64,
    },
    Proven {
        unread_id: u64,
    },
    Heard {
        in_frame: bool,
    },
    FrameDone,
    Said,
    Pinged,
    Ponged,
    Paused,
    Close,
    /// Nothing, but for the time.
    Tick,
}

/// A frame whose values are shown.
#[derive(Clone)]
struct Readable(Frame);

impl fmt::Debug for Readable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::new();
        encode::encode(&mut bytes, &self.0, Version::V12);
        write!(f, "{}", bytes.escape_ascii())
    }
}

#[derive(Clone, Copy, Debug)]
enum Delivered {
    Shared,
    OfQueue { tag: u64, redelivered: bool },
    OfUser { unread_id: Option<u64> },
}

/// How far the time goes before something happens.
#[derive(Clone, Copy, Debug)]
enum Passing {
    Nothing,
    Milliseconds(u64),
    /// To the deadline, or one millisecond less.
    ToDeadline,
    ToJustBefore,
}

#[derive(Clone, Debug)]
struct Life {
    wire: Wire,
    is_known: bool,
    errors: Option<OnError>,
    course: Vec<(Passing, Happening)>,
}

static SETTINGS: LazyLock<[Arc<Settings>; 3]> = LazyLock::new(|| {
    let usual = Setup::new();
    [None, Some(OnError::Close), Some(OnError::Message)].map(|on| {
        let errors = on.map_or(Errors::default(), |on| Errors {
            denied: on,
            unknown_destination: on,
            unroutable: on,
            limit: on,
            outage: on,
            store: on,
            cancelled: on,
        });
        // Small, so that each of them is reached.
        let limits = Limits {
            subscriptions: 4,
            unacked: 3,
            transactions: 2,
            transaction_actions: 2,
            transaction_bytes: 100,
            ..usual.settings.limits
        };
        usual.with_limits(limits, errors).settings
    })
});

fn one_of(values: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop::sample::select(values.to_vec())
}

fn frame() -> impl Strategy<Value = Frame> {
    use Command::{Ack, Begin, Commit, Connect, Disconnect, Nack, Send, Subscribe, Unsubscribe};
    let command = prop_oneof![
        80 => prop::sample::select(vec![Send, Subscribe, Send, Subscribe, Unsubscribe]),
        3 => prop::sample::select(vec![Begin, Commit, Command::Abort]),
        2 => prop::sample::select(vec![Connect, Disconnect]),
        1 => prop::sample::select(vec![Command::Connected, Command::Error, Command::Stomp]),
    ];
    let wrong = prop_oneof![
        30 => Just(None),
        1 => one_of(&["/no/a", "/topic/", "/temp-queue/a", "/user/bob/a"]).prop_map(Some),
    ];
    let target = one_of(&["/queue/a", "/topic/a", "/user/bob/queue/a", "/app/unread/read"]);
    let source = one_of(&[
        "/queue/a",
        "/topic/#",
        "/amq/queue/a",
        "/user/queue/a",
        "/user/queue/a",
        "/app/unread",
        "/user/queue/errors",
    ]);
    let rest = (
        prop::option::of(one_of(&["r0", "r1"])),
        prop::option::weighted(0.05, one_of(&["t0", "t0", "t1"])),
        one_of(&["auto", "client", "client-individual"]),
        prop::option::weighted(0.1, one_of(&["/temp-queue/a", "/queue/b", "c"])),
        prop::option::weighted(0.3, one_of(&["1.0", "1.1", "1.2", "1.0,1.2", "3"])),
        prop::option::of(one_of(&["0,0", "1,1", "9999999999,9999999999", "x"])),
        prop::option::weighted(0.2, one_of(&["replay", "never"])),
    );
    let destinations = (wrong, target, source);
    (command, destinations, 0_u32..16, rest).prop_map(|(command, destinations, n, rest)| {
        let (wrong, target, source) = destinations;
        let (receipt, transaction, ack, reply_to, versions, beat, unread) = rest;
        let mut frame = Frame::new(command);
        let mut header = |name: &str, value: Option<&str>| {
            value.into_iter().for_each(|value| frame.headers.push(name, value));
        };
        header("receipt", receipt);
        match command {
            Connect | Command::Stomp => {
                header("accept-version", versions);
                header("heart-beat", beat.filter(|beat| n > 0 || *beat != "x"));
            }
            Send => {
                header("destination", wrong.or(Some(target)));
                header("transaction", transaction);
                header("reply-to", reply_to);
                header("x-unread", unread);
                frame.body = Bytes::from_static(b"{\"all\":true}");
            }
            Subscribe => {
                header("id", Some(&format!("s{n}")));
                header("destination", wrong.or(Some(source)));
                header("ack", Some(ack));
                header("x-unread", unread);
            }
            Unsubscribe => header("id", Some(&format!("s{n}"))),
            Begin | Commit | Command::Abort => header("transaction", transaction.or(Some("t0"))),
            Ack
            | Nack
            | Disconnect
            | Command::Connected
            | Command::Message
            | Command::Receipt
            | Command::Error => {}
        }
        frame
    })
}

fn happening() -> impl Strategy<Value = Happening> {
    let number = || 0_u32..8;
    let refused = || prop::option::weighted(0.3, 0..KINDS.len());
    let delivered = prop_oneof![
        Just(Delivered::Shared),
        (0_u64..4, any::<bool>())
            .prop_map(|(tag, redelivered)| Delivered::OfQueue { tag, redelivered }),
        prop::option::of(0_u64..4).prop_map(|unread_id| Delivered::OfUser { unread_id }),
    ];
    let small = prop_oneof![
        Just(Happening::FrameDone),
        Just(Happening::Said),
        Just(Happening::Pinged),
        Just(Happening::Ponged),
        Just(Happening::Ponged),
        Just(Happening::Paused),
        any::<bool>().prop_map(|in_frame| Happening::Heard { in_frame }),
        (0_u64..4).prop_map(|unread_id| Happening::Proven { unread_id }),
        (number(), 0_u64..4)
            .prop_map(|(subscription, tag)| Happening::Written { subscription, tag }),
    ];
    let rare = prop_oneof![Just(Happening::Garbled), Just(Happening::Close)];
    prop_oneof![
        60 => frame().prop_map(|frame| Happening::Frame(Readable(frame))),
        20 => (0_usize..8, refused()).prop_map(|(which, refused)| Happening::Done { which, refused }),
        10 => (0_u64..8, prop::sample::select(vec![Command::Ack, Command::Nack]), any::<bool>(),
            prop::bool::weighted(0.1)).prop_map(|(which, command, receipt, in_transaction)| {
                Happening::Settle { which, command, receipt, in_transaction }
            }),
        30 => (number(), delivered)
            .prop_map(|(subscription, what)| Happening::Deliver { subscription, what }),
        5 => (any::<bool>(), prop::option::of(0_u64..100_000))
            .prop_map(|(is_good, expires_in)| Happening::Authenticated { is_good, expires_in }),
        6 => (number(), 0..KINDS.len())
            .prop_map(|(subscription, kind)| Happening::Cancelled { subscription, kind }),
        6 => (number(), refused())
            .prop_map(|(subscription, refused)| Happening::ReplyQueue { subscription, refused }),
        10 => (number(), 0_u64..4, 0_u64..3, refused()).prop_map(
            |(subscription, stored, left, refused)| Happening::Page {
                subscription, stored, left, refused
            }
        ),
        30 => small,
        20 => Just(Happening::Tick),
        1 => rare,
    ]
}

fn lives() -> impl Strategy<Value = Life> {
    let passing = prop_oneof![
        40 => Just(Passing::Nothing),
        4 => (0_u64..5_000).prop_map(Passing::Milliseconds),
        1 => (0_u64..10_000_000).prop_map(Passing::Milliseconds),
        4 => Just(Passing::ToDeadline),
        1 => Just(Passing::ToJustBefore),
    ];
    (
        prop::sample::select(vec![Wire::Tcp, Wire::WebSocket, Wire::SockJs]),
        prop::bool::weighted(0.9),
        prop::option::of(prop::sample::select(vec![OnError::Close, OnError::Message])),
        one_of(&["0,0", "0,0", "0,10000", "10000,0", "9999999999,9999999999"]),
        any::<bool>(),
        prop::collection::vec((passing, happening()), 1..60),
    )
        .prop_map(|(wire, is_known, errors, beat, has_transaction, mut course)| {
            // With something else first there is not much to happen.
            let connect = Frame::new(Command::Connect).with("heart-beat", beat);
            course.insert(0, (Passing::Nothing, Happening::Frame(Readable(connect))));
            if has_transaction {
                let begin = Frame::new(Command::Begin).with("transaction", "t0");
                course.insert(1, (Passing::Nothing, Happening::Frame(Readable(begin))));
            }
            Life { wire, is_known, errors, course }
        })
}

/// A session and what is known of it.
struct Watched {
    session: Session,
    now: Instant,
    is_over: bool,
    /// What it asked, and was not answered.
    tokens: Vec<Token>,
    /// Messages that wait for an ACK, or did.
    acks: u64,
    outputs: usize,
    ticks: usize,
}

/// Lives it to its end.
fn live(life: &Life) -> Watched {
    let now = Instant::now();
    let settings = match life.errors {
        None => &SETTINGS[0],
        Some(OnError::Close) => &SETTINGS[1],
        Some(OnError::Message) => &SETTINGS[2],
    };
    let principal = life.is_known.then(|| (alice(), None));
    let session = Session::new(settings.clone(), NAME, life.wire, None, principal, now);
    let mut watched =
        Watched { session, now, is_over: false, tokens: Vec::new(), acks: 0, outputs: 0, ticks: 0 };
    for (passing, happening) in &life.course {
        watched.pass(*passing);
        watched.happen(happening);
    }
    watched.session.end();
    watched
}

impl Watched {
    /// The time goes on, and the session is told where it wants to be. A tick before the deadline
    /// does nothing, and ticks at a deadline get past it.
    fn pass(&mut self, passing: Passing) {
        let deadline = self.session.deadline();
        let before = Duration::from_millis(1);
        self.now = match (passing, deadline) {
            (Passing::Milliseconds(time), _) => self.now + Duration::from_millis(time),
            (Passing::ToDeadline, Some(at)) => self.now.max(at),
            (Passing::ToJustBefore, Some(at)) => self.now.max(at - before),
            (Passing::Nothing | Passing::ToDeadline | Passing::ToJustBefore, _) => self.now,
        };
        // At a deadline each subscription may be cancelled by a tick of its own.
        for _ in 0..20 {
            let deadline = self.session.deadline();
            let out = self.act(|session, now, out| session.tick(now, out));
            let after = self.session.deadline();
            let Some(due) = deadline.filter(|at| *at <= self.now) else {
                assert!(out.is_empty(), "before its deadline the session does {out:?}");
                assert_eq!(after, deadline, "before its deadline a tick changes it");
                return;
            };
            self.ticks += 1;
            assert!(after.is_none_or(|after| after >= due), "a tick puts the deadline back");
        }
        panic!("the deadline does not pass, however often the session is told");
    }

    /// Does something and checks what holds of all that a session does.
    fn act(&mut self, act: impl FnOnce(&mut Session, Instant, &mut Vec<Action>)) -> Vec<Action> {
        let mut out = Vec::new();
        act(&mut self.session, self.now, &mut out);
        for (at, action) in out.iter().enumerate() {
            let is_close = matches!(action, Action::Close { .. });
            let is_forbidden = self.is_over && (is_close || action.is_output());
            assert!(!is_forbidden, "after the end: {action:?}");
            self.is_over |= is_close;
            match action {
                Action::Publish { token, .. }
                | Action::Subscribe { token, .. }
                | Action::SendToUser { token, .. }
                | Action::SubscribeUser { token, .. }
                | Action::Unsubscribe { token: Some(token), .. }
                | Action::MarkRead { token: Some(token), .. } => self.tokens.push(*token),
                Action::Deliver { own_id: true, .. } => self.acks += 1,
                _ => {}
            }
            self.outputs += usize::from(action.is_output());
            if matches!(action, Action::Send(frame) if frame.command == Command::Error) {
                let next = out.get(at + 1);
                assert!(matches!(next, Some(Action::Close { .. })), "after ERROR: {next:?}");
            }
        }
        if self.is_over {
            assert_eq!(self.session.deadline(), None, "of a session that is over");
            assert!(!self.session.takes_frames());
        }
        out
    }

    /// One of the subscriptions that are there, as a rule.
    fn number(&self, which: u32) -> u32 {
        let numbers: Vec<u32> = (0..100).filter(|n| self.session.subscribes(*n)).collect();
        let there = usize::try_from(which).ok().and_then(|which| which.checked_rem(numbers.len()));
        there.filter(|_| which > 0).map_or(which, |there| numbers[there])
    }

    fn happen(&mut self, happening: &Happening) {
        let (session, now) = (&mut self.session, self.now);
        match happening {
            Happening::Heard { in_frame } => session.heard(*in_frame, now),
            Happening::FrameDone => session.frame_done(),
            Happening::Said => session.said(now),
            Happening::Pinged => session.pinged(now),
            Happening::Ponged => session.ponged(now),
            Happening::Paused => session.paused(now),
            other => self.answer(other),
        }
    }

    /// Something that a session may do something about.
    fn answer(&mut self, happening: &Happening) {
        let refusal = |kind: usize| Refusal::new(KINDS[kind], "Refused", "for a test\n");
        let session = &mut self.session;
        match happening.clone() {
            // Whoever feeds a session asks first.
            Happening::Frame(_) if !session.takes_frames() => {}
            Happening::Frame(Readable(frame)) => {
                self.act(|session, now, out| session.frame(frame, now, out));
            }
            Happening::Garbled => {
                let violation = Violation {
                    message: "Garbled",
                    body: "for a test\n".into(),
                    code: 1002,
                    receipt: None,
                };
                self.act(|session, _, out| session.garbled(violation, out));
            }
            Happening::Authenticated { is_good, expires_in } => {
                let result = if is_good { Ok(alice()) } else { Err(AuthError::refused(USER)) };
                let expires = expires_in.map(|time| self.now + Duration::from_millis(time));
                self.act(|session, now, out| session.authenticated(result, expires, now, out));
            }
            Happening::Settle { which, command, receipt, in_transaction } => {
                self.settle(which, command, receipt, in_transaction);
            }
            Happening::Done { which, refused } => {
                let token = match self.tokens.len() {
                    0 => 4_711,
                    length => self.tokens.swap_remove(which % length),
                };
                let result = refused.map_or(Ok(Level::Memory), |kind| Err(refusal(kind)));
                self.act(|session, _, out| session.done(token, result, out));
            }
            Happening::Cancelled { subscription, kind } => {
                let subscription = self.number(subscription);
                self.event(Event::Cancelled { subscription, refusal: refusal(kind) });
            }
            Happening::ReplyQueue { subscription, refused } => {
                let result = refused.map_or(Ok("amq.gen-x".into()), |kind| Err(refusal(kind)));
                let subscription = self.number(subscription);
                self.event(Event::ReplyQueue { subscription, result });
            }
            Happening::Page { subscription, stored, left, refused } => {
                let messages =
                    (1..=stored).map(|id| Stored { id, message: message(true), created_at: 0 });
                let page = Page { messages: messages.collect(), left, truncated: left };
                let result = refused.map_or(Ok(page), |kind| Err(refusal(kind)));
                let subscription = self.number(subscription);
                self.event(Event::Page { subscription, result });
            }
            Happening::Deliver { subscription, what } => {
                self.deliver(self.number(subscription), what);
            }
            Happening::Written { subscription, tag } => {
                let queue = "a".into();
                self.act(|session, _, out| session.written(subscription, &queue, tag, out));
            }
            Happening::Proven { unread_id } => {
                let proven = [(message(true).destination.clone(), unread_id)];
                self.act(|session, _, out| session.proven(proven.into_iter(), out));
            }
            Happening::Close => self.event(Event::Close { code: 1012, reason: "drain" }),
            Happening::Tick
            | Happening::Heard { .. }
            | Happening::FrameDone
            | Happening::Said
            | Happening::Pinged
            | Happening::Ponged
            | Happening::Paused => {}
        }
    }

    fn settle(&mut self, which: u64, command: Command, receipt: bool, in_transaction: bool) {
        if !self.session.takes_frames() || self.acks == 0 && which > 0 {
            return;
        }
        let id = format!("{NAME}-{}", which % (self.acks + 1));
        let mut frame = Frame::new(command).with("id", &id).with("message-id", &id);
        if receipt {
            frame.headers.push("receipt", "r");
        }
        if in_transaction {
            frame.headers.push("transaction", "t0");
        }
        self.act(|session, now, out| session.frame(frame, now, out));
    }

    fn event(&mut self, event: Event) {
        self.act(|session, now, out| session.event(event, now, out));
    }

    fn deliver(&mut self, subscription: u32, what: Delivered) {
        let message = message(matches!(what, Delivered::OfUser { .. }));
        let own = |redelivered, source| {
            let message = message.clone();
            Entry::Own(Box::new(Delivery { message, subscription, redelivered, source }))
        };
        let entry = match what {
            Delivered::Shared => Entry::Shared { message, subscription },
            Delivered::OfQueue { tag, redelivered } => {
                own(redelivered, Source::Queue { queue: "a".into(), tag })
            }
            Delivered::OfUser { unread_id } => own(false, Source::User { unread_id }),
        };
        let was_over = self.is_over;
        let mut head = Vec::new();
        let mut outgoing = None;
        self.act(|session, now, out| outgoing = session.deliver(entry, now, &mut head, out));
        let written = outgoing.is_some();
        self.outputs += usize::from(written);
        self.acks += u64::from(outgoing.is_some_and(|outgoing| outgoing.own_id));
        assert!(!(was_over && written), "a MESSAGE after the end");
        if written {
            let head = String::from_utf8(head).expect("text");
            assert!(head.starts_with("MESSAGE\n") && head.ends_with('\n'), "{head:?}");
            assert!(head.lines().skip(1).all(|line| line.contains(':')), "{head:?}");
        }
    }
}

fn alice() -> Principal {
    Principal { name: USER.into(), roles: Vec::new(), expires_at: None }
}

fn message(is_users: bool) -> Arc<Message> {
    let destination = if is_users {
        Destination::User(UserDestination { user: USER.into(), target: "queue/a".into() })
    } else {
        Destination::Queue("a".into())
    };
    let shown = destination.to_string();
    Arc::new(Message::new(
        destination,
        shown.into(),
        Headers::default(),
        Bytes::from_static(b"hello"),
    ))
}

proptest! {
    #![proptest_config(cases(1_000))]

    #[test]
    fn whatever_happens_a_session_ends_once_and_says_nothing_more(life in lives()) {
        tried(|| live(&life))?;
    }
}

#[test]
fn lives_have_something_in_them() {
    let mut runner = TestRunner::deterministic();
    let (mut outputs, mut over, mut ticks) = (0, 0, 0);
    for _ in 0..500 {
        let watched = live(&lives().new_tree(&mut runner).unwrap().current());
        outputs += watched.outputs;
        over += usize::from(watched.is_over);
        ticks += watched.ticks;
    }
    assert!(outputs > 1_200 && ticks > 300, "{outputs} outputs, {ticks} ticks");
    assert!((100..490).contains(&over), "{over} of 500 are over");
}

fn told(command: Command, headers: &[(&str, &str)]) -> Happening {
    let headers = headers.iter().copied().collect();
    Happening::Frame(Readable(Frame { headers, ..Frame::new(command) }))
}

/// Lives that once ended with something written after the Close.
#[test]
fn nothing_comes_after_the_close() {
    let subscribe = |destination| {
        let headers = [("id", "s"), ("destination", destination), ("ack", "client")];
        told(Command::Subscribe, &headers)
    };
    let send = |more| told(Command::Send, &[("destination", "/queue/a"), ("receipt", "r"), more]);
    let cases: [(&str, Vec<(Passing, Happening)>); 4] = [
        (
            "a PING is due when the SEND that waited for its queue of answers is given up",
            vec![
                (Passing::Nothing, send(("reply-to", "/temp-queue/a"))),
                (Passing::Milliseconds(60_000), Happening::Tick),
            ],
        ),
        (
            "a page has more messages than may be without ACK",
            vec![
                (Passing::Nothing, subscribe("/app/unread")),
                (
                    Passing::Nothing,
                    Happening::Page { subscription: 0, stored: 5, left: 0, refused: None },
                ),
            ],
        ),
        (
            "the RECEIPT of a SEND comes too late",
            vec![
                (Passing::Nothing, send(("a", "b"))),
                (Passing::Nothing, Happening::Close),
                (Passing::Nothing, Happening::Done { which: 0, refused: None }),
            ],
        ),
        (
            "a message comes too late",
            vec![
                (Passing::Nothing, subscribe("/queue/a")),
                (Passing::Nothing, Happening::Close),
                (Passing::Nothing, Happening::Deliver { subscription: 0, what: Delivered::Shared }),
            ],
        ),
    ];
    for (what, mut course) in cases {
        course.insert(0, (Passing::Nothing, told(Command::Connect, &[])));
        let life = Life { wire: Wire::WebSocket, is_known: true, errors: None, course };
        let watched = caught(|| live(&life)).unwrap_or_else(|why| panic!("{what}: {why}"));
        assert!(watched.is_over, "{what}");
    }
}
