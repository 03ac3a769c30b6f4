//! What the fuzzer calls with its inputs. `cargo test` calls the same with the inputs that are
//! kept, and properties with inputs of their own. Each panics where an oracle is not satisfied.

#![allow(dead_code, reason = "each program uses its part of it")]

pub(crate) mod decoder;
pub(crate) mod destination;
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
