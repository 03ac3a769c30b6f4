//! Who may use whom, read from the sources: a lower part never imports a higher one.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in tests a panic is how to fail")]

use std::fs;
use std::path::Path;

/// A part (the longest that fits a file's path counts), and the parts it may use beside itself.
/// From low to high.
const MAY_USE: [(&str, &str); 21] = [
    ("stomp", ""),
    ("transport", ""),
    ("telemetry", ""),
    ("heap", "telemetry"),
    ("destination", ""),
    ("message", "destination stomp transport"),
    ("pattern", "destination"),
    ("auth", "destination pattern stomp"),
    ("persistence", "destination message stomp"),
    ("relay", "auth destination message persistence stomp"),
    ("ticker", "relay"),
    ("user", "destination message pattern persistence relay stomp"),
    ("session", "auth destination message persistence relay stomp user"),
    // The one file of a session that does I/O.
    (
        "session/driver",
        "auth destination message persistence relay stomp telemetry ticker transport user",
    ),
    ("http", "auth destination persistence relay session stomp telemetry transport user"),
    // Of each part its own config type.
    ("config", "auth cli destination http pattern relay session user"),
    ("cli", "config"),
    ("command", "auth cli config"),
    (
        "server",
        "auth config heap http persistence relay session stomp telemetry ticker transport user",
    ),
    // These two name the parts and start them.
    ("lib", ""),
    ("main", ""),
];

/// What does no I/O, reads no clock and is not async.
const PURE: [&str; 6] = ["stomp", "session", "destination", "message", "pattern", "auth/policy"];
const IMPURE: [&str; 9] = [
    "tokio",
    "async ",
    ".await",
    "std::net",
    "std::fs",
    "std::io",
    "std::thread",
    "Instant::now",
    "std::env",
];
/// In a pure part, but not pure: the driver; the list of all sessions, which is shared and waits
/// for the last to go.
const NOT_PURE: [&str; 2] = ["session/driver", "session/sessions"];
/// `SystemTime::now` at start-up only, so that message-ids of two runs differ.
const CLOCK: [&str; 1] = ["message"];

/// A source file without its tests and comments.
struct Source {
    /// Below `src`, without `.rs` and `/mod`.
    path: String,
    lines: Vec<(usize, String)>,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && path.file_stem().is_some_and(|stem| stem != "tests")
            {
                sources.push(source(&root, &path));
            }
        }
    }
    // The test would be blind where it found nothing.
    assert!(sources.len() > 50, "{} sources", sources.len());
    sources
}

fn source(root: &Path, path: &Path) -> Source {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().take_while(|line| line.trim() != "#[cfg(test)]").enumerate();
    let lines = lines.filter(|(_, line)| !line.trim_start().starts_with("//"));
    let name = path.strip_prefix(root).unwrap().with_extension("");
    let name = name.to_str().unwrap();
    Source {
        path: name.strip_suffix("/mod").unwrap_or(name).to_owned(),
        lines: lines.map(|(at, line)| (at + 1, line.to_owned())).collect(),
    }
}

fn is_in(path: &str, part: &str) -> bool {
    path.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The parts that a line of code names.
fn used(line: &str) -> Vec<&str> {
    let after = line.match_indices("crate::").map(|(at, text)| &line[at + text.len()..]);
    after
        .map(|rest| {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            &rest[..end]
        })
        .collect()
}

#[test]
fn nobody_imports_from_above() {
    let mut wrong = Vec::new();
    for Source { path, lines } in sources() {
        let of_path = MAY_USE.iter().filter(|(part, _)| is_in(&path, part));
        let (part, allowed) = of_path
            .max_by_key(|(part, _)| part.len())
            .unwrap_or_else(|| panic!("src/{path}.rs belongs to no part: add it to MAY_USE"));
        let own = part.split('/').next().unwrap();
        for (at, line) in &lines {
            for used in used(line) {
                if used.is_empty() {
                    // `crate::{...}` would hide from this test what is used.
                    wrong.push(format!("src/{path}:{at}: write one `use` for each part: {line}"));
                } else if used != own && !allowed.split(' ').any(|allowed| allowed == used) {
                    wrong.push(format!("src/{path}:{at}: {part} must not use {used}: {line}"));
                }
            }
            if line.contains("super::super::") || (!path.contains('/') && line.contains("super::"))
            {
                wrong.push(format!("src/{path}:{at}: name it from `crate::`: {line}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_machine_and_the_codec_do_no_io() {
    let mut wrong = Vec::new();
    for Source { path, lines } in sources() {
        let is_pure = PURE.iter().any(|part| is_in(&path, part))
            && !NOT_PURE.iter().any(|part| is_in(&path, part));
        if !is_pure {
            continue;
        }
        let has_clock = CLOCK.contains(&path.as_str());
        for (at, line) in &lines {
            let hit = IMPURE.iter().find(|word| line.contains(**word));
            let clock = line.contains("SystemTime::now") && !has_clock;
            if hit.is_some() || clock {
                wrong.push(format!("src/{path}:{at}: {line}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_list_has_no_stale_part() {
    let sources = sources();
    for (part, uses) in MAY_USE {
        assert!(sources.iter().any(|source| is_in(&source.path, part)), "{part} is no more");
        for used in uses.split(' ').filter(|used| !used.is_empty()) {
            assert!(MAY_USE.iter().any(|(known, _)| *known == used), "{part}: {used} is no part");
        }
    }
    for part in PURE.iter().chain(&NOT_PURE) {
        assert!(sources.iter().any(|source| is_in(&source.path, part)), "{part} is no more");
    }
}

#[test]
fn sees_what_a_line_uses() {
    assert_eq!(used("use crate::stomp::Frame;"), ["stomp"]);
    assert_eq!(used("fn f(a: crate::auth::A, b: crate::relay::B)"), ["auth", "relay"]);
    assert_eq!(used("use crate::{stomp, relay};"), [""]);
    assert_eq!(used("use super::x;"), [] as [&str; 0]);
    assert!(is_in("session/driver/ending", "session/driver") && !is_in("sessions", "session"));
}
