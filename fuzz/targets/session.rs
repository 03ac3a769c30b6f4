//! Several clients of one server without sockets: decoder, session machine, embedded broker.
//! An input is a script (`script.rs`). Whatever the clients do, what they read are frames, ERROR
//! is the last one, nobody gets a RECEIPT that was not asked for, the server's memory follows
//! what was sent to it, and a session that is over leaves nothing behind.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use stomp_relay::relay::mailbox::MailboxLimits;
use stomp_relay::session::{Errors, Limits, Wire};
use stomp_relay::stomp::{self, Command, Decoder, DecoderEvent, Frame, Version, encode};

use super::frames::frame;
use super::script::{self, CLIENTS, Step};
use crate::harness::{Connection, Setup, Shared};
use crate::memory;

/// What the server may hold before anybody sent anything.
const MEMORY: usize = 1 << 20;
/// What it may hold for each byte that was sent to it. A topic of 127 words costs a node for each;
/// an entry in a mailbox costs as much as a short SEND for each of its receivers.
const MEMORY_PER_BYTE: usize = 400;
/// Ticks at one time: each may cancel a subscription.
const TICKS: usize = 50;
/// So many messages a client remembers, to ACK them.
const IDS: usize = 8;

static SETUPS: LazyLock<[Setup; 2]> = LazyLock::new(|| {
    let usual = Setup::new();
    let limits = Limits {
        subscriptions: 8,
        unacked: 6,
        prefetch: 3,
        transactions: 2,
        transaction_actions: 4,
        transaction_bytes: 500,
        ..usual.settings.limits
    };
    let small = Setup {
        narrow: stomp::Limits { frame_bytes: 300, ..usual.narrow },
        wide: stomp::Limits { frame_bytes: 2_000, headers: 20, ..usual.wide },
        mailbox: MailboxLimits { frames: 30, bytes: 5_000 },
        ..usual.with_limits(limits, Errors::default())
    };
    [usual, small]
});

/// Checks one input of the fuzzer.
pub(crate) fn run(input: &[u8]) {
    if let Some((&flags, script)) = input.split_first() {
        Server::new(flags).play(&script::read(script));
    }
}

struct Client {
    connection: Connection,
    /// Of what the server sends.
    decoder: Decoder,
    is_corked: bool,
    is_connected: bool,
    has_error: bool,
    /// How often each receipt was asked for and has not come.
    receipts: HashMap<String, usize>,
    /// What an ACK of the last messages has to name.
    ids: Vec<String>,
}

struct Server {
    shared: Arc<Shared>,
    wire: Wire,
    subprotocol: Option<Version>,
    clients: [Option<Client>; CLIENTS],
    now: Instant,
    before: isize,
    /// How much was sent to it.
    taken: usize,
}

impl Server {
    fn new(flags: u8) -> Self {
        let setup = SETUPS[usize::from(flags & 1)].clone();
        let before = memory::live();
        Self {
            shared: Arc::new(Shared::with(setup)),
            wire: if flags & 2 == 0 { Wire::Tcp } else { Wire::WebSocket },
            subprotocol: match flags >> 2 & 3 {
                0 => None,
                1 => Some(Version::V10),
                2 => Some(Version::V11),
                _ => Some(Version::V12),
            },
            clients: [const { None }; CLIENTS],
            now: Instant::now(),
            before,
            taken: 0,
        }
    }

