//! Reads as fast as the server writes, and counts.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::Ack;
use super::shared::{Shared, Tally};
use crate::connection::Connection;
use crate::stamp::Stamp;
use crate::wire::{self, Found, Side};

/// One subscriber.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subscriber {
    /// The body's bytes: they are a frame's last.
    pub(super) size: usize,
    pub(super) ack: Ack,
}

impl Subscriber {
    /// Reads until the connection ends.
    pub(super) async fn run(self, mut connection: Connection, shared: Arc<Shared>) {
        let framing = connection.framing();
        let mut ack_frame = Vec::new();
        let result = poll_fn(|cx| {
            loop {
                let mut has_ack = false;
                let mut tally = Tally::new(&shared);
                let received = connection.poll_receive(cx, &mut |found, now, out| {
                    let Found::Frame(frame) = found else { return note(found, &shared) };
                    let body = frame.len().checked_sub(self.size).and_then(|at| frame.get(at..));
                    let Some(stamp) =
                        body.filter(|_| frame.starts_with(b"MESSAGE")).and_then(Stamp::read)
                    else {
                        return note(found, &shared);
                    };
                    tally.message(stamp, now);
                    if self.ack == Ack::Auto {
                        return;
                    }
                    ack_frame.clear();
                    put_ack(&mut ack_frame, frame);
                    match self.ack {
                        // The last one of a read stands for all.
                        Ack::Client => has_ack = true,
                        Ack::ClientIndividual | Ack::Auto => {
                            wire::put(out, framing, Side::Client, &ack_frame);
                        }
                    }
                });
                drop(tally);
                if has_ack {
                    connection.put(&ack_frame);
                }
                // What cannot be written now is written when the socket takes it, or with what
                // the next read brings.
                if let Poll::Ready(Err(error)) = connection.poll_flush(cx) {
                    return Poll::Ready(error);
                }
                match received {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(error),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
        shared.fail(format!("a subscriber: {result}"));
    }
}

/// 1.2: the `ack` header of the MESSAGE is the id of the ACK.
fn put_ack(out: &mut Vec<u8>, message: &[u8]) {
    out.extend_from_slice(b"ACK\nid:");
    out.extend_from_slice(wire::header(message, "ack").unwrap_or_default());
    out.extend_from_slice(b"\n\n\0");
}

/// What is no message: an ERROR or a Close is a failure of the run.
pub(super) fn note(found: Found<'_>, shared: &Shared) {
    match found {
        Found::Frame(frame) if frame.starts_with(b"ERROR") => shared.fail(wire::excerpt(frame)),
        Found::Frame(frame) if frame.starts_with(b"MESSAGE") => {
            shared.fail(format!("not of this run: {}", wire::excerpt(frame)));
        }
        Found::Close(code) => shared.fail(format!("the server closed with code {code:?}")),
        Found::Frame(_) | Found::Ping(_) => {}
    }
}

/// Is there, and beats.
pub(super) async fn keep(mut connection: Connection, shared: Arc<Shared>) {
    let result = poll_fn(|cx| {
        loop {
            let received = connection.poll_receive(cx, &mut |found, _, _| note(found, &shared));
            if let Poll::Ready(Err(error)) = connection.poll_flush(cx) {
                return Poll::Ready(error);
            }
            match received {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(error),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
    shared.fail(format!("a connection elsewhere: {result}"));
}

/// Reads a tenth of `rate` bytes ten times a second, until the server has had enough of it.
pub(super) async fn read_slowly(mut connection: Connection, rate: usize, shared: Arc<Shared>) {
    const STEP: Duration = Duration::from_millis(100);
    let mut ticks = tokio::time::interval(STEP);
    let every = connection.beat_every();
    let mut last = crate::clock::now();
    loop {
        ticks.tick().await;
        let now = crate::clock::now();
        if every.is_some_and(|every| now - last >= every) {
            last = now;
            connection.beat();
        }
        // A server that is slow to take a beat does not keep this one from reading.
        if connection.flush_now().is_err() {
            break;
        }
        if connection.read_slowly((rate / 10).max(1)).await.is_err() {
            break;
        }
    }
    shared.slow_was_closed();
}
