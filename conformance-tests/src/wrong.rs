//! What went wrong in a case: what stays the same from run to run, and what came this time.

use std::fmt;
use std::time::Duration;

use crate::connection::Event;
use crate::reader::{show, show_bare};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// The same in every run in which the server does the same.
    pub(crate) what: String,
    /// What came, how long it took.
    pub(crate) came: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.what, self.came)
    }
}

impl From<String> for Wrong {
    /// Bytes that are shown, in quotes, are what came.
    fn from(text: String) -> Self {
        let at = text.find('"').unwrap_or(text.len());
        let what = text.get(..at).unwrap_or_default().trim_end_matches([' ', ':']);
        let came = text.get(what.len()..).unwrap_or_default();
        Self::new(what, came)
    }
}

impl Wrong {
    pub(crate) fn new(what: impl Into<String>, came: impl Into<String>) -> Self {
        Self { what: what.into(), came: came.into() }
    }

    /// That another event came than the one expected, or none within `limit`.
    pub(crate) fn instead(expected: &str, event: Event, limit: Duration) -> Self {
        let (got, came) = match event {
            Event::Frame(frame, _) => {
                let message = frame.header(b"message").map(|text| format!(" {}", show(text)));
                (format!("got {}", command(&frame.command)), message.unwrap_or_default())
            }
            Event::Beat => ("got a heart-beat".into(), String::new()),
            Event::Pong(_) => ("got a PONG".into(), String::new()),
            Event::Closed(Some(code)) => (format!("got close {code}"), String::new()),
            Event::Closed(None) => ("the connection was closed".into(), String::new()),
            Event::Malformed(text) => return text.into(),
            Event::Silence => ("nothing came".into(), format!(" in {limit:?}")),
        };
        Self { what: format!("expected {expected}, {got}"), came }
    }

    pub(crate) fn after(mut self, when: &str) -> Self {
        self.what.insert_str(0, when);
        self
    }
}

/// A command that may be any bytes.
pub(crate) fn command(bytes: &[u8]) -> String {
    let plain = !bytes.is_empty() && bytes.len() <= 32 && bytes.iter().all(u8::is_ascii_graphic);
    if plain { show_bare(bytes) } else { show(bytes.get(..32).unwrap_or(bytes)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::ServerFrame;

    #[test]
    fn what_came_is_apart_from_what_is_wrong() {
        let frame = |command: &str, message: Option<&str>| {
            let headers = message.map(|m| (b"message".to_vec(), m.into())).into_iter().collect();
            Event::Frame(ServerFrame { command: command.into(), headers, body: Vec::new() }, None)
        };
        let cases = [
            (frame("RECEIPT", None), "expected X, got RECEIPT", ""),
            (frame("ERROR", Some("no")), "expected X, got ERROR", " \"no\""),
            (frame("a\x1bb", None), "expected X, got \"a\\x1bb\"", ""),
            (frame("", None), "expected X, got \"\"", ""),
            (Event::Closed(Some(1002)), "expected X, got close 1002", ""),
            (Event::Closed(None), "expected X, the connection was closed", ""),
            (Event::Silence, "expected X, nothing came", " in 2s"),
            (Event::Malformed("bad frame: \"x\"".into()), "bad frame", ": \"x\""),
            (Event::Malformed("length is \"x\" y".into()), "length is", " \"x\" y"),
        ];
        for (event, what, came) in cases {
            let wrong = Wrong::instead("X", event, Duration::from_secs(2));
            assert_eq!(wrong, Wrong::new(what, came));
        }
    }
}
