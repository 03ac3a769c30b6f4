//! Why a broker, a store or a rule did not do what a frame asked for.

use std::fmt;

/// The kinds of refusal that `errors.<kind>` configures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// A rule said no.
    Denied,
    UnknownDestination,
    /// RabbitMQ has no queue for it.
    Unroutable,
    Limit,
    /// The broker is away, or a queue is full.
    Outage,
    /// The store is away.
    Store,
    /// A subscription that the server ended.
    Cancelled,
}

impl RefusalKind {
    /// The name in the config and in `x-error`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::UnknownDestination => "unknown_destination",
            Self::Unroutable => "unroutable",
            Self::Limit => "limit",
            Self::Outage => "outage",
            Self::Store => "store",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A refusal as its sender sees it. Holds no text of an upstream: that belongs in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub kind: RefusalKind,
    /// The ERROR's `message` header.
    pub message: &'static str,
    /// The ERROR's body.
    pub body: String,
}

impl Refusal {
    #[must_use]
    pub fn new(kind: RefusalKind, message: &'static str, body: impl Into<String>) -> Self {
        Self { kind, message, body: body.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.message)
    }
}
