//! Clients that live a story: told to decoder, session machine and embedded broker, and to the
//! model. What comes back must be what the model allows.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use stomp_relay::session::Wire;
use stomp_relay::stomp::{Command, Decoder, DecoderEvent, Frame, Version, encode};

use super::caught;
use super::model::{Delivered, Mode, Model, SessionId, Settlement, Step as Later};
use super::story::{Bad, CLIENTS, Deed, SOURCES, Step, Story, TARGETS, TRANSACTIONS};
use crate::harness::{ACCOUNT, Connection, Setup, Shared};

const NAMES: [&str; CLIENTS] = ["a", "b", "c"];
/// Where SUBSCRIBE has no `prefetch-count`.
const PREFETCH: usize = 100;
/// Of reading, after one step.
const ROUNDS: usize = 1_000;
/// A body that must never arrive.
const NEVER: &str = "never";

struct Client {
    session: SessionId,
    version: Version,
    connection: Connection,
    /// Of what the server sends.
    decoder: Decoder,
    said: VecDeque<Frame>,
    error: Option<Frame>,
    /// Nothing is on its way to it.
    has_read: bool,
    /// Ids that it has settled.
    settled: Vec<String>,
}

struct World {
    shared: Arc<Shared>,
    model: Model,
    versions: [Version; CLIENTS],
    clients: [Option<Client>; CLIENTS],
    now: Instant,
    /// The story as a transcript.
    log: Vec<String>,
    sessions: SessionId,
    bodies: usize,
    receipts: usize,
    /// Asked for and not come yet, and by whom.
    awaited: BTreeMap<String, usize>,
    /// The bodies that each subscription of the last client got.
    came: BTreeMap<String, Vec<String>>,
}

/// What happened in a story, so that a test can see that something did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) messages: usize,
    pub(crate) redelivered: usize,
    pub(crate) receipts: usize,
    pub(crate) errors: usize,
    pub(crate) dead: usize,
    pub(crate) left: usize,
}

/// Lives the story.
///
/// # Errors
/// What was not as the model has it, and the story up to there.
pub(crate) fn live(setup: &Setup, story: &Story) -> Result<Counts, String> {
    let mut world = World::new(setup, story.versions);
    let mut counts = Counts::default();
    let result = caught(|| {
        for step in &story.steps {
            world.step(step)?;
        }
        counts.left = world.finish()?;
        Ok::<_, String>(())
    });
    let why = match result {
        Ok(Ok(())) => {
            world.count(&mut counts);
            return Ok(counts);
        }
        Ok(Err(why)) | Err(why) => why,
    };
    Err(format!("{why}\n\n{}\n", world.log.join("\n")))
}

impl World {
    fn new(setup: &Setup, versions: [Version; CLIENTS]) -> Self {
        Self {
            shared: Arc::new(Shared::with(setup.clone())),
            model: Model::default(),
            versions,
            clients: [const { None }; CLIENTS],
            now: Instant::now(),
            log: Vec::new(),
            sessions: 0,
            bodies: 0,
            receipts: 0,
            awaited: BTreeMap::new(),
            came: BTreeMap::new(),
        }
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        let who = step.client;
        if self.clients[who].is_none() {
            self.connect(who)?;
        }
        match &step.deed {
            Deed::Bad(bad) => self.mistake(who, *bad, step.receipt)?,
            deed => self.deed(who, deed, step.receipt)?,
        }
        self.read(step.lazy)
    }

    fn connect(&mut self, who: usize) -> Result<(), String> {
        let version = self.versions[who];
        let session = self.sessions;
        self.sessions += 1;
        let connection = Connection::new(self.shared.clone(), Wire::Tcp, None, self.now);
        self.log.push(format!("@connect {}  # {}", NAMES[who], version.name()));
        self.clients[who] = Some(Client {
            session,
            version,
            connection,
            decoder: Decoder::new(self.shared.setup.wide),
            said: VecDeque::new(),
            error: None,
            has_read: true,
            settled: Vec::new(),
        });
        let connect = Frame::new(Command::Connect)
            .with("accept-version", version.name())
            .with("login", ACCOUNT)
            .with("passcode", ACCOUNT);
        self.tell(who, &connect);
        let client = self.clients[who].as_mut().expect("it connects");
        client.listen();
        let connected = client.said.pop_front().ok_or("no CONNECTED")?;
        client.decoder.set_version(version);
        let is_right = connected.command == Command::Connected
            && connected.headers.get("version") == Some(version.name())
            && client.said.is_empty();
        self.model.connect(session);
        is_right.then_some(()).ok_or_else(|| format!("CONNECT is answered by {connected:?}"))
    }

