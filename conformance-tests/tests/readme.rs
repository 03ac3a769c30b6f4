//! What README.md says is so: flags, command lines, the list of differences, the transcript.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy does not take the helpers of a test file for tests"
)]

mod support;

use std::collections::BTreeSet;

use conformance_tests::{Expected, Profile, all_cases, parse};
use support::run;

const README: &str = include_str!("../README.md");

/// The blocks of code of that language.
fn blocks(language: &str) -> Vec<&'static str> {
    let begin = format!("```{language}\n");
    README.split(&begin).skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect()
}

/// `--word` in a text.
fn flags(text: &str) -> BTreeSet<&str> {
    let ends = |c: char| !(c.is_ascii_lowercase() || c == '-');
    let words = text.split(|c: char| c.is_whitespace() || "`'(,;".contains(c));
    words
        .filter_map(|word| word.strip_prefix("--"))
        .map(|word| word.split(ends).next().unwrap())
        .filter(|word| !word.is_empty())
        .collect()
}

/// The words of a line as a shell has them, as far as README needs it.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut quoted, mut word) = (Vec::new(), false, String::new());
    for c in line.split(" > ").next().unwrap().chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    words
}

#[tokio::test]
async fn flags_are_those_of_the_program() {
    let help = run(["--help"]).await.stdout + &run(["help", "table"]).await.stdout;
    let mut known = flags(&help);
    // clap's own are no news.
    known.retain(|flag| !["help", "version"].contains(flag));
    let said: BTreeSet<&str> = README
        .lines()
        .filter(|line| line.contains("stomp-conformance ") || line.starts_with("| "))
        .chain([README.split("## A transcript").next().unwrap()])
        .flat_map(flags)
        // Of cargo, docker, apt and rustup.
        .filter(|flag| {
            let others =
                ["locked", "path", "root", "rm", "network", "no-install-recommends", "from"];
            !others.contains(flag)
        })
        .collect();
    assert_eq!(said, known);
}

#[tokio::test]
async fn command_lines_are_understood() {
    let mut played = 0;
    for line in blocks("sh").into_iter().flat_map(str::lines) {
        let Some(rest) = line.strip_prefix("stomp-conformance ") else { continue };
        if rest.starts_with("table ") {
            continue;
        }
        played += 1;
        let words = words(rest);
        // Nothing is played, and everything is read.
        let mut args: Vec<&str> = words.iter().map(String::as_str).collect();
        if !args.contains(&"--list") {
            args.push("--list");
        }
        let ran = run(args).await;
        assert!(ran.code == 0 && !ran.stdout.is_empty(), "{line}: {ran}");
    }
    assert!(played > 6, "{played}");
}

#[test]
fn the_list_of_differences_is_one() {
    let [list] = blocks("toml").try_into().unwrap();
    let cases = all_cases().unwrap();
    if let Err(error) = Expected::parse(list, &cases) {
        panic!("{error}");
    }
}

#[test]
fn the_transcript_is_one() {
    let transcript = README.split("## A transcript\n\n```text\n").nth(1).unwrap();
    let transcript = transcript.split("\n```").next().unwrap();
    let [case] = parse("README.md", transcript).unwrap().try_into().unwrap();
    assert_eq!(case.id, "escape-line-feed");
    // It is there, so that nobody looks for it in vain.
    assert!(all_cases().unwrap().iter().any(|own| own.id == case.id));
}

#[test]
fn steps_of_the_tables_are_known() {
    let steps = [
        "@connect a heart-beat:0,0",
        "@subscribe a id:s1 destination:${queue}",
        "@open a offer=v12.stomp,v11.stomp select=v12.stomp",
        "@drop a",
        "@hold a\na> A\na>\na> ^@\n@send",
        "@pieces 3\n> A\n>\n> ^@",
        "@fragments 3\n> A\n>\n> ^@",
        "@open select=none",
        "@differ ${queue} b",
        "@any-order a\na< A\na<\na< ^@\n@end",
        ">socket|\\x80",
        ">beats 2",
        "<close 1000|1002",
        "<error 1002 Bad thing",
        "<refused 1002",
        "<nothing",
        "<beat",
        "<beats 2",
        "<no-beat 2",
        "<silence",
        "<pong a",
        "<as text",
        "<as binary",
        ">[1.2] A\n>*65 h${n}:v\n>|a\\0",
        "< A\n< b:${name=*}\n< c:${name}${*}\n< !d\n< ...\n<\n<|\\x80\n< ${fill:300}^@",
    ];
    let tables: String = README.lines().filter(|line| line.starts_with("| `")).collect();
    for step in steps {
        let text = format!("# t\n@id a\n@versions 1.2\n@level must\n@section s\n@why w\n{step}\n");
        if let Err(error) = parse("f", &text) {
            panic!("{step}: {error}");
        }
        // The word of its first line, as a table has it.
        let word = step.split([' ', '|', '\n']).next().unwrap();
        assert!(tables.contains(&format!("`{word}")), "{word} is not explained");
    }
}

#[test]
fn profiles_are_explained() {
    for profile in Profile::NAMES {
        assert!(README.contains(&format!("| `{profile}`")), "{profile}");
    }
}
