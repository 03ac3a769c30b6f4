//! One connection to the server under test, over TCP, WebSocket or SockJS, and all that passed on it.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::yield_now;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame as WsFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::dial::{DialError, Endpoint, Stream, Wire, dial};
use crate::reader::{Reader, Said, ServerFrame, show};
use crate::sockjs::{self, SockJsFrame};
use crate::trace::{Side, Trace};
use crate::transcript::{Cut, MessageKind, Transport};

/// Which part of a WebSocket message a frame is.
#[derive(Clone, Copy)]
struct Part {
    first: bool,
    last: bool,
}

impl Part {
    const WHOLE: Self = Self { first: true, last: true };
}

/// What came from the server.
#[derive(Debug)]
pub(crate) enum Event {
    /// With the kind of the WebSocket message that ended it.
    Frame(ServerFrame, Option<MessageKind>),
    Beat,
    /// A WebSocket PONG.
    Pong(Vec<u8>),
    /// The end, on WebSocket with its code where there was one.
    Closed(Option<u16>),
    /// Bytes that are no STOMP.
    Malformed(String),
    /// Nothing until the deadline.
    Silence,
}

pub(crate) struct Connection {
    name: String,
    wire: Wire,
    transport: Transport,
    reader: Reader,
    /// How it ended, once it has.
    closed: Option<Option<u16>>,
    events: VecDeque<Event>,
    /// The kind of the last message a WebSocket brought.
    last_kind: Option<MessageKind>,
    trace: Trace,
}

impl Connection {
    /// The connection called `name`, and the subprotocol that was selected.
    pub(crate) async fn open(
        name: &str,
        endpoint: &Endpoint,
        transport: Transport,
        offer: &[String],
        limit: Duration,
        trace: Trace,
    ) -> Result<(Self, Option<String>), DialError> {
        let (wire, selected) = dial(endpoint, transport, offer, limit).await?;
        let connection = Self {
            name: name.to_owned(),
            wire,
            transport,
            reader: Reader::default(),
            closed: None,
            events: VecDeque::new(),
            last_kind: None,
            trace,
        };
        Ok((connection, selected))
    }

    /// Sends, cut as it is said. What a server that has closed does not take is no failure here:
    /// the next expectation tells.
    pub(crate) async fn send(&mut self, bytes: &[u8], cut: Cut, limit: Duration) {
        if self.transport == Transport::SockJs
            && let (Cut::Pieces(size) | Cut::Fragments(size), Ok(text)) =
                (cut, std::str::from_utf8(bytes))
        {
            for piece in sockjs::pieces(text, size) {
                self.write(piece.as_bytes(), Part::WHOLE, limit).await;
            }
            return;
        }
        match cut {
            Cut::Whole => self.write(bytes, Part::WHOLE, limit).await,
            Cut::Pieces(size) => {
                for piece in bytes.chunks(size) {
                    self.write(piece, Part::WHOLE, limit).await;
                    // A server in this process reads now, before the next piece is there.
                    yield_now().await;
                }
            }
            Cut::Fragments(size) => {
                let count = bytes.chunks(size).count();
                for (n, piece) in bytes.chunks(size).enumerate() {
                    let part = Part { first: n == 0, last: n + 1 == count };
                    self.write(piece, part, limit).await;
                }
            }
        }
    }

    async fn write(&mut self, bytes: &[u8], part: Part, limit: Duration) {
        self.trace.bytes(&self.name, Side::Client, bytes);
        let write = async {
            match &mut self.wire {
                Wire::Plain(stream) => {
                    write_out(stream, bytes).await.map_err(|error| error.to_string())
                }
                Wire::WebSocket(stream) if self.transport == Transport::SockJs => {
                    // Cases that send something else are not played.
                    let text = sockjs::encode(&String::from_utf8_lossy(bytes));
                    stream.send(Message::text(text)).await.map_err(|error| error.to_string())
                }
                Wire::WebSocket(stream) => {
                    // A frame, not a text: a case may send bytes that are no UTF-8.
                    let kind = match self.transport {
                        _ if !part.first => Data::Continue,
                        Transport::WsBinary => Data::Binary,
                        Transport::Tcp | Transport::WsText | Transport::SockJs => Data::Text,
                    };
                    let frame = WsFrame::message(bytes.to_vec(), OpCode::Data(kind), part.last);
                    stream.send(Message::Frame(frame)).await.map_err(|error| error.to_string())
                }
                Wire::Gone => Ok(()),
            }
        };
        let written = timeout(limit, write).await;
        self.not_written(written, limit);
    }

    /// Sends bytes on the socket under the WebSocket.
    pub(crate) async fn send_on_socket(&mut self, bytes: &[u8], limit: Duration) {
        self.say(&format!("> on the socket {}", show(bytes)));
        let write = async {
            match &mut self.wire {
                Wire::Plain(stream) => write_out(stream, bytes).await,
                Wire::WebSocket(stream) => write_out(stream.get_mut(), bytes).await,
                Wire::Gone => Ok(()),
            }
        };
        let written = timeout(limit, write).await.map(|r| r.map_err(|error| error.to_string()));
        self.not_written(written, limit);
    }

