//! What is on its way to other nodes. Pure.
//!
//! Each node has a lane. What waits there goes together, as one batch with a number of its own;
//! one batch is in flight at a time, so that RabbitMQ's answer is about that one and the order
//! stays. A batch that RabbitMQ took is kept until the other node says that it has it: a queue
//! that goes with its connection takes along what was in it. Then the batch goes again, under the
//! same number, and a node that has seen the number does not look at it twice.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::ledger::Limits;
use crate::relay::mailbox::Mailbox;

/// Bodies of one batch.
const BATCH_BYTES: usize = 64 * 1024;
const BATCH_PARCELS: usize = 256;
/// A node that is there says within this time that it has a batch.
const SEEN_TIME: Duration = Duration::from_secs(5);
/// How often a node that has no queue is tried.
const RETRY: Duration = Duration::from_millis(250);

/// What became of a parcel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The other node has it.
    Taken,
    /// The other node has not said so. It may get it later.
    Missing,
    /// RabbitMQ did not take it in time.
    Late,
}

/// What is to be told, once.
pub type Done = Box<dyn FnOnce(Fate) + Send>;

struct Parcel {
    body: Bytes,
    since: Instant,
    /// Somebody waits for its fate, and it counts towards the limits.
    done: Option<Done>,
}

struct Batch {
    number: u64,
    node: Arc<str>,
    parcels: Vec<Parcel>,
    /// The other node may have it already.
    handed: bool,
}

#[derive(Default)]
struct Lane {
    /// Goes before what waits.
    again: VecDeque<Batch>,
    waiting: VecDeque<Parcel>,
    /// The node has no queue; when it is tried again.
    missing: Option<Instant>,
}

/// A batch to publish.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outgoing {
    pub(super) number: u64,
    pub(super) node: Arc<str>,
    pub(super) bodies: Vec<Bytes>,
    pub(super) republished: bool,
}

/// All lanes.
pub(super) struct Parcels {
    limits: Limits,
    lanes: BTreeMap<Arc<str>, Lane>,
    in_flight: Option<Batch>,
    /// RabbitMQ has them, and when it took them.
    unseen: BTreeMap<u64, (Instant, Batch)>,
    next: u64,
    /// Parcels and bytes that somebody waits for.
    awaited: (usize, usize),
    /// Those that nobody waits for: they are kept elsewhere, or may be lost.
    spare: (usize, usize),
    told: Vec<(Done, Fate)>,
    waiters: Vec<Weak<Mailbox>>,
}

