//! One connection: bytes in, bytes out, and the clock. The session's logic is elsewhere.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::Server;
use super::decoder::Decoder;
use super::fault::{Fault, Faults};
use super::refusal::{Refusal, code};
use super::session::{Beats, Out, Phase};
use super::web_socket::{self, Event, Reader};

const READ_BYTES: usize = 64 * 1024;
/// More than any case needs.
const TURNS: u32 = 20_000;
/// From the first byte to CONNECT.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// From a frame's first byte to its last.
const FRAME_TIME: Duration = Duration::from_secs(30);
/// A PING that is not answered for so long ends the connection.
const PONG_TIME: Duration = Duration::from_secs(10);
/// Silence after which a client that promised nothing is asked.
const IDLE_TIME: Duration = Duration::from_secs(25);

struct Line {
    server: Arc<Server>,
    faults: Faults,
    stream: DuplexStream,
    me: usize,
    wake: Arc<Notify>,
    /// None on TCP.
    web_socket: Option<Reader>,
    decoder: Decoder,
    since: Instant,
    heard: Instant,
    said: Instant,
    pinged: Option<Instant>,
    /// Whether the client's last message was text.
    client_kind: Option<bool>,
    frame_since: Option<Instant>,
}

/// Serves a connection to its end.
pub(super) async fn serve(server: Arc<Server>, mut stream: DuplexStream, over_web_socket: bool) {
    let faults = server.faults;
    let mut subprotocol = None;
    if over_web_socket {
        match shake_hands(&mut stream, faults).await {
            Some(selected) => subprotocol = selected,
            None => return,
        }
    }
    let (me, wake) = server.with(|state| {
        let me = state.open(subprotocol.as_deref());
        (me, Arc::clone(&state.sessions[me].wake))
    });
    let now = Instant::now();
    let mut line = Line {
        faults,
        stream,
        me,
        wake,
        web_socket: over_web_socket.then(|| Reader::new(faults)),
        decoder: Decoder::new(faults),
        since: now,
        heard: now,
        said: now,
        pinged: None,
        client_kind: None,
        frame_since: None,
        server,
    };
    // An error is the end of the connection, and nobody is left to be told.
    line.run().await.unwrap_or_default();
    line.server.with(|state| state.lost(me));
}

/// The WebSocket handshake and its subprotocol; None where it was no handshake.
async fn shake_hands(stream: &mut DuplexStream, faults: Faults) -> Option<Option<String>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_buf(&mut head).await.ok().filter(|count| *count > 0)?;
    }
    let Some((answer, selected)) = web_socket::upgrade(&String::from_utf8_lossy(&head), faults)
    else {
        let refusal = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(refusal).await.ok()?;
        return None;
    };
    stream.write_all(answer.as_bytes()).await.ok()?;
    Some(selected)
}

