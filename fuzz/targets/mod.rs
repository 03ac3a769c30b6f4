//! What the fuzzer calls with its inputs. `cargo test` calls the same with the inputs that are
//! kept, and properties with inputs of their own. Each panics where an oracle is not satisfied.

#![allow(dead_code, reason = "each program uses its part of it")]

pub(crate) mod decoder;
pub(crate) mod destination;
pub(crate) mod frames;
pub(crate) mod script;
pub(crate) mod session;
pub(crate) mod websocket;

/// A target's name, and what it does with an input.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// All of them. The fuzzer has a program for each.
pub(crate) const ALL: [Target; 4] = [
    ("decoder", decoder::run),
    ("session", session::run),
    ("websocket", websocket::run),
    ("destination", destination::run),
];

/// Lengths of pieces as an input writes them; 0 is 256.
fn lengths(bytes: &[u8]) -> Vec<usize> {
    bytes.iter().map(|&byte| if byte == 0 { 256 } else { byte.into() }).collect()
}

/// Cuts into pieces of the given lengths, over and over; without any there is one piece.
fn cut<'a>(bytes: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    if lengths.is_empty() {
        return vec![bytes];
    }
    let mut pieces = Vec::new();
    let mut rest = bytes;
    for &length in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at(length.clamp(1, rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces
}
