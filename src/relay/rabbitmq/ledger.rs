//! What was given to the publisher and is not answered yet. Pure.
//!
//! A message waits in its sender's lane, then is in flight until RabbitMQ confirms it. When a
//! channel is lost, what was in flight goes back to the front of its lane, in order. A lane is
//! one AMQP channel at a time, so the order of each sender's messages is kept.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ulid::Ulid;

use crate::message::Message;
use crate::relay::mailbox::{Mailbox, Token};
use crate::relay::origin::Declaration;

/// A message is refused after as many connections were closed for it.
const MAX_STRIKES: u8 = 3;
/// How often a message goes again that came back, or was not taken.
const MAX_RETURNS: u8 = 3;

/// How much waits and is in flight at most; all senders together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) messages: usize,
    pub(super) bytes: usize,
    pub(super) time: Duration,
}

/// What has no answer yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Buffer {
    pub(super) messages: usize,
    pub(super) bytes: usize,
    /// Of the messages, those that RabbitMQ has not confirmed.
    pub(super) in_flight: usize,
}

/// A message without an answer.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) from: Arc<Mailbox>,
    pub(super) token: Option<Token>,
    pub(super) message: Arc<Message>,
    /// What its sender says the queue is to be.
    declare: Option<Arc<Declaration>>,
    /// The message's `x-id`.
    pub(super) id: Ulid,
    pub(super) since: Instant,
    /// RabbitMQ may have it already.
    handed: bool,
    strikes: u8,
    returns: u8,
}

impl Pending {
    pub(super) fn new(
        from: Arc<Mailbox>,
        token: Option<Token>,
        message: Arc<Message>,
        declare: Option<Arc<Declaration>>,
        now: Instant,
    ) -> Self {
        let id = message.x_id.unwrap_or_else(Ulid::generate);
        let (handed, strikes, returns) = (false, 0, 0);
        Self { from, token, message, declare, id, since: now, handed, strikes, returns }
    }
}

/// What a lane publishes next.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    /// The message's place in its lane; ascending.
    pub(super) number: u64,
    pub(super) from: Arc<Mailbox>,
    pub(super) message: Arc<Message>,
    pub(super) declare: Option<Arc<Declaration>>,
    pub(super) id: Ulid,
    pub(super) republished: bool,
}

/// How a channel was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// Nobody's fault: the connection broke, or RabbitMQ goes down.
    Connection,
    /// RabbitMQ closed the channel for one of the messages.
    Channel,
    /// RabbitMQ closed the connection for something that was on it.
    Violation,
}

#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<(u64, Pending)>,
    in_flight: BTreeMap<u64, Pending>,
    next: u64,
    /// Up to this number messages go one at a time: one of them is not RabbitMQ's taste, and
    /// only alone on its channel is it known by the channel's end.
    alone_until: u64,
}

/// All lanes.
#[derive(Debug)]
pub(super) struct Ledger {
    lanes: Vec<Lane>,
    limits: Limits,
    messages: usize,
    bytes: usize,
    waiters: Vec<Weak<Mailbox>>,
}

impl Ledger {
    pub(super) fn new(lanes: usize, limits: Limits) -> Self {
        Self {
            lanes: (0..lanes).map(|_| Lane::default()).collect(),
            limits,
            messages: 0,
            bytes: 0,
            waiters: Vec::new(),
        }
    }

    /// Messages without an answer.
    pub(super) fn len(&self) -> usize {
        self.messages
    }

    /// The same in numbers.
    pub(super) fn buffer(&self) -> Buffer {
        let in_flight = self.lanes.iter().map(|lane| lane.in_flight.len()).sum();
        Buffer { messages: self.messages, bytes: self.bytes, in_flight }
    }

    /// Messages of a lane that RabbitMQ has not confirmed.
    pub(super) fn in_flight(&self, lane: usize) -> usize {
        self.lanes.get(lane).map_or(0, |lane| lane.in_flight.len())
    }

    pub(super) fn submit(&mut self, lane: usize, pending: Pending) {
        let size = pending.message.size();
        if let Some(lane) = self.lanes.get_mut(lane) {
            self.messages += 1;
            self.bytes += size;
            let number = lane.next;
            lane.next += 1;
            lane.waiting.push_back((number, pending));
        }
    }

    /// Whether there is room; who hears no is told by [`Self::woken`] when there is again.
    pub(super) fn has_room(&mut self, waiter: &Arc<Mailbox>) -> bool {
        if self.messages < self.limits.messages && self.bytes < self.limits.bytes {
            return true;
        }
        let known = self.waiters.iter().any(|known| known.as_ptr() == Arc::as_ptr(waiter));
        if !known {
            self.waiters.push(Arc::downgrade(waiter));
        }
        false
    }

