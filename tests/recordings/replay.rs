//! A client's story told again to the session machine, at the times it was told first. What the
//! machine answers must be what the relay answered then, but for ids of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use stomp_relay::session::Wire;
use stomp_relay::stomp::{Command, Frame, Version};

use crate::format::{Recording, Side};
use crate::harness::{Connection, Shared};
use crate::wire::{self, Said, WireFrame};

/// Headers whose values are the server's own and new each time.
const VOLATILE: [&str; 4] = ["server", "session", "message-id", "ack"];

/// Tells the story in pieces of at most `size` bytes, and compares.
///
/// # Panics
/// Where something is not as it was recorded.
pub(crate) fn check(recording: &Recording, size: usize) {
    let name = &recording.name;
    let recorded = wire::read(recording.stomp(Side::Server).map(|piece| piece.bytes.as_slice()));
    let client = wire::read(recording.stomp(Side::Client).map(|piece| piece.bytes.as_slice()));
    let mut replay = Replay::new(recording, &recorded);
    for piece in &recording.pieces {
        replay.go_on_to(piece.at);
        if piece.side == Side::Client && piece.kind.is_stomp() {
            replay.tell(&piece.bytes, size);
        }
    }
    // A client may leave without a word; the server's last answer then is not the end.
    let leaves = client.frames.last().is_some_and(|frame| frame.command == "DISCONNECT");
    assert!(leaves, "{name}: the story ends without DISCONNECT");
    assert!(replay.connection.is_over, "{name}: DISCONNECT is not the end");
    let replayed = replay.said();
    replay.connection.end();

    for frame in recorded.frames.iter().chain(&replayed.frames) {
        assert_ne!(frame.command, "ERROR", "{name}: {frame:?}");
    }
    compare(name, &recorded, &replayed);
    for frame in &client.frames {
        if let Some(receipt) = frame.get("receipt") {
            let answers = replayed.frames.iter().filter(|f| f.get("receipt-id") == Some(receipt));
            assert_eq!(answers.count(), 1, "{name}: receipt {receipt}");
        }
    }
    if beats(&client) {
        assert!(client.beats > 0, "{name}: the client has no beat");
        assert!(recorded.beats > 0, "{name}: the relay had no beat");
        assert!(replayed.beats > 0, "{name}: the machine has no beat");
    } else {
        assert_eq!((client.beats, recorded.beats, replayed.beats), (0, 0, 0), "{name}");
    }
}

/// Whether heart-beats were agreed on: not in 1.0, which has none.
fn beats(client: &Said) -> bool {
    let connect = client.frames.first().unwrap();
    let offered = connect.get("accept-version").unwrap_or("1.0");
    offered != "1.0" && connect.get("heart-beat").is_some_and(|beat| beat != "0,0")
}

/// What must come in order comes in order: the server's own frames, and the messages of each
/// subscription. Between them nothing is promised.
fn compare(name: &str, recorded: &Said, replayed: &Said) {
    let recorded = by_stream(recorded);
    let replayed = by_stream(replayed);
    let keys = |streams: &HashMap<String, Vec<WireFrame>>| {
        let mut keys: Vec<_> = streams.keys().cloned().collect();
        keys.sort();
        keys
    };
    assert_eq!(keys(&recorded), keys(&replayed), "{name}");
    for (stream, then) in &recorded {
        let now = &replayed[stream];
        for (then, now) in then.iter().zip(now) {
            assert_eq!(then, now, "{name}: {stream}");
        }
        assert_eq!(then.len(), now.len(), "{name}: {stream}");
    }
}

/// Frames by what orders them, without what is new each time.
fn by_stream(said: &Said) -> HashMap<String, Vec<WireFrame>> {
    let mut streams: HashMap<String, Vec<WireFrame>> = HashMap::new();
    for frame in &said.frames {
        let mut frame = frame.clone();
        for (name, value) in &mut frame.headers {
            if VOLATILE.contains(&name.as_str()) {
                assert!(!value.is_empty(), "{name} is empty");
                *value = "*".into();
            }
        }
        // Which piece a frame came in is the socket's.
        frame.has_lf = false;
        streams.entry(stream(&frame)).or_default().push(frame);
    }
    streams
}

