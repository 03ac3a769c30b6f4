//! `stomp-bench`: see README.md.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use stomp_bench::cli::{Cli, Command, Common};
use stomp_bench::report::Report;
use stomp_bench::{Result, churn, connect, floor, idle, load, table};
use tokio::runtime::{Builder, Runtime};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Where standard error is closed there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "stomp-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<()> {
    match command {
        Command::Fanout(args) => {
            measure(&args.common, load::run(&args.load(), &args.common.target(), &args.common.pid))
        }
        Command::Pairs(args) => {
            measure(&args.common, load::run(&args.load(), &args.common.target(), &args.common.pid))
        }
        Command::Queue(args) => {
            measure(&args.common, load::run(&args.load(), &args.common.target(), &args.common.pid))
        }
        Command::Publish(args) => {
            measure(&args.common, load::run(&args.load(), &args.common.target(), &args.common.pid))
        }
        Command::Idle(args) => {
            measure(&args.common, idle::run(&args.idle(), &args.common.target(), &args.common.pid))
        }
        Command::Connect(args) => measure(
            &args.common,
            connect::run(&args.connect(), &args.common.target(), &args.common.pid),
        ),
        Command::Churn(args) => measure(
            &args.common,
            churn::run(&args.churn(), &args.common.target(), &args.common.pid),
        ),
        Command::Floor(args) => floor::run(args.listen, args.coalesce, |address| {
            let mut out = std::io::stdout();
            writeln!(out, "ws://{address}/").and_then(|()| out.flush())
        }),
        Command::Table(args) => {
            let mut reports = Vec::new();
            for file in &args.files {
                let text = std::fs::read_to_string(file)
                    .map_err(|error| format!("{}: {error}", file.display()))?;
                reports.extend(table::read(&text)?);
            }
            Ok(write!(std::io::stdout(), "{}", table::markdown(&reports, &args.labels))?)
        }
    }
}

/// Runs it and prints what it shows.
fn measure(common: &Common, run: impl Future<Output = Result<Report>>) -> Result<()> {
    let mut report = runtime(common.threads)?.block_on(run)?;
    report.label.clone_from(&common.label);
    report.row.clone_from(&common.row);
    let mut out = std::io::stdout();
    if common.json {
        let line = serde_json::to_string(&report).map_err(|error| error.to_string())?;
        writeln!(out, "{line}")?;
    } else {
        write!(out, "{}", report.text())?;
    }
    Ok(())
}

/// One thread is the cheapest way to read many sockets.
fn runtime(threads: usize) -> Result<Runtime> {
    let mut builder = match threads {
        0 | 1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    Ok(builder.worker_threads(threads.max(1)).enable_all().build()?)
}
