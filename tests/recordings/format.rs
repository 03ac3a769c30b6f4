//! The text of a recording, read: `conformance-tests/recordings/README.md` has the format.

use std::fs;
use std::path::Path;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// What a piece of a conversation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The head of the handshake.
    Http,
    /// What one read of TCP gave.
    Bytes,
    Text,
    Binary,
    Continuation,
    Ping,
    Pong,
    Close,
    /// This side closed the connection, or it was cut off.
    End,
}

impl Kind {
    /// Whether its bytes are STOMP.
    pub(crate) const fn is_stomp(self) -> bool {
        matches!(self, Self::Bytes | Self::Text | Self::Binary | Self::Continuation)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) side: Side,
    pub(crate) kind: Kind,
    /// Since the connection was made.
    pub(crate) at: Duration,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(crate) struct Recording {
    /// The file's name without its ending.
    pub(crate) name: String,
    head: Vec<(String, String)>,
    pub(crate) pieces: Vec<Piece>,
}

impl Recording {
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self, String> {
        let mut recording = Self { name: name.to_owned(), head: Vec::new(), pieces: Vec::new() };
        for (at, line) in text.lines().enumerate() {
            recording.line(line).map_err(|error| format!("{name}.rec:{}: {error}", at + 1))?;
        }
        if recording.pieces.is_empty() {
            return Err(format!("{name}.rec: nothing was recorded"));
        }
        Ok(recording)
    }

    /// All that are there, by name.
    pub(crate) fn all() -> Vec<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance-tests/recordings");
        let mut all = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "rec") {
                let name = path.file_stem().unwrap().to_str().unwrap();
                let text = fs::read_to_string(&path).unwrap();
                all.push(Self::parse(name, &text).unwrap_or_else(|error| panic!("{error}")));
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        // The tests would be blind where they found nothing.
        assert!(all.len() >= 20, "{} recordings", all.len());
        all
    }

    /// A line of the head.
    pub(crate) fn head(&self, name: &str) -> &str {
        let found = self.head.iter().find(|(known, _)| known == name);
        found.map_or_else(|| panic!("{} has no @{name}", self.name), |(_, value)| value)
    }

    pub(crate) fn is_websocket(&self) -> bool {
        match self.head("wire") {
            "websocket" => true,
            "tcp" => false,
            other => panic!("{}: @wire {other}", self.name),
        }
    }

    /// A header of the handshake, by its name in small letters.
    pub(crate) fn http_header(&self, side: Side, name: &str) -> Option<&str> {
        let piece = self.pieces.iter().find(|p| p.side == side && p.kind == Kind::Http)?;
        let text = std::str::from_utf8(&piece.bytes).unwrap();
        text.lines()
            .filter_map(|line| line.split_once(": "))
            .find_map(|(known, value)| known.eq_ignore_ascii_case(name).then_some(value))
    }

    /// The pieces of STOMP that one side sent.
    pub(crate) fn stomp(&self, side: Side) -> impl Iterator<Item = &Piece> {
        self.pieces.iter().filter(move |piece| piece.side == side && piece.kind.is_stomp())
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        if line.is_empty() {
            return Ok(());
        }
        if let Some(head) = line.strip_prefix('@') {
            let (name, value) = head.split_once(' ').ok_or("a head line is `@name value`")?;
            self.head.push((name.to_owned(), value.to_owned()));
            return Ok(());
        }
        let (side, rest) = match line.split_at(1) {
            (">", rest) => (Side::Client, rest),
            ("<", rest) => (Side::Server, rest),
            _ => return Err("a line begins with `@`, `>` or `<`".into()),
        };
        if rest.starts_with(|c: char| c.is_ascii_lowercase()) {
            self.pieces.push(piece(side, rest)?);
            return Ok(());
        }
        let Some(piece) = self.pieces.last_mut().filter(|piece| piece.side == side) else {
            return Err("bytes outside a piece of this side".into());
        };
        bytes(rest, &mut piece.bytes)
    }
}

/// `text 0.004`, `text unfinished 0.004`, `close 0.004 1000`.
fn piece(side: Side, line: &str) -> Result<Piece, String> {
    let mut words = line.split(' ');
    let kind = match words.next().unwrap_or_default() {
        "http" => Kind::Http,
        "bytes" => Kind::Bytes,
        "text" => Kind::Text,
        "binary" => Kind::Binary,
        "continuation" => Kind::Continuation,
        "ping" => Kind::Ping,
        "pong" => Kind::Pong,
        "close" => Kind::Close,
        "end" | "reset" => Kind::End,
        other => return Err(format!("`{other}` is no piece")),
    };
    let time = words.find(|word| *word != "unfinished").unwrap_or_default();
    let seconds: f64 = time.parse().map_err(|_| format!("`{time}` is no time"))?;
    Ok(Piece { side, kind, at: Duration::from_secs_f64(seconds), bytes: Vec::new() })
}

