//! A run as one JSON document, written by a run and read for the page of runs.

use std::collections::BTreeMap;

use conformance_tests::{Counts, Level, Outcome, Report, Verdict};
use serde::{Deserialize, Serialize};

/// Of the document; a later program may read it.
pub(crate) const FORMAT: u32 = 1;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) format: u32,
    pub(crate) about: About,
    /// By level, and under `all`.
    pub(crate) counts: BTreeMap<String, LevelCounts>,
    pub(crate) outcomes: Vec<Played>,
}

/// What was played with what, and how long it took.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct About {
    pub(crate) tool_version: String,
    /// RFC 3339, UTC.
    pub(crate) started: String,
    pub(crate) milliseconds: u64,
    /// Whether everything was played.
    pub(crate) complete: bool,
    pub(crate) label: String,
    /// What CONNECTED said.
    pub(crate) server: Option<String>,
    /// Without account and query.
    pub(crate) url: String,
    pub(crate) profile: String,
    /// Without secrets.
    pub(crate) command: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LevelCounts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    /// Failed as listed.
    pub(crate) differs: usize,
    /// Passed although listed to fail.
    pub(crate) passed_unexpectedly: usize,
}

impl From<Counts> for LevelCounts {
    fn from(counts: Counts) -> Self {
        let Counts { passed, failed, differs, stale } = counts;
        Self { passed, failed, differs, passed_unexpectedly: stale }
    }
}

/// One case in one version over one transport.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Played {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) version: String,
    pub(crate) transport: String,
    pub(crate) level: String,
    pub(crate) section: String,
    pub(crate) title: String,
    pub(crate) why: String,
    pub(crate) file: String,
    pub(crate) line: usize,
    pub(crate) milliseconds: u64,
    pub(crate) verdict: Word,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<Failed>,
    /// Why it is known to fail, where a list says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) listed: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Word {
    Passed,
    Failed,
    /// Failed as listed.
    Differs,
    /// Listed to fail, but not in this way: `listed` is what was expected.
    FailedOtherwise,
    /// Listed to fail.
    PassedUnexpectedly,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Failed {
    pub(crate) text: String,
    /// The part of `text` that is the same in every run in which the server does the same.
    pub(crate) kind: String,
    /// The transcript's line.
    pub(crate) line: usize,
    pub(crate) trace: Vec<Passed>,
}

/// A line of the conversation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Passed {
    pub(crate) ms: u64,
    /// Its name in the transcript; empty where it has none.
    pub(crate) connection: String,
    /// `> "..."` was sent, `< "..."` came, `! ...` is a note.
    pub(crate) text: String,
}

impl Run {
    pub(crate) fn new(about: About, report: &Report) -> Self {
        let levels = Level::ALL.into_iter().map(Some).chain([None]);
        let counts = levels.map(|level| {
            (level.map_or("all", Level::name).to_owned(), report.counts(level).into())
        });
        Self {
            format: FORMAT,
            about,
            counts: counts.collect(),
            outcomes: report.outcomes.iter().map(played).collect(),
        }
    }

    pub(crate) fn to_text(&self) -> Result<String, String> {
        let text = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        Ok(text + "\n")
    }
}

fn played(outcome: &Outcome) -> Played {
    let (verdict, listed) = match &outcome.verdict {
        Verdict::Passed => (Word::Passed, None),
        Verdict::Failed(_) => (Word::Failed, None),
        Verdict::Differs { reason, .. } => (Word::Differs, Some(reason)),
        Verdict::DiffersOtherwise { expected, .. } => (Word::FailedOtherwise, Some(expected)),
        Verdict::PassedUnexpectedly { reason } => (Word::PassedUnexpectedly, Some(reason)),
    };
    let failure = outcome.verdict.failure().map(|failure| Failed {
        text: failure.text.clone(),
        kind: failure.kind.clone(),
        line: failure.line,
        trace: failure
            .trace
            .iter()
            .map(|line| Passed {
                ms: line.milliseconds,
                connection: line.connection.clone(),
                text: line.text.clone(),
            })
            .collect(),
    });
    Played {
        name: outcome.name.clone(),
        id: outcome.id.clone(),
        version: outcome.version.name().into(),
        transport: outcome.transport.name().into(),
        level: outcome.level.name().into(),
        section: outcome.section.clone(),
        title: outcome.title.clone(),
        why: outcome.why.clone(),
        file: outcome.file.clone(),
        line: outcome.line,
        milliseconds: u64::try_from(outcome.time.as_millis()).unwrap_or(u64::MAX),
        verdict,
        failure,
        listed: listed.cloned(),
    }
}