impl Line {
    async fn run(&mut self) -> std::io::Result<()> {
        let wake = Arc::clone(&self.wake);
        let mut buffer = Vec::with_capacity(READ_BYTES);
        // A fault must not make a test that never ends.
        for _ in 0..TURNS {
            if !self.write_all().await? {
                return Ok(());
            }
            let deadline = self.deadline();
            let due = async {
                match deadline {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                count = self.stream.read_buf(&mut buffer) => {
                    if count? == 0 {
                        return Ok(());
                    }
                    let bytes = std::mem::replace(&mut buffer, Vec::with_capacity(READ_BYTES));
                    self.arrived(&bytes).await?;
                }
                () = wake.notified() => {}
                () = due => self.tick().await?,
            }
        }
        panic!("a connection went round in circles")
    }

    /// Writes what the session has to say; whether the connection goes on.
    async fn write_all(&mut self) -> std::io::Result<bool> {
        let me = self.me;
        let mut out = self.server.with(|state| std::mem::take(&mut state.sessions[me].out));
        self.reverse(&mut out, b"MESSAGE", Fault::MessagesReversed);
        self.reverse(&mut out, b"RECEIPT", Fault::ReceiptsReversed);
        for out in out {
            match out {
                Out::Bytes(bytes) if self.web_socket.is_some() => {
                    let message = web_socket::message(&bytes, self.client_kind, self.faults);
                    self.say(&message).await?;
                }
                Out::Bytes(bytes) => self.say(&bytes).await?,
                Out::Close(code) => {
                    self.close(code).await?;
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Turns the order of the frames of that command round, where there are several.
    fn reverse(&self, out: &mut VecDeque<Out>, command: &[u8], fault: Fault) {
        let is = |out: &Out| matches!(out, Out::Bytes(bytes) if bytes.starts_with(command));
        let places: Vec<usize> = (0..out.len()).filter(|at| is(&out[*at])).collect();
        if places.len() > 1 && self.faults.has(fault) {
            for (a, b) in places.iter().zip(places.iter().rev()).take(places.len() / 2) {
                out.swap(*a, *b);
            }
        }
    }

    /// Writes what is STOMP; a PING is no heart-beat.
    async fn say(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.said = Instant::now();
        self.stream.write_all(bytes).await
    }

    /// RFC 6455, 7.1.1: the server closes first, once the client has answered.
    async fn close(&mut self, code: u16) -> std::io::Result<()> {
        if self.web_socket.is_some() && !self.faults.has(Fault::CloseWithoutFrame) {
            self.stream.write_all(&web_socket::close(code, self.faults)).await?;
            let mut rest = vec![0; 4096];
            let answered = async {
                while self.stream.read(&mut rest).await? > 0 {}
                Ok(())
            };
            return timeout(Duration::from_secs(1), answered).await.unwrap_or(Ok(()));
        }
        self.stream.shutdown().await
    }

    async fn arrived(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let Some(mut reader) = self.web_socket.take() else {
            self.take(bytes);
            return Ok(());
        };
        reader.push(bytes);
        let done = self.events(&mut reader).await;
        self.web_socket = Some(reader);
        done
    }

    async fn events(&mut self, reader: &mut Reader) -> std::io::Result<()> {
        loop {
            match reader.next() {
                Ok(None) => return Ok(()),
                Ok(Some(Event::Message { payload, .. }))
                    if payload.is_empty() && self.faults.has(Fault::EmptyMessageRefused) =>
                {
                    self.end(code::PROTOCOL);
                    return Ok(());
                }
                Ok(Some(Event::Message { text, .. }))
                    if self.client_kind.is_some_and(|kind| kind != text)
                        && self.faults.has(Fault::KindMayNotChange) =>
                {
                    self.end(code::PROTOCOL);
                    return Ok(());
                }
                Ok(Some(Event::Message { text, payload })) => {
                    self.client_kind = Some(text);
                    self.take(&payload);
                }
                Ok(Some(Event::Ping(payload))) => {
                    self.heard = Instant::now();
                    if !self.faults.has(Fault::PingUnanswered) {
                        let pong = web_socket::pong(&payload, self.faults);
                        self.stream.write_all(&pong).await?;
                    }
                }
                Ok(Some(Event::Pong)) => {
                    self.heard = Instant::now();
                    if self.pinged.take().is_none() && self.faults.has(Fault::PongUnaskedRefused) {
                        self.end(code::PROTOCOL);
                        return Ok(());
                    }
                }
                Ok(Some(Event::Close)) if self.faults.has(Fault::CloseNotAnswered) => {}
                Ok(Some(Event::Close)) => {
                    self.end(code::NORMAL);
                    return Ok(());
                }
                Err(code) => {
                    self.end(code);
                    return Ok(());
                }
            }
        }
    }

    fn end(&self, code: u16) {
        self.server.with(|state| {
            if state.sessions[self.me].phase != Phase::Over {
                state.close(self.me, code);
            }
        });
    }

    /// Bytes of STOMP.
    fn take(&mut self, bytes: &[u8]) {
        let beat = bytes.iter().all(|byte| matches!(byte, b'\n' | b'\r'));
        let not_counted =
            if beat { Fault::ClientBeatsNotCounted } else { Fault::ClientFramesNotCounted };
        let promised = self.agreed().0.of_client.is_some();
        if !promised || !self.faults.has(not_counted) {
            self.heard = Instant::now();
        }
        self.decoder.push(bytes);
        let (me, decoder) = (self.me, &mut self.decoder);
        self.server.with(|state| {
            loop {
                match decoder.next() {
                    Ok(Some(frame)) => {
                        state.frame(me, &frame);
                        let session = &state.sessions[me];
                        let connected = session.phase == Phase::Connected;
                        if connected && decoder.version.is_none() {
                            decoder.version = Some(session.version);
                            if decoder.in_frame() && self.faults.has(Fault::FramesBehindConnectLost)
                            {
                                decoder.clear();
                            }
                        }
                    }
                    Ok(None) => return,
                    Err(refusal) => {
                        state.fail(me, &refusal);
                        if !self.faults.has(Fault::FramesBehindNonsenseDone) {
                            return decoder.clear();
                        }
                        state.sessions[me].goes_on = true;
                        decoder.skip();
                    }
                }
            }
        });
        let waits = self.decoder.in_frame();
        self.frame_since = self.frame_since.or_else(|| Some(Instant::now())).filter(|_| waits);
    }

    /// When the clock has something to say, at the earliest.
    fn deadline(&self) -> Option<Instant> {
        let (beats, phase) = self.agreed();
        let connect = (phase == Phase::Start).then(|| self.since + CONNECT_TIME);
        let frame = self.frame_since.map(|since| since + FRAME_TIME);
        [connect, frame, self.beat_at(beats), self.ping_at(beats), self.end_at(beats)]
            .into_iter()
            .flatten()
            .min()
    }

    fn agreed(&self) -> (Beats, Phase) {
        let session = |state: &mut super::session::State| {
            let session = &state.sessions[self.me];
            (session.beats, session.phase)
        };
        self.server.with(session)
    }

    fn beat_at(&self, beats: Beats) -> Option<Instant> {
        match beats.of_server {
            Some(_) if self.faults.has(Fault::BeatsNeverSent) => None,
            Some(interval) if self.faults.has(Fault::BeatsLate) => Some(self.said + 2 * interval),
            Some(interval) => Some(self.said + interval),
            None if self.faults.has(Fault::BeatsUnasked) => {
                Some(self.said + Duration::from_secs(10))
            }
            None => None,
        }
    }

    /// Browsers slow the clocks of hidden pages down, so a late client is asked by its stack.
    fn ping_at(&self, beats: Beats) -> Option<Instant> {
        let asks = self.web_socket.is_some() && self.pinged.is_none();
        let silence = beats.of_client.map_or(IDLE_TIME, |interval| interval * 3 / 2);
        asks.then(|| self.heard + silence)
    }

    fn end_at(&self, beats: Beats) -> Option<Instant> {
        let end = match (&self.web_socket, beats.of_client) {
            (Some(_), _) => self.pinged.map(|pinged| pinged + PONG_TIME),
            (None, Some(interval)) if self.faults.has(Fault::SilenceNotTolerated) => {
                Some(self.heard + interval / 4)
            }
            (None, interval) => interval.map(|interval| self.heard + interval * 3),
        };
        end.filter(|_| !self.faults.has(Fault::SilenceTolerated))
    }

    async fn tick(&mut self) -> std::io::Result<()> {
        let now = Instant::now();
        let (beats, phase) = self.agreed();
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if phase == Phase::Start && is_due(Some(self.since + CONNECT_TIME)) {
            self.end(code::POLICY);
        } else if is_due(self.frame_since.map(|since| since + FRAME_TIME)) {
            self.frame_since = None;
            self.server.with(|state| state.fail(self.me, &Refusal::syntax("Frame timeout")));
        } else if is_due(self.end_at(beats)) {
            self.end(code::POLICY);
        } else if is_due(self.ping_at(beats)) {
            self.pinged = Some(now);
            self.stream.write_all(&web_socket::ping()).await?;
        } else if is_due(self.beat_at(beats)) {
            let beat = b"\n";
            let bytes = match self.web_socket {
                Some(_) => web_socket::message(beat, self.client_kind, self.faults),
                None => beat.to_vec(),
            };
            self.say(&bytes).await?;
        }
        Ok(())
    }
}
