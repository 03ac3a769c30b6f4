//! The decoder of frames: bytes, where they are cut, a version, limits.
//!
//! | bytes of an input | |
//! |---|---|
//! | 1 | bits 0-1: version or none, 2-3: limits, 4: version and limits change at a CONNECTED |
//! | 1 | how many lengths of pieces follow, modulo 8 |
//! | 0 to 7 | the lengths, used over and over; 0 is 256 |
//! | the rest | what the peer sends |

use std::fmt;

use bytes::Bytes;
use stomp_relay::stomp::{
    Command, DecodeError, Decoder, DecoderEvent, Frame, Limits, Version, encode,
};

use super::{cut, lengths};
use crate::memory;

/// The decoder's own boxes, and a vector's least capacity.
const OVERHEAD: usize = 256;
/// A header's two ends.
const HEADER: usize = 8;
/// An excerpt has 64 characters, each of which may be written as `\u{10ffff}`.
const ERROR_TEXT: usize = 2 * 64 * 10 + 100;

const NARROW: Limits =
    Limits { frame_bytes: 60, headers: 4, header_name_bytes: 10, header_value_bytes: 20 };
const LIMITS: [Limits; 4] = [
    NARROW,
    Limits { frame_bytes: 400, headers: 8, header_name_bytes: 40, header_value_bytes: 100 },
    // A header may be longer than the frame.
    Limits { frame_bytes: 100, headers: 3, header_name_bytes: 200, header_value_bytes: 200 },
    // As the program has them.
    Limits { frame_bytes: 262_144, headers: 64, header_name_bytes: 255, header_value_bytes: 8_192 },
];

/// One connection's input.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) version: Option<Version>,
    pub(crate) limits: Limits,
    /// What holds from a CONNECTED on, as a session has it from its CONNECT on.
    pub(crate) after_connected: Option<(Version, Limits)>,
    /// Lengths of pieces, over and over.
    pub(crate) cuts: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

/// Bytes as one can read them.
impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, limits, after_connected, cuts, bytes } = self;
        writeln!(f, "b\"{}\"", bytes.escape_ascii())?;
        writeln!(f, "in pieces of {cuts:?}, version {version:?}, {limits:?}")?;
        write!(f, "from a CONNECTED on {after_connected:?}")
    }
}

/// Checks one input of the fuzzer.
pub(crate) fn run(input: &[u8]) {
    if let Some(case) = Case::read(input) {
        check(&case);
    }
}

impl Case {
    fn read(input: &[u8]) -> Option<Self> {
        let (&[flags, cuts], rest) = input.split_first_chunk::<2>()?;
        let (cuts, bytes) = rest.split_at_checked(usize::from(cuts % 8))?;
        let version = match flags & 3 {
            0 => None,
            1 => Some(Version::V10),
            2 => Some(Version::V11),
            _ => Some(Version::V12),
        };
        let limits = LIMITS[usize::from(flags >> 2 & 3)];
        let changes = flags & 16 != 0;
        Some(Self {
            version: version.filter(|_| !changes),
            limits: if changes { NARROW } else { limits },
            after_connected: changes.then(|| (version.unwrap_or(Version::V12), limits)),
            cuts: lengths(cuts),
            bytes: bytes.to_owned(),
        })
    }

    /// The fuzzer's input that is this case, as far as it can say so.
    pub(crate) fn write(version: Version, bytes: &[u8]) -> Vec<u8> {
        let version = match version {
            Version::V10 => 1,
            Version::V11 => 2,
            Version::V12 => 3,
        };
        let mut input = vec![version | 3 << 2, 1, 7];
        input.extend_from_slice(bytes);
        input
    }

    fn decoder(&self) -> Decoder {
        let mut decoder = Decoder::new(self.limits);
        if let Some(version) = self.version {
            decoder.set_version(version);
        }
        decoder
    }

    /// What either limits allow.
    fn most(&self) -> Limits {
        let (a, b) = (self.limits, self.after_connected.map_or(self.limits, |(_, limits)| limits));
        Limits {
            frame_bytes: a.frame_bytes.max(b.frame_bytes),
            headers: a.headers.max(b.headers),
            header_name_bytes: a.header_name_bytes.max(b.header_name_bytes),
            header_value_bytes: a.header_value_bytes.max(b.header_value_bytes),
        }
    }
}

/// All frames, the error that ended them, and whether a frame was left incomplete.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) frames: Vec<Frame>,
    pub(crate) error: Option<DecodeError>,
    in_frame: bool,
}

