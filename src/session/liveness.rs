//! When a session is due to say something, and when the other side has been silent for too long.
//!
//! Browsers throttle the timers of hidden pages to one a minute, so a client's beat that is late
//! proves nothing on WebSocket: there the other side's protocol stack is asked by a PING, which
//! no page can delay. On TCP and over SockJS three silent intervals end the session.

use std::time::{Duration, Instant};

use crate::stomp::heartbeat::Agreement;

use super::action::Action;
use super::error::code;

/// A PING that is not answered for so long ends the session.
const PONG_TIME: Duration = Duration::from_secs(10);
/// WebSocket clients without heart-beats get a PING this often: proxies close what is silent
/// for 60 s.
const IDLE_PING: Duration = Duration::from_secs(25);

/// What the session runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    WebSocket,
    Tcp,
    /// SockJS over HTTP. No PING there, as on TCP.
    SockJs,
}

/// Deadlines of one session.
#[derive(Debug)]
pub(super) struct Liveness {
    wire: Wire,
    agreed: Agreement,
    heard: Instant,
    said: Instant,
    pinged: Option<Instant>,
}

impl Liveness {
    pub(super) fn new(wire: Wire, now: Instant) -> Self {
        Self { wire, agreed: Agreement::default(), heard: now, said: now, pinged: None }
    }

    /// Sets what CONNECT and CONNECTED agreed on.
    pub(super) fn agree(&mut self, agreed: Agreement) {
        self.agreed = agreed;
    }

    /// Bytes came in.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// Bytes went out.
    pub(super) fn said(&mut self, now: Instant) {
        self.said = now;
    }

    /// A PING goes out for a reason of the driver's.
    pub(super) fn pinged(&mut self, now: Instant) {
        self.pinged = Some(now);
    }

    pub(super) fn ponged(&mut self, now: Instant) {
        self.heard = now;
        self.pinged = None;
    }

    /// The earliest time at which something may be due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.beat_at(), self.ping_at(), self.end_at()].into_iter().flatten().min()
    }

    pub(super) fn tick(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.end_at().is_some_and(|at| at <= now) {
            out.push(Action::Close { code: code::POLICY, reason: "heart-beat" });
            return;
        }
        if self.ping_at().is_some_and(|at| at <= now) {
            self.pinged = Some(now);
            out.push(Action::Ping);
        }
        if self.beat_at().is_some_and(|at| at <= now) {
            self.said = now;
            out.push(Action::HeartBeat);
        }
    }

    /// A tenth earlier than promised, since ticks are coarse and the network takes its time.
    fn beat_at(&self) -> Option<Instant> {
        self.agreed.send_every.map(|every| self.said + every.mul_f32(0.9))
    }

    fn ping_at(&self) -> Option<Instant> {
        if self.wire != Wire::WebSocket || self.pinged.is_some() {
            return None;
        }
        let silence = self.agreed.expect_every.map_or(IDLE_PING, |every| every.mul_f32(1.5));
        Some(self.heard + silence)
    }

    fn end_at(&self) -> Option<Instant> {
        match self.wire {
            Wire::WebSocket => self.pinged.map(|pinged| pinged + PONG_TIME),
            Wire::Tcp | Wire::SockJs => {
                self.agreed.expect_every.map(|every| self.heard + 3 * every)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds at which something happens, and what, when the time goes on second by second.
    fn course(live: &mut Liveness, start: Instant, seconds: u64) -> Vec<(u64, &'static str)> {
        let mut course = Vec::new();
        for second in 1..=seconds {
            let mut out = Vec::new();
            live.tick(start + Duration::from_secs(second), &mut out);
            course.extend(out.iter().map(|action| match action {
                Action::Ping => (second, "ping"),
                Action::HeartBeat => (second, "beat"),
                Action::Close { .. } => (second, "close"),
                _ => (second, "other"),
            }));
            if matches!(out.last(), Some(Action::Close { .. })) {
                break;
            }
        }
        course
    }

    /// Seconds; 0 is never.
    fn agreement(send: u64, expect: u64) -> Agreement {
        let every = |seconds| (seconds > 0).then(|| Duration::from_secs(seconds));
        Agreement { send_every: every(send), expect_every: every(expect) }
    }

    #[test]
    fn deadlines() {
        let (ten, zero) = (10, 0);
        type Case<'a> = (Wire, u64, u64, &'a [(u64, &'a str)]);
        let cases: [Case<'_>; 5] = [
            (Wire::WebSocket, zero, zero, &[(25, "ping"), (35, "close")]),
            (Wire::WebSocket, zero, ten, &[(15, "ping"), (25, "close")]),
            (Wire::WebSocket, ten, zero, &[(9, "beat"), (18, "beat"), (25, "ping"), (27, "beat")]),
            (Wire::Tcp, zero, ten, &[(30, "close")]),
            (Wire::Tcp, zero, zero, &[]),
        ];
        for (wire, send, expect, wanted) in cases {
            let start = Instant::now();
            let mut live = Liveness::new(wire, start);
            live.agree(agreement(send, expect));
            let course = course(&mut live, start, 100);
            assert_eq!(course.get(..wanted.len()), Some(wanted), "{wire:?} {send:?} {expect:?}");
        }
    }

    #[test]
    fn a_pong_is_life() {
        let start = Instant::now();
        let mut live = Liveness::new(Wire::WebSocket, start);
        live.agree(agreement(0, 10));
        assert_eq!(course(&mut live, start, 16), [(15, "ping")]);
        live.ponged(start + Duration::from_secs(16));
        let later = start + Duration::from_secs(16);
        assert_eq!(course(&mut live, later, 30), [(15, "ping"), (25, "close")]);
    }
}
