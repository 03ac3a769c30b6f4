//! `websocket.write_delay`: fewer writes for a little latency, where somebody wants that.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::Sleep;

use crate::transport::Kind;

use super::{Driver, TURN_BYTES};

/// While what is in the mailbox waits for more.
pub(super) type Gathering = Option<Pin<Box<Sleep>>>;

impl Driver {
    /// Waits until the first message in the mailbox has had its time to be joined by others. The
    /// mailbox wakes nobody meanwhile, so that all of them cost one turn and one write. A full
    /// turn does not wait.
    pub(super) fn poll_gathered(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let delay = self.services.limits.write_delay;
        if delay.is_zero() || self.transport.kind() != Kind::WebSocket {
            return Poll::Ready(());
        }
        let (messages, bytes) = self.mailbox.depth();
        if bytes >= TURN_BYTES {
            self.gathering = None;
        } else if messages > 0 && self.gathering.is_none() {
            self.gathering = Some(Box::pin(tokio::time::sleep(delay)));
        }
        let Some(gathering) = &mut self.gathering else { return Poll::Ready(()) };
        gathering.as_mut().poll(cx).map(|()| self.gathering = None)
    }
}
