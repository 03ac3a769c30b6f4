//! STOMP on the wire, with or without WebSocket (RFC 6455) around it: just enough to write frames
//! and to find the ends of those that come.

use memchr::memchr;

/// What is around STOMP's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Tcp,
    WebSocket,
}

/// Who writes. A client must mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// RFC 6455, 5.2.
pub mod opcode {
    pub const TEXT: u8 = 1;
    pub const CLOSE: u8 = 8;
    pub const PING: u8 = 9;
    pub const PONG: u8 = 10;
}

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
/// The longest head: two bytes, a length of eight, a mask of four.
const HEAD_BYTES: usize = 14;

/// Appends a STOMP frame or a heart-beat.
pub fn put(out: &mut Vec<u8>, framing: Framing, side: Side, payload: &[u8]) {
    match framing {
        Framing::Tcp => out.extend_from_slice(payload),
        Framing::WebSocket => put_websocket(out, opcode::TEXT, side, payload),
    }
}

/// Appends a WebSocket frame. A client's mask is zero: the server has the same work, the client
/// has none.
pub fn put_websocket(out: &mut Vec<u8>, opcode: u8, side: Side, payload: &[u8]) {
    out.push(FIN | opcode);
    let mask = if side == Side::Client { MASKED } else { 0 };
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short), _) if short < 126 => out.push(mask | short),
        (_, Ok(medium)) => {
            out.push(mask | 126);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.push(mask | 127);
            out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    if side == Side::Client {
        out.extend_from_slice(&[0; 4]);
    }
    out.extend_from_slice(payload);
}

