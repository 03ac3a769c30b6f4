//! Which sessions of this process are present, per user and target, counted.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use smallvec::SmallVec;

/// A user and a target.
pub(super) type Place = (Arc<str>, Arc<str>);

/// Changes stand until [`Presence::keep`] or [`Presence::undo`]: a batch that fails leaves no trace,
/// so that registrations are not counted twice when it is done again.
#[derive(Debug, Default)]
pub(super) struct Presence {
    sessions: HashMap<Place, SmallVec<[(u64, u32); 1]>>,
    journal: Vec<(Place, u64, Change)>,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Added,
    Removed,
}

impl Presence {
    pub(super) fn is_present(&self, place: &Place) -> bool {
        self.sessions.contains_key(place)
    }

    /// One registration more; whether it is the first at this place.
    pub(super) fn add(&mut self, place: Place, session: u64) -> bool {
        let first = self.count_up(&place, session);
        self.journal.push((place, session, Change::Added));
        first
    }

    /// One registration less; whether it was the last at this place. One that is not there is
    /// ignored.
    pub(super) fn remove(&mut self, place: Place, session: u64) -> bool {
        let Some(last) = self.count_down(&place, session) else { return false };
        self.journal.push((place, session, Change::Removed));
        last
    }

    pub(super) fn keep(&mut self) {
        self.journal.clear();
    }

    pub(super) fn undo(&mut self) {
        while let Some((place, session, change)) = self.journal.pop() {
            match change {
                Change::Added => {
                    self.count_down(&place, session);
                }
                Change::Removed => {
                    self.count_up(&place, session);
                }
            }
        }
    }

    /// Everywhere somebody is present.
    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        self.sessions.keys()
    }

    fn count_up(&mut self, place: &Place, session: u64) -> bool {
        let sessions = self.sessions.entry(place.clone()).or_default();
        let first = sessions.is_empty();
        match sessions.iter_mut().find(|(known, _)| *known == session) {
            Some((_, count)) => *count += 1,
            None => sessions.push((session, 1)),
        }
        first
    }

    fn count_down(&mut self, place: &Place, session: u64) -> Option<bool> {
        let Entry::Occupied(mut entry) = self.sessions.entry(place.clone()) else { return None };
        let sessions = entry.get_mut();
        let at = sessions.iter().position(|(known, _)| *known == session)?;
        let (_, count) = sessions.get_mut(at)?;
        *count -= 1;
        if *count == 0 {
            sessions.swap_remove(at);
        }
        let last = sessions.is_empty();
        if last {
            entry.remove();
        }
        Some(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        (Arc::from("u"), Arc::from("queue/x"))
    }

    #[test]
    fn registrations_are_counted() {
        let mut presence = Presence::default();
        assert!(!presence.remove(place(), 1));
        assert!(presence.add(place(), 1));
        assert!(!presence.add(place(), 1));
        assert!(!presence.add(place(), 2));
        assert!(!presence.remove(place(), 1));
        assert!(!presence.remove(place(), 2));
        assert!(presence.is_present(&place()));
        assert!(presence.remove(place(), 1));
        assert!(!presence.is_present(&place()));
        assert_eq!(presence.places().count(), 0);
    }

    #[test]
    fn an_undone_batch_leaves_no_trace() {
        let mut presence = Presence::default();
        presence.add(place(), 1);
        presence.keep();
        presence.add(place(), 1);
        presence.remove(place(), 1);
        presence.remove(place(), 1);
        presence.add((Arc::from("v"), Arc::from("queue/x")), 7);
        presence.undo();
        assert_eq!(presence.places().collect::<Vec<_>>(), [&place()]);
        assert!(presence.remove(place(), 1));
    }
}