/// What stands behind the `>` or `<` of a line.
fn bytes(rest: &str, out: &mut Vec<u8>) -> Result<(), String> {
    if let Some(raw) = rest.strip_prefix('|') {
        return text(raw, true, out);
    }
    let line = if rest.is_empty() { rest } else { rest.strip_prefix(' ').ok_or("no space")? };
    if let Some(line) = line.strip_suffix("^@") {
        text(line, false, out)?;
        out.push(0);
    } else if let Some(line) = line.strip_suffix("^M") {
        text(line, false, out)?;
        out.extend_from_slice(b"\r\n");
    } else {
        text(line, false, out)?;
        out.push(b'\n');
    }
    Ok(())
}

fn text(mut rest: &str, is_raw: bool, out: &mut Vec<u8>) -> Result<(), String> {
    while let Some(first) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("${fill:") {
            let (count, after) = after.split_once('}').ok_or("`${fill:` without `}`")?;
            let count: usize = count.parse().map_err(|_| format!("`{count}` is no number"))?;
            out.resize(out.len() + count, b'x');
            rest = after;
        } else if is_raw && let Some(after) = rest.strip_prefix('\\') {
            let (byte, after) = escape(after)?;
            out.push(byte);
            rest = after;
        } else {
            let (letter, after) = rest.split_at(first.len_utf8());
            out.extend_from_slice(letter.as_bytes());
            rest = after;
        }
    }
    Ok(())
}

fn escape(after: &str) -> Result<(u8, &str), String> {
    if let Some(digits) = after.strip_prefix('x') {
        let byte = digits.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let byte = byte.ok_or("`\\x` needs two hexadecimal digits")?;
        return Ok((byte, &digits[2..]));
    }
    let known = [('0', 0), ('r', b'\r'), ('n', b'\n'), ('t', b'\t'), ('\\', b'\\')];
    let found = known.into_iter().find(|(letter, _)| after.starts_with(*letter));
    let (_, byte) = found.ok_or_else(|| format!("`\\{after}` is no escape"))?;
    Ok((byte, &after[1..]))
}

#[test]
fn reads() {
    let text = "\
        @client x y\n@wire tcp\n\n>bytes 0.001\n> SEND\n> a:b \\c^M\n>\n>|\\0\\x80 \\n${fill:3}\n> x^@\n\
        >\n\n<text unfinished 1.5\n<\n\n<close 2.000 1000\n<|bye\n\n>end 2.001\n";
    let recording = Recording::parse("a", text).unwrap();
    assert_eq!(recording.head("client"), "x y");
    let shown: Vec<_> = recording
        .pieces
        .iter()
        .map(|p| (p.side, p.kind, p.at.as_millis(), p.bytes.as_slice()))
        .collect();
    let sent = b"SEND\na:b \\c\r\n\n\0\x80 \nxxxx\0\n";
    let expected: [(_, _, _, &[u8]); 4] = [
        (Side::Client, Kind::Bytes, 1, sent),
        (Side::Server, Kind::Text, 1500, b"\n"),
        (Side::Server, Kind::Close, 2000, b"bye"),
        (Side::Client, Kind::End, 2001, b""),
    ];
    assert_eq!(shown, expected);
}

#[test]
fn refuses() {
    for (text, expected) in [
        ("", "nothing was recorded"),
        ("@client\n", "a.rec:1: a head line"),
        ("hello\n", "a.rec:1: a line begins"),
        ("> a\n", "a.rec:1: bytes outside a piece"),
        (">text 0.1\n< a\n", "a.rec:2: bytes outside a piece"),
        (">what 0.1\n", "a.rec:1: `what` is no piece"),
        (">text soon\n", "a.rec:1: `soon` is no time"),
        (">text 0.1\n>|\\q\n", "a.rec:2: `\\q` is no escape"),
        (">text 0.1\n>|\\x8\n", "a.rec:2: `\\x` needs two"),
        (">text 0.1\n> ${fill:a}\n", "a.rec:2: `a` is no number"),
    ] {
        let error = Recording::parse("a", text).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}
