//! Frames as they stand on the wire, read without the relay's own decoder: nothing is unescaped.

/// One frame, and what followed it before the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WireFrame {
    pub(crate) command: String,
    /// Header lines in order, as written, without their line ends.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether its lines end with CR LF.
    pub(crate) has_cr: bool,
    /// Whether an LF followed its NUL in the same piece.
    pub(crate) has_lf: bool,
}

impl WireFrame {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }
}

/// What one side said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) frames: Vec<WireFrame>,
    /// Line ends between frames that do not belong to the frame before.
    pub(crate) beats: usize,
}

/// Reads pieces. Frames may begin and end anywhere in them.
///
/// # Panics
/// Where they are no frames, or end within one.
pub(crate) fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Said {
    let mut said = Said::default();
    let mut bytes = Vec::new();
    for piece in pieces {
        let mut piece = piece;
        // A line end right behind a NUL was taken with that frame.
        if bytes.is_empty()
            && let [b'\n', rest @ ..] = piece
        {
            said.beats += 1;
            piece = rest;
        }
        bytes.extend_from_slice(piece);
        while let Some((frame, used)) = first(&bytes) {
            bytes.drain(..used);
            said.frames.push(frame);
        }
    }
    assert!(bytes.is_empty(), "within a frame: {}", String::from_utf8_lossy(&bytes));
    said
}

/// The frame at the front, and how many bytes it takes with the line ends after it.
fn first(bytes: &[u8]) -> Option<(WireFrame, usize)> {
    let mut lines = Vec::new();
    let mut has_cr = false;
    let mut at = 0;
    loop {
        let end = at + bytes[at..].iter().position(|byte| *byte == b'\n')?;
        let line = &bytes[at..end];
        at = end + 1;
        has_cr |= line.ends_with(b"\r");
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            break;
        }
        lines.push(String::from_utf8(line.to_vec()).unwrap());
    }
    let mut lines = lines.into_iter();
    let command = lines.next().unwrap();
    let headers: Vec<_> = lines
        .map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_owned(), value.to_owned())
        })
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = match length {
        Some((_, length)) => length.parse().unwrap(),
        None => bytes[at..].iter().position(|byte| *byte == 0)?,
    };
    let nul = bytes.get(at + length)?;
    assert_eq!(*nul, 0, "no NUL behind the body of {command}");
    let body = bytes[at..at + length].to_vec();
    let mut end = at + length + 1;
    let has_lf = bytes.get(end) == Some(&b'\n');
    while matches!(bytes.get(end), Some(b'\r' | b'\n')) {
        end += 1;
    }
    Some((WireFrame { command, headers, body, has_cr, has_lf }, end))
}

#[test]
fn reads_frames_beats_and_what_follows() {
    let pieces: [&[u8]; 4] =
        [b"A\nb:c:d\n\nx\0\nB\r\ncontent-length:3\r\n\r\na\0", b"b\0", b"\n", b"\nC\n\n\0"];
    let said = read(pieces);
    assert_eq!(said.beats, 2);
    let [a, b, _] = said.frames.as_slice() else { panic!("{said:?}") };
    assert_eq!((a.get("b"), a.body.as_slice(), a.has_lf), (Some("c:d"), &b"x"[..], true));
    assert_eq!((b.command.as_str(), b.body.as_slice()), ("B", &b"a\0b"[..]));
    assert_eq!((a.has_cr, b.has_cr, b.has_lf), (false, true, false));
}
