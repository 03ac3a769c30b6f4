//! A report for people: what failed in full, once for all versions and transports in which it
//! failed alike, then a table of levels.

use std::collections::BTreeMap;
use std::fmt;

use super::{Failure, Outcome, Report, Verdict};
use crate::transcript::Level;

/// Outcomes of one case that are told together.
struct Group<'a> {
    first: &'a Outcome,
    /// `version/transport` of each.
    places: Vec<&'a str>,
}

impl fmt::Display for Outcome {
    /// One outcome in full.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Group { first: self, places: vec![self.place()] }.fmt(f)
    }
}

impl Outcome {
    /// `version/transport`.
    fn place(&self) -> &str {
        self.name.split_once('/').map_or("", |(_, place)| place)
    }

    /// One outcome in one line.
    #[must_use]
    pub fn line(&self) -> String {
        match &self.verdict {
            Verdict::Passed => format!("ok       {}", self.name),
            Verdict::Differs { failure, reason } => {
                format!("differs  {}: {} ({reason})", self.name, failure.text)
            }
            Verdict::PassedUnexpectedly { reason } => {
                format!("PASSES   {}, but is listed as different: {reason}", self.name)
            }
            Verdict::Failed(failure) | Verdict::DiffersOtherwise { failure, .. } => {
                format!("FAILED   {} [{}]: {}", self.name, self.level.name(), failure.text)
            }
        }
    }
}

impl fmt::Display for Group<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = self.first;
        let Outcome { id, level, section, title, why, file, .. } = outcome;
        let places = self.places.join(" ");
        let listed_as = |reason: &str| format!("is listed as different: {reason}");
        let (word, failure, listed) = match &outcome.verdict {
            Verdict::Passed => return writeln!(f, "ok       {id} {places}"),
            Verdict::PassedUnexpectedly { reason } => {
                writeln!(f, "PASSES   {id} {places} ({file}:{})", outcome.line)?;
                return writeln!(f, "  {}", listed_as(reason));
            }
            Verdict::Failed(failure) => ("FAILED ", failure, None),
            Verdict::Differs { failure, reason } => ("differs", failure, Some(listed_as(reason))),
            Verdict::DiffersOtherwise { failure, expected } => {
                ("FAILED ", failure, Some(format!("is listed to fail otherwise: {expected}")))
            }
        };
        writeln!(f, "{word}  {id} {places} ({file}:{})", failure.line)?;
        writeln!(f, "  {title} [{}: {section}]", level.name())?;
        if why != title {
            writeln!(f, "  {why}")?;
        }
        writeln!(f, "  {}", failure.text)?;
        if let Some(listed) = listed {
            writeln!(f, "  {listed}")?;
        }
        if self.places.len() > 1 {
            writeln!(f, "  in {}:", outcome.place())?;
        }
        failure.trace.iter().try_for_each(|line| writeln!(f, "    {line}"))
    }
}

impl Report {
    /// What is not as expected, each way in which a case goes wrong once.
    fn groups(&self) -> Vec<Group<'_>> {
        let mut groups: BTreeMap<(&str, u8, &str), Group<'_>> = BTreeMap::new();
        for outcome in self.outcomes.iter().filter(|o| !o.verdict.is_expected()) {
            let kind = outcome.verdict.failure().map_or("", |Failure { kind, .. }| kind);
            let order = u8::from(matches!(outcome.verdict, Verdict::PassedUnexpectedly { .. }));
            let group = groups.entry((&outcome.id, order, kind));
            let group = group.or_insert_with(|| Group { first: outcome, places: Vec::new() });
            group.places.push(outcome.place());
            // The newest version is the one most readers know.
            if outcome.version > group.first.version {
                group.first = outcome;
            }
        }
        groups.into_values().collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for group in self.groups() {
            writeln!(f, "{group}")?;
        }
        writeln!(f, "{:<8}{:>8}{:>8}{:>10}", "level", "passed", "failed", "differs")?;
        for level in Level::ALL.into_iter().map(Some).chain([None]) {
            let name = level.map_or("all", Level::name);
            let counts = self.counts(level);
            let (passed, differs) = (counts.passed, counts.differs);
            let failed = counts.failed + counts.stale;
            writeln!(f, "{name:<8}{passed:>8}{failed:>8}{differs:>10}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{failure, outcome, verdicts};
    use super::*;

    #[test]
    fn outcomes_in_a_line_and_in_full() {
        let lines = [
            "ok       a/1.2/tcp",
            "FAILED   a/1.2/tcp [must]: expected X, got ERROR \"no\"",
            "differs  a/1.2/tcp: expected X, got ERROR \"no\" (known)",
            "FAILED   a/1.2/tcp [must]: expected X, got ERROR \"no\"",
            "PASSES   a/1.2/tcp, but is listed as different: known",
        ];
        for (verdict, expected) in verdicts().into_iter().zip(lines) {
            assert_eq!(outcome("a/1.2/tcp", Level::Must, verdict).line(), expected);
        }
        let [_, failed, _, otherwise, stale] = verdicts();
        let full = |verdict| outcome("a/1.2/tcp", Level::Must, verdict).to_string();
        assert_eq!(
            full(failed),
            "FAILED   a 1.2/tcp (f.stomp:9)\n  A case [must: 1.2 \"SEND\"]\n  because\n  \
             expected X, got ERROR \"no\"\n         3 ms  a> \"A\"\n"
        );
        assert!(full(otherwise).contains("\n  is listed to fail otherwise: nothing came\n"));
        assert_eq!(
            full(stale),
            "PASSES   a 1.2/tcp (f.stomp:2)\n  is listed as different: known\n"
        );
    }

    #[test]
    fn a_case_that_fails_alike_is_told_once() {
        let failed = |came| Verdict::Failed(failure("expected X, got ERROR", came));
        let report = Report::new(vec![
            outcome("a/1.0/tcp", Level::Must, failed(" \"one\"")),
            outcome("a/1.1/tcp", Level::Must, failed(" \"two\"")),
            outcome("a/1.2/tcp", Level::Must, Verdict::Failed(failure("expected Y", ""))),
            outcome("b/1.2/tcp", Level::Field, Verdict::Passed),
        ]);
        let text = report.to_string();
        assert_eq!(text.matches("FAILED").count(), 2, "{text}");
        assert!(text.contains("FAILED   a 1.0/tcp 1.1/tcp (f.stomp:9)"), "{text}");
        assert!(text.contains("\"two\"\n  in 1.1/tcp:\n") && !text.contains("one"), "{text}");
        assert!(text.contains("FAILED   a 1.2/tcp (f.stomp:9)"), "{text}");
        let table: Vec<Vec<&str>> =
            text.lines().rev().take(5).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(table[0], ["all", "1", "3", "0"]);
        assert_eq!(table[4], ["must", "0", "3", "0"]);
    }
}
