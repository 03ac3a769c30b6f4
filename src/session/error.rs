//! What ends a session or refuses a frame, and how the client is told.

use crate::relay::error::{Refusal, RefusalKind};
use crate::stomp::{DecodeError, Reaction};

/// WebSocket close codes, as design and RFC 6455 section 7.4 have them.
pub(super) mod code {
    pub(crate) const NORMAL: u16 = 1000;
    pub(crate) const PROTOCOL: u16 = 1002;
    pub(crate) const UTF8: u16 = 1007;
    pub(crate) const POLICY: u16 = 1008;
    pub(crate) const TOO_BIG: u16 = 1009;
    pub(crate) const TRY_LATER: u16 = 1013;
}

/// A frame that breaks the protocol. Always answered by ERROR, then close.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub message: &'static str,
    pub body: String,
    pub code: u16,
    pub receipt: Option<String>,
}

impl Violation {
    pub(super) fn new(message: &'static str, body: impl Into<String>) -> Self {
        Self { message, body: body.into(), code: code::PROTOCOL, receipt: None }
    }
}

impl From<DecodeError> for Violation {
    fn from(error: DecodeError) -> Self {
        let (message, body) = error.text();
        let code = match error.reaction() {
            Reaction::Syntax => code::PROTOCOL,
            Reaction::TooBig => code::TOO_BIG,
            Reaction::Limit => code::POLICY,
            Reaction::Utf8 => code::UTF8,
        };
        Self { message, body, code, receipt: error.receipt().map(str::to_owned) }
    }
}

/// How a refusal is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// ERROR, then close: the specification's way.
    Close,
    /// A MESSAGE on `/user/queue/errors`; the session lives.
    Message,
}

/// `[errors]`: the answer to each kind of refusal.
#[derive(Clone, Copy, Debug)]
pub struct Errors {
    pub denied: OnError,
    pub unknown_destination: OnError,
    pub unroutable: OnError,
    pub limit: OnError,
    pub outage: OnError,
    pub store: OnError,
    pub cancelled: OnError,
}

impl Default for Errors {
    fn default() -> Self {
        Self {
            denied: OnError::Close,
            unknown_destination: OnError::Close,
            unroutable: OnError::Close,
            limit: OnError::Close,
            outage: OnError::Message,
            store: OnError::Message,
            cancelled: OnError::Message,
        }
    }
}

impl Errors {
    pub(super) fn on(&self, kind: RefusalKind) -> OnError {
        match kind {
            RefusalKind::Denied => self.denied,
            RefusalKind::UnknownDestination => self.unknown_destination,
            RefusalKind::Unroutable => self.unroutable,
            RefusalKind::Limit => self.limit,
            RefusalKind::Outage => self.outage,
            RefusalKind::Store => self.store,
            RefusalKind::Cancelled => self.cancelled,
        }
    }
}

/// The close code that goes with a refusal.
pub(super) fn close_code(refusal: &Refusal) -> u16 {
    match refusal.kind {
        RefusalKind::Outage | RefusalKind::Store => code::TRY_LATER,
        RefusalKind::Denied
        | RefusalKind::UnknownDestination
        | RefusalKind::Unroutable
        | RefusalKind::Limit
        | RefusalKind::Cancelled => code::POLICY,
    }
}
