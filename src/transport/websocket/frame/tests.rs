//! The rules of RFC 6455 one by one. Every case runs in one piece, byte by byte, and cut in two
//! at every place (at a sample of places where it is long).

use proptest::prelude::*;

use super::*;

const LIMITS: FrameLimits = FrameLimits { message_bytes: 70_000, fragments: 8 };
const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

const CONTINUATION: u8 = 0x00;
const TEXT: u8 = 0x01;
const BINARY: u8 = 0x02;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8A;
const FIN: u8 = 0x80;

/// A client's frame; an independent writing of section 5.2.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        0..=125 => out.push(0x80 | u8::try_from(payload.len()).unwrap()),
        126..=0xFFFF => {
            out.push(0x80 | 126);
            out.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend((payload.len() as u64).to_be_bytes());
        }
    }
    out.extend(MASK);
    out.extend(payload.iter().enumerate().map(|(i, byte)| byte ^ MASK[i % 4]));
    out
}

/// Events, runs of data joined, and the error that ended them.
type Outcome = (Vec<WsEvent>, Option<WsError>);

fn run(limits: FrameLimits, pieces: &[&[u8]]) -> Outcome {
    let mut reader = FrameReader::new(limits);
    let mut events = Vec::new();
    for piece in pieces {
        let mut input = BytesMut::from(*piece);
        loop {
            match reader.next(&mut input) {
                Ok(Some(WsEvent::Data(data))) => {
                    assert!(!data.is_empty());
                    if let Some(WsEvent::Data(before)) = events.last_mut() {
                        *before = [before.as_ref(), &data].concat().into();
                    } else {
                        events.push(WsEvent::Data(data));
                    }
                }
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Some(error)),
            }
        }
        assert!(input.is_empty(), "None means that all was taken");
    }
    (events, None)
}

/// Data that came before an error in the same message is passed on or not as pieces end.
fn check(bytes: &[u8]) -> Outcome {
    let whole = run(LIMITS, &[bytes]);
    let same = |pieces: &[&[u8]]| {
        let cut = run(LIMITS, pieces);
        assert_eq!(cut.1, whole.1, "{pieces:x?}");
        assert!(whole.1.is_some() || cut.0 == whole.0, "{pieces:x?}");
    };
    same(&bytes.chunks(1).collect::<Vec<_>>());
    for at in (0..bytes.len()).step_by(1 + bytes.len() / 300) {
        let (first, second) = bytes.split_at(at);
        same(&[first, second]);
    }
    whole
}

fn data(bytes: &[u8]) -> WsEvent {
    WsEvent::Data(Bytes::copy_from_slice(bytes))
}

fn ping(bytes: &[u8]) -> WsEvent {
    WsEvent::Ping(Bytes::copy_from_slice(bytes))
}

#[test]
fn accepts() {
    let long = vec![b'*'; 70_000];
    let text = "κόσμε \u{10FFFF} \u{FFFE}".as_bytes();
    let cases: Vec<(Vec<Vec<u8>>, Vec<WsEvent>)> = vec![
        // 5.7, the example of a masked "Hello".
        (
            vec![vec![0x81, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58]],
            vec![data(b"Hello")],
        ),
        // Lengths at the borders of their forms; empty messages are no data.
        (vec![frame(FIN | TEXT, b""), frame(FIN | BINARY, b"")], vec![]),
        (vec![frame(FIN | BINARY, &long[..125])], vec![data(&long[..125])]),
        (vec![frame(FIN | BINARY, &long[..126])], vec![data(&long[..126])]),
        (vec![frame(FIN | TEXT, &long[..127])], vec![data(&long[..127])]),
        (vec![frame(FIN | TEXT, &long[..0xFFFF])], vec![data(&long[..0xFFFF])]),
        (vec![frame(FIN | TEXT, &long[..0x1_0000])], vec![data(&long[..0x1_0000])]),
        (vec![frame(FIN | TEXT, &long)], vec![data(&long)]),
        // Fragments, empty ones too, and control frames between them.
        (
            vec![frame(TEXT, b"a"), frame(CONTINUATION, b""), frame(FIN | CONTINUATION, b"b")],
            vec![data(b"ab")],
        ),
        (vec![frame(TEXT, b""), frame(FIN | CONTINUATION, b"")], vec![]),
        (
            vec![
                frame(BINARY, b"a"),
                frame(PING, b"1"),
                frame(CONTINUATION, b"b"),
                frame(PONG, b""),
                frame(FIN | CONTINUATION, b"c"),
                frame(FIN | TEXT, b"d"),
            ],
            vec![data(b"a"), ping(b"1"), data(b"b"), WsEvent::Pong(Bytes::new()), data(b"cd")],
        ),
        (vec![frame(PING, b"")], vec![ping(b"")]),
        (vec![frame(PING, &long[..125])], vec![ping(&long[..125])]),
        (vec![frame(PONG, b"\xff\0")], vec![WsEvent::Pong(Bytes::from_static(b"\xff\0"))]),
        // Text is UTF-8 as a whole, cut by fragments anywhere; binary is anything.
        (vec![frame(FIN | TEXT, text)], vec![data(text)]),
        (
            vec![frame(TEXT, &text[..1]), frame(PING, b"\xff"), frame(FIN, &text[1..])],
            vec![data(&text[..1]), ping(b"\xff"), data(&text[1..])],
        ),
        (vec![frame(FIN | BINARY, b"\xff\xc0")], vec![data(b"\xff\xc0")]),
        // What follows a Close is dropped, valid or not.
        (
            vec![frame(CLOSE, b""), frame(FIN | TEXT, b"late"), vec![0xFF; 20]],
            vec![WsEvent::Close { code: None }],
        ),
    ];
    for (frames, events) in cases {
        assert_eq!(check(&frames.concat()), (events, None));
    }
}

