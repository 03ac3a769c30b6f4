//! Every case of the suite passes against a server without faults, and fails against one with the
//! right fault: no case is there for nothing, and no two of them contradict each other.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy does not take the helpers of a test file for tests"
)]

mod faulty;

use std::collections::BTreeSet;

use conformance_tests::{Filter, Runner, all_cases};
use faulty::{Fault, Faults, Server, matrix};

#[tokio::test(start_paused = true)]
async fn without_a_fault_every_case_passes() {
    for over_web_socket in [false, true] {
        let server = Server::new(Faults(None));
        let target = server.target(over_web_socket);
        let report = Runner::default().run(&target, &Filter::default(), all_cases().unwrap()).await;
        assert!(report.is_success(), "{report}");
    }
}

#[test]
fn every_case_fails_with_some_fault_and_every_fault_is_seen() {
    let cases = all_cases().unwrap();
    let red = matrix::red(&cases);
    let seen: BTreeSet<&String> = red.values().flatten().collect();
    let never: Vec<&str> =
        cases.iter().filter(|case| !seen.contains(&case.id)).map(|case| case.id.as_str()).collect();
    let unseen: Vec<Fault> =
        Fault::ALL.iter().copied().filter(|fault| red[fault].is_empty()).collect();
    if std::env::var("SHOW").is_ok() { for (f, r) in &red { println!("{f:?} {} {:?}", r.len(), r.iter().take(6).collect::<Vec<_>>()); } }
    assert!(
        never.is_empty() && unseen.is_empty(),
        "no fault turns these cases red: {never:#?}\nno case sees these faults: {unseen:#?}"
    );
}
