//! Bytes in and out of one connection: plain TCP, WebSocket on it, SockJS on that, or the many
//! requests of a SockJS session over HTTP.

mod socket;
pub mod sockjs;
pub mod tcp;
pub mod websocket;

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;

use sockjs::escape;
use sockjs::framed::Framed;
use sockjs::payload::PayloadLimits;
use sockjs::registry::Registered;
use websocket::frame::{self, FrameLimits, FrameReader, Opcode, WsError, WsEvent};

/// A restart may not wait longer for a request to take its good-bye.
const FAREWELL: Duration = Duration::from_secs(1);

thread_local! {
    static ESCAPED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// How frames lie on a stream.
#[derive(Debug)]
pub enum Framing {
    Tcp,
    WebSocket(FrameReader),
    SockJs(Box<Framed>),
}

/// Something that came in.
#[derive(Debug)]
pub enum Incoming {
    /// Bytes of STOMP. With SockJS whole messages.
    Data(Bytes),
    Ping(Bytes),
    Pong(Bytes),
    Close,
}

/// The other side breaks the transport's rules: how the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken {
    pub code: u16,
    pub reason: &'static str,
}

impl From<WsError> for Broken {
    fn from(error: WsError) -> Self {
        Self { code: error.close_code(), reason: "WebSocket protocol" }
    }
}

/// What may be sent in one piece.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimits {
    pub websocket: FrameLimits,
    pub sockjs: PayloadLimits,
}

/// What a transport can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tcp,
    /// Has PING and PONG.
    WebSocket,
    /// Is many requests.
    SockJs,
}

/// One connection.
#[derive(Debug)]
pub struct Transport {
    line: Line,
}

#[derive(Debug)]
enum Line {
    Socket { stream: TcpStream, framing: Framing },
    Pipe(Registered),
}

impl Transport {
    #[must_use]
    pub fn new(stream: TcpStream, framing: Framing) -> Self {
        Self { line: Line::Socket { stream, framing } }
    }

    /// A SockJS session over HTTP.
    #[must_use]
    pub fn over_http(session: Registered) -> Self {
        Self { line: Line::Pipe(session) }
    }

    #[must_use]
    pub fn kind(&self) -> Kind {
        match &self.line {
            Line::Socket { framing: Framing::Tcp, .. } => Kind::Tcp,
            Line::Socket { .. } => Kind::WebSocket,
            Line::Pipe(_) => Kind::SockJs,
        }
    }

    /// Whether what is written is JSON strings, and so text only.
    #[must_use]
    pub fn is_json(&self) -> bool {
        matches!(&self.line, Line::Pipe(_) | Line::Socket { framing: Framing::SockJs(_), .. })
    }

