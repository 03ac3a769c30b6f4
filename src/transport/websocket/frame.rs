//! The server's side of RFC 6455 framing, without I/O: payload is passed on as it arrives.
//!
//! STOMP reads a stream, so messages are never put together; all that is retained between two
//! reads is a partial head or control frame.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};

use super::utf8::{NotUtf8, Utf8Carry};

/// RFC 6455, 5.5: no control frame has more payload.
const CONTROL_BYTES: usize = 125;
/// First two bytes, eight of length, four of mask.
const HEAD_BYTES: usize = 14;
/// What may be retained: a control frame whose head is six bytes is longer than any other head.
const PARTIAL_BYTES: usize =
    if HEAD_BYTES > 6 + CONTROL_BYTES { HEAD_BYTES } else { 6 + CONTROL_BYTES };

/// What one message may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    /// Payload of all fragments together.
    pub message_bytes: u64,
    /// Frames of one message.
    pub fragments: u32,
}

/// What [`FrameReader::next`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WsEvent {
    /// A piece of a text or binary message, in order and never empty.
    Data(Bytes),
    Ping(Bytes),
    Pong(Bytes),
    /// The peer closes; whatever it sends after that is dropped.
    Close {
        code: Option<u16>,
    },
}

/// Why the connection fails. Nothing is read after one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WsError {
    /// Against RFC 6455; what exactly.
    Protocol(&'static str),
    /// A text message or close reason is not UTF-8.
    Utf8,
    /// A message is longer than allowed.
    TooBig,
    /// A message has more frames than allowed.
    Fragments,
}

impl WsError {
    /// The close code that tells the peer (RFC 6455, 7.4.1).
    #[must_use]
    pub const fn close_code(self) -> u16 {
        match self {
            Self::Protocol(_) => 1002,
            Self::Utf8 => 1007,
            Self::TooBig => 1009,
            Self::Fragments => 1008,
        }
    }
}

impl fmt::Display for WsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Protocol(what) => what,
            Self::Utf8 => "a text message is not UTF-8",
            Self::TooBig => "the message is too big",
            Self::Fragments => "the message has too many fragments",
        })
    }
}

impl std::error::Error for WsError {}

impl From<NotUtf8> for WsError {
    fn from(_: NotUtf8) -> Self {
        Self::Utf8
    }
}

/// The opcodes of RFC 6455, 5.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

impl Opcode {
    const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// The message whose frames are being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    None,
    Text,
    Binary,
    /// After a Close or an error nothing is read any more.
    Ended,
}

/// Reads the frames of one client.
#[derive(Debug)]
pub struct FrameReader {
    limits: FrameLimits,
    /// Payload of the data frame that is still to come.
    remaining: u64,
    /// Payload of the message's frames so far, as their heads declare it.
    message_bytes: u64,
    fragments: u32,
    /// Turned so that its first byte belongs to the next byte of payload.
    mask: [u8; 4],
    carry: Utf8Carry,
    message: Message,
    /// Messages that began.
    number: u32,
    is_final: bool,
    partial: Option<Box<Partial>>,
}

/// The beginning of a head or of a control frame.
#[derive(Debug)]
struct Partial {
    bytes: [u8; PARTIAL_BYTES],
    used: u8,
}

/// A complete head.
#[derive(Debug)]
struct Head {
    opcode: Opcode,
    is_final: bool,
    length: u64,
    mask: [u8; 4],
}

impl FrameReader {
    #[must_use]
    pub fn new(limits: FrameLimits) -> Self {
        Self {
            limits,
            remaining: 0,
            message_bytes: 0,
            fragments: 0,
            mask: [0; 4],
            carry: Utf8Carry::default(),
            message: Message::None,
            number: 0,
            is_final: true,
            partial: None,
        }
    }

    /// Limits from the next frame's head on.
    pub fn set_limits(&mut self, limits: FrameLimits) {
        self.limits = limits;
    }

    /// Counts messages: another one than before has begun where it differs.
    #[must_use]
    pub fn message_number(&self) -> u32 {
        self.number
    }

    /// Whether the message that began last is complete.
    #[must_use]
    pub fn is_between_messages(&self) -> bool {
        self.message == Message::None
    }

