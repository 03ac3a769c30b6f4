//! Connections without manners: bytes as they are, over TCP or in WebSocket frames that may be
//! wrong, and all that comes back.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in tests a panic is how to fail")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use crate::PATIENCE;
use crate::relay::Relay;
use crate::stomp_client::Wire;

/// The head of a good handshake, without the empty line.
const HANDSHAKE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const MASK: [u8; 4] = [7, 99, 3, 250];

/// WebSocket's opcodes (RFC 6455, 5.2).
pub mod opcode {
    pub const CONTINUATION: u8 = 0;
    pub const TEXT: u8 = 1;
    pub const BINARY: u8 = 2;
    pub const CLOSE: u8 = 8;
    pub const PING: u8 = 9;
    pub const PONG: u8 = 10;
    /// Set on the last frame of a message.
    pub const FIN: u8 = 0x80;
}

/// How a connection ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// The `message` of the ERROR before it; empty where there was none.
    pub error: String,
    /// The code of the WebSocket Close before it.
    pub code: Option<u16>,
}

/// One connection.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    wire: Wire,
    /// Bytes that were read and not understood yet: WebSocket frames, or STOMP.
    read: Vec<u8>,
    /// STOMP, out of its WebSocket frames.
    stomp: Vec<u8>,
    code: Option<u16>,
    /// Payloads of the PONGs that came.
    pub pongs: Vec<Vec<u8>>,
    is_over: bool,
}

impl Raw {
    /// A connection without CONNECT; WebSocket's handshake is done.
    ///
    /// # Panics
    /// Where it is refused.
    #[must_use]
    pub fn open(relay: &Relay, wire: Wire) -> Self {
        match wire {
            Wire::Tcp => Self::over(connect(relay.tcp_address()), wire),
            Wire::WebSocket => {
                let (answer, raw) = Self::upgrade(relay, "/ws", "", b"");
                assert_eq!(answer, 101);
                raw
            }
        }
    }

    /// A session of `guest`.
    ///
    /// # Panics
    /// Where it is refused.
    #[must_use]
    pub fn session(relay: &Relay, wire: Wire) -> Self {
        let mut raw = Self::open(relay, wire);
        raw.stomp(b"CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\n\n\0");
        let answer = raw.frame().unwrap();
        assert!(answer.starts_with("CONNECTED\n"), "{answer}");
        raw
    }

    /// Asks for an upgrade with further header lines, and sends `early` in the same write. The
    /// status, and what became of the connection.
    ///
    /// # Panics
    /// Where no answer comes.
    #[must_use]
    pub fn upgrade(relay: &Relay, path: &str, headers: &str, early: &[u8]) -> (u16, Self) {
        let address = relay.http_address();
        let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{HANDSHAKE}{headers}\r\n");
        let mut raw = Self::door(relay);
        raw.bytes(&[head.as_bytes(), early].concat());
        (raw.http_status(), raw)
    }

    /// A request as it stands, and the status of its answer.
    ///
    /// # Panics
    /// Where no answer comes.
    #[must_use]
    pub fn http(relay: &Relay, request: &str) -> (u16, Self) {
        let mut raw = Self::door(relay);
        raw.bytes(request.as_bytes());
        (raw.http_status(), raw)
    }

    /// A connection to the HTTP door, nothing said yet.
    #[must_use]
    pub fn door(relay: &Relay) -> Self {
        Self::over(connect(relay.http_address()), Wire::WebSocket)
    }

    fn over(stream: TcpStream, wire: Wire) -> Self {
        Self {
            stream,
            wire,
            read: Vec::new(),
            stomp: Vec::new(),
            code: None,
            pongs: Vec::new(),
            is_over: false,
        }
    }

