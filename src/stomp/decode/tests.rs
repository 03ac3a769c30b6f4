//! Every case runs in one piece, byte by byte, and cut in two at every place.

use proptest::prelude::*;

use super::*;
use crate::stomp::{Reaction, encode};

const LIMITS: Limits =
    Limits { frame_bytes: 400, headers: 8, header_name_bytes: 40, header_value_bytes: 100 };

const V10: Option<Version> = Some(Version::V10);
const V11: Option<Version> = Some(Version::V11);
const V12: Option<Version> = Some(Version::V12);

fn decoder(version: Option<Version>) -> Decoder {
    let mut decoder = Decoder::new(LIMITS);
    decoder.version = version;
    decoder
}

/// What the decoder holds on to, in bytes.
fn held(decoder: &Decoder) -> usize {
    match &decoder.phase {
        Phase::Between { .. } | Phase::Failed => 0,
        Phase::Head(partial) => partial.gathered.capacity(),
        Phase::Body(partial) => partial.headers.text_len() + partial.gathered.capacity(),
    }
}

/// All frames, the error that ended them, and whether a frame was left incomplete.
type Outcome = (Vec<Frame>, Option<DecodeError>, bool);

fn run(version: Option<Version>, pieces: &[&[u8]]) -> Outcome {
    let mut decoder = decoder(version);
    let mut frames = Vec::new();
    for piece in pieces {
        let mut input = Bytes::copy_from_slice(piece);
        let mut beats = 0;
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(Event::Frame(frame))) => frames.push(frame),
                Ok(Some(Event::HeartBeat)) => beats += 1,
                Ok(None) => break,
                Err(error) => return (frames, Some(error), false),
            }
        }
        assert!(input.is_empty(), "None means that all was taken");
        assert!(beats <= 1, "at most one heart-beat per piece");
        // Vec never has less than eight bytes.
        assert!(held(&decoder) <= LIMITS.frame_bytes.max(8), "{}", held(&decoder));
    }
    (frames, None, decoder.in_frame())
}

fn check(version: Option<Version>, bytes: &[u8]) -> Outcome {
    let whole = run(version, &[bytes]);
    let singly: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(run(version, &singly), whole, "byte by byte: {:?}", bytes.escape_ascii());
    for at in 0..bytes.len() {
        let (first, second) = bytes.split_at(at);
        assert_eq!(run(version, &[first, second]), whole, "cut at {at}: {}", bytes.escape_ascii());
    }
    whole
}

fn frame(command: Command, headers: &[(&str, &str)], body: &'static [u8]) -> Frame {
    Frame { command, headers: headers.iter().copied().collect(), body: Bytes::from_static(body) }
}

