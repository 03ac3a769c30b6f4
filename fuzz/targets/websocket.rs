//! The frame layer of WebSocket: bytes, and where they are cut. The other opinion on what they
//! say is tungstenite's.
//!
//! | bytes of an input | |
//! |---|---|
//! | 1 | how many lengths of pieces follow, modulo 8 |
//! | 0 to 7 | the lengths, used over and over; 0 is 256 |
//! | the rest | what the peer sends |

use std::io::{self, Read, Write};

use bytes::BytesMut;
use stomp_relay::transport::websocket::frame::{FrameLimits, FrameReader, WsError, WsEvent};
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tungstenite::{Error, Message};

use super::{cut, lengths};
use crate::memory;

const LIMITS: FrameLimits = FrameLimits { message_bytes: 1_000, fragments: 6 };
/// A partial control frame and its box.
const MEMORY: usize = 200;

/// Checks one input of the fuzzer.
pub(crate) fn run(input: &[u8]) {
    let Some((&cuts, rest)) = input.split_first() else { return };
    let Some((cuts, bytes)) = rest.split_at_checked(usize::from(cuts % 8)) else { return };
    let whole = read(&[bytes]);
    compare(&whole, &read(&cut(bytes, &lengths(cuts))));
    compare(&whole, &read(&bytes.chunks(1).collect::<Vec<_>>()));
    if whole.error.is_none() {
        let theirs = theirs(bytes);
        assert!(whole.data.starts_with(&theirs), "{:?} and {theirs:?}", whole.data);
    }
}

/// What was read: control frames as they came, data joined.
#[derive(Debug, Default)]
struct Outcome {
    controls: Vec<WsEvent>,
    data: Vec<u8>,
    error: Option<WsError>,
}

fn read(pieces: &[&[u8]]) -> Outcome {
    let mut reader = FrameReader::new(LIMITS);
    let mut outcome = Outcome::default();
    for piece in pieces {
        let mut input = BytesMut::from(*piece);
        loop {
            match reader.next(&mut input) {
                Ok(Some(WsEvent::Data(data))) => {
                    assert!(!data.is_empty(), "no data is no event");
                    outcome.data.extend_from_slice(&data);
                }
                Ok(Some(event)) => outcome.controls.push(event),
                Ok(None) => break,
                Err(error) => {
                    outcome.error = Some(error);
                    return outcome;
                }
            }
        }
        assert!(input.is_empty(), "None means that all was taken");
    }
    check_memory(pieces);
    outcome
}

fn check_memory(pieces: &[&[u8]]) {
    let before = memory::live();
    let mut reader = FrameReader::new(LIMITS);
    for piece in pieces {
        {
            let mut input = BytesMut::from(*piece);
            while let Ok(Some(_)) = reader.next(&mut input) {}
        }
        let held = usize::try_from(memory::live() - before).unwrap_or(0);
        assert!(held <= MEMORY, "{held} bytes are held between two reads");
    }
}

/// However it is cut it is the same, but that data before an error in the same message is passed
/// on as far as pieces let it.
fn compare(whole: &Outcome, cut: &Outcome) {
    assert_eq!(cut.error, whole.error, "in pieces (left) and as a whole (right)");
    assert_eq!(cut.controls, whole.controls, "in pieces (left) and as a whole (right)");
    let is_same = match whole.error {
        None => cut.data == whole.data,
        Some(_) => cut.data.starts_with(&whole.data),
    };
    assert!(is_same, "{:?} in pieces and {:?} as a whole", cut.data, whole.data);
}

/// The payload of the complete messages, as tungstenite reads them. What we take it must take.
fn theirs(bytes: &[u8]) -> Vec<u8> {
    let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    let mut socket = WebSocket::from_raw_socket(Wire(bytes), Role::Server, Some(config));
    let mut payload = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => payload.extend_from_slice(text.as_bytes()),
            Ok(Message::Binary(bytes)) => payload.extend_from_slice(&bytes),
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
            // The end of the bytes is no end of a connection.
            Ok(Message::Close(_)) | Err(Error::Io(_) | Error::ConnectionClosed) => return payload,
            Err(error) => panic!("tungstenite does not take what we take: {error}"),
        }
    }
}

/// What is read; what is written goes nowhere.
struct Wire<'a>(&'a [u8]);

impl Read for Wire<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.0.read(into)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            length => Ok(length),
        }
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
