//! One clock for the deadlines of all sessions, so that none needs a timer of its own.
//!
//! A wheel of slots of a tenth of a second. A session arms its earliest deadline only; it is
//! woken by `Event::Tick` a little after it, looks at its own clock, and arms the next one.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::relay::mailbox::{Event, Mailbox};

const TICK: Duration = Duration::from_millis(100);
/// What is due later than the wheel reaches is woken earlier, and arms again.
const SLOTS: usize = 512;

/// The wheel.
#[derive(Debug)]
pub struct Ticker {
    start: Instant,
    wheel: Mutex<Wheel>,
}

#[derive(Debug)]
struct Wheel {
    /// Ticks that are done.
    done: u64,
    slots: Vec<Vec<Weak<Mailbox>>>,
}

impl Ticker {
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let slots = (0..SLOTS).map(|_| Vec::new()).collect();
        Self { start: now, wheel: Mutex::new(Wheel { done: 0, slots }) }
    }

    /// Wakes the mailbox a little after `at`.
    pub fn arm(&self, at: Instant, mailbox: &Arc<Mailbox>) {
        let after = at.saturating_duration_since(self.start).as_millis() / TICK.as_millis();
        let wanted = u64::try_from(after).unwrap_or(u64::MAX).saturating_add(1);
        let mut wheel = self.wheel.lock().unwrap_or_else(PoisonError::into_inner);
        let tick = wanted.clamp(wheel.done + 1, wheel.done + SLOTS as u64 - 1);
        if let Some(slot) = wheel.slot(tick) {
            slot.push(Arc::downgrade(mailbox));
        }
    }

    /// Turns the wheel up to `now`.
    pub fn turn(&self, now: Instant) {
        let ticks = now.saturating_duration_since(self.start).as_millis() / TICK.as_millis();
        let ticks = u64::try_from(ticks).unwrap_or(u64::MAX);
        loop {
            let due = {
                let mut wheel = self.wheel.lock().unwrap_or_else(PoisonError::into_inner);
                if wheel.done >= ticks {
                    return;
                }
                wheel.done += 1;
                let tick = wheel.done;
                wheel.slot(tick).map(std::mem::take).unwrap_or_default()
            };
            due.iter().filter_map(Weak::upgrade).for_each(|mailbox| mailbox.event(Event::Tick));
        }
    }

    /// Turns the wheel as time goes by.
    pub async fn run(&self) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.turn(Instant::now());
        }
    }
}

impl Wheel {
    fn slot(&mut self, tick: u64) -> Option<&mut Vec<Weak<Mailbox>>> {
        let place = usize::try_from(tick % SLOTS as u64).ok()?;
        self.slots.get_mut(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::mailbox::MailboxLimits;
    use std::task::{Context, Poll, Waker};

    #[test]
    fn wakes_after_the_deadline_and_not_before() {
        for millis in [0, 50, 100, 1234, 60_000] {
            let start = Instant::now();
            let ticker = Ticker::new(start);
            let mailbox = Mailbox::new(1, MailboxLimits { frames: 1, bytes: 1 });
            ticker.arm(start + Duration::from_millis(millis), &mailbox);
            let mut cx = Context::from_waker(Waker::noop());
            let mut woken = None;
            for step in 0..700_u64 {
                ticker.turn(start + Duration::from_millis(step * 100));
                if mailbox.poll_take(&mut cx, 0, None) != Poll::Pending {
                    woken = Some(step * 100);
                    break;
                }
            }
            // Farther than the wheel reaches: it comes early, and is armed again.
            let expected = if millis > 50_000 { 51_100 } else { millis / 100 * 100 + 100 };
            assert_eq!(woken, Some(expected), "{millis}");
        }
    }
}
