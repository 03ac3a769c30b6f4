//! Bytes to frames, resumable at every byte.
//!
//! [`Scan`] walks over a head as it arrives, finds its end and enforces the limits; the complete
//! head is then parsed by [`super::head`]. Bodies are sliced out of the input where they are
//! there in full, else gathered. No byte is looked for twice.

use std::mem;

use bytes::{Buf, Bytes};
use memchr::{memchr, memchr2, memchr3};

use super::error::{DecodeError, Excerpt, Fault, LineFault};
use super::head::{self, Head};
use super::{Command, Frame, Headers, Version};

/// No command line is longer, so that noise is refused early.
const COMMAND_BYTES: usize = 32;
/// Reserved at once for a body that comes in pieces; beyond it memory follows what arrives.
const BODY_AT_ONCE: usize = 64 * 1024;

/// What one frame may cost. Lengths are in bytes as they stand on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Command, headers, their line ends, and body; the NUL not counted.
    pub frame_bytes: usize,
    /// Header lines, repeated ones included.
    pub headers: usize,
    pub header_name_bytes: usize,
    pub header_value_bytes: usize,
}

/// What [`Decoder::decode`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Frame(Frame),
    /// Line ends between frames, at most once per piece; not reported where a frame begins
    /// after them in the same piece, since that is a sign of life as good.
    HeartBeat,
}

/// The resumable decoder of one connection. It holds no memory between frames.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    /// None before CONNECTED.
    version: Option<Version>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Between {
        /// The last piece ended within a CR LF.
        after_cr: bool,
    },
    Head(Box<PartialHead>),
    Body(Box<PartialBody>),
    /// After an error nothing is decoded any more.
    Failed,
}

#[derive(Debug)]
struct PartialHead {
    gathered: Vec<u8>,
    scan: Scan,
}

#[derive(Debug)]
struct PartialBody {
    command: Command,
    headers: Headers,
    gathered: Vec<u8>,
    rest: Rest,
}

/// What is still to come of a body.
#[derive(Clone, Copy, Debug)]
enum Rest {
    /// So many bytes, then NUL.
    Length(usize),
    /// Up to the first NUL, of which at most so many bytes may pass.
    ToNul(usize),
    /// Nothing but the NUL.
    Nul,
}