    /// Those who waited for room, once a quarter of it is free.
    pub(super) fn woken(&mut self) -> Vec<Weak<Mailbox>> {
        let free = self.messages <= self.limits.messages / 4 * 3
            && self.bytes <= self.limits.bytes / 4 * 3;
        if free { std::mem::take(&mut self.waiters) } else { Vec::new() }
    }

    /// Forgets a waiter.
    pub(super) fn forget(&mut self, waiter: &Arc<Mailbox>) {
        self.waiters.retain(|known| known.as_ptr() != Arc::as_ptr(waiter));
    }

    /// What the lane publishes next, where its window of messages in flight has room.
    pub(super) fn next(&self, lane: usize, window: usize) -> Option<Outgoing> {
        let lane = self.lanes.get(lane)?;
        let (number, pending) = lane.waiting.front()?;
        let window = if *number < lane.alone_until { 1 } else { window };
        // What is alone on its channel has nobody behind it either.
        let alone = lane.in_flight.keys().next().is_some_and(|first| *first < lane.alone_until);
        // What came back goes again once those behind it have an answer too: its queue is declared
        // anew, and they would come into it first.
        let last = lane.in_flight.keys().next_back();
        let overtaken = pending.returns > 0 && last.is_some_and(|last| last > number);
        if lane.in_flight.len() >= window || alone || overtaken {
            return None;
        }
        Some(Outgoing {
            number: *number,
            from: pending.from.clone(),
            message: pending.message.clone(),
            declare: pending.declare.clone(),
            id: pending.id,
            republished: pending.handed,
        })
    }

    /// The message that [`Self::next`] gave is handed to a channel. False where it is no longer
    /// there, having waited too long.
    pub(super) fn handed(&mut self, lane: usize, number: u64) -> bool {
        let Some(lane) = self.lanes.get_mut(lane) else { return false };
        match lane.waiting.front() {
            Some((first, _)) if *first == number => {}
            _ => return false,
        }
        if let Some((number, pending)) = lane.waiting.pop_front() {
            lane.in_flight.insert(number, pending);
        }
        true
    }

    /// The message is answered, in flight or still waiting.
    pub(super) fn done(&mut self, lane: usize, number: u64) -> Option<Pending> {
        let lane = self.lanes.get_mut(lane)?;
        let pending = match lane.in_flight.remove(&number) {
            Some(pending) => pending,
            None => {
                let place = lane.waiting.iter().position(|(waiting, _)| *waiting == number)?;
                lane.waiting.remove(place)?.1
            }
        };
        self.answered(&pending);
        Some(pending)
    }

    /// Messages came back unroutable. Each is published again, its queue declared anew; those
    /// for which that was done often enough are given back.
    pub(super) fn returned(&mut self, lane: usize, numbers: &[u64]) -> Vec<Pending> {
        self.again(lane, numbers, false)
    }

    /// RabbitMQ did not take messages: a queue that they go to ended or is full. Some of the other
    /// queues may have them. Each is published again; those for which that was done often
    /// enough are given back.
    pub(super) fn nacked(&mut self, lane: usize, numbers: &[u64]) -> Vec<Pending> {
        self.again(lane, numbers, true)
    }

    fn again(&mut self, lane: usize, numbers: &[u64], handed: bool) -> Vec<Pending> {
        let mut refused = Vec::new();
        let Some(lane) = self.lanes.get_mut(lane) else { return refused };
        let mut numbers = numbers.to_vec();
        numbers.sort_unstable();
        for number in numbers.into_iter().rev() {
            let Some(mut pending) = lane.in_flight.remove(&number) else { continue };
            pending.returns += 1;
            pending.handed |= handed;
            if pending.returns > MAX_RETURNS {
                refused.push(pending);
            } else {
                lane.put_back(number, pending);
            }
        }
        for pending in &refused {
            self.answered(pending);
        }
        refused
    }

    /// The lane's channel is gone. What was in flight waits again, before all others; what
    /// RabbitMQ does not take is given back.
    pub(super) fn lost(&mut self, lane: usize, loss: Loss) -> Option<Pending> {
        let lane = self.lanes.get_mut(lane)?;
        let mut in_flight = std::mem::take(&mut lane.in_flight);
        let mut refused = None;
        if let (1, Some(mut entry)) = (in_flight.len(), in_flight.first_entry()) {
            let pending = entry.get_mut();
            pending.strikes += u8::from(loss == Loss::Violation);
            if loss == Loss::Channel || pending.strikes >= MAX_STRIKES {
                refused = Some(entry.remove());
            }
        }
        if loss != Loss::Connection
            && let Some((last, _)) = in_flight.last_key_value()
        {
            lane.alone_until = lane.alone_until.max(last + 1);
        }
        for (number, mut pending) in in_flight.into_iter().rev() {
            pending.handed = true;
            lane.put_back(number, pending);
        }
        if let Some(pending) = &refused {
            self.answered(pending);
        }
        refused
    }

