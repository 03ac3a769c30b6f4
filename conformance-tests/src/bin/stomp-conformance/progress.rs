//! How far a run is, on standard error: one line rewritten on a terminal, lines elsewhere.

use std::io::{IsTerminal as _, Write as _};

use conformance_tests::Outcome;

/// Back to the begin of the line, and the line is empty.
const CLEAR: &str = "\r\x1b[2K";
/// A longer line would wrap on most terminals and could not be rewritten.
const WIDTH: usize = 79;
/// Elsewhere it is told so many times.
const STEPS: usize = 10;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Silent,
    Terminal,
    Lines,
}

pub(crate) struct Progress {
    kind: Kind,
    total: usize,
    done: usize,
    failed: usize,
}

impl Progress {
    /// `wanted`: also where standard error is no terminal.
    pub(crate) fn new(total: usize, wanted: bool) -> Self {
        let kind = match (std::io::stderr().is_terminal(), wanted) {
            (true, _) => Kind::Terminal,
            (false, true) => Kind::Lines,
            (false, false) => Kind::Silent,
        };
        Self { kind, total, done: 0, failed: 0 }
    }

    pub(crate) fn outcome(&mut self, outcome: &Outcome) {
        let text = self.text(outcome);
        // Where nobody reads this there is nobody to tell.
        std::io::stderr().lock().write_all(text.as_bytes()).unwrap_or_default();
    }

    pub(crate) fn end(&self) {
        if self.kind == Kind::Terminal {
            std::io::stderr().lock().write_all(CLEAR.as_bytes()).unwrap_or_default();
        }
    }

    fn text(&mut self, outcome: &Outcome) -> String {
        self.done += 1;
        let failed = !outcome.verdict.is_expected();
        self.failed += usize::from(failed);
        let Self { kind, total, done, failed: failures } = *self;
        let state = format!("{done}/{total}  {}  {failures} failed", outcome.name);
        let failure = if failed { short(&outcome.line()) + "\n" } else { String::new() };
        match kind {
            Kind::Silent => String::new(),
            Kind::Terminal => {
                format!("{CLEAR}{failure}{}", state.chars().take(WIDTH).collect::<String>())
            }
            Kind::Lines => {
                let tenth = (done * STEPS / total.max(1)) > ((done - 1) * STEPS / total.max(1));
                if tenth { format!("{failure}{state}\n") } else { failure }
            }
        }
    }
}

/// The report says it in full.
fn short(line: &str) -> String {
    const LONGEST: usize = 160;
    if line.chars().count() <= LONGEST {
        return line.to_owned();
    }
    line.chars().take(LONGEST).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{failed, outcome};
    use conformance_tests::{Level, Verdict};

    fn texts(kind: Kind) -> Vec<String> {
        let mut progress = Progress { kind, total: 20, done: 0, failed: 0 };
        let good = outcome("a/1.2/tcp", Level::Must, Verdict::Passed);
        let bad = outcome("b/1.2/tcp", Level::Must, failed("expected X"));
        [&good, &bad, &good, &good].map(|outcome| progress.text(outcome)).to_vec()
    }

    #[test]
    fn a_terminal_has_one_line() {
        let texts = texts(Kind::Terminal);
        assert_eq!(texts[0], format!("{CLEAR}1/20  a/1.2/tcp  0 failed"));
        let failure = "FAILED   b/1.2/tcp [must]: expected X";
        assert_eq!(texts[1], format!("{CLEAR}{failure}\n2/20  b/1.2/tcp  1 failed"));
    }

    #[test]
    fn elsewhere_there_are_lines_or_nothing() {
        let expected = [
            "",
            "FAILED   b/1.2/tcp [must]: expected X\n2/20  b/1.2/tcp  1 failed\n",
            "",
            "4/20  a/1.2/tcp  1 failed\n",
        ];
        assert_eq!(texts(Kind::Lines), expected);
        assert_eq!(texts(Kind::Silent).concat(), "");
    }

    #[test]
    fn long_lines_are_cut() {
        assert_eq!(short("a"), "a");
        assert_eq!(short(&"\u{e9}".repeat(200)).chars().count(), 163);
    }
}