impl Decoder {
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, version: None, phase: Phase::Between { after_cr: false } }
    }

    /// Limits from here on, for a frame that has begun too.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The negotiated version, to be set before the next call of [`Self::decode`]. Without one
    /// there are no escapes.
    pub fn set_version(&mut self, version: Version) {
        self.version = Some(version);
    }

    /// Whether a frame has begun and is not complete.
    #[must_use]
    pub fn in_frame(&self) -> bool {
        matches!(self.phase, Phase::Head(_) | Phase::Body(_))
    }

    /// Takes bytes from the front of `input` and returns the next event; None where more bytes
    /// are needed, `input` is empty then.
    ///
    /// # Errors
    /// Where the bytes are no frame or pass a limit. Whatever comes after that is dropped.
    pub fn decode(&mut self, input: &mut Bytes) -> Result<Option<Event>, DecodeError> {
        match mem::replace(&mut self.phase, Phase::Failed) {
            Phase::Between { after_cr } => self.between(after_cr, input),
            Phase::Head(partial) => self.resume_head(partial, input),
            Phase::Body(partial) => self.resume_body(partial, input),
            Phase::Failed => {
                input.clear();
                Ok(None)
            }
        }
    }

    /// Between frames line ends are heart-beats, and NULs are noise that clients of old send.
    fn between(
        &mut self,
        mut after_cr: bool,
        input: &mut Bytes,
    ) -> Result<Option<Event>, DecodeError> {
        let mut beat = false;
        let mut skipped = 0_usize;
        for &byte in input.iter() {
            match (byte, after_cr) {
                (b'\n', _) => {
                    beat = true;
                    after_cr = false;
                }
                (b'\r', false) => after_cr = true,
                (0, false) => {}
                (_, true) => return Err(stray_cr()),
                (_, false) => break,
            }
            skipped += 1;
        }
        input.advance(skipped);
        if input.is_empty() {
            self.phase = Phase::Between { after_cr };
            return Ok(beat.then_some(Event::HeartBeat));
        }
        let mut scan = Scan::default();
        let found = scan.advance(input, &self.limits);
        match found.map_err(|problem| scan.fault(problem, &[], input))? {
            Some(length) => self.parse_head(&input.split_to(length), &scan, input),
            None => {
                let mut gathered = Vec::new();
                gather(&mut gathered, input, self.limits.frame_bytes);
                input.clear();
                self.phase = Phase::Head(Box::new(PartialHead { gathered, scan }));
                Ok(None)
            }
        }
    }

    fn resume_head(
        &mut self,
        mut partial: Box<PartialHead>,
        input: &mut Bytes,
    ) -> Result<Option<Event>, DecodeError> {
        let PartialHead { gathered, scan } = &mut *partial;
        let found = scan.advance(input, &self.limits);
        let found = found.map_err(|problem| scan.fault(problem, gathered, input))?;
        let piece = input.split_to(found.unwrap_or(input.len()));
        gather(gathered, &piece, self.limits.frame_bytes);
        if found.is_some() {
            self.parse_head(gathered, scan, input)
        } else {
            self.phase = Phase::Head(partial);
            Ok(None)
        }
    }

    fn parse_head(
        &mut self,
        head: &[u8],
        scan: &Scan,
        input: &mut Bytes,
    ) -> Result<Option<Event>, DecodeError> {
        let Head { command, headers, content_length } =
            head::parse(head, scan.headers, self.version, &self.limits)?;
        let left = self.limits.frame_bytes.saturating_sub(head.len());
        let fail = |fault| Err(DecodeError::new(fault, headers.get("receipt")));
        let rest = match content_length {
            Some(0) => Rest::Nul,
            // 1.1 and 1.2, "Body": only SEND, MESSAGE and ERROR have one.
            Some(_) if !self.may_have_body(command) => {
                return fail(Fault::BodyNotAllowed { command });
            }
            Some(length) => match usize::try_from(length) {
                Ok(length) if length <= left => Rest::Length(length),
                _ => return fail(Fault::TooBig { limit: self.limits.frame_bytes }),
            },
            None if self.may_have_body(command) => Rest::ToNul(left),
            None => Rest::Nul,
        };
        self.body(PartialBody { command, headers, gathered: Vec::new(), rest }, input)
    }

    /// In 1.0 any frame may have one, which is ignored where it means nothing.
    fn may_have_body(&self, command: Command) -> bool {
        command.may_have_body() || self.version == Some(Version::V10)
    }

    /// A body whose first byte is at the front of the input: no copy where all of it is there.
    fn body(
        &mut self,
        mut partial: PartialBody,
        input: &mut Bytes,
    ) -> Result<Option<Event>, DecodeError> {
        if let Some(body) = partial.slice(input, self.limits.frame_bytes)? {
            return Ok(Some(self.frame(partial.command, partial.headers, body)));
        }
        self.gather_body(Box::new(partial), input)
    }

    fn resume_body(
        &mut self,
        mut partial: Box<PartialBody>,
        input: &mut Bytes,
    ) -> Result<Option<Event>, DecodeError> {
        if partial.gathered.is_empty()
            && let Some(body) = partial.slice(input, self.limits.frame_bytes)?
        {
            let PartialBody { command, headers, .. } = *partial;
            return Ok(Some(self.frame(command, headers, body)));
        }
        self.gather_body(partial, input)
    }

    fn gather_body(
        &mut self,
        mut partial: Box<PartialBody>,
        input: &mut Bytes,
    ) -> Result<Option<Event>, DecodeError> {
        if partial.take(input, self.limits.frame_bytes)? {
            let PartialBody { command, headers, gathered, .. } = *partial;
            Ok(Some(self.frame(command, headers, Bytes::from(gathered))))
        } else {
            self.phase = Phase::Body(partial);
            Ok(None)
        }
    }

    fn frame(&mut self, command: Command, headers: Headers, body: Bytes) -> Event {
        self.phase = Phase::Between { after_cr: false };
        Event::Frame(Frame { command, headers, body })
    }
}

