//! The time, as the driver tells it: what is due, and when to ask again.

use std::time::Instant;

use crate::relay::error::{Refusal, RefusalKind};

use super::action::Action;
use super::error::{Violation, code};
use super::machine::{Phase, Session};

impl Session {
    /// The time goes on.
    pub fn tick(&mut self, now: Instant, out: &mut Vec<Action>) {
        match &self.phase {
            Phase::Start | Phase::Authenticating(_) => {
                if now >= self.since + self.settings.limits.connect_time {
                    return self.close(code::POLICY, "no CONNECT in time", out);
                }
            }
            Phase::Leaving { by, .. } if now >= *by => {
                return self.close(code::TRY_LATER, "not confirmed in time", out);
            }
            Phase::Connected | Phase::Leaving { .. } => {}
            Phase::Over => return,
        }
        if self.expires.is_some_and(|at| now >= at) {
            let violation = Violation {
                code: code::POLICY,
                ..Violation::new("Login expired", "Log in again.\n")
            };
            return self.fail(violation, out);
        }
        if self.frame_since.is_some_and(|at| now >= at + self.settings.limits.frame_time) {
            let seconds = self.settings.limits.frame_time.as_secs();
            let body = format!("A frame was not complete after {seconds} s.\n");
            return self.fail(Violation::new("Frame timeout", body), out);
        }
        if self
            .held
            .as_ref()
            .is_some_and(|held| now >= held.since + self.settings.limits.outage_time)
        {
            self.give_up_held(out);
            if self.is_over() {
                return;
            }
        }
        self.give_back();
        self.live.tick(now, out);
        if matches!(out.last(), Some(Action::Close { .. })) {
            self.phase = Phase::Over;
            return;
        }
        if let Some(oldest) = self.acks.oldest()
            && now >= oldest.since + self.settings.limits.ack_time
        {
            let minutes = self.settings.limits.ack_time.as_secs() / 60;
            let refusal = Refusal::new(
                RefusalKind::Cancelled,
                "Server cancelled subscription",
                format!("A message was not acknowledged within {minutes} minutes.\n"),
            );
            let subscription = oldest.subscription;
            self.cancel(subscription, &refusal, out);
        }
    }

    /// When `tick` is wanted next.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let limits = &self.settings.limits;
        let phase = match &self.phase {
            Phase::Start | Phase::Authenticating(_) => Some(self.since + limits.connect_time),
            Phase::Leaving { by, .. } => Some(*by),
            Phase::Connected => None,
            Phase::Over => return None,
        };
        let frame = self.frame_since.map(|at| at + limits.frame_time);
        let ack = self.acks.oldest().map(|oldest| oldest.since + limits.ack_time);
        let held = self.held.as_ref().map(|held| held.since + limits.outage_time);
        [phase, frame, ack, held, self.expires, self.live.deadline()].into_iter().flatten().min()
    }

    /// A frame is complete; the next one has its own time.
    pub fn frame_done(&mut self) {
        self.frame_since = None;
    }

    /// Bytes came in; `in_frame`: they end within a frame.
    pub fn heard(&mut self, in_frame: bool, now: Instant) {
        self.live.heard(now);
        self.frame_since = in_frame.then(|| self.frame_since.unwrap_or(now));
    }

    /// Nothing is read at the moment: the other side's deadlines begin anew.
    pub fn paused(&mut self, now: Instant) {
        self.live.ponged(now);
        self.frame_since = self.frame_since.map(|_| now);
    }

    /// Bytes went out.
    pub fn said(&mut self, now: Instant) {
        self.live.said(now);
    }

    /// The driver sends a PING of its own.
    pub fn pinged(&mut self, now: Instant) {
        self.live.pinged(now);
    }

    pub fn ponged(&mut self, now: Instant) {
        self.live.ponged(now);
    }
}