#[test]
fn accepts() {
    use Command::{Ack, Connect, Connected, Message, Receipt, Send, Stomp};
    let send = |headers: &[(&str, &str)], body| vec![frame(Send, headers, body)];
    let cases: Vec<(Option<Version>, &[u8], Vec<Frame>)> = vec![
        (None, b"", vec![]),
        (None, b"CONNECT\n\n\0", vec![frame(Connect, &[], b"")]),
        (None, b"STOMP\r\nhost:h\r\n\r\n\0\r\n", vec![frame(Stomp, &[("host", "h")], b"")]),
        (V12, b"\0\n\r\n\0\0CONNECTED\n\n\0\0\n", vec![frame(Connected, &[], b"")]),
        // Bodies: up to the first NUL, or as long as they say.
        (V12, b"SEND\n\nhi\r\n\n\0", send(&[], b"hi\r\n\n")),
        (V12, b"SEND\n\n\0", send(&[], b"")),
        (V12, b"SEND\ncontent-length:0\n\n\0", send(&[("content-length", "0")], b"")),
        (V12, b"SEND\ncontent-length:3\n\n\0a\0\0", send(&[("content-length", "3")], b"\0a\0")),
        (V12, b"SEND\ncontent-length:0000000001\n\nx\0", {
            send(&[("content-length", "0000000001")], b"x")
        }),
        (V12, b"SEND\ncontent-length:1\ncontent-length:01\n\nx\0", {
            send(&[("content-length", "1"), ("content-length", "01")], b"x")
        }),
        (V12, b"ACK\ncontent-length:0\n\n\0", vec![frame(Ack, &[("content-length", "0")], b"")]),
        // Bytes that are no UTF-8 may be in bodies.
        (V12, b"MESSAGE\n\n\xff\xfe\0", vec![frame(Message, &[], b"\xff\xfe")]),
        // Headers.
        (V12, b"SEND\na:b:c::\nd:\n\n\0", send(&[("a", "b:c::"), ("d", "")], b"")),
        (V12, b"SEND\na:1\na:2\n\n\0", send(&[("a", "1"), ("a", "2")], b"")),
        (V12, b"SEND\n a : b \n\n\0", send(&[(" a ", " b ")], b"")),
        (V12, "SEND\nü:\u{2028}\u{85}\u{b}\n\n\0".as_bytes(), {
            send(&[("ü", "\u{2028}\u{85}\u{b}")], b"")
        }),
        // Escapes by version; never in CONNECT and CONNECTED.
        (V12, b"SEND\na\\c\\n:\\\\\\r\\n\\c\\\\n\n\n\0", send(&[("a:\n", "\\\r\n:\\n")], b"")),
        (V11, b"SEND\na:\\n\\c\\\\\n\n\0", send(&[("a", "\n:\\")], b"")),
        (V10, b"SEND\na:\\n\\q\\\n\n\0", send(&[("a", "\\n\\q\\")], b"")),
        (None, b"CONNECT\npasscode:a\\nb\\q\n\n\0", {
            vec![frame(Connect, &[("passcode", "a\\nb\\q")], b"")]
        }),
        (V12, b"CONNECTED\na:\\c\\q\n\n\0", vec![frame(Connected, &[("a", "\\c\\q")], b"")]),
        // RabbitMQ trims on the left in 1.0.
        (V10, b"SEND\na:  b \ncontent-length: 1\n\nx\0", {
            send(&[("a", "b "), ("content-length", "1")], b"x")
        }),
        // Several in one piece.
        (V12, b"SEND\n\na\0\nSEND\n\nb\0RECEIPT\nreceipt-id:1\n\n\0", {
            vec![
                frame(Send, &[], b"a"),
                frame(Send, &[], b"b"),
                frame(Receipt, &[("receipt-id", "1")], b""),
            ]
        }),
    ];
    for (version, bytes, frames) in cases {
        assert_eq!(check(version, bytes), (frames, None, false), "{}", bytes.escape_ascii());
    }
}

#[test]
fn knows_when_a_frame_has_begun() {
    for begun in ["S", "SEND\n", "SEND\na", "SEND\n\n", "SEND\n\nx", "ACK\n\n"] {
        assert_eq!(check(V12, begun.as_bytes()), (vec![], None, true), "{begun:?}");
    }
    for not_begun in ["\n", "\r", "\0", "\r\n\n\0"] {
        assert_eq!(check(V12, not_begun.as_bytes()), (vec![], None, false), "{not_begun:?}");
    }
}

