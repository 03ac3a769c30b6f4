//! One STOMP session on a bare socket.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use memchr::memmem;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

use crate::clock::{self, SECOND};
use crate::wire::{self, Found, Framing, Scanner, Side, opcode};
use crate::{Failure, Result};

/// A thread reads all its connections into one buffer, so that a connection costs next to nothing.
const BUFFER: usize = 128 * 1024;
/// How long an answer may take while connections are made.
const PATIENCE: Duration = Duration::from_secs(60);
/// Connections from one loopback address to one port, with room below the range of ports.
const PER_ADDRESS: usize = 20_000;
const BEAT: u64 = 10;

thread_local! {
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER]);
}

/// Where the server is, and how one logs in.
#[derive(Clone, Debug)]
pub struct Target {
    pub url: Url,
    pub login: Option<(String, String)>,
    pub host: String,
    /// Lines of the HTTP request.
    pub http_headers: Vec<String>,
    /// The server answers SUBSCRIBE and SEND with RECEIPT.
    pub receipts: bool,
    /// All subscriptions have the id `0`.
    pub same_ids: bool,
}

/// `ws://HOST:PORT/PATH` or `tcp://HOST:PORT`.
#[derive(Clone, Debug)]
pub struct Url {
    pub framing: Framing,
    pub authority: String,
    pub path: String,
    text: String,
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let url = url::Url::parse(text).map_err(|error| error.to_string())?;
        let framing = match url.scheme() {
            "ws" => Framing::WebSocket,
            "tcp" => Framing::Tcp,
            other => return Err(format!("{other}:// is neither ws:// nor tcp://")),
        };
        let host = url.host_str().ok_or("there is no host")?;
        let port = match (url.port_or_known_default(), framing) {
            (Some(port), _) => port,
            (None, Framing::Tcp) => 61_613,
            (None, Framing::WebSocket) => 80,
        };
        let path = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        Ok(Self { framing, authority: format!("{host}:{port}"), path, text: text.to_owned() })
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// A session after CONNECTED.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    framing: Framing,
    scanner: Scanner,
    /// What the socket has not taken yet.
    out: Vec<u8>,
    /// Frames that came while connecting and were not asked for.
    early: VecDeque<Early>,
    same_ids: bool,
    receipts: bool,
    /// The client's heart-beats: nanoseconds between two, and when the last one was written.
    beat_every: Option<u64>,
    last_beat: u64,
}

impl Connection {
    /// Connects and logs in.
    ///
    /// # Errors
    /// Where the server does not want that, or does not answer.
    pub async fn open(target: &Target) -> Result<Self> {
        tokio::time::timeout(PATIENCE, Self::connect(target))
            .await
            .map_err(|_| Failure(format!("{}: no CONNECTED within a minute", target.url)))?
    }

    async fn connect(target: &Target) -> Result<Self> {
        let mut stream = dial(&target.url.authority).await?;
        stream.set_nodelay(true)?;
        let framing = target.url.framing;
        let behind = match framing {
            Framing::WebSocket => upgrade(&mut stream, target).await?,
            Framing::Tcp => Vec::new(),
        };
        let mut early = VecDeque::new();
        let mut scanner = Scanner::new(framing);
        scanner
            .feed(&behind, &mut |found| keep(&mut early, found))
            .map_err(|_| Failure("what came is no WebSocket".into()))?;
        let mut connection = Self {
            stream,
            framing,
            scanner,
            out: Vec::new(),
            early,
            same_ids: target.same_ids,
            receipts: target.receipts,
            beat_every: None,
            last_beat: clock::now(),
        };
        let login = target.login.as_ref().map_or_else(String::new, |(login, passcode)| {
            format!("login:{login}\npasscode:{passcode}\n")
        });
        let milliseconds = BEAT * 1000;
        connection.put(
            format!(
                "CONNECT\naccept-version:1.2\nhost:{}\nheart-beat:{milliseconds},{milliseconds}\n\
                 {login}\n\0",
                target.host
            )
            .as_bytes(),
        );
        let connected = connection.frame().await?;
        if !connected.starts_with(b"CONNECTED") {
            return Err(Failure(format!("instead of CONNECTED: {}", wire::excerpt(&connected))));
        }
        connection.beat_every = beat(&connected);
        Ok(connection)
    }

    /// Subscribes, and waits for the RECEIPT where the server sends one.
    ///
    /// # Errors
    /// Where it answers with something else.
    pub async fn subscribe(&mut self, destination: &str, headers: &str) -> Result<String> {
        let id = if self.same_ids { "0".to_owned() } else { subscription_id() };
        let receipt = if self.receipts { "receipt:sub\n" } else { "" };
        let frame =
            format!("SUBSCRIBE\nid:{id}\ndestination:{destination}\n{receipt}{headers}\n\0");
        self.put(frame.as_bytes());
        if self.receipts {
            self.receipt("sub").await?;
        } else {
            self.flush().await?;
        }
        Ok(id)
    }

