//! Who is at the door, and what they may do.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Somebody who is logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    pub name: Arc<str>,
    pub roles: Vec<String>,
    /// When the login ends by itself.
    pub expires_at: Option<SystemTime>,
}

/// Why somebody is not let in. The texts sent to the client are fixed per variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// No credentials at all.
    Missing,
    Refused,
    /// Too many failures from that address for that user, or too many logins under way.
    TooMany {
        retry_after: Duration,
    },
    /// Two credentials of different users.
    Conflict,
    /// What decides is away.
    Unavailable,
}