#[test]
fn close_codes() {
    let valid = [1000, 1001, 1002, 1003, 1007, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999];
    let invalid = [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 0x8000, 0xFFFF];
    for code in valid {
        let payload = [&u16::to_be_bytes(code)[..], "grüße".as_bytes()].concat();
        let close = WsEvent::Close { code: Some(code) };
        assert_eq!(check(&frame(CLOSE, &payload)), (vec![close], None));
    }
    for code in invalid {
        let error = check(&frame(CLOSE, &u16::to_be_bytes(code))).1.unwrap();
        assert_eq!(error, WsError::Protocol("invalid close code"), "{code}");
    }
}

#[test]
fn refuses() {
    let mut cases: Vec<(Vec<Vec<u8>>, u16)> = vec![
        // Control frames: not long, not fragmented.
        (vec![frame(PING, &[b'x'; 126])], 1002),
        (vec![frame(0x09, b"x")], 1002),
        (vec![frame(0x08, b"")], 1002),
        // Continuation rules.
        (vec![frame(CONTINUATION, b"x")], 1002),
        (vec![frame(FIN, b"x")], 1002),
        (vec![frame(FIN | TEXT, b"x"), frame(FIN, b"y")], 1002),
        (vec![frame(TEXT, b"x"), frame(FIN | TEXT, b"y")], 1002),
        (vec![frame(TEXT, b"x"), frame(BINARY, b"y")], 1002),
        (vec![frame(BINARY, b""), frame(PING, b""), frame(FIN | TEXT, b"")], 1002),
        // Close payloads.
        (vec![frame(CLOSE, b"x")], 1002),
        (vec![frame(CLOSE, b"\x03\xe8\xff")], 1007),
        // No mask.
        (vec![vec![0x81, 0x05, b'H', b'e', b'l', b'l', b'o']], 1002),
        (vec![vec![0x89, 0x00]], 1002),
        // Lengths: top bit, not the shortest form.
        (vec![vec![0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]], 1002),
        (vec![vec![0x82, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0]], 1002),
        (vec![vec![0x82, 0xFE, 0, 125, 0, 0, 0, 0]], 1002),
        (vec![vec![0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0, 0, 0]], 1002),
        // Too much, on the head alone and as a sum.
        (vec![vec![0x82, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0]], 1009),
        (vec![vec![0x82, 0xFF, 0, 0, 0, 0, 0, 1, 0x11, 0x71, 0, 0, 0, 0]], 1009),
        (vec![frame(BINARY, &[0; 69_999]), frame(0, b"x"), frame(0, b"x")[..6].to_vec()], 1009),
        (vec![frame(BINARY, b""), frame(0, b"").repeat(8)], 1008),
        // UTF-8: wrong, and cut off at the message's end.
        (vec![frame(FIN | TEXT, b"\xce\xba\xff")], 1007),
        (vec![frame(FIN | TEXT, b"\xc0\xaf")], 1007),
        (vec![frame(FIN | TEXT, b"\xed\xa0\x80")], 1007),
        (vec![frame(FIN | TEXT, b"abc\xce")], 1007),
        (vec![frame(TEXT, b"\xce"), frame(FIN, b"")], 1007),
        (vec![frame(TEXT, b"\xce"), frame(PING, b"\xba"), frame(FIN, b"x")], 1007),
    ];
    for rsv in [0x40, 0x20, 0x10, 0x70] {
        cases.push((vec![frame(FIN | TEXT | rsv, b"x")], 1002));
        cases.push((vec![frame(PING | rsv, b"")], 1002));
    }
    for opcode in (0x3..=0x7).chain(0xB..=0xF) {
        cases.push((vec![frame(FIN | opcode, b"")], 1002));
    }
    for (frames, code) in cases {
        let bytes = frames.concat();
        let error = check(&bytes).1.unwrap_or_else(|| panic!("passed: {bytes:x?}"));
        assert_eq!(error.close_code(), code, "{error:?}: {bytes:x?}");
    }
}

