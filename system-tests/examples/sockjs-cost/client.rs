//! Clients that cost little: bytes on sockets, frames made by hand.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Result;

/// What messages go over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Raw,
    Framed,
    XhrStreaming,
    Floor,
}

impl Way {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Framed => "framed",
            Self::XhrStreaming => "xhr_streaming",
            Self::Floor => "bare chunks",
        }
    }
}

/// A connection and what was read of it.
pub(super) struct Line {
    stream: TcpStream,
    buffer: Vec<u8>,
    address: String,
}

impl Line {
    pub(super) async fn connect(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new(), address: address.to_owned() })
    }

    async fn until(&mut self, end: &[u8]) -> Result<Vec<u8>> {
        let reading = async {
            loop {
                let found = self.buffer.windows(end.len()).position(|window| window == end);
                if let Some(at) = found {
                    return Ok(self.buffer.drain(..at + end.len()).collect());
                }
                if self.stream.read_buf(&mut self.buffer).await? == 0 {
                    return Err("the server closed the connection".into());
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), reading).await?
    }

    async fn post(&mut self, path: &str, body: &str) -> Result<()> {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        Ok(self.stream.write_all([head.as_bytes(), body.as_bytes()].concat().as_slice()).await?)
    }

    /// STOMP by xhr_send, taken when this returns.
    async fn xhr_send(&mut self, session: &str, frame: &str) -> Result<()> {
        let body = serde_json::to_string(&[frame])?;
        self.post(&format!("/ws/000/{session}/xhr_send"), &body).await?;
        let head = self.until(b"\r\n\r\n").await?;
        if head.starts_with(b"HTTP/1.1 204") {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&head).into_owned().into())
        }
    }

    async fn upgrade(&mut self, path: &str) -> Result<()> {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            self.address
        );
        self.stream.write_all(request.as_bytes()).await?;
        self.until(b"\r\n\r\n").await?;
        Ok(())
    }

    /// One text frame, masked with zeros.
    async fn websocket(&mut self, text: &str) -> Result<()> {
        let mut frame = vec![0x81];
        match u16::try_from(text.len()) {
            Ok(short) if short < 126 => frame.push(0x80 | short.to_be_bytes()[1]),
            Ok(middle) => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&middle.to_be_bytes());
            }
            Err(_) => return Err("too long for this client".into()),
        }
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(text.as_bytes());
        Ok(self.stream.write_all(&frame).await?)
    }
}

/// A client with one subscription.
pub(super) struct Receiver {
    line: Line,
    /// Where it asks for more when a response ends.
    path: Option<String>,
}

fn connect_frame(beats: u32) -> String {
    let beats = if beats > 0 { format!("heart-beat:0,{beats}\n") } else { String::new() };
    format!("CONNECT\naccept-version:1.2\nlogin:guest\npasscode:guest\n{beats}\n\0")
}

fn subscribe_frame(topic: &str, number: usize) -> String {
    format!("SUBSCRIBE\nid:sub-{number}\ndestination:{topic}\nreceipt:r\n\n\0")
}

impl Receiver {
    pub(super) async fn open(
        address: &str,
        way: Way,
        number: usize,
        topic: &str,
        beats: u32,
    ) -> Result<Self> {
        let mut sends = Line::connect(address).await?;
        Self::open_by(&mut sends, address, way, number, topic, beats).await
    }

    /// `sends` is for what needs a connection beside the one that receives.
    pub(super) async fn open_by(
        sends: &mut Line,
        address: &str,
        way: Way,
        number: usize,
        topic: &str,
        beats: u32,
    ) -> Result<Self> {
        let mut line = Line::connect(address).await?;
        let (connect, subscribe) = (connect_frame(beats), subscribe_frame(topic, number));
        let mut path = None;
        match way {
            Way::Raw => {
                line.upgrade("/ws").await?;
                line.websocket(&connect).await?;
                line.until(b"CONNECTED").await?;
                line.websocket(&subscribe).await?;
                line.until(b"RECEIPT\nreceipt-id:r\n\n\0").await?;
            }
            Way::Framed => {
                line.upgrade(&format!("/ws/000/f{number}/websocket")).await?;
                line.websocket(&serde_json::to_string(&[connect])?).await?;
                line.until(b"CONNECTED").await?;
                line.websocket(&serde_json::to_string(&[subscribe])?).await?;
                line.until(b"RECEIPT\\nreceipt-id:r\\n\\n\\u0000\"]").await?;
            }
            Way::XhrStreaming => {
                let session = format!("x{number}");
                let own = format!("/ws/000/{session}/xhr_streaming");
                line.post(&own, "").await?;
                line.until(b"o\n\r\n").await?;
                sends.xhr_send(&session, &connect).await?;
                line.until(b"CONNECTED").await?;
                sends.xhr_send(&session, &subscribe).await?;
                line.until(b"RECEIPT\\nreceipt-id:r\\n\\n\\u0000\"]\n\r\n").await?;
                path = Some(own);
            }
            Way::Floor => {
                line.post("/", "").await?;
                line.until(b"o\n\r\n").await?;
            }
        }
        line.buffer = Vec::new();
        Ok(Self { line, path })
    }

    /// Reads until the server goes away, and asks for more where a response ends.
    pub(super) async fn run(mut self, mut came: impl FnMut(&[u8])) {
        const END: &[u8] = b"\r\n0\r\n\r\n";
        let mut buffer = vec![0; 64 * 1024];
        let mut tail: Vec<u8> = Vec::new();
        while let Ok(read @ 1..) = self.line.stream.read(&mut buffer).await {
            let bytes = buffer.get(..read).unwrap_or_default();
            if let Some(path) = &self.path {
                // The end may come in two pieces.
                tail.extend_from_slice(bytes.get(read.saturating_sub(END.len())..).unwrap_or(&[]));
                let is_end = tail.ends_with(END);
                let keep = tail.len().saturating_sub(END.len());
                tail.drain(..keep);
                if is_end && self.line.post(&path.clone(), "").await.is_err() {
                    return;
                }
            }
            came(bytes);
        }
    }
}

/// Whoever publishes.
pub(super) struct Sender {
    line: Line,
    way: Way,
}

impl Sender {
    pub(super) async fn open(address: &str, way: Way) -> Result<Self> {
        let mut line = Line::connect(address).await?;
        if way == Way::Floor {
            line.post("/port", "").await?;
            line.until(b"\r\n\r\n").await?;
            let port = String::from_utf8(std::mem::take(&mut line.buffer))?;
            line = Line::connect(&format!("127.0.0.1:{port}")).await?;
        } else {
            line.upgrade("/ws").await?;
            line.websocket(&connect_frame(0)).await?;
            line.until(b"CONNECTED").await?;
        }
        Ok(Self { line, way })
    }

    /// So many messages, one write each.
    pub(super) async fn publish(&mut self, topic: &str, body: &str, count: u64) -> Result<()> {
        // As long as what the relay makes of the SEND.
        let chunk = format!("a[\"MESSAGE\\n{}{body}\\u0000\"]\n", "h".repeat(130));
        for _ in 0..count {
            if self.way == Way::Floor {
                self.line.stream.write_all(chunk.as_bytes()).await?;
            } else {
                let frame = format!("SEND\ndestination:{topic}\n\n{body}\0");
                self.line.websocket(&frame).await?;
            }
        }
        Ok(())
    }
}