    fn http_status(&mut self) -> u16 {
        loop {
            if let Some(end) = find(&self.read, b"\r\n\r\n") {
                let head: Vec<u8> = self.read.drain(..end + 4).collect();
                let head = String::from_utf8(head).unwrap();
                return head.split(' ').nth(1).unwrap().parse().unwrap();
            }
            assert!(self.fill(), "no answer: {:?}", String::from_utf8_lossy(&self.read));
        }
    }

    /// Bytes as they are. A server that has closed takes them without complaint: `ended` tells.
    pub fn bytes(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// STOMP: as it is over TCP, in one masked text frame over WebSocket.
    pub fn stomp(&mut self, bytes: &[u8]) -> bool {
        match self.wire {
            Wire::Tcp => self.bytes(bytes),
            Wire::WebSocket => self.bytes(&ws_frame(opcode::FIN | opcode::TEXT, bytes)),
        }
    }

    /// Says that nothing more will be sent.
    pub fn half_close(&self) {
        // It may be closed already.
        self.stream.shutdown(Shutdown::Write).ok();
    }

    /// The next STOMP frame without its NUL; None at the end of the connection.
    ///
    /// # Panics
    /// Where nothing comes for long.
    pub fn frame(&mut self) -> Option<String> {
        loop {
            while self.stomp.first() == Some(&b'\n') {
                self.stomp.remove(0);
            }
            if let Some(end) = self.stomp.iter().position(|byte| *byte == 0) {
                let frame: Vec<u8> = self.stomp.drain(..=end).collect();
                return Some(String::from_utf8_lossy(&frame[..end]).into_owned());
            }
            if !self.unwrap_one() && !self.fill() {
                return None;
            }
        }
    }

    /// Reads to the end.
    ///
    /// # Panics
    /// Where it does not come.
    pub fn ended(mut self) -> End {
        let mut error = String::new();
        while let Some(frame) = self.frame() {
            if frame.starts_with("ERROR\n") {
                let message = frame.lines().find_map(|line| line.strip_prefix("message:"));
                error = message.unwrap_or_default().to_owned();
            }
        }
        End { error, code: self.code }
    }

    /// All bytes that are left until the end of the connection.
    ///
    /// # Panics
    /// Where it does not come.
    pub fn rest(mut self) -> String {
        while self.fill() {}
        String::from_utf8_lossy(&self.read).into_owned()
    }

    /// Takes one WebSocket frame, or all of TCP's bytes, out of what was read.
    fn unwrap_one(&mut self) -> bool {
        if self.wire == Wire::Tcp {
            let is_some = !self.read.is_empty();
            self.stomp.append(&mut self.read);
            return is_some;
        }
        let [first, second, ..] = self.read[..] else { return false };
        assert_eq!(second & 0x80, 0, "a server must not mask");
        let (length, head) = match second & 0x7f {
            126 if self.read.len() >= 4 => {
                (usize::from(u16::from_be_bytes([self.read[2], self.read[3]])), 4)
            }
            127 if self.read.len() >= 10 => {
                let bytes: [u8; 8] = self.read[2..10].try_into().unwrap();
                (usize::try_from(u64::from_be_bytes(bytes)).unwrap(), 10)
            }
            126 | 127 => return false,
            length => (usize::from(length), 2),
        };
        if self.read.len() < head + length {
            return false;
        }
        let payload: Vec<u8> = self.read.drain(..head + length).skip(head).collect();
        match first & 0x0f {
            opcode::CLOSE => {
                self.code = payload.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes));
                self.is_over = true;
            }
            opcode::PONG => self.pongs.push(payload),
            opcode::PING => {}
            _ => self.stomp.extend(payload),
        }
        true
    }

    /// Reads more; `false` at the end.
    fn fill(&mut self) -> bool {
        if self.is_over {
            return false;
        }
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.read.extend_from_slice(&buffer[..count]);
                true
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("neither bytes nor the end: {error}"),
        }
    }
}

/// A WebSocket frame of a client: the first byte as given, the payload masked.
#[must_use]
pub fn ws_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | u8::try_from(length).unwrap()),
        length @ 126..65536 => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}
