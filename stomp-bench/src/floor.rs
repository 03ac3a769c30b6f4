//! The least a server can do: a floor to compare real servers with.
//!
//! One thread of tokio, no login, no limits, no patterns. A MESSAGE is made once, with a head that
//! is ready, and the same bytes go to every subscriber: one write for each message, or one for
//! all that a read of the publisher's socket brought. With pairs it is a bare echo to another
//! socket. It knows the frames that this program sends, and no others.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::Result;
use crate::wire::{self, Found, Framing, Scanner, Side};

const BEAT: Duration = Duration::from_secs(10);
/// As long as the heads of real servers.
const SUBSCRIPTION: &str = "subscription:00000000-0000-4000-a000-000000000000\n";

thread_local! {
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 * 1024]);
}

/// Serves until the process is ended. `announce` is told the address once it listens.
///
/// # Errors
/// Where it cannot listen.
pub fn run(
    listen: SocketAddr,
    coalesce: bool,
    announce: impl FnOnce(SocketAddr) -> io::Result<()>,
) -> Result<()> {
    crate::process::allow_files(0)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        let listener = TcpListener::bind(listen).await?;
        announce(listener.local_addr()?)?;
        let hub = Rc::new(Hub { coalesce, ..Hub::default() });
        tokio::task::spawn_local(beat(hub.clone()));
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::task::spawn_local(serve(hub.clone(), stream));
        }
    })
}

#[derive(Default)]
struct Hub {
    coalesce: bool,
    topics: RefCell<HashMap<Vec<u8>, Rc<Topic>>>,
    peers: RefCell<Vec<Weak<Peer>>>,
}

#[derive(Default)]
struct Topic {
    is_queue: bool,
    subscribers: RefCell<Vec<Rc<Peer>>>,
    /// Whose turn it is, where one of them gets a message.
    turn: Cell<usize>,
}

/// The writing side of a connection.
struct Peer {
    write: OwnedWriteHalf,
    framing: Framing,
    /// What the socket did not take; the connection's own task writes it.
    rest: RefCell<Vec<u8>>,
    waker: RefCell<Option<Waker>>,
}

