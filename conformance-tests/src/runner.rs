//! Plays cases to a server, several at a time, and judges each by the profile.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::expected::covers;
use crate::play::{Setting, play};
use crate::profile::Profile;
use crate::report::{Failure, Outcome, Report, Verdict};
use crate::target::Target;
use crate::transcript::{Case, Level, ParseError, Step, Transport, Version, name};
use crate::transcripts::all_cases;

/// The tag of cases that take seconds, whatever the server.
const SLOW: &str = "slow";

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

    /// Whether a case is played to the target at all.
    #[must_use]
    pub fn takes_any(&self, target: &Target, case: &Case) -> bool {
        !self.taken(target, case).is_empty()
    }

    /// In which versions and over which transports a case is played.
    fn taken(&self, target: &Target, case: &Case) -> Vec<(Version, Transport)> {
        let all = case.versions().flat_map(|v| case.transports.iter().map(move |t| (v, *t)));
        let level = target.profile.level;
        all.filter(|(v, t)| target.plays(case, *t) && self.takes(case, *v, *t, level)).collect()
    }
}

/// Plays cases; the default has the usual limits.
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
    case: Arc<Case>,
    version: Version,
    transport: Transport,
}

/// Cases being played. Dropped, it plays no further.
pub struct Running {
    total: usize,
    tasks: JoinSet<Outcome>,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("total", &self.total).finish_non_exhaustive()
    }
}

impl Running {
    /// How many cases there are, those included that have been played.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }

    /// The next outcome, in no order; none when all have been played. Losing the future loses
    /// nothing.
    pub async fn next(&mut self) -> Option<Outcome> {
        match self.tasks.join_next().await? {
            Ok(outcome) => Some(outcome),
            // No task is cancelled while this is there to be asked.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

impl Runner {
    /// Plays those of `cases` that fit the target and the filter.
    pub async fn run(self, target: &Target, filter: &Filter, cases: Vec<Case>) -> Report {
        let mut running = self.start(target, filter, cases);
        let mut outcomes = Vec::new();
        while let Some(outcome) = running.next().await {
            outcomes.push(outcome);
        }
        Report::new(outcomes)
    }

    /// The same for somebody who wants to see each outcome when it is there. To be called within
    /// a tokio runtime.
    #[must_use]
    pub fn start(self, target: &Target, filter: &Filter, cases: Vec<Case>) -> Running {
        let permits = Arc::new(Semaphore::new(self.jobs.max(1)));
        let target = Arc::new(target.clone());
        let mut tasks = JoinSet::new();
        for job in jobs(&target, filter, cases) {
            let (target, permits) = (Arc::clone(&target), Arc::clone(&permits));
            tasks.spawn(async move {
                // The semaphore is never closed; without a permit the case would run all the same.
                let _permit = permits.acquire().await;
                self.outcome(&target, &job).await
            });
        }
        Running { total: tasks.len(), tasks }
    }

    async fn outcome(self, target: &Target, job: &Job) -> Outcome {
        let Job { case, version, transport } = job;
        let setting = Setting {
            endpoint: &target.endpoint,
            account: &target.account,
            transport: *transport,
            version: *version,
            profile: &target.profile,
            limit: self.limit,
            values: target.values(*version),
        };
        let script = case.scripts.iter().find(|(of, _)| of == version);
        let steps: &[Step] = script.map_or(&[], |(_, steps)| steps.as_slice());
        let start = Instant::now();
        let result = play(setting, steps).await;
        let name = name(&case.id, *version, *transport);
        Outcome {
            id: case.id.clone(),
            version: *version,
            transport: *transport,
            title: case.title.clone(),
            level: case.level,
            section: case.section.clone(),
            why: case.why.clone(),
            file: case.file.clone(),
            line: case.line,
            time: start.elapsed(),
            verdict: judge(&target.profile, &name, result),
            name,
        }
    }
}

fn jobs(target: &Target, filter: &Filter, cases: Vec<Case>) -> Vec<Job> {
    let mut jobs = Vec::new();
    for case in cases.into_iter().map(Arc::new) {
        for (version, transport) in filter.taken(target, &case) {
            jobs.push(Job { case: Arc::clone(&case), version, transport });
        }
    }
    // What waits a minute begins first, so that the rest is played meanwhile.
    jobs.sort_by_key(|job| !job.case.tags.iter().any(|tag| tag == SLOW));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Profile, Target};

    #[test]
    fn slow_cases_begin_first() {
        let case = |id, tags| {
            format!("# t\n@id {id}\n@level must\n@section s\n@why w\n{tags}@connect\n\n")
        };
        let text =
            [case("a", ""), case("b", "@tags slow\n"), case("c", ""), case("d", "@tags x slow\n")];
        let cases = crate::parse("f", &text.concat()).unwrap();
        let target = Target::new("tcp://127.0.0.1:1", "", "", Profile::spec()).unwrap();
        let filter = Filter { versions: vec![Version::V12], ..Filter::default() };
        let jobs = jobs(&target, &filter, cases);
        let order: Vec<&str> = jobs.iter().map(|job| job.case.id.as_str()).collect();
        assert_eq!(order, ["b", "d", "a", "c"]);
    }

    #[test]
    fn filters() {
        let text = "# t\n@id a\n@level should\n@section s\n@why w\n@tags x y\n@connect\n";
        let cases = crate::parse("f", text).unwrap();
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let only = |only: &[&str]| Filter { only: texts(only), ..Filter::default() };
        let skip = |tags: &[&str]| Filter { skip_tags: texts(tags), ..Filter::default() };
        let level = |level| Filter { level: Some(level), ..Filter::default() };
        let versions =
            |versions: &[Version]| Filter { versions: versions.to_vec(), ..Filter::default() };
        let cases_of = [
            (Filter::default(), Level::May, true),
            (Filter::default(), Level::Must, false),
            (level(Level::Must), Level::Field, false),
            (level(Level::Should), Level::Must, true),
            (level(Level::Field), Level::Must, true),
            (only(&["b", "a/1.2"]), Level::Field, true),
            (only(&["b", "a/1.1"]), Level::Field, false),
            (skip(&["z"]), Level::Field, true),
            (skip(&["z", "y"]), Level::Field, false),
            (versions(&[Version::V11, Version::V12]), Level::Field, true),
            (versions(&[Version::V10]), Level::Field, false),
        ];
        for (filter, default, expected) in cases_of {
            let taken = filter.takes(&cases[0], Version::V12, Transport::Tcp, default);
            assert_eq!(taken, expected, "{filter:?} {default:?}");
        }
    }
}
