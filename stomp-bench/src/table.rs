//! Several runs side by side: medians and ratios, in Markdown.

use std::fmt::Write;

use crate::Result;
use crate::report::{Report, round};

/// What a table shows of a run, and what it is called there.
const FIGURES: [(&str, &str); 20] = [
    ("server_cpu_us_per_delivered", "us CPU per delivered message"),
    ("server_cpu_in_kernel_percent", "% of it in the kernel"),
    ("latency_p50_us", "us, p50"),
    ("latency_p99_us", "us, p99"),
    ("delivered_per_second", "delivered a second"),
    ("receipt_per_second", "RECEIPTs a second"),
    ("server_cpu_us_per_receipt", "us CPU per RECEIPT"),
    ("rabbitmq_connections", "connections of RabbitMQ"),
    ("rabbitmq_channels", "channels of RabbitMQ"),
    ("rabbitmq_queues", "queues of RabbitMQ"),
    ("rabbitmq_mib", "MiB of RabbitMQ, all connected"),
    ("front_mib", "MiB of what is in front of it"),
    ("server_cpu_us_per_connect", "us CPU per connect"),
    ("server_cpu_us_per_cycle", "us CPU per cycle"),
    ("idle_kib", "KiB per session"),
    ("idle_kib_after_burst", "KiB per session, a second after the burst"),
    ("idle_kib_after_large", "KiB per session, a second after the large SENDs"),
    ("hold_server_cpu_us_per_session_second", "us CPU per session and second"),
    ("bench_cpu_us_per_delivered", "us CPU of the load generator per delivered message"),
    ("bench_cpu_us_per_receipt", "us CPU of the load generator per RECEIPT"),
];

/// Reads lines of JSON.
///
/// # Errors
/// Where a line is something else.
pub fn read(text: &str) -> Result<Vec<Report>> {
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| {
            serde_json::from_str(line)
                .map_err(|error| format!("{error}, in the line {line}").into())
        })
        .collect()
}

/// One line for each row and figure, one column for each label, then what the first one is of
/// each other. `labels` come first, in that order.
#[must_use]
pub fn markdown(reports: &[Report], labels: &[String]) -> String {
    let own = reports.iter().map(|report| &*report.label);
    let labels = in_order(labels.iter().map(String::as_str).chain(own));
    let rows = in_order(reports.iter().map(|report| &*report.row));
    let mut text = String::from("| work | figure |");
    let mut rule = String::from("|---|---|");
    for label in &labels {
        // Writing to a String cannot fail.
        let _ = write!(text, " {label} |");
        rule.push_str("---|");
    }
    for label in labels.iter().skip(1) {
        let _ = write!(text, " {} : {label} |", labels.first().copied().unwrap_or_default());
        rule.push_str("---|");
    }
    let _ = write!(text, "\n{rule}\n");
    for row in rows {
        for (figure, title) in FIGURES {
            line(&mut text, reports, &labels, row, (figure, title));
        }
    }
    let warnings = reports.iter().flat_map(|report| {
        report.warnings.iter().map(|warning| format!("{}, {}: {warning}", report.row, report.label))
    });
    let warnings: Vec<String> = warnings.collect();
    for warning in in_order(warnings.iter().map(|warning| &**warning)) {
        let times = warnings.iter().filter(|other| *other == warning).count();
        let _ = write!(text, "\n- {warning} ({times} times)");
    }
    if !warnings.is_empty() {
        text.push('\n');
    }
    text
}

fn line(
    text: &mut String,
    reports: &[Report],
    labels: &[&str],
    row: &str,
    (figure, title): (&str, &str),
) {
    let values: Vec<Vec<f64>> = labels
        .iter()
        .map(|label| {
            let runs = reports.iter().filter(|report| report.row == row && report.label == *label);
            let mut values: Vec<f64> = runs.filter_map(|run| run.number(figure)).collect();
            values.sort_by(f64::total_cmp);
            values
        })
        .collect();
    if values.iter().all(Vec::is_empty) {
        return;
    }
    let _ = write!(text, "| {row} | {title} |");
    for values in &values {
        let _ = write!(text, " {} |", cell(values));
    }
    let first = values.first().and_then(|values| median(values));
    for values in values.iter().skip(1) {
        match (median(values), first) {
            (Some(value), Some(first)) if has_ratio(figure) && first > 0.0 && value > 0.0 => {
                let _ = write!(text, " {} |", ratio(first, value));
            }
            _ => text.push_str(" |"),
        }
    }
    text.push('\n');
}

/// Shares, and what is not the server's, are not compared.
fn has_ratio(figure: &str) -> bool {
    !figure.ends_with("percent") && !figure.starts_with("bench")
}

/// As one says it: 1.4, or 1/50.
fn ratio(first: f64, other: f64) -> String {
    if first >= other { round(first / other) } else { format!("1/{}", round(other / first)) }
}

/// The median, and the range where there are several runs.
fn cell(values: &[f64]) -> String {
    match (values, median(values)) {
        ([first, .., last], Some(median)) => {
            format!("{} ({}-{})", round(median), round(*first), round(*last))
        }
        (_, Some(only)) => round(only),
        (_, None) => String::new(),
    }
}

fn median(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some((upper + sorted.get(sorted.len() / 2 - 1)?) / 2.0)
}

fn in_order<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for name in names {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_medians_ranges_and_ratios() {
        let run = |label: &str, row: &str, value: f64| {
            let mut report = Report { label: label.into(), row: row.into(), ..Report::default() };
            report.figure("server_cpu_us_per_delivered", value);
            report
        };
        let mut runs = vec![run("relay", "1:100", 0.2), run("other", "1:100", 40.0)];
        runs.extend([run("relay", "1:100", 0.4), run("relay", "1:100", 0.25)]);
        runs.push(run("relay", "pairs", 5.0));
        if let Some(run) = runs.first_mut() {
            run.warnings.push("was slow".into());
        }
        let expected = "\
| work | figure | relay | other | relay : other |
|---|---|---|---|---|
| 1:100 | us CPU per delivered message | 0.250 (0.200-0.400) | 40.0 | 1/160 |
| pairs | us CPU per delivered message | 5.00 |  | |

- 1:100, relay: was slow (1 times)
";
        assert_eq!(markdown(&runs, &[]), expected);
        let labels = ["other".to_owned(), "relay".to_owned()];
        let turned = markdown(&runs, &labels);
        assert!(turned.contains("| other | relay | other : relay |"), "{turned}");
        assert!(turned.contains("| 40.0 | 0.250 (0.200-0.400) | 160 |"), "{turned}");
    }

    #[test]
    fn reads_what_json_wrote() {
        let report = Report { mode: "pairs".into(), ..Report::default() };
        let line = serde_json::to_string(&report).unwrap();
        assert_eq!(read(&format!("{line}\n\n{line}\n")).unwrap().len(), 2);
        assert!(read("nonsense").is_err());
    }
}