    /// Takes out what has waited too long.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Pending> {
        let time = self.limits.time;
        let late = |pending: &Pending| now.duration_since(pending.since) >= time;
        let mut expired = Vec::new();
        // The lowest number of a lane is its oldest message.
        for lane in &mut self.lanes {
            while let Some(entry) = lane.in_flight.first_entry()
                && late(entry.get())
            {
                expired.push(entry.remove());
            }
            while lane.waiting.front().is_some_and(|(_, pending)| late(pending)) {
                expired.extend(lane.waiting.pop_front().map(|(_, pending)| pending));
            }
        }
        for pending in &expired {
            self.answered(pending);
        }
        expired
    }

    fn answered(&mut self, pending: &Pending) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(pending.message.size());
    }
}

impl Lane {
    /// Back among the waiting ones, by its number.
    fn put_back(&mut self, number: u64, pending: Pending) {
        let place = self.waiting.partition_point(|(waiting, _)| *waiting < number);
        self.waiting.insert(place, (number, pending));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::Destination;
    use crate::relay::mailbox::MailboxLimits;
    use crate::stomp::Headers;
    use bytes::Bytes;

    const LIMITS: Limits = Limits { messages: 8, bytes: 10_000, time: Duration::from_secs(30) };

    fn mailbox() -> Arc<Mailbox> {
        Mailbox::new(1, MailboxLimits { frames: 10, bytes: 10_000 })
    }

    fn pending(token: u64, now: Instant) -> Pending {
        let destination = Destination::for_send("/queue/a").unwrap();
        let body = Bytes::from_static(b"body");
        let message = Message::new(destination, "".into(), Headers::default(), body);
        Pending::new(mailbox(), Some(token), Arc::new(message), None, now)
    }

    fn ledger(messages: u64, now: Instant) -> Ledger {
        let mut ledger = Ledger::new(1, LIMITS);
        for token in 0..messages {
            ledger.submit(0, pending(token, now));
        }
        ledger
    }

    /// Hands over what the window allows; `7*` is republished.
    fn hand_over(ledger: &mut Ledger) -> Vec<String> {
        let mut handed = Vec::new();
        while let Some(next) = ledger.next(0, 3) {
            assert!(ledger.handed(0, next.number));
            let star = if next.republished { "*" } else { "" };
            handed.push(format!("{}{star}", next.number));
        }
        handed
    }

    fn tokens(pending: &[Pending]) -> Vec<u64> {
        pending.iter().filter_map(|pending| pending.token).collect()
    }

    #[test]
    fn a_window_in_order_and_what_is_confirmed_leaves() {
        let now = Instant::now();
        let mut ledger = ledger(5, now);
        assert_eq!(hand_over(&mut ledger), ["0", "1", "2"]);
        assert_eq!(ledger.done(0, 1).unwrap().token, Some(1));
        assert!(ledger.done(0, 1).is_none());
        assert_eq!(hand_over(&mut ledger), ["3"]);
        for number in [0, 2, 3, 4] {
            assert!(ledger.done(0, number).is_some());
        }
        assert_eq!((ledger.len(), ledger.bytes), (0, 0));
    }

    #[test]
    fn a_lost_connection_republishes_in_order_and_refuses_nothing() {
        for in_flight in [1, 3] {
            let mut ledger = ledger(5, Instant::now());
            let handed = hand_over(&mut ledger);
            for number in in_flight..3 {
                ledger.done(0, number);
            }
            assert!(ledger.lost(0, Loss::Connection).is_none());
            let again: Vec<_> = handed
                .iter()
                .take(usize::try_from(in_flight).unwrap())
                .map(|n| format!("{n}*"))
                .collect();
            let seen = hand_over(&mut ledger);
            assert_eq!(seen[..again.len()], again);
            assert_eq!(seen.len(), 5_usize.saturating_sub(3 - again.len()).min(3));
        }
    }

    #[test]
    fn the_message_a_channel_was_closed_for_is_found_alone() {
        let mut ledger = ledger(5, Instant::now());
        assert_eq!(hand_over(&mut ledger), ["0", "1", "2"]);
        assert!(ledger.lost(0, Loss::Channel).is_none());
        assert_eq!(hand_over(&mut ledger), ["0*"]);
        ledger.done(0, 0);
        assert_eq!(hand_over(&mut ledger), ["1*"]);
        assert_eq!(ledger.lost(0, Loss::Channel).unwrap().token, Some(1));
        assert_eq!(hand_over(&mut ledger), ["2*"]);
        ledger.done(0, 2);
        assert_eq!(hand_over(&mut ledger), ["3", "4"]);
    }

    #[test]
    fn a_message_that_connections_are_closed_for_is_given_up() {
        let mut ledger = ledger(2, Instant::now());
        hand_over(&mut ledger);
        assert!(ledger.lost(0, Loss::Violation).is_none());
        for _ in 1..MAX_STRIKES {
            assert_eq!(hand_over(&mut ledger), ["0*"]);
            assert!(ledger.lost(0, Loss::Violation).is_none());
        }
        assert_eq!(hand_over(&mut ledger), ["0*"]);
        assert_eq!(ledger.lost(0, Loss::Violation).unwrap().token, Some(0));
        assert_eq!(hand_over(&mut ledger), ["1*"]);
    }

    #[test]
    fn what_came_back_is_published_again_a_few_times() {
        let mut ledger = ledger(2, Instant::now());
        for _ in 0..MAX_RETURNS {
            hand_over(&mut ledger);
            assert!(ledger.returned(0, &[1, 0]).is_empty());
        }
        assert_eq!(hand_over(&mut ledger), ["0", "1"]);
        let refused = ledger.returned(0, &[0, 1]);
        assert_eq!(tokens(&refused), [1, 0]);
        assert_eq!(ledger.len(), 0);
    }

    #[test]
    fn what_was_not_taken_goes_again_marked_a_few_times() {
        let mut ledger = ledger(1, Instant::now());
        assert_eq!(hand_over(&mut ledger), ["0"]);
        for _ in 0..MAX_RETURNS {
            assert!(ledger.nacked(0, &[0]).is_empty());
            assert_eq!(hand_over(&mut ledger), ["0*"]);
        }
        assert_eq!(tokens(&ledger.nacked(0, &[0])), [0]);
        assert_eq!(ledger.len(), 0);
    }

    #[test]
    fn what_waited_too_long_is_given_back() {
        let start = Instant::now();
        let mut ledger = ledger(4, start);
        ledger.submit(0, pending(9, start + Duration::from_secs(5)));
        hand_over(&mut ledger);
        assert!(ledger.expire(start + Duration::from_secs(29)).is_empty());
        assert_eq!(tokens(&ledger.expire(start + Duration::from_secs(30))), [0, 1, 2, 3]);
        // Their confirms come all the same.
        assert!(ledger.done(0, 0).is_none());
        assert_eq!(hand_over(&mut ledger), ["4"]);
        assert_eq!(ledger.len(), 1);
        // What was given to a lane and expired meanwhile is not handed over.
        assert!(!ledger.handed(0, 3));
    }

    #[test]
    fn room_ends_and_comes_back() {
        let mut ledger = ledger(7, Instant::now());
        let waiter = mailbox();
        assert!(ledger.has_room(&waiter));
        ledger.submit(0, pending(7, Instant::now()));
        for _ in 0..2 {
            assert!(!ledger.has_room(&waiter));
        }
        ledger.done(0, 0);
        assert!(ledger.woken().is_empty());
        ledger.done(0, 1);
        assert_eq!(ledger.woken().len(), 1);
        assert!(ledger.woken().is_empty());
        assert!(ledger.has_room(&waiter));

        let mut ledger = Ledger::new(1, Limits { bytes: 6, ..LIMITS });
        ledger.submit(0, pending(0, Instant::now()));
        assert!(ledger.has_room(&waiter));
        ledger.submit(0, pending(1, Instant::now()));
        assert!(!ledger.has_room(&waiter));
        ledger.forget(&waiter);
        ledger.done(0, 0);
        ledger.done(0, 1);
        assert!(ledger.woken().is_empty());
    }

    #[test]
    fn what_came_back_waits_for_those_behind_it() {
        let mut ledger = Ledger::new(1, LIMITS);
        let now = Instant::now();
        for token in 0..3 {
            ledger.submit(0, pending(token, now));
            assert!(ledger.handed(0, token));
        }
        let next = |ledger: &Ledger| ledger.next(0, 8).map(|next| next.number);
        assert!(ledger.returned(0, &[0]).is_empty());
        assert_eq!(next(&ledger), None);
        assert!(ledger.done(0, 1).is_some());
        assert_eq!(next(&ledger), None);
        assert!(ledger.returned(0, &[2]).is_empty());
        assert_eq!(next(&ledger), Some(0));
        assert!(ledger.handed(0, 0));
        assert_eq!(next(&ledger), Some(2));
    }
}