    /// Unsubscribes, and waits for the RECEIPT where the server sends one.
    ///
    /// # Errors
    /// Where it answers with something else.
    pub async fn unsubscribe(&mut self, id: &str) -> Result<()> {
        let receipt = if self.receipts { "receipt:unsub\n" } else { "" };
        self.put(format!("UNSUBSCRIBE\nid:{id}\n{receipt}\n\0").as_bytes());
        if self.receipts { self.receipt("unsub").await } else { self.flush().await }
    }

    /// Says goodbye and waits for its RECEIPT.
    ///
    /// # Errors
    /// Where none comes.
    pub async fn disconnect(mut self) -> Result<()> {
        self.put(b"DISCONNECT\nreceipt:bye\n\n\0");
        self.receipt("bye").await
    }

    /// Appends a frame to what is to be written.
    pub fn put(&mut self, frame: &[u8]) {
        wire::put(&mut self.out, self.framing, Side::Client, frame);
    }

    #[must_use]
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Nanoseconds after which a heart-beat is due, where any are wanted.
    #[must_use]
    pub fn beat_every(&self) -> Option<u64> {
        self.beat_every
    }

    /// Writes a heart-beat.
    pub fn beat(&mut self) {
        wire::put(&mut self.out, self.framing, Side::Client, b"\n");
        self.last_beat = clock::now();
    }