    fn deed(&mut self, who: usize, deed: &Deed, receipt: bool) -> Result<(), String> {
        let Client { session, has_read, .. } = *self.client(who)?;
        match deed {
            Deed::Subscribe { source, mode, prefetch } => {
                self.subscribe(who, SOURCES[*source], *mode, *prefetch, receipt)
            }
            Deed::Unsubscribe { which } => {
                let ids = self.model.subscriptions(session);
                let Some(id) = pick(&ids, *which) else { return Ok(()) };
                self.model.unsubscribe(session, id, has_read);
                self.ask(who, Frame::new(Command::Unsubscribe).with("id", id), receipt)
            }
            Deed::Send { target, transaction } => {
                let body = format!("m{}", self.bodies);
                self.bodies += 1;
                self.send(who, TARGETS[*target], &body, *transaction, receipt)
            }
            Deed::Settle { which, settlement, transaction } => {
                let ids = self.model.unacked(session);
                let Some(id) = pick(&ids, *which) else { return Ok(()) };
                self.settle(who, id, *settlement, *transaction, receipt)
            }
            Deed::SettleAgain { which } => {
                let Some(id) = pick(&self.client(who)?.settled, *which).cloned() else {
                    return Ok(());
                };
                self.settle(who, &id, Settlement::Ack, None, receipt)
            }
            Deed::NackOnAndOn { times } => self.nack_on_and_on(who, *times),
            Deed::Begin { transaction } => {
                let name = TRANSACTIONS[*transaction];
                if self.model.open_transactions(session).contains(name) {
                    return Ok(());
                }
                self.model.begin(session, name);
                self.ask(who, Frame::new(Command::Begin).with("transaction", name), receipt)
            }
            Deed::Finish { transaction, commits } => {
                let name = TRANSACTIONS[*transaction];
                if !self.model.open_transactions(session).contains(name) {
                    return Ok(());
                }
                self.model.finish(session, name, *commits);
                let command = if *commits { Command::Commit } else { Command::Abort };
                self.ask(who, Frame::new(command).with("transaction", name), receipt)
            }
            Deed::Disconnect => {
                let frame = self.with_receipt(who, Frame::new(Command::Disconnect), receipt);
                self.tell(who, &frame);
                self.hear(who, true)?;
                if self.client(who)?.error.is_some() {
                    return Err("an ERROR for DISCONNECT".into());
                }
                self.end(who)
            }
            Deed::Drop => {
                self.log.push(format!("@drop {}", NAMES[who]));
                self.end(who)
            }
            Deed::Bad(bad) => self.mistake(who, *bad, receipt),
        }
    }

    fn subscribe(
        &mut self,
        who: usize,
        source: &str,
        mode: Mode,
        prefetch: Option<u8>,
        receipt: bool,
    ) -> Result<(), String> {
        let session = self.client(who)?.session;
        let taken = self.model.subscriptions(session);
        let id = (0..).map(|n| format!("s{n}")).find(|id| !taken.contains(id)).expect("one");
        let mut frame = Frame::new(Command::Subscribe).with("id", &id).with("destination", source);
        match mode {
            Mode::Auto => {}
            Mode::Client => frame.headers.push("ack", "client"),
            Mode::Individual => frame.headers.push("ack", "client-individual"),
        }
        if let Some(prefetch) = prefetch {
            frame.headers.push("prefetch-count", &prefetch.to_string());
        }
        let window = prefetch.map_or(PREFETCH, |prefetch| usize::from(prefetch).max(1));
        self.model.subscribe(session, &id, source, mode, window);
        self.ask(who, frame, receipt)
    }

    fn send(
        &mut self,
        who: usize,
        target: &str,
        body: &str,
        transaction: Option<usize>,
        receipt: bool,
    ) -> Result<(), String> {
        let session = self.client(who)?.session;
        let mut frame = Frame::new(Command::Send).with("destination", target);
        frame.body = Bytes::copy_from_slice(body.as_bytes());
        match self.open(session, transaction) {
            Some(name) => {
                frame.headers.push("transaction", name);
                let later = Later::Send { destination: target.into(), body: body.into() };
                self.model.add(session, name, later);
            }
            None => self.model.send(target, body),
        }
        self.ask(who, frame, receipt)
    }