/// How many bytes are taken, one by one, until there is an error.
fn bytes_until_error(bytes: &[u8]) -> (usize, u16) {
    let mut reader = FrameReader::new(LIMITS);
    for (index, byte) in bytes.iter().enumerate() {
        match reader.next(&mut BytesMut::from([*byte].as_slice())) {
            Ok(_) => {}
            Err(error) => return (index + 1, error.close_code()),
        }
    }
    panic!("passed");
}

#[test]
fn fails_at_the_first_byte_that_shows_it() {
    let bad_text = frame(TEXT, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xf4\x90\x80\x80 and more");
    let too_big = [0x82, 0xFF, 0, 0, 0, 0, 0x40, 0, 0, 0, 1, 2, 3, 4];
    let cases: [(&[u8], usize, u16); 7] = [
        (&[0xC1, 0x80], 1, 1002),
        (&[0x83, 0x80], 1, 1002),
        (&[0x80, 0x80], 1, 1002),
        (&[0x82, 0x7F], 2, 1002),
        (&[0x89, 0xFE, 0, 126], 2, 1002),
        // Autobahn 6.4.3: F4 90 can be no character, whatever follows.
        (&bad_text, 6 + 9, 1007),
        (&too_big, 14, 1009),
    ];
    for (bytes, taken, code) in cases {
        assert_eq!(bytes_until_error(bytes), (taken, code), "{bytes:x?}");
    }
}

#[test]
fn payload_is_passed_on_before_the_frame_is_complete() {
    let bytes = frame(FIN | TEXT, b"0123456789");
    let mut reader = FrameReader::new(LIMITS);
    for (range, expected) in [(0..9, "012"), (9..10, "3"), (10..16, "456789")] {
        let mut input = BytesMut::from(&bytes[range]);
        assert_eq!(reader.next(&mut input), Ok(Some(data(expected.as_bytes()))));
        assert_eq!(reader.next(&mut input), Ok(None));
    }
}

#[test]
fn nothing_comes_after_an_error() {
    let mut reader = FrameReader::new(LIMITS);
    let mut input = BytesMut::from(&[frame(0xC1, b""), frame(FIN | TEXT, b"x")].concat()[..]);
    assert!(reader.next(&mut input).is_err());
    assert_eq!(reader.next(&mut input), Ok(None));
    assert_eq!(reader.next(&mut BytesMut::from(&frame(PING, b"")[..])), Ok(None));
}

#[test]
fn limits_are_exact_and_can_change() {
    let small = FrameLimits { message_bytes: 10, fragments: 2 };
    let in_two = |first: usize, second: usize| {
        [frame(BINARY, &vec![1; first]), frame(FIN, &vec![1; second])].concat()
    };
    let in_three = [frame(BINARY, b""), frame(0, b""), frame(FIN, b"")].concat();
    assert_eq!(run(small, &[&frame(FIN | BINARY, &[1; 10])]).1, None);
    assert_eq!(run(small, &[&frame(FIN | BINARY, &[1; 11])]).1, Some(WsError::TooBig));
    assert_eq!(run(small, &[&in_two(5, 5)]).1, None);
    assert_eq!(run(small, &[&in_two(5, 6)]).1, Some(WsError::TooBig));
    assert_eq!(run(small, &[&in_two(5, 5).repeat(3)]).1, None, "counted per message");
    assert_eq!(run(small, &[&in_three]).1, Some(WsError::Fragments));
    let mut reader = FrameReader::new(small);
    reader.set_limits(LIMITS);
    assert!(reader.next(&mut BytesMut::from(&frame(FIN | BINARY, &[1; 11])[..])).is_ok());
}

#[test]
fn an_idle_reader_is_small_and_holds_nothing() {
    assert!(size_of::<FrameReader>() <= 64, "{}", size_of::<FrameReader>());
    let mut reader = FrameReader::new(LIMITS);
    let bytes = frame(PING, &[b'x'; 125]);
    let (most, last) = bytes.split_at(bytes.len() - 1);
    assert_eq!(reader.next(&mut BytesMut::from(most)), Ok(None));
    assert!(reader.partial.is_some());
    assert_eq!(reader.next(&mut BytesMut::from(last)), Ok(Some(ping(&[b'x'; 125]))));
    assert!(reader.partial.is_none());
}

#[test]
fn unmasks_every_length_and_turn() {
    for length in 0..40 {
        let plain: Vec<u8> = (0..length).collect();
        let mut masked = frame(FIN | BINARY, &plain).split_off(6);
        unmask(&mut masked, MASK);
        assert_eq!(masked, plain);
    }
}

#[test]
fn writes_frames_that_another_implementation_reads() {
    use tungstenite::protocol::frame::FrameHeader;
    use tungstenite::protocol::frame::coding::{Data, OpCode};
    for length in [0, 1, 125, 126, 0xFFFF, 0x1_0000, 5_000_000_000] {
        let mut out = Vec::new();
        write_head(&mut out, Opcode::Text, length);
        let written = out.len() as u64;
        let mut cursor = std::io::Cursor::new(out);
        let (header, read) = FrameHeader::parse(&mut cursor).unwrap().unwrap();
        assert_eq!((read, cursor.position()), (length as u64, written));
        let expected =
            FrameHeader { opcode: OpCode::Data(Data::Text), mask: None, ..FrameHeader::default() };
        assert_eq!(header, expected);
    }
}

#[test]
fn writes_control_frames() {
    type Write = fn(&mut Vec<u8>);
    let cases: [(Write, &[u8]); 4] = [
        (|out| write_ping(out, b"ab"), b"\x89\x02ab"),
        (|out| write_pong(out, b""), b"\x8a\x00"),
        (|out| write_close(out, 1000, ""), b"\x88\x02\x03\xe8"),
        (|out| write_close(out, 4500, "slow"), b"\x88\x06\x11\x94slow"),
    ];
    for (write, expected) in cases {
        let mut out = Vec::new();
        write(&mut out);
        assert_eq!(out, expected);
    }
    let mut out = Vec::new();
    write_close(&mut out, 1002, &"ü".repeat(100));
    assert_eq!((out[1], out.len()), (124, 126), "cut at a character");
    assert_eq!(&out[4..], "ü".repeat(61).as_bytes());
    out.clear();
    write_pong(&mut out, &[7; 200]);
    assert_eq!((out[1], out.len()), (125, 127));
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

/// A message's fragments with control frames between them, and what is to be read of it.
fn message() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let payload = prop_oneof![
        ".{0,60}".prop_map(|text| (TEXT, text.into_bytes())),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| (BINARY, bytes)),
    ];
    (payload, prop::collection::vec(1_usize..200, 1..4), any::<bool>()).prop_map(
        |((opcode, payload), lengths, pings)| {
            let mut pieces = cut(&payload, &lengths);
            if pieces.len() > 8 || pieces.is_empty() {
                pieces = vec![&payload];
            }
            let mut bytes = Vec::new();
            for (index, piece) in pieces.iter().enumerate() {
                let opcode = if index == 0 { opcode } else { CONTINUATION };
                let fin = if index + 1 == pieces.len() { FIN } else { 0 };
                bytes.extend(frame(opcode | fin, piece));
                if pings {
                    bytes.extend(frame(PING, piece.get(..100).unwrap_or(piece)));
                }
            }
            (bytes, payload)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn messages_come_out_as_they_went_in_however_they_are_cut(
        messages in prop::collection::vec(message(), 1..4),
        lengths in prop::collection::vec(1_usize..150, 1..8),
    ) {
        let bytes: Vec<u8> = messages.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let payload: Vec<u8> = messages.iter().flat_map(|(_, payload)| payload.clone()).collect();
        let (events, error) = run(LIMITS, &cut(&bytes, &lengths));
        prop_assert_eq!(error, None);
        let mut read = Vec::new();
        for event in &events {
            if let WsEvent::Data(data) = event {
                read.extend_from_slice(data);
            }
        }
        prop_assert_eq!(read, payload);
        prop_assert_eq!(events, run(LIMITS, &[&bytes]).0);
    }

    #[test]
    fn damaged_and_random_bytes_have_one_outcome_however_they_are_cut(
        messages in prop::collection::vec(message(), 0..3),
        noise in prop::collection::vec(any::<u8>(), 0..60),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        lengths in prop::collection::vec(1_usize..50, 1..8),
    ) {
        let mut bytes: Vec<u8> = messages.into_iter().flat_map(|(bytes, _)| bytes).collect();
        bytes.extend(noise);
        for (at, byte) in damage {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        let (whole, error) = run(LIMITS, &[&bytes]);
        let (events, cut_error) = run(LIMITS, &cut(&bytes, &lengths));
        prop_assert_eq!(cut_error, error);
        if error.is_none() {
            prop_assert_eq!(events, whole);
        }
    }
}
