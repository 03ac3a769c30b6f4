//! What processes spend, read from /proc.

use std::collections::BTreeMap;
use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::clock::{self, SECOND};
use crate::{Failure, Result};

/// Linux counts in hundredths of a second here, whatever the kernel's own clock.
const TICK: u64 = SECOND / 100;

/// The CPU that some processes have had.
#[derive(Clone, Debug, Default)]
pub struct Cpu {
    /// Nanoseconds on a CPU of each thread that lives.
    threads: BTreeMap<(u32, u32), u64>,
    /// Nanoseconds of user and system time of the processes, in steps of a tick.
    total: u64,
    /// The system time of it.
    kernel: u64,
}

/// Less than this says nothing about shares, in steps of a tick.
const SHARED: u64 = 50 * TICK;

impl Cpu {
    /// # Errors
    /// Where a process is not there.
    pub fn of(pids: &[u32]) -> Result<Self> {
        let mut cpu = Self::default();
        for pid in pids {
            let (user, kernel) = ticks(*pid)?;
            cpu.total += (user + kernel) * TICK;
            cpu.kernel += kernel * TICK;
            for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
                let Ok(thread) = entry?.file_name().to_string_lossy().parse() else { continue };
                // Gone between the listing and the look, or a kernel without these numbers.
                let path = format!("/proc/{pid}/task/{thread}/schedstat");
                let Ok(text) = fs::read_to_string(path) else { continue };
                let spent = text.split_whitespace().next().and_then(|text| text.parse().ok());
                if let Some(spent) = spent {
                    cpu.threads.insert((*pid, thread), spent);
                }
            }
        }
        Ok(cpu)
    }

    /// Nanoseconds since an earlier look. The kernel's count of each thread is exact; where a
    /// thread has ended meanwhile it is lost, and the process's count in ticks is taken.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> u64 {
        let ticks = self.total.saturating_sub(earlier.total);
        let has_all = !self.threads.is_empty()
            && earlier.threads.keys().all(|thread| self.threads.contains_key(thread));
        if !has_all {
            return ticks;
        }
        let before = |thread| earlier.threads.get(thread).copied().unwrap_or(0);
        self.threads.iter().map(|(thread, spent)| spent.saturating_sub(before(thread))).sum()
    }

    /// The share of it that was the kernel's, where it was enough to tell.
    #[must_use]
    pub fn kernel_share_since(&self, earlier: &Self) -> Option<f64> {
        let total = self.total.saturating_sub(earlier.total);
        let kernel = self.kernel.saturating_sub(earlier.kernel);
        (total >= SHARED).then(|| kernel as f64 / total as f64)
    }
}

/// User and system time.
fn ticks(pid: u32) -> Result<(u64, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_err(|_| Failure(format!("there is no process {pid}")))?;
    // After the name in brackets: state, then numbers; the 12th and 13th are user and system time.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut fields = rest.split_whitespace().skip(11);
    let mut next = || fields.next().and_then(|field| field.parse().ok()).unwrap_or(0);
    Ok((next(), next()))
}

/// KiB of memory that the processes have resident.
///
/// # Errors
/// Where a process is not there.
pub fn rss_kib(pids: &[u32]) -> Result<u64> {
    let mut sum = 0;
    for pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))
            .map_err(|_| Failure(format!("there is no process {pid}")))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        sum += number.ok_or_else(|| Failure(format!("process {pid} has no VmRSS")))?;
    }
    Ok(sum)
}

/// Server and this program, at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    pub at: u64,
    server: Option<Cpu>,
    own: Cpu,
}

/// What was spent between two moments.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    pub nanos: u64,
    pub server: Option<u64>,
    /// The kernel's share of the server's.
    pub server_kernel: Option<f64>,
    pub own: u64,
}

impl Sample {
    /// # Errors
    /// Where a process is not there.
    pub fn take(pids: &[u32]) -> Result<Self> {
        let server = if pids.is_empty() { None } else { Some(Cpu::of(pids)?) };
        let own = Cpu::of(&[std::process::id()])?;
        Ok(Self { at: clock::now(), server, own })
    }

    #[must_use]
    pub fn since(&self, earlier: &Self) -> Spent {
        let server = self.server.as_ref().zip(earlier.server.as_ref());
        let server_kernel = server.and_then(|(now, before)| now.kernel_share_since(before));
        Spent {
            server_kernel,
            nanos: self.at.saturating_sub(earlier.at),
            server: server.map(|(now, before)| now.since(before)),
            own: self.own.since(&earlier.own),
        }
    }
}

/// Runs a command of the shell; each line of its output is a figure's name and a number.
///
/// # Errors
/// Where it fails, or prints something else.
pub fn look(command: &str) -> Result<Vec<(String, f64)>> {
    let output = std::process::Command::new("sh").args(["-c", command]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let figures: Option<Vec<(String, f64)>> = text
        .lines()
        .map(|line| {
            let (name, number) = line.split_once(' ')?;
            Some((name.to_owned(), number.trim().parse().ok()?))
        })
        .collect();
    match figures {
        Some(figures) if output.status.success() => Ok(figures),
        _ => {
            let errors = String::from_utf8_lossy(&output.stderr);
            Err(Failure(format!("{command}: no lines `name number`: {text}{errors}")))
        }
    }
}

/// Allows as many connections as the system does.
///
/// # Errors
/// Where `needed` are more than that.
pub fn allow_files(needed: usize) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, most).map_err(std::io::Error::from)?;
    // A few are the program's own.
    let needed = needed as u64 + 64;
    match limit.maximum {
        Some(maximum) if maximum < needed => Err(Failure(format!(
            "this needs {needed} open files, and the limit is {maximum} (ulimit -Hn)"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_what_this_process_spends() {
        let own = [std::process::id()];
        let before = Sample::take(&own).unwrap();
        let mut sum = 0_u64;
        while clock::now() - before.at < 30_000_000 {
            sum = sum.wrapping_add(clock::now());
        }
        let spent = Sample::take(&own).unwrap().since(&before);
        assert!(spent.own > 0 && spent.server > Some(0), "{spent:?}");
        assert!(rss_kib(&own).unwrap() > 100);
    }

    #[test]
    fn a_command_gives_figures() {
        let seen = look("echo a_b 1; echo c 2.5").unwrap();
        assert_eq!(seen, [("a_b".to_owned(), 1.0), ("c".to_owned(), 2.5)]);
        for bad in ["echo a", "echo a b", "echo a 1; false", "echo a 1; exit 3"] {
            assert!(look(bad).unwrap_err().to_string().starts_with(bad), "{bad}");
        }
    }

    #[test]
    fn a_process_that_is_not_there_is_named() {
        // Above the kernel's highest pid.
        let error = Sample::take(&[u32::MAX]).unwrap_err();
        assert!(error.to_string().contains("4294967295"), "{error}");
    }

    #[test]
    fn falls_back_to_ticks_where_a_thread_has_ended() {
        let look = |threads: &[(u32, u64)], total| Cpu {
            threads: threads.iter().map(|(thread, spent)| ((1, *thread), *spent)).collect(),
            total,
            kernel: 0,
        };
        let before = look(&[(1, 100), (2, 50)], 10);
        assert_eq!(look(&[(1, 150), (2, 50), (3, 7)], 999).since(&before), 57);
        assert_eq!(look(&[(1, 150)], 999).since(&before), 989);
    }
}
