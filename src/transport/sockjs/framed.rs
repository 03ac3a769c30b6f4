//! SockJS over a WebSocket: every message either way is a SockJS frame.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::payload::{PayloadLimits, parse_message};
use crate::transport::Broken;
use crate::transport::websocket::frame::{FrameLimits, FrameReader, WsEvent};

/// The client breaks SockJS, on a WebSocket that is in order.
const BROKEN: u16 = 1002;
const TOO_BIG: u16 = 1009;

/// Reads what the client sends, and knows when it is to hear something.
#[derive(Debug)]
pub struct Framed {
    reader: FrameReader,
    limits: PayloadLimits,
    fragments: u32,
    /// The WebSocket message whose frames are being read, and its number.
    message: BytesMut,
    number: u32,
    ready: VecDeque<Bytes>,
    heartbeat: Duration,
    /// When something was last written.
    pub(in crate::transport) wrote: Instant,
    /// The client breaks the rules, and is told so by WebSocket's Close alone.
    pub(in crate::transport) is_broken: bool,
}

impl Framed {
    /// `fragments` is the most of one WebSocket message; `heartbeat` the silence after which the
    /// client is sent `h`.
    #[must_use]
    pub fn new(limits: PayloadLimits, fragments: u32, heartbeat: Duration, now: Instant) -> Self {
        let mut framed = Self {
            reader: FrameReader::new(FrameLimits { message_bytes: 0, fragments }),
            limits,
            fragments,
            message: BytesMut::new(),
            number: 0,
            ready: VecDeque::new(),
            heartbeat,
            wrote: now,
            is_broken: false,
        };
        framed.set_limits(limits);
        framed
    }

    pub fn set_limits(&mut self, limits: PayloadLimits) {
        self.limits = limits;
        let (message_bytes, fragments) = (limits.bytes as u64, self.fragments);
        self.reader.set_limits(FrameLimits { message_bytes, fragments });
    }

    /// When the client is to be sent `h`.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.wrote + self.heartbeat
    }

    /// The next SockJS message, PING, PONG or Close; as [`FrameReader::next`].
    ///
    /// # Errors
    /// Where the WebSocket or the JSON is broken.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<WsEvent>, Broken> {
        let result = self.read(input);
        self.is_broken |= result.is_err();
        result
    }

    fn read(&mut self, input: &mut BytesMut) -> Result<Option<WsEvent>, Broken> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Some(WsEvent::Data(message)));
            }
            self.ready = VecDeque::new();
            let event = self.reader.next(input)?;
            // An empty last fragment ends a message without an event.
            if self.reader.message_number() != self.number {
                self.complete()?;
                self.number = self.reader.message_number();
            }
            match event {
                Some(WsEvent::Data(piece)) => {
                    self.message.extend_from_slice(&piece);
                    if self.reader.is_between_messages() {
                        self.complete()?;
                    }
                }
                Some(event) if self.ready.is_empty() => return Ok(Some(event)),
                None if self.ready.is_empty() => return self.finish_silent(),
                // What was sent before it comes first.
                Some(WsEvent::Close { .. }) | None => {}
                Some(event) => return Ok(Some(event)),
            }
        }
    }

    /// All input is read: a message may have ended with an empty fragment.
    fn finish_silent(&mut self) -> Result<Option<WsEvent>, Broken> {
        if self.reader.is_between_messages() {
            self.complete()?;
        }
        Ok(self.ready.pop_front().map(WsEvent::Data))
    }

    fn complete(&mut self) -> Result<(), Broken> {
        if self.message.is_empty() {
            return Ok(());
        }
        let message = std::mem::take(&mut self.message);
        let messages = parse_message(&message, self.limits.messages).map_err(|error| {
            let code = match error {
                super::payload::PayloadError::TooMany => TOO_BIG,
                _ => BROKEN,
            };
            Broken { code, reason: error.text() }
        })?;
        self.ready.extend(messages);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        // A mask of zeros leaves the payload as it is.
        let length = u8::try_from(payload.len()).unwrap();
        [&[first, 0x80 | length, 0, 0, 0, 0], payload].concat()
    }

    fn read(frames: &[Vec<u8>], step: usize) -> Result<Vec<String>, u16> {
        let limits = PayloadLimits { bytes: 100, messages: 3 };
        let mut framed = Framed::new(limits, 10, Duration::from_secs(25), Instant::now());
        let mut texts = Vec::new();
        for piece in frames.concat().chunks(step) {
            let mut input = BytesMut::from(piece);
            while let Some(event) = framed.next(&mut input).map_err(|broken| broken.code)? {
                texts.push(match event {
                    WsEvent::Data(data) => String::from_utf8(data.to_vec()).unwrap(),
                    other => format!("{other:?}"),
                });
            }
        }
        Ok(texts)
    }

    #[test]
    fn messages_in_all_pieces() {
        let frames = [
            frame(0x81, br#"["a","b"]"#),
            frame(0x81, b""),
            frame(0x01, br#"["c""#),
            frame(0x80, b"]"),
            frame(0x01, br#"["d"]"#),
            frame(0x80, b""),
            frame(0x81, b"[]"),
            frame(0x82, b"\"e\""),
            frame(0x01, br#"["f"]"#),
            frame(0x80, b""),
        ];
        for step in [1, 2, 3, 7, 1000] {
            assert_eq!(read(&frames, step).unwrap(), ["a", "b", "c", "d", "e", "f"], "{step}");
        }
    }

    #[test]
    fn what_is_broken_ends_it() {
        assert_eq!(read(&[frame(0x81, b"[\"a")], 100), Err(1002));
        assert_eq!(read(&[frame(0x81, b"{}")], 100), Err(1002));
        assert_eq!(read(&[frame(0x81, br#"["","","",""]"#)], 100), Err(1009));
        let long = format!("[\"{}\"]", "x".repeat(100));
        assert_eq!(read(&[frame(0x81, long.as_bytes())], 100), Err(1009));
    }

    proptest! {
        /// Wherever messages are cut into frames and frames into reads.
        #[test]
        fn cuts_change_nothing(
            messages in vec((vec("[a-c\"é]{0,4}", 0..4), vec(0..20_usize, 0..3)), 0..6),
            step in 1..40_usize,
        ) {
            let mut frames = Vec::new();
            let mut wanted = Vec::new();
            for (texts, mut cuts) in messages {
                let json = serde_json::to_vec(&texts).unwrap();
                wanted.extend(texts);
                cuts.iter_mut().for_each(|cut| *cut = (*cut).min(json.len()));
                cuts.extend([0, json.len()]);
                cuts.sort_unstable();
                let last = cuts.len() - 2;
                for (at, ends) in cuts.windows(2).enumerate() {
                    let first = u8::from(at == 0) | if at == last { 0x80 } else { 0 };
                    frames.push(frame(first, json.get(ends[0]..ends[1]).unwrap()));
                }
            }
            prop_assert_eq!(read(&frames, step), Ok(wanted));
        }

        #[test]
        fn nothing_panics(bytes in vec(any::<u8>(), 0..60), step in 1..60_usize) {
            // Most of it is broken, and is told so.
            let _ = read(&[bytes], step);
        }
    }
}
