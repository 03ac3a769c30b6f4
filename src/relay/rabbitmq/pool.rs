//! Connections for consumers: as many as their channels need.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::connection::{Keeper, Link, Shared};

/// lapin looks at every channel of a connection for each frame it writes, and one connection's
/// end should not be everybody's.
const CHANNELS: usize = 250;

#[derive(Debug)]
pub(super) struct Pool {
    shared: Arc<Shared>,
    name: &'static str,
    /// The first connection stays, so that the next subscription need not wait for one.
    keeps_first: bool,
    slots: Mutex<Vec<Slot>>,
}

#[derive(Debug)]
struct Slot {
    keeper: Arc<Keeper>,
    seats: usize,
}

/// The right to have one channel on a connection.
#[derive(Debug)]
pub(super) struct Seat {
    pool: Arc<Pool>,
    keeper: Arc<Keeper>,
}

impl Pool {
    /// Without a first connection there is none while nobody has a seat.
    pub(super) fn new(
        shared: &Arc<Shared>,
        name: &'static str,
        first: Option<Arc<Link>>,
    ) -> Arc<Self> {
        let keeps_first = first.is_some();
        let first = first.map(|link| {
            let keeper = Arc::new(Keeper::spawn(shared, name, Some(link)));
            Slot { keeper, seats: 0 }
        });
        let slots = Mutex::new(first.into_iter().collect());
        Arc::new(Self { shared: shared.clone(), name, keeps_first, slots })
    }

    /// A seat on the first connection that has one, a new one where none has.
    pub(super) fn seat(self: &Arc<Self>) -> Seat {
        let mut slots = self.slots();
        let keeper = match slots.iter_mut().find(|slot| slot.seats < CHANNELS) {
            Some(slot) => {
                slot.seats += 1;
                slot.keeper.clone()
            }
            None => {
                let keeper = Arc::new(Keeper::spawn(&self.shared, self.name, None));
                slots.push(Slot { keeper: keeper.clone(), seats: 1 });
                keeper
            }
        };
        Seat { pool: self.clone(), keeper }
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// The connection, waiting until it is there. `None` at the end.
    pub(super) async fn link(&self) -> Option<Arc<Link>> {
        self.keeper.link().await
    }

    /// The connection, where it is there now.
    pub(super) fn current(&self) -> Option<Arc<Link>> {
        self.keeper.current()
    }

    /// Another one on the same connection, however many it has.
    pub(super) fn beside(&self) -> Self {
        let mut slots = self.pool.slots();
        if let Some(slot) = slots.iter_mut().find(|slot| Arc::ptr_eq(&slot.keeper, &self.keeper)) {
            slot.seats += 1;
        }
        Self { pool: self.pool.clone(), keeper: self.keeper.clone() }
    }

    /// RabbitMQ closed a channel of that connection.
    pub(super) fn closed_channel(&self, link: &Link) {
        self.keeper.closed_channel(link);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut slots = self.pool.slots();
        let place = slots.iter().position(|slot| Arc::ptr_eq(&slot.keeper, &self.keeper));
        let Some((place, slot)) = place.and_then(|place| Some((place, slots.get_mut(place)?)))
        else {
            return;
        };
        slot.seats = slot.seats.saturating_sub(1);
        if slot.seats == 0 && (place > 0 || !self.pool.keeps_first) {
            slots.remove(place);
        }
    }
}