    fn not_written(&mut self, written: Result<Result<(), String>, Elapsed>, limit: Duration) {
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.say(&format!("! not written: {error}")),
            Err(_) => self.say(&format!("! not written within {limit:?}")),
        }
    }

    /// Says nothing more, not even PONG, until the server ends the connection. Whether it did
    /// before the deadline.
    pub(crate) async fn wait_in_silence(&mut self, deadline: Instant) -> bool {
        self.say("! silent from here on");
        let mut stream = match std::mem::replace(&mut self.wire, Wire::Gone) {
            Wire::Plain(stream) => stream,
            // What the library has read and not given out is lost; it is no matter here.
            Wire::WebSocket(stream) => stream.into_inner(),
            Wire::Gone => return true,
        };
        let mut buffer = vec![0; 4096];
        let ended = timeout_at(deadline, async {
            while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
        });
        let ended = ended.await.is_ok();
        self.end(None, if ended { "closed" } else { "not closed" });
        ended
    }

    /// Closes the socket without a word of STOMP or WebSocket.
    pub(crate) fn drop_socket(&mut self) {
        self.wire = Wire::Gone;
        self.closed = Some(None);
        self.say("! socket dropped by the client");
    }

    /// Ends politely where the case did not; whether the server takes it is no matter.
    pub(crate) async fn finish(&mut self) {
        let limit = Duration::from_millis(500);
        let goodbye = async {
            match &mut self.wire {
                Wire::Plain(stream) => stream.shutdown().await.is_ok(),
                // Where the server closed first, this answers its close.
                Wire::WebSocket(stream) => (**stream).close(None).await.is_ok(),
                Wire::Gone => true,
            }
        };
        timeout(limit, goodbye).await.unwrap_or_default();
        self.wire = Wire::Gone;
    }

    pub(crate) fn is_open(&self) -> bool {
        self.closed.is_none()
    }

    /// The next thing that has come, if any has: from its end on, the end.
    pub(crate) fn take(&mut self) -> Option<Event> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        let code = self.closed?;
        let rest = self.reader.rest();
        if rest.is_empty() {
            return Some(Event::Closed(code));
        }
        let text = format!("closed within a frame: {}", show(rest));
        self.reader = Reader::default();
        Some(Event::Malformed(text))
    }

    /// Reads what is there already.
    pub(crate) fn read_ready(&mut self) {
        while self.is_open() && self.read().now_or_never().is_some() {}
    }

    fn take_events(&mut self) {
        loop {
            match self.reader.next() {
                Ok(Some(Said::Frame(frame))) => {
                    self.events.push_back(Event::Frame(frame, self.last_kind));
                }
                Ok(Some(Said::Beat)) => self.events.push_back(Event::Beat),
                Ok(None) => return,
                Err(text) => {
                    self.reader = Reader::default();
                    self.events.push_back(Event::Malformed(text));
                    return;
                }
            }
        }
    }

    /// Reads once. Losing the future loses no bytes.
    pub(crate) async fn read(&mut self) {
        self.read_wire().await;
        self.take_events();
    }

    async fn read_wire(&mut self) {
        match &mut self.wire {
            Wire::Plain(stream) => {
                let mut buffer = Vec::with_capacity(16 * 1024);
                match stream.read_buf(&mut buffer).await {
                    Ok(0) => self.end(None, "closed"),
                    Ok(_) => self.arrived(&buffer),
                    Err(error) => self.end(None, &format!("closed: {error}")),
                }
            }
            Wire::WebSocket(stream) => match stream.next().await {
                Some(Ok(Message::Text(text))) if self.transport == Transport::SockJs => {
                    self.last_kind = Some(MessageKind::Text);
                    self.sockjs(&text);
                }
                Some(Ok(Message::Text(text))) => {
                    self.last_kind = Some(MessageKind::Text);
                    self.arrived(text.as_bytes());
                }
                Some(Ok(Message::Binary(bytes))) => {
                    self.last_kind = Some(MessageKind::Binary);
                    self.arrived(&bytes);
                }
                Some(Ok(Message::Close(frame))) => {
                    let code = frame.as_ref().map(|frame| u16::from(frame.code));
                    let reason = frame.map(|frame| frame.reason.to_string()).unwrap_or_default();
                    let code_text = code.map_or("without a code".into(), |code| code.to_string());
                    self.end(code, &format!("closed {code_text} {}", show(reason.as_bytes())));
                }
                Some(Ok(Message::Pong(payload))) => {
                    self.say(&format!("< PONG {}", show(&payload)));
                    self.events.push_back(Event::Pong(payload.to_vec()));
                }
                // The library answers it with the next read or write.
                Some(Ok(Message::Ping(payload))) => self.say(&format!("< PING {}", show(&payload))),
                Some(Ok(Message::Frame(_))) => {}
                Some(Err(error)) => self.end(None, &format!("closed: {error}")),
                None => self.end(None, "closed"),
            },
            Wire::Gone => self.end(None, "closed"),
        }
    }

    fn sockjs(&mut self, text: &str) {
        match sockjs::decode(text) {
            Ok(SockJsFrame::Open | SockJsFrame::Beat) => {}
            Ok(SockJsFrame::Messages(messages)) => {
                messages.iter().for_each(|message| self.arrived(message.as_bytes()));
            }
            Ok(SockJsFrame::Close(code, reason)) => {
                self.end(Some(code), &format!("closed {code} {}", show(reason.as_bytes())));
            }
            Err(wrong) => self.events.push_back(Event::Malformed(wrong)),
        }
    }

    fn arrived(&mut self, bytes: &[u8]) {
        self.trace.bytes(&self.name, Side::Server, bytes);
        self.reader.push(bytes);
    }

    fn end(&mut self, code: Option<u16>, what: &str) {
        self.say(&format!("< {what}"));
        self.closed = Some(code);
    }

    fn say(&self, line: &str) {
        self.trace.note(&self.name, line);
    }
}

async fn write_out(stream: &mut Box<dyn Stream>, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    // TLS keeps back what is not flushed.
    stream.flush().await
}
