//! The codec: decoding undoes encoding, and whatever comes in is decoded alike however it is cut,
//! within the decoder's memory. What is here beyond the tests beside the decoder: every command
//! and every character, long bodies, limits of any size, and memory as the allocator counts it.

use bytes::Bytes;
use proptest::prelude::*;
use stomp_relay::stomp::{Command, Decoder, DecoderEvent, Frame, Limits, Version, encode};

use super::{cases, tried};
use crate::memory;
use crate::targets::decoder::{Case, Outcome, check};

const VERSIONS: [Version; 3] = [Version::V10, Version::V11, Version::V12];
const COMMANDS: [Command; 15] = [
    Command::Connect,
    Command::Stomp,
    Command::Send,
    Command::Subscribe,
    Command::Unsubscribe,
    Command::Ack,
    Command::Nack,
    Command::Begin,
    Command::Commit,
    Command::Abort,
    Command::Disconnect,
    Command::Connected,
    Command::Message,
    Command::Receipt,
    Command::Error,
];
const NO_LIMITS: Limits = Limits {
    frame_bytes: 1 << 20,
    headers: 100,
    header_name_bytes: 1_000,
    header_value_bytes: 1_000,
};

fn versions() -> impl Strategy<Value = Version> {
    prop::sample::select(VERSIONS.to_vec())
}

/// Any text, with those characters often that mean something to STOMP or to a terminal.
fn text(least: usize) -> impl Strategy<Value = String> {
    let special = prop::sample::select(
        "\0\n\r:\\ncr \u{1b}\u{7f}\u{85}\u{feff}ü€𐍈".chars().collect::<Vec<_>>(),
    );
    prop::collection::vec(prop_oneof![3 => special, 1 => any::<char>()], least..12)
        .prop_map(|characters| characters.into_iter().collect())
}

fn headers() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::vec((text(1), text(0)), 0..6)
}

/// Of every size that is treated in a way of its own.
fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..60),
        1 => (any::<u8>(), 65_500_usize..66_000).prop_map(|(byte, length)| vec![byte; length]),
        1 => (any::<u8>(), 130_000_usize..140_000).prop_map(|(byte, length)| vec![byte; length]),
    ]
}

fn frame() -> impl Strategy<Value = Frame> {
    (prop::sample::select(COMMANDS.to_vec()), headers(), body()).prop_map(
        |(command, headers, body)| Frame {
            command,
            headers: headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect(),
            body: body.into(),
        },
    )
}

/// In 1.0 any frame may have a body.
fn may_have_body(frame: &Frame, version: Version) -> bool {
    frame.command.may_have_body() || version == Version::V10
}

/// What arrives of a header's text. What a version cannot write becomes a space, so that a text
/// never becomes another header, frame or command.
fn carried(text: &str, version: Version, command: Command, is_name: bool) -> String {
    let has_escapes = command.escapes_headers();
    let version = if has_escapes { version } else { Version::V10 };
    let space = |character| match (character, version) {
        ('\0', _) | ('\n', Version::V10) | ('\r', Version::V10 | Version::V11) => ' ',
        (':', Version::V10) if is_name => ' ',
        (character, _) => character,
    };
    text.chars().map(space).collect()
}

/// The frame as it arrives.
fn arrived(frame: &Frame, version: Version) -> Frame {
    let mut arrived = Frame { body: frame.body.clone(), ..Frame::new(frame.command) };
    for (name, value) in frame.headers.iter() {
        let name = carried(name, version, frame.command, true);
        let value = carried(value, version, frame.command, false);
        // The examples of 1.0 have a space after the colon.
        let is_trimmed = version == Version::V10;
        arrived
            .headers
            .push(&name, if is_trimmed { value.trim_start_matches(' ') } else { &value });
    }
    if !frame.body.is_empty() {
        arrived.headers.push("content-length", &frame.body.len().to_string());
    }
    arrived
}

/// Lengths of pieces.
fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        2 => prop::collection::vec(1_usize..30, 1..6),
        1 => prop::collection::vec(prop_oneof![1_usize..9, 60_000_usize..70_000], 1..6),
    ]
}

/// Limits at which something happens to what is sent here.
fn limits() -> impl Strategy<Value = Limits> {
    (10_usize..120, 0_usize..5, 1_usize..20, 0_usize..20).prop_map(
        |(frame_bytes, headers, header_name_bytes, header_value_bytes)| Limits {
            frame_bytes,
            headers,
            header_name_bytes,
            header_value_bytes,
        },
    )
}

/// Bytes that are a frame or nearly one.
fn nearly_a_frame() -> impl Strategy<Value = Vec<u8>> {
    let command = prop_oneof![
        9 => prop::sample::select(vec!["CONNECT", "CONNECTED", "SEND", "SEND", "MESSAGE", "ACK"]),
        1 => prop::sample::select(vec!["FOO", "A-COMMAND-THAT-IS-NONE-AND-FAR-TOO-LONG-FOR-ONE"]),
    ];
    let good = ["a:b", "a:b\\c", "long-name:v", "n:long value", "receipt:1", "n:", " : ü"];
    let bad = [
        "content-length:1",
        "content-length:7",
        "content-length:1,",
        "content-length:1\ncontent-length:2",
        ":v",
        "n",
        "n:\\r\\q",
    ];
    let line = prop_oneof![
        4 => prop::sample::select(good.to_vec()),
        1 => prop::sample::select(bad.to_vec()),
        1 => Just("n:\u{1b}[31m\u{85}"),
    ];
    let end = prop::sample::select(vec!["\n", "\n", "\n", "\n", "\r\n", "\r"]);
    let body = prop::sample::select(vec!["", "", "b", "b\n", "seven b", "\0b"]);
    let nul = prop::sample::select(vec!["\0", "\0", "\0", "\0\n", "\0\r\n", ""]);
    (command, prop::collection::vec(line, 0..3), end, body, nul).prop_map(
        |(command, lines, end, body, nul)| {
            let lines: String = lines.iter().flat_map(|line| [*line, end]).collect();
            format!("{command}{end}{lines}{end}{body}{nul}").into_bytes()
        },
    )
}

