//! Instruction counts of the message path, and their comparison with what they were.
//!
//! Times differ from machine to machine and from minute to minute; the instructions of one thread
//! do not. `main.rs` runs itself under valgrind's callgrind, once for each case.

pub mod baseline;
pub mod cases;
mod session;
