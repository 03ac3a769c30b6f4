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

/// There is no such queue or exchange. RabbitMQ's word.
#[must_use]
pub fn not_found(what: &str, name: &str) -> Refusal {
    let body = format!("NOT_FOUND - no {what} '{name}'\n");
    Refusal::new(RefusalKind::Unroutable, "not_found", body)
}

/// The queue is another session's alone. RabbitMQ's word.
#[must_use]
pub fn resource_locked(queue: &str) -> Refusal {
    let body =
        format!("RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{queue}'\n");
    Refusal::new(RefusalKind::Denied, "resource_locked", body)
}

/// The queue is there, and is not as it was asked for. RabbitMQ's word.
#[must_use]
pub fn precondition_failed(queue: &str, argument: &str) -> Refusal {
    let body = format!("PRECONDITION_FAILED - inequivalent arg '{argument}' for queue '{queue}'\n");
    Refusal::new(RefusalKind::Denied, "precondition_failed", body)
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.message)
    }
}