/// What comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A STOMP frame without its NUL.
    Frame(&'a [u8]),
    Ping(&'a [u8]),
    /// The code, where there is one.
    Close(Option<u16>),
}

/// The bytes are no WebSocket frames that one may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Finds frames in a stream of bytes, wherever it is cut. Bodies must be without NUL, as those of
/// this program are. Masks are taken for zero, as those of this program are.
#[derive(Debug)]
pub struct Scanner {
    framing: Framing,
    /// The beginning of a WebSocket head.
    head: [u8; HEAD_BYTES],
    head_used: usize,
    opcode: u8,
    /// What is still to come of the WebSocket frame's payload.
    left: u64,
    in_payload: bool,
    /// The beginning of a STOMP frame, or of a control frame's payload.
    partial: Vec<u8>,
    control: Vec<u8>,
}

impl Scanner {
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        Self {
            framing,
            head: [0; HEAD_BYTES],
            head_used: 0,
            opcode: opcode::TEXT,
            left: 0,
            in_payload: false,
            partial: Vec::new(),
            control: Vec::new(),
        }
    }

    /// Shows what the bytes complete.
    ///
    /// # Errors
    /// Where the bytes are no WebSocket.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        found: &mut impl FnMut(Found<'_>),
    ) -> Result<(), Malformed> {
        if self.framing == Framing::Tcp {
            self.stomp(bytes, found);
            return Ok(());
        }
        while self.in_payload || !bytes.is_empty() {
            if !self.in_payload {
                bytes = match self.take_head(bytes)? {
                    Some(rest) => rest,
                    None => return Ok(()),
                };
            }
            let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            let (piece, rest) = bytes.split_at(here);
            bytes = rest;
            self.left -= here as u64;
            self.in_payload = self.left > 0;
            if self.opcode < opcode::CLOSE {
                self.stomp(piece, found);
            } else {
                self.control(piece, found);
            }
            if self.in_payload {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes a head off the front; None where it is not there in full.
    fn take_head<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, Malformed> {
        if self.head_used == 0
            && let Some(head) = Head::parse(bytes)?
        {
            self.begin(head);
            return Ok(bytes.get(head.bytes..));
        }
        for (at, byte) in bytes.iter().enumerate() {
            let slot = self.head.get_mut(self.head_used).ok_or(Malformed)?;
            *slot = *byte;
            self.head_used += 1;
            if let Some(head) = Head::parse(self.head.get(..self.head_used).ok_or(Malformed)?)? {
                self.begin(head);
                return Ok(bytes.get(at + 1..));
            }
        }
        Ok(None)
    }

    fn begin(&mut self, head: Head) {
        self.head_used = 0;
        self.opcode = head.opcode;
        self.left = head.payload;
        self.in_payload = true;
        self.control.clear();
    }

    fn control(&mut self, piece: &[u8], found: &mut impl FnMut(Found<'_>)) {
        self.control.extend_from_slice(piece);
        if self.in_payload {
            return;
        }
        match self.opcode {
            opcode::CLOSE => {
                let code = self.control.first_chunk::<2>().map(|code| u16::from_be_bytes(*code));
                found(Found::Close(code));
            }
            opcode::PING => found(Found::Ping(&self.control)),
            _ => {}
        }
    }

    fn stomp(&mut self, mut bytes: &[u8], found: &mut impl FnMut(Found<'_>)) {
        loop {
            if self.partial.is_empty() {
                // Heart-beats, and line ends after a frame.
                while let Some((b'\n' | b'\r', rest)) = bytes.split_first() {
                    bytes = rest;
                }
            }
            if bytes.is_empty() {
                return;
            }
            let Some(end) = memchr(0, bytes) else {
                self.partial.extend_from_slice(bytes);
                return;
            };
            let (frame, rest) = bytes.split_at(end);
            if self.partial.is_empty() {
                found(Found::Frame(frame));
            } else {
                self.partial.extend_from_slice(frame);
                found(Found::Frame(&self.partial));
                self.partial.clear();
            }
            bytes = rest.get(1..).unwrap_or_default();
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Head {
    opcode: u8,
    /// Of the head itself.
    bytes: usize,
    payload: u64,
}

impl Head {
    /// None where it is not there in full.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        let opcode = first & 0x0f;
        if first & 0x70 != 0 || !matches!(opcode, 0..=2 | 8..=10) {
            return Err(Malformed);
        }
        let (payload, extra) = match second & 0x7f {
            126 => {
                let Some(length) = rest.first_chunk::<2>() else { return Ok(None) };
                (u16::from_be_bytes(*length).into(), 2)
            }
            127 => {
                let Some(length) = rest.first_chunk::<8>() else { return Ok(None) };
                (u64::from_be_bytes(*length), 8)
            }
            length => (length.into(), 0),
        };
        let mask = if second & MASKED == 0 { 0 } else { 4 };
        let bytes_needed = 2 + extra + mask;
        let is_whole = bytes.len() >= bytes_needed;
        Ok(is_whole.then_some(Self { opcode, bytes: bytes_needed, payload }))
    }
}

/// The value of a header in a frame; not unescaped.
#[must_use]
pub fn header<'a>(frame: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut lines = frame.split(|byte| *byte == b'\n').skip(1);
    lines.by_ref().take_while(|line| !line.is_empty() && *line != b"\r").find_map(|line| {
        let rest = line.strip_prefix(name.as_bytes())?.strip_prefix(b":")?;
        Some(rest.strip_suffix(b"\r").unwrap_or(rest))
    })
}

/// A frame for people: its first lines.
#[must_use]
pub fn excerpt(frame: &[u8]) -> String {
    let text = String::from_utf8_lossy(frame.get(..400).unwrap_or(frame));
    text.trim_end().replace("\r\n", "\n").replace('\n', " | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(framing: Framing, pieces: &[&[u8]]) -> Vec<String> {
        let mut scanner = Scanner::new(framing);
        let mut all = Vec::new();
        for piece in pieces {
            let mut note = |found: Found<'_>| {
                all.push(match found {
                    Found::Frame(frame) => String::from_utf8_lossy(frame).into_owned(),
                    Found::Ping(payload) => format!("ping {}", payload.len()),
                    Found::Close(code) => format!("close {code:?}"),
                });
            };
            scanner.feed(piece, &mut note).unwrap();
        }
        all
    }

    #[test]
    fn finds_the_same_wherever_the_stream_is_cut() {
        let long = format!("MESSAGE\n\n{}\0", "y".repeat(300));
        let longer = format!("MESSAGE\n\n{}\0", "z".repeat(70_000));
        for side in [Side::Client, Side::Server] {
            let mut bytes = Vec::new();
            put(&mut bytes, Framing::WebSocket, side, b"\n");
            put(&mut bytes, Framing::WebSocket, side, b"A\n\nx\0");
            put_websocket(&mut bytes, opcode::PING, side, b"");
            // A frame in three messages, a control frame in between.
            put(&mut bytes, Framing::WebSocket, side, b"B\n");
            put_websocket(&mut bytes, opcode::PING, side, b"abc");
            put(&mut bytes, Framing::WebSocket, side, b"\nx");
            put(&mut bytes, Framing::WebSocket, side, b"\0\nC\n\n\0\n");
            put(&mut bytes, Framing::WebSocket, side, long.as_bytes());
            put(&mut bytes, Framing::WebSocket, side, longer.as_bytes());
            put_websocket(&mut bytes, opcode::CLOSE, side, &1000_u16.to_be_bytes());
            let expected = [
                "A\n\nx",
                "ping 0",
                "ping 3",
                "B\n\nx",
                "C\n\n",
                long.trim_end_matches('\0'),
                longer.trim_end_matches('\0'),
                "close Some(1000)",
            ];
            assert_eq!(scan(Framing::WebSocket, &[&bytes]), expected);
            for cut in (0..500).chain([bytes.len() - 2]) {
                let (front, back) = bytes.split_at(cut);
                assert_eq!(scan(Framing::WebSocket, &[front, back]), expected, "cut at {cut}");
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(scan(Framing::WebSocket, &single), expected);
        }
    }

    #[test]
    fn finds_frames_over_tcp() {
        let bytes = b"A\n\nx\0\n\nB\n\n\0\n";
        for cut in 0..bytes.len() {
            let (front, back) = bytes.split_at(cut);
            assert_eq!(scan(Framing::Tcp, &[front, back]), ["A\n\nx", "B\n\n"]);
        }
    }

    #[test]
    fn refuses_what_is_no_websocket() {
        let mut scanner = Scanner::new(Framing::WebSocket);
        assert_eq!(scanner.feed(b"HTTP/1.1 400", &mut |_| {}), Err(Malformed));
    }

    #[test]
    fn headers_end_at_the_empty_line() {
        let frame = b"MESSAGE\nack:1\nx:2\r\n\nid:3";
        assert_eq!(header(frame, "ack"), Some(&b"1"[..]));
        assert_eq!(header(frame, "x"), Some(&b"2"[..]));
        assert_eq!(header(frame, "id"), None);
    }
}
