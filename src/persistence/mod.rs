//! Unread messages: the one step that decides between pushing and keeping, and what pulls them.
//!
//! A store applies operations in order. Each is atomic; presence is the store's own state,
//! changed by operations only, so that no message falls between "was there" and "was kept".
//!
//! All stores mean the same by an operation:
//!
//! - Ids are consecutive per user and outlive everything, also a restart.
//! - An x-id is known while its message is stored and for one hour after it was read or dropped.
//! - The caps drop a user's oldest messages, never the one just kept: its sender is told that it
//!   is stored.
//! - A message past its age is as good as dropped from that moment on: not given, not counted,
//!   counted as truncated. The rows themselves go later, in small batches ("sweep").
//! - Of what was dropped the ids are remembered, as runs, so that `truncated` is exact. Above
//!   10,000 runs a user's oldest are merged into one number that counts for every target.

mod presence;
mod record;
mod redis;
mod sqlite;
mod store;

use std::sync::Arc;

use crate::message::Message;
pub use store::Store;

/// The id of an unread message: consecutive per user from 1, never used twice.
pub type UnreadId = u64;

/// When a message is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Whoever is there.
    Always,
    /// Only where no session of the user is present for the target.
    IfAbsent,
    /// Never; the step still says who is present, in order with the others.
    Never,
}

/// The target where a user's sessions hear of changes to what is unread.
pub const NOTICES: &str = "queue/unread";

/// One atomic step for one user.
#[derive(Clone, Debug)]
pub enum Op {
    /// Keeps a message (its destination is the user's; it has an x-id). One whose x-id is already
    /// kept, or was, for this user is not kept again.
    Append { message: Arc<Message>, keep: Keep },
    /// Reads stored messages of a target after an id. Where none is left, registers the session
    /// as present for the target: from the next operation on it is pushed to. A `limit` of 0 is
    /// taken as 1, since an empty page would mean that none is left.
    PageOrRegister { user: Arc<str>, target: Arc<str>, after: UnreadId, limit: u32, session: u64 },
    /// Registers the session as present.
    Register { user: Arc<str>, target: Arc<str>, session: u64 },
    /// One registration less; registrations of a session and target are counted.
    Unregister { user: Arc<str>, target: Arc<str>, session: u64 },
    /// Reads stored messages, of one target or of all; with a `limit` of 0 only the counts.
    Page { user: Arc<str>, target: Option<Arc<str>>, after: UnreadId, limit: u32 },
    /// Forgets messages that were read.
    MarkRead { user: Arc<str>, which: Which },
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// Unknown ids are fine.
    Ids(Vec<UnreadId>),
    /// Inclusive; of one target or of all.
    UpTo {
        id: UnreadId,
        target: Option<Arc<str>>,
    },
    All,
}

/// What a step did.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// `unread_id`: the id where it is stored, kept now (`new`) or before; `present`: somebody is
    /// there; `unread`: the user's messages now; `truncated`: how many the caps made go for it;
    /// `nodes`: the other nodes where somebody is there for the target; `hearers`: where it is
    /// new, the other nodes where somebody is there for [`NOTICES`].
    Appended {
        unread_id: Option<UnreadId>,
        new: bool,
        present: bool,
        unread: u64,
        truncated: u64,
        nodes: Vec<Arc<str>>,
        hearers: Vec<Arc<str>>,
    },
    /// Answer to `Page`, and to `PageOrRegister` where something was left.
    Page(Page),
    /// The session is present now (`PageOrRegister` found nothing, or `Register`).
    Registered,
    Unregistered,
    /// `removed`: how many really went; `unread`: how many are left; `hearers` as above.
    Read {
        removed: u64,
        unread: u64,
        hearers: Vec<Arc<str>>,
    },
}

/// Stored messages, oldest first: at most what was asked for, and at most [`PAGE_BYTES`] of bodies
/// (but at least one message).
#[derive(Clone, Debug, Default)]
pub struct Page {
    pub messages: Vec<Stored>,
    /// Stored messages after this page that the same question would find.
    pub left: u64,
    /// Messages with an id after the question's `after`, up to this page's last one, that the
    /// caps made go before they could be read; after an empty page all after `after`.
    pub truncated: u64,
}

/// A kept message.
#[derive(Clone, Debug)]
pub struct Stored {
    pub id: UnreadId,
    pub message: Arc<Message>,
    /// Milliseconds since 1970.
    pub created_at: i64,
}

/// How much is kept; the oldest go first.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// Per user.
    pub messages: u64,
    /// Per user, headers and body.
    pub bytes: u64,
    pub age: std::time::Duration,
    /// Of all users together.
    pub total_bytes: u64,
}

/// The most bytes of bodies on one page.
pub const PAGE_BYTES: usize = 1024 * 1024;
/// How long the x-id of a message that was read or dropped is remembered, in milliseconds: longer
/// than an unanswered delivery or an outage lasts.
const X_ID_MS: i64 = 60 * 60 * 1000;
/// The most runs of dropped ids remembered per user, and how many are merged beyond that.
const DROPPED_RUNS: usize = 10_000;
const DROPPED_MERGE: usize = 5_000;
/// The most rows one sweep takes.
const SWEEP_ROWS: u64 = 1_000;

/// A store could not do a batch of operations. Nothing of it counts as done; doing it again is
/// harmless, since appends are known by their x-id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Worth another try: away, locked, full, loading. The text is for the log only.
    #[error("{0}")]
    Unavailable(String),
    /// Never going to work: corrupt, of a newer version, not ours.
    #[error("{0}")]
    Broken(String),
}
