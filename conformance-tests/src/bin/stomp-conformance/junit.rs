//! A report as JUnit's XML, in the shape that GitLab, Jenkins and GitHub's actions read.
//!
//! Only what makes the exit code 1 is a failure here, so that a dashboard says the same as the
//! job. Known differences, and failures of levels that do not count, are skipped tests with their
//! text.

use std::collections::BTreeMap;
use std::time::Duration;

use conformance_tests::{Level, Outcome, Report, Verdict};

/// One suite for each file of transcripts. Levels beyond `fail_on` do not count.
pub(crate) fn of(report: &Report, server: &str, fail_on: Level) -> String {
    let mut suites: BTreeMap<&str, Vec<&Outcome>> = BTreeMap::new();
    for outcome in &report.outcomes {
        suites.entry(outcome.file.trim_end_matches(".stomp")).or_default().push(outcome);
    }
    let all: Vec<&Outcome> = report.outcomes.iter().collect();
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    out.push_str(&format!("<testsuites name=\"{}\"{}>\n", attribute(server), sums(&all, fail_on)));
    for (name, outcomes) in suites {
        let name = attribute(name);
        out.push_str(&format!("  <testsuite name=\"{name}\"{}>\n", sums(&outcomes, fail_on)));
        for outcome in outcomes {
            case(&mut out, &name, outcome, fail_on);
        }
        out.push_str("  </testsuite>\n");
    }
    out.push_str("</testsuites>\n");
    out
}

/// What a test can be in JUnit.
enum Result<'a> {
    Passed,
    Skipped(String),
    Failed(&'a str),
}

fn result(outcome: &Outcome, fail_on: Level) -> Result<'_> {
    match &outcome.verdict {
        Verdict::Passed => Result::Passed,
        Verdict::Differs { reason, .. } => Result::Skipped(format!("known difference: {reason}")),
        Verdict::PassedUnexpectedly { .. } => Result::Failed("passes, but is listed as different"),
        Verdict::Failed(failure) | Verdict::DiffersOtherwise { failure, .. } => {
            if outcome.level <= fail_on {
                Result::Failed(&failure.text)
            } else {
                Result::Skipped(format!("fails ({}): {}", outcome.level.name(), failure.text))
            }
        }
    }
}

fn sums(outcomes: &[&Outcome], fail_on: Level) -> String {
    let (mut failures, mut skipped, mut time) = (0, 0, Duration::ZERO);
    for outcome in outcomes {
        time += outcome.time;
        match result(outcome, fail_on) {
            Result::Passed => {}
            Result::Skipped(_) => skipped += 1,
            Result::Failed(_) => failures += 1,
        }
    }
    format!(
        " tests=\"{}\" failures=\"{failures}\" errors=\"0\" skipped=\"{skipped}\" time=\"{:.3}\"",
        outcomes.len(),
        time.as_secs_f64()
    )
}

fn case(out: &mut String, suite: &str, outcome: &Outcome, fail_on: Level) {
    let name = attribute(&outcome.name);
    let time = outcome.time.as_secs_f64();
    out.push_str(&format!(
        "    <testcase classname=\"stomp.{suite}\" name=\"{name}\" time=\"{time:.3}\""
    ));
    match result(outcome, fail_on) {
        Result::Passed => out.push_str("/>\n"),
        Result::Skipped(why) => {
            out.push_str(&format!(">\n      <skipped message=\"{}\"/>\n", attribute(&why)));
            out.push_str("    </testcase>\n");
        }
        Result::Failed(message) => {
            let (message, level) = (attribute(message), outcome.level.name());
            let full = text(&outcome.to_string());
            out.push_str(&format!(
                ">\n      <failure message=\"{message}\" type=\"{level}\">{full}</failure>\n"
            ));
            out.push_str("    </testcase>\n");
        }
    }
}

/// Text between tags.
fn text(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            // Not only in `]]>`: it is simpler and as right.
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if is_char(c) => out.push(c),
            // XML has no way to write it.
            c => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
        }
    }
    out
}

/// The value of an attribute, where a line end would become a space.
fn attribute(value: &str) -> String {
    text(value).replace('\n', "&#10;").replace('\r', "&#13;").replace('\t', "&#9;")
}