#[test]
fn refuses() {
    let bad_header = "Bad header";
    let length = "Bad content-length";
    let cases: Vec<(Option<Version>, &[u8], &str, &str)> = vec![
        (None, b"FOO\n\n\0", "Bad command", "Could not interpret command \"FOO\"\n"),
        (None, b"connect\n\n\0", "Bad command", "Could not interpret command \"connect\"\n"),
        (None, b"CONNECT \n\n\0", "Bad command", "Could not interpret command \"CONNECT \"\n"),
        (None, b"F\x1bO\n\n\0", "Bad command", "Could not interpret command \"F\\u{1b}O\"\n"),
        (V12, b"SEND\nfoo\n\n\0", bad_header, "The header line \"foo\" has no colon\n"),
        (V12, b"SEND\nf\n\n\0", bad_header, "The header line \"f\" has no colon\n"),
        (V12, b"SEND\n:x\n\n\0", bad_header, "The header line \":x\" has no name"),
        (V12, b"SEND\n:\n\n\0", bad_header, "The header line \":\" has no name"),
        (V12, b"\rSEND\n\n\0", "Bad line end", "CR that no LF follows"),
        (V12, b"SE\rND\n\n\0", "Bad line end", "\"SE\\rND\""),
        (V12, b"SEND\r\r\n\n\0", "Bad line end", "\"SEND\\r\\r\""),
        (V12, b"SEND\na:b\rc\n\n\0", "Bad line end", "\"a:b\\rc\""),
        (V12, b"SEND\na:b\r\r\n\n\0", "Bad line end", "\"a:b\\r\\r\""),
        (V12, b"SEND\n\r\r\n\n\0", "Bad line end", ""),
        (V12, b"SE\0ND\n\n\0", "NUL in headers", "\"SE"),
        (V12, b"SEND\na:b\0\n\n\0", "NUL in headers", "\"a:b"),
        (V12, b"SEND\n\0", "NUL in headers", ""),
        (
            V12,
            b"SEND\na:\\q\n\n\0",
            "Bad escape",
            "\"a\" has \"\\q\", which is no escape of STOMP 1.2",
        ),
        (V12, b"SEND\na:x\\\n\n\0", "Bad escape", "\"a\" has \"\\\","),
        (V12, b"SEND\na\\t:x\n\n\0", "Bad escape", "\"a\\t\" has \"\\t\""),
        (V12, "SEND\na:\\ü\n\n\0".as_bytes(), "Bad escape", "\"\\ü\""),
        (V11, b"SEND\na:\\r\n\n\0", "Bad escape", "no escape of STOMP 1.1"),
        (V12, b"SEND\ncontent-length:1\ncontent-length:2\n\nxx\0", length, "1 and 2\n"),
        (V12, b"SEND\ncontent-length:1\n\nxx\0", "Body longer than content-length", "SEND"),
        (V12, b"ACK\ncontent-length:0\n\nx\0", "Body longer than content-length", "ACK"),
        (V12, b"ACK\n\nx\0", "Body not allowed", "ACK has no body"),
        (V12, b"ACK\n\n\n\0", "Body not allowed", "ACK has no body"),
        (V12, b"ACK\ncontent-length:1\n\nx\0", "Body not allowed", "ACK has no body"),
    ];
    for (version, bytes, message, body) in cases {
        let (frames, error, _) = check(version, bytes);
        let error = error.unwrap_or_else(|| panic!("{} passed", bytes.escape_ascii()));
        assert!(frames.is_empty());
        assert_eq!(error.reaction(), Reaction::Syntax, "{error:?}");
        let (got_message, got_body) = error.text();
        assert_eq!(got_message, message, "{error:?}");
        assert!(got_body.contains(body), "{got_body:?} has not {body:?}");
    }
}

#[test]
fn content_length_is_strictly_digits() {
    for value in ["", "abc", "+5", "-1", " 5", "5 ", "0x10", "5.0", "1e3", "\u{665}"] {
        let bytes = format!("SEND\ncontent-length:{value}\n\nxxxxx\0");
        let error = run(V12, &[bytes.as_bytes()]).1.unwrap();
        assert_eq!(error.text().0, "Bad content-length", "{value:?}");
        assert_eq!(error.reaction(), Reaction::Syntax);
    }
    for value in ["9999999999", "10000000000", "99999999999999999999999"] {
        let bytes = format!("SEND\ncontent-length:{value}\n\nxxxxx\0");
        let error = run(V12, &[bytes.as_bytes()]).1.unwrap();
        assert_eq!(error.reaction(), Reaction::TooBig, "{value:?}");
    }
}

#[test]
fn head_text_is_utf8() {
    for bytes in [b"SEND\na:\xff\n\n\0".as_slice(), b"S\xc3\n\n\0", b"SEND\n\xed\xa0\x80:a\n\n\0"] {
        let error = check(V12, bytes).1.unwrap();
        assert_eq!(error.reaction(), Reaction::Utf8);
    }
}

/// Feeds byte by byte; how many it took until the error.
fn bytes_until_error(bytes: &[u8]) -> (usize, DecodeError) {
    let mut decoder = decoder(V12);
    for (index, byte) in bytes.iter().enumerate() {
        match decoder.decode(&mut Bytes::copy_from_slice(&[*byte])) {
            Ok(_) => {}
            Err(error) => return (index + 1, error),
        }
    }
    panic!("no error");
}

