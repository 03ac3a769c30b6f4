//! One connection to the server under test, over TCP or WebSocket, and all that passed on it.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::{Request, Response, generate_request};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::handshake::machine::TryParse;
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::Frame as WsFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use crate::reader::{Reader, Said, ServerFrame, show};
use crate::transcript::{Cut, MessageKind, Transport};

/// For the handshake with a server in this process.
const MEMORY_URL: &str = "ws://in-process/ws";
/// How long the head of a server's answer to the handshake may be.
const HEAD_BYTES: usize = 16 * 1024;
/// How many bytes of one read or write a trace shows.
const TRACED: usize = 2048;

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

/// A connection without framing: TCP, or a pipe within this process.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Where a connection goes.
#[derive(Clone)]
pub(crate) enum Address {
    Network {
        authority: String,
        /// For WebSocket.
        url: String,
    },
    /// What opens a connection to a server in this process.
    Memory(Arc<dyn Fn() -> Box<dyn Stream> + Send + Sync>),
}

enum Wire {
    Plain(Box<dyn Stream>),
    WebSocket(Box<WebSocketStream<Box<dyn Stream>>>),
    /// Dropped by this side.
    Gone,
}

pub(crate) struct Connection {
    wire: Wire,
    transport: Transport,
    reader: Reader,
    /// How it ended, once it has.
    closed: Option<Option<u16>>,
    events: VecDeque<Event>,
    /// The kind of the last message a WebSocket brought.
    last_kind: Option<MessageKind>,
    /// Lines `> "..."` and `< "..."` of all that passed.
    pub(crate) trace: String,
}

impl Connection {
    pub(crate) async fn open(
        address: &Address,
        transport: Transport,
        offer: &[String],
        limit: Duration,
    ) -> Result<(Self, Option<String>), String> {
        let opened = timeout(limit, Self::open_wire(address, transport, offer)).await;
        let (wire, selected) =
            opened.map_err(|_| format!("connecting took longer than {limit:?}"))??;
        let connection = Self {
            wire,
            transport,
            reader: Reader::default(),
            closed: None,
            events: VecDeque::new(),
            last_kind: None,
            trace: String::new(),
        };
        Ok((connection, selected))
    }

    async fn open_wire(
        address: &Address,
        transport: Transport,
        offer: &[String],
    ) -> Result<(Wire, Option<String>), String> {
        let (stream, url): (Box<dyn Stream>, &str) = match address {
            Address::Memory(open) => (open(), MEMORY_URL),
            Address::Network { authority, url } => {
                let tcp = TcpStream::connect(authority)
                    .await
                    .map_err(|error| format!("connecting to {authority}: {error}"))?;
                // A small write must not wait for the answer to the one before it.
                tcp.set_nodelay(true).map_err(|error| error.to_string())?;
                (Box::new(tcp), url)
            }
        };
        if transport == Transport::Tcp {
            return Ok((Wire::Plain(stream), None));
        }
        let mut request = url.into_client_request().map_err(|error| error.to_string())?;
        if !offer.is_empty() {
            let list = HeaderValue::from_str(&offer.join(", ")).map_err(|e| e.to_string())?;
            request.headers_mut().insert("Sec-WebSocket-Protocol", list);
        }
        let (stream, selected) = upgrade(stream, request)
            .await
            .map_err(|error| format!("WebSocket handshake at {url}: {error}"))?;
        if let Some(name) = selected.as_ref().filter(|name| !offer.contains(name)) {
            return Err(format!("subprotocol `{name}` was selected, but not offered"));
        }
        Ok((Wire::WebSocket(Box::new(stream)), selected))
    }

