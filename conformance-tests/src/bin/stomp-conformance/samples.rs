//! Outcomes for the tests of reports.

use std::time::Duration;

use conformance_tests::{Failure, Level, Outcome, TraceLine, Transport, Verdict, Version};

pub(crate) fn outcome(name: &str, level: Level, verdict: Verdict) -> Outcome {
    let parts: Vec<&str> = name.split('/').collect();
    Outcome {
        name: name.into(),
        id: parts[0].into(),
        version: Version::from_name(parts[1]).unwrap(),
        transport: Transport::from_name(parts[2]).unwrap(),
        title: "A case".into(),
        level,
        section: "1.2 \"SEND\"".into(),
        why: "because".into(),
        file: "send.stomp".into(),
        line: 2,
        time: Duration::from_millis(1500),
        verdict,
    }
}

pub(crate) fn failed(text: &str) -> Verdict {
    let text = text.to_owned();
    let trace = TraceLine { milliseconds: 3, connection: "a".into(), text: "> \"A\\0\"".into() };
    Verdict::Failed(Failure { line: 9, kind: text.clone(), text, trace: vec![trace] })
}