#[test]
fn limits_hold_before_anything_is_buffered() {
    let many = "a:b\n".repeat(9);
    let long_head = format!("SEND\n{}", format!("a:{}\n", "x".repeat(97)).repeat(4));
    assert_eq!(long_head.len(), 405);
    // Bytes of input, how many of them are taken, how it ends, what the text says.
    let cases: Vec<(String, usize, Reaction, &str)> = vec![
        ("X".repeat(1_000), 33, Reaction::Syntax, "more than 32 bytes; this one begins \"XXX"),
        (format!("SEND\n{many}\n\0"), 5 + 36, Reaction::Limit, "8 headers"),
        (format!("SEND\n{}", "n".repeat(500)), 5 + 41, Reaction::Limit, "name may have 40 bytes"),
        (
            format!("SEND\nnn:{}", "v".repeat(500)),
            5 + 3 + 102,
            Reaction::Limit,
            "value may have 100 bytes here; this one begins \"nn\"\n",
        ),
        // The frame's end is passed before the value's, also where both are.
        (
            format!("SEND\n{}a:{}", format!("a:{}\n", "x".repeat(97)).repeat(3), "v".repeat(500)),
            401,
            Reaction::TooBig,
            "400 bytes",
        ),
        (long_head, 401, Reaction::TooBig, "400 bytes"),
        // 25 bytes of head leave 375.
        ("SEND\ncontent-length:376\n\n".into(), 25, Reaction::TooBig, "400 bytes"),
        ("SEND\ncontent-length:9999999999\n\n".into(), 32, Reaction::TooBig, "400 bytes"),
        (format!("SEND\n\n{}", "b".repeat(1_000)), 6 + 395, Reaction::TooBig, "400 bytes"),
    ];
    for (bytes, taken, reaction, text) in cases {
        let (took, error) = bytes_until_error(bytes.as_bytes());
        assert_eq!((took, error.reaction()), (taken, reaction), "{error:?}");
        assert!(error.text().1.contains(text), "{:?} has not {text:?}", error.text());
        let fed = bytes.as_bytes();
        assert_eq!(run(V12, &[fed]).1.unwrap().reaction(), reaction, "in one piece");
    }
}

#[test]
fn limits_are_exact() {
    let value = |length: usize, end: &str| format!("SEND\na:{}{end}\n\n\0", "v".repeat(length));
    let name = |length: usize| format!("SEND\n{}:v\n\n\0", "n".repeat(length));
    let headers = |count: usize| format!("SEND\n{}\n\0", "a:b\n".repeat(count));
    let to_nul = |length: usize| format!("SEND\n\n{}\0", "b".repeat(length - 6));
    let by_length = |body: usize| format!("SEND\ncontent-length:{body}\n\n{}\0", "b".repeat(body));
    // What just passes, and what just does not.
    let cases = [
        (value(100, ""), value(101, "")),
        (value(100, "\r"), value(101, "\r")),
        (name(40), name(41)),
        (headers(8), headers(9)),
        (to_nul(400), to_nul(401)),
        (by_length(375), by_length(376)),
    ];
    for (passes, fails) in cases {
        assert_eq!(check(V12, passes.as_bytes()).1, None, "{passes:?}");
        assert!(check(V12, fails.as_bytes()).1.is_some(), "{fails:?}");
    }
}

#[test]
fn smaller_limits_hold_for_what_comes_next() {
    let mut decoder = decoder(V12);
    decoder.set_limits(Limits { frame_bytes: 20, ..LIMITS });
    let frame = b"SEND\n\n123456789012345\0";
    assert!(decoder.decode(&mut Bytes::from_static(frame)).is_err());
    let mut decoder = Decoder::new(Limits { frame_bytes: 20, ..LIMITS });
    decoder.set_limits(LIMITS);
    assert!(matches!(decoder.decode(&mut Bytes::from_static(frame)), Ok(Some(_))));
}

#[test]
fn errors_name_the_receipt() {
    let cases: Vec<(&[u8], Option<&str>)> = vec![
        (b"FOO\nreceipt:r\\c1\n\n\0", Some("r:1")),
        (b"SEND\na\nreceipt:r1\r\nreceipt:r2\r\n\n\0", Some("r1")),
        (b"ACK\nreceipt:r1\n\nx\0", Some("r1")),
        (b"SEND\nreceipt:r1\ncontent-length:9999\n\n", Some("r1")),
        (b"SEND\nreceipt:r1\ncontent-length:1\n\nxx", Some("r1")),
        (b"SEND\nreceipt:\\q\n\n\0", None),
        (b"SEND\nreceipt:r1\na:\0", None),
        (b"FOO\n\n\0", None),
    ];
    for (bytes, receipt) in cases {
        assert_eq!(check(V12, bytes).1.unwrap().receipt(), receipt, "{}", bytes.escape_ascii());
    }
}

#[test]
fn nothing_comes_after_an_error() {
    let mut decoder = decoder(None);
    let mut input = Bytes::from_static(b"FOO\n\n\0SEND\n\n\0");
    assert!(decoder.decode(&mut input).is_err());
    assert_eq!(decoder.decode(&mut input), Ok(None));
    assert!(input.is_empty());
    assert_eq!(decoder.decode(&mut Bytes::from_static(b"SEND\n\n\0")), Ok(None));
}