    fn settle(
        &mut self,
        who: usize,
        id: &str,
        settlement: Settlement,
        transaction: Option<usize>,
        receipt: bool,
    ) -> Result<(), String> {
        let Client { session, version, .. } = *self.client(who)?;
        let command = match settlement {
            Settlement::Ack => Command::Ack,
            Settlement::Nack | Settlement::Discard => Command::Nack,
        };
        let name = if version == Version::V12 { "id" } else { "message-id" };
        let mut frame = Frame::new(command).with(name, id);
        if settlement == Settlement::Discard {
            frame.headers.push("requeue", "false");
        }
        match self.open(session, transaction) {
            Some(name) => {
                frame.headers.push("transaction", name);
                self.model.add(session, name, Later::Settle { id: id.into(), settlement });
            }
            None => {
                self.model.settle(session, id, settlement);
                self.client(who)?.settled.push(id.to_owned());
            }
        }
        self.ask(who, frame, receipt)
    }

    fn nack_on_and_on(&mut self, who: usize, times: u8) -> Result<(), String> {
        let session = self.client(who)?.session;
        let first = self.model.unacked(session).first().cloned();
        let Some(body) = first.and_then(|id| self.model.body(session, &id)) else {
            return Ok(());
        };
        for _ in 0..times {
            let ids = self.model.unacked(session);
            let again = ids.iter().find(|id| self.model.body(session, id).as_ref() == Some(&body));
            let Some(id) = again else { break };
            self.settle(who, id, Settlement::Nack, None, false)?;
            self.read(0)?;
        }
        Ok(())
    }

    /// A frame against the protocol, and a good one behind it that must have no effect.
    fn mistake(&mut self, who: usize, bad: Bad, receipt: bool) -> Result<(), String> {
        let Client { session, version, .. } = *self.client(who)?;
        let id = self.model.subscriptions(session).first().cloned();
        let transaction = self.model.open_transactions(session).first().cloned();
        let frame = match (bad, id, transaction) {
            (Bad::SubscribeTwice, None, _) | (Bad::BeginTwice, _, None) => return Ok(()),
            (Bad::Escape | Bad::BodyOfSubscribe, _, _) if version == Version::V10 => return Ok(()),
            (bad, id, transaction) => {
                bad_frame(bad, version, id.as_deref(), transaction.as_deref())
            }
        };
        let mut bytes = frame.to_vec();
        let asked = receipt.then(|| {
            self.receipts += 1;
            format!("r{}", self.receipts)
        });
        if let Some(asked) = &asked {
            let line = bytes.iter().position(|byte| *byte == b'\n').expect("a command line");
            bytes.splice(line..line, format!("\nreceipt:{asked}").into_bytes());
        }
        let name = NAMES[who];
        self.log.push(format!("{name}>|{}", bytes.escape_ascii()));
        let mut after = Frame::new(Command::Send).with("destination", "/queue/a");
        after.body = Bytes::from_static(NEVER.as_bytes());
        self.log.extend(shown(name, '>', &after));
        encode::encode(&mut bytes, &after, version);
        let now = self.now;
        let client = self.client(who)?;
        client.connection.take_bytes(bytes.into(), now, &mut std::convert::identity);
        self.hear(who, true)?;
        let error = self.client(who)?.error.take().ok_or("no ERROR")?;
        if error.headers.get("receipt-id") != asked.as_deref() {
            return Err(format!("the ERROR should have receipt-id {asked:?}"));
        }
        self.end(who)
    }

    /// Tells a frame, and waits for its RECEIPT where it has one.
    fn ask(&mut self, who: usize, frame: Frame, receipt: bool) -> Result<(), String> {
        let frame = self.with_receipt(who, frame, receipt);
        self.tell(who, &frame);
        self.hear(who, false)
    }

    fn with_receipt(&mut self, who: usize, frame: Frame, receipt: bool) -> Frame {
        if !receipt {
            return frame;
        }
        self.receipts += 1;
        let id = format!("r{}", self.receipts);
        let frame = frame.with("receipt", &id);
        self.awaited.insert(id, who);
        frame
    }

    fn tell(&mut self, who: usize, frame: &Frame) {
        self.log.extend(shown(NAMES[who], '>', frame));
        let now = self.now;
        if let Some(client) = &mut self.clients[who] {
            let mut bytes = Vec::new();
            encode::encode(&mut bytes, frame, client.version);
            client.connection.take_bytes(bytes.into(), now, &mut std::convert::identity);
        }
    }

