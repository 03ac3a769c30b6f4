//! A load generator for STOMP servers that costs less than what it measures.
//!
//! Connections are bare sockets; frames are written ready-made, and read by finding their ends.
//! Each message carries when it was due, so that a late one counts as late.

pub mod churn;
pub mod cli;
pub mod clock;
pub mod connect;
pub mod connection;
pub mod floor;
pub mod idle;
pub mod load;
pub mod process;
pub mod report;
pub mod stamp;
pub mod table;
pub mod wire;

/// Why a run could not be done, for whoever started it.
#[derive(Debug)]
pub struct Failure(pub String);

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Failure {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// The result of whatever may fail here.
pub type Result<T> = std::result::Result<T, Failure>;
