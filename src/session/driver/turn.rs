//! What a turn of a driver works with.

use std::cell::Cell;
use std::sync::Arc;

use crate::message::Message;
use crate::relay::mailbox::Token;
use crate::session::Action;

/// What a thread keeps from turn to turn.
const SCRATCH_BYTES: usize = 256 * 1024;
const SCRATCH_ACTIONS: usize = 1024;

/// What a turn works with. Its buffers are the thread's, so that no turn waits for memory and no
/// session keeps any.
#[derive(Default)]
pub(super) struct Turn {
    pub(super) scratch: Vec<u8>,
    pub(super) head: Vec<u8>,
    pub(super) actions: Vec<Action>,
    /// Empty; the room of actions that were done.
    pub(super) done: Vec<Action>,
    /// There is something of STOMP in `scratch`: a PING is no heart-beat that a page could see.
    pub(super) speaks: bool,
    /// MESSAGEs in `scratch`.
    pub(super) delivered: u64,
    /// SENDs to one topic that are not published yet.
    pub(super) burst: Vec<(Token, Arc<Message>)>,
    pub(super) burst_bytes: usize,
}

thread_local! {
    static TURN: Cell<Turn> = Cell::default();
}

impl Turn {
    pub(super) fn take() -> Self {
        TURN.take()
    }

    /// What the next turn of this thread may use again; what grew beyond a usual turn goes.
    pub(super) fn give_back(mut self) {
        self.scratch.clear();
        self.head.clear();
        self.actions.clear();
        if self.scratch.capacity() <= SCRATCH_BYTES
            && self.actions.capacity() <= SCRATCH_ACTIONS
            && self.done.capacity() <= SCRATCH_ACTIONS
        {
            TURN.set(Self { speaks: false, delivered: 0, ..self });
        }
    }
}