#[test]
fn heart_beats_are_told_once_per_piece() {
    let beat = Event::HeartBeat;
    let send = || Event::Frame(Frame::new(Command::Send));
    let cases: Vec<(Vec<&'static [u8]>, Vec<Event>)> = vec![
        (vec![b"\n"], vec![beat.clone()]),
        (vec![b"\n\r\n\n\0\n"], vec![beat.clone()]),
        (vec![b"\n", b"\n"], vec![beat.clone(), beat.clone()]),
        (vec![b"\r", b"\n"], vec![beat.clone()]),
        (vec![b"\0"], vec![]),
        (vec![b"\nSEND\n\n\0\n\n"], vec![send(), beat]),
        (vec![b"\nSEND\n\n\0\nSEND\n\n\0"], vec![send(), send()]),
    ];
    for (pieces, expected) in cases {
        let mut decoder = decoder(V12);
        let mut events = Vec::new();
        for piece in &pieces {
            let mut input = Bytes::from_static(piece);
            while let Some(event) = decoder.decode(&mut input).unwrap() {
                events.push(event);
            }
        }
        assert_eq!(events, expected, "{pieces:?}");
    }
}

#[test]
fn a_version_set_after_connect_holds_for_the_next_frame_of_the_same_piece() {
    let mut decoder = decoder(None);
    let mut input = Bytes::from_static(b"CONNECT\na:\\c\n\n\0SEND\na:\\c\n\n\0");
    let connect = frame(Command::Connect, &[("a", "\\c")], b"");
    assert_eq!(decoder.decode(&mut input), Ok(Some(Event::Frame(connect))));
    decoder.set_version(Version::V12);
    let send = frame(Command::Send, &[("a", ":")], b"");
    assert_eq!(decoder.decode(&mut input), Ok(Some(Event::Frame(send))));
}

#[test]
fn a_body_that_is_there_in_full_is_not_copied() {
    for bytes in ["SEND\n\nabcdef\0\n", "SEND\ncontent-length:6\n\nabcdef\0\n"] {
        for cut in [0, 3, bytes.find("abc").unwrap()] {
            let input = Bytes::from_static(bytes.as_bytes());
            let range = input.as_ptr_range();
            let mut decoder = decoder(V12);
            assert_eq!(decoder.decode(&mut input.slice(..cut)), Ok(None));
            let event = decoder.decode(&mut input.slice(cut..)).unwrap();
            let Some(Event::Frame(frame)) = event else { panic!("{event:?}") };
            assert_eq!(frame.body, "abcdef");
            assert!(range.contains(&frame.body.as_ptr()), "cut at {cut}");
        }
    }
}

#[test]
fn memory_follows_what_arrives_not_what_is_announced() {
    let mut decoder = Decoder::new(Limits { frame_bytes: 10_000_000, ..LIMITS });
    let mut input = Bytes::from_static(b"SEND\ncontent-length:9000000\n\nx");
    assert_eq!(decoder.decode(&mut input), Ok(None));
    assert!(held(&decoder) <= BODY_AT_ONCE + 100, "{}", held(&decoder));
    for _ in 0..8_999 {
        assert_eq!(decoder.decode(&mut Bytes::from(vec![0; 1_000])), Ok(None));
    }
    assert_eq!(decoder.decode(&mut Bytes::from(vec![1; 999])), Ok(None));
    let event = decoder.decode(&mut Bytes::from_static(b"\0\n")).unwrap();
    let Some(Event::Frame(frame)) = event else { panic!("{event:?}") };
    assert_eq!((frame.body.len(), frame.body.last()), (9_000_000, Some(&1)));
    assert_eq!(held(&decoder), 0);
}

#[test]
fn an_idle_decoder_is_small_and_holds_nothing() {
    assert!(size_of::<Decoder>() <= 64, "{}", size_of::<Decoder>());
    let mut decoder = decoder(V12);
    for piece in [b"SE".as_slice(), b"ND\na:b\n", b"\nhello ", b"world"] {
        assert_eq!(decoder.decode(&mut Bytes::copy_from_slice(piece)), Ok(None));
        assert!(decoder.in_frame() && held(&decoder) > 0);
    }
    assert!(matches!(decoder.decode(&mut Bytes::from_static(b"\0")), Ok(Some(_))));
    assert!(!decoder.in_frame());
    assert_eq!(held(&decoder), 0);
}

