//! Queues, and who gets what from them. Every subscription reads a queue: one of `/queue`, or one
//! of its own that topics are copied to, as AMQP has it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::destination::fits;
use super::fault::{Fault, Faults};
use super::frame::Frame;

/// A message in a queue.
#[derive(Clone)]
pub(super) struct Stored {
    /// Its place: what comes back goes where it was.
    place: u64,
    pub(super) frame: Arc<Frame>,
    pub(super) redelivered: bool,
}

/// A subscription of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Consumer {
    pub(super) session: u64,
    pub(super) subscription: u64,
}

#[derive(Default)]
pub(super) struct Queue {
    ready: VecDeque<Stored>,
    consumers: VecDeque<Consumer>,
    /// The topics that are copied to it.
    binding: Option<String>,
    /// Whether it goes with its last consumer.
    passing: bool,
    /// How many messages came, and one that is behind its time.
    count: u64,
    held: Option<Stored>,
}

pub(super) struct Broker {
    faults: Faults,
    /// The last message of each topic, which only a faulty server gives out again.
    last: BTreeMap<String, Arc<Frame>>,
    queues: BTreeMap<String, Queue>,
    places: u64,
}

impl Broker {
    pub(super) fn new(faults: Faults) -> Self {
        Self { faults, last: BTreeMap::new(), queues: BTreeMap::new(), places: 0 }
    }

    pub(super) fn has(&self, queue: &str) -> bool {
        self.queues.contains_key(queue)
    }

    pub(super) fn declare(&mut self, queue: &str) {
        self.queues.entry(queue.into()).or_default();
    }

    pub(super) fn declare_passing(&mut self, queue: &str) {
        self.queues.entry(queue.into()).or_default().passing = true;
    }

    pub(super) fn bind(&mut self, queue: &str, pattern: &str) {
        self.queues.entry(queue.into()).or_default().binding = Some(pattern.into());
        if let Some(frame) = self.last.get(pattern).cloned()
            && self.faults.has(Fault::TopicRetains)
        {
            self.put(queue, &frame);
        }
    }

    pub(super) fn retain(&mut self, key: &str, frame: &Arc<Frame>) {
        self.last.insert(key.into(), Arc::clone(frame));
    }

    pub(super) fn delete(&mut self, queue: &str) {
        self.queues.remove(queue);
    }

    pub(super) fn consume(&mut self, queue: &str, consumer: Consumer) {
        self.queues.entry(queue.into()).or_default().consumers.push_back(consumer);
    }

    pub(super) fn cancel(&mut self, queue: &str, consumer: Consumer) {
        let Some(found) = self.queues.get_mut(queue) else { return };
        found.consumers.retain(|other| *other != consumer);
        if found.consumers.is_empty()
            && (found.passing || self.faults.has(Fault::QueueGoesWithLastConsumer))
        {
            self.queues.remove(queue);
        }
    }

    /// Puts a message at the end of a queue.
    pub(super) fn put(&mut self, queue: &str, frame: &Arc<Frame>) {
        self.places += 1;
        let stored = Stored { place: self.places, frame: Arc::clone(frame), redelivered: false };
        let faults = self.faults;
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.count += 1;
            if queue.count == 3 && faults.has(Fault::ThirdMessageLate) {
                queue.held = Some(stored);
                return;
            }
            if queue.consumers.is_empty() && faults.has(Fault::QueueKeepsNothing) {
                return;
            }
            if !queue.ready.is_empty() && faults.has(Fault::QueueIsStack) {
                queue.ready.push_front(stored);
            } else {
                queue.ready.push_back(stored);
                queue.ready.extend(queue.held.take());
            }
        }
    }

    /// The queues that a topic's message is copied to.
    pub(super) fn bound(&self, key: &str) -> Vec<String> {
        let faults = self.faults;
        let fitting = self.queues.iter().filter(|(_, queue)| {
            queue.binding.as_deref().is_some_and(|pattern| fits(pattern, key, faults))
        });
        let mut names: Vec<String> = fitting.map(|(name, _)| name.clone()).collect();
        if names.len() > 1 && faults.has(Fault::TopicReachesOne) {
            names.truncate(1);
        }
        names
    }

    /// Puts back what was delivered and not acknowledged.
    pub(super) fn put_back(&mut self, queue: &str, stored: Stored) {
        let Some(queue) = self.queues.get_mut(queue) else { return };
        let stored = Stored { redelivered: true, ..stored };
        if !queue.ready.is_empty() && self.faults.has(Fault::ReturnsReversed) {
            return queue.ready.push_front(stored);
        }
        let at = queue.ready.iter().position(|other| other.place > stored.place);
        queue.ready.insert(at.unwrap_or(queue.ready.len()), stored);
    }

    /// The next message and the consumer whose turn it is, of those that take one.
    pub(super) fn next(
        &mut self,
        queue: &str,
        takes: impl Fn(Consumer) -> bool,
    ) -> Option<(Consumer, Stored)> {
        let queue = self.queues.get_mut(queue)?;
        let at = queue.consumers.iter().position(|consumer| takes(*consumer))?;
        let stored = queue.ready.pop_front()?;
        let consumer = queue.consumers.get(at).copied()?;
        queue.consumers.remove(at);
        queue.consumers.push_back(consumer);
        Some((consumer, stored))
    }

    /// All consumers of a queue.
    pub(super) fn consumers(&self, queue: &str) -> Vec<Consumer> {
        self.queues.get(queue).map_or_else(Vec::new, |q| q.consumers.iter().copied().collect())
    }
}
