//! `stomp-conformance`: plays the transcripts to a STOMP server and says where it answers
//! otherwise.

mod cli;
mod command_line;
mod json;
mod junit;
mod list;
mod page;
mod progress;
#[cfg(test)]
mod samples;
mod suite;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, Command, Suite};
use suite::{End, Ended};

/// What a shell gives for a program that SIGINT ended.
const INTERRUPTED: u8 = 130;
const NOTHING_PLAYED: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.command {
        Some(Command::Table(table)) => {
            page::write(table).map(|text| Ended { text, end: End::Good })
        }
        None if cli.suite.list => list::of(&cli.suite).map(|text| Ended { text, end: End::Good }),
        None => play(&cli.suite),
    };
    match done {
        Ok(Ended { text, end }) => {
            // A reader that closed the pipe has seen enough.
            let printed = std::io::stdout().lock().write_all(text.as_bytes()).is_ok();
            match end {
                End::Good if printed => ExitCode::SUCCESS,
                End::Good | End::Bad => ExitCode::FAILURE,
                End::Interrupted => ExitCode::from(INTERRUPTED),
            }
        }
        Err(error) => {
            // Where nobody reads this there is nobody to tell.
            writeln!(std::io::stderr().lock(), "stomp-conformance: {error}").unwrap_or_default();
            ExitCode::from(NOTHING_PLAYED)
        }
    }
}

fn play(suite: &Suite) -> Result<Ended, String> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    let done = runtime.block_on(suite::run(suite));
    // A thread may still look up a host; nobody waits for it.
    runtime.shutdown_background();
    done
}