/// XML 1.0, 2.2 "Characters".
fn is_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{failed, outcome};

    fn differs(reason: &str) -> Verdict {
        let Verdict::Failed(failure) = failed("nothing came") else { panic!() };
        Verdict::Differs { failure, reason: reason.into() }
    }

    /// For each test its name, what is in it, and that thing's message.
    fn parsed(report: &Report, fail_on: Level) -> Vec<(String, String, String)> {
        let xml = of(report, "A <server> & \"co\"", fail_on);
        let document = roxmltree::Document::parse(&xml).unwrap();
        assert_eq!(document.root_element().attribute("name"), Some("A <server> & \"co\""));
        let tests = document.descendants().filter(|node| node.has_tag_name("testcase"));
        tests
            .map(|test| {
                let inside = test.children().find(roxmltree::Node::is_element);
                let tag = inside.map_or("", |node| node.tag_name().name());
                let message = inside.and_then(|node| node.attribute("message")).unwrap_or("");
                (test.attribute("name").unwrap().into(), tag.into(), message.into())
            })
            .collect()
    }

    #[test]
    fn a_failure_is_what_makes_the_run_fail() {
        let stale = Verdict::PassedUnexpectedly { reason: "known".into() };
        let report = Report::new(vec![
            outcome("a/1.2/tcp", Level::Must, Verdict::Passed),
            outcome("b/1.2/tcp", Level::Must, failed("expected X")),
            outcome("c/1.2/tcp", Level::Should, failed("expected Y")),
            outcome("d/1.2/tcp", Level::Must, differs("known")),
            outcome("e/1.2/tcp", Level::Field, stale),
        ]);
        let row = |name: &str, tag: &str, message: &str| (name.into(), tag.into(), message.into());
        let mut expected = vec![
            row("a/1.2/tcp", "", ""),
            row("b/1.2/tcp", "failure", "expected X"),
            row("c/1.2/tcp", "skipped", "fails (should): expected Y"),
            row("d/1.2/tcp", "skipped", "known difference: known"),
            row("e/1.2/tcp", "failure", "passes, but is listed as different"),
        ];
        assert_eq!(parsed(&report, Level::Must), expected);
        expected[2] = row("c/1.2/tcp", "failure", "expected Y");
        assert_eq!(parsed(&report, Level::Should), expected);
    }

    #[test]
    fn suites_have_their_sums() {
        let report = Report::new(vec![
            outcome("a/1.2/tcp", Level::Must, failed("x")),
            outcome("b/1.2/tcp", Level::Must, differs("y")),
        ]);
        let xml = of(&report, "s", Level::Must);
        let document = roxmltree::Document::parse(&xml).unwrap();
        for tag in ["testsuites", "testsuite"] {
            let node = document.descendants().find(|node| node.has_tag_name(tag)).unwrap();
            let found = ["tests", "failures", "errors", "skipped", "time"]
                .map(|name| node.attribute(name).unwrap());
            assert_eq!(found, ["2", "1", "0", "1", "3.000"], "{tag}");
        }
        let suite = document.descendants().find(|node| node.has_tag_name("testsuite")).unwrap();
        assert_eq!(suite.attribute("name"), Some("send"));
        let test = document.descendants().find(|node| node.has_tag_name("testcase")).unwrap();
        assert_eq!(test.attribute("classname"), Some("stomp.send"));
        assert_eq!(test.attribute("time"), Some("1.500"));
        let full = document.descendants().find(|node| node.has_tag_name("failure")).unwrap();
        assert!(full.text().unwrap().contains("3 ms  a> \"A\\0\""), "{xml}");
    }

    #[test]
    fn any_text_is_xml() {
        let every: String = (0..0x300_u32)
            .chain([0xfffe, 0xffff, 0xfffd, 0xd7ff, 0x1f600])
            .filter_map(char::from_u32)
            .collect();
        let nasty = format!("]]> <a b='c'> &amp; {every}");
        let report = Report::new(vec![outcome("a/1.2/tcp", Level::Must, failed(&nasty))]);
        let [(_, _, message)] = parsed(&report, Level::Must).try_into().unwrap();
        let expected: String = nasty
            .chars()
            .map(|c| match c {
                '\t' | '\n' | '\r' => c.to_string(),
                c if c < ' ' || ('\u{fffe}'..='\u{ffff}').contains(&c) => {
                    format!("\\u{{{:x}}}", u32::from(c))
                }
                c => c.to_string(),
            })
            .collect();
        assert_eq!(message, expected);
    }
}
