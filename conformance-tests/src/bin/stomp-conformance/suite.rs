//! One run of the suite: from the flags to a report.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use conformance_tests::{
    Case, Expected, Filter, Greeting, Level, Profile, Report, Runner, Target, Tls, all_cases,
    preflight,
};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cli::{Format, Suite, header, prefixes};
use crate::command_line;
use crate::json::{About, Run};
use crate::junit;
use crate::progress::Progress;

/// What goes to standard output, and how the program ends.
pub(crate) struct Ended {
    pub(crate) text: String,
    pub(crate) end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Good,
    Bad,
    Interrupted,
}

/// What the runner left.
struct Played {
    report: Report,
    greeting: Greeting,
    started: OffsetDateTime,
    took: Duration,
    /// How many cases there were to play.
    total: usize,
}

impl Played {
    fn is_complete(&self) -> bool {
        self.report.outcomes.len() == self.total
    }
}

/// Plays and reports.
///
/// An error is why nothing could be played, in one line.
pub(crate) async fn run(suite: &Suite) -> Result<Ended, String> {
    let cases = all_cases().map_err(|error| error.to_string())?;
    let target = target(suite, &cases)?;
    let Some(played) = play(suite, &target, cases.clone()).await? else {
        return Ok(Ended { text: String::new(), end: End::Interrupted });
    };
    let mut text = match suite.format {
        Format::Text => text(suite, &target, &played),
        Format::Json => Run::new(about(suite, &target, &played)?, &played.report).to_text()?,
        Format::Junit => junit::of(&played.report, &label(suite, &target, &played), suite.fail_on),
    };
    if let Some(file) = &suite.write_expected {
        if played.is_complete() {
            let list = Expected::of(&played.report, target.profile(), &cases).to_string();
            fs::write(file, list).map_err(|error| format!("{}: {error}", file.display()))?;
        } else if suite.format == Format::Text {
            text.push_str("The list of --write-expected is not written: it would not be whole.\n");
        }
    }
    let end = match (played.is_complete(), played.report.fails(suite.fail_on)) {
        (false, _) => End::Interrupted,
        (true, true) => End::Bad,
        (true, false) => End::Good,
    };
    Ok(Ended { text, end })
}

fn target(suite: &Suite, cases: &[Case]) -> Result<Target, String> {
    let mut profile = Profile::named(&suite.profile).map_err(|error| error.to_string())?;
    if let Some(file) = &suite.expected {
        let text = read(file)?;
        let text = String::from_utf8(text).map_err(|_| in_file(file, "it is no UTF-8"))?;
        let list = Expected::parse(&text, cases);
        let list = list.map_err(|e| format!("{}:{}: {}", file.display(), e.line, e.text))?;
        profile = profile.with_expected(list);
    }
    let url = suite.url.as_deref().unwrap_or_default();
    let (queues, topics) = prefixes(&suite.destination_prefixes)?;
    let text = |error: conformance_tests::TargetError| error.to_string();
    let mut target = Target::new(url, &suite.login, &suite.passcode, profile)
        .and_then(|target| target.with_host(&suite.host))
        .and_then(|target| target.with_prefixes(&queues, &topics))
        .map_err(text)?;
    for line in &suite.header {
        let (name, value) = header(line, "--header")?;
        target = target.with_header(&name, &value).map_err(text)?;
    }
    for line in &suite.connect_header {
        let (name, value) = header(line, "--connect-header")?;
        target = target.with_connect_header(&name, &value).map_err(text)?;
    }
    if let Some(file) = &suite.ca {
        let tls = Tls::roots(&read(file)?);
        target = target.trusting(&tls.map_err(|error| in_file(file, &error.to_string()))?);
    }
    Ok(if suite.insecure { target.trusting(&Tls::unchecked()) } else { target })
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    fs::read(file).map_err(|error| in_file(file, &error.to_string()))
}

fn in_file(file: &Path, what: &str) -> String {
    format!("{}: {what}", file.display())
}

