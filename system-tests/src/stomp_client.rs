//! A small STOMP 1.2 client over WebSocket or TCP, with a frame reader of its own, so that the
//! relay's mistakes do not meet the same mistakes here.
//!
//! A task reads all the time and answers PINGs, so that a test that looks elsewhere is not taken
//! for dead. [`Client::freeze`] stops it: from then on nobody reads.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in tests a panic is how to fail")]

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::PATIENCE;

/// One frame, headers in their order and without escapes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub command: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// Over what a client comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    WebSocket,
    Tcp,
}

/// A connected session.
#[derive(Debug)]
pub struct Client {
    sink: Sink,
    shared: Arc<Shared>,
    frozen: watch::Sender<bool>,
    reader: JoinHandle<()>,
    /// For socket options.
    socket: OwnedFd,
    next_receipt: u64,
    attempted: u64,
}

#[derive(Debug)]
enum Sink {
    WebSocket(Box<SplitSink<WebSocketStream<TcpStream>, Message>>),
    Tcp(OwnedWriteHalf),
}

#[derive(Debug)]
enum Source {
    WebSocket(SplitStream<WebSocketStream<TcpStream>>),
    Tcp(OwnedReadHalf),
}

#[derive(Debug, Default)]
struct Shared {
    inbox: Mutex<Inbox>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inbox {
    frames: VecDeque<Frame>,
    receipts: HashMap<String, Frame>,
    receipted: u64,
    delivered: u64,
    is_frozen: bool,
    /// Close code and reason; 1006 where the connection ended without.
    closed: Option<(u16, String)>,
}

impl Frame {
    #[must_use]
    pub fn new(command: &str, headers: &[(&str, &str)], body: &[u8]) -> Self {
        let headers = headers.iter().map(|&(name, value)| (name.into(), value.into())).collect();
        Self { command: command.into(), headers, body: body.into() }
    }

    /// The first header of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The same for one that must be there.
    ///
    /// # Panics
    /// Where it is not.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }

    /// The body as text.
    ///
    /// # Panics
    /// Where it is none.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = format!("{}\n", self.command).into_bytes();
        for (name, value) in &self.headers {
            let escape = |text: &str| {
                let text = text.replace('\\', "\\\\").replace('\r', "\\r");
                text.replace('\n', "\\n").replace(':', "\\c")
            };
            // CONNECT has no escapes.
            let line = if self.command == "CONNECT" {
                format!("{name}:{value}\n")
            } else {
                format!("{}:{}\n", escape(name), escape(value))
            };
            bytes.extend_from_slice(line.as_bytes());
        }
        if !self.body.is_empty() {
            bytes.extend_from_slice(format!("content-length:{}\n", self.body.len()).as_bytes());
        }
        bytes.push(b'\n');
        bytes.extend_from_slice(&self.body);
        bytes.push(0);
        bytes
    }
}

