//! The session that many HTTP requests make up: what the session's driver writes waits here for
//! the request that receives, and what requests bring waits for the driver.
//!
//! The driver sees it as a connection. There is one receiver at a time; between two of them the
//! session lives on for the disconnect delay. What a receiver took is proven by the client's next
//! request only: a response may be lost on its way.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;

use super::payload::PayloadLimits;
use super::{FRAME_BYTES, push_close};

/// Encoded ahead for a receiver; one message may be longer.
const AHEAD_BYTES: usize = 64 * 1024;
/// A request that only sends proves what was handed out so long before it: what is still on its
/// way then is on a connection that does not work.
const SURELY_THERE: Duration = Duration::from_secs(2);
/// What ends a receiver whose session is gone.
const INTERRUPTED: (u16, &str) = (1002, "Connection interrupted");

/// How a session goes about its receivers.
#[derive(Clone, Copy, Debug)]
pub struct PipeConfig {
    /// How long a session lives without a receiver.
    pub disconnect_delay: Duration,
    /// Messages that are encoded ahead; more of them wait in the session's mailbox.
    pub messages_ahead: usize,
}

/// One session over many requests.
#[derive(Debug)]
pub struct Pipe {
    config: PipeConfig,
    inner: Mutex<Inner>,
    /// A receiver came or went, the driver took what was sent, or the session ended.
    changed: Notify,
}

#[derive(Debug)]
struct Inner {
    state: State,
    limits: PayloadLimits,
    /// Messages of the client that the driver has not taken.
    inbound: VecDeque<Bytes>,
    /// The driver has taken and handled everything that was sent.
    is_idle: bool,
    /// Something happened that moves the driver's deadlines.
    is_stirred: bool,
    driver: Option<Waker>,
    /// JSON strings, one a line: no line end stands in one.
    outbound: Vec<u8>,
    messages: usize,
    is_opened: bool,
    receiver: Receiver,
    next_receiver: u64,
    /// Bytes of `outbound` that receivers took, and that the client proved to have.
    taken: u64,
    proven: u64,
    /// What was taken at a time, for requests that only send.
    mark: Option<(Instant, u64)>,
}

#[derive(Debug)]
enum State {
    Open,
    Closed {
        code: u16,
        reason: String,
    },
    /// The client is gone, or the driver is.
    Gone,
}

#[derive(Debug)]
enum Receiver {
    Absent { since: Instant },
    Present { number: u64, waker: Option<Waker> },
}

/// What a receiver is to be sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Outbound {
    Open,
    /// `a[...]`
    Messages(Vec<u8>),
    /// `c[...]`, after which nothing comes.
    Close(Vec<u8>),
}

/// Another receiver is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