impl PartialBody {
    /// The body, where all of it and its NUL are there and nothing came before.
    fn slice(
        &mut self,
        input: &mut Bytes,
        frame_bytes: usize,
    ) -> Result<Option<Bytes>, DecodeError> {
        let length = match self.rest {
            Rest::Length(length) => (input.get(length) == Some(&0)).then_some(length),
            Rest::Nul => (input.first() == Some(&0)).then_some(0),
            Rest::ToNul(most) => match memchr(0, input) {
                Some(length) if length <= most => Some(length),
                None if input.len() <= most => {
                    // Looked through already, so gathered without another look.
                    self.rest = Rest::ToNul(most.saturating_sub(input.len()));
                    gather(&mut self.gathered, input, most);
                    input.clear();
                    None
                }
                _ => return Err(self.too_big(frame_bytes)),
            },
        };
        Ok(length.map(|length| {
            let body = if length == 0 { Bytes::new() } else { input.split_to(length) };
            input.advance(1);
            body
        }))
    }

    /// Takes what the input has of the body; whether the frame is complete.
    fn take(&mut self, input: &mut Bytes, frame_bytes: usize) -> Result<bool, DecodeError> {
        if let Rest::Length(length) = self.rest {
            let piece = input.split_to(length.min(input.len()));
            let left = length.saturating_sub(piece.len());
            if self.gathered.is_empty() && !piece.is_empty() {
                self.gathered.reserve_exact(length.min(BODY_AT_ONCE));
            }
            let most = self.gathered.len().saturating_add(length);
            gather(&mut self.gathered, &piece, most);
            self.rest = if left == 0 { Rest::Nul } else { Rest::Length(left) };
        }
        if let Rest::ToNul(most) = self.rest {
            let nul = memchr(0, input);
            let length = nul.unwrap_or(input.len());
            let Some(left) = most.checked_sub(length) else {
                return Err(self.too_big(frame_bytes));
            };
            let allowed = self.gathered.len().saturating_add(most);
            gather(&mut self.gathered, &input.split_to(length), allowed);
            self.rest = if nul.is_some() { Rest::Nul } else { Rest::ToNul(left) };
        }
        match (self.rest, input.first()) {
            (Rest::Nul, Some(0)) => {
                input.advance(1);
                Ok(true)
            }
            (Rest::Nul, Some(_)) => Err(self.no_nul()),
            (Rest::Nul | Rest::Length(_) | Rest::ToNul(_), _) => Ok(false),
        }
    }

    fn too_big(&self, limit: usize) -> DecodeError {
        DecodeError::new(Fault::TooBig { limit }, self.headers.get("receipt"))
    }

    fn no_nul(&self) -> DecodeError {
        let command = self.command;
        let fault = if command.may_have_body() || self.headers.contains("content-length") {
            Fault::NoNul { command, length: self.gathered.len() }
        } else {
            Fault::BodyNotAllowed { command }
        };
        DecodeError::new(fault, self.headers.get("receipt"))
    }
}

/// Where the walk over a head stands; offsets count from the head's first byte.
#[derive(Debug, Default)]
struct Scan {
    scanned: usize,
    /// Where the current line begins.
    line: usize,
    /// Where the current name or value begins.
    field: usize,
    part: Part,
    /// The last byte was a CR.
    after_cr: bool,
    headers: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Command,
    Name,
    Value,
}

/// What a scan stumbles over; the line in question begins at [`Scan::line`].
#[derive(Clone, Copy, Debug)]
enum Problem {
    Nul,
    FrameBytes(usize),
    Headers(usize),
    Field(usize),
}

impl Scan {
    /// Walks over the next piece; where the head ends in it, how much of the piece belongs to it.
    fn advance(&mut self, piece: &[u8], limits: &Limits) -> Result<Option<usize>, Problem> {
        let mut rest = piece;
        loop {
            // The colon that ends a name is the line's first; in a value colons are text.
            let found = match self.part {
                Part::Name => memchr3(b'\n', b':', 0, rest),
                Part::Command | Part::Value => memchr2(b'\n', 0, rest),
            };
            self.scanned = self.scanned.saturating_add(found.unwrap_or(rest.len()));
            self.check(limits)?;
            let Some((&byte, after)) =
                found.and_then(|at| rest.get(at..)).and_then(<[u8]>::split_first)
            else {
                self.after_cr = rest.last().map_or(self.after_cr, |&byte| byte == b'\r');
                return Ok(None);
            };
            let before = rest.get(..found.unwrap_or(0)).and_then(<[u8]>::last);
            let after_cr = before.map_or(self.after_cr, |&byte| byte == b'\r');
            rest = after;
            let length = self.scanned.saturating_sub(self.line);
            self.after_cr = false;
            self.scanned = self.scanned.saturating_add(1);
            match byte {
                b':' => self.part = Part::Value,
                // The empty line.
                b'\n' if self.part == Part::Name && length == usize::from(after_cr) => {
                    self.line = self.scanned;
                    if self.scanned > limits.frame_bytes {
                        return Err(Problem::FrameBytes(limits.frame_bytes));
                    }
                    return Ok(Some(piece.len().saturating_sub(rest.len())));
                }
                b'\n' => self.end_line(limits)?,
                _ => return Err(Problem::Nul),
            }
            self.field = self.scanned;
        }
    }