impl Client {
    /// Connects to the relay at `address`; the password is the user's name.
    ///
    /// # Panics
    /// Where the session is refused.
    pub async fn connect(wire: Wire, address: SocketAddr, user: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let socket = stream.as_fd().try_clone_to_owned().unwrap();
        let (sink, source) = match wire {
            Wire::WebSocket => {
                let mut request = format!("ws://{address}/ws").into_client_request().unwrap();
                let protocol = "v12.stomp".parse().unwrap();
                request.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
                let (stream, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
                let (sink, source) = stream.split();
                (Sink::WebSocket(Box::new(sink)), Source::WebSocket(source))
            }
            Wire::Tcp => {
                let (source, sink) = stream.into_split();
                (Sink::Tcp(sink), Source::Tcp(source))
            }
        };
        let shared = Arc::new(Shared::default());
        let (frozen, is_frozen) = watch::channel(false);
        let reader = tokio::spawn(read(source, shared.clone(), is_frozen));
        let mut client =
            Self { sink, shared, frozen, reader, socket, next_receipt: 0, attempted: 0 };
        let headers = [
            ("accept-version", "1.2"),
            ("host", "/"),
            ("login", user),
            ("passcode", user),
            ("heart-beat", "0,0"),
        ];
        client.write(&Frame::new("CONNECT", &headers, b"")).await;
        let answer = client.frame().await;
        assert_eq!(answer.command, "CONNECTED", "{answer:?}");
        client
    }

    /// [`Self::connect`] over WebSocket.
    pub async fn websocket(address: SocketAddr, user: &str) -> Self {
        Self::connect(Wire::WebSocket, address, user).await
    }

    /// Sends a frame. A connection that is gone takes it without complaint: `closed` says so.
    pub async fn write(&mut self, frame: &Frame) {
        let bytes = frame.encode();
        match &mut self.sink {
            Sink::WebSocket(sink) => {
                let message = match String::from_utf8(bytes) {
                    Ok(text) => Message::text(text),
                    Err(error) => Message::binary(error.into_bytes()),
                };
                sink.send(message).await.ok();
            }
            Sink::Tcp(sink) => {
                sink.write_all(&bytes).await.ok();
            }
        }
    }

    /// Subscribes and waits for the RECEIPT.
    ///
    /// # Panics
    /// Where none comes.
    pub async fn subscribe(&mut self, id: &str, destination: &str, headers: &[(&str, &str)]) {
        let receipt = self.subscribe_later(id, destination, headers).await;
        self.receipt(&receipt).await;
    }

    /// Subscribes; gives the receipt's id.
    pub async fn subscribe_later(
        &mut self,
        id: &str,
        destination: &str,
        headers: &[(&str, &str)],
    ) -> String {
        let receipt = self.new_receipt();
        let own = [("id", id), ("destination", destination), ("receipt", &receipt)];
        self.write(&Frame::new("SUBSCRIBE", &[&own, headers].concat(), b"")).await;
        receipt
    }

    /// Unsubscribes and waits for the RECEIPT.
    ///
    /// # Panics
    /// Where none comes.
    pub async fn unsubscribe(&mut self, id: &str) {
        let receipt = self.new_receipt();
        self.write(&Frame::new("UNSUBSCRIBE", &[("id", id), ("receipt", &receipt)], b"")).await;
        self.receipt(&receipt).await;
    }

    /// Sends a message and waits for the RECEIPT; gives its `x-receipt-level`.
    ///
    /// # Panics
    /// Where none comes.
    pub async fn send(
        &mut self,
        destination: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> String {
        let receipt = self.send_later(destination, headers, body).await;
        let frame = self.receipt(&receipt).await;
        frame.get("x-receipt-level").unwrap_or_default().to_owned()
    }

    /// Sends a message; gives the receipt's id.
    pub async fn send_later(
        &mut self,
        destination: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> String {
        let receipt = self.new_receipt();
        let own = [("destination", destination), ("receipt", &receipt)];
        self.attempted += 1;
        self.write(&Frame::new("SEND", &[&own, headers].concat(), body.as_bytes())).await;
        receipt
    }

    /// Waits for a RECEIPT.
    ///
    /// # Panics
    /// Where none comes, or an ERROR, or the connection ends.
    pub async fn receipt(&self, id: &str) -> Frame {
        self.wait(&format!("the RECEIPT {id}"), |inbox| inbox.receipts.remove(id)).await
    }

    /// Receipts that came and that nobody waited for.
    #[must_use]
    pub fn take_receipts(&self) -> Vec<String> {
        self.shared.lock().receipts.drain().map(|(id, _)| id).collect()
    }

    /// The next frame that is no RECEIPT.
    ///
    /// # Panics
    /// Where none comes, or the connection ends.
    pub async fn frame(&self) -> Frame {
        self.wait("a frame", |inbox| inbox.frames.pop_front()).await
    }

    /// The next MESSAGE.
    ///
    /// # Panics
    /// Where another frame comes, or none.
    pub async fn message(&self) -> Frame {
        let frame = self.frame().await;
        assert_eq!(frame.command, "MESSAGE", "{frame:?}");
        frame
    }

    /// The next `count` MESSAGEs.
    ///
    /// # Panics
    /// As [`Self::message`].
    pub async fn messages(&self, count: usize) -> Vec<Frame> {
        let mut messages = Vec::with_capacity(count);
        while messages.len() < count {
            messages.push(self.message().await);
        }
        messages
    }

    /// Frames that are there now and no RECEIPTs.
    #[must_use]
    pub fn take_frames(&self) -> Vec<Frame> {
        self.shared.lock().frames.drain(..).collect()
    }

    /// Waits for the end of the connection; gives its close code and reason.
    ///
    /// # Panics
    /// Where it does not end.
    pub async fn closed(&self) -> (u16, String) {
        let wait = async {
            loop {
                let changed = self.shared.changed.notified();
                if let Some(closed) = self.shared.lock().closed.clone() {
                    return closed;
                }
                changed.await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the connection is not closed")
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.lock().closed.is_some()
    }

    /// Reads nothing and answers no PING from now on; the socket stays open.
    pub async fn freeze(&self) {
        self.frozen.send_replace(true);
        self.wait("the reader to pause", |inbox| inbox.is_frozen.then_some(())).await;
    }

    /// Reads again.
    pub fn thaw(&self) {
        self.shared.lock().is_frozen = false;
        self.frozen.send_replace(false);
    }

    /// From now on nothing that the other side sends reaches this side's TCP, as if the machine
    /// had lost its network: no data is acknowledged, no reset is sent.
    ///
    /// # Panics
    /// Where the kernel refuses.
    pub async fn vanish(&self) {
        self.freeze().await;
        // BPF "return 0": of every packet nothing is kept.
        let drop_all = [socket2::SockFilter::new(0x06, 0, 0, 0)];
        socket2::SockRef::from(&self.socket).attach_filter(&drop_all).unwrap();
    }

    /// SENDs written.
    #[must_use]
    pub fn attempted(&self) -> u64 {
        self.attempted
    }

    /// RECEIPTs read.
    #[must_use]
    pub fn receipted(&self) -> u64 {
        self.shared.lock().receipted
    }

    /// MESSAGEs read.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.shared.lock().delivered
    }

    fn new_receipt(&mut self) -> String {
        self.next_receipt += 1;
        format!("r{}", self.next_receipt)
    }

    async fn wait<T>(&self, what: &str, mut take: impl FnMut(&mut Inbox) -> Option<T>) -> T {
        let wait = async {
            loop {
                let changed = self.shared.changed.notified();
                {
                    let mut inbox = self.shared.lock();
                    if let Some(taken) = take(&mut inbox) {
                        return taken;
                    }
                    let error = inbox.frames.iter().find(|frame| frame.command == "ERROR");
                    if error.is_some() || inbox.closed.is_some() {
                        panic!("waiting for {what}: {error:?}, closed {:?}", inbox.closed);
                    }
                }
                changed.await;
            }
        };
        let result = tokio::time::timeout(PATIENCE, wait).await;
        result.unwrap_or_else(|_| panic!("waited in vain for {what}"))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn took(&self, frame: Frame) {
        let mut inbox = self.lock();
        if frame.command == "RECEIPT" {
            inbox.receipted += 1;
            let id = frame.header("receipt-id").to_owned();
            assert!(inbox.receipts.insert(id, frame).is_none(), "two RECEIPTs of one id");
        } else {
            inbox.delivered += u64::from(frame.command == "MESSAGE");
            inbox.frames.push_back(frame);
        }
        drop(inbox);
        self.changed.notify_waiters();
    }
}

/// Bytes of the other side, or how it ended.
async fn next(source: &mut Source) -> Result<Vec<u8>, (u16, String)> {
    match source {
        Source::WebSocket(stream) => loop {
            return match stream.next().await {
                Some(Ok(Message::Text(text))) => Ok(text.as_bytes().to_vec()),
                Some(Ok(Message::Binary(bytes))) => Ok(bytes.to_vec()),
                Some(Ok(Message::Close(Some(close)))) => {
                    Err((close.code.into(), close.reason.to_string()))
                }
                Some(Ok(Message::Close(None))) => Err((1005, String::new())),
                Some(Ok(_)) => continue,
                Some(Err(error)) => Err((1006, error.to_string())),
                None => Err((1006, "no Close frame".into())),
            };
        },
        Source::Tcp(stream) => {
            let mut buffer = vec![0; 64 * 1024];
            match stream.read(&mut buffer).await {
                Ok(0) => Err((1006, "end of file".into())),
                Ok(read) => {
                    buffer.truncate(read);
                    Ok(buffer)
                }
                Err(error) => Err((1006, error.to_string())),
            }
        }
    }
}

async fn read(mut source: Source, shared: Arc<Shared>, mut frozen: watch::Receiver<bool>) {
    let mut buffer = Vec::new();
    loop {
        if *frozen.borrow_and_update() {
            shared.lock().is_frozen = true;
            shared.changed.notify_waiters();
            if frozen.changed().await.is_err() {
                return;
            }
            continue;
        }
        let result = tokio::select! {
            result = next(&mut source) => result,
            changed = frozen.changed() => if changed.is_ok() { continue } else { return },
        };
        match result {
            Ok(bytes) => {
                buffer.extend_from_slice(&bytes);
                while let Some(frame) = parse(&mut buffer) {
                    shared.took(frame);
                }
            }
            Err(end) => {
                shared.lock().closed = Some(end);
                shared.changed.notify_waiters();
                return;
            }
        }
    }
}

/// Takes a whole frame off the buffer.
fn parse(buffer: &mut Vec<u8>) -> Option<Frame> {
    // Heart-beats, and line ends after a frame.
    let beats = buffer.iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
    buffer.drain(..beats);
    let head_end = buffer.windows(2).position(|window| window == b"\n\n")?;
    let head = std::str::from_utf8(buffer.get(..head_end)?).unwrap();
    let mut lines = head.split('\n');
    let command = lines.next()?.to_owned();
    let headers: Vec<(String, String)> = lines
        .map(|line| line.split_once(':').unwrap())
        .map(|(name, value)| (unescape(name), unescape(value)))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let body_start = head_end + 2;
    let body_length = match length {
        Some((_, length)) => length.parse().unwrap(),
        None => buffer.get(body_start..)?.iter().position(|byte| *byte == 0)?,
    };
    let end = body_start + body_length;
    assert_eq!(*buffer.get(end)?, 0, "no NUL after the body of {head}");
    let body = buffer.get(body_start..end)?.to_vec();
    buffer.drain(..=end);
    Some(Frame { command, headers, body })
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        out.push(match (char, if char == '\\' { chars.next() } else { None }) {
            ('\\', Some('n')) => '\n',
            ('\\', Some('r')) => '\r',
            ('\\', Some('c')) => ':',
            ('\\', Some('\\')) => '\\',
            ('\\', other) => panic!("a wrong escape \\{other:?} in {text}"),
            (char, _) => char,
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_there_and_back() {
        let frame = Frame::new("SEND", &[("a:b", "c\\d\n"), ("empty", "")], b"x\0y");
        let mut bytes = frame.encode();
        bytes.extend_from_slice(b"\n\r\nRECEIPT\nreceipt-id:1\n\n");
        let mut read = parse(&mut bytes).unwrap();
        assert_eq!(read.headers.pop(), Some(("content-length".into(), "3".into())));
        assert_eq!(read, frame);
        assert_eq!(parse(&mut bytes), None);
        bytes.push(0);
        assert_eq!(parse(&mut bytes), Some(Frame::new("RECEIPT", &[("receipt-id", "1")], b"")));
    }
}