impl Pipe {
    #[must_use]
    pub fn new(config: PipeConfig, limits: PayloadLimits, now: Instant) -> Arc<Self> {
        let inner = Inner {
            state: State::Open,
            limits,
            inbound: VecDeque::new(),
            is_idle: false,
            is_stirred: false,
            driver: None,
            outbound: Vec::new(),
            messages: 0,
            is_opened: false,
            receiver: Receiver::Absent { since: now },
            next_receiver: 0,
            taken: 0,
            proven: 0,
            mark: None,
        };
        Arc::new(Self { config, inner: Mutex::new(inner), changed: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The driver's side.
impl Pipe {
    /// Waits for something to handle; `Ready(Ok(false))` is the end.
    pub fn poll_read(&self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut inner = self.lock();
        if matches!(inner.state, State::Gone) {
            return Poll::Ready(Ok(false));
        }
        if std::mem::take(&mut inner.is_stirred) || !inner.inbound.is_empty() {
            return Poll::Ready(Ok(true));
        }
        let was_idle = std::mem::replace(&mut inner.is_idle, true);
        inner.remember_driver(cx);
        drop(inner);
        if !was_idle {
            self.changed.notify_waiters();
        }
        Poll::Pending
    }

    /// The next message of the client.
    #[must_use]
    pub fn next(&self) -> Option<Bytes> {
        let mut inner = self.lock();
        let message = inner.inbound.pop_front();
        if inner.inbound.is_empty() {
            inner.inbound = VecDeque::new();
        }
        message
    }

    /// Waits until [`Pipe::write`] would take something.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.lock();
        if matches!(inner.state, State::Gone) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if inner.has_room(self.config.messages_ahead) {
            return Poll::Ready(Ok(()));
        }
        inner.remember_driver(cx);
        Poll::Pending
    }

    /// Takes whole lines as long as there is room; returns their length.
    ///
    /// # Errors
    /// Where the client is gone.
    pub fn write(&self, lines: &[u8]) -> io::Result<usize> {
        let mut inner = self.lock();
        if matches!(inner.state, State::Gone) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut taken = 0;
        while inner.has_room(self.config.messages_ahead)
            && let Some(rest) = lines.get(taken..)
            && let Some(end) = memchr::memchr(b'\n', rest)
        {
            inner.outbound.extend_from_slice(rest.get(..=end).unwrap_or_default());
            inner.messages += 1;
            taken += end + 1;
        }
        let waker = if taken > 0 { inner.wake_receiver() } else { None };
        drop(inner);
        wake(waker);
        Ok(taken)
    }

    /// Bytes that the client has not proven to have, of those that [`Pipe::write`] took.
    #[must_use]
    pub fn unproven(&self) -> u64 {
        let inner = self.lock();
        inner.outbound.len() as u64 + inner.taken - inner.proven
    }

    /// When the session ends for want of a receiver.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.lock().receiver {
            Receiver::Absent { since } => Some(since + self.config.disconnect_delay),
            Receiver::Present { .. } => None,
        }
    }

    pub fn set_limits(&self, limits: PayloadLimits) {
        self.lock().limits = limits;
    }

    /// Nothing comes after `lines` and the close frame.
    pub fn close(&self, lines: &[u8], code: u16, reason: &str) {
        let mut inner = self.lock();
        if !matches!(inner.state, State::Open) {
            return;
        }
        inner.messages += memchr::memchr_iter(b'\n', lines).count();
        inner.outbound.extend_from_slice(lines);
        inner.state = State::Closed { code, reason: reason.to_owned() };
        inner.inbound.clear();
        // Who waits for it to be taken need not: it is dropped.
        inner.is_idle = true;
        let waker = inner.wake_receiver();
        drop(inner);
        wake(waker);
        self.changed.notify_waiters();
    }

    /// Waits until a receiver has taken everything and gone, at most for `time`.
    pub async fn taken(&self, time: Duration) {
        let all_taken = || {
            let inner = self.lock();
            inner.outbound.is_empty() && matches!(inner.receiver, Receiver::Absent { .. })
                || matches!(inner.state, State::Gone)
        };
        // Where it is not taken in time, later requests may still do so.
        let _ = tokio::time::timeout(time, self.wait(all_taken)).await;
    }

    /// Waits until nobody has asked for what is here for the disconnect delay.
    pub async fn forgotten(&self) {
        while !matches!(self.lock().state, State::Gone) {
            match self.deadline() {
                Some(at) if at <= Instant::now() => return,
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => self.wait(|| self.deadline().is_some()).await,
            }
        }
    }

    /// The session is over, and nobody is to come back to it.
    pub fn give_up(&self) {
        let mut inner = self.lock();
        inner.state = State::Gone;
        inner.inbound.clear();
        let (waker, driver) = (inner.wake_receiver(), inner.driver.take());
        drop(inner);
        wake(waker);
        wake(driver);
        self.changed.notify_waiters();
    }

    async fn wait(&self, condition: impl Fn() -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // From here on nothing is missed.
            changed.as_mut().enable();
            if condition() {
                return;
            }
            changed.await;
        }
    }
}

/// The requests' side.
impl Pipe {
    /// Becomes the receiver. That it came proves that the one before it was received.
    ///
    /// # Errors
    /// [`Busy`] where there is one.
    pub fn attach(&self) -> Result<u64, Busy> {
        let mut inner = self.lock();
        if matches!(inner.receiver, Receiver::Present { .. }) {
            return Err(Busy);
        }
        inner.next_receiver += 1;
        let number = inner.next_receiver;
        inner.receiver = Receiver::Present { number, waker: None };
        inner.proven = inner.taken;
        let driver = inner.stir();
        drop(inner);
        wake(driver);
        Ok(number)
    }

    /// What the receiver is to send next.
    pub fn poll_outbound(&self, number: u64, cx: &mut Context<'_>) -> Poll<Outbound> {
        let mut inner = self.lock();
        if !inner.is_opened {
            inner.is_opened = true;
            return Poll::Ready(Outbound::Open);
        }
        if inner.outbound.is_empty() {
            match &inner.state {
                State::Open => {}
                State::Closed { code, reason } => return Poll::Ready(close(*code, reason)),
                State::Gone => return Poll::Ready(close(INTERRUPTED.0, INTERRUPTED.1)),
            }
            if let Receiver::Present { number: own, waker } = &mut inner.receiver
                && *own == number
            {
                match waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                return Poll::Pending;
            }
            // Nobody's turn but the receiver's.
            return Poll::Ready(close(INTERRUPTED.0, INTERRUPTED.1));
        }
        let frame = inner.take_frame();
        let driver = inner.driver.take();
        drop(inner);
        wake(driver);
        Poll::Ready(Outbound::Messages(frame))
    }

