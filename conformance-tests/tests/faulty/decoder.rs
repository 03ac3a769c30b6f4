//! Bytes to frames, with the limits of a server that trusts nobody (1.2, "Augmented BNF", "Size
//! Limits").

use std::collections::BTreeSet;
use std::ffi::CStr;

use conformance_tests::Version;

use super::fault::{Fault, Faults};
use super::frame::Frame;
use super::refusal::{Refusal, code};

const COMMAND_BYTES: usize = 32;
const NAME_BYTES: usize = 255;
const VALUE_BYTES: usize = 8 * 1024;
const HEADERS: usize = 64;
const FRAME_BYTES: usize = 256 * 1024;
const FRAME_BYTES_BEFORE_CONNECTED: usize = 16 * 1024;

const CLIENT_COMMANDS: [&str; 11] = [
    "CONNECT",
    "STOMP",
    "SEND",
    "SUBSCRIBE",
    "UNSUBSCRIBE",
    "ACK",
    "NACK",
    "BEGIN",
    "COMMIT",
    "ABORT",
    "DISCONNECT",
];

pub(super) struct Decoder {
    faults: Faults,
    bytes: Vec<u8>,
    /// None before CONNECTED.
    pub(super) version: Option<Version>,
}

/// A head without its body.
#[derive(Default)]
struct Head {
    command: Vec<u8>,
    lines: Vec<Vec<u8>>,
    /// Where the body begins.
    length: usize,
}