    fn end_line(&mut self, limits: &Limits) -> Result<(), Problem> {
        if self.part != Part::Command {
            self.headers = self.headers.saturating_add(1);
            if self.headers > limits.headers {
                return Err(Problem::Headers(limits.headers));
            }
        }
        self.part = Part::Name;
        self.line = self.scanned;
        Ok(())
    }

    /// A field that is too long fails before it is buffered. The one byte more that a value has
    /// here may be the CR of its line end; the parser counts again.
    fn check(&self, limits: &Limits) -> Result<(), Problem> {
        let most = match self.part {
            Part::Command => COMMAND_BYTES,
            Part::Name => limits.header_name_bytes,
            Part::Value => limits.header_value_bytes.saturating_add(1),
        };
        let field_end = self.field.saturating_add(most);
        // Which of the two is passed first must not depend on where pieces end.
        if self.scanned > field_end && field_end <= limits.frame_bytes {
            return Err(Problem::Field(most));
        }
        if self.scanned > limits.frame_bytes {
            return Err(Problem::FrameBytes(limits.frame_bytes));
        }
        Ok(())
    }

    /// The error with the beginning of the line it is about, which may lie in what was gathered,
    /// in the piece at hand, or in both.
    fn fault(&self, problem: Problem, gathered: &[u8], piece: &[u8]) -> DecodeError {
        let gathered_line = gathered.get(self.line..).unwrap_or_default();
        let in_piece = self.line.saturating_sub(gathered.len());
        let mut line = gathered_line.to_vec();
        line.extend_from_slice(piece.get(in_piece..).unwrap_or_default());
        // As far as the problem goes, wherever the piece ends.
        let end = match (problem, self.part) {
            (Problem::Field(_), Part::Value) => memchr(b':', &line).unwrap_or(0),
            (Problem::Field(most), _) => most,
            (Problem::Nul | Problem::FrameBytes(_) | Problem::Headers(_), _) => {
                self.scanned.saturating_sub(self.line).saturating_sub(1)
            }
        };
        let line = Excerpt::new(line.get(..end).unwrap_or(&line));
        DecodeError::from(match problem {
            Problem::Nul => Fault::Line { fault: LineFault::Nul, line },
            Problem::FrameBytes(limit) => Fault::TooBig { limit },
            Problem::Headers(limit) => Fault::TooManyHeaders { limit },
            Problem::Field(limit) => match self.part {
                Part::Command => Fault::CommandTooLong { limit, line },
                Part::Name => Fault::HeaderTooLong { part: "name", limit, header: line },
                Part::Value => {
                    let limit = limit.saturating_sub(1);
                    Fault::HeaderTooLong { part: "value", limit, header: line }
                }
            },
        })
    }
}

/// Appends, growing by doubling but never past `most`.
fn gather(buffer: &mut Vec<u8>, bytes: &[u8], most: usize) {
    let needed = buffer.len().saturating_add(bytes.len());
    if needed > buffer.capacity() {
        let target = buffer.capacity().saturating_mul(2).min(most).max(needed);
        buffer.reserve_exact(target.saturating_sub(buffer.len()));
    }
    buffer.extend_from_slice(bytes);
}

fn stray_cr() -> DecodeError {
    DecodeError::from(Fault::Line { fault: LineFault::StrayCr, line: Excerpt::new(b"\r") })
}

/// The same headers without leading spaces in their values: what a 1.0 session makes of its
/// CONNECT, which is decoded before the version is known. RabbitMQ does the same.
#[must_use]
pub fn left_trimmed(headers: &Headers) -> Headers {
    headers.iter().map(|(name, value)| (name, value.trim_start_matches(' '))).collect()
}

#[cfg(test)]
mod tests;
