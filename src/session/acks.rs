//! Deliveries that wait for ACK or NACK.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::message::Message;
use crate::persistence::UnreadId;
use crate::relay::mailbox::SubscriptionNumber;

/// What an ACK settles.
#[derive(Clone, Debug)]
pub(super) enum Settles {
    /// A delivery of a broker's queue; it outlives its subscription.
    Tag { tag: u64, queue: Arc<str> },
    /// A message of the user, with its id where it is stored.
    User { message: Arc<Message>, unread_id: Option<UnreadId> },
    /// A topic's message: nobody hears of its ACK.
    Nothing,
}

#[derive(Clone, Debug)]
pub(super) struct Unacked {
    pub(super) subscription: SubscriptionNumber,
    /// An ACK of it settles what came before it on its subscription too.
    pub(super) is_cumulative: bool,
    pub(super) settles: Settles,
    pub(super) since: Instant,
}

/// The ledger of one session. Ids are consecutive, so that one that was settled can be told from
/// one that never was.
#[derive(Debug, Default)]
pub(super) struct Acks {
    next: u64,
    open: BTreeMap<u64, Unacked>,
}

/// What an id is.
#[derive(Debug)]
pub(super) enum Found {
    Open(SubscriptionNumber),
    /// Settled before, or its delivery is gone.
    Past,
    /// This session never had it.
    Never,
}

impl Acks {
    pub(super) fn add(&mut self, unacked: Unacked) -> u64 {
        let id = self.next;
        self.next += 1;
        self.open.insert(id, unacked);
        id
    }

    pub(super) fn find(&self, id: u64) -> Found {
        match self.open.get(&id) {
            Some(unacked) => Found::Open(unacked.subscription),
            None if id < self.next => Found::Past,
            None => Found::Never,
        }
    }

    pub(super) fn is_cumulative(&self, id: u64) -> bool {
        self.open.get(&id).is_some_and(|unacked| unacked.is_cumulative)
    }

    pub(super) fn take(&mut self, id: u64) -> Vec<Unacked> {
        self.open.remove(&id).into_iter().collect()
    }

    /// That delivery and all before it of the same subscription (1.2, "ack:client").
    pub(super) fn take_up_to(&mut self, id: u64, subscription: SubscriptionNumber) -> Vec<Unacked> {
        let ids: Vec<u64> = self
            .open
            .range(..=id)
            .filter(|(_, unacked)| unacked.subscription == subscription)
            .map(|(id, _)| *id)
            .collect();
        ids.into_iter().filter_map(|id| self.open.remove(&id)).collect()
    }

    /// All of one subscription.
    pub(super) fn take_of(&mut self, subscription: SubscriptionNumber) -> Vec<Unacked> {
        self.take_up_to(u64::MAX, subscription)
    }

    pub(super) fn take_all(&mut self) -> Vec<Unacked> {
        std::mem::take(&mut self.open).into_values().collect()
    }

    pub(super) fn give_back(&mut self) {
        if self.open.is_empty() {
            // One that was emptied keeps its root.
            self.open = BTreeMap::new();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// The one that has waited longest.
    pub(super) fn oldest(&self) -> Option<&Unacked> {
        self.open.first_key_value().map(|(_, unacked)| unacked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cumulative_within_the_subscription() {
        let mut acks = Acks::default();
        let since = Instant::now();
        for subscription in [1, 2, 1, 2, 1] {
            acks.add(Unacked {
                subscription,
                is_cumulative: true,
                settles: Settles::Nothing,
                since,
            });
        }
        assert_eq!(acks.take_up_to(2, 1).len(), 2);
        assert!(matches!(acks.find(0), Found::Past));
        assert!(matches!(acks.find(1), Found::Open(2)));
        assert!(matches!(acks.find(5), Found::Never));
        assert_eq!(acks.take(1).len(), 1);
        assert_eq!((acks.take(1).len(), acks.len()), (0, 2));
    }
}
