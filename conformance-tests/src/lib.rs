//! STOMP transcripts, and the runner that plays them to a server.
//!
//! ```text
//! transcripts/*.stomp -> transcript (parse) -> Case -> Runner -> Report
//!                                                       |  ^
//!                                play -> connection (TCP, TLS, WebSocket) -> reader (frames)
//! ```
//!
//! Nothing here uses stomp-relay's own codec: a server's codec cannot judge that server.
//! `README.md` beside `Cargo.toml` explains the transcripts.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod compare;
mod connection;
mod dial;
mod expected;
mod play;
mod preflight;
mod profile;
mod reader;
mod report;
mod runner;
mod secrets;
mod sockjs;
mod target;
mod template;
mod tls;
mod trace;
mod transcript;
mod transcripts;
mod wrong;

pub use dial::Stream;
pub use expected::{Difference, Expected, ExpectedError};
pub use preflight::{Greeting, PreflightError, preflight};
pub use profile::{Profile, ProfileError};
pub use report::{Counts, Failure, Outcome, Report, Verdict};
pub use runner::{Filter, Runner, Running, run_all};
pub use target::{Target, TargetError};
pub use tls::{Tls, TlsError};
pub use trace::TraceLine;
pub use transcript::{Case, Level, ParseError, Transport, Version, parse};
pub use transcripts::all_cases;
