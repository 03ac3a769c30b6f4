//! What each case cost when somebody last looked, in a file that is checked in.

use std::collections::BTreeMap;
use std::fmt::Write;

/// More than this is a regression.
pub const ALLOWED: f64 = 1.05;
/// Less than this is worth a new baseline, so that it is not lost again unnoticed.
const BETTER: f64 = 0.95;

/// Instructions per item of each case.
pub type Counts = BTreeMap<String, f64>;

/// Reads a baseline: lines of a number and a name, `#` begins a comment.
///
/// # Errors
/// The line that is something else.
pub fn read(text: &str) -> Result<Counts, String> {
    let mut counts = Counts::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = || format!("not a number and a name: {line}");
        let (number, name) = line.split_once(char::is_whitespace).ok_or_else(wrong)?;
        let number: f64 = number.parse().map_err(|_| wrong())?;
        counts.insert(name.trim().to_owned(), number);
    }
    Ok(counts)
}

/// Writes a baseline.
#[must_use]
pub fn write(counts: &Counts, made_with: &str) -> String {
    let mut text = format!(
        "# Instructions per item, counted by `make instructions`; {made_with}.\n\
         # WRITE_BASELINE=1 make instructions    writes this file anew.\n"
    );
    for (name, count) in counts {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{count:>12.1}  {name}");
    }
    text
}

/// What a comparison says: its lines, and whether nothing got worse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub text: String,
    pub is_good: bool,
}

/// Compares counts with the baseline.
#[must_use]
pub fn compare(baseline: &Counts, now: &Counts) -> Verdict {
    let mut verdict = Verdict { text: String::new(), is_good: true };
    let mut is_better = false;
    for (name, count) in now {
        let said = match baseline.get(name) {
            None => {
                verdict.is_good = false;
                "is not in the baseline".to_owned()
            }
            Some(before) => {
                let ratio = count / before.max(f64::MIN_POSITIVE);
                let is_worse = ratio > ALLOWED;
                verdict.is_good &= !is_worse;
                is_better |= ratio < BETTER;
                let mark = if is_worse { "  MORE THAN ALLOWED" } else { "" };
                format!("{:+.1} % against {before:.1}{mark}", (ratio - 1.0) * 100.0)
            }
        };
        // Writing to a String cannot fail.
        let _ = writeln!(verdict.text, "{count:>12.1}  {name:<44} {said}");
    }
    for name in baseline.keys().filter(|name| !now.contains_key(*name)) {
        verdict.is_good = false;
        let _ = writeln!(verdict.text, "{:>12}  {name:<44} is in the baseline, and gone", "");
    }
    if !verdict.is_good {
        verdict.text.push_str(
            "A case costs more than 5 % more than the baseline, or is not there. Where that is \
             meant: WRITE_BASELINE=1 make instructions, and say why in the commit.\n",
        );
    } else if is_better {
        verdict.text.push_str(
            "Something costs 5 % less than the baseline. WRITE_BASELINE=1 make instructions \
             keeps it so.\n",
        );
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(all: &[(&str, f64)]) -> Counts {
        all.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn comes_back_as_it_was() {
        let all = counts(&[("decode a SEND", 1234.5), ("push", 80.0)]);
        let text = write(&all, "rustc 1.95.0");
        assert_eq!(read(&text).unwrap(), all);
        assert!(read("many  things").is_err());
    }

    #[test]
    fn five_percent_more_fails_and_says_by_how_much() {
        let before = counts(&[("a", 100.0), ("b", 100.0), ("c", 100.0)]);
        let verdict = compare(&before, &counts(&[("a", 105.0), ("b", 99.0), ("c", 100.0)]));
        assert!(verdict.is_good, "{}", verdict.text);
        let verdict = compare(&before, &counts(&[("a", 105.6), ("b", 99.0), ("c", 100.0)]));
        assert!(!verdict.is_good);
        assert!(verdict.text.contains("+5.6 % against 100.0  MORE"), "{}", verdict.text);
        assert_eq!(verdict.text.matches("MORE THAN").count(), 1, "{}", verdict.text);
    }

    #[test]
    fn what_is_new_or_gone_fails_and_what_is_better_is_told() {
        let before = counts(&[("a", 100.0)]);
        assert!(!compare(&before, &counts(&[("a", 100.0), ("b", 1.0)])).is_good);
        assert!(!compare(&before, &counts(&[])).is_good);
        let verdict = compare(&before, &counts(&[("a", 50.0)]));
        assert!(verdict.is_good && verdict.text.contains("5 % less"), "{}", verdict.text);
    }
}
