//! Connections for consumers: as many as their channels need.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::connection::{Keeper, Link, Shared};

/// lapin looks at every channel of a connection for each frame it writes, and one connection's
/// end should not be everybody's.
const CHANNELS: usize = 250;
/// RabbitMQ takes 2,047 on a connection, of which closed ones spoil some.
const MOST_CHANNELS: usize = 1_400;

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
    home: Option<Arc<Home>>,
}

/// The connection that seats beside each other keep while it lives, also where the keeper has
/// another one for those who come new: what is there is theirs on this one only.
#[derive(Debug, Default)]
struct Home(Mutex<Option<Arc<Link>>>);

impl Home {
    fn link(&self) -> Option<Arc<Link>> {
        self.lock().clone().filter(|link| link.is_alive())
    }

    /// Whoever comes first says which it is.
    fn settle(&self, new: Arc<Link>) -> Arc<Link> {
        let mut link = self.lock();
        if let Some(link) = link.as_ref().filter(|link| link.is_alive()) {
            return link.clone();
        }
        *link = Some(new.clone());
        new
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Link>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        Seat { pool: self.clone(), keeper, home: None }
    }

    /// The same for somebody whose seats keep to one connection.
    pub(super) fn home(self: &Arc<Self>) -> Seat {
        let mut seat = self.seat();
        seat.home = Some(Arc::default());
        seat
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// The connection, waiting until it is there. `None` at the end.
    pub(super) async fn link(&self) -> Option<Arc<Link>> {
        let Some(home) = &self.home else { return self.keeper.link().await };
        match home.link() {
            Some(link) => Some(link),
            None => Some(home.settle(self.keeper.link().await?)),
        }
    }

    /// The connection that it has kept to, where that is still there.
    pub(super) fn kept(&self) -> Option<Arc<Link>> {
        self.home.as_ref()?.link()
    }

    /// Another one on the same connection. `None` where that has too many.
    pub(super) fn beside(&self) -> Option<Self> {
        let mut slots = self.pool.slots();
        if let Some(slot) = slots.iter_mut().find(|slot| Arc::ptr_eq(&slot.keeper, &self.keeper)) {
            if slot.seats >= MOST_CHANNELS {
                return None;
            }
            slot.seats += 1;
        }
        let (pool, keeper, home) = (self.pool.clone(), self.keeper.clone(), self.home.clone());
        Some(Self { pool, keeper, home })
    }

    /// Whether somebody who has nothing there yet should look for another connection.
    pub(super) fn is_spent(&self) -> bool {
        let slots = self.pool.slots();
        let slot = slots.iter().find(|slot| Arc::ptr_eq(&slot.keeper, &self.keeper));
        slot.is_some_and(|slot| slot.seats > CHANNELS)
            || self.kept().is_some_and(|link| self.keeper.has_another(&link))
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
