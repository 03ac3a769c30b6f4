//! RFC 6455, the server's side: the handshake, frames in and frames out.

use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::fault::{Fault, Faults};
use super::refusal::code;

const MESSAGE_BYTES: usize = 256 * 1024;
const FRAGMENTS: usize = 1024;
/// 5.5: "All control frames MUST have a payload length of 125 bytes or less".
const CONTROL_BYTES: usize = 125;
/// What this server speaks, best first.
const SUBPROTOCOLS: [&str; 3] = ["v12.stomp", "v11.stomp", "v10.stomp"];

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// The answer to a request for an upgrade and the subprotocol (4.2.2); None where it is no such
/// request.
pub(super) fn upgrade(request: &str, faults: Faults) -> Option<(String, Option<String>)> {
    let header = |wanted: &str| {
        request.lines().skip(1).find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted).then(|| value.trim())
        })
    };
    let is_upgrade = header("Upgrade")?.eq_ignore_ascii_case("websocket");
    is_upgrade.then_some(())?;
    let accept = derive_accept_key(header("Sec-WebSocket-Key")?.as_bytes());
    let offered: Vec<&str> = header("Sec-WebSocket-Protocol")
        .map_or_else(Vec::new, |list| list.split(',').map(str::trim).collect());
    let mut known = SUBPROTOCOLS.into_iter().filter(|known| offered.contains(known));
    let selected = if offered.is_empty() || faults.has(Fault::SubprotocolNotSelected) {
        None
    } else if faults.has(Fault::LowestSubprotocolSelected) {
        known.next_back()
    } else if faults.has(Fault::FirstSubprotocolSelected) {
        offered.first().copied()
    } else {
        known.next()
    };
    let line = selected.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n"));
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{}\r\n",
        line.unwrap_or_default()
    );
    Some((answer, selected.map(str::to_owned)))
}

/// A frame of the server, which is not masked.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x80 | opcode];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length), _) if length < 126 => out.push(length),
        (_, Ok(length)) => {
            out.push(126);
            out.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
    out
}

/// A message: text where it is UTF-8, so that a browser gets a string.
pub(super) fn message(bytes: &[u8], client_kind: Option<bool>, faults: Faults) -> Vec<u8> {
    let text = !faults.has(Fault::BinaryAlways)
        && (std::str::from_utf8(bytes).is_ok() || faults.has(Fault::TextAlways))
        && (client_kind != Some(false) || !faults.has(Fault::KindFollowsClient));
    let opcode = if text { TEXT } else { BINARY };
    frame(opcode, bytes)
}

pub(super) fn ping() -> Vec<u8> {
    frame(PING, b"alive")
}

pub(super) fn pong(payload: &[u8], faults: Faults) -> Vec<u8> {
    frame(PONG, if faults.has(Fault::PongWithoutPayload) { b"" } else { payload })
}

pub(super) fn close(code: u16, faults: Faults) -> Vec<u8> {
    let code = match code {
        code::NORMAL => code,
        _ if faults.has(Fault::CloseCodeAlwaysNormal) => code::NORMAL,
        code => code,
    };
    if faults.has(Fault::CloseWithoutCode) {
        return frame(CLOSE, b"");
    }
    frame(CLOSE, &code.to_be_bytes())
}

pub(super) enum Event {
    Message { text: bool, payload: Vec<u8> },
    Ping(Vec<u8>),
    Pong,
    Close,
}

/// Frames of the client, until one is wrong.
pub(super) struct Reader {
    faults: Faults,
    bytes: Vec<u8>,
    /// The message whose fragments are coming: its opcode, payload, and how many.
    message: Option<(u8, Vec<u8>, usize)>,
}

/// A frame of the client, its payload unmasked.
struct ClientFrame {
    last: bool,
    reserved: bool,
    opcode: u8,
    masked: bool,
    payload: Vec<u8>,
}