#[test]
fn left_trimmed_takes_spaces_only() {
    let headers: Headers = [("login", "  a b "), ("x", "\t y")].into_iter().collect();
    let trimmed: Headers = [("login", "a b "), ("x", "\t y")].into_iter().collect();
    assert_eq!(left_trimmed(&headers), trimmed);
}

/// Frames that the version can write down exactly.
fn frames(version: Version) -> impl Strategy<Value = Vec<Frame>> {
    let (name, value) = match version {
        // Neither line ends nor, in names, colons have an escape; leading spaces are trimmed.
        Version::V10 => ("[^\0\r\n:]{1,6}", "([^\0\r\n ][^\0\r\n]{0,8})?"),
        Version::V11 => ("[^\0\r]{1,6}", "[^\0\r]{0,8}"),
        Version::V12 => ("[^\0]{1,6}", "[^\0]{0,8}"),
    };
    let headers = prop::collection::vec((name, value), 0..4);
    let commands = prop::sample::select(vec![
        Command::Send,
        Command::Message,
        Command::Error,
        Command::Ack,
        Command::Subscribe,
        Command::Disconnect,
    ]);
    let one = (commands, headers, prop::collection::vec(any::<u8>(), 0..40)).prop_map(
        |(command, headers, body)| Frame {
            command,
            headers: headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect(),
            body: if command.may_have_body() { body.into() } else { Bytes::new() },
        },
    );
    prop::collection::vec(one, 1..4)
}

fn encoded(frames: &[Frame], version: Version) -> Vec<u8> {
    let mut out = Vec::new();
    for frame in frames {
        encode::encode(&mut out, frame, version);
        out.push(b'\n');
    }
    out
}

/// Cuts into pieces of the given lengths, over and over.
fn cut<'a>(bytes: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut rest = bytes;
    let mut pieces = Vec::new();
    for length in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at((*length).min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

fn version_and_frames() -> impl Strategy<Value = (Version, Vec<Frame>)> {
    prop::sample::select(vec![Version::V10, Version::V11, Version::V12])
        .prop_flat_map(|version| (Just(version), frames(version)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn decoding_undoes_encoding_however_it_is_cut(
        (version, frames) in version_and_frames(),
        lengths in prop::collection::vec(1_usize..50, 1..8),
    ) {
        let bytes = encoded(&frames, version);
        let (mut decoded, error, in_frame) = run(Some(version), &cut(&bytes, &lengths));
        prop_assert_eq!((error, in_frame), (None, false));
        for (decoded, original) in decoded.iter_mut().zip(&frames) {
            // The encoder's own header, after the others.
            if !original.body.is_empty() {
                let length = original.body.len().to_string();
                let last = decoded.headers.iter().last().unwrap();
                prop_assert_eq!(last, ("content-length", length.as_str()));
                let kept = decoded.headers.len() - 1;
                decoded.headers = decoded.headers.iter().take(kept).collect();
            }
        }
        prop_assert_eq!(decoded, frames);
    }

    #[test]
    fn damaged_bytes_have_one_outcome_however_they_are_cut(
        (version, frames) in version_and_frames(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        lengths in prop::collection::vec(1_usize..50, 1..8),
    ) {
        let mut bytes = encoded(&frames, version);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let whole = run(Some(version), &[&bytes]);
        prop_assert_eq!(run(Some(version), &cut(&bytes, &lengths)), whole);
    }

    #[test]
    fn random_bytes_have_one_outcome_however_they_are_cut(
        // Noise that gets somewhere: made of the bytes and words that mean something.
        words in prop::collection::vec(
            prop::sample::select(vec![
                b"SEND".as_slice(), b"ACK", b"\n", b"\n", b"\r\n", b"\r", b":", b"\0", b"\\",
                b"\\c", b"content-length", b"1", b"7", b"a", b"\xff", b"receipt:1", b"\xe2\x82",
            ]),
            0..40,
        ),
        noise in prop::collection::vec(any::<u8>(), 0..60),
        lengths in prop::collection::vec(1_usize..9, 1..8),
    ) {
        let mut bytes = words.concat();
        bytes.extend_from_slice(&noise);
        let whole = run(V12, &[&bytes]);
        prop_assert_eq!(run(V12, &cut(&bytes, &lengths)), whole);
    }
}
