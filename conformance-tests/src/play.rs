//! One case played to one server: its steps in order, until the first that goes wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::compare::{compare, describe};
use crate::connection::{Address, Connection, Event};
use crate::profile::{Profile, Sync};
use crate::reader::{ServerFrame, show};
use crate::report::Failure;
use crate::template::{Template, Values};
use crate::transcript::{Action, Cut, FramePattern, MessageKind, Step, Transport, Version};

/// How long a heart-beat may take: twice and a half the 10 s that servers commonly offer.
const BEAT_LIMIT: Duration = Duration::from_secs(25);
/// How late a heart-beat may be: "because of timing inaccuracies, the receiver SHOULD be tolerant".
const BEAT_TOLERANCE: Duration = Duration::from_secs(1);
/// After so many intervals of silence a client is taken for gone; with time for the good-bye.
const SILENT_INTERVALS: u32 = 4;
const GOOD_BYE: Duration = Duration::from_secs(10);

/// What a case is played with.
pub(crate) struct Setting<'a> {
    pub(crate) address: &'a Address,
    pub(crate) transport: Transport,
    pub(crate) version: Version,
    pub(crate) profile: &'a Profile,
    /// How long an answer may take.
    pub(crate) limit: Duration,
    pub(crate) values: Values,
}

struct Play<'a> {
    setting: Setting<'a>,
    connections: BTreeMap<String, Peer>,
    barriers: u32,
}

struct Peer {
    connection: Connection,
    /// Whether CONNECTED came.
    connected: bool,
    last_kind: Option<MessageKind>,
    beats: Agreed,
}

/// What CONNECT and CONNECTED agreed on, each way; none where either side said 0.
#[derive(Clone, Copy, Default)]
struct Agreed {
    of_server: Option<Duration>,
    of_client: Option<Duration>,
}

impl Agreed {
    /// Headers of CONNECT and CONNECTED, both `<can>,<wants>` in milliseconds.
    fn new(client: &str, server: &str) -> Self {
        let numbers = |text: &str| {
            let (can, wants) = text.split_once(',')?;
            Some((can.trim().parse::<u64>().ok()?, wants.trim().parse::<u64>().ok()?))
        };
        let (client, server) =
            (numbers(client).unwrap_or((0, 0)), numbers(server).unwrap_or((0, 0)));
        let interval = |can: u64, wants: u64| {
            (can > 0 && wants > 0).then(|| Duration::from_millis(can.max(wants)))
        };
        Self { of_server: interval(server.0, client.1), of_client: interval(client.0, server.1) }
    }
}

/// Plays the steps, then asks every connection left open for a receipt: nothing else may come.
pub(crate) async fn play(setting: Setting<'_>, steps: &[Step]) -> Result<(), Failure> {
    let mut play = Play { setting, connections: BTreeMap::new(), barriers: 0 };
    let mut result = Ok(());
    let mut line = 0;
    for step in steps {
        line = step.line;
        result = play.step(step).await;
        if result.is_err() {
            break;
        }
    }
    if result.is_ok() {
        result = play.nothing_is_left().await;
    }
    for peer in play.connections.values_mut() {
        peer.connection.finish().await;
    }
    result.map_err(|text| Failure { line, text, trace: play.trace() })
}

