//! Plays cases to a server, several at a time, and judges each by the profile.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::expected::covers;
use crate::play::{Setting, play};
use crate::profile::Profile;
use crate::report::{Failure, Outcome, Report, Verdict};
use crate::target::Target;
use crate::transcript::{Case, Level, ParseError, Step, Transport, Version, name};
use crate::transcripts::all_cases;

/// Which cases to play.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Patterns of `id/version/transport`; empty: all.
    pub only: Vec<String>,
    /// Cases with one of these tags are left out.
    pub skip_tags: Vec<String>,
    /// The least binding level; none: the profile's.
    pub level: Option<Level>,
    /// Versions; empty: all.
    pub versions: Vec<Version>,
}

impl Filter {
    /// Whether a case is taken in that version over that transport, where `level` is the least
    /// binding one that is played when nobody says.
    #[must_use]
    pub fn takes(&self, case: &Case, version: Version, transport: Transport, level: Level) -> bool {
        let name = name(&case.id, version, transport);
        let only = self.only.is_empty() || self.only.iter().any(|pattern| covers(pattern, &name));
        only && case.level <= self.level.unwrap_or(level)
            && (self.versions.is_empty() || self.versions.contains(&version))
            && !self.skip_tags.iter().any(|tag| case.tags.contains(tag))
    }
}

/// Plays cases. `new` has the usual limits.
#[derive(Clone, Copy, Debug)]
pub struct Runner {
    /// How long an answer may take.
    pub limit: Duration,
    /// How many cases are played at a time.
    pub jobs: usize,
}

impl Default for Runner {
    fn default() -> Self {
        Self { limit: Duration::from_secs(5), jobs: 8 }
    }
}

/// A case in one version over one transport.
struct Job {
    name: String,
    case: Arc<Case>,
    version: Version,
    transport: Transport,
}

impl Runner {
    /// Plays those of `cases` that fit the target and the filter.
    pub async fn run(self, target: &Target, filter: &Filter, cases: Vec<Case>) -> Report {
        let permits = Arc::new(Semaphore::new(self.jobs.max(1)));
        let target = Arc::new(target.clone());
        let mut running = JoinSet::new();
        for job in jobs(&target, filter, cases) {
            let (target, permits) = (Arc::clone(&target), Arc::clone(&permits));
            running.spawn(async move {
                // The semaphore is never closed; without a permit the case would run all the same.
                let _permit = permits.acquire().await;
                self.outcome(&target, &job).await
            });
        }
        let mut outcomes = running.join_all().await;
        outcomes.sort_by(|a, b| a.name.cmp(&b.name));
        Report { outcomes }
    }

    async fn outcome(self, target: &Target, job: &Job) -> Outcome {
        let case = &job.case;
        let setting = Setting {
            endpoint: &target.endpoint,
            transport: job.transport,
            version: job.version,
            profile: &target.profile,
            limit: self.limit,
            account: &target.account,
            values: target.values(job.version),
        };
        let script = case.scripts.iter().find(|(version, _)| *version == job.version);
        let steps: &[Step] = script.map_or(&[], |(_, steps)| steps.as_slice());
        let result = play(setting, steps).await;
        Outcome {
            name: job.name.clone(),
            title: case.title.clone(),
            level: case.level,
            section: case.section.clone(),
            why: case.why.clone(),
            file: case.file.clone(),
            verdict: judge(&target.profile, &job.name, result),
        }
    }
}

fn jobs(target: &Target, filter: &Filter, cases: Vec<Case>) -> Vec<Job> {
    let mut jobs = Vec::new();
    for case in cases.into_iter().map(Arc::new) {
        for version in case.versions() {
            for &transport in case.transports.iter().filter(|t| target.plays(&case, **t)) {
                if filter.takes(&case, version, transport, target.profile.level) {
                    let name = name(&case.id, version, transport);
                    jobs.push(Job { name, case: Arc::clone(&case), version, transport });
                }
            }
        }
    }
    jobs
}

fn judge(profile: &Profile, name: &str, result: Result<(), Failure>) -> Verdict {
    match (result, profile.difference(name)) {
        (Ok(()), None) => Verdict::Passed,
        (Ok(()), Some(listed)) => Verdict::PassedUnexpectedly { reason: listed.reason.clone() },
        (Err(failure), None) => Verdict::Failed(failure),
        (Err(failure), Some(listed)) if failure.text.contains(&listed.fails_with) => {
            Verdict::Differs { failure, reason: listed.reason.clone() }
        }
        (Err(failure), Some(listed)) => {
            Verdict::DiffersOtherwise { failure, expected: listed.fails_with.clone() }
        }
    }
}

/// Plays the built-in transcripts with the usual limits.
///
/// # Errors
/// The first mistake in a transcript.
pub async fn run_all(target: &Target, filter: &Filter) -> Result<Report, ParseError> {
    Ok(Runner::default().run(target, filter, all_cases()?).await)
}