/// Plays until the end, or until somebody has enough; nothing where that is before the first case.
async fn play(suite: &Suite, target: &Target, cases: Vec<Case>) -> Result<Option<Played>, String> {
    let filter = Filter {
        only: suite.only.clone(),
        skip_tags: suite.skip_tag.clone(),
        level: suite.level,
        versions: suite.versions(),
    };
    let runner = Runner { limit: Duration::from_secs(suite.timeout), jobs: suite.jobs.into() };
    if !cases.iter().any(|case| filter.takes_any(target, case)) {
        return Err("no case fits".into());
    }
    // One for the whole run: what comes while nobody listens is lost.
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let greeting = tokio::select! {
        greeting = preflight(target, runner.limit) => greeting.map_err(|error| error.to_string())?,
        _ = &mut interrupt => return Ok(None),
    };
    let (started, clock) = (OffsetDateTime::now_utc(), Instant::now());
    let mut running = runner.start(target, &filter, cases);
    let total = running.total();
    let mut progress = Progress::new(total, suite.progress);
    let mut outcomes = Vec::new();
    loop {
        tokio::select! {
            outcome = running.next() => match outcome {
                Some(outcome) => {
                    progress.outcome(&outcome);
                    outcomes.push(outcome);
                }
                None => break,
            },
            _ = &mut interrupt => break,
        }
    }
    progress.end();
    let report = Report::new(outcomes);
    Ok(Some(Played { report, greeting, started, took: clock.elapsed(), total }))
}

fn label(suite: &Suite, target: &Target, played: &Played) -> String {
    let own = suite.label.clone().or_else(|| played.greeting.server.clone());
    own.unwrap_or_else(|| target.profile().name.to_owned())
}

fn about(suite: &Suite, target: &Target, played: &Played) -> Result<About, String> {
    let url = (suite.url.as_deref().unwrap_or_default(), target.shown_url());
    // A clock that is set to a year of five digits is beyond this.
    let started = played.started.replace_nanosecond(0).map_err(|error| error.to_string())?;
    Ok(About {
        tool_version: env!("CARGO_PKG_VERSION").into(),
        started: started.format(&Rfc3339).map_err(|error| error.to_string())?,
        milliseconds: u64::try_from(played.took.as_millis()).unwrap_or(u64::MAX),
        complete: played.is_complete(),
        label: label(suite, target, played),
        server: played.greeting.server.clone(),
        command: command_line::shown(std::env::args(), (url.0, &url.1)),
        url: url.1,
        profile: target.profile().name.to_owned(),
    })
}

fn text(suite: &Suite, target: &Target, played: &Played) -> String {
    let report = &played.report;
    let mut out = String::new();
    if suite.verbose {
        for outcome in report.outcomes.iter().filter(|o| o.verdict.is_expected()) {
            out.push_str(&outcome.line());
            out.push('\n');
        }
        out.push('\n');
    }
    out.push_str(&report.to_string());
    let (server, profile) = (label(suite, target, played), target.profile().name);
    let seconds = played.took.as_secs_f64();
    out.push_str(&format!(
        "\n{server} at {}, profile {profile}, {seconds:.1} s\n",
        target.shown_url()
    ));
    if !played.is_complete() {
        let done = report.outcomes.len();
        out.push_str(&format!("INTERRUPTED after {done} of {} cases\n", played.total));
    }
    out.push_str(&conclusion(report, suite.fail_on));
    out
}

/// What the exit code says, in words.
fn conclusion(report: &Report, fail_on: Level) -> String {
    let failed = Level::ALL.into_iter().filter_map(|level| {
        let count = report.counts(Some(level)).failed;
        (count > 0).then(|| format!("{count} {}", level.name()))
    });
    let mut found: Vec<String> = failed.collect();
    let stale = report.counts(None).stale;
    if stale > 0 {
        found.push(format!("{stale} listed as different that pass"));
    }
    let beyond = if found.is_empty() { "nothing".to_owned() } else { found.join(", ") };
    let word = if report.fails(fail_on) { "FAILED" } else { "PASSED" };
    format!("{word}: {beyond} beyond what is expected\n")
}
