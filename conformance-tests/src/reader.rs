//! Bytes from a server to frames, strictly and without any escape decoded.

use std::fmt::Write as _;

/// One frame of a server, byte for byte as it came: header escapes are still there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerFrame {
    pub(crate) command: Vec<u8>,
    pub(crate) headers: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

impl ServerFrame {
    /// The first header of that name (1.2, "Repeated Header Entries").
    pub(crate) fn header(&self, name: &[u8]) -> Option<&[u8]> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_slice())
    }
}

/// What a server's bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Frame(ServerFrame),
    /// An LF between frames that is not the end of line behind a frame.
    Beat,
}

/// Which line ends a server may write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LineEnds {
    /// 1.2, "Augmented BNF": `EOL = [CR] LF`. Also before CONNECTED, when nobody has said which
    /// version it is.
    #[default]
    CrLf,
    /// 1.0 and 1.1 know LF alone: a CR before it belongs to the line.
    Lf,
}

impl LineEnds {
    /// Those of the version that CONNECTED names; without one it is 1.0.
    fn of(connected: &ServerFrame) -> Self {
        if connected.header(b"version") == Some(b"1.2") { Self::CrLf } else { Self::Lf }
    }
}

/// Collects bytes until a frame is whole.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    bytes: Vec<u8>,
    line_ends: LineEnds,
    /// Bytes at the front of `bytes` that came together with the frame before them: an LF there
    /// may be that frame's own (1.2, "Augmented BNF": frame = ... NULL *EOL), so it is no beat.
    behind_frame: usize,
}

impl Reader {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next frame or beat, or `None` where more bytes are needed.
    ///
    /// # Errors
    /// What is wrong with the server's bytes.
    pub(crate) fn next(&mut self) -> Result<Option<Said>, String> {
        loop {
            let eol = match self.bytes.as_slice() {
                [b'\n', ..] => 1,
                [b'\r', ..] if self.line_ends == LineEnds::Lf => {
                    return Err(
                        "malformed: CR between frames, which 1.0 and 1.1 do not know".into()
                    );
                }
                [b'\r', b'\n', ..] => 2,
                [] | [b'\r'] => return Ok(None),
                _ => break,
            };
            self.bytes.drain(..eol);
            if self.behind_frame == 0 {
                return Ok(Some(Said::Beat));
            }
            self.behind_frame = self.behind_frame.saturating_sub(eol);
        }
        let Some((frame, used)) = parse(&self.bytes, self.line_ends)? else { return Ok(None) };
        if frame.command == b"CONNECTED" {
            self.line_ends = LineEnds::of(&frame);
            // It is itself a frame of the version that it names.
            parse(&self.bytes, self.line_ends)?;
        }
        self.bytes.drain(..used);
        self.behind_frame = self.bytes.len();
        Ok(Some(Said::Frame(frame)))
    }

    /// Bytes of a frame that is not whole.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.bytes
    }
}

/// The frame that `bytes` begin with, if all of it is there. Its line ends are for the cases to
/// judge.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn first_frame(bytes: &[u8]) -> Result<Option<ServerFrame>, String> {
    Ok(parse(bytes, LineEnds::CrLf)?.map(|(frame, _)| frame))
}

/// A frame and how many bytes it took.
fn parse(bytes: &[u8], line_ends: LineEnds) -> Result<Option<(ServerFrame, usize)>, String> {
    let mut frame = ServerFrame::default();
    let mut at = 0;
    loop {
        let Some((line, after)) = line(bytes, at, line_ends) else {
            // A NUL in the head is never right, and no LF may ever follow.
            let head = bytes.get(at..).unwrap_or_default();
            if head.contains(&0) {
                return Err(format!("malformed frame: NUL in the head: {}", show(head)));
            }
            return Ok(None);
        };
        if line.contains(&0) {
            return Err(format!("malformed frame: NUL in the head: {}", show(line)));
        }
        if at == 0 {
            frame.command = line.to_vec();
        } else if line.is_empty() {
            at = after;
            break;
        } else {
            let colon = line.iter().position(|byte| *byte == b':');
            let Some((name, value)) = colon.and_then(|at| line.split_at_checked(at)) else {
                return Err(format!("malformed frame: header without a colon: {}", show(line)));
            };
            frame.headers.push((name.to_vec(), value.get(1..).unwrap_or_default().to_vec()));
        }
        at = after;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    let length = match frame.header(b"content-length") {
        Some(text) => content_length(text)?,
        None => match rest.iter().position(|byte| *byte == 0) {
            Some(length) => length,
            None => return Ok(None),
        },
    };
    match rest.get(length) {
        None => Ok(None),
        Some(0) => {
            frame.body = rest.get(..length).unwrap_or_default().to_vec();
            Ok(Some((frame, at + length + 1)))
        }
        Some(_) => Err(format!(
            "malformed frame: no NUL after the {length} bytes of content-length: {}",
            show(bytes)
        )),
    }
}

/// The line that begins at `from`, without its end, and where the next one begins.
fn line(bytes: &[u8], from: usize, line_ends: LineEnds) -> Option<(&[u8], usize)> {
    let rest = bytes.get(from..)?;
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let line = rest.get(..end)?;
    let text = match line_ends {
        LineEnds::CrLf => line.strip_suffix(b"\r").unwrap_or(line),
        LineEnds::Lf => line,
    };
    Some((text, from + end + 1))
}

fn content_length(text: &[u8]) -> Result<usize, String> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text)
        .ok()
        .filter(|_| digits)
        .and_then(|text| text.parse().ok())
        .filter(|length| *length < 1 << 30)
        .ok_or_else(|| format!("malformed frame: content-length is {}", show(text)))
}

