//! What every source file keeps to.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in tests a panic is how to fail")]

use std::fs;
use std::path::{Path, PathBuf};

/// A file says one thing; what is longer says two.
const LINES: usize = 500;
const FOLDERS: [&str; 9] = [
    "benches/src",
    "src",
    "tests",
    "conformance-tests/src",
    "conformance-tests/tests",
    "stomp-bench/src",
    "stomp-bench/tests",
    "system-tests/src",
    "system-tests/tests",
];

fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<PathBuf> = FOLDERS.iter().map(|folder| root.join(folder)).collect();
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                sources.push((path.strip_prefix(root).unwrap().to_owned(), text));
            }
        }
    }
    // The test would be blind where it found nothing.
    assert!(sources.len() > 80, "{} sources", sources.len());
    sources
}

#[test]
fn files_say_what_they_are_for_and_are_short() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let shown = path.display();
        if !text.starts_with("//! ") {
            wrong.push(format!("{shown}: does not begin with `//!`"));
        }
        let is_program = ["src", "conformance-tests/src", "stomp-bench/src"]
            .iter()
            .any(|folder| path.starts_with(folder));
        let is_test = !is_program || path.ends_with("tests.rs");
        let lines = text.lines().take_while(|line| line.trim() != "#[cfg(test)]").count();
        if !is_test && lines > LINES {
            wrong.push(format!("{shown}: {lines} lines before its tests, {LINES} are allowed"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_is_left_for_later_and_no_test_is_switched_off() {
    // In two halves, so that this file does not find itself.
    let words = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("#[ign", "ore")];
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        for (at, line) in text.lines().enumerate() {
            if words.iter().any(|word| line.contains(word)) {
                wrong.push(format!("{}:{}: {line}", path.display(), at + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A test that sleeps until something should have happened is slow where it has, and fails where
/// the machine is busy. What waits for a condition or a process sleeps in a loop with a deadline;
/// those places are in the helpers of the system tests.
#[test]
fn tests_wait_for_conditions() {
    let word = concat!("thread::", "sleep");
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        if path.starts_with("system-tests/src") {
            continue;
        }
        for (at, line) in text.lines().enumerate() {
            if line.contains(word) {
                wrong.push(format!("{}:{}: {line}", path.display(), at + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
