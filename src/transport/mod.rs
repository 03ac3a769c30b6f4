//! Bytes in and out of one connection: plain TCP, or WebSocket on it.

pub mod tcp;
pub mod websocket;

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;

use websocket::frame::{FrameReader, Opcode, WsError, WsEvent};

/// Read at once, into a buffer of the thread.
const READ_BYTES: usize = 64 * 1024;
/// Below this the thread's buffer is renewed.
const READ_AT_LEAST: usize = 8 * 1024;

thread_local! {
    static READ_BUFFER: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// How frames lie on the stream.
#[derive(Debug)]
pub enum Framing {
    Tcp,
    WebSocket(FrameReader),
}

/// Something that came in.
#[derive(Debug)]
pub enum Incoming {
    /// Bytes of STOMP.
    Data(Bytes),
    Ping(Bytes),
    Pong(Bytes),
    Close,
}

/// One connection.
#[derive(Debug)]
pub struct Transport {
    stream: TcpStream,
    framing: Framing,
}

impl Transport {
    #[must_use]
    pub fn new(stream: TcpStream, framing: Framing) -> Self {
        Self { stream, framing }
    }

    /// Reads what is there. `Ready(Ok(None))` is the end of the stream.
    pub fn poll_read(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<BytesMut>>> {
        loop {
            std::task::ready!(self.stream.poll_read_ready(cx))?;
            let result = READ_BUFFER.with_borrow_mut(|buffer| {
                if buffer.capacity() < READ_AT_LEAST {
                    buffer.reserve(READ_BYTES);
                }
                let count = self.stream.try_read_buf(buffer)?;
                Ok((count > 0).then(|| buffer.split()))
            });
            match result {
                Err(error) if would_block(&error) => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Waits until the kernel takes bytes again.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_write_ready(cx)
    }

    /// Writes what the kernel takes at once.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            match self.stream.try_write(rest) {
                Ok(count) => written += count,
                Err(error) if would_block(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    /// The next thing in bytes that were read.
    ///
    /// # Errors
    /// Where they break RFC 6455.
    pub fn incoming(&mut self, bytes: &mut BytesMut) -> Result<Option<Incoming>, WsError> {
        match &mut self.framing {
            Framing::Tcp => Ok((!bytes.is_empty()).then(|| Incoming::Data(bytes.split().freeze()))),
            Framing::WebSocket(reader) => Ok(reader.next(bytes)?.map(|event| match event {
                WsEvent::Data(data) => Incoming::Data(data),
                WsEvent::Ping(payload) => Incoming::Ping(payload),
                WsEvent::Pong(payload) => Incoming::Pong(payload),
                WsEvent::Close { .. } => Incoming::Close,
            })),
        }
    }

    /// Appends one STOMP frame made of parts.
    pub fn put(&self, out: &mut Vec<u8>, is_text: bool, parts: [&[u8]; 2]) {
        if let Framing::WebSocket(_) = self.framing {
            let opcode = if is_text { Opcode::Text } else { Opcode::Binary };
            websocket::frame::write_head(out, opcode, parts.iter().map(|part| part.len()).sum());
        }
        parts.iter().for_each(|part| out.extend_from_slice(part));
    }

    /// Appends the end of the conversation, where the framing has one.
    pub fn put_close(&self, out: &mut Vec<u8>, code: u16, reason: &str) {
        if let Framing::WebSocket(_) = self.framing {
            websocket::frame::write_close(out, code, reason);
        }
    }

    /// The reader's limits, where the framing has some.
    pub fn set_limits(&mut self, limits: websocket::frame::FrameLimits) {
        if let Framing::WebSocket(reader) = &mut self.framing {
            reader.set_limits(limits);
        }
    }

    #[must_use]
    pub fn is_websocket(&self) -> bool {
        matches!(self.framing, Framing::WebSocket(_))
    }

    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    #[must_use]
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }
}

fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}