    /// Sends, cut as it is said. What a server that has closed does not take is no failure here:
    /// the next expectation tells.
    pub(crate) async fn send(&mut self, bytes: &[u8], cut: Cut, limit: Duration) {
        match cut {
            Cut::Whole => self.write(bytes, Part::WHOLE, limit).await,
            Cut::Pieces(size) => {
                for piece in bytes.chunks(size) {
                    self.write(piece, Part::WHOLE, limit).await;
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
        self.note('>', bytes);
        let write = async {
            match &mut self.wire {
                Wire::Plain(stream) => {
                    stream.write_all(bytes).await.map_err(|error| error.to_string())?;
                    stream.flush().await.map_err(|error| error.to_string())
                }
                Wire::WebSocket(stream) => {
                    // A frame, not a text: a case may send bytes that are no UTF-8.
                    let kind = match self.transport {
                        _ if !part.first => Data::Continue,
                        Transport::WsBinary => Data::Binary,
                        Transport::Tcp | Transport::WsText => Data::Text,
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
                Wire::Plain(stream) => stream.write_all(bytes).await,
                Wire::WebSocket(stream) => stream.get_mut().write_all(bytes).await,
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
        if self.closed.is_none() {
            let limit = Duration::from_millis(500);
            let ended = match &mut self.wire {
                Wire::Plain(stream) => timeout(limit, stream.shutdown()).await.is_ok(),
                Wire::WebSocket(stream) => timeout(limit, (**stream).close(None)).await.is_ok(),
                Wire::Gone => true,
            };
            self.closed = ended.then_some(None);
        }
        self.wire = Wire::Gone;
    }

    pub(crate) fn is_open(&self) -> bool {
        self.closed.is_none()
    }

    /// The next event, or `Silence` where none came until `deadline`.
    pub(crate) async fn next(&mut self, deadline: Instant) -> Event {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            if let Some(code) = self.closed {
                let rest = self.reader.rest();
                if !rest.is_empty() {
                    let text = format!("closed within a frame: {}", show(rest));
                    self.reader = Reader::default();
                    return Event::Malformed(text);
                }
                return Event::Closed(code);
            }
            match timeout_at(deadline, self.read()).await {
                Ok(()) => self.take_events(),
                Err(_) => return Event::Silence,
            }
        }
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
    async fn read(&mut self) {
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
                    self.end(code, &format!("closed {code:?} {}", show(reason.as_bytes())));
                }
                Some(Ok(Message::Pong(payload))) => {
                    self.say(&format!("< PONG {}", show(&payload)));
                    self.events.push_back(Event::Pong(payload.to_vec()));
                }
                Some(Ok(Message::Ping(_) | Message::Frame(_))) => {}
                Some(Err(error)) => self.end(None, &format!("closed: {error}")),
                None => self.end(None, "closed"),
            },
            Wire::Gone => self.end(None, "closed"),
        }
    }

    fn arrived(&mut self, bytes: &[u8]) {
        self.note('<', bytes);
        self.reader.push(bytes);
    }

    fn end(&mut self, code: Option<u16>, what: &str) {
        self.say(&format!("< {what}"));
        self.closed = Some(code);
    }

    fn note(&mut self, side: char, bytes: &[u8]) {
        let shown = bytes.get(..TRACED).unwrap_or(bytes);
        let more = match bytes.len() - shown.len() {
            0 => String::new(),
            more => format!(" and {more} bytes more"),
        };
        self.say(&format!("{side} {}{more}", show(shown)));
    }

    fn say(&mut self, line: &str) {
        // Writing to a String cannot fail.
        writeln!(self.trace, "{line}").unwrap_or_default();
    }
}

/// The handshake, and the subprotocol that was selected. Not the library's own: that one refuses
/// an answer that selects none, which is right where all are unknown (RFC 6455, 4.2.2).
async fn upgrade(
    mut stream: Box<dyn Stream>,
    request: Request,
) -> Result<(WebSocketStream<Box<dyn Stream>>, Option<String>), WsError> {
    let (head, key) = generate_request(request)?;
    stream.write_all(&head).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    let (used, response) = loop {
        if answer.len() > HEAD_BYTES || stream.read_buf(&mut answer).await? == 0 {
            return Err(WsError::ConnectionClosed);
        }
        if let Some(parsed) = Response::try_parse(&answer)? {
            break parsed;
        }
    };
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let accepted = response.status() == StatusCode::SWITCHING_PROTOCOLS
        && header("Sec-WebSocket-Accept") == Some(derive_accept_key(key.as_bytes()).as_str());
    if !accepted {
        return Err(WsError::Http(Box::new(response)));
    }
    let selected = header("Sec-WebSocket-Protocol").map(str::to_owned);
    let tail = answer.split_off(used);
    let stream = WebSocketStream::from_partially_read(stream, tail, Role::Client, None).await;
    Ok((stream, selected))
}