    /// What the server has said to a client. `ends`: the session is to be over with it.
    fn hear(&mut self, who: usize, ends: bool) -> Result<(), String> {
        let Self { model, clients, awaited, came, log, .. } = self;
        let client = clients[who].as_mut().ok_or("nobody is there to hear")?;
        client.listen();
        while let Some(frame) = client.said.pop_front() {
            log.extend(shown(NAMES[who], '<', &frame));
            let header = |name: &str| frame.headers.get(name);
            let missing = |name: &str| format!("no {name} in the last frame");
            if client.error.is_some() {
                return Err("a frame after ERROR".into());
            }
            match frame.command {
                Command::Receipt => {
                    let id = header("receipt-id").ok_or_else(|| missing("receipt-id"))?;
                    if awaited.remove(id) != Some(who) {
                        return Err(format!("nobody waits for receipt {id} here"));
                    }
                }
                Command::Message => {
                    let subscription = header("subscription");
                    let message_id = header("message-id").ok_or_else(|| missing("message-id"))?;
                    let has_ack = client.version == Version::V12;
                    let id = header("ack").filter(|_| has_ack).unwrap_or(message_id);
                    let body = String::from_utf8_lossy(&frame.body);
                    let redelivered = match header("redelivered") {
                        Some("true") => true,
                        Some("false") => false,
                        other => return Err(format!("redelivered is {other:?}")),
                    };
                    let got = Delivered {
                        subscription: subscription.ok_or_else(|| missing("subscription"))?,
                        body: &body,
                        destination: header("destination").unwrap_or_default(),
                        redelivered,
                        id,
                    };
                    model.delivered(client.session, &got)?;
                    came.entry(got.subscription.into()).or_default().push(body.into());
                }
                Command::Error if ends => client.error = Some(frame),
                _ => return Err(format!("{} from the server", frame.command.name())),
            }
        }
        if client.connection.is_over != ends {
            let is = if ends { "is not" } else { "is" };
            return Err(format!("the connection of {} {is} closed", NAMES[who]));
        }
        let late = awaited.iter().find(|(_, asked)| **asked == who);
        late.map_or(Ok(()), |(id, _)| Err(format!("receipt {id} did not come")))
    }

    /// Clients read what is there for them, until nothing more comes.
    fn read(&mut self, lazy: u8) -> Result<(), String> {
        let is_lazy = |who: usize| lazy & 1 << who != 0;
        let reads: Vec<usize> = (0..CLIENTS).filter(|who| !is_lazy(*who)).collect();
        // What one of them reads may send something to another, but not for ever.
        let mut rounds = 0..ROUNDS;
        let mut again = true;
        while again {
            rounds.next().ok_or("something comes again whenever all is read")?;
            for &who in &reads {
                let now = self.now;
                let Some(client) = &mut self.clients[who] else { continue };
                client.connection.take_mail(now);
                client.has_read = true;
                self.hear(who, false)?;
            }
            let mut there = reads.iter().filter_map(|who| self.clients[*who].as_ref());
            again = there.any(|client| client.connection.mailbox.depth() != (0, 0));
        }
        for (who, client) in self.clients.iter_mut().enumerate().filter(|(who, _)| is_lazy(*who)) {
            if let Some(client) = client {
                client.has_read = false;
                self.log.push(format!("# {} does not read", NAMES[who]));
            }
        }
        let all = self.clients.iter().flatten().all(|client| client.has_read);
        if all { self.model.check_rest() } else { Ok(()) }
    }

    /// The session is over, and the server keeps nothing of it.
    fn end(&mut self, who: usize) -> Result<(), String> {
        let Some(client) = self.clients[who].take() else { return Ok(()) };
        self.model.end(client.session, client.has_read);
        let mailbox = client.connection.mailbox.clone();
        client.connection.end();
        match Arc::strong_count(&mailbox) {
            1 => Ok(()),
            more => Err(format!("{} others hold the mailbox of a session that is over", more - 1)),
        }
    }

    /// Everybody leaves; whoever comes then finds all that was sent and not acknowledged. How
    /// many that is.
    fn finish(&mut self) -> Result<usize, String> {
        self.read(0)?;
        for (who, name) in NAMES.iter().enumerate() {
            if self.clients[who].is_some() {
                self.log.push(format!("@drop {name}"));
            }
            self.end(who)?;
            self.read(0)?;
        }
        let left = self.model.left();
        self.versions[0] = Version::V12;
        self.connect(0)?;
        self.came.clear();
        for (queue, bodies) in &left {
            self.subscribe(0, &format!("/queue/{queue}"), Mode::Auto, None, false)?;
            self.read(0)?;
            let came: Vec<String> =
                std::mem::take(&mut self.came).into_values().flatten().collect();
            if came != *bodies {
                return Err(format!("in {queue} {bodies:?} are left, and {came:?} came"));
            }
        }
        self.end(0)?;
        Ok(left.values().map(Vec::len).sum())
    }