    /// Reads what is there. `Ready(Ok(None))` is the end of the stream.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<BytesMut>>> {
        match &mut self.line {
            Line::Socket { stream, .. } => socket::poll_read(stream, cx),
            Line::Pipe(session) => {
                session.pipe().poll_read(cx).map_ok(|is_open| is_open.then(BytesMut::new))
            }
        }
    }

    /// Waits until bytes are taken again.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.line {
            Line::Socket { stream, .. } => stream.poll_write_ready(cx),
            Line::Pipe(session) => session.pipe().poll_writable(cx),
        }
    }

    /// Writes what is taken at once.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub fn write(&mut self, bytes: &[u8], now: Instant) -> io::Result<usize> {
        match &mut self.line {
            Line::Socket { stream, framing } => {
                if let Framing::SockJs(framed) = framing {
                    framed.wrote = now;
                }
                socket::write(stream, bytes)
            }
            Line::Pipe(session) => session.pipe().write(bytes),
        }
    }

    /// The next thing in bytes that were read.
    ///
    /// # Errors
    /// Where they break the rules.
    pub fn incoming(&mut self, bytes: &mut BytesMut) -> Result<Option<Incoming>, Broken> {
        let event = match &mut self.line {
            Line::Socket { framing: Framing::Tcp, .. } => {
                return Ok((!bytes.is_empty()).then(|| Incoming::Data(bytes.split().freeze())));
            }
            Line::Socket { framing: Framing::WebSocket(reader), .. } => reader.next(bytes)?,
            Line::Socket { framing: Framing::SockJs(framed), .. } => framed.next(bytes)?,
            Line::Pipe(session) => return Ok(session.pipe().next().map(Incoming::Data)),
        };
        Ok(event.map(|event| match event {
            WsEvent::Data(data) => Incoming::Data(data),
            WsEvent::Ping(payload) => Incoming::Ping(payload),
            WsEvent::Pong(payload) => Incoming::Pong(payload),
            WsEvent::Close { .. } => Incoming::Close,
        }))
    }

    /// Appends what the conversation begins with, where it does with something.
    pub fn put_open(&self, out: &mut Vec<u8>) {
        self.put_sign(out, b"o");
    }

    /// Appends one STOMP frame made of a head and a tail. The tail is what
    /// [`Transport::is_json`] says: escaped as JSON already, or as it is.
    pub fn put(&self, out: &mut Vec<u8>, is_text: bool, head: &[u8], tail: &[u8]) {
        match &self.line {
            Line::Socket { framing: Framing::Tcp, .. } => out.extend_from_slice(head),
            Line::Socket { framing: Framing::WebSocket(_), .. } => {
                let opcode = if is_text { Opcode::Text } else { Opcode::Binary };
                frame::write_head(out, opcode, head.len() + tail.len());
                out.extend_from_slice(head);
            }
            Line::Socket { framing: Framing::SockJs(_), .. } => {
                ESCAPED.with_borrow_mut(|escaped| {
                    escaped.clear();
                    escape::push(escaped, head);
                    frame::write_head(out, Opcode::Text, escaped.len() + tail.len() + 5);
                    out.extend_from_slice(b"a[\"");
                    out.extend_from_slice(escaped);
                    out.extend_from_slice(tail);
                    out.extend_from_slice(b"\"]");
                })
            }
            Line::Pipe(_) => {
                out.push(b'"');
                escape::push(out, head);
                out.extend_from_slice(tail);
                out.extend_from_slice(b"\"\n");
            }
        }
        if !self.is_json() {
            out.extend_from_slice(tail);
        }
    }

    /// Appends the end of the conversation, where the framing has one.
    pub fn put_close(&self, out: &mut Vec<u8>, code: u16, reason: &str) {
        let Line::Socket { framing, .. } = &self.line else { return };
        if let Framing::SockJs(framed) = framing
            && !framed.is_broken
        {
            let mut frame = Vec::new();
            sockjs::push_close(&mut frame, code, reason);
            self.put_sign(out, &frame);
        }
        if !matches!(framing, Framing::Tcp) {
            frame::write_close(out, code, reason);
        }
    }

    /// A SockJS frame that is no array, where it goes over a WebSocket.
    fn put_sign(&self, out: &mut Vec<u8>, sign: &[u8]) {
        if let Line::Socket { framing: Framing::SockJs(_), .. } = self.line {
            frame::write_head(out, Opcode::Text, sign.len());
            out.extend_from_slice(sign);
        }
    }

    /// When [`Transport::tick`] is to be called.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match &self.line {
            Line::Socket { framing: Framing::SockJs(framed), .. } => Some(framed.deadline()),
            Line::Socket { .. } => None,
            Line::Pipe(session) => session.pipe().deadline(),
        }
    }

    /// Appends what is due; `false` where the other side has been away for too long.
    pub fn tick(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        let is_due = self.deadline().is_some_and(|at| at <= now);
        match &mut self.line {
            Line::Socket { framing: Framing::SockJs(framed), .. } if is_due => {
                framed.wrote = now;
                self.put_sign(out, b"h");
                true
            }
            Line::Socket { .. } => true,
            Line::Pipe(_) => !is_due,
        }
    }

    /// The limits of what is read.
    pub fn set_limits(&mut self, limits: ReadLimits) {
        match &mut self.line {
            Line::Socket { framing: Framing::Tcp, .. } => {}
            Line::Socket { framing: Framing::WebSocket(reader), .. } => {
                reader.set_limits(limits.websocket);
            }
            Line::Socket { framing: Framing::SockJs(framed), .. } => {
                framed.set_limits(limits.sockjs);
            }
            Line::Pipe(session) => session.pipe().set_limits(limits.sockjs),
        }
    }

    /// Bytes that were written and that the other side is not known to have.
    #[must_use]
    pub fn unacknowledged(&self) -> Option<u32> {
        match &self.line {
            Line::Socket { stream, .. } => tcp::unacknowledged(stream).ok(),
            Line::Pipe(session) => {
                Some(u32::try_from(session.pipe().unproven()).unwrap_or(u32::MAX))
            }
        }
    }

    /// Says good-bye as far as it is taken at once.
    pub fn part(&mut self, out: &mut Vec<u8>, code: u16, reason: &str) {
        match &self.line {
            Line::Socket { stream, .. } => {
                self.put_close(out, code, reason);
                // One that is gone meanwhile needs no good-bye.
                if let Ok(written) = socket::write(stream, out) {
                    out.drain(..written);
                }
            }
            Line::Pipe(session) => session.pipe().close(&std::mem::take(out), code, reason),
        }
    }

    /// Waits, not long, until the good-bye is on its way: before that the process should not end.
    pub async fn parted(&self) {
        if let Line::Pipe(session) = &self.line {
            session.pipe().taken(FAREWELL).await;
        }
    }

    /// Writes the rest and waits a little for the other side to close too.
    pub async fn finish(self, out: Vec<u8>) {
        match self.line {
            Line::Socket { stream, framing } => {
                socket::finish(stream, !matches!(framing, Framing::Tcp), &out).await;
            }
            // Requests that come later are told that it is closed.
            Line::Pipe(session) => session.pipe().forgotten().await,
        }
    }
}