fn stream(frame: &WireFrame) -> String {
    match frame.get("subscription") {
        Some(subscription) => format!("messages of {subscription}"),
        None => "the server's own".into(),
    }
}

struct Replay<'a> {
    connection: Connection,
    began: Instant,
    now: Instant,
    recorded: &'a Said,
    /// What the machine said, a piece per turn.
    pieces: Vec<Vec<u8>>,
}

impl<'a> Replay<'a> {
    fn new(recording: &Recording, recorded: &'a Said) -> Self {
        let began = Instant::now();
        let wire = if recording.is_websocket() { Wire::WebSocket } else { Wire::Tcp };
        let subprotocol = recording.http_header(Side::Server, "sec-websocket-protocol");
        let subprotocol = subprotocol.map(|name| match name {
            "v10.stomp" => Version::V10,
            "v11.stomp" => Version::V11,
            "v12.stomp" => Version::V12,
            other => panic!("{}: subprotocol {other}", recording.name),
        });
        let connection = Connection::new(Arc::new(Shared::new()), wire, subprotocol, began);
        Self { connection, began, now: began, recorded, pieces: Vec::new() }
    }

    fn said(&self) -> Said {
        wire::read(self.pieces.iter().map(Vec::as_slice))
    }

    /// The time goes on; deadlines on the way are met.
    fn go_on_to(&mut self, at: Duration) {
        let to = self.began + at;
        while !self.connection.is_over
            && let Some(deadline) = self.connection.session.deadline().filter(|at| *at <= to)
        {
            self.now = self.now.max(deadline);
            self.connection.session.tick(self.now, &mut self.connection.actions);
            self.connection.perform();
            self.take_out();
        }
        self.now = self.now.max(to);
    }

    fn tell(&mut self, bytes: &[u8], size: usize) {
        let Self { recorded, now, .. } = *self;
        for piece in bytes.chunks(size) {
            let pieces = &self.pieces;
            let mut change = |frame| acknowledge(frame, || acks(recorded, pieces));
            self.connection.take_bytes(Bytes::copy_from_slice(piece), now, &mut change);
            let in_frame = self.connection.decoder.in_frame();
            self.connection.session.heard(in_frame, now);
            let mut cx = Context::from_waker(Waker::noop());
            while self.connection.poll_mail(&mut cx, now).is_ready() {}
            self.take_out();
        }
    }

    fn take_out(&mut self) {
        if !self.connection.out.is_empty() {
            self.pieces.push(std::mem::take(&mut self.connection.out));
            self.connection.session.said(self.now);
        }
    }
}

/// From the ids of messages then to those now: the n-th message of a subscription is the n-th.
fn acks(recorded: &Said, pieces: &[Vec<u8>]) -> HashMap<String, String> {
    let mut acks = HashMap::new();
    let now = messages(wire::read(pieces.iter().map(Vec::as_slice)));
    for (key, then) in messages(recorded.clone()) {
        let Some(now) = now.get(&key) else { continue };
        for name in ["ack", "message-id"] {
            if let (Some(then), Some(now)) = (then.get(name), now.get(name)) {
                acks.insert(then.to_owned(), now.to_owned());
            }
        }
    }
    acks
}

/// Messages by their subscription and their place in it.
fn messages(said: Said) -> HashMap<(String, usize), WireFrame> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    let frames = said.frames.into_iter().filter(|frame| frame.command == "MESSAGE");
    let mut number = |stream: String| {
        let count = counts.entry(stream.clone()).or_default();
        *count += 1;
        (stream, *count)
    };
    frames.map(|frame| (number(stream(&frame)), frame)).collect()
}

/// An ACK or NACK of a message of now. The ids have nothing to escape.
fn acknowledge(frame: Frame, acks: impl FnOnce() -> HashMap<String, String>) -> Frame {
    if !matches!(frame.command, Command::Ack | Command::Nack) {
        return frame;
    }
    let acks = acks();
    let mut changed = Frame { body: frame.body.clone(), ..Frame::new(frame.command) };
    for (name, value) in frame.headers.iter() {
        let value = match name {
            "id" | "message-id" => {
                acks.get(value).unwrap_or_else(|| panic!("{frame:?} answers for no message"))
            }
            _ => value,
        };
        changed.headers.push(name, value);
    }
    changed
}