    /// The receiver's response ended as it should. Another may follow.
    pub fn detach(&self, number: u64, now: Instant) {
        let mut inner = self.lock();
        if !inner.is_receiver(number) {
            return;
        }
        inner.receiver = Receiver::Absent { since: now };
        let driver = inner.stir();
        drop(inner);
        wake(driver);
        self.changed.notify_waiters();
    }

    /// The receiver's connection broke: the session is over. False where it is not its receiver.
    pub(super) fn abort(&self, number: u64) -> bool {
        let is_receiver = self.lock().is_receiver(number);
        if is_receiver {
            self.give_up();
        }
        is_receiver
    }

    /// Waits until the receiver that is there has gone, at most for `time`.
    pub async fn vacant(&self, time: Duration) {
        let is_vacant = || {
            let inner = self.lock();
            matches!(inner.receiver, Receiver::Absent { .. }) || matches!(inner.state, State::Gone)
        };
        // Where it stays, the caller finds it there.
        let _ = tokio::time::timeout(time, self.wait(is_vacant)).await;
    }

    #[must_use]
    pub fn limits(&self) -> PayloadLimits {
        self.lock().limits
    }

    /// Hands messages to the driver and waits until it has handled them, which holds up a client
    /// that sends faster than they are handled. False where there was no room within `time`.
    pub async fn send(&self, messages: Vec<Bytes>, time: Duration) -> bool {
        self.lock().prove_by_sending(Instant::now());
        if messages.is_empty() {
            return true;
        }
        let idle = || {
            let inner = self.lock();
            inner.inbound.is_empty() && inner.is_idle || !matches!(inner.state, State::Open)
        };
        let room = || self.lock().inbound.is_empty();
        if tokio::time::timeout(time, self.wait(room)).await.is_err() {
            return false;
        }
        {
            let mut inner = self.lock();
            if !matches!(inner.state, State::Open) {
                return true;
            }
            inner.inbound.extend(messages);
            inner.is_idle = false;
            let driver = inner.driver.take();
            drop(inner);
            wake(driver);
        }
        // Where it is not handled yet, it is safely kept; the next one waits longer.
        let _ = tokio::time::timeout(time / 8, self.wait(idle)).await;
        true
    }
}

impl Inner {
    fn has_room(&self, most: usize) -> bool {
        self.messages < most && self.outbound.len() < AHEAD_BYTES
    }

    fn is_receiver(&self, number: u64) -> bool {
        matches!(self.receiver, Receiver::Present { number: own, .. } if own == number)
    }

    fn remember_driver(&mut self, cx: &Context<'_>) {
        match &mut self.driver {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    fn wake_receiver(&mut self) -> Option<Waker> {
        match &mut self.receiver {
            Receiver::Present { waker, .. } => waker.take(),
            Receiver::Absent { .. } => None,
        }
    }

    fn stir(&mut self) -> Option<Waker> {
        self.is_stirred = true;
        self.driver.take()
    }

    /// `a[...]` of what waits, up to about [`FRAME_BYTES`].
    fn take_frame(&mut self) -> Vec<u8> {
        let is_all = self.outbound.len() <= FRAME_BYTES;
        let end = if is_all {
            self.outbound.len()
        } else {
            // The first line end at or after the limit.
            let from = FRAME_BYTES - 1;
            let rest = self.outbound.get(from..).unwrap_or_default();
            memchr::memchr(b'\n', rest).map_or(self.outbound.len(), |at| from + at + 1)
        };
        let mut frame = Vec::with_capacity(end + 3);
        frame.extend_from_slice(b"a[");
        frame.extend_from_slice(self.outbound.get(..end).unwrap_or_default());
        let mut count = 0;
        for byte in &mut frame {
            if *byte == b'\n' {
                *byte = b',';
                count += 1;
            }
        }
        if let Some(last) = frame.last_mut() {
            *last = b']';
        }
        if end == self.outbound.len() {
            self.outbound = Vec::new();
        } else {
            self.outbound.drain(..end);
        }
        self.messages -= count;
        self.taken += end as u64;
        frame
    }

    fn prove_by_sending(&mut self, now: Instant) {
        let taken = self.taken;
        match self.mark {
            Some((since, mark)) if now >= since + SURELY_THERE => {
                self.proven = self.proven.max(mark);
                self.mark = Some((now, taken));
            }
            Some(_) => {}
            None => self.mark = Some((now, taken)),
        }
    }
}

fn close(code: u16, reason: &str) -> Outbound {
    let mut frame = Vec::with_capacity(reason.len() + 16);
    push_close(&mut frame, code, reason);
    Outbound::Close(frame)
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests;
