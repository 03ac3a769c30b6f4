//! Why somebody is not let in, and what they are told of it.

use std::time::Duration;

use http::StatusCode;

/// Why somebody is not let in. What the client is told is fixed per variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// No credentials at all.
    Missing,
    /// Wrong ones; `user` is who they claimed to be, empty where that was not said.
    Refused { user: String },
    /// Too many failures from that address for that user, or too many logins under way.
    TooMany { retry_after: Duration },
    /// Two credentials of different users.
    Conflict,
    /// What decides is away.
    Unavailable,
}

impl AuthError {
    /// `Refused` for that claimed name.
    #[must_use]
    pub fn refused(user: &str) -> Self {
        Self::Refused { user: user.to_owned() }
    }

    /// The status of the HTTP answer.
    #[must_use]
    pub const fn http_status(&self) -> StatusCode {
        match self {
            Self::Missing | Self::Refused { .. } => StatusCode::UNAUTHORIZED,
            Self::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Conflict => StatusCode::BAD_REQUEST,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The `message` header and the body of the ERROR, RabbitMQ's where it has one.
    #[must_use]
    pub fn stomp_text(&self) -> (&'static str, String) {
        match self {
            Self::Missing => ("Bad CONNECT", "Missing login or passcode header(s)\n".into()),
            Self::Refused { user } if user.is_empty() => ("Bad CONNECT", "Access refused\n".into()),
            Self::Refused { user } => {
                let shown = user.chars().filter(|char| !char.is_control()).take(128);
                let shown: String = shown.collect();
                ("Bad CONNECT", format!("Access refused for user '{shown}'\n"))
            }
            Self::TooMany { retry_after } => {
                // Rounded up: whoever waits that long may try again.
                let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
                ("Too many logins", format!("Try again in {} s\n", seconds.max(1)))
            }
            Self::Conflict => ("Bad CONNECT", "Credentials of different users\n".into()),
            Self::Unavailable => ("Login unavailable", "Try again later\n".into()),
        }
    }
}