impl Decoder {
    pub(super) fn new(faults: Faults) -> Self {
        Self { faults, bytes: Vec::new(), version: None }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        if !self.bytes.is_empty() && self.faults.has(Fault::ReadsAreFrames) {
            self.bytes.clear();
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Drops everything up to the next NUL, as a faulty server does that goes on after a mistake.
    pub(super) fn skip(&mut self) {
        let end =
            self.bytes.iter().position(|byte| *byte == 0).map_or(self.bytes.len(), |at| at + 1);
        self.bytes.drain(..end);
    }

    /// Drops what has not been taken.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Whether a frame has begun and is not complete.
    pub(super) fn in_frame(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// The next frame, or None where more bytes are needed.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, Refusal> {
        if !self.skip_between_frames()? {
            return Ok(None);
        }
        let Some(head) = self.head()? else { return Ok(None) };
        let frame = self.parse(&head).map_err(|refusal| self.named(refusal, &head))?;
        let content_length = self.content_length(&frame).map_err(|r| self.named(r, &head))?;
        let whole = self.body(&head, &frame, content_length);
        let Some((body, used)) = whole.map_err(|refusal| self.named(refusal, &head))? else {
            return Ok(None);
        };
        self.bytes.drain(..used.min(self.bytes.len()));
        // 1.0, "SUBSCRIBE": "The body of the SUBSCRIBE command is ignored."
        let body = if frame.command == "SEND" { body } else { Vec::new() };
        if !self.bytes.is_empty() && self.faults.has(Fault::OneFramePerRead) {
            self.bytes.clear();
        }
        Ok(Some(Frame { body, ..frame }))
    }

    /// Line ends between frames are heart-beats, NULs are noise. Whether a frame has begun.
    fn skip_between_frames(&mut self) -> Result<bool, Refusal> {
        loop {
            let used = match self.bytes.as_slice() {
                [b'\n', ..] if self.faults.has(Fault::BeatIsNoFrame) => {
                    return Err(Refusal::syntax("Bad command"));
                }
                [b'\r', b'\n', ..] if self.faults.has(Fault::CrlfBeatIsNoFrame) => {
                    return Err(Refusal::syntax("Bad command"));
                }
                [0, ..] if self.faults.has(Fault::NulBetweenFramesRefused) => {
                    return Err(Refusal::syntax("Bad command"));
                }
                [b'\n' | 0, ..] => 1,
                [b'\r', b'\n', ..] => 2,
                [] | [b'\r'] => return Ok(false),
                _ => return Ok(true),
            };
            self.bytes.drain(..used);
        }
    }

    fn too_big(&self, bytes: usize) -> Result<(), Refusal> {
        let (limit, unlimited) = match self.version {
            None => (FRAME_BYTES_BEFORE_CONNECTED, Fault::NoLimitBeforeConnected),
            Some(_) => (FRAME_BYTES, Fault::FrameUnlimited),
        };
        let taken = [unlimited, Fault::FrameUnlimited];
        if bytes > limit && !taken.into_iter().any(|fault| self.faults.has(fault)) {
            return Err(Refusal::too_big());
        }
        Ok(())
    }

    fn head(&self) -> Result<Option<Head>, Refusal> {
        let mut head = Head::default();
        loop {
            let rest = self.bytes.get(head.length..).unwrap_or_default();
            let end = rest.iter().take(COMMAND_BYTES + NAME_BYTES + VALUE_BYTES);
            let end = end.clone().position(|byte| *byte == b'\n');
            let end = match end {
                None if rest.len() > COMMAND_BYTES && self.faults.has(Fault::LineUnlimited) => {
                    rest.iter().position(|byte| *byte == b'\n')
                }
                end => end,
            };
            let first = head.length == 0;
            let Some(end) = end else {
                self.unfinished(first, rest)?;
                self.too_big(self.bytes.len())?;
                return Ok(None);
            };
            let line = self.line(first, rest.get(..end).unwrap_or_default())?;
            head.length += end + 1;
            self.too_big(head.length)?;
            if first {
                head.command = line;
            } else if line.is_empty() {
                return Ok(Some(head));
            } else {
                head.lines.push(line);
                let few = HEADERS / 2;
                if head.lines.len() > HEADERS && !self.faults.has(Fault::HeadersUnlimited)
                    || head.lines.len() > few && self.faults.has(Fault::FewHeadersTaken)
                {
                    return Err(Refusal::limit("Too many headers"));
                }
            }
        }
    }

    /// A line whose end has not come yet.
    fn unfinished(&self, first: bool, rest: &[u8]) -> Result<(), Refusal> {
        let limit = if first { COMMAND_BYTES } else { NAME_BYTES + VALUE_BYTES };
        if rest.len() <= limit || self.faults.has(Fault::LineUnlimited) {
            return Ok(());
        }
        Err(if first { Refusal::syntax("Bad command") } else { Refusal::limit("Header too long") })
    }

    /// A line without its end. CR is part of the line's end or nothing.
    fn line(&self, first: bool, line: &[u8]) -> Result<Vec<u8>, Refusal> {
        if first && line.len() > COMMAND_BYTES && !self.faults.has(Fault::LineUnlimited) {
            return Err(Refusal::syntax("Bad command"));
        }
        let text = match line.strip_suffix(b"\r") {
            Some(text) if !self.faults.has(Fault::CrlfKept) => text,
            _ => line,
        };
        if text.contains(&0) && !self.faults.has(Fault::NulInHeadTaken) {
            return Err(Refusal::syntax("NUL in a header"));
        }
        let taken = [Fault::LoneCrTaken, Fault::CrlfKept];
        if text.contains(&b'\r') && !taken.into_iter().any(|fault| self.faults.has(fault)) {
            return Err(Refusal::syntax("CR without LF"));
        }
        Ok(text.to_vec())
    }

    fn parse(&self, head: &Head) -> Result<Frame, Refusal> {
        let text = |bytes: &[u8]| match String::from_utf8(bytes.to_vec()) {
            Ok(text) if !text.is_ascii() && self.faults.has(Fault::HeadersReadAsLatin1) => {
                Ok(bytes.iter().copied().map(char::from).collect())
            }
            Ok(text) => Ok(text),
            Err(_) if self.faults.has(Fault::HeadersOfAnyBytes) => {
                Ok(String::from_utf8_lossy(bytes).into_owned())
            }
            Err(_) => Err(Refusal { code: code::NOT_UTF8, ..Refusal::syntax("No UTF-8") }),
        };
        let mut frame = Frame::new(&self.command(text(&head.command)?)?);
        let connects = matches!(frame.command.as_str(), "CONNECT" | "STOMP");
        let version = self.version.filter(|_| !connects).unwrap_or(Version::V10);
        for line in &head.lines {
            let mut line = text(line)?;
            if let Some(at) = line.find(['\u{85}', '\u{2028}'])
                && self.faults.has(Fault::UnicodeEndsLine)
            {
                line.truncate(at);
            }
            let Some((name, value)) = self.split(&line)? else { continue };
            if name.len() > NAME_BYTES && !self.faults.has(Fault::NameUnlimited)
                || value.len() > VALUE_BYTES && !self.faults.has(Fault::LineUnlimited)
                || value.len() > 1024 && self.faults.has(Fault::ValuesShort)
            {
                return Err(Refusal::limit("Header too long"));
            }
            let mut name = self.unescape(name, version, connects)?;
            if name.trim() != name && self.faults.has(Fault::NamesTrimmed) {
                name = name.trim().to_owned();
            }
            let lower = name.to_ascii_lowercase();
            if name != lower && self.faults.has(Fault::HeaderNamesInAnyCase) {
                name = lower;
            }
            frame.headers.push((name, self.value(value, version, connects)?));
        }
        let first = frame.headers.first().map(|(name, _)| name.as_str());
        if frame.command == "SEND"
            && first != Some("destination")
            && frame.get("destination").is_some()
            && self.faults.has(Fault::DestinationMustBeFirst)
        {
            return Err(Refusal::syntax("Missing destination"));
        }
        let names: BTreeSet<&String> = frame.headers.iter().map(|(name, _)| name).collect();
        if names.len() < frame.headers.len() && self.faults.has(Fault::LastHeaderCounts) {
            frame.headers.reverse();
        }
        Ok(frame)
    }

    fn command(&self, text: String) -> Result<String, Refusal> {
        let mut command = text;
        let upper = command.to_ascii_uppercase();
        if command != upper && self.faults.has(Fault::CommandInAnyCase) {
            command = upper;
        }
        if command.ends_with(' ') && self.faults.has(Fault::CommandTrimmed) {
            command.truncate(command.trim_end().len());
        }
        let unknown = !CLIENT_COMMANDS.contains(&command.as_str())
            || command == "STOMP" && self.faults.has(Fault::StompUnknown)
            || command == "NACK" && self.faults.has(Fault::NackUnknown);
        let passes = match command.as_str() {
            "CONNECTED" if self.version.is_none() => Fault::ConnectedBeforeConnectTaken,
            "MESSAGE" | "CONNECTED" | "RECEIPT" | "ERROR" => Fault::ServerCommandTaken,
            _ => Fault::UnknownCommandTaken,
        };
        if unknown && !self.faults.has(passes) {
            return Err(Refusal::syntax("Bad command"));
        }
        Ok(command)
    }

    /// Name and value; None where the line is left out.
    fn split<'a>(&self, line: &'a str) -> Result<Option<(&'a str, &'a str)>, Refusal> {
        let (mut at, last) = (line.find(':'), line.rfind(':'));
        if at != last && self.faults.has(Fault::SecondColonRefused) {
            return Err(Refusal::syntax("Two colons in a header"));
        }
        if at != last && self.faults.has(Fault::LastColonSplits) {
            at = last;
        }
        let Some((name, value)) = at.and_then(|at| Some((line.get(..at)?, line.get(at + 1..)?)))
        else {
            let taken = self.faults.has(Fault::HeaderWithoutColonTaken);
            return if taken { Ok(None) } else { Err(Refusal::syntax("No colon in a header")) };
        };
        if name.is_empty() && !self.faults.has(Fault::HeaderWithoutNameTaken) {
            return Err(Refusal::syntax("No name in a header"));
        }
        if value.is_empty() && self.faults.has(Fault::EmptyValueLost) {
            return Ok(None);
        }
        Ok(Some((name, value)))
    }

    /// 1.1 and 1.2 let no padding be trimmed; the examples of 1.0 have a space after the colon.
    fn value(&self, value: &str, version: Version, connects: bool) -> Result<String, Refusal> {
        let padded = value.starts_with(' ') && version == Version::V10 && self.version.is_some();
        let value = match value {
            padding if padding.trim() != padding && self.faults.has(Fault::ValueTrimmed) => {
                padding.trim()
            }
            padding if padded && !self.faults.has(Fault::PaddingKeptIn10) => {
                padding.trim_start_matches(' ')
            }
            value => value,
        };
        self.unescape(value, version, connects)
    }

    fn unescape(&self, text: &str, version: Version, connects: bool) -> Result<String, Refusal> {
        if !text.contains('\\') {
            return Ok(text.to_owned());
        }
        let version = match version {
            Version::V10 if connects && self.faults.has(Fault::EscapesInConnect) => Version::V12,
            Version::V10 if !connects && self.faults.has(Fault::EscapesIn10) => Version::V12,
            Version::V11 if self.faults.has(Fault::EscapesOf12In11) => Version::V12,
            version => version,
        };
        if version == Version::V10 || self.faults.has(Fault::NoUnescape) {
            return Ok(text.to_owned());
        }
        if self.faults.has(Fault::UnescapedInPasses) {
            let text = text.replace("\\\\", "\\").replace("\\n", "\n");
            return Ok(text.replace("\\c", ":").replace("\\r", "\r"));
        }
        let mut out = String::new();
        let mut rest = text.chars();
        while let Some(character) = rest.next() {
            if character != '\\' {
                out.push(character);
                continue;
            }
            match (rest.next(), version) {
                (Some('n'), _) => out.push('\n'),
                (Some('c'), _) => out.push(':'),
                (Some('\\'), _) => out.push('\\'),
                (Some('r'), Version::V12) => out.push('\r'),
                (Some('t'), _) if self.faults.has(Fault::TabEscapeTaken) => out.push('\t'),
                (None, _) if self.faults.has(Fault::BackslashAtEndTaken) => out.push('\\'),
                (Some(other), _) if self.faults.has(Fault::UnknownEscapeTaken) => out.push(other),
                _ => return Err(Refusal::syntax("Bad escape")),
            }
        }
        Ok(out)
    }

    fn content_length(&self, frame: &Frame) -> Result<Option<usize>, Refusal> {
        let all = frame.headers.iter().filter(|(name, _)| name == "content-length");
        let mut lengths = Vec::new();
        for (_, text) in all {
            if self.faults.has(Fault::ContentLengthIgnored) {
                return Ok(None);
            }
            lengths.extend(self.length(text)?);
        }
        let differ = lengths.iter().any(|length| Some(length) != lengths.first());
        if differ && !self.faults.has(Fault::ContentLengthsDifferTaken) {
            return Err(Refusal::syntax("Two content-lengths"));
        }
        if lengths.len() > 1 && !differ && self.faults.has(Fault::ContentLengthTwiceRefused) {
            return Err(Refusal::syntax("Two content-lengths"));
        }
        Ok(lengths.first().copied())
    }

    /// 1*DIGIT. A number with more digits than any body is no slip of the pen, but too big.
    fn length(&self, text: &str) -> Result<Option<usize>, Refusal> {
        let bad = Err(Refusal::syntax("Bad content-length"));
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse::<i128>() {
            Ok(_) if text.starts_with('+') && !self.faults.has(Fault::ContentLengthPlusTaken) => {
                bad
            }
            Ok(length) if length < 0 && self.faults.has(Fault::ContentLengthNegativeTaken) => {
                Ok(None)
            }
            Ok(length) if length < 0 => bad,
            Ok(0) if self.faults.has(Fault::ContentLengthZeroRefused) => bad,
            Ok(1..)
                if text.starts_with('0') && self.faults.has(Fault::ContentLengthZerosRefused) =>
            {
                bad
            }
            Ok(length) => match usize::try_from(length) {
                Ok(length) if length <= FRAME_BYTES => Ok(Some(length)),
                Ok(length) if self.faults.has(Fault::ContentLengthHugeAwaited) => Ok(Some(length)),
                // Cut off at the size of a machine word.
                Err(_) if self.faults.has(Fault::ContentLengthWraps) => Ok(Some(5)),
                _ => Err(Refusal::too_big()),
            },
            Err(_) if text.is_empty() && self.faults.has(Fault::ContentLengthEmptyTaken) => {
                Ok(None)
            }
            Err(_) if !digits && self.faults.has(Fault::ContentLengthWordTaken) => Ok(None),
            Err(_) if digits => Err(Refusal::too_big()),
            Err(_) => bad,
        }
    }

    /// The body and how many bytes the frame has in all; None where more bytes are needed.
    fn body(
        &self,
        head: &Head,
        frame: &Frame,
        content_length: Option<usize>,
    ) -> Result<Option<(Vec<u8>, usize)>, Refusal> {
        let rest = self.bytes.get(head.length..).unwrap_or_default();
        let may_have_body = frame.command == "SEND" || !CLIENT_COMMANDS.contains(&&*frame.command);
        if !may_have_body {
            // 1.2, "Body": "Only the SEND, MESSAGE, and ERROR frames MAY have a body."
            let refused = match (content_length.unwrap_or(0), rest.first()) {
                (0, Some(0)) => return Ok(Some((Vec::new(), head.length + 1))),
                (0, None) => return Ok(None),
                _ if self.version == Some(Version::V10) => self.faults.has(Fault::BodyRefusedIn10),
                _ => !self.faults.has(Fault::BodyAnywhere),
            };
            if refused {
                return Err(Refusal::syntax("A body where there is none"));
            }
        }
        let nul = || match rest.strip_suffix(b"\0") {
            Some(text) if text.contains(&0) && self.faults.has(Fault::BodyEndsAtLastNul) => {
                text.len()
            }
            _ => CStr::from_bytes_until_nul(rest).map_or(rest.len(), CStr::count_bytes),
        };
        let length = match content_length {
            Some(length) if self.faults.has(Fault::ContentLengthOffByOne) => {
                length.saturating_sub(1)
            }
            Some(length)
                if !rest.is_ascii() && self.faults.has(Fault::ContentLengthInCharacters) =>
            {
                let text = String::from_utf8_lossy(rest);
                text.char_indices().nth(length).map_or(rest.len(), |(at, _)| at)
            }
            Some(length) => length,
            None => nul(),
        };
        if length > 100 * 1024 && self.faults.has(Fault::BodiesSmall) {
            return Err(Refusal::too_big());
        }
        if length <= FRAME_BYTES || content_length.is_none() {
            self.too_big(head.length + length)?;
        }
        match rest.get(length) {
            None => Ok(None),
            Some(0) => {
                let body = rest.get(..length).unwrap_or_default();
                Ok(Some((body.to_vec(), head.length + length + 1)))
            }
            Some(_) if self.faults.has(Fault::ContentLengthOffByOne) => Ok(Some((
                rest.get(..length).unwrap_or_default().to_vec(),
                head.length + length + 2,
            ))),
            Some(_) if self.faults.has(Fault::ContentLengthShortTaken) => {
                let body = rest.get(..length).unwrap_or_default();
                Ok(Some((body.to_vec(), head.length + nul() + 1)))
            }
            Some(_) => Err(Refusal::syntax("No NUL after the body")),
        }
    }

    /// The receipt of a head that has something wrong elsewhere, so that the ERROR can name it.
    fn named(&self, refusal: Refusal, head: &Head) -> Refusal {
        let receipt = head.lines.iter().find_map(|line| line.strip_prefix(b"receipt:"));
        let receipt = receipt.and_then(|value| {
            let value = String::from_utf8(value.to_vec()).ok()?;
            self.value(&value, self.version.unwrap_or(Version::V10), false).ok()
        });
        Refusal { receipt: refusal.receipt.or(receipt), ..refusal }
    }
}
