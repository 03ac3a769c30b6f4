//! `instructions`: counts what the cases cost and compares it with `benches/baseline.txt`.
//!
//! ```text
//! instructions                   all cases under valgrind; fails where one costs 5 % more
//! instructions --case NAME       does one of them, for valgrind to count
//! WRITE_BASELINE=1 instructions  writes the baseline anew
//! ```
//!
//! Own code and no benchmark crate: those keep their baselines as valgrind's dumps in `target/`
//! and need a runner of their own version installed; here it is a few numbers that are reviewed.

use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use benches::baseline::{self, Counts};
use benches::cases::CASES;

const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/baseline.txt");

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => all(),
        ["--case", name] => one(name).map(|()| true),
        _ => Err("usage: instructions [--case NAME]".into()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(text) => {
            // Where standard error is closed there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "{text}");
            ExitCode::FAILURE
        }
    }
}

/// What valgrind counts: it knows the function by its name.
#[inline(never)]
fn counted_by_callgrind(work: &mut dyn FnMut()) {
    work();
}

fn one(name: &str) -> Result<(), String> {
    let case = CASES.iter().find(|case| case.name == name).ok_or("there is no such case")?;
    let mut work = (case.prepare)();
    // What is done once in a process's life does not count.
    work();
    counted_by_callgrind(&mut *work);
    Ok(())
}

fn all() -> Result<bool, String> {
    let mut now = Counts::new();
    for case in &CASES {
        now.insert(case.name.to_owned(), count(case.name)? / case.items as f64);
    }
    if std::env::var_os("WRITE_BASELINE").is_some() {
        let made_with = format!("{}, {}, {}", version("rustc"), version("valgrind"), machine());
        let text = baseline::write(&now, &made_with);
        return std::fs::write(BASELINE, text)
            .map(|()| true)
            .map_err(|error| format!("{BASELINE}: {error}"));
    }
    let text = std::fs::read_to_string(Path::new(BASELINE))
        .map_err(|error| format!("{BASELINE}: {error}"))?;
    let mut verdict = baseline::compare(&baseline::read(&text)?, &now);
    let (machine, compiler) = (machine(), version("rustc"));
    if !text.contains(&machine) {
        // Vectorised code is other code there.
        verdict
            .text
            .push_str(&format!("The baseline is not one of {machine}: nothing compared.\n"));
        verdict.is_good = true;
    } else if !text.contains(&compiler) {
        verdict.text.push_str(&format!("The baseline was made with another than {compiler}.\n"));
    }
    write!(std::io::stdout(), "{}", verdict.text).map_err(|error| error.to_string())?;
    Ok(verdict.is_good)
}

/// Instructions of one case.
fn count(case: &str) -> Result<f64, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .arg("--toggle-collect=*counted_by_callgrind*")
        .arg(own)
        .args(["--case", case])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().find_map(|line| line.split_once("Collected : "));
    let count = collected.and_then(|(_, count)| count.trim().parse().ok());
    match count {
        Some(count) if output.status.success() && count > 0.0 => Ok(count),
        _ => Err(format!("{case}: valgrind counted nothing:\n{said}")),
    }
}

/// What decides which code runs.
fn machine() -> String {
    #[cfg(target_arch = "x86_64")]
    let vectors = if std::arch::is_x86_feature_detected!("avx2") { " with AVX2" } else { "" };
    #[cfg(not(target_arch = "x86_64"))]
    let vectors = "";
    format!("{}{vectors}", std::env::consts::ARCH)
}

/// The first two words, as in `rustc 1.95.0`.
fn version(program: &str) -> String {
    let output = Command::new(program).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let words: Vec<String> =
        text.unwrap_or_default().split_whitespace().take(2).map(str::to_owned).collect();
    words.join(" ")
}
