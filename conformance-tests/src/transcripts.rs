//! The transcripts that come with this package, built into it.

use crate::transcript::{Case, ParseError, parse};

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../transcripts/", $name)))),*]
    };
}

const FILES: &[(&str, &str)] = files![
    "connect.stomp",
    "heart-beat.stomp",
    "headers.stomp",
    "escapes.stomp",
    "framing.stomp",
    "bodies.stomp",
    "send.stomp",
    "subscribe.stomp",
    "destinations.stomp",
    "ack.stomp",
    "nack.stomp",
    "transactions.stomp",
    "receipts.stomp",
    "disconnect.stomp",
    "errors.stomp",
    "refused.stomp",
    "limits.stomp",
    "websocket.stomp",
];

/// Every case.
///
/// # Errors
/// The first mistake in a transcript.
pub fn all_cases() -> Result<Vec<Case>, ParseError> {
    let mut cases: Vec<Case> = Vec::new();
    for (file, text) in FILES {
        for case in parse(file, text)? {
            if let Some(other) = cases.iter().find(|other| other.id == case.id) {
                return Err(ParseError {
                    file: case.file,
                    line: case.line,
                    text: format!("`{}` is also in {}:{}", case.id, other.file, other.line),
                });
            }
            cases.push(case);
        }
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_transcripts_are_well_formed() {
        if let Err(error) = all_cases() {
            panic!("{error}");
        }
    }

    #[test]
    fn every_file_is_built_in() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/transcripts");
        let mut found: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let mut listed: Vec<String> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        found.sort();
        listed.sort();
        assert_eq!(found, listed);
    }
}
