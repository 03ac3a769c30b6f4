//! What must come: frames, an ERROR, a close, nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::Play;
use crate::compare::compare;
use crate::connection::Event;
use crate::profile::Sync;
use crate::reader::{ServerFrame, show};
use crate::template::Template;
use crate::transcript::{Cut, FramePattern, MessageKind, Transport};
use crate::wrong::Wrong;

impl Play<'_> {
    /// The next event that is not a heart-beat, nor a PONG.
    async fn next_word(&mut self, name: &str, limit: Duration) -> Result<Event, Wrong> {
        let deadline = Instant::now() + limit;
        loop {
            match self.next(name, deadline).await? {
                Event::Beat | Event::Pong(_) => {}
                event => return Ok(event),
            }
        }
    }

    async fn next_frame(&mut self, name: &str, expected: &str) -> Result<ServerFrame, Wrong> {
        let limit = self.setting.limit;
        match self.next_word(name, limit).await? {
            Event::Frame(frame, kind) => {
                self.peer(name)?.last_kind = kind;
                Ok(frame)
            }
            other => Err(Wrong::instead(expected, other, limit)),
        }
    }

    /// One frame that fits, and what it was.
    pub(super) async fn frame(
        &mut self,
        name: &str,
        pattern: &FramePattern,
    ) -> Result<ServerFrame, Wrong> {
        let frame = self.next_frame(name, &pattern.command).await?;
        let captured = compare(pattern, &frame, &self.setting.values)?;
        self.setting.values.extend(captured);
        if frame.command == b"CONNECTED" {
            self.peer(name)?.connected = true;
        }
        Ok(frame)
    }

    pub(super) async fn frames(
        &mut self,
        name: &str,
        patterns: &[FramePattern],
    ) -> Result<(), Wrong> {
        if let [pattern] = patterns {
            return self.frame(name, pattern).await.map(drop);
        }
        let mut open: Vec<&FramePattern> = patterns.iter().collect();
        while let Some(first) = open.first() {
            let frame = self.next_frame(name, &first.command).await?;
            let values = &self.setting.values;
            let fitting = open.iter().position(|pattern| compare(pattern, &frame, values).is_ok());
            // Where none fits, the first of that command says best what is wrong.
            let nearest = || open.iter().position(|p| p.command.as_bytes() == frame.command);
            let at = fitting.or_else(nearest).unwrap_or(0);
            let pattern = open.remove(at);
            let captured = compare(pattern, &frame, values)?;
            self.setting.values.extend(captured);
        }
        Ok(())
    }

    /// An ERROR, then a close; the ERROR may be missing where that is `silent`. A server that acts
    /// by the clock has `time` before its answer is late.
    pub(super) async fn error(
        &mut self,
        name: &str,
        codes: &[u16],
        message: Option<&Template>,
        silent: bool,
        time: Duration,
    ) -> Result<(), Wrong> {
        let limit = time + self.setting.limit;
        let frame = match self.next_word(name, limit).await? {
            Event::Frame(frame, _) => frame,
            Event::Closed(code) if silent => return self.code(codes, code),
            other => return Err(Wrong::instead("ERROR", other, limit)),
        };
        let mut pattern = FramePattern::of("ERROR");
        if let Some(message) = message.filter(|_| self.setting.profile.messages) {
            pattern.headers.push(("message".into(), message.clone()));
        }
        compare(&pattern, &frame, &self.setting.values)?;
        self.close(name, codes).await
    }

    pub(super) async fn close(&mut self, name: &str, codes: &[u16]) -> Result<(), Wrong> {
        let limit = self.setting.limit;
        match self.next_word(name, limit).await? {
            Event::Closed(code) => self.code(codes, code),
            other => Err(Wrong::instead("a close", other, limit)),
        }
    }

    fn code(&self, codes: &[u16], code: Option<u16>) -> Result<(), Wrong> {
        let compared = self.setting.profile.close_codes
            && self.setting.transport != Transport::Tcp
            && !codes.is_empty();
        if !compared || code.is_some_and(|code| codes.contains(&code)) {
            return Ok(());
        }
        let codes: Vec<String> = codes.iter().map(u16::to_string).collect();
        let came = code.map_or("none".into(), |code| code.to_string());
        Err(Wrong::new(format!("expected close {}", codes.join(" or ")), format!(", got {came}")))
    }

    pub(super) async fn pong(&mut self, name: &str, payload: &Template) -> Result<(), Wrong> {
        let limit = self.setting.limit;
        match self.next(name, Instant::now() + limit).await? {
            Event::Pong(came) if payload.matches(&came, &self.setting.values).is_some() => Ok(()),
            Event::Pong(came) => {
                Err(Wrong::new("expected another PONG", format!(", got {}", show(&came))))
            }
            other => Err(Wrong::instead("a PONG", other, limit)),
        }
    }

    /// BEGIN and ABORT of a transaction change nothing, and the answer comes in order.
    pub(super) async fn nothing(&mut self, name: &str) -> Result<(), Wrong> {
        if let Sync::Quiet(time) = self.setting.profile.sync {
            return match self.next_word(name, time).await? {
                Event::Silence => Ok(()),
                other => Err(Wrong::instead("no frame", other, time)),
            };
        }
        self.barriers += 1;
        let id = format!("barrier-{}", self.barriers);
        let frames =
            format!("BEGIN\ntransaction:{id}\n\n\0ABORT\ntransaction:{id}\nreceipt:{id}\n\n\0");
        self.send(name, frames.as_bytes(), Cut::Whole).await?;
        let limit = self.setting.limit;
        let frame = match self.next_word(name, limit).await? {
            Event::Frame(frame, _) => frame,
            other => return Err(Wrong::instead("no frame", other, limit)),
        };
        let receipt = frame.header(b"receipt-id");
        if frame.command == b"RECEIPT" && receipt == Some(id.as_bytes()) {
            return Ok(());
        }
        let of = receipt.map(|id| format!(" of {}", show(id))).unwrap_or_default();
        let mut wrong = Wrong::instead("no frame", Event::Frame(frame, None), limit);
        wrong.came.push_str(&of);
        Err(wrong)
    }

    /// No two of these are the same.
    pub(super) fn differ(&self, texts: &[Template]) -> Result<(), Wrong> {
        let mut seen = BTreeSet::new();
        let mut all = texts.iter().map(|text| text.fill(&self.setting.values));
        match all.find(|text| !seen.insert(text.clone())) {
            None => Ok(()),
            Some(text) => {
                Err(Wrong::new("expected different values", format!(", got {} twice", show(&text))))
            }
        }
    }

    pub(super) async fn nothing_is_left(&mut self) -> Result<(), Wrong> {
        let names: Vec<String> = self.connections.keys().cloned().collect();
        for name in names {
            let peer = self.peer(&name)?;
            if peer.connected && peer.connection.is_open() {
                self.nothing(&name).await.map_err(|wrong| wrong.after("at the end: "))?;
            }
        }
        Ok(())
    }

    pub(super) fn kind(&mut self, name: &str, expected: MessageKind) -> Result<(), Wrong> {
        let over_tcp = self.setting.transport == Transport::Tcp;
        match self.peer(name)?.last_kind {
            Some(kind) if kind == expected => Ok(()),
            None if over_tcp => Ok(()),
            Some(kind) => Err(format!("expected a {expected} message, got a {kind} one").into()),
            None => Err(format!("expected a {expected} message, no frame came before").into()),
        }
    }
}
