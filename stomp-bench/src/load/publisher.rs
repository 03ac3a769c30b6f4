//! Sends ready-made frames, as fast as a window allows or at a rate.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::shared::{Lane, Shared, Tally};
use super::{Counted, Load, STALL, subscriber};
use crate::Result;
use crate::clock::{self, SECOND, Timer};
use crate::connection::Connection;
use crate::stamp::{self, HEADER_BYTES, Stamp};
use crate::wire::{self, Found, Side};

/// When a message is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As soon as fewer than so many of a publisher's messages are under way.
    Window(usize),
    /// So many a second, of all publishers together, whether or not the server keeps up.
    Rate(f64),
}

/// One publisher.
pub(super) struct Publisher {
    number: usize,
    counted: Counted,
    sends: Vec<Send>,
    /// The one whose turn it is.
    turn: usize,
    schedule: Option<Schedule>,
}

/// A ready-made SEND.
struct Send {
    bytes: Vec<u8>,
    /// Where the stamp goes.
    stamp: usize,
    /// Where it goes in the `receipt` header.
    receipt: Option<usize>,
    /// How many deliveries it is.
    fan: u64,
}

struct Schedule {
    timer: Timer,
    start: u64,
    every: f64,
    sent: u64,
}

impl Schedule {
    /// When the next message is due. A message that is sent late was still due then.
    fn due(&self) -> u64 {
        self.start + clock::whole(self.sent as f64 * self.every)
    }
}

/// What a publisher waited for.
enum Turn {
    Send,
    Stop,
}

impl Publisher {
    pub(super) fn new(
        load: &Load,
        number: usize,
        connection: &Connection,
        start: u64,
    ) -> Result<Self> {
        let sends = load.lanes(number).map(|destination| {
            let head = "SEND\nreceipt:";
            let mut frame = match load.counted {
                Counted::Deliveries => b"SEND\n".to_vec(),
                Counted::Receipts => format!("{head}{:HEADER_BYTES$}\n", "").into_bytes(),
            };
            let rest = format!(
                "destination:{}\n{}content-length:{}\n\n",
                load.name(destination),
                load.send_headers,
                load.size
            );
            frame.extend_from_slice(rest.as_bytes());
            frame.resize(frame.len() + load.size, b'x');
            frame.push(0);
            let mut bytes = Vec::new();
            wire::put(&mut bytes, connection.framing(), Side::Client, &frame);
            let stamp = bytes.len() - 1 - load.size;
            let receipt =
                (load.counted == Counted::Receipts).then(|| bytes.len() - frame.len() + head.len());
            Send { bytes, stamp, receipt, fan: load.fan(destination) }
        });
        let sends = sends.collect();
        let schedule = match load.pace {
            Pace::Window(_) => None,
            Pace::Rate(rate) => {
                let every = SECOND as f64 * load.publishers as f64 / rate;
                // Publishers take turns.
                let shift = every * number as f64 / load.publishers as f64;
                let start = start + clock::whole(shift);
                Some(Schedule { timer: Timer::new()?, start, every, sent: 0 })
            }
        };
        Ok(Self { number, counted: load.counted, sends, turn: 0, schedule })
    }

    /// Sends until the run is stopped, and gives the connection back.
    pub(super) async fn run(
        mut self,
        mut connection: Connection,
        shared: Arc<Shared>,
    ) -> Option<Connection> {
        let lane = shared.lane(self.number)?;
        loop {
            match poll_fn(|cx| self.poll_turn(cx, &mut connection, &shared, lane)).await {
                Ok(Turn::Stop) => {
                    self.read_receipts(&mut connection, &shared, lane).await;
                    return Some(connection);
                }
                Ok(Turn::Send) => {
                    if let Err(error) = self.send(&mut connection, lane) {
                        shared.fail(format!("a publisher: {error}"));
                        return None;
                    }
                }
                Err(error) => {
                    shared.fail(format!("a publisher: {error}"));
                    return None;
                }
            }
        }
    }

    fn poll_turn(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
        shared: &Shared,
        lane: &Lane,
    ) -> Poll<io::Result<Turn>> {
        // Heart-beats, PINGs, and ERROR.
        while let Poll::Ready(result) = self.poll_receive(cx, connection, shared) {
            result?;
        }
        // A frame that the socket took half of goes before anything else.
        if connection.poll_flush(cx)?.is_pending() {
            return Poll::Pending;
        }
        if shared.is_stopped() {
            return Poll::Ready(Ok(Turn::Stop));
        }
        match &mut self.schedule {
            Some(schedule) => {
                let due = schedule.due();
                schedule.timer.poll_until(cx, due).map_ok(|()| Turn::Send)
            }
            None if lane.has_room() => Poll::Ready(Ok(Turn::Send)),
            None => {
                lane.wait(cx.waker());
                if lane.has_room() || shared.is_stopped() {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
        }
    }

    /// Reads once, and counts RECEIPTs where they count.
    fn poll_receive(
        &self,
        cx: &mut Context<'_>,
        connection: &mut Connection,
        shared: &Shared,
    ) -> Poll<io::Result<()>> {
        if self.counted == Counted::Deliveries {
            return connection.poll_receive(cx, &mut |found, _, _| subscriber::note(found, shared));
        }
        let publisher = u32::try_from(self.number).unwrap_or(u32::MAX);
        let mut tally = Tally::new(shared);
        connection.poll_receive(cx, &mut |found, now, _| {
            let due = match found {
                Found::Frame(frame) if frame.starts_with(b"RECEIPT") => {
                    wire::header(frame, "receipt-id").and_then(stamp::read_header)
                }
                _ => None,
            };
            match due {
                Some(due) => tally.message(Stamp { due, publisher }, now),
                None => subscriber::note(found, shared),
            }
        })
    }

    /// Reads the RECEIPTs that are still on their way, unless none comes any more.
    async fn read_receipts(&self, connection: &mut Connection, shared: &Shared, lane: &Lane) {
        if self.counted == Counted::Deliveries {
            return;
        }
        let all = poll_fn(|cx| {
            while lane.is_owed() {
                match self.poll_receive(cx, connection, shared) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => {
                        shared.fail(format!("a publisher: {error}"));
                        return Poll::Ready(());
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
            Poll::Ready(())
        });
        // What has not come by then is told as missing.
        drop(tokio::time::timeout(Duration::from_nanos(STALL), all).await);
    }

    /// Sends all that may be sent now, each in a write of its own.
    fn send(&mut self, connection: &mut Connection, lane: &Lane) -> io::Result<()> {
        loop {
            let now = clock::now();
            let due = match &mut self.schedule {
                Some(schedule) if schedule.due() > now => return Ok(()),
                Some(schedule) => {
                    let due = schedule.due();
                    schedule.sent += 1;
                    due
                }
                None if !lane.has_room() => return Ok(()),
                None => now,
            };
            let count = self.sends.len();
            let Some(send) = self.sends.get_mut(self.turn) else { return Ok(()) };
            self.turn = (self.turn + 1) % count.max(1);
            let publisher = u32::try_from(self.number).unwrap_or(u32::MAX);
            if let Some(body) = send.bytes.get_mut(send.stamp..) {
                Stamp { due, publisher }.write(body);
            }
            if let Some(value) = send.receipt.and_then(|at| send.bytes.get_mut(at..)) {
                stamp::write_header(due, value);
            }
            lane.owe(send.fan);
            if !connection.write_now(&send.bytes)? {
                return Ok(());
            }
        }
    }
}
