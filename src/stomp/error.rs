//! What can be wrong with incoming bytes, in the words the peer gets to read.

use std::fmt;

use super::{Command, Version};

/// How many characters of the peer's own text an answer repeats.
const EXCERPT_CHARS: usize = 64;

/// Why bytes are no STOMP frame. Nothing can be decoded after one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError {
    fault: Fault,
    receipt: Option<Box<str>>,
}

/// What a connection does about a [`DecodeError`], after the ERROR frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Close code 1002.
    Syntax,
    /// Close code 1009.
    TooBig,
    /// Close code 1008.
    Limit,
    /// Close code 1007 where a text WebSocket frame carried it, 1002 elsewhere.
    Utf8,
}

/// The fault itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    UnknownCommand {
        command: Excerpt,
    },
    /// No LF within the bytes that a command may have.
    CommandTooLong {
        limit: usize,
        line: Excerpt,
    },
    /// A line of the head that the grammar does not know.
    Line {
        fault: LineFault,
        line: Excerpt,
    },
    /// A backslash that begins no escape of this version.
    Escape {
        header: Excerpt,
        sequence: Excerpt,
        version: Version,
    },
    /// Not a number.
    ContentLength {
        value: Excerpt,
    },
    ContentLengthsDiffer {
        first: u64,
        second: u64,
    },
    BodyNotAllowed {
        command: Command,
    },
    /// The byte after `content-length` bytes of body is not NUL.
    NoNul {
        command: Command,
        length: usize,
    },
    /// Command or headers are not UTF-8.
    Utf8,
    TooBig {
        limit: usize,
    },
    TooManyHeaders {
        limit: usize,
    },
    HeaderTooLong {
        /// "name" or "value".
        part: &'static str,
        limit: usize,
        header: Excerpt,
    },
}

/// What is wrong with one line of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineFault {
    NoColon,
    EmptyName,
    /// A CR that no LF follows.
    StrayCr,
    Nul,
}

/// The beginning of the peer's own text, control characters escaped. Not shown by `Debug`, which
/// ends up in logs: it may be part of a credential.
#[derive(Clone, PartialEq, Eq)]
pub struct Excerpt(Box<str>);