impl Reader {
    pub(super) const fn new(faults: Faults) -> Self {
        Self { faults, bytes: Vec::new(), message: None }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next event, or None where more bytes are needed.
    ///
    /// # Errors
    /// The close code.
    pub(super) fn next(&mut self) -> Result<Option<Event>, u16> {
        loop {
            let Some(frame) = self.frame()? else { return Ok(None) };
            self.check(&frame)?;
            let event = match frame.opcode {
                CLOSE => Some(self.close(&frame.payload)?),
                PING => Some(Event::Ping(frame.payload)),
                PONG => Some(Event::Pong),
                _ => self.data(frame)?,
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    /// 5.2, "Base Framing Protocol".
    fn frame(&mut self) -> Result<Option<ClientFrame>, u16> {
        let [first, second, rest @ ..] = self.bytes.as_slice() else { return Ok(None) };
        let (length, head) = match second & 0x7f {
            126 => match rest {
                [a, b, ..] => (u64::from(u16::from_be_bytes([*a, *b])), 4),
                _ => return Ok(None),
            },
            127 => match rest.first_chunk::<8>() {
                Some(length) => (u64::from_be_bytes(*length), 10),
                None => return Ok(None),
            },
            length => (u64::from(length), 2),
        };
        let length = usize::try_from(length).map_err(|_| code::TOO_BIG)?;
        let before = self.message.as_ref().map_or(0, |(_, payload, _)| payload.len());
        let too_big = before.saturating_add(length) > MESSAGE_BYTES;
        let taken = [Fault::MessageUnlimited, Fault::FrameUnlimited];
        if too_big && !taken.into_iter().any(|fault| self.faults.has(fault)) {
            return Err(code::TOO_BIG);
        }
        let masked = second & 0x80 != 0;
        let start = head + if masked { 4 } else { 0 };
        let Some(payload) = self.bytes.get(start..start + length) else { return Ok(None) };
        let mut payload = payload.to_vec();
        if let (true, Some(mask)) = (masked, self.bytes.get(head..start)) {
            // Whole words: a mask of 256 KiB byte by byte costs milliseconds without optimisation.
            unmask(&mut payload, [mask[0], mask[1], mask[2], mask[3]]);
        }
        let (last, reserved) = (first & 0x80 != 0, first & 0x70 != 0);
        let frame = ClientFrame { last, reserved, opcode: first & 0x0f, masked, payload };
        self.bytes.drain(..start + length);
        Ok(Some(frame))
    }

    fn check(&self, frame: &ClientFrame) -> Result<(), u16> {
        let control = frame.opcode >= CLOSE;
        let wrong = [
            (!frame.masked, Fault::UnmaskedTaken),
            (frame.reserved, Fault::ReservedBitTaken),
            (!matches!(frame.opcode, CONTINUATION..=BINARY | CLOSE..=PONG), Fault::OpcodeTaken),
            (control && !frame.last, Fault::FragmentedControlTaken),
            (control && frame.payload.len() > CONTROL_BYTES, Fault::LongControlTaken),
            (
                frame.opcode == CONTINUATION && self.message.is_none(),
                Fault::ContinuationOfNothingTaken,
            ),
            (
                matches!(frame.opcode, TEXT | BINARY) && self.message.is_some(),
                Fault::MessageWithinMessageTaken,
            ),
        ];
        let refused =
            wrong.into_iter().any(|(is_wrong, fault)| is_wrong && !self.faults.has(fault));
        if refused { Err(code::PROTOCOL) } else { Ok(()) }
    }

    /// 7.4: a code that may stand in a frame, then text.
    fn close(&self, payload: &[u8]) -> Result<Event, u16> {
        let (code, reason) = match payload {
            [] => return Ok(Event::Close),
            [a, b, reason @ ..] => (u16::from_be_bytes([*a, *b]), reason),
            [_] if self.faults.has(Fault::CloseOfOneByteTaken) => return Ok(Event::Close),
            [_] => return Err(code::PROTOCOL),
        };
        let allowed = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
        if !allowed && !self.faults.has(Fault::AnyCloseCodeTaken) {
            return Err(code::PROTOCOL);
        }
        let text = std::str::from_utf8(reason).is_ok();
        if text || self.faults.has(Fault::NotUtf8Taken) {
            Ok(Event::Close)
        } else {
            Err(code::NOT_UTF8)
        }
    }

    fn data(&mut self, frame: ClientFrame) -> Result<Option<Event>, u16> {
        let (opcode, payload, fragments) = match self.message.take() {
            Some((opcode, _, count)) if self.faults.has(Fault::FragmentsNotJoined) => {
                (opcode, frame.payload, count + 1)
            }
            Some((opcode, mut payload, count)) => {
                payload.extend_from_slice(&frame.payload);
                (opcode, payload, count + 1)
            }
            None => (frame.opcode, frame.payload, 1),
        };
        if fragments > FRAGMENTS {
            return Err(code::POLICY);
        }
        if !frame.last {
            self.message = Some((opcode, payload, fragments));
            return Ok(None);
        }
        let not_text = opcode == TEXT && std::str::from_utf8(&payload).is_err();
        if not_text && !self.faults.has(Fault::NotUtf8Taken) {
            return Err(if self.faults.has(Fault::NotUtf8Code) {
                code::PROTOCOL
            } else {
                code::NOT_UTF8
            });
        }
        Ok(Some(Event::Message { text: opcode == TEXT, payload }))
    }
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let wide = u128::from_ne_bytes(std::array::from_fn(|at| mask[at % 4]));
    let mut words = payload.chunks_exact_mut(16);
    for word in &mut words {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(word);
        word.copy_from_slice(&(u128::from_ne_bytes(bytes) ^ wide).to_ne_bytes());
    }
    for (at, byte) in words.into_remainder().iter_mut().enumerate() {
        *byte ^= mask[at % 4];
    }
}
