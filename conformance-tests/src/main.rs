//! `stomp-conformance`: plays the transcripts to a server and prints what went wrong.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use conformance_tests::{Case, Filter, Profile, Runner, Target, Verdict, all_cases};

/// Plays STOMP transcripts to a server. Exit code 0: all as expected; 1: not; 2: could not run.
#[derive(Parser)]
#[command(name = "stomp-conformance", version)]
struct Cli {
    /// tcp://host:port or ws://host:port/path
    #[arg(required_unless_present = "list")]
    url: Option<String>,
    #[arg(long, default_value = "guest")]
    login: String,
    #[arg(long, default_value = "guest", env = "STOMP_PASSCODE", hide_env_values = true)]
    passcode: String,
    /// Cases to play: a pattern of id/version/transport, such as `ack-*/1.2`
    #[arg(long)]
    only: Vec<String>,
    /// Leave out cases with this tag, such as `slow`
    #[arg(long)]
    skip_tag: Vec<String>,
    /// Which server it is: spec, rabbitmq or stomp-relay
    #[arg(long, default_value = "spec")]
    profile: String,
    /// Seconds an answer may take
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
    /// Cases played at a time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
    /// Print the passed cases too
    #[arg(long)]
    verbose: bool,
    /// Print the cases and play none
    #[arg(long)]
    list: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok((text, success)) => {
            // A reader that closed the pipe has seen enough.
            let printed = std::io::stdout().lock().write_all(text.as_bytes()).is_ok();
            if success && printed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            let shown = writeln!(std::io::stderr().lock(), "stomp-conformance: {error}");
            drop(shown);
            ExitCode::from(2)
        }
    }
}

async fn run(cli: Cli) -> Result<(String, bool), Box<dyn std::error::Error>> {
    let cases = all_cases()?;
    let (false, Some(url)) = (cli.list, &cli.url) else {
        return Ok((cases.iter().map(list_line).collect(), true));
    };
    let profile = Profile::named(&cli.profile)?;
    let target = Target::new(url, &cli.login, &cli.passcode, profile)?;
    let filter = Filter { only: cli.only, skip_tags: cli.skip_tag, ..Filter::default() };
    let runner = Runner { limit: Duration::from_secs(cli.timeout), jobs: cli.jobs.into() };
    let report = runner.run(&target, &filter, cases).await;
    if report.outcomes.is_empty() {
        return Err("no case fits".into());
    }
    let passed = report.outcomes.iter().filter(|o| matches!(o.verdict, Verdict::Passed));
    let mut text: String =
        if cli.verbose { passed.map(ToString::to_string).collect() } else { String::new() };
    text.push_str(&report.to_string());
    Ok((text, report.is_success()))
}

fn list_line(case: &Case) -> String {
    let versions: Vec<&str> = case.versions().map(|version| version.name()).collect();
    format!("{:<6} {:<34} {:<11} {}\n", case.level.name(), case.id, versions.join(","), case.title)
}