impl Excerpt {
    /// At most 64 characters; what is not UTF-8 is replaced.
    #[must_use]
    pub fn new(text: &[u8]) -> Self {
        // A character has at most four bytes, so this much is enough to see that there is more.
        let start = text.get(..4 * (EXCERPT_CHARS + 1)).unwrap_or(text);
        let text = String::from_utf8_lossy(start);
        let mut out = String::new();
        for (index, character) in text.chars().enumerate() {
            if index == EXCERPT_CHARS {
                out.push_str("...");
                break;
            }
            if character.is_control() {
                out.extend(character.escape_default());
            } else {
                out.push(character);
            }
        }
        Self(out.into())
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl From<Fault> for DecodeError {
    fn from(fault: Fault) -> Self {
        Self { fault, receipt: None }
    }
}

impl DecodeError {
    pub(super) fn new(fault: Fault, receipt: Option<&str>) -> Self {
        Self { fault, receipt: receipt.map(Into::into) }
    }

    /// What exactly is wrong.
    #[must_use]
    pub fn fault(&self) -> &Fault {
        &self.fault
    }

    /// The frame's `receipt`, where the head was complete and had one.
    #[must_use]
    pub fn receipt(&self) -> Option<&str> {
        self.receipt.as_deref()
    }

    /// How the connection ends.
    #[must_use]
    pub fn reaction(&self) -> Reaction {
        match self.fault {
            Fault::UnknownCommand { .. }
            | Fault::CommandTooLong { .. }
            | Fault::Line { .. }
            | Fault::Escape { .. }
            | Fault::ContentLength { .. }
            | Fault::ContentLengthsDiffer { .. }
            | Fault::BodyNotAllowed { .. }
            | Fault::NoNul { .. } => Reaction::Syntax,
            Fault::Utf8 => Reaction::Utf8,
            Fault::TooBig { .. } => Reaction::TooBig,
            Fault::TooManyHeaders { .. } | Fault::HeaderTooLong { .. } => Reaction::Limit,
        }
    }

    /// The `message` header and the body of the ERROR frame.
    #[must_use]
    pub fn text(&self) -> (&'static str, String) {
        match &self.fault {
            // RabbitMQ's text.
            Fault::UnknownCommand { command } => {
                ("Bad command", format!("Could not interpret command \"{command}\"\n"))
            }
            Fault::CommandTooLong { limit, line } => (
                "Bad command",
                format!("No command has more than {limit} bytes; this one begins \"{line}\"\n"),
            ),
            Fault::Line { fault, line } => line_text(*fault, line),
            Fault::Escape { header, sequence, version } => (
                "Bad escape",
                format!(
                    "Header \"{header}\" has \"{sequence}\", which is no escape of STOMP {}\n",
                    version.name()
                ),
            ),
            Fault::ContentLength { value } => {
                ("Bad content-length", format!("content-length is digits only, not \"{value}\"\n"))
            }
            Fault::ContentLengthsDiffer { first, second } => (
                "Bad content-length",
                format!("The frame has two content-lengths, {first} and {second}\n"),
            ),
            Fault::BodyNotAllowed { command } => {
                ("Body not allowed", format!("{} has no body\n", command.name()))
            }
            Fault::NoNul { command, length } => (
                "Body longer than content-length",
                format!("{}: no NUL after {length} bytes of body\n", command.name()),
            ),
            Fault::Utf8 => ("Invalid UTF-8", "Command and headers are UTF-8\n".into()),
            Fault::TooBig { limit } => (
                "Frame too big",
                format!("Headers and body together may have {limit} bytes here\n"),
            ),
            Fault::TooManyHeaders { limit } => {
                ("Too many headers", format!("A frame may have {limit} headers here\n"))
            }
            Fault::HeaderTooLong { part, limit, header } => (
                "Header too long",
                format!(
                    "A header's {part} may have {limit} bytes here; this one begins \"{header}\"\n"
                ),
            ),
        }
    }
}

fn line_text(fault: LineFault, line: &Excerpt) -> (&'static str, String) {
    match fault {
        LineFault::NoColon => ("Bad header", format!("The header line \"{line}\" has no colon\n")),
        LineFault::EmptyName => {
            ("Bad header", format!("The header line \"{line}\" has no name before the colon\n"))
        }
        LineFault::StrayCr => {
            ("Bad line end", format!("The line \"{line}\" has a CR that no LF follows\n"))
        }
        LineFault::Nul => (
            "NUL in headers",
            format!("A NUL in or after the line \"{line}\", before the empty line\n"),
        ),
    }
}

impl fmt::Display for DecodeError {
    /// The kind only: what the peer wrote stays out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text().0)
    }
}

impl std::error::Error for DecodeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_are_short_and_have_no_control_characters() {
        let cases: [(&[u8], &str); 4] = [
            (b"plain", "plain"),
            (b"a\r\n\0\x1b[31m", "a\\r\\n\\u{0}\\u{1b}[31m"),
            ("\u{85}ü".as_bytes(), "\\u{85}ü"),
            (b"\xff", "\u{fffd}"),
        ];
        for (text, expected) in cases {
            assert_eq!(Excerpt::new(text).to_string(), expected);
        }
        for character in ["x", "\u{10348}"] {
            let exact = character.repeat(EXCERPT_CHARS);
            assert_eq!(Excerpt::new(exact.as_bytes()).to_string(), exact);
            let long = character.repeat(1_000);
            assert_eq!(Excerpt::new(long.as_bytes()).to_string(), format!("{exact}..."));
        }
    }

    #[test]
    fn neither_debug_nor_display_repeats_the_peer() {
        let line = Excerpt::new(b"passcode secret");
        let error = DecodeError::from(Fault::Line { fault: LineFault::NoColon, line });
        assert!(error.text().1.contains("secret"));
        assert!(!format!("{error:?} {error}").contains("secret"));
    }

    #[test]
    fn stays_small() {
        assert!(size_of::<DecodeError>() <= 72, "{}", size_of::<DecodeError>());
    }
}