impl Peer {
    fn write(&self, bytes: &[u8]) {
        let mut rest = self.rest.borrow_mut();
        // A connection that is gone is found out by its own task.
        let written = if rest.is_empty() { self.write.try_write(bytes).unwrap_or(0) } else { 0 };
        let left = bytes.get(written..).unwrap_or_default();
        if !left.is_empty() {
            rest.extend_from_slice(left);
            if let Some(waker) = self.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }

    fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut rest = self.rest.borrow_mut();
        while !rest.is_empty() {
            ready!(self.write.as_ref().poll_write_ready(cx))?;
            match self.write.try_write(&rest) {
                Ok(written) => drop(rest.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// All heart-beats at once: the bare writes.
async fn beat(hub: Rc<Hub>) {
    let mut ticks = tokio::time::interval(BEAT);
    loop {
        ticks.tick().await;
        hub.peers.borrow_mut().retain(|peer| {
            let Some(peer) = peer.upgrade() else { return false };
            let mut frame = Vec::new();
            wire::put(&mut frame, peer.framing, Side::Server, b"\n");
            peer.write(&frame);
            true
        });
    }
}

async fn serve(hub: Rc<Hub>, stream: TcpStream) {
    // Whatever ends the connection, it is over.
    let _ = stream.set_nodelay(true);
    let (mut read, write) = stream.into_split();
    let Ok((framing, early)) = greet(&mut read, &write).await else { return };
    let peer = Peer { write, framing, rest: RefCell::default(), waker: RefCell::default() };
    let peer = Rc::new(peer);
    hub.peers.borrow_mut().push(Rc::downgrade(&peer));
    let mut session = Session {
        hub,
        peer: peer.clone(),
        subscribed: Vec::new(),
        sending: None,
        scratch: Vec::new(),
        batch: Vec::new(),
    };
    let mut scanner = Scanner::new(framing);
    let mut result = scanner.feed(&early, &mut |found| session.on(found)).map_err(malformed);
    while result.is_ok() {
        session.forward();
        result = poll_fn(|cx| {
            *peer.waker.borrow_mut() = Some(cx.waker().clone());
            if let Poll::Ready(Err(error)) = peer.poll_flush(cx) {
                return Poll::Ready(Err(error));
            }
            receive(&mut read, cx, &mut scanner, &mut session)
        })
        .await;
    }
    session.end();
}

/// Reads what is before STOMP. Plain STOMP has nothing, but its first bytes have been read then.
async fn greet(read: &mut OwnedReadHalf, write: &OwnedWriteHalf) -> io::Result<(Framing, Vec<u8>)> {
    let mut head = Vec::with_capacity(512);
    loop {
        if read.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if head.first() != Some(&b'G') {
            return Ok((Framing::Tcp, head));
        }
        if head.ends_with(b"\r\n\r\n") {
            // The answer to the one key that this program sends (RFC 6455, 1.3).
            write.try_write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                  Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
                  Sec-WebSocket-Protocol: v12.stomp\r\n\r\n",
            )?;
            return Ok((Framing::WebSocket, Vec::new()));
        }
    }
}

fn receive(
    read: &mut OwnedReadHalf,
    cx: &mut Context<'_>,
    scanner: &mut Scanner,
    session: &mut Session,
) -> Poll<io::Result<()>> {
    READ.with_borrow_mut(|buffer| {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(read).poll_read(cx, &mut buffer))?;
        if buffer.filled().is_empty() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        let fed = scanner.feed(buffer.filled(), &mut |found| session.on(found));
        Poll::Ready(fed.map_err(malformed))
    })
}

fn malformed(_: wire::Malformed) -> io::Error {
    io::ErrorKind::InvalidData.into()
}

struct Session {
    hub: Rc<Hub>,
    peer: Rc<Peer>,
    subscribed: Vec<(Vec<u8>, Rc<Topic>)>,
    sending: Option<Sending>,
    /// The messages that a read brought, as subscribers get them.
    scratch: Vec<u8>,
    batch: Vec<(Rc<Topic>, Range<usize>)>,
}

/// The last SEND's head, and what is made of it.
struct Sending {
    head: Vec<u8>,
    topic: Rc<Topic>,
    ready: Vec<u8>,
}

impl Session {
    fn on(&mut self, found: Found<'_>) {
        let Found::Frame(frame) = found else { return };
        if self.sending.as_ref().is_some_and(|sending| frame.starts_with(&sending.head)) {
            return self.take(frame);
        }
        let command = frame.split(|byte| *byte == b'\n').next().unwrap_or_default();
        match command {
            b"SEND" => {
                self.sending = self.prepare(frame);
                self.take(frame);
            }
            b"CONNECT" => self.answer(b"CONNECTED\nversion:1.2\nheart-beat:10000,10000\n\n\0"),
            b"SUBSCRIBE" => {
                let topic = self.topic(frame);
                topic.subscribers.borrow_mut().push(self.peer.clone());
                let id = wire::header(frame, "id").unwrap_or_default().to_vec();
                self.subscribed.push((id, topic));
            }
            b"UNSUBSCRIBE" => {
                let id = wire::header(frame, "id").unwrap_or_default();
                if let Some(at) = self.subscribed.iter().position(|(own, _)| own == id) {
                    let (_, topic) = self.subscribed.swap_remove(at);
                    self.leave(&topic);
                }
            }
            _ => {}
        }
        if let Some(receipt) = wire::header(frame, "receipt") {
            let answer = [b"RECEIPT\nreceipt-id:", receipt, b"\n\n\0"].concat();
            self.answer(&answer);
        }
    }

    fn answer(&self, frame: &[u8]) {
        let mut out = Vec::new();
        wire::put(&mut out, self.peer.framing, Side::Server, frame);
        self.peer.write(&out);
    }

    fn topic(&self, frame: &[u8]) -> Rc<Topic> {
        let name = wire::header(frame, "destination").unwrap_or_default();
        let mut topics = self.hub.topics.borrow_mut();
        let is_queue = name.starts_with(b"/queue/");
        topics
            .entry(name.to_vec())
            .or_insert_with(|| Rc::new(Topic { is_queue, ..Topic::default() }))
            .clone()
    }

    /// Makes all of a MESSAGE but its body.
    fn prepare(&self, frame: &[u8]) -> Option<Sending> {
        let end = frame.windows(2).position(|pair| pair == b"\n\n")? + 2;
        let (head, body) = frame.split_at(end);
        let topic = self.topic(frame);
        let mut message = b"MESSAGE\n".to_vec();
        message.extend_from_slice(SUBSCRIPTION.as_bytes());
        message.extend_from_slice(b"message-id:1764000000-100000\ndestination:");
        message.extend_from_slice(wire::header(frame, "destination").unwrap_or_default());
        if topic.is_queue {
            message.extend_from_slice(b"\nack:0");
        }
        message.extend_from_slice(format!("\ncontent-length:{}\n\n", body.len()).as_bytes());
        let body_at = message.len();
        message.resize(body_at + body.len() + 1, 0);
        let mut ready = Vec::new();
        wire::put(&mut ready, self.peer.framing, Side::Server, &message);
        ready.truncate(ready.len() - body.len() - 1);
        // A frame with a receipt is not one of many.
        let is_plain = wire::header(frame, "receipt").is_none();
        let head = if is_plain { head.to_vec() } else { frame.to_vec() };
        is_plain.then_some(Sending { head, topic, ready })
    }

    /// Puts a message into the batch.
    fn take(&mut self, frame: &[u8]) {
        let Some(sending) = &self.sending else { return };
        let start = self.scratch.len();
        self.scratch.extend_from_slice(&sending.ready);
        self.scratch.extend_from_slice(frame.get(sending.head.len()..).unwrap_or_default());
        self.scratch.push(0);
        let end = self.scratch.len();
        match self.batch.last_mut() {
            Some((topic, range))
                if self.hub.coalesce && !topic.is_queue && Rc::ptr_eq(topic, &sending.topic) =>
            {
                range.end = end;
            }
            _ => self.batch.push((sending.topic.clone(), start..end)),
        }
    }

    /// Writes the batch to its subscribers.
    fn forward(&mut self) {
        for (topic, range) in self.batch.drain(..) {
            let Some(bytes) = self.scratch.get(range) else { continue };
            let subscribers = topic.subscribers.borrow();
            if topic.is_queue {
                let turn = topic.turn.get();
                topic.turn.set(turn.wrapping_add(1));
                if let Some(peer) = subscribers.get(turn % subscribers.len().max(1)) {
                    peer.write(bytes);
                }
            } else {
                subscribers.iter().for_each(|peer| peer.write(bytes));
            }
        }
        self.scratch.clear();
    }

    fn leave(&self, topic: &Topic) {
        let mut subscribers = topic.subscribers.borrow_mut();
        if let Some(at) = subscribers.iter().position(|peer| Rc::ptr_eq(peer, &self.peer)) {
            subscribers.swap_remove(at);
        }
    }

    fn end(&mut self) {
        for (_, topic) in std::mem::take(&mut self.subscribed) {
            self.leave(&topic);
        }
    }
}
