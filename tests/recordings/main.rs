//! What real clients said (`conformance-tests/recordings`), put through the decoder and the
//! session machine: every client's whole story must be taken, however its bytes are cut.
//! And the tables of `docs/clients.md`, made from the same bytes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in tests a panic is how to fail")]

#[path = "../harness/mod.rs"]
mod harness;

mod format;
mod replay;
mod table;
mod wire;

use bytes::Bytes;
use format::{Recording, Side};
use stomp_relay::stomp::{Command, Decoder, DecoderEvent, Frame, Limits, Version};

/// As the program has them where nothing is configured; the stories are far below.
const LIMITS: Limits =
    Limits { frame_bytes: 1 << 20, headers: 64, header_name_bytes: 256, header_value_bytes: 8192 };

fn version(recording: &Recording) -> Version {
    let said = wire::read(recording.stomp(Side::Server).map(|piece| piece.bytes.as_slice()));
    let connected = said.frames.first().filter(|frame| frame.command == "CONNECTED");
    match connected.and_then(|frame| frame.get("version")) {
        Some("1.0") => Version::V10,
        Some("1.1") => Version::V11,
        Some("1.2") => Version::V12,
        other => panic!("{}: CONNECTED has version {other:?}", recording.name),
    }
}

/// The frames that the relay's decoder finds in pieces.
fn decode<'a>(version: Version, pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Frame> {
    let mut decoder = Decoder::new(LIMITS);
    let mut frames = Vec::new();
    for piece in pieces {
        let mut bytes = Bytes::copy_from_slice(piece);
        while !bytes.is_empty() {
            let event = decoder.decode(&mut bytes);
            if let Some(DecoderEvent::Frame(frame)) = event.unwrap_or_else(|e| panic!("{e:?}")) {
                if matches!(frame.command, Command::Connect | Command::Stomp) {
                    decoder.set_version(version);
                }
                frames.push(frame);
            }
        }
    }
    assert!(!decoder.in_frame(), "within a frame");
    frames
}

#[test]
fn the_decoder_finds_the_frames_of_every_client() {
    for recording in Recording::all() {
        let pieces: Vec<&[u8]> =
            recording.stomp(Side::Client).map(|piece| piece.bytes.as_slice()).collect();
        let frames = decode(version(&recording), pieces.iter().copied());
        let said = wire::read(pieces.iter().copied());
        let commands = |frame: &Frame| frame.command.name().to_owned();
        assert_eq!(
            frames.iter().map(commands).collect::<Vec<_>>(),
            said.frames.iter().map(|frame| frame.command.clone()).collect::<Vec<_>>(),
            "{}",
            recording.name
        );
        for (frame, written) in frames.iter().zip(&said.frames) {
            assert_eq!(frame.body, written.body, "{}: {frame:?}", recording.name);
            assert_eq!(frame.headers.len(), written.headers.len(), "{}", recording.name);
        }
        // The story has no fewer in any client.
        assert!(frames.len() >= 14, "{}: {} frames", recording.name, frames.len());
    }
}

#[test]
fn however_the_bytes_are_cut_the_frames_are_the_same() {
    for recording in Recording::all() {
        let version = version(&recording);
        let bytes: Vec<u8> =
            recording.stomp(Side::Client).flat_map(|piece| piece.bytes.clone()).collect();
        let whole = decode(version, std::iter::once(bytes.as_slice()));
        for size in [1, 2, 3, 5, 7, 64, 1000, 4096, 16_384] {
            let cut = decode(version, bytes.chunks(size));
            assert!(whole == cut, "{}: in pieces of {size}", recording.name);
        }
        for at in 1..bytes.len() {
            // Within a run of one letter one cut is as good as another.
            if bytes[at - 1] == b'x' && bytes[at] == b'x' {
                continue;
            }
            let (a, b) = bytes.split_at(at);
            let cut = decode(version, [a, b].into_iter());
            assert!(whole == cut, "{}: cut at {at}", recording.name);
        }
    }
}

#[test]
fn the_session_machine_takes_every_clients_story() {
    for recording in Recording::all() {
        for size in [usize::MAX, 1] {
            replay::check(&recording, size);
        }
    }
}

/// `WRITE_CLIENTS_MD=1` writes the tables instead of comparing them.
#[test]
fn the_tables_in_the_docs_are_those_of_the_recordings() {
    table::check(&Recording::all());
}
