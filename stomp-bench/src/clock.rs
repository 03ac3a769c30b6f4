//! Time since the start of the program, and a timer that is more precise than a millisecond.

use std::sync::OnceLock;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

use crate::Result;

/// Nanoseconds of a second.
pub const SECOND: u64 = 1_000_000_000;

/// Nanoseconds since the first call.
#[must_use]
pub fn now() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    nanos(START.get_or_init(Instant::now).elapsed())
}

/// A span in nanoseconds.
#[must_use]
pub fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// A span in nanoseconds, from one that was computed.
#[must_use]
pub fn whole(span: f64) -> u64 {
    nanos(Duration::try_from_secs_f64(span / SECOND as f64).unwrap_or_default())
}

/// Waits for moments. The runtime's own timer rounds to milliseconds, which would be seen in
/// every latency that is counted from the moment a message was due.
#[derive(Debug)]
pub struct Timer {
    fd: AsyncFd<OwnedFd>,
    armed: u64,
}

impl Timer {
    /// # Errors
    /// Where the system has no timer to give.
    #[expect(unsafe_code, reason = "tokio has no safe way to wait for a timer of the kernel")]
    pub fn new() -> Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags).map_err(std::io::Error::from)?;
        // SAFETY: the OwnedFd holds an open descriptor, and nothing takes it out of the AsyncFd.
        let fd = unsafe { AsyncFd::register(fd) }.map_err(std::io::Error::from)?;
        Ok(Self { fd, armed: 0 })
    }

    /// Ready once `at` has come.
    ///
    /// # Errors
    /// Where the timer cannot be set.
    pub fn poll_until(&mut self, cx: &mut Context<'_>, at: u64) -> Poll<std::io::Result<()>> {
        loop {
            let now = now();
            if now >= at {
                return Poll::Ready(Ok(()));
            }
            if self.armed != at {
                self.arm(at - now)?;
                self.armed = at;
            }
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            // Setting the timer anew takes back what it said before; the descriptor is never read.
            guard.clear_ready();
            self.armed = 0;
        }
    }

    fn arm(&self, span: u64) -> std::io::Result<()> {
        let value = Timespec {
            tv_sec: i64::try_from(span / SECOND).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(span % SECOND).unwrap_or(0),
        };
        let once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let spec = Itimerspec { it_interval: once, it_value: value };
        timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &spec)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test]
    async fn the_timer_is_never_early() {
        let mut timer = Timer::new().unwrap();
        let start = now();
        for step in 1..=5 {
            let at = start + step * 300_000;
            poll_fn(|cx| timer.poll_until(cx, at)).await.unwrap();
            assert!(now() >= at);
        }
    }
}