    /// The name of a transaction that is open.
    fn open(&self, session: SessionId, transaction: Option<usize>) -> Option<&'static str> {
        let name = TRANSACTIONS[transaction?];
        self.model.open_transactions(session).contains(name).then_some(name)
    }

    fn client(&mut self, who: usize) -> Result<&mut Client, String> {
        self.clients[who].as_mut().ok_or_else(|| format!("{} has no session", NAMES[who]))
    }

    fn count(&self, counts: &mut Counts) {
        let lines = |text: &str| self.log.iter().filter(|line| line.ends_with(text)).count();
        counts.messages = lines("< MESSAGE");
        counts.redelivered = lines("redelivered:true");
        counts.receipts = lines("< RECEIPT");
        counts.errors = lines("< ERROR");
        counts.dead = usize::from(self.model.left().keys().any(|name| name.ends_with(".dead")));
    }
}

impl Client {
    /// Takes apart what the server wrote.
    fn listen(&mut self) {
        let mut bytes = Bytes::from(std::mem::take(&mut self.connection.out));
        while let Some(event) = self.decoder.decode(&mut bytes).expect("frames of a server") {
            match event {
                DecoderEvent::Frame(frame) => self.said.push_back(frame),
                DecoderEvent::HeartBeat => {}
            }
        }
        assert!(!self.decoder.in_frame(), "half a frame");
    }
}

fn pick<T>(list: &[T], which: usize) -> Option<&T> {
    list.get(which.checked_rem(list.len())?)
}

/// A frame as a transcript has it.
fn shown(name: &str, way: char, frame: &Frame) -> Vec<String> {
    let mut lines = vec![format!("{name}{way} {}", frame.command.name())];
    let headers = frame.headers.iter();
    lines.extend(
        headers.map(|(n, v)| format!("{name}{way} {}:{}", n.escape_debug(), v.escape_debug())),
    );
    lines.push(format!("{name}{way}"));
    lines.push(format!("{name}{way} {}^@", frame.body.escape_ascii()));
    lines
}

fn bad_frame(bad: Bad, version: Version, id: Option<&str>, transaction: Option<&str>) -> Bytes {
    let ack = if version == Version::V12 { "id" } else { "message-id" };
    let (id, transaction) = (id.unwrap_or_default(), transaction.unwrap_or_default());
    let text = match bad {
        Bad::Command => "HELLO\n\n\0".into(),
        Bad::ServersFrame => {
            "MESSAGE\ndestination:/queue/a\nmessage-id:1\nsubscription:s0\n\nx\0".into()
        }
        Bad::SecondConnect => format!("CONNECT\naccept-version:1.2\nlogin:{ACCOUNT}\n\n\0"),
        Bad::Escape => "SEND\ndestination:/queue/a\nx:\\x\n\nx\0".into(),
        Bad::ContentLength => "SEND\ndestination:/queue/a\ncontent-length:1\n\nxx\0".into(),
        Bad::BodyOfSubscribe => "SUBSCRIBE\nid:s99\ndestination:/queue/a\n\nx\0".into(),
        Bad::SendWithoutDestination => "SEND\n\nx\0".into(),
        Bad::SendToNowhere => "SEND\ndestination:/nowhere/a\n\nx\0".into(),
        Bad::SendInNoTransaction => "SEND\ndestination:/queue/a\ntransaction:none\n\nx\0".into(),
        Bad::SubscribeWithoutDestination => "SUBSCRIBE\nid:s99\n\n\0".into(),
        Bad::SubscribeTwice => format!("SUBSCRIBE\nid:{id}\ndestination:/queue/a\n\n\0"),
        Bad::SubscribeInNoMode => "SUBSCRIBE\nid:s99\ndestination:/queue/a\nack:no\n\n\0".into(),
        Bad::UnsubscribeWithoutId => "UNSUBSCRIBE\n\n\0".into(),
        Bad::AckOfNothing => format!("ACK\n{ack}:session-0-4711\n\n\0"),
        Bad::AckWithoutId => "ACK\n\n\0".into(),
        Bad::NackInNoTransaction => format!("NACK\n{ack}:session-0-0\ntransaction:none\n\n\0"),
        Bad::BeginTwice => format!("BEGIN\ntransaction:{transaction}\n\n\0"),
        Bad::BeginWithoutName => "BEGIN\n\n\0".into(),
        Bad::CommitOfNothing => "COMMIT\ntransaction:none\n\n\0".into(),
        Bad::AbortOfNothing => "ABORT\ntransaction:none\n\n\0".into(),
    };
    text.into()
}