    /// Takes bytes from the front of `input`, unmasking them in place, and returns the next event;
    /// None where more bytes are needed, `input` is empty then.
    ///
    /// # Errors
    /// Where the client breaks the protocol or passes a limit. Whatever comes after is dropped.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<WsEvent>, WsError> {
        let event = self.read(input);
        if matches!(event, Err(_) | Ok(Some(WsEvent::Close { .. }))) {
            self.message = Message::Ended;
            self.partial = None;
            input.clear();
        }
        event
    }

    fn read(&mut self, input: &mut BytesMut) -> Result<Option<WsEvent>, WsError> {
        if self.message == Message::Ended {
            input.clear();
        }
        while !input.is_empty() {
            if self.remaining > 0 {
                return self.payload(input).map(Some);
            }
            let Some(unit) = self.take_unit(input)? else {
                return Ok(None);
            };
            let (head, payload) = parse_head(unit)?;
            if head.opcode.is_control() {
                return control(&head, payload).map(Some);
            }
            self.begin_data(&head)?;
        }
        Ok(None)
    }

    /// A piece of a data frame's payload, as much as there is.
    fn payload(&mut self, input: &mut BytesMut) -> Result<WsEvent, WsError> {
        let length = usize::try_from(self.remaining).map_or(input.len(), |r| r.min(input.len()));
        let mut piece = input.split_to(length);
        unmask(&mut piece, self.mask);
        self.mask.rotate_left(length % 4);
        self.remaining = self.remaining.saturating_sub(length as u64);
        if self.message == Message::Text {
            self.carry.check(&piece)?;
        }
        if self.remaining == 0 {
            self.end_data()?;
        }
        Ok(WsEvent::Data(piece.freeze()))
    }

    /// A data frame's head, or a control frame with its payload, once it is complete.
    fn take_unit(&mut self, input: &mut BytesMut) -> Result<Option<BytesMut>, WsError> {
        let Some(partial) = &mut self.partial else {
            check(input, self.message)?;
            let needed = needed(input);
            if input.len() >= needed {
                return Ok(Some(input.split_to(needed)));
            }
            let mut partial = Box::new(Partial { bytes: [0; PARTIAL_BYTES], used: 0 });
            partial.take(input, needed);
            self.partial = Some(partial);
            return Ok(None);
        };
        let mut partial_bytes = partial.as_slice();
        while !input.is_empty() && partial_bytes.len() < needed(partial_bytes) {
            let needed = needed(partial_bytes);
            partial.take(input, needed);
            partial_bytes = partial.as_slice();
            check(partial_bytes, self.message)?;
        }
        if partial_bytes.len() < needed(partial_bytes) {
            return Ok(None);
        }
        let unit = BytesMut::from(partial_bytes);
        self.partial = None;
        Ok(Some(unit))
    }

    fn begin_data(&mut self, head: &Head) -> Result<(), WsError> {
        match head.opcode {
            Opcode::Text => self.begin_message(Message::Text),
            Opcode::Binary => self.begin_message(Message::Binary),
            Opcode::Continuation | Opcode::Close | Opcode::Ping | Opcode::Pong => {}
        }
        self.fragments = self.fragments.saturating_add(1);
        if self.fragments > self.limits.fragments {
            return Err(WsError::Fragments);
        }
        self.message_bytes = self.message_bytes.saturating_add(head.length);
        if self.message_bytes > self.limits.message_bytes {
            return Err(WsError::TooBig);
        }
        self.is_final = head.is_final;
        self.mask = head.mask;
        self.remaining = head.length;
        if head.length == 0 { self.end_data() } else { Ok(()) }
    }

    fn begin_message(&mut self, message: Message) {
        self.message = message;
        self.number = self.number.wrapping_add(1);
        self.message_bytes = 0;
        self.fragments = 0;
    }

    fn end_data(&mut self) -> Result<(), WsError> {
        if self.is_final {
            if !self.carry.is_complete() {
                return Err(WsError::Utf8);
            }
            self.message = Message::None;
        }
        Ok(())
    }
}

impl Partial {
    fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.used)).unwrap_or_default()
    }

    /// Takes from the input until `needed` bytes are there.
    fn take(&mut self, input: &mut BytesMut, needed: usize) {
        let used = usize::from(self.used);
        let length = needed.saturating_sub(used).min(input.len());
        for (slot, byte) in self.bytes.iter_mut().skip(used).zip(input.iter().take(length)) {
            *slot = *byte;
        }
        input.advance(length);
        self.used = u8::try_from(used + length).unwrap_or(u8::MAX);
    }
}

/// How many bytes a data frame's head has, or a whole control frame, as far as the bytes at hand
/// tell. They are checked, so a control frame's length is the short one.
fn needed(bytes: &[u8]) -> usize {
    let (Some(first), Some(second)) = (bytes.first(), bytes.get(1)) else {
        return 2;
    };
    let length = second & 0x7F;
    6 + match length {
        127 => 8,
        126 => 2,
        _ if first & 0x08 != 0 => usize::from(length),
        _ => 0,
    }
}