impl Play<'_> {
    async fn step(&mut self, step: &Step) -> Result<(), String> {
        let name = step.connection.as_str();
        match &step.action {
            Action::Open { offer, select } => self.open(name, offer, select.as_deref()).await,
            Action::Connect { headers } => self.connect(name, headers).await,
            Action::Drop => {
                self.peer(name)?.connection.drop_socket();
                Ok(())
            }
            Action::Subscribe { headers } => self.subscribe(name, headers).await,
            Action::Send { bytes, cut } => {
                let bytes = bytes.fill(&self.setting.values);
                self.send(name, &bytes, *cut).await
            }
            Action::Socket { bytes } => {
                let (bytes, limit) = (bytes.fill(&self.setting.values), self.setting.limit);
                self.peer(name)?.connection.send_on_socket(&bytes, limit).await;
                Ok(())
            }
            Action::Pong { payload } => self.pong(name, payload).await,
            Action::Frames(patterns) => self.frames(name, patterns).await,
            Action::Error { codes, message } => {
                self.error(name, codes, message.as_ref(), self.setting.profile.silent_close).await
            }
            Action::Refused { codes } => self.error(name, codes, None, true).await,
            Action::Close { codes } => self.close(name, codes).await,
            Action::Beat => self.beat(name, BEAT_LIMIT).await,
            Action::Beats { intervals } => self.beats(name, *intervals).await,
            Action::NoBeat { seconds } => self.no_beat(name, *seconds).await,
            Action::Silence => self.silence(name).await,
            Action::KeepAlive { intervals } => self.keep_alive(name, *intervals).await,
            Action::Nothing => self.nothing(name).await,
            Action::Differ { texts } => self.differ(texts),
            Action::As(kind) => self.kind(name, *kind),
        }
    }

    async fn open(
        &mut self,
        name: &str,
        offer: &[String],
        want: Option<&str>,
    ) -> Result<(), String> {
        let Setting { address, transport, limit, .. } = self.setting;
        let (connection, selected) = Connection::open(address, transport, offer, limit).await?;
        let beats = Agreed::default();
        let peer = Peer { connection, connected: false, last_kind: None, beats };
        self.connections.insert(name.to_owned(), peer);
        let fits = match want {
            None => true,
            Some("none") => selected.is_none(),
            Some(_) => selected.as_deref() == want,
        };
        if transport != Transport::Tcp && !fits {
            return Err(format!("expected subprotocol {want:?}, got {selected:?}"));
        }
        Ok(())
    }

    async fn connect(&mut self, name: &str, more: &[(String, Template)]) -> Result<(), String> {
        let mut bytes = b"CONNECT\n".to_vec();
        let mut header = |name: &str, value: &[u8]| {
            bytes.extend_from_slice(name.as_bytes());
            bytes.push(b':');
            bytes.extend_from_slice(value);
            bytes.push(b'\n');
        };
        let values = &self.setting.values;
        // A 1.0 client knows neither header.
        if self.setting.version > Version::V10 {
            header("accept-version", self.setting.version.name().as_bytes());
            header("host", values.get("host").map_or(&[], Vec::as_slice));
        }
        for key in ["login", "passcode"] {
            header(key, values.get(key).map_or(&[], Vec::as_slice));
        }
        for (key, value) in more {
            header(key, &value.fill(values));
        }
        bytes.extend_from_slice(b"\n\0");
        let wish = more.iter().find(|(key, _)| key == "heart-beat");
        let wish = wish.map(|(_, value)| value.fill(values)).unwrap_or_default();
        self.send(name, &bytes, Cut::Whole).await?;
        let mut pattern = frame_pattern("CONNECTED");
        if self.setting.version > Version::V10 {
            let version = Template::bytes(self.setting.version.name().as_bytes());
            pattern.headers.push(("version".into(), version));
        }
        let frame = self.frame(name, &pattern).await?;
        let offer = frame.header(b"heart-beat").unwrap_or_default();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.peer(name)?.beats = Agreed::new(&text(&wish), &text(offer));
        Ok(())
    }

    async fn subscribe(
        &mut self,
        name: &str,
        headers: &[(String, Template)],
    ) -> Result<(), String> {
        let mut bytes = b"SUBSCRIBE\n".to_vec();
        for (key, value) in headers {
            bytes.extend_from_slice(key.as_bytes());
            bytes.push(b':');
            bytes.extend_from_slice(&value.fill(&self.setting.values));
            bytes.push(b'\n');
        }
        match self.setting.profile.sync {
            Sync::Receipt => {
                self.barriers += 1;
                let receipt = format!("subscribed-{}", self.barriers);
                bytes.extend_from_slice(format!("receipt:{receipt}\n\n\0").as_bytes());
                self.send(name, &bytes, Cut::Whole).await?;
                let mut pattern = frame_pattern("RECEIPT");
                pattern.headers.push(("receipt-id".into(), Template::bytes(receipt.as_bytes())));
                self.frame(name, &pattern).await?;
                Ok(())
            }
            Sync::Quiet(time) => {
                bytes.extend_from_slice(b"\n\0");
                self.send(name, &bytes, Cut::Whole).await?;
                self.quiet(name, time).await
            }
        }
    }

    /// Nothing comes for so long.
    async fn quiet(&mut self, name: &str, time: Duration) -> Result<(), String> {
        match self.next_until(name, Instant::now() + time).await? {
            Event::Silence => Ok(()),
            Event::Malformed(text) => Err(text),
            other => Err(format!("expected no frame, {}", self.came(&other))),
        }
    }

    async fn send(&mut self, name: &str, bytes: &[u8], cut: Cut) -> Result<(), String> {
        if !self.connections.contains_key(name) {
            self.open(name, &[], None).await?;
        }
        let limit = self.setting.limit;
        self.peer(name)?.connection.send(bytes, cut, limit).await;
        Ok(())
    }

    fn peer(&mut self, name: &str) -> Result<&mut Peer, String> {
        self.connections.get_mut(name).ok_or_else(|| format!("connection `{name}` is not open"))
    }

    /// The next event that is not a heart-beat, nor a PONG.
    async fn next(&mut self, name: &str) -> Result<Event, String> {
        self.next_until(name, Instant::now() + self.setting.limit).await
    }

    async fn next_until(&mut self, name: &str, deadline: Instant) -> Result<Event, String> {
        let peer = self.peer(name)?;
        loop {
            match peer.connection.next(deadline).await {
                Event::Beat | Event::Pong(_) => {}
                event => return Ok(event),
            }
        }
    }

    async fn next_frame(&mut self, name: &str, expected: &str) -> Result<ServerFrame, String> {
        match self.next(name).await? {
            Event::Frame(frame, kind) => {
                self.peer(name)?.last_kind = kind;
                Ok(frame)
            }
            Event::Malformed(text) => Err(text),
            other => Err(format!("expected {expected}, {}", self.came(&other))),
        }
    }

    fn came(&self, event: &Event) -> String {
        match event {
            Event::Frame(frame, _) => format!("got {}", describe(frame)),
            Event::Beat => "got a heart-beat".into(),
            Event::Pong(_) => "got a PONG".into(),
            Event::Closed(Some(code)) => format!("got close {code}"),
            Event::Closed(None) => "the connection was closed".into(),
            Event::Malformed(text) => text.clone(),
            Event::Silence => format!("nothing came in {:?}", self.setting.limit),
        }
    }

    /// One frame that fits, and what it was.
    async fn frame(&mut self, name: &str, pattern: &FramePattern) -> Result<ServerFrame, String> {
        let frame = self.next_frame(name, &pattern.command).await?;
        let captured = compare(pattern, &frame, &self.setting.values)?;
        self.setting.values.extend(captured);
        if frame.command == b"CONNECTED" {
            self.peer(name)?.connected = true;
        }
        Ok(frame)
    }

    async fn frames(&mut self, name: &str, patterns: &[FramePattern]) -> Result<(), String> {
        if let [pattern] = patterns {
            return self.frame(name, pattern).await.map(drop);
        }
        let mut open: Vec<&FramePattern> = patterns.iter().collect();
        while let Some(first) = open.first() {
            let frame = self.next_frame(name, &first.command).await?;
            let values = &self.setting.values;
            let fitting = open.iter().position(|pattern| compare(pattern, &frame, values).is_ok());
            // Where none fits, the first of that command says best what is wrong.
            let nearest = || open.iter().position(|p| p.command.as_bytes() == frame.command);
            let at = fitting.or_else(nearest).unwrap_or(0);
            let pattern = open.remove(at);
            let captured = compare(pattern, &frame, values)?;
            self.setting.values.extend(captured);
        }
        Ok(())
    }

    /// An ERROR, then a close; the ERROR may be missing where that is `silent`.
    async fn error(
        &mut self,
        name: &str,
        codes: &[u16],
        message: Option<&Template>,
        silent: bool,
    ) -> Result<(), String> {
        let frame = match self.next(name).await? {
            Event::Frame(frame, _) => frame,
            Event::Malformed(text) => return Err(text),
            Event::Closed(code) if silent => return self.code(codes, code),
            other => return Err(format!("expected ERROR, {}", self.came(&other))),
        };
        let mut pattern = frame_pattern("ERROR");
        if let Some(message) = message.filter(|_| self.setting.profile.messages) {
            pattern.headers.push(("message".into(), message.clone()));
        }
        compare(&pattern, &frame, &self.setting.values)?;
        self.close(name, codes).await
    }

    async fn close(&mut self, name: &str, codes: &[u16]) -> Result<(), String> {
        match self.next(name).await? {
            Event::Closed(code) => self.code(codes, code),
            other => Err(format!("expected a close, {}", self.came(&other))),
        }
    }

    fn code(&self, codes: &[u16], code: Option<u16>) -> Result<(), String> {
        let compared = self.setting.profile.close_codes
            && self.setting.transport != Transport::Tcp
            && !codes.is_empty();
        if compared && !code.is_some_and(|code| codes.contains(&code)) {
            return Err(format!("expected close {codes:?}, got {code:?}"));
        }
        Ok(())
    }

    async fn pong(&mut self, name: &str, payload: &Template) -> Result<(), String> {
        let deadline = Instant::now() + self.setting.limit;
        match self.peer(name)?.connection.next(deadline).await {
            Event::Pong(came) if payload.matches(&came, &self.setting.values).is_some() => Ok(()),
            Event::Pong(came) => Err(format!("expected another PONG, got {}", show(&came))),
            other => Err(format!("expected a PONG, {}", self.came(&other))),
        }
    }

    async fn beat(&mut self, name: &str, limit: Duration) -> Result<(), String> {
        let deadline = Instant::now() + limit;
        match self.peer(name)?.connection.next(deadline).await {
            Event::Beat => Ok(()),
            Event::Silence => Err(format!("expected a heart-beat, nothing came in {limit:?}")),
            other => Err(format!("expected a heart-beat, {}", self.came(&other))),
        }
    }

    /// 1.2, "Heart-beating": there is new data at least every `MAX(<sx>,<cy>)` milliseconds. A
    /// server that said that it cannot send any sends none.
    async fn beats(&mut self, name: &str, intervals: u32) -> Result<(), String> {
        let Some(interval) = self.peer(name)?.beats.of_server else {
            return self.no_beat(name, intervals).await;
        };
        let end = Instant::now() + interval * intervals;
        while Instant::now() < end {
            self.beat(name, interval + interval / 2 + BEAT_TOLERANCE).await?;
        }
        Ok(())
    }

    async fn no_beat(&mut self, name: &str, seconds: u32) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(seconds.into());
        match self.peer(name)?.connection.next(deadline).await {
            Event::Silence => Ok(()),
            other => Err(format!("expected nothing, {}", self.came(&other))),
        }
    }

    async fn silence(&mut self, name: &str) -> Result<(), String> {
        let peer = self.peer(name)?;
        // A server that wants no heart-beats has no reason to end the connection.
        let Some(interval) = peer.beats.of_client else { return Ok(()) };
        let limit = interval * SILENT_INTERVALS + GOOD_BYE;
        if peer.connection.wait_in_silence(Instant::now() + limit).await {
            return Ok(());
        }
        Err(format!("the client was silent for {limit:?}, and the connection is open"))
    }

    async fn keep_alive(&mut self, name: &str, intervals: u32) -> Result<(), String> {
        let Some(interval) = self.peer(name)?.beats.of_client else { return Ok(()) };
        for _ in 0..2 * intervals {
            sleep_until(Instant::now() + interval / 2).await;
            self.send(name, b"\n", Cut::Whole).await?;
        }
        Ok(())
    }

    /// BEGIN and ABORT of a transaction change nothing, and the answer comes in order.
    async fn nothing(&mut self, name: &str) -> Result<(), String> {
        if let Sync::Quiet(time) = self.setting.profile.sync {
            return self.quiet(name, time).await;
        }
        self.barriers += 1;
        let id = format!("barrier-{}", self.barriers);
        let frames =
            format!("BEGIN\ntransaction:{id}\n\n\0ABORT\ntransaction:{id}\nreceipt:{id}\n\n\0");
        self.send(name, frames.as_bytes(), Cut::Whole).await?;
        let frame = match self.next(name).await? {
            Event::Frame(frame, _) => frame,
            Event::Malformed(text) => return Err(text),
            other => return Err(format!("expected no frame, {}", self.came(&other))),
        };
        let receipt = frame.header(b"receipt-id");
        if frame.command == b"RECEIPT" && receipt == Some(id.as_bytes()) {
            return Ok(());
        }
        let receipt = receipt.map(|id| format!(" of {}", show(id))).unwrap_or_default();
        Err(format!("expected no frame, got {}{receipt}", describe(&frame)))
    }

    fn differ(&self, texts: &[Template]) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        let all = texts.iter().map(|text| text.fill(&self.setting.values));
        match all.into_iter().find(|text| !seen.insert(text.clone())) {
            None => Ok(()),
            Some(text) => Err(format!("expected different values, got {} twice", show(&text))),
        }
    }

    async fn nothing_is_left(&mut self) -> Result<(), String> {
        let names: Vec<String> = self.connections.keys().cloned().collect();
        for name in names {
            let peer = self.peer(&name)?;
            if peer.connected && peer.connection.is_open() {
                self.nothing(&name).await.map_err(|text| format!("at the end: {text}"))?;
            }
        }
        Ok(())
    }

    fn kind(&mut self, name: &str, expected: MessageKind) -> Result<(), String> {
        let over_tcp = self.setting.transport == Transport::Tcp;
        match self.peer(name)?.last_kind {
            Some(kind) if kind == expected => Ok(()),
            None if over_tcp => Ok(()),
            kind => Err(format!("expected a {expected:?} message, got {kind:?}")),
        }
    }

    /// All connections' traffic, the passcode left out.
    fn trace(&self) -> String {
        let mut out = String::new();
        for (name, peer) in &self.connections {
            for line in peer.connection.trace.lines() {
                out.push_str(name);
                out.push_str(line);
                out.push('\n');
            }
        }
        let passcode = self.setting.values.get("passcode");
        match passcode.map(|text| String::from_utf8_lossy(text)) {
            Some(text) if !text.is_empty() => {
                out.replace(&format!("passcode:{text}\\n"), "passcode:***\\n")
            }
            _ => out,
        }
    }
}

/// A frame of that command, whatever else is in it.
fn frame_pattern(command: &str) -> FramePattern {
    FramePattern {
        line: 0,
        command: command.into(),
        headers: Vec::new(),
        absent: Vec::new(),
        open: true,
        body: Template::any(),
    }
}