/// Bytes that mean something to the decoder, and bytes that mean nothing.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let words: Vec<&[u8]> =
        vec![b"\n", b"\r\n", b"\r", b":", b"\0", b"\\", b"\xff", b"\xe2\x82", b"SEND\n", b"a:b\n"];
    let piece = prop_oneof![
        6 => nearly_a_frame(),
        1 => prop::sample::select(words).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 1..4),
    ];
    prop::collection::vec(piece, 1..6).prop_map(|pieces| pieces.concat())
}

fn case() -> impl Strategy<Value = Case> {
    let version = prop::option::of(versions());
    let after = prop::option::of((versions(), limits()));
    let limits = prop_oneof![1 => limits(), 1 => Just(NO_LIMITS)];
    (version, limits, after, cuts(), noise()).prop_map(
        |(version, limits, after_connected, cuts, bytes)| Case {
            version,
            limits,
            after_connected,
            cuts,
            bytes,
        },
    )
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn a_frame_arrives_as_its_version_can_write_it(
        version in versions(),
        mut frames in prop::collection::vec(frame(), 1..4),
        cuts in cuts(),
    ) {
        for frame in frames.iter_mut().filter(|frame| !may_have_body(frame, version)) {
            frame.body.clear();
        }
        let mut bytes = Vec::new();
        for frame in &frames {
            encode::encode(&mut bytes, frame, version);
        }
        let lines = frames.iter().map(|frame| 2 + frame.headers.len() + usize::from(!frame.body.is_empty()));
        let bodies = frames.iter().flat_map(|frame| &frame.body).filter(|byte| **byte == b'\n');
        let line_ends = bytes.iter().filter(|byte| **byte == b'\n').count();
        prop_assert_eq!(line_ends, lines.sum::<usize>() + bodies.count());
        let after_connected = None;
        let case = Case { version: Some(version), limits: NO_LIMITS, after_connected, cuts, bytes };
        let expected: Vec<Frame> = frames.iter().map(|frame| arrived(frame, version)).collect();
        let outcome = tried(|| decode(&case))?;
        prop_assert_eq!(outcome.error, None);
        prop_assert_eq!(outcome.frames, expected);
    }
}

/// Long bodies make byte by byte slow without showing more; the cuts are enough.
fn decode(case: &Case) -> Outcome {
    if case.bytes.len() < 2_000 {
        return check(case);
    }
    let mut decoder = Decoder::new(case.limits);
    case.version.into_iter().for_each(|version| decoder.set_version(version));
    let mut outcome = Outcome::default();
    let mut rest = case.bytes.as_slice();
    for &cut in case.cuts.iter().cycle() {
        let (piece, after) = rest.split_at(cut.min(rest.len()));
        let mut input = Bytes::copy_from_slice(piece);
        while let Some(event) = decoder.decode(&mut input).unwrap() {
            match event {
                DecoderEvent::Frame(frame) => outcome.frames.push(frame),
                DecoderEvent::HeartBeat => {}
            }
        }
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    outcome
}

proptest! {
    #![proptest_config(cases(1_500))]

    #[test]
    fn whatever_comes_in_has_one_outcome_and_little_memory(case in case()) {
        tried(|| check(&case))?;
    }
}

proptest! {
    #![proptest_config(cases(150))]

    /// Beyond what a decoder holds anyway: here a buffer that is too large is seen.
    #[test]
    fn a_long_frame_costs_no_more_than_its_limit(
        length in 600_usize..3_000,
        is_head in any::<bool>(),
        has_length in any::<bool>(),
        cuts in prop::collection::vec(1_usize..900, 1..4),
    ) {
        let frame_bytes = length + 40;
        let limits = Limits { frame_bytes, header_value_bytes: frame_bytes, ..NO_LIMITS };
        let long = "x".repeat(length);
        let bytes = match (is_head, has_length) {
            (true, _) => format!("SEND\na:{long}\n\n\0"),
            (false, true) => format!("SEND\ncontent-length:{length}\n\n{long}\0"),
            (false, false) => format!("SEND\n\n{long}\0"),
        };
        let bytes = bytes.into_bytes();
        let case = Case { version: None, limits, after_connected: None, cuts, bytes };
        let outcome = tried(|| check(&case))?;
        prop_assert_eq!(outcome.frames.len(), 1);
    }
}

#[test]
fn the_noise_gets_somewhere() {
    // Without this the property above could be about nothing but "Bad command".
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut frames, mut kinds) = (0, std::collections::HashSet::new());
    for _ in 0..2_000 {
        let tree = case().new_tree(&mut runner).unwrap();
        let outcome = check(&proptest::strategy::ValueTree::current(&tree));
        frames += outcome.frames.len();
        kinds.extend(outcome.error.iter().map(|error| std::mem::discriminant(error.fault())));
    }
    assert!(frames > 500, "{frames} frames");
    // Of thirteen kinds of fault.
    assert!(kinds.len() >= 12, "{} kinds of fault", kinds.len());
}

#[test]
fn memory_is_counted() {
    let before = memory::live();
    let mut held: Vec<u8> = Vec::with_capacity(1_000);
    assert_eq!(memory::live() - before, 1_000);
    held.reserve_exact(5_000);
    assert_eq!(memory::live() - before, 5_000);
    drop(held);
    assert_eq!(memory::live(), before);
}
