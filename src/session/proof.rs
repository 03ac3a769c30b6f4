//! What was written and is not sure to have arrived.
//!
//! A message that was pushed into a dead socket is not delivered. On WebSocket the answer to a
//! PING proves all that was written before it; on TCP the kernel says what the peer's kernel has
//! acknowledged; over SockJS the client's next request proves what the one before it got. Deliveries of a broker's queue are settled once this side's kernel took them.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::message::Message;
use crate::persistence::UnreadId;
use crate::relay::mailbox::SubscriptionNumber;

use super::Wire;

/// A delivery that the broker waits for.
#[derive(Debug)]
pub(super) struct Settled {
    pub subscription: SubscriptionNumber,
    pub queue: Arc<str>,
    pub tag: u64,
}

#[derive(Debug)]
struct Unproven {
    /// The stream's length when it is written.
    end: u64,
    message: Arc<Message>,
    unread_id: Option<UnreadId>,
}

/// The books of one connection.
#[derive(Debug)]
pub(super) struct Proofs {
    wire: Wire,
    /// Bytes that the kernel took.
    written: u64,
    unsettled: VecDeque<(u64, Settled)>,
    unproven: VecDeque<Unproven>,
    proven: Vec<(Arc<Message>, Option<UnreadId>)>,
    /// The PING under way, and how many of `unproven` it will prove.
    ping: Option<(u32, usize)>,
    next_ping: u32,
}

impl Proofs {
    pub(super) fn new(wire: Wire) -> Self {
        Self {
            wire,
            written: 0,
            unsettled: VecDeque::new(),
            unproven: VecDeque::new(),
            proven: Vec::new(),
            ping: None,
            next_ping: 0,
        }
    }

    /// A delivery whose last byte is `pending` bytes from what the kernel took.
    pub(super) fn settle(&mut self, pending: u64, settled: Settled) {
        self.unsettled.push_back((self.written + pending, settled));
    }

    /// A message of the user, likewise.
    pub(super) fn prove(
        &mut self,
        pending: u64,
        message: Arc<Message>,
        unread_id: Option<UnreadId>,
    ) {
        let end = self.written + pending;
        self.unproven.push_back(Unproven { end, message, unread_id });
    }

    /// The kernel took bytes: the deliveries in them are settled.
    pub(super) fn written(&mut self, bytes: u64) -> Vec<Settled> {
        self.written += bytes;
        let done = self.unsettled.partition_point(|(end, _)| *end <= self.written);
        let settled = self.unsettled.drain(..done).map(|(_, settled)| settled).collect();
        if self.unsettled.is_empty() {
            self.unsettled = VecDeque::new();
        }
        settled
    }

    /// Whether a PING should follow what was written: one at a time.
    pub(super) fn wants_ping(&self) -> bool {
        self.wire == Wire::WebSocket && !self.unproven.is_empty() && self.ping.is_none()
    }

    /// Whether a PING is under way.
    pub(super) fn is_pinging(&self) -> bool {
        self.ping.is_some()
    }

    /// The payload of a PING that is written now; none where one is under way.
    pub(super) fn ping(&mut self) -> Option<[u8; 4]> {
        if self.ping.is_some() {
            return None;
        }
        let number = self.next_ping;
        self.next_ping = number.wrapping_add(1);
        self.ping = Some((number, self.unproven.len()));
        Some(number.to_be_bytes())
    }

    /// A PONG came. One that answers no PING of ours proves nothing.
    pub(super) fn ponged(&mut self, payload: &[u8]) {
        let Some((number, covered)) = self.ping else { return };
        if payload == number.to_be_bytes() {
            self.ping = None;
            self.prove_first(covered);
        }
    }

    /// Whether the transport is to be asked what has arrived.
    pub(super) fn wants_asking(&self) -> bool {
        self.wire != Wire::WebSocket && !self.unproven.is_empty()
    }

    /// `open` bytes that the transport took are not acknowledged.
    pub(super) fn acknowledged(&mut self, open: u64) {
        let arrived = self.written.saturating_sub(open);
        self.prove_first(self.unproven.partition_point(|unproven| unproven.end <= arrived));
    }

    pub(super) fn take_proven(&mut self) -> Vec<(Arc<Message>, Option<UnreadId>)> {
        std::mem::take(&mut self.proven)
    }

    /// At the end: messages that are neither proven nor stored.
    pub(super) fn unproven(&mut self) -> Vec<Arc<Message>> {
        let unproven = std::mem::take(&mut self.unproven).into_iter();
        unproven.filter(|entry| entry.unread_id.is_none()).map(|entry| entry.message).collect()
    }

    /// At the end: deliveries that the kernel never took.
    pub(super) fn unsettled(&mut self) -> impl Iterator<Item = Settled> {
        std::mem::take(&mut self.unsettled).into_iter().map(|(_, settled)| settled)
    }

    fn prove_first(&mut self, count: usize) {
        let proven = self.unproven.drain(..count.min(self.unproven.len()));
        self.proven.extend(proven.map(|entry| (entry.message, entry.unread_id)));
        if self.unproven.is_empty() {
            self.unproven = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::Destination;
    use crate::stomp::Headers;
    use bytes::Bytes;

    fn message() -> Arc<Message> {
        let destination = Destination::for_send("/user/bob/queue/x").unwrap();
        Arc::new(Message::new(destination, "".into(), Headers::default(), Bytes::new()))
    }

    #[test]
    fn a_pong_proves_what_was_written_before_its_ping() {
        let mut proofs = Proofs::new(Wire::WebSocket);
        proofs.prove(10, message(), None);
        assert!(proofs.wants_ping());
        let first = proofs.ping().unwrap();
        proofs.prove(20, message(), None);
        proofs.prove(30, message(), Some(7));
        assert!(!proofs.wants_ping());
        proofs.ponged(b"none of ours");
        assert_eq!(proofs.take_proven().len(), 0);
        proofs.ponged(&first);
        assert_eq!(proofs.take_proven().len(), 1);
        assert!(proofs.wants_ping());
        assert_eq!(proofs.unproven().len(), 1);
    }

    #[test]
    fn tcp_proves_what_is_acknowledged() {
        let mut proofs = Proofs::new(Wire::Tcp);
        for pending in [10, 20, 30] {
            proofs.prove(pending, message(), None);
        }
        proofs.written(25);
        proofs.acknowledged(5);
        assert_eq!(proofs.take_proven().len(), 2);
        proofs.written(5);
        proofs.acknowledged(0);
        assert_eq!(proofs.take_proven().len(), 1);
        assert!(!proofs.wants_asking());
    }

    #[test]
    fn settled_once_the_kernel_took_it() {
        let mut proofs = Proofs::new(Wire::Tcp);
        let queue: Arc<str> = Arc::from("q");
        for (end, tag) in [(10, 1), (20, 2)] {
            proofs.settle(end, Settled { subscription: 0, queue: queue.clone(), tag });
        }
        let tags = |settled: Vec<Settled>| settled.iter().map(|s| s.tag).collect::<Vec<_>>();
        assert_eq!(tags(proofs.written(9)), [] as [u64; 0]);
        assert_eq!(tags(proofs.written(5)), [1]);
        assert_eq!(tags(proofs.unsettled().collect()), [2]);
    }
}
