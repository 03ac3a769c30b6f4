//! All that passed on the connections of one case, in order of time, with secrets left out.

use std::fmt;
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use crate::reader::show_bare;
use crate::secrets::{HIDDEN, Secrets};

/// How many bytes of one read or write are shown.
const SHOWN: usize = 2048;

/// One line of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceLine {
    /// Since the case began.
    pub milliseconds: u64,
    /// The connection's name in the transcript; empty where it has none.
    pub connection: String,
    /// `> "..."` was sent, `< "..."` came, `! ...` is a note.
    pub text: String,
}

impl fmt::Display for TraceLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>6} ms  {}{}", self.milliseconds, self.connection, self.text)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

impl Side {
    const fn mark(self) -> char {
        match self {
            Self::Client => '>',
            Self::Server => '<',
        }
    }
}

enum Entry {
    /// The first of so many bytes.
    Bytes {
        side: Side,
        bytes: Vec<u8>,
        length: usize,
    },
    Note(String),
}

struct Log {
    start: Instant,
    entries: Vec<(u64, String, Entry)>,
}

/// What a case's connections write to.
#[derive(Clone)]
pub(crate) struct Trace {
    log: Arc<Mutex<Log>>,
    /// How many bytes of one read or write are kept: a secret must not be cut in two.
    kept: usize,
}

impl Trace {
    pub(crate) fn new(secrets: &Secrets) -> Self {
        let log = Log { start: Instant::now(), entries: Vec::new() };
        Self { log: Arc::new(Mutex::new(log)), kept: SHOWN + secrets.longest() }
    }

    pub(crate) fn bytes(&self, connection: &str, side: Side, bytes: &[u8]) {
        let kept = bytes.get(..self.kept).unwrap_or(bytes).to_vec();
        self.push(connection, Entry::Bytes { side, bytes: kept, length: bytes.len() });
    }

    pub(crate) fn note(&self, connection: &str, text: impl Into<String>) {
        self.push(connection, Entry::Note(text.into()));
    }

    fn push(&self, connection: &str, entry: Entry) {
        // The lock is poisoned only where a push panicked, and the case with it.
        let Ok(mut log) = self.log.lock() else { return };
        let time = u64::try_from(log.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        log.entries.push((time, connection.to_owned(), entry));
    }

    /// All lines, the secrets hidden, also where a write or a read cut one in two.
    pub(crate) fn lines(&self, secrets: &Secrets) -> Vec<TraceLine> {
        let Ok(log) = self.log.lock() else { return Vec::new() };
        let masks = masks(&log.entries, secrets);
        let lines = log.entries.iter().zip(masks).map(|((time, connection, entry), mask)| {
            let text = match entry {
                Entry::Note(text) => secrets.hide(text),
                Entry::Bytes { side, bytes, length } => line(*side, bytes, *length, &mask),
            };
            TraceLine { milliseconds: *time, connection: connection.clone(), text }
        });
        lines.collect()
    }
}

/// For each entry which of its bytes are hidden. What one side said on one connection is one text.
fn masks(entries: &[(u64, String, Entry)], secrets: &Secrets) -> Vec<Vec<bool>> {
    let mut masks: Vec<Vec<bool>> = vec![Vec::new(); entries.len()];
    for (first, (_, connection, entry)) in entries.iter().enumerate() {
        let Entry::Bytes { side, .. } = entry else { continue };
        if masks.get(first).is_some_and(|mask| !mask.is_empty()) {
            continue;
        }
        let mut text = Vec::new();
        let mut parts = Vec::new();
        for (at, (_, name, entry)) in entries.iter().enumerate().skip(first) {
            if let Entry::Bytes { side: own, bytes, .. } = entry
                && (own, name) == (side, connection)
            {
                parts.push((at, text.len(), bytes.len()));
                text.extend_from_slice(bytes);
            }
        }
        let mask = secrets.mask(&text);
        for (at, start, length) in parts {
            if let (Some(own), Some(part)) = (masks.get_mut(at), mask.get(start..start + length)) {
                *own = part.to_vec();
            }
        }
    }
    masks
}

fn line(side: Side, bytes: &[u8], length: usize, mask: &[bool]) -> String {
    let shown = SHOWN.min(bytes.len());
    let mut out = format!("{} \"", side.mark());
    let mut at = 0;
    while at < shown {
        let hidden = mask.get(at).copied().unwrap_or(false);
        let end = (at..shown).find(|n| mask.get(*n).copied().unwrap_or(false) != hidden);
        let end = end.unwrap_or(shown);
        if hidden {
            out.push_str(HIDDEN);
        } else {
            out.push_str(&show_bare(bytes.get(at..end).unwrap_or_default()));
        }
        at = end;
    }
    out.push('"');
    if length > shown {
        out.push_str(&format!(" and {} bytes more", length - shown));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Account;

    fn secrets() -> Secrets {
        Secrets::new(&Account {
            login: "joe".into(),
            passcode: "s3c\"ret".into(),
            headers: vec![("token".into(), "to:ken-value".into())],
        })
    }

    fn lines(trace: &Trace) -> Vec<String> {
        let lines = trace.lines(&secrets());
        lines.iter().map(|line| format!("{}{}", line.connection, line.text)).collect()
    }

    #[test]
    fn all_connections_are_in_one_list() {
        let trace = Trace::new(&secrets());
        trace.bytes("a", Side::Client, b"A\n\n\0");
        trace.bytes("b", Side::Server, b"\x80");
        trace.note("a", "! dropped s3c\\\"ret");
        trace.bytes("", Side::Client, &vec![b'x'; SHOWN + 5]);
        let all = lines(&trace);
        assert_eq!(all[..3], ["a> \"A\\n\\n\\0\"", "b< \"\\x80\"", "a! dropped ***"]);
        assert!(all[3].ends_with("x\" and 5 bytes more"), "{}", all[3]);
    }

    #[test]
    fn secrets_are_hidden_however_they_are_cut() {
        let whole = b"CONNECT\npasscode:s3c\"ret\ntoken:to:ken-value\n\n\0";
        for size in 1..whole.len() {
            let trace = Trace::new(&secrets());
            for piece in whole.chunks(size) {
                trace.bytes("", Side::Client, piece);
                // What others say in between is no part of it.
                trace.bytes("b", Side::Client, b"hello");
                trace.bytes("", Side::Server, b"hello");
            }
            let all = lines(&trace);
            let said: Vec<&str> = all
                .iter()
                .filter_map(|line| line.strip_prefix("> \"")?.strip_suffix('"'))
                .collect();
            let said = said.concat().replace("***", "");
            let expected = r"CONNECT\npasscode:\ntoken:\n\n\0";
            assert_eq!(said, expected, "{size}");
        }
    }

    #[test]
    fn a_secret_at_the_end_of_what_is_shown_is_hidden() {
        for before in SHOWN - 12..SHOWN + 2 {
            let trace = Trace::new(&secrets());
            let mut bytes = vec![b'x'; before];
            bytes.extend_from_slice(b"s3c\"ret and more");
            trace.bytes("", Side::Server, &bytes);
            let line = lines(&trace).concat();
            assert!(!line.contains("xs"), "{before}: {}", &line[line.len() - 60..]);
        }
    }
}
