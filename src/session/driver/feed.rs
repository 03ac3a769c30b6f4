//! What was read, given to the session as far as it takes it.

use std::time::Instant;

use bytes::Bytes;

use crate::session::Violation;
use crate::stomp::DecoderEvent;
use crate::transport::sockjs::is_stringified;
use crate::transport::websocket::frame;
use crate::transport::{Incoming, Kind};

use super::{Driver, Held, Services, Turn};

impl Driver {
    /// Takes bytes apart and gives the frames to the session, as far as it takes them.
    pub(super) fn feed(&mut self, held: Held, now: Instant, turn: &mut Turn) {
        let Held { mut raw, mut data } = held;
        loop {
            while !data.is_empty() {
                if self.over.is_some() {
                    return;
                }
                if !self.may_take() {
                    self.held = Some(Box::new(Held { raw, data }));
                    return;
                }
                if !self.feed_stomp(&mut data, now, turn) {
                    return;
                }
            }
            match self.transport.incoming(&mut raw) {
                Ok(None) => break,
                Ok(Some(incoming)) => {
                    data = self.incoming(incoming, now, turn);
                    if self.over.is_some() {
                        return;
                    }
                }
                Err(error) => {
                    self.over.get_or_insert((error.code, error.reason));
                    return;
                }
            }
        }
        self.publish_burst(turn);
        self.perform(turn);
        self.session.heard(self.decoder.in_frame(), now);
    }

    fn incoming(&mut self, incoming: Incoming, now: Instant, turn: &mut Turn) -> Bytes {
        match incoming {
            Incoming::Data(data) => return self.data(data, turn),
            Incoming::Ping(payload) => frame::write_pong(&mut turn.scratch, &payload),
            Incoming::Pong(payload) => {
                self.session.ponged(now);
                self.proofs.ponged(&payload);
                self.proven(turn);
            }
            Incoming::Close => {
                self.over.get_or_insert((1000, ""));
            }
        }
        Bytes::new()
    }

    /// Bytes of STOMP. Over SockJS they are text, and what a page made a string of by mistake must
    /// not be glued to the next frame.
    fn data(&mut self, data: Bytes, turn: &mut Turn) -> Bytes {
        if self.transport.kind() == Kind::SockJs {
            self.services.metrics.bytes_received.inc_by(data.len() as u64);
        }
        if self.transport.is_json() && !self.decoder.in_frame() && is_stringified(&data) {
            let violation = Violation::new(
                "SockJS carries text only",
                "A binary frame became a text on its way. Send bodies as text, for instance as \
                 base64, or connect by WebSocket.\n",
            );
            self.session.garbled(violation, &mut turn.actions);
            self.perform(turn);
            return Bytes::new();
        }
        data
    }

    /// One frame or part of one; `false` where nothing more is to be read.
    fn feed_stomp(&mut self, data: &mut Bytes, now: Instant, turn: &mut Turn) -> bool {
        match self.decoder.decode(data) {
            Ok(Some(DecoderEvent::Frame(frame))) => {
                self.services.metrics.frames_received.inc();
                self.session.frame_done();
                self.session.frame(frame, now, &mut turn.actions);
                self.perform(turn);
                true
            }
            Ok(Some(DecoderEvent::HeartBeat) | None) => true,
            Err(error) => {
                self.session.garbled(Violation::from(error), &mut turn.actions);
                self.perform(turn);
                false
            }
        }
    }

    /// Whether a frame may be given to the session now.
    fn may_take(&mut self) -> bool {
        if !self.session.takes_frames() || self.crowded.is_some() {
            return false;
        }
        // Who has sent nothing yet does not wait for room.
        if !self.has_sent {
            return true;
        }
        let Services { broker, users, .. } = &*self.services;
        if !broker.has_room(&self.mailbox) || !users.has_room(&self.mailbox) {
            self.is_blocked = true;
            return false;
        }
        true
    }

    /// Goes on with bytes that had to wait.
    pub(super) fn feed_held(&mut self, turn: &mut Turn) {
        if self.over.is_none()
            && !self.is_blocked
            && self.crowded.is_none()
            && self.session.takes_frames()
            && let Some(held) = self.held.take()
        {
            self.feed(*held, Instant::now(), turn);
        }
    }
}
