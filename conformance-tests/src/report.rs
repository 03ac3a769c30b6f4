//! What a run showed.

use std::fmt;

use crate::trace::TraceLine;
use crate::transcript::Level;

/// Why a case failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The transcript's line.
    pub line: usize,
    /// What was expected, and what came in its place.
    pub text: String,
    /// The part of `text` that is the same in every run in which the server does the same.
    pub kind: String,
    /// All that was sent and all that came, byte for byte, in order of time.
    pub trace: Vec<TraceLine>,
}

/// How one case ended, beside what the profile expects.
#[derive(Clone, Debug)]
pub enum Verdict {
    Passed,
    Failed(Failure),
    /// Failed as the profile says it does.
    Differs {
        failure: Failure,
        reason: String,
    },
    /// The profile says it fails, but not in this way.
    DiffersOtherwise {
        failure: Failure,
        expected: String,
    },
    /// The profile says it fails.
    PassedUnexpectedly {
        reason: String,
    },
}

/// One case in one version over one transport.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// `id/version/transport`.
    pub name: String,
    pub title: String,
    pub level: Level,
    pub section: String,
    /// The specification's words, or why clients in the field need it.
    pub why: String,
    pub file: String,
    pub verdict: Verdict,
}

/// All outcomes of a run, by name.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub outcomes: Vec<Outcome>,
}

impl Report {
    /// Whether something ran and all went as expected.
    #[must_use]
    pub fn is_success(&self) -> bool {
        !self.outcomes.is_empty()
            && self
                .outcomes
                .iter()
                .all(|o| matches!(o.verdict, Verdict::Passed | Verdict::Differs { .. }))
    }

    fn count(&self, level: Option<Level>, of: impl Fn(&Verdict) -> bool) -> usize {
        let all = self.outcomes.iter().filter(|o| level.is_none_or(|level| o.level == level));
        all.filter(|o| of(&o.verdict)).count()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, failure) = match &self.verdict {
            Verdict::Passed => return writeln!(f, "ok        {}", self.name),
            Verdict::Differs { failure, reason } => {
                writeln!(f, "differs   {}: {}", self.name, failure.text)?;
                return writeln!(f, "          {reason}");
            }
            Verdict::PassedUnexpectedly { reason } => {
                writeln!(f, "PASSES    {} ({})", self.name, self.file)?;
                return writeln!(f, "  but is listed as different: {reason}");
            }
            Verdict::Failed(failure) => ("FAILED   ", failure),
            Verdict::DiffersOtherwise { failure, expected } => {
                writeln!(f, "FAILED    {} (listed: `{expected}`)", self.name)?;
                ("otherwise", failure)
            }
        };
        writeln!(f, "{word} {} ({}:{})", self.name, self.file, failure.line)?;
        writeln!(f, "  {} [{}: {}]", self.title, self.level.name(), self.section)?;
        writeln!(f, "  {}", self.why)?;
        writeln!(f, "  {}", failure.text)?;
        for line in &failure.trace {
            writeln!(f, "    {line}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    /// Failures in full, differences in a line, then a table of levels.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for outcome in &self.outcomes {
            if !matches!(outcome.verdict, Verdict::Passed) {
                write!(f, "{outcome}")?;
            }
        }
        writeln!(f, "\n{:<8}{:>8}{:>8}{:>10}", "level", "passed", "failed", "differs")?;
        for level in Level::ALL.into_iter().map(Some).chain([None]) {
            let name = level.map_or("all", Level::name);
            let passed = self.count(level, |v| matches!(v, Verdict::Passed));
            let differs = self.count(level, |v| matches!(v, Verdict::Differs { .. }));
            let failed = self.count(level, |_| true) - passed - differs;
            writeln!(f, "{name:<8}{passed:>8}{failed:>8}{differs:>10}")?;
        }
        Ok(())
    }
}
