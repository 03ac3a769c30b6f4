//! Every case of the suite passes against a server without faults, and fails against one with the
//! right fault: no case is there for nothing, and no two of them contradict each other.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy does not take the helpers of a test file for tests"
)]

mod faulty;

use std::sync::OnceLock;

use conformance_tests::all_cases;
use faulty::Fault;
use faulty::matrix::Matrix;
use faulty::page::page;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/conformance-faults.md");

/// All plays, done once for all tests.
fn played() -> &'static Matrix {
    static MATRIX: OnceLock<Matrix> = OnceLock::new();
    MATRIX.get_or_init(|| Matrix::new(all_cases().unwrap()))
}

#[test]
fn without_a_fault_every_case_passes() {
    let wrong = played().wrong();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_case_fails_with_a_fault_of_its_own() {
    let matrix = played();
    let without = (0..matrix.cases.len()).filter(|at| matrix.own(*at).is_empty());
    let without: Vec<_> = without.map(|at| (&matrix.cases[at].id, matrix.red(at))).collect();
    assert!(without.is_empty(), "{without:#?}");
}

#[test]
fn every_case_can_fail_in_every_version_over_every_transport() {
    let blind = &played().blind;
    assert!(blind.is_empty(), "{blind:#?}");
}

#[test]
fn every_fault_is_seen() {
    let unseen = Fault::ALL.iter().filter(|fault| played().seen_by(**fault) == 0);
    let unseen: Vec<&Fault> = unseen.collect();
    assert!(unseen.is_empty(), "{unseen:#?}");
}

#[test]
fn a_fault_that_is_not_looked_at_changes_nothing() {
    let overlooked = played().overlooked(40);
    assert!(overlooked.is_empty(), "{overlooked:#?}");
}

#[test]
fn the_page_says_what_the_plays_show() {
    let page = page(played());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(PAGE, page).unwrap();
        return;
    }
    let written = std::fs::read_to_string(PAGE).unwrap_or_default();
    let line = page.lines().zip(written.lines()).find(|(plays, page)| plays != page);
    assert!(page == written, "{PAGE} is out of date (UPDATE=1 writes it): {line:#?}");
}
