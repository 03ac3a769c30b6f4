//! Every case of the suite passes against a server without faults, and fails against one with the
//! right fault: no case is there for nothing, and no two of them contradict each other.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy does not take the helpers of a test file for tests"
)]

mod faulty;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use conformance_tests::all_cases;
use faulty::Fault;
use faulty::matrix::{Row, rows};

/// All plays, done once for all tests.
fn played() -> &'static [Row] {
    static ROWS: OnceLock<Vec<Row>> = OnceLock::new();
    ROWS.get_or_init(|| rows(&all_cases().unwrap()))
}

/// A fault that more than a tenth of all cases see is too crude to show what a case is for.
fn crude(rows: &[Row]) -> impl Fn(&Fault) -> bool {
    let mut count: BTreeMap<Fault, usize> = BTreeMap::new();
    for fault in rows.iter().flat_map(|row| &row.red) {
        *count.entry(*fault).or_default() += 1;
    }
    let limit = rows.len() / 10;
    move |fault| count.get(fault).is_some_and(|count| *count > limit)
}

#[test]
fn without_a_fault_every_case_passes() {
    let wrong: Vec<&str> = played().iter().flat_map(|row| &row.wrong).map(String::as_str).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_case_fails_with_a_fault_that_is_its_own() {
    let rows = played();
    let is_crude = crude(rows);
    let never = rows.iter().filter(|row| row.red.iter().all(&is_crude));
    let never: Vec<_> = never.map(|row| (&row.case, &row.red)).collect();
    assert!(never.is_empty(), "{} cases: {never:#?}", never.len());
}

#[test]
fn every_case_can_fail_in_every_version_over_every_transport() {
    let green = played().iter().filter(|row| !row.always_green.is_empty());
    let green: Vec<_> = green.map(|row| (&row.case, &row.always_green)).collect();
    assert!(green.is_empty(), "{green:#?}");
}

#[test]
fn every_fault_is_seen() {
    let rows = played();
    let seen = |fault: &Fault| rows.iter().any(|row| row.red.contains(fault));
    let unseen: Vec<Fault> = Fault::ALL.iter().copied().filter(|fault| !seen(fault)).collect();
    println!("{} plays", rows.iter().map(|r| r.plays).sum::<usize>());
    assert!(unseen.is_empty(), "{unseen:#?}");
}
