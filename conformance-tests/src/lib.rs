//! STOMP transcripts, and the runner that plays them to a server.
//!
//! ```text
//! transcripts/*.stomp -> transcript (parse) -> Case -> Runner -> Report
//!                                                       |  ^
//!                                     connection (TCP, WebSocket) -> reader (frames)
//! ```
//!
//! Nothing here uses stomp-relay's own codec: a server's codec cannot judge that server.
//! `README.md` beside `Cargo.toml` explains the transcripts.

mod compare;
mod connection;
mod play;
mod profile;
mod reader;
mod report;
mod runner;
mod template;
mod transcript;
mod transcripts;

pub use connection::Stream;
pub use profile::{Difference, Profile, ProfileError};
pub use report::{Failure, Outcome, Report, Verdict};
pub use runner::{Filter, Runner, Target, TargetError, run_all};
pub use transcript::{Case, Level, ParseError, Transport, Version, parse};
pub use transcripts::all_cases;
