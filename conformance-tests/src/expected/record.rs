//! A list made of what a run showed, so that a server's team can begin from where it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{Difference, Expected, names};
use crate::profile::Profile;
use crate::report::{Report, Verdict};
use crate::transcript::{Case, Transport, Version, name};

/// Transports that one server has together.
const LINES: [&[Transport]; 3] =
    [&[Transport::Tcp], &[Transport::WsText, Transport::WsBinary], &[Transport::SockJs]];

impl Expected {
    /// What must be listed beside the profile's own list so that the same run is as expected.
    /// What the profile's list of one's own says of cases that were not played stays.
    #[must_use]
    pub fn of(report: &Report, profile: &Profile, cases: &[Case]) -> Self {
        // By the part of the failure's text, then by the reason where one was given.
        let mut differing: BTreeMap<(String, Option<String>), Found> = BTreeMap::new();
        let mut passing: BTreeSet<String> = BTreeSet::new();
        for outcome in &report.outcomes {
            let name = &outcome.name;
            let own = profile.own_difference(name);
            let (kind, text, reason) = match (&outcome.verdict, own) {
                (Verdict::Passed, _) => {
                    if profile.says_passes(name) {
                        passing.insert(name.clone());
                    }
                    continue;
                }
                (Verdict::PassedUnexpectedly { .. }, Some(_)) => continue,
                (Verdict::PassedUnexpectedly { .. }, None) => {
                    passing.insert(name.clone());
                    continue;
                }
                (Verdict::Differs { .. }, None) => continue,
                (Verdict::Differs { failure, reason }, Some(own)) => {
                    (&own.fails_with, &failure.text, Some(reason.clone()))
                }
                (Verdict::Failed(failure) | Verdict::DiffersOtherwise { failure, .. }, _) => {
                    (&failure.kind, &failure.text, None)
                }
            };
            let found = differing.entry((kind.clone(), reason)).or_default();
            found.names.insert(name.clone());
            found.text.get_or_insert_with(|| text.clone());
        }
        let played: BTreeSet<&str> = report.outcomes.iter().map(|o| o.name.as_str()).collect();
        let rest = cases.iter().flat_map(names).filter(|name| !played.contains(name.as_str()));
        for name in rest {
            if let Some(own) = profile.own_difference(&name) {
                let key = (own.fails_with.clone(), Some(own.reason.clone()));
                differing.entry(key).or_default().names.insert(name);
            } else if profile.says_passes(&name) {
                passing.insert(name);
            }
        }
        let mut differences: Vec<Difference> = differing
            .into_iter()
            .map(|((fails_with, reason), found)| Difference {
                cases: patterns(&found.names, cases),
                reason: reason.or(found.text).unwrap_or_default(),
                fails_with,
            })
            .collect();
        differences.sort_by(|a, b| a.cases.cmp(&b.cases));
        Self { differences, passes: patterns(&passing, cases) }
    }
}

#[derive(Default)]
struct Found {
    names: BTreeSet<String>,
    /// The text of the first failure.
    text: Option<String>,
}

/// The shortest patterns that cover these names and no other.
fn patterns(found: &BTreeSet<String>, cases: &[Case]) -> Vec<String> {
    let mut patterns = Vec::new();
    for case in cases {
        let has = |version: Version, transports: &[Transport]| {
            transports.iter().all(|t| found.contains(&name(&case.id, version, *t)))
        };
        if case.versions().all(|version| has(version, &case.transports)) {
            patterns.push(case.id.clone());
            continue;
        }
        for line in LINES {
            let own: Vec<Transport> =
                line.iter().copied().filter(|t| case.transports.contains(t)).collect();
            let together = match own.as_slice() {
                [] => continue,
                [one] => one.name(),
                _ => "ws-*",
            };
            if case.versions().all(|version| has(version, &own)) {
                patterns.push(format!("{}/*/{together}", case.id));
                continue;
            }
            for version in case.versions() {
                if has(version, &own) {
                    patterns.push(format!("{}/{}/{together}", case.id, version.name()));
                    continue;
                }
                let single = own.iter().map(|transport| name(&case.id, version, *transport));
                patterns.extend(single.filter(|name| found.contains(name)));
            }
        }
    }
    patterns.sort();
    patterns
}

impl fmt::Display for Expected {
    /// As a file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Where this server differs from the transcripts.")?;
        writeln!(f, "#")?;
        writeln!(
            f,
            "# cases: patterns of id/version/transport; fails_with: a part of the failure."
        )?;
        writeln!(f, "# A case that passes again is reported.")?;
        if !self.passes.is_empty() {
            writeln!(f, "\n# These pass although the profile lists them as different.")?;
            list(f, "passes", &self.passes)?;
        }
        for Difference { cases, fails_with, reason } in &self.differences {
            writeln!(f, "\n[[difference]]")?;
            writeln!(f, "reason = {}", quoted(reason))?;
            if !fails_with.is_empty() {
                writeln!(f, "fails_with = {}", quoted(fails_with))?;
            }
            list(f, "cases", cases)?;
        }
        Ok(())
    }
}

