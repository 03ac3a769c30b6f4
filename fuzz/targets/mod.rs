//! What the fuzzer calls with its inputs. `cargo test` calls the same with the inputs that are
//! kept, and properties with inputs of their own. Each panics where an oracle is not satisfied.

#![allow(dead_code, reason = "each program uses its part of it")]

pub(crate) mod decoder;
