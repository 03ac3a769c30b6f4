//! What a row showed, as a line of the table.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::load::Outcome;

/// A row's result.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// What was done to whom.
    pub(crate) fault: String,
    /// From the fault until the relay knew. `None`: it need not know.
    pub(crate) detected: Option<Duration>,
    /// From the end of the fault until all senders had RECEIPTs again.
    pub(crate) recovered: Option<Duration>,
    pub(crate) outcome: Option<Outcome>,
    /// What else was seen.
    pub(crate) note: String,
}

const HEAD: &str = "\
| row | fault | attempted | receipted | refused | delivered | lost | duplicated | with another x-id \
| unexpected | out of order | detected | recovered | sessions | topic: receipted, delivered | seen |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
";

/// The table, one line for each row.
pub(crate) fn table(rows: &[(&str, Report)]) -> String {
    let mut text = HEAD.to_owned();
    for (name, report) in rows {
        let seconds = |time: Option<Duration>| {
            time.map_or_else(|| "-".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()))
        };
        let (detected, recovered) = (seconds(report.detected), seconds(report.recovered));
        let Report { fault, note, .. } = report;
        let counts = report.outcome.as_ref().map_or_else(
            || "- | - | - | - | - | - | - | - | -".to_owned(),
            |Outcome { messages: m, .. }| {
                format!(
                    "{} | {} | {} | {} | {} | {} | {} | {} | {}",
                    m.attempted,
                    m.receipted,
                    m.refused,
                    m.delivered,
                    m.lost,
                    m.duplicated,
                    m.other_id,
                    m.unexpected,
                    m.disordered
                )
            },
        );
        let (sessions, topics) = report.outcome.as_ref().map_or_else(
            || ("-".to_owned(), "-".to_owned()),
            |outcome| {
                let topics = &outcome.topics;
                let topics = format!("{}, {}", topics.receipted, topics.delivered);
                (outcome.sessions.to_string(), topics)
            },
        );
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {name} | {fault} | {counts} | {detected} | {recovered} | {sessions} | {topics} | \
             {note} |"
        );
    }
    text
}

const ABOUT: &str = "\
# What a fault of RabbitMQ costs

Written by `make faults`, or shorter by `FAULTS=short make faults`; do not edit. Each row is a fault
that was made for real while senders sent `persistent:true` to `/queue` and `/user` with receipts,
readers read with and without acks, and others listened to topics, through the built relay.
`errors.outage` is `message`, the default.

- *receipted*: a RECEIPT came. *refused*: an error of kind `outage` came instead; the message may
  have been taken all the same.
- *lost*: receipted and never delivered. *unexpected*: delivered and never sent. *out of order*: after
  a later one of the same sender to the same destination, without `redelivered:true`.
- *duplicated*: delivered again. All of them had the `x-id` of the first and `redelivered:true`.
- *detected*: from the fault until the relay knew. *recovered*: from the fault's end until all
  senders had RECEIPTs of RabbitMQ again and a topic's message came through.
- *sessions*: as many were connected all the time; none was closed.
- *topic*: of one sender to one listener. Topics are at most once: what RabbitMQ held for the relay
  when it died is gone.

";

/// Writes docs/faults.md.
pub(crate) fn write(rows: &[(&str, Report)], mode: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).current_dir(root).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let commit = text("git", &["rev-parse", "--short", "HEAD"]);
    let date = text("date", &["-u", "+%d %B %Y, %H:%M UTC"]);
    let page = format!(
        "{ABOUT}{date}, commit {commit}, RabbitMQ 3.10.8, a {mode} run.\n\n{}",
        table(rows)
    );
    std::fs::write(root.join("docs/faults.md"), page).unwrap();
}