/// Bytes as text that can be read and typed again: `"a\nb\x80"`.
pub(crate) fn show(bytes: &[u8]) -> String {
    format!("\"{}\"", show_bare(bytes))
}

/// The same without the quotes.
pub(crate) fn show_bare(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\0' => out.push_str("\\0"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                // Formatting characters too: no report may hide or reorder what came.
                c if c.is_control()
                    || matches!(c, '\u{200b}'..='\u{202e}' | '\u{2060}'..='\u{206f}') =>
                {
                    let mut buffer = [0; 4];
                    for byte in c.encode_utf8(&mut buffer).bytes() {
                        push_hex(&mut out, byte);
                    }
                }
                c => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            push_hex(&mut out, *byte);
        }
    }
    out
}

fn push_hex(out: &mut String, byte: u8) {
    // Writing to a String cannot fail.
    write!(out, "\\x{byte:02x}").unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&[u8]]) -> Result<Vec<String>, String> {
        let mut reader = Reader::default();
        let mut out = Vec::new();
        for piece in pieces {
            reader.push(piece);
            while let Some(said) = reader.next()? {
                out.push(match said {
                    Said::Beat => "beat".into(),
                    Said::Frame(frame) => format!(
                        "{} {} {}",
                        show(&frame.command),
                        frame
                            .headers
                            .iter()
                            .map(|(n, v)| format!("{}={}", show(n), show(v)))
                            .collect::<Vec<_>>()
                            .join(","),
                        show(&frame.body)
                    ),
                });
            }
        }
        if !reader.rest().is_empty() {
            out.push(format!("rest {}", show(reader.rest())));
        }
        Ok(out)
    }

    #[test]
    fn reads_whole_frames() {
        let cases: [(&[&[u8]], &[&str]); 8] = [
            (&[b"A\nb:c\n\nbody\0"], &[r#""A" "b"="c" "body""#]),
            (&[b"A\nb:c:\\c\n\n\0"], &[r#""A" "b"="c:\\c" """#]),
            (&[b"A\r\nb:c\r\n\r\n\0"], &[r#""A" "b"="c" """#]),
            (
                &[b"A\ncontent-length:3\n\na\0b\0B\n\n\0"],
                &[r#""A" "content-length"="3" "a\0b""#, r#""B"  """#],
            ),
            (&[b"A\n\n\0\n"], &[r#""A"  """#]),
            (&[b"A\n\n\0\n", b"\n"], &[r#""A"  """#, "beat"]),
            (&[b"\n"], &["beat"]),
            (&[b"A\n\nx"], &[r#"rest "A\n\nx""#]),
        ];
        for (pieces, expected) in cases {
            assert_eq!(read(pieces).unwrap(), expected);
        }
    }

    /// A CR before LF is part of the line's end in 1.2 and nowhere else.
    #[test]
    fn line_ends_are_those_of_the_version() {
        const NO_COLON: &str = r#"header without a colon: "\r""#;
        let cases: [(&[u8], Result<&str, &str>); 8] = [
            (b"CONNECTED\r\nversion:1.2\r\n\r\n\0\r\nA\r\nb:c\r\n\r\n\0", Ok(r#""A" "b"="c" """#)),
            (b"CONNECTED\r\nversion:1.1\r\n\r\n\0", Err(NO_COLON)),
            (b"CONNECTED\r\n\r\n\0", Err(NO_COLON)),
            (b"CONNECTED\nversion:1.1\n\n\0A\r\nb:c\r\n\r\n\0", Err(NO_COLON)),
            (b"CONNECTED\n\n\0A\nb:c\r\n\n\0", Ok(r#""A" "b"="c\r" """#)),
            (b"CONNECTED\n\n\0A\r\nb:c\n\n\0", Ok(r#""A\r" "b"="c" """#)),
            (b"CONNECTED\nversion:1.1\n\n\0\r\n", Err("CR between frames")),
            (b"ERROR\r\n\r\n\0", Ok(r#""ERROR"  """#)),
        ];
        for (bytes, expected) in cases {
            match (read(&[bytes]), expected) {
                (Ok(read), Ok(last)) => assert_eq!(read.last().unwrap(), last),
                (Err(error), Err(text)) => assert!(error.contains(text), "{error}"),
                (read, expected) => panic!("{read:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn any_split_reads_the_same() {
        let bytes: &[u8] = b"A\ncontent-length:3\n\na\0b\0B\nx:y\n\nz\0";
        let whole = read(&[bytes]).unwrap();
        for at in 0..bytes.len() {
            let (a, b) = bytes.split_at(at);
            assert_eq!(read(&[a, b]).unwrap(), whole, "split at {at}");
        }
    }

    #[test]
    fn refuses_malformed_frames() {
        let cases: [(&[u8], &str); 6] = [
            (b"A\nb\n\n\0", "header without a colon"),
            (b"A\ncontent-length:x\n\n\0", "content-length is \"x\""),
            (b"A\ncontent-length:+1\n\na\0", "content-length is \"+1\""),
            (b"A\ncontent-length:1\n\nab\0", "no NUL after the 1 bytes"),
            (b"A\nb:\0\n\n\0", "NUL in the head"),
            (b"A\0", "NUL in the head"),
        ];
        for (bytes, expected) in cases {
            let error = read(&[bytes]).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn shows_bytes() {
        assert_eq!(show(b"a\0\r\n\"\\\x80\x1b"), r#""a\0\r\n\"\\\x80\x1b""#);
        assert_eq!(show("é\u{202e}".as_bytes()), r#""é\xe2\x80\xae""#);
    }
}
