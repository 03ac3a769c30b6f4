//! Plays cases to a server, several at a time, and judges each by the profile.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::http::Uri;

use crate::connection::{Address, Stream};
use crate::play::{Setting, play};
use crate::profile::{Profile, covers};
use crate::report::{Failure, Outcome, Report, Verdict};
use crate::template::Values;
use crate::transcript::{Case, Level, ParseError, Step, Transport, Version};
use crate::transcripts::all_cases;

/// The server under test, and an account of it.
#[derive(Clone)]
pub struct Target {
    address: Address,
    web_socket: bool,
    login: String,
    passcode: String,
    profile: Profile,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = match &self.address {
            Address::Network { url, .. } => url,
            Address::Memory(_) => "in this process",
        };
        f.debug_struct("Target").field("url", &url).finish_non_exhaustive()
    }
}

/// Why a URL is no target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetError(String);

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TargetError {}

impl Target {
    /// A server at `tcp://host:port` or `ws://host:port/path`, where `login` may use any
    /// `/queue/conf-*` and `/topic/conf-*`, wildcards included.
    ///
    /// # Errors
    /// Where the URL is another one, or login or passcode would not fit in a header.
    pub fn new(
        url: &str,
        login: &str,
        passcode: &str,
        profile: Profile,
    ) -> Result<Self, TargetError> {
        let refused = |why: &str| Err(TargetError(format!("{url}: {why}")));
        let Ok(uri) = url.parse::<Uri>() else { return refused("this is no URL") };
        let web_socket = match uri.scheme_str() {
            Some("tcp") => false,
            Some("ws") => true,
            _ => return refused("the URL must begin with tcp:// or ws://"),
        };
        let (Some(host), Some(port)) = (uri.host(), uri.port_u16()) else {
            return refused("the URL must have a host and a port");
        };
        if [login, passcode].iter().any(|text| text.contains(['\n', '\r', '\0'])) {
            return refused("login and passcode cannot have line ends or NUL");
        }
        Ok(Self {
            address: Address::Network { authority: format!("{host}:{port}"), url: url.to_owned() },
            web_socket,
            login: login.to_owned(),
            passcode: passcode.to_owned(),
            profile,
        })
    }

    /// A server in this process: `open` makes a connection to it. The cases for TCP are played.
    pub fn in_process<S: Stream + 'static>(
        open: impl Fn() -> S + Send + Sync + 'static,
        login: &str,
        passcode: &str,
        profile: Profile,
    ) -> Self {
        Self {
            address: Address::Memory(Arc::new(move || Box::new(open()))),
            web_socket: false,
            login: login.to_owned(),
            passcode: passcode.to_owned(),
            profile,
        }
    }

    /// The same server, its connections taken for WebSocket.
    #[must_use]
    pub fn over_web_socket(self) -> Self {
        Self { web_socket: true, ..self }
    }

    fn plays(&self, case: &Case, transport: Transport) -> bool {
        let field = self.profile.field || case.level != Level::Field;
        field && self.web_socket == (transport != Transport::Tcp)
    }
}

/// Which cases to play.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Patterns of `id/version/transport`; empty: all.
    pub only: Vec<String>,
    /// Cases with one of these tags are left out.
    pub skip_tags: Vec<String>,
}

impl Filter {
    fn takes(&self, case: &Case, name: &str) -> bool {
        let only = self.only.is_empty() || self.only.iter().any(|pattern| covers(pattern, name));
        only && !self.skip_tags.iter().any(|tag| case.tags.contains(tag))
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
            address: &target.address,
            transport: job.transport,
            version: job.version,
            profile: &target.profile,
            limit: self.limit,
            values: values(target, job.version),
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
                let name = name(&case, version, transport);
                if filter.takes(&case, &name) {
                    jobs.push(Job { name, case: Arc::clone(&case), version, transport });
                }
            }
        }
    }
    jobs
}

fn name(case: &Case, version: Version, transport: Transport) -> String {
    format!("{}/{}/{}", case.id, version.name(), transport.name())
}

/// All names a case can have.
#[cfg(test)]
pub(crate) fn names(case: &Case) -> Vec<String> {
    case.versions()
        .flat_map(|version| case.transports.iter().map(move |t| name(case, version, *t)))
        .collect()
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

/// Fresh names, so that cases, runs and machines never meet in one queue.
fn values(target: &Target, version: Version) -> Values {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let unique = format!("conf-{:x}-{:x}-{count}", since.as_micros(), std::process::id());
    let pairs = [
        ("version", version.name().to_owned()),
        ("login", target.login.clone()),
        ("passcode", target.passcode.clone()),
        ("host", "/".to_owned()),
        ("queue", format!("/queue/{unique}")),
        ("topic", format!("/topic/{unique}")),
        ("unique", unique),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.into_bytes())).collect()
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

    #[test]
    fn targets() {
        let new = |url| Target::new(url, "u", "p", Profile::spec()).map(|t| t.web_socket);
        assert_eq!(new("tcp://127.0.0.1:61613"), Ok(false));
        assert_eq!(new("ws://[::1]:8080/ws"), Ok(true));
        for url in ["", "http://a:1", "tcp://a", "ws://a/ws", "wss://a:1/ws"] {
            assert!(new(url).is_err(), "{url}");
        }
        assert!(Target::new("tcp://a:1", "u\n", "p", Profile::spec()).is_err());
    }

    #[test]
    fn given_values_are_those_the_parser_knows() {
        let target = Target::new("tcp://a:1", "u", "p", Profile::spec()).unwrap();
        let values = values(&target, Version::V12);
        let mut given = crate::transcript::GIVEN.to_vec();
        given.sort_unstable();
        assert_eq!(values.keys().collect::<Vec<_>>(), given);
    }
}