/// What the first two bytes tell is checked as soon as they are there (RFC 6455, 5.1 to 5.5).
fn check(bytes: &[u8], message: Message) -> Result<(), WsError> {
    let Some(first) = bytes.first() else {
        return Ok(());
    };
    if first & 0x70 != 0 {
        return Err(WsError::Protocol("a reserved bit is set, no extension was agreed on"));
    }
    let Some(opcode) = Opcode::from_bits(first & 0x0F) else {
        return Err(WsError::Protocol("reserved opcode"));
    };
    if opcode.is_control() && first & 0x80 == 0 {
        return Err(WsError::Protocol("fragmented control frame"));
    }
    match (opcode, message) {
        (Opcode::Continuation, Message::None) => {
            return Err(WsError::Protocol("continuation of no message"));
        }
        (Opcode::Text | Opcode::Binary, Message::Text | Message::Binary) => {
            return Err(WsError::Protocol("new message within a fragmented one"));
        }
        _ => {}
    }
    let Some(second) = bytes.get(1) else {
        return Ok(());
    };
    if second & 0x80 == 0 {
        return Err(WsError::Protocol("frame without a mask"));
    }
    if opcode.is_control() && usize::from(second & 0x7F) > CONTROL_BYTES {
        return Err(WsError::Protocol("control frame longer than 125 bytes"));
    }
    Ok(())
}

/// Parses a complete head; returns what follows it.
fn parse_head(mut unit: BytesMut) -> Result<(Head, BytesMut), WsError> {
    const SHORT: WsError = WsError::Protocol("incomplete head");
    let first = unit.try_get_u8().map_err(|_| SHORT)?;
    let second = unit.try_get_u8().map_err(|_| SHORT)?;
    let opcode = Opcode::from_bits(first & 0x0F).ok_or(WsError::Protocol("reserved opcode"))?;
    let (length, least) = match second & 0x7F {
        127 => (unit.try_get_u64().map_err(|_| SHORT)?, 0x1_0000),
        126 => (u64::from(unit.try_get_u16().map_err(|_| SHORT)?), 126),
        length => (u64::from(length), 0),
    };
    if length >> 63 != 0 {
        return Err(WsError::Protocol("the length's highest bit is set"));
    }
    if length < least {
        return Err(WsError::Protocol("the length is not in its shortest form"));
    }
    let mask = unit.try_get_u32().map_err(|_| SHORT)?.to_be_bytes();
    Ok((Head { opcode, is_final: first & 0x80 != 0, length, mask }, unit))
}

fn control(head: &Head, mut payload: BytesMut) -> Result<WsEvent, WsError> {
    unmask(&mut payload, head.mask);
    let payload = payload.freeze();
    match head.opcode {
        Opcode::Ping => Ok(WsEvent::Ping(payload)),
        Opcode::Close => close(&payload),
        Opcode::Pong | Opcode::Continuation | Opcode::Text | Opcode::Binary => {
            Ok(WsEvent::Pong(payload))
        }
    }
}

/// RFC 6455, 5.5.1: nothing, or a code and a reason in UTF-8.
fn close(payload: &[u8]) -> Result<WsEvent, WsError> {
    if payload.is_empty() {
        return Ok(WsEvent::Close { code: None });
    }
    let Some((&code, reason)) = payload.split_first_chunk::<2>() else {
        return Err(WsError::Protocol("close payload of one byte"));
    };
    let code = u16::from_be_bytes(code);
    // 7.4: 1004 to 1006 and 1015 never go over the wire; 1012 to 1014 are registered with IANA.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(WsError::Protocol("invalid close code"));
    }
    std::str::from_utf8(reason).map_err(|_| WsError::Utf8)?;
    Ok(WsEvent::Close { code: Some(code) })
}

/// RFC 6455, 5.3. Eight bytes at a time, which the compiler widens further.
fn unmask(payload: &mut [u8], [a, b, c, d]: [u8; 4]) {
    let key = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, tail) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ key).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(key.to_ne_bytes()) {
        *byte ^= key;
    }
}

/// Appends the head of an unfragmented server frame, to be followed by `len` bytes of payload.
pub fn write_head(out: &mut Vec<u8>, opcode: Opcode, len: usize) {
    out.push(0x80 | opcode as u8);
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(short @ ..126), _) => out.push(short),
        (_, Ok(middle)) => {
            out.push(126);
            out.extend_from_slice(&middle.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

/// Appends a Close frame. A reason beyond 123 bytes is cut at a character.
pub fn write_close(out: &mut Vec<u8>, code: u16, reason: &str) {
    let end = reason.floor_char_boundary(CONTROL_BYTES - 2);
    let reason = reason.get(..end).unwrap_or_default();
    write_head(out, Opcode::Close, 2 + reason.len());
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

/// Appends a Ping; of the payload at most 125 bytes.
pub fn write_ping(out: &mut Vec<u8>, payload: &[u8]) {
    write_control(out, Opcode::Ping, payload);
}

/// Appends a Pong; of the payload at most 125 bytes.
pub fn write_pong(out: &mut Vec<u8>, payload: &[u8]) {
    write_control(out, Opcode::Pong, payload);
}

fn write_control(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    let payload = payload.get(..CONTROL_BYTES).unwrap_or(payload);
    write_head(out, opcode, payload.len());
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests;