fn list(f: &mut fmt::Formatter<'_>, key: &str, patterns: &[String]) -> fmt::Result {
    writeln!(f, "{key} = [")?;
    for pattern in patterns {
        writeln!(f, "    {},", quoted(pattern))?;
    }
    writeln!(f, "]")
}

/// As TOML has it.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{failure, outcome};
    use crate::transcript::Level;

    fn cases() -> Vec<Case> {
        let case = |id: &str, head: &str| {
            format!("# t\n@id {id}\n@level must\n@section s\n@why w\n{head}@connect\n\n")
        };
        let text = case("a", "") + &case("b", "@versions 1.2\n@transports tcp ws-text\n");
        crate::parse("f", &text).unwrap()
    }

    #[test]
    fn patterns_are_short() {
        let cases_of: [(&[&str], &[&str]); 8] = [
            (&[], &[]),
            (&["a/1.0/tcp", "a/1.1/tcp", "a/1.2/tcp"], &["a/*/tcp"]),
            (&["a/1.0/tcp", "a/1.2/tcp"], &["a/1.0/tcp", "a/1.2/tcp"]),
            (&["a/1.2/ws-text", "a/1.2/ws-binary"], &["a/1.2/ws-*"]),
            (&["a/1.2/ws-text", "a/1.1/ws-binary"], &["a/1.1/ws-binary", "a/1.2/ws-text"]),
            (&["b/1.2/tcp"], &["b/*/tcp"]),
            (&["b/1.2/ws-text"], &["b/*/ws-text"]),
            (&["b/1.2/tcp", "b/1.2/ws-text"], &["b"]),
        ];
        for (found, expected) in cases_of {
            let found = found.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(patterns(&found, &cases()), expected, "{found:?}");
        }
        let all: BTreeSet<String> = names(&cases()[0]).into_iter().collect();
        assert_eq!(patterns(&all, &cases()), ["a"]);
    }

    fn failed(name: &str, kind: &str, came: &str) -> crate::Outcome {
        outcome(name, Level::Must, Verdict::Failed(failure(kind, came)))
    }

    #[test]
    fn a_list_of_a_run_makes_it_expected() {
        let report = Report::new(vec![
            failed("a/1.0/tcp", "expected \"X\", got ERROR", " \"'one'\""),
            failed("a/1.1/tcp", "expected \"X\", got ERROR", " \"two\""),
            failed("a/1.2/tcp", "nothing came", " in 5s"),
            outcome("b/1.2/tcp", Level::Must, Verdict::Passed),
        ]);
        let list = Expected::of(&report, &Profile::spec(), &cases()).to_string();
        let read = Expected::parse(&list, &cases()).unwrap();
        let found =
            |name| read.difference(name).map(|d| (d.fails_with.as_str(), d.reason.as_str()));
        let error = "expected \"X\", got ERROR";
        let one = "expected \"X\", got ERROR \"'one'\"";
        assert_eq!(found("a/1.0/tcp"), Some((error, one)), "{list}");
        assert_eq!(found("a/1.1/tcp"), Some((error, one)));
        assert_eq!(found("a/1.2/tcp"), Some(("nothing came", "nothing came in 5s")));
        assert_eq!(found("a/1.2/ws-text"), None);
        assert_eq!(found("b/1.2/tcp"), None);
    }

    #[test]
    fn a_list_is_brought_up_to_date() {
        let built_in = "[[difference]]\ncases = ['b']\nreason = 'built in'\n";
        let own = "passes = ['b/*/ws-text']\n[[difference]]\ncases = ['a/1.2', 'a/1.1']\n\
                   fails_with = 'old'\nreason = 'mine'\n";
        let profile = Profile::spec().with_built_in(Expected::built_in(built_in).unwrap());
        let profile = profile.with_expected(Expected::parse(own, &cases()).unwrap());
        let differs = |failure| Verdict::Differs { failure, reason: "mine".into() };
        let report = Report::new(vec![
            // Mended, still the same, and now in another way.
            outcome(
                "a/1.1/tcp",
                Level::Must,
                Verdict::PassedUnexpectedly { reason: "mine".into() },
            ),
            outcome("a/1.2/tcp", Level::Must, differs(failure("old", " today"))),
            failed("a/1.1/ws-text", "new", ""),
            // The profile's list is behind.
            outcome("b/1.2/tcp", Level::Must, Verdict::PassedUnexpectedly { reason: "x".into() }),
        ]);
        let list = Expected::of(&report, &profile, &cases());
        assert_eq!(list.passes, ["b"]);
        let found: Vec<_> = list
            .differences
            .iter()
            .map(|d| (d.reason.as_str(), d.fails_with.as_str(), d.cases.join(" ")))
            .collect();
        // What was not played, a/1.1/ws-binary, a/1.2 on WebSocket and both on SockJS, is as it was.
        let expected = [
            (
                "mine",
                "old",
                "a/1.1/sockjs a/1.1/ws-binary a/1.2/sockjs a/1.2/tcp a/1.2/ws-*".to_owned(),
            ),
            ("new", "new", "a/1.1/ws-text".to_owned()),
        ];
        assert_eq!(found, expected);
    }
}