    /// Writes ready bytes at once, or keeps what the socket does not take. Returns whether it
    /// took all.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub fn write_now(&mut self, bytes: &[u8]) -> io::Result<bool> {
        let written = if self.out.is_empty() { write(&self.stream, bytes)? } else { 0 };
        self.out.extend_from_slice(bytes.get(written..).unwrap_or_default());
        Ok(self.out.is_empty())
    }

    /// Ready once nothing is left to be written.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flush_now()?;
        while !self.out.is_empty() {
            ready!(self.stream.poll_write_ready(cx))?;
            self.flush_now()?;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes as much as the socket takes.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub fn flush_now(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            let written = write(&self.stream, &self.out)?;
            self.out.drain(..written);
            if written == 0 {
                return Ok(());
            }
        }
        if self.out.capacity() > 4096 {
            self.out = Vec::new();
        }
        Ok(())
    }

    /// Writes all that is left.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub async fn flush(&mut self) -> Result<()> {
        Ok(poll_fn(|cx| self.poll_flush(cx)).await?)
    }

    /// Reads once and shows what came, with the time at which it was read. Answers PINGs, and
    /// beats where a beat is due. What `on` appends to its last argument is written later.
    ///
    /// # Errors
    /// Where the connection ends.
    pub fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        on: &mut impl FnMut(Found<'_>, u64, &mut Vec<u8>),
    ) -> Poll<io::Result<()>> {
        READ.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(buffer);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
            let bytes = read.filled();
            if bytes.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            let now = clock::now();
            let Self { scanner, out, .. } = self;
            scanner
                .feed(bytes, &mut |found| match found {
                    Found::Ping(payload) => {
                        wire::put_websocket(out, opcode::PONG, Side::Client, payload);
                    }
                    found => on(found, now, out),
                })
                .map_err(|_| io::Error::other("what came is no WebSocket"))?;
            if self.beat_every.is_some_and(|every| now.saturating_sub(self.last_beat) >= every) {
                self.beat();
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Reads at most so many bytes and looks at nothing.
    ///
    /// # Errors
    /// Where the connection ends.
    pub async fn read_slowly(&mut self, bytes: usize) -> io::Result<()> {
        let mut few = [0; 4096];
        let few = few.get_mut(..bytes.min(4096)).unwrap_or_default();
        match self.stream.read(few).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Waits for the RECEIPT of that id; messages that come before it are kept out of the way.
    ///
    /// # Errors
    /// Where ERROR or the end comes.
    pub async fn receipt(&mut self, id: &str) -> Result<()> {
        let wait = async {
            loop {
                let frame = self.frame().await?;
                if frame.starts_with(b"ERROR") {
                    return Err(Failure(wire::excerpt(&frame)));
                }
                if frame.starts_with(b"RECEIPT")
                    && wire::header(&frame, "receipt-id") == Some(id.as_bytes())
                {
                    return Ok(());
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .map_err(|_| Failure(format!("no RECEIPT {id} within a minute")))?
    }

    /// The next frame.
    async fn frame(&mut self) -> Result<Vec<u8>> {
        loop {
            self.flush().await?;
            match self.early.pop_front() {
                Some(Early::Frame(frame)) => return Ok(frame),
                Some(Early::Close(code)) => {
                    return Err(Failure(format!("the server closed with code {code:?}")));
                }
                None => {}
            }
            let mut early = std::mem::take(&mut self.early);
            let result =
                poll_fn(|cx| self.poll_receive(cx, &mut |found, _, _| keep(&mut early, found)))
                    .await;
            self.early = early;
            if self.early.is_empty() {
                result?;
            }
        }
    }
}

/// Something that came while a connection is made.
#[derive(Debug)]
enum Early {
    Frame(Vec<u8>),
    Close(Option<u16>),
}

fn keep(early: &mut VecDeque<Early>, found: Found<'_>) {
    match found {
        Found::Frame(frame) => early.push_back(Early::Frame(frame.to_vec())),
        Found::Close(code) => early.push_back(Early::Close(code)),
        Found::Ping(_) => {}
    }
}

fn write(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match stream.try_write(bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}

/// Connects. To loopback it takes another address of its own for each 20,000 connections, since
/// there are 28,000 ports.
async fn dial(authority: &str) -> Result<TcpStream> {
    static DIALLED: AtomicUsize = AtomicUsize::new(0);
    let mut addresses = tokio::net::lookup_host(authority)
        .await
        .map_err(|error| Failure(format!("{authority}: {error}")))?;
    let address = addresses.next().ok_or_else(|| Failure(format!("{authority} has no address")))?;
    let turn = DIALLED.fetch_add(1, Ordering::Relaxed) / PER_ADDRESS;
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) && turn > 0 {
        let last = u8::try_from(1 + turn % 250).unwrap_or(1);
        socket.bind(SocketAddr::from(([127, 0, 0, last], 0)))?;
    }
    socket.connect(address).await.map_err(|error| Failure(format!("{authority}: {error}")))
}

/// Asks for WebSocket; returns what came behind the answer.
async fn upgrade(stream: &mut TcpStream, target: &Target) -> Result<Vec<u8>> {
    let mut request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: v12.stomp\r\n",
        target.url.path, target.url.authority
    );
    for line in &target.http_headers {
        request.push_str(line);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::with_capacity(512);
    let end = loop {
        if let Some(end) = memmem::find(&answer, b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut answer).await? == 0 || answer.len() > 16 * 1024 {
            break answer.len();
        }
    };
    let behind = answer.split_off(end);
    if !answer.starts_with(b"HTTP/1.1 101") {
        return Err(Failure(format!("no upgrade: {}", wire::excerpt(&answer))));
    }
    Ok(behind)
}

/// How often the server wants a sign of life, less a fifth.
fn beat(connected: &[u8]) -> Option<u64> {
    let value = std::str::from_utf8(wire::header(connected, "heart-beat")?).ok()?;
    let wanted: u64 = value.split_once(',')?.1.trim().parse().ok()?;
    (wanted > 0).then(|| wanted.max(BEAT * 1000) * (SECOND / 1000) / 5 * 4)
}

/// An id as clients make them: a UUID's form, never the same twice.
fn subscription_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    // The finaliser of splitmix64, so that neighbours do not look alike.
    let mix = |number: u64| {
        let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ number >> 31
    };
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let (high, low) = (mix(number), mix(!number));
    format!(
        "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xfff,
        low >> 52,
        low & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn reads_urls() {
        let url: Url = "ws://127.0.0.1:15674/ws?a=b".parse().unwrap();
        assert_eq!(url.framing, Framing::WebSocket);
        assert_eq!((&*url.authority, &*url.path), ("127.0.0.1:15674", "/ws?a=b"));
        let url: Url = "tcp://localhost".parse().unwrap();
        assert_eq!((url.framing, &*url.authority), (Framing::Tcp, "localhost:61613"));
        assert!("http://a/".parse::<Url>().is_err());
        assert!("nonsense".parse::<Url>().is_err());
    }

    #[test]
    fn ids_look_like_uuids_and_differ() {
        let ids: HashSet<String> = (0..1000).map(|_| subscription_id()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.len() == 36), "{ids:?}");
    }

    #[test]
    fn beats_a_fifth_before_time() {
        let frame = |beat: &str| format!("CONNECTED\nheart-beat:{beat}\n\n");
        assert_eq!(beat(frame("10000,30000").as_bytes()), Some(24 * SECOND));
        assert_eq!(beat(frame("10000,1000").as_bytes()), Some(8 * SECOND));
        assert_eq!(beat(frame("10000,0").as_bytes()), None);
        assert_eq!(beat(b"CONNECTED\n\n"), None);
    }
}
