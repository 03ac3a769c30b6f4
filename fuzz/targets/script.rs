//! What several clients do, written as bytes: those that a client sends stand as they are, so
//! that a fuzzer's words and changes mean something; everything else begins with 0xFF.
//!
//! | bytes | |
//! |---|---|
//! | the first | bit 0: small limits, 1: WebSocket, 2-3: subprotocol |
//! | `FF 0` to `FF 3` | what follows is about that client; it connects if it is not there |
//! | `FF \|` | the piece ends here |
//! | `FF f A B C` | the client sends the frame that these three bytes name (`frames.rs`) |
//! | `FF x` | the client's socket is gone |
//! | `FF c` | the client stops reading, or goes on |
//! | `FF r` | the client reads what is there for it; it does so after whatever it does |
//! | `FF d` | the time goes on to the client's next deadline |
//! | `FF t N` | the time goes on by 2^N milliseconds, N modulo 24 |
//! | `FF s` | the broker's housekeeping |
//! | `FF FF` | the byte FF |

use std::borrow::Cow;

pub(crate) const CLIENTS: usize = 4;
const MARK: u8 = 0xFF;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    /// The client that the next steps are about.
    Client(usize),
    Bytes(Cow<'a, [u8]>),
    Frame([u8; 3]),
    Drop,
    Cork,
    Read,
    Deadline,
    Time(u8),
    Sweep,
}

/// The steps of an input without its first byte. Every input is a script.
pub(crate) fn read(mut input: &[u8]) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    while let Some(&first) = input.first() {
        if first != MARK || input.get(1) == Some(&MARK) {
            let (piece, rest) = piece(input);
            steps.push(Step::Bytes(piece));
            input = rest;
            continue;
        }
        let argument = input.get(2).copied();
        let (step, length) = match (input.get(1), argument) {
            (Some(&client @ b'0'..=b'3'), _) => (Some(Step::Client(usize::from(client - b'0'))), 2),
            (Some(b'x'), _) => (Some(Step::Drop), 2),
            (Some(b'c'), _) => (Some(Step::Cork), 2),
            (Some(b'r'), _) => (Some(Step::Read), 2),
            (Some(b'd'), _) => (Some(Step::Deadline), 2),
            (Some(b's'), _) => (Some(Step::Sweep), 2),
            (Some(b't'), Some(argument)) => (Some(Step::Time(argument)), 3),
            (Some(b'f'), _) => {
                let name = input.get(2..).and_then(|rest| rest.first_chunk()).copied();
                (name.map(Step::Frame), 5)
            }
            _ => (None, 2),
        };
        steps.extend(step);
        input = input.get(length..).unwrap_or_default();
    }
    steps
}

/// Bytes up to the next mark that is none of them.
fn piece(input: &[u8]) -> (Cow<'_, [u8]>, &[u8]) {
    let plain = input.iter().position(|byte| *byte == MARK).unwrap_or(input.len());
    if input.get(plain + 1) != Some(&MARK) {
        let (piece, rest) = input.split_at(plain);
        return (Cow::Borrowed(piece), rest);
    }
    let mut piece = Vec::new();
    let mut rest = input;
    loop {
        match rest {
            [MARK, MARK, after @ ..] => {
                piece.push(MARK);
                rest = after;
            }
            [] | [MARK, ..] => return (Cow::Owned(piece), rest),
            [byte, after @ ..] => {
                piece.push(*byte);
                rest = after;
            }
        }
    }
}

/// The input that has these steps, less its first byte.
pub(crate) fn write(steps: &[Step<'_>]) -> Vec<u8> {
    let mut input = Vec::new();
    let mut after_bytes = false;
    for step in steps {
        let is_bytes = matches!(step, Step::Bytes(_));
        if after_bytes && is_bytes {
            input.extend([MARK, b'|']);
        }
        after_bytes = is_bytes;
        match step {
            Step::Client(client) => input.extend([MARK, b'0' + u8::try_from(*client).unwrap_or(3)]),
            Step::Bytes(bytes) => {
                for &byte in bytes.iter() {
                    input.extend(std::iter::repeat_n(byte, if byte == MARK { 2 } else { 1 }));
                }
            }
            Step::Frame([a, b, c]) => input.extend([MARK, b'f', *a, *b, *c]),
            Step::Drop => input.extend([MARK, b'x']),
            Step::Cork => input.extend([MARK, b'c']),
            Step::Read => input.extend([MARK, b'r']),
            Step::Deadline => input.extend([MARK, b'd']),
            Step::Time(argument) => input.extend([MARK, b't', *argument]),
            Step::Sweep => input.extend([MARK, b's']),
        }
    }
    input
}