/// Decodes, and checks what holds of every input.
pub(crate) fn check(case: &Case) -> Outcome {
    let pieces = cut(&case.bytes, &case.cuts);
    let whole = decode(case, &[&case.bytes]);
    assert_eq!(decode(case, &pieces), whole, "in pieces (left) and as a whole (right)");
    let singly: Vec<&[u8]> = case.bytes.chunks(1).collect();
    assert_eq!(decode(case, &singly), whole, "byte by byte (left) and as a whole (right)");
    check_memory(case, &pieces);
    check_memory(case, &singly);
    whole.frames.iter().for_each(|frame| check_frame(case, frame));
    whole.error.iter().for_each(check_error);
    whole
}

fn decode(case: &Case, pieces: &[&[u8]]) -> Outcome {
    let mut decoder = case.decoder();
    let mut outcome = Outcome::default();
    for piece in pieces {
        let mut input = Bytes::copy_from_slice(piece);
        let mut beats = 0;
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(DecoderEvent::Frame(frame))) => {
                    change(case, &mut decoder, &frame);
                    outcome.frames.push(frame);
                }
                Ok(Some(DecoderEvent::HeartBeat)) => beats += 1,
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.decode(&mut input), Ok(None), "after an error");
                    return Outcome { error: Some(error), ..outcome };
                }
            }
        }
        assert!(input.is_empty(), "None means that all was taken");
        assert!(beats <= 1, "{beats} heart-beats of one piece");
    }
    Outcome { in_frame: decoder.in_frame(), ..outcome }
}

fn change(case: &Case, decoder: &mut Decoder, frame: &Frame) {
    if let Some((version, limits)) = case.after_connected
        && frame.command == Command::Connected
    {
        decoder.set_version(version);
        decoder.set_limits(limits);
    }
}

/// What the decoder holds after each piece.
fn check_memory(case: &Case, pieces: &[&[u8]]) {
    let Limits { frame_bytes, headers, .. } = case.most();
    let most = frame_bytes + HEADER * headers + OVERHEAD;
    let before = memory::live();
    let mut decoder = case.decoder();
    for piece in pieces {
        {
            let mut input = Bytes::copy_from_slice(piece);
            loop {
                match decoder.decode(&mut input) {
                    Ok(Some(DecoderEvent::Frame(frame))) => change(case, &mut decoder, &frame),
                    Ok(Some(DecoderEvent::HeartBeat)) => {}
                    Ok(None) | Err(_) => break,
                }
            }
        }
        let held = usize::try_from(memory::live() - before).unwrap_or(0);
        let most = if decoder.in_frame() { most } else { 0 };
        assert!(held <= most, "the decoder holds {held} bytes, {most} are allowed");
    }
}

/// A frame keeps to the limits, and is the same when it is written and read again.
fn check_frame(case: &Case, frame: &Frame) {
    let limits = case.most();
    assert!(frame.headers.len() <= limits.headers);
    let bytes = frame.headers.text_len() + frame.body.len();
    assert!(bytes <= limits.frame_bytes, "{bytes} bytes of headers and body");
    for (name, value) in frame.headers.iter() {
        assert!((1..=limits.header_name_bytes).contains(&name.len()), "name of {}", name.len());
        assert!(value.len() <= limits.header_value_bytes, "value of {}", value.len());
    }
    // What came before CONNECTED has no escapes, as in 1.0, and its spaces.
    let after = case.after_connected.map(|(version, _)| version);
    let Some(version) = case.version.or(after) else { return };
    if version == Version::V10 || case.after_connected.is_some() {
        return;
    }
    let mut written = Vec::new();
    encode::encode(&mut written, frame, version);
    assert_eq!(read_again(&written, version), stripped(frame), "written and read again");
}

fn read_again(written: &[u8], version: Version) -> Frame {
    let mut decoder = Decoder::new(Limits {
        frame_bytes: usize::MAX,
        headers: usize::MAX,
        header_name_bytes: usize::MAX - 1,
        header_value_bytes: usize::MAX - 1,
    });
    decoder.set_version(version);
    let mut input = Bytes::copy_from_slice(written);
    let event = decoder.decode(&mut input);
    let Ok(Some(DecoderEvent::Frame(frame))) = event else {
        panic!("{event:?} of {}", written.escape_ascii());
    };
    assert!(input.is_empty(), "bytes after the frame: {}", written.escape_ascii());
    stripped(&frame)
}

/// Without content-length, which the encoder writes anew.
fn stripped(frame: &Frame) -> Frame {
    let headers = frame.headers.iter().filter(|(name, _)| *name != "content-length").collect();
    Frame { headers, ..frame.clone() }
}

/// The peer's own text comes back in an answer that somebody may look at with a terminal.
fn check_error(error: &DecodeError) {
    let (message, body) = error.text();
    assert!(!message.contains(char::is_control), "{message:?}");
    let line = body.strip_suffix('\n').expect("a line");
    assert!(!line.contains(char::is_control), "{line:?}");
    assert!(body.len() <= ERROR_TEXT, "{} bytes: {body:?}", body.len());
}
