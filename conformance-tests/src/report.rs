//! What a run showed.

mod text;

use std::time::Duration;

use crate::trace::TraceLine;
use crate::transcript::{Level, Transport, Version};

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

impl Verdict {
    /// Why the case failed, as expected or not.
    #[must_use]
    pub const fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Passed | Self::PassedUnexpectedly { .. } => None,
            Self::Failed(failure)
            | Self::Differs { failure, .. }
            | Self::DiffersOtherwise { failure, .. } => Some(failure),
        }
    }

    /// Whether it is as the profile expects.
    #[must_use]
    pub const fn is_expected(&self) -> bool {
        matches!(self, Self::Passed | Self::Differs { .. })
    }
}

/// One case in one version over one transport.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// `id/version/transport`.
    pub name: String,
    pub id: String,
    pub version: Version,
    pub transport: Transport,
    pub title: String,
    pub level: Level,
    pub section: String,
    /// The specification's words, or why clients in the field need it.
    pub why: String,
    pub file: String,
    /// The line of `@id`.
    pub line: usize,
    /// How long it took.
    pub time: Duration,
    pub verdict: Verdict,
}

/// All outcomes of a run, by name.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub outcomes: Vec<Outcome>,
}

/// How many cases ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub passed: usize,
    /// Failed beyond what is expected.
    pub failed: usize,
    /// Failed as expected.
    pub differs: usize,
    /// Passed although a list says that they fail.
    pub stale: usize,
}

impl Report {
    /// The outcomes, put in order.
    #[must_use]
    pub fn new(mut outcomes: Vec<Outcome>) -> Self {
        outcomes.sort_by(|a, b| a.name.cmp(&b.name));
        Self { outcomes }
    }

    /// Whether something ran and all went as expected.
    #[must_use]
    pub fn is_success(&self) -> bool {
        !self.outcomes.is_empty() && self.outcomes.iter().all(|o| o.verdict.is_expected())
    }

    /// Whether a case of that level, or of a more binding one, failed beyond what is expected, or
    /// any case passed that is listed to fail: a list that is not true hides what breaks next.
    #[must_use]
    pub fn fails(&self, level: Level) -> bool {
        let within = |own: Level| own <= level && self.counts(Some(own)).failed > 0;
        self.counts(None).stale > 0 || Level::ALL.into_iter().any(within)
    }

    /// The counts of one level, or of all.
    #[must_use]
    pub fn counts(&self, level: Option<Level>) -> Counts {
        let mut counts = Counts::default();
        for outcome in self.outcomes.iter().filter(|o| level.is_none_or(|level| o.level == level)) {
            let count = match outcome.verdict {
                Verdict::Passed => &mut counts.passed,
                Verdict::Failed(_) | Verdict::DiffersOtherwise { .. } => &mut counts.failed,
                Verdict::Differs { .. } => &mut counts.differs,
                Verdict::PassedUnexpectedly { .. } => &mut counts.stale,
            };
            *count += 1;
        }
        counts
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An outcome of a case of no file.
    pub(crate) fn outcome(name: &str, level: Level, verdict: Verdict) -> Outcome {
        let parts: Vec<&str> = name.split('/').collect();
        Outcome {
            name: name.into(),
            id: parts[0].into(),
            version: Version::from_name(parts[1]).unwrap(),
            transport: Transport::from_name(parts[2]).unwrap(),
            title: "A case".into(),
            level,
            section: "1.2 \"SEND\"".into(),
            why: "because".into(),
            file: "f.stomp".into(),
            line: 2,
            time: Duration::from_millis(7),
            verdict,
        }
    }

    pub(crate) fn failure(kind: &str, came: &str) -> Failure {
        let trace = TraceLine { milliseconds: 3, connection: "a".into(), text: "> \"A\"".into() };
        Failure { line: 9, text: format!("{kind}{came}"), kind: kind.into(), trace: vec![trace] }
    }

    pub(crate) fn verdicts() -> [Verdict; 5] {
        let failure = || failure("expected X, got ERROR", " \"no\"");
        [
            Verdict::Passed,
            Verdict::Failed(failure()),
            Verdict::Differs { failure: failure(), reason: "known".into() },
            Verdict::DiffersOtherwise { failure: failure(), expected: "nothing came".into() },
            Verdict::PassedUnexpectedly { reason: "known".into() },
        ]
    }

    #[test]
    fn what_makes_a_run_fail() {
        // The verdict's place among all, its level, and whether it fails for --fail-on.
        let cases = [
            (0, Level::Must, [false; 4], true),
            (1, Level::Must, [true; 4], false),
            (1, Level::Should, [false, true, true, true], false),
            (1, Level::May, [false, false, true, true], false),
            (1, Level::Field, [false, false, false, true], false),
            (2, Level::Must, [false; 4], true),
            (3, Level::Should, [false, true, true, true], false),
            (4, Level::Field, [true; 4], false),
        ];
        for (at, level, fails, success) in cases {
            let verdict = verdicts()[at].clone();
            let report = Report::new(vec![
                outcome("b/1.2/tcp", Level::Must, Verdict::Passed),
                outcome("a/1.2/tcp", level, verdict),
            ]);
            assert_eq!(Level::ALL.map(|level| report.fails(level)), fails, "{at} {level:?}");
            assert_eq!(report.is_success(), success, "{at} {level:?}");
            assert_eq!(report.outcomes[0].id, "a");
        }
        assert!(!Report::default().is_success());
    }

    #[test]
    fn counts() {
        let outcomes = verdicts().map(|verdict| outcome("a/1.2/tcp", Level::Should, verdict));
        let report = Report::new(outcomes.to_vec());
        let all = Counts { passed: 1, failed: 2, differs: 1, stale: 1 };
        assert_eq!(report.counts(None), all);
        assert_eq!(report.counts(Some(Level::Should)), all);
        assert_eq!(report.counts(Some(Level::Must)), Counts::default());
    }
}