    fn play(mut self, steps: &[Step<'_>]) {
        let mut who = 0;
        for step in steps {
            if let Step::Client(client) = step {
                who = *client;
            }
            self.step(who, step);
            self.check_memory();
        }
        for who in 0..CLIENTS {
            self.read(who);
            self.check(who);
        }
        for who in 0..CLIENTS {
            self.end(who);
        }
    }

    fn step(&mut self, who: usize, step: &Step<'_>) {
        self.taken += 1;
        let now = self.now;
        match step {
            Step::Client(_) => {
                self.client(who);
            }
            Step::Bytes(bytes) => {
                self.taken += bytes.len();
                let bytes = Bytes::copy_from_slice(bytes);
                let client = self.client(who);
                client.connection.take_bytes(bytes, now, &mut std::convert::identity);
            }
            Step::Frame(name) => {
                let client = self.client(who);
                let version = client.connection.session.version();
                let mut bytes = Vec::new();
                encode::encode(&mut bytes, &frame(*name, version, &client.ids), version);
                let length = bytes.len();
                client.connection.take_bytes(bytes.into(), now, &mut std::convert::identity);
                self.taken += length;
            }
            Step::Drop => return self.end(who),
            Step::Cork => {
                let client = self.client(who);
                client.is_corked = !client.is_corked;
            }
            Step::Read => {}
            Step::Deadline => {
                let deadline = self.client(who).connection.session.deadline();
                self.pass(deadline.map_or(Duration::ZERO, |at| at.saturating_duration_since(now)));
            }
            Step::Time(power) => self.pass(Duration::from_millis(1 << (power % 24))),
            Step::Sweep => self.shared.broker.sweep(now),
        }
        self.read(who);
        self.check(who);
    }

    fn client(&mut self, who: usize) -> &mut Client {
        let Self { shared, wire, subprotocol, clients, now, .. } = self;
        clients[who].get_or_insert_with(|| {
            let mut connection = Connection::new(shared.clone(), *wire, *subprotocol, *now);
            connection.taken = Some(Vec::new());
            let no_limits = stomp::Limits {
                frame_bytes: usize::MAX,
                headers: usize::MAX,
                header_name_bytes: usize::MAX - 1,
                header_value_bytes: usize::MAX - 1,
            };
            Client {
                connection,
                decoder: Decoder::new(no_limits),
                is_corked: false,
                is_connected: false,
                has_error: false,
                receipts: HashMap::new(),
                ids: Vec::new(),
            }
        })
    }

    /// The client reads what is there for it.
    fn read(&mut self, who: usize) {
        let now = self.now;
        if let Some(client) = self.clients[who].as_mut().filter(|client| !client.is_corked) {
            client.connection.take_mail(now);
        }
    }

    /// The time goes on for everybody. Each session is told when it is due, and gets past it.
    fn pass(&mut self, time: Duration) {
        self.now += time;
        for who in 0..CLIENTS {
            let now = self.now;
            let Some(client) = &mut self.clients[who] else { continue };
            let connection = &mut client.connection;
            let is_due = |connection: &Connection| {
                !connection.is_over && connection.session.deadline().is_some_and(|at| at <= now)
            };
            for _ in 0..TICKS {
                if is_due(connection) {
                    connection.tick(now);
                }
            }
            assert!(!is_due(connection), "the deadline does not pass");
            self.check(who);
        }
    }

    /// What the client got; where its session is over, the end of it.
    fn check(&mut self, who: usize) {
        let Some(client) = &mut self.clients[who] else { return };
        client.listen();
        if client.connection.is_over {
            self.end(who);
        } else {
            assert!(!client.has_error, "the connection is not closed after ERROR");
        }
    }

    fn end(&mut self, who: usize) {
        let Some(client) = self.clients[who].take() else { return };
        let mailbox = client.connection.mailbox.clone();
        client.connection.end();
        let others = Arc::strong_count(&mailbox) - 1;
        assert_eq!(others, 0, "somebody holds the mailbox of a session that is over");
    }

    fn check_memory(&self) {
        let held = usize::try_from(memory::live() - self.before).unwrap_or(0);
        let most = MEMORY + MEMORY_PER_BYTE * self.taken;
        assert!(held <= most, "{held} bytes are held for {} that were sent", self.taken);
    }
}

impl Client {
    fn listen(&mut self) {
        for frame in self.connection.taken.iter_mut().flat_map(std::mem::take) {
            if let Some(receipt) = frame.headers.get("receipt") {
                *self.receipts.entry(receipt.to_owned()).or_default() += 1;
            }
        }
        let mut bytes = Bytes::from(std::mem::take(&mut self.connection.out));
        while let Some(event) = self.decoder.decode(&mut bytes).expect("frames of a server") {
            match event {
                DecoderEvent::Frame(frame) => self.hear(&frame),
                DecoderEvent::HeartBeat => assert!(!self.has_error, "a beat after ERROR"),
            }
        }
        assert!(!self.decoder.in_frame(), "half a frame");
    }

    fn hear(&mut self, frame: &Frame) {
        let has = |name: &str| {
            assert!(frame.headers.contains(name), "{} without {name}", frame.command.name());
        };
        assert!(!self.has_error, "{} after ERROR", frame.command.name());
        match frame.command {
            Command::Connected => {
                assert!(!self.is_connected, "CONNECTED twice");
                self.is_connected = true;
                self.decoder.set_version(self.connection.session.version());
                ["version", "session", "server", "heart-beat"].into_iter().for_each(has);
                return;
            }
            Command::Error => {
                has("message");
                self.has_error = true;
                let body = str::from_utf8(&frame.body).expect("an ERROR's body is text");
                let strange = body.chars().find(|c| c.is_control() && *c != '\n');
                assert_eq!(strange, None, "a control character in {body:?}");
                return;
            }
            Command::Message => {
                ["message-id", "destination"].into_iter().for_each(has);
                let version = self.connection.session.version();
                if version != Version::V10 {
                    has("subscription");
                }
                let name = if version == Version::V12 { "ack" } else { "message-id" };
                self.ids.extend(frame.headers.get(name).map(str::to_owned));
                self.ids.drain(..self.ids.len().saturating_sub(IDS));
            }
            Command::Receipt => {
                let id = frame.headers.get("receipt-id").expect("RECEIPT with receipt-id");
                let asked = self.receipts.get_mut(id).filter(|asked| **asked > 0);
                *asked.unwrap_or_else(|| panic!("nobody asked for receipt {id:?}")) -= 1;
            }
            _ => panic!("{} from the server", frame.command.name()),
        }
        assert!(self.is_connected, "{} before CONNECTED", frame.command.name());
    }
}
