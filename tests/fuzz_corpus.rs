//! The fuzzer's inputs that are kept, given to the targets once more: the corpus, and whatever
//! once was a finding.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in tests a panic is how to fail")]

mod harness;
#[path = "harness/memory.rs"]
mod memory;
#[path = "../fuzz/targets/mod.rs"]
mod targets;

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

fn inputs(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn replay(target: &str, kind: &str) -> usize {
    let (_, run) = targets::ALL.into_iter().find(|(name, _)| *name == target).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(kind).join(target);
    let inputs = inputs(&folder);
    for path in &inputs {
        let input = fs::read(path).unwrap();
        let result = catch_unwind(|| run(&input));
        assert!(result.is_ok(), "{target} fails with {}", path.display());
    }
    inputs.len()
}

/// Replays a target's inputs; without a corpus the fuzzer would begin with nothing.
fn check(target: &str, least: usize) {
    replay(target, "findings");
    let count = replay(target, "corpus");
    assert!(count >= least, "the corpus of {target} has {count} inputs");
}

#[test]
fn decoder() {
    check("decoder", 50);
}

#[test]
fn session() {
    check("session", 100);
}

#[test]
fn websocket() {
    check("websocket", 20);
}

#[test]
fn destination() {
    check("destination", 20);
}

#[test]
fn every_target_is_replayed() {
    assert_eq!(
        targets::ALL.map(|(name, _)| name),
        ["decoder", "session", "websocket", "destination"]
    );
}