impl Parcels {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            lanes: BTreeMap::new(),
            in_flight: None,
            unseen: BTreeMap::new(),
            next: 1,
            awaited: (0, 0),
            spare: (0, 0),
            told: Vec::new(),
            waiters: Vec::new(),
        }
    }

    /// Something for a node. Where nobody waits for it and there is too much, it is not taken.
    pub(super) fn put(&mut self, node: &Arc<str>, body: Bytes, done: Option<Done>, now: Instant) {
        let mut parcel = Parcel { body, since: now, done };
        self.count(&parcel, 1);
        if self.lanes.get(node).is_some_and(|lane| lane.missing.is_some()) {
            self.tell(&mut parcel, Fate::Missing);
        }
        if parcel.done.is_none()
            && (self.spare.0 > self.limits.messages || self.spare.1 > self.limits.bytes)
        {
            self.count(&parcel, -1);
            return;
        }
        self.lanes.entry(node.clone()).or_default().waiting.push_back(parcel);
    }

    /// The next batch, which is in flight from now on.
    pub(super) fn next(&mut self, now: Instant) -> Option<Outgoing> {
        if self.in_flight.is_some() {
            return None;
        }
        let ready =
            self.lanes.iter_mut().filter(|(_, lane)| lane.missing.is_none_or(|at| at <= now));
        let oldest = ready.filter_map(|(node, lane)| Some((lane.since()?, node.clone(), lane)));
        let (_, node, lane) = oldest.min_by_key(|(since, ..)| *since)?;
        let batch = match lane.again.pop_front() {
            Some(batch) => batch,
            None => {
                let number = self.next;
                self.next += 1;
                Batch { number, node, parcels: lane.take(), handed: false }
            }
        };
        let outgoing = Outgoing {
            number: batch.number,
            node: batch.node.clone(),
            bodies: batch.parcels.iter().map(|parcel| parcel.body.clone()).collect(),
            republished: batch.handed,
        };
        self.in_flight = Some(batch);
        Some(outgoing)
    }

    /// RabbitMQ has put it into the node's queue.
    pub(super) fn confirmed(&mut self, now: Instant) {
        let Some(mut batch) = self.in_flight.take() else { return };
        if let Some(lane) = self.lanes.get_mut(&batch.node) {
            lane.missing = None;
        }
        batch.handed = true;
        // An empty one was seen before its confirm came.
        if !batch.parcels.is_empty() {
            self.unseen.insert(batch.number, (now, batch));
        }
    }

    /// There is no such queue, or it is full.
    pub(super) fn returned(&mut self, now: Instant) {
        let Some(mut batch) = self.in_flight.take() else { return };
        batch.parcels.iter_mut().for_each(|parcel| self.tell(parcel, Fate::Missing));
        let mut lane = self.lanes.remove(&batch.node).unwrap_or_default();
        lane.waiting.iter_mut().for_each(|parcel| self.tell(parcel, Fate::Missing));
        lane.missing = Some(now + RETRY);
        let node = batch.node.clone();
        lane.go_again(batch);
        self.lanes.insert(node, lane);
    }

    /// The channel is gone; RabbitMQ may have it or not.
    pub(super) fn lost(&mut self) {
        let Some(mut batch) = self.in_flight.take() else { return };
        batch.handed = true;
        self.lanes.entry(batch.node.clone()).or_default().go_again(batch);
    }

    /// The other node has the batch.
    pub(super) fn seen(&mut self, number: u64) {
        let parcels = match self.unseen.remove(&number) {
            Some((_, batch)) => batch.parcels,
            None => match &mut self.in_flight {
                Some(batch) if batch.number == number => std::mem::take(&mut batch.parcels),
                _ => self
                    .lanes
                    .values_mut()
                    .find_map(|lane| lane.take_again(number))
                    .unwrap_or_default(),
            },
        };
        self.finish(parcels, Fate::Taken);
    }

    /// The time goes on: what is not seen goes again, what waits too long is given up.
    pub(super) fn tick(&mut self, now: Instant) {
        while let Some(entry) = self.unseen.first_entry()
            && now.duration_since(entry.get().0) >= SEEN_TIME
        {
            let (_, mut batch) = entry.remove();
            batch.parcels.iter_mut().for_each(|parcel| self.tell(parcel, Fate::Missing));
            self.lanes.entry(batch.node.clone()).or_default().go_again(batch);
        }
        let time = self.limits.time;
        let late = |parcel: &Parcel| now.duration_since(parcel.since) >= time;
        if let Some(mut batch) = self.in_flight.take() {
            // Its answer is still to come, but nobody waits for it so long.
            let parcels = batch.parcels.iter_mut().filter(|parcel| late(parcel));
            parcels.for_each(|parcel| self.tell(parcel, Fate::Late));
            self.in_flight = Some(batch);
        }
        let mut given_up = Vec::new();
        for lane in self.lanes.values_mut() {
            for batch in &mut lane.again {
                given_up.extend(batch.parcels.extract_if(.., |parcel| late(parcel)));
            }
            lane.again.retain(|batch| !batch.parcels.is_empty());
            while lane.waiting.front().is_some_and(late) {
                given_up.extend(lane.waiting.pop_front());
            }
        }
        self.lanes
            .retain(|_, lane| lane.since().is_some() || lane.missing.is_some_and(|at| at > now));
        self.finish(given_up, Fate::Late);
    }

    /// The relay ends: nothing is waited for any more.
    pub(super) fn give_up(&mut self) {
        let mut parcels = Vec::new();
        parcels.extend(self.in_flight.take().into_iter().flat_map(|batch| batch.parcels));
        let unseen = std::mem::take(&mut self.unseen).into_values();
        parcels.extend(unseen.flat_map(|(_, batch)| batch.parcels));
        for lane in std::mem::take(&mut self.lanes).into_values() {
            parcels.extend(lane.again.into_iter().flat_map(|batch| batch.parcels));
            parcels.extend(lane.waiting);
        }
        parcels.sort_by_key(|parcel| parcel.since);
        self.finish(parcels, Fate::Late);
    }

    /// Whom to tell what. Not to be called under a lock that they need.
    pub(super) fn take_told(&mut self) -> Vec<(Done, Fate)> {
        std::mem::take(&mut self.told)
    }

    /// Somebody waits for something.
    pub(super) fn is_awaited(&self) -> bool {
        self.awaited.0 > 0
    }

    /// Whether there is room; who hears no is told by [`Self::woken`] when there is again.
    pub(super) fn has_room(&mut self, waiter: &Arc<Mailbox>) -> bool {
        if self.awaited.0 < self.limits.messages && self.awaited.1 < self.limits.bytes {
            return true;
        }
        if !self.waiters.iter().any(|known| known.as_ptr() == Arc::as_ptr(waiter)) {
            self.waiters.push(Arc::downgrade(waiter));
        }
        false
    }

    /// Those who waited for room, once half of it is free.
    pub(super) fn woken(&mut self) -> Vec<Weak<Mailbox>> {
        let Limits { messages, bytes, .. } = self.limits;
        let is_free = self.awaited.0 <= messages / 2 && self.awaited.1 <= bytes / 2;
        if is_free { std::mem::take(&mut self.waiters) } else { Vec::new() }
    }

    fn finish(&mut self, parcels: Vec<Parcel>, fate: Fate) {
        for mut parcel in parcels {
            self.tell(&mut parcel, fate);
            self.count(&parcel, -1);
        }
    }

    fn tell(&mut self, parcel: &mut Parcel, fate: Fate) {
        if parcel.done.is_some() {
            self.count(parcel, -1);
            self.told.extend(parcel.done.take().map(|done| (done, fate)));
            self.count(parcel, 1);
        }
    }

    fn count(&mut self, parcel: &Parcel, by: isize) {
        let (count, bytes) =
            if parcel.done.is_some() { &mut self.awaited } else { &mut self.spare };
        *count = count.saturating_add_signed(by);
        let size = parcel.body.len().cast_signed();
        *bytes = bytes.saturating_add_signed(size * by);
    }
}

