//! What a run has shown, for people and for programs.

use std::fmt::Write;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::process::Spent;

/// One run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub mode: String,
    /// What is measured, in the words of whoever measures: the server's name.
    #[serde(default)]
    pub label: String,
    /// The line of a table this belongs to.
    #[serde(default)]
    pub row: String,
    pub url: String,
    pub settings: Map<String, Value>,
    pub figures: Map<String, Value>,
    /// What makes the figures doubtful.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl Report {
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.settings.insert(name.to_owned(), value.into());
    }

    /// Adds a figure; its name ends with its unit.
    pub fn figure(&mut self, name: &str, value: f64) {
        // Six digits are more than any of them is worth.
        let scale = 10_f64.powf(5.0 - value.abs().max(1e-9).log10().floor());
        let rounded = if value.is_finite() { (value * scale).round() / scale } else { 0.0 };
        self.figures.insert(name.to_owned(), rounded.into());
    }

    /// What was done per second, and the CPU of one of them, called `item`.
    pub fn spent(&mut self, item: &str, count: u64, spent: Spent) {
        let items = count.max(1) as f64;
        let seconds = spent.nanos.max(1) as f64 / 1e9;
        self.figure("seconds", seconds);
        self.figure(&format!("{item}_count"), count as f64);
        self.figure(&format!("{item}_per_second"), count as f64 / seconds);
        if let Some(server) = spent.server {
            self.figure(&format!("server_cpu_us_per_{item}"), server as f64 / 1e3 / items);
            self.figure("server_cpu_percent", server as f64 / 1e7 / seconds);
        }
        if let Some(share) = spent.server_kernel {
            self.figure("server_cpu_in_kernel_percent", share * 100.0);
        }
        self.figure(&format!("bench_cpu_us_per_{item}"), spent.own as f64 / 1e3 / items);
        self.figure("bench_cpu_percent", spent.own as f64 / 1e7 / seconds);
    }

    /// Percentiles of a histogram of nanoseconds, in microseconds.
    pub fn latency(&mut self, histogram: &Histogram<u64>) {
        if histogram.is_empty() {
            return;
        }
        for (name, percentile) in [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p999", 99.9)] {
            let value = histogram.value_at_percentile(percentile);
            self.figure(&format!("latency_{name}_us"), value as f64 / 1e3);
        }
        self.figure("latency_max_us", histogram.max() as f64 / 1e3);
    }

    #[must_use]
    pub fn number(&self, name: &str) -> Option<f64> {
        self.figures.get(name).and_then(Value::as_f64)
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{} {}", self.mode, self.url);
        for (name, value) in &self.settings {
            // Writing to a String cannot fail.
            let _ = match value.as_str() {
                Some(value) => write!(text, " {name}={value}"),
                None => write!(text, " {name}={value}"),
            };
        }
        text.push('\n');
        let width = self.figures.keys().map(String::len).max().unwrap_or(0);
        for (name, value) in &self.figures {
            let name = name.replace('_', " ");
            let value = round(value.as_f64().unwrap_or(0.0));
            let _ = writeln!(text, "  {name:width$}  {value:>12}");
        }
        for warning in &self.warnings {
            let _ = writeln!(text, "  warning: {warning}");
        }
        text
    }
}

/// A number with as many digits as one reads: three, or all before the point.
#[must_use]
pub fn round(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 0.1 => format!("{value:.4}"),
        size if size < 1.0 => format!("{value:.3}"),
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => thousands(value),
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_long_as_one_reads() {
        let cases = [
            (0.0, "0"),
            (0.0456, "0.0456"),
            (0.2345, "0.234"),
            (4.126, "4.13"),
            (45.67, "45.7"),
            (123.4, "123"),
            (1_234_567.8, "1,234,568"),
            (-1234.0, "-1,234"),
        ];
        for (value, text) in cases {
            assert_eq!(round(value), text);
        }
    }

    #[test]
    fn json_comes_back() {
        let mut report = Report { mode: "fanout".into(), ..Report::default() };
        report.set("subscribers", 100);
        report.spent(
            "delivered",
            1000,
            Spent { nanos: 500_000_000, server: Some(2_000_000), server_kernel: Some(0.5), own: 1 },
        );
        let mut histogram = Histogram::new(3).unwrap();
        histogram.record(1_000_000).unwrap();
        report.latency(&histogram);
        let text = serde_json::to_string(&report).unwrap();
        let back: Report = serde_json::from_str(&text).unwrap();
        assert_eq!(back.number("server_cpu_us_per_delivered"), Some(2.0));
        assert_eq!(back.number("delivered_per_second"), Some(2000.0));
        assert!(back.number("latency_p999_us").unwrap() > 999.0);
        assert!(report.text().contains("delivered per second"), "{}", report.text());
    }
}