impl Lane {
    /// When the oldest came.
    fn since(&self) -> Option<Instant> {
        let again = self.again.front().and_then(|batch| batch.parcels.first());
        again.or(self.waiting.front()).map(|parcel| parcel.since)
    }

    /// What goes together.
    fn take(&mut self) -> Vec<Parcel> {
        let (mut count, mut bytes) = (0, 0);
        for parcel in self.waiting.iter().take(BATCH_PARCELS) {
            bytes += parcel.body.len();
            if count > 0 && bytes > BATCH_BYTES {
                break;
            }
            count += 1;
        }
        self.waiting.drain(..count).collect()
    }

    fn go_again(&mut self, batch: Batch) {
        if !batch.parcels.is_empty() {
            let place = self.again.partition_point(|known| known.number < batch.number);
            self.again.insert(place, batch);
        }
    }

    fn take_again(&mut self, number: u64) -> Option<Vec<Parcel>> {
        let place = self.again.iter().position(|batch| batch.number == number)?;
        self.again.remove(place).map(|batch| batch.parcels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::mailbox::MailboxLimits;
    use std::sync::Mutex;

    const LIMITS: Limits = Limits { messages: 4, bytes: 1_000, time: Duration::from_secs(30) };

    /// What was told, as text.
    #[derive(Clone, Default)]
    struct Told(Arc<Mutex<Vec<String>>>);

    impl Told {
        fn done(&self, name: &str) -> Option<Done> {
            let (told, name) = (self.0.clone(), name.to_owned());
            Some(Box::new(move |fate| told.lock().unwrap().push(format!("{name} {fate:?}"))))
        }

        fn all(&self, parcels: &mut Parcels) -> Vec<String> {
            parcels.take_told().into_iter().for_each(|(done, fate)| done(fate));
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    struct World {
        parcels: Parcels,
        told: Told,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            let parcels = Parcels::new(LIMITS);
            Self { parcels, told: Told::default(), now: Instant::now() }
        }

        /// Parcels for a node that somebody waits for.
        fn put(&mut self, node: &str, names: &[&'static str]) {
            for name in names {
                let body = Bytes::from_static(name.as_bytes());
                self.parcels.put(&Arc::from(node), body, self.told.done(name), self.now);
            }
        }

        /// The next batch: number, node and bodies; `*` where it is republished.
        fn next(&mut self) -> Option<String> {
            let Outgoing { number, node, bodies, republished } = self.parcels.next(self.now)?;
            let bodies: Vec<_> =
                bodies.iter().map(|body| std::str::from_utf8(body).unwrap()).collect();
            let star = if republished { "*" } else { "" };
            Some(format!("{number}{star} {node}: {}", bodies.join(" ")))
        }

        fn told(&mut self) -> Vec<String> {
            self.told.all(&mut self.parcels)
        }

        fn after(&mut self, time: Duration) {
            self.now += time;
            self.parcels.tick(self.now);
        }
    }

    #[test]
    fn what_waits_goes_together_and_is_told_when_it_is_seen() {
        let mut world = World::new();
        world.put("b", &["1", "2"]);
        assert_eq!(world.next().unwrap(), "1 b: 1 2");
        world.put("b", &["3"]);
        assert_eq!(world.next(), None);
        world.parcels.confirmed(world.now);
        assert!(world.told().is_empty());
        assert_eq!(world.next().unwrap(), "2 b: 3");
        // The other node may be faster than RabbitMQ's confirm.
        world.parcels.seen(2);
        world.parcels.confirmed(world.now);
        world.parcels.seen(1);
        world.parcels.seen(1);
        world.parcels.seen(99);
        assert_eq!(world.told(), ["3 Taken", "1 Taken", "2 Taken"]);
        assert!(!world.parcels.is_awaited());
        assert_eq!((world.parcels.awaited, world.parcels.spare), ((0, 0), (0, 0)));
    }

    #[test]
    fn a_node_without_a_queue_is_tried_again_and_holds_up_nobody_else() {
        let mut world = World::new();
        world.put("b", &["1"]);
        assert_eq!(world.next().unwrap(), "1 b: 1");
        world.put("b", &["2"]);
        world.parcels.returned(world.now);
        world.put("b", &["3"]);
        assert_eq!(world.told(), ["1 Missing", "2 Missing", "3 Missing"]);
        world.put("c", &["4"]);
        assert_eq!(world.next().unwrap(), "2 c: 4");
        world.parcels.confirmed(world.now);
        assert_eq!(world.next(), None);
        world.after(RETRY);
        // Not handed to anybody yet, so it is no second time.
        assert_eq!(world.next().unwrap(), "1 b: 1");
        world.parcels.confirmed(world.now);
        assert_eq!(world.next().unwrap(), "3 b: 2 3");
        world.put("b", &["5"]);
        world.parcels.confirmed(world.now);
        assert!(world.told().is_empty());
        assert_eq!(world.next().unwrap(), "4 b: 5");
    }

    #[test]
    fn what_is_lost_or_not_seen_goes_again_under_its_number() {
        let mut world = World::new();
        world.put("b", &["1"]);
        world.next();
        world.parcels.lost();
        world.put("b", &["2"]);
        assert_eq!(world.next().unwrap(), "1* b: 1");
        world.parcels.confirmed(world.now);
        assert_eq!(world.next().unwrap(), "2 b: 2");
        world.parcels.confirmed(world.now);
        world.parcels.seen(2);
        assert_eq!(world.told(), ["2 Taken"]);
        world.after(SEEN_TIME);
        assert_eq!(world.told(), ["1 Missing"]);
        assert_eq!(world.next().unwrap(), "1* b: 1");
        world.parcels.lost();
        // Seen while it waits to go again.
        world.parcels.seen(1);
        assert_eq!((world.next(), world.told().len()), (None, 0));
        assert_eq!(world.parcels.spare, (0, 0));
    }

    #[test]
    fn what_waits_too_long_is_given_up() {
        let mut world = World::new();
        world.put("b", &["1", "2"]);
        world.next();
        world.parcels.lost();
        world.put("b", &["3"]);
        world.after(LIMITS.time - Duration::from_millis(1));
        assert!(world.told().is_empty());
        world.put("c", &["4"]);
        world.after(Duration::from_millis(1));
        assert_eq!(world.told(), ["1 Late", "2 Late", "3 Late"]);
        assert_eq!(world.next().unwrap(), "2 c: 4");
        world.put("c", &["5"]);
        world.parcels.give_up();
        assert_eq!(world.told(), ["4 Late", "5 Late"]);
        assert_eq!((world.parcels.awaited, world.parcels.spare), ((0, 0), (0, 0)));
    }

    #[test]
    fn room_ends_and_comes_back_and_what_nobody_waits_for_is_bounded() {
        let mut world = World::new();
        let waiter = Mailbox::new(1, MailboxLimits { frames: 10, bytes: 1_000 });
        world.put("b", &["1", "2", "3"]);
        assert!(world.parcels.has_room(&waiter));
        world.put("b", &["4"]);
        assert!(!world.parcels.has_room(&waiter) && !world.parcels.has_room(&waiter));
        world.next();
        assert_eq!(world.parcels.woken().len(), 0);
        // Kept elsewhere by then, so that a dead node stops nobody.
        world.parcels.returned(world.now);
        assert_eq!(world.parcels.woken().len(), 1);
        assert!(world.parcels.has_room(&waiter));
        world.put("b", &["5", "6", "7"]);
        assert_eq!(world.told().len(), 7);
        assert_eq!(world.parcels.spare.0, LIMITS.messages);
        let large = Bytes::from(vec![b'x'; BATCH_BYTES]);
        let mut parcels = Parcels::new(Limits { bytes: 1 << 20, ..LIMITS });
        for _ in 0..2 {
            parcels.put(&Arc::from("b"), large.clone(), None, world.now);
            parcels.put(&Arc::from("b"), Bytes::from_static(b"1"), None, world.now);
        }
        let sizes = std::iter::from_fn(|| {
            let count = parcels.next(world.now)?.bodies.len();
            parcels.confirmed(world.now);
            Some(count)
        });
        assert_eq!(Vec::from_iter(sizes), [1, 1, 1, 1]);
    }
}
