//! A server as a process: where it listens, what it has used.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::Result;

pub(super) struct Process {
    child: Child,
    pub(super) address: String,
    _folder: tempfile::TempDir,
}

impl Process {
    /// Waits until it has said where it listens, as an address after `ws://`.
    pub(super) async fn start(program: &str, arguments: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut child = Command::new(std::fs::canonicalize(program)?)
            .args(arguments)
            .env("STOMP_RELAY_LOG", "warn")
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no standard output")?).lines();
        let mut address = None;
        while let Some(line) = lines.next_line().await? {
            if let Some((_, rest)) = line.split_once("ws://") {
                address = rest.split_once('/').map(|(address, _)| address.to_owned());
            }
            if line.contains("Ctrl-C") {
                break;
            }
        }
        let address = address.ok_or("the server did not say where it listens")?;
        Ok(Self { child, address, _folder: folder })
    }

    fn pid(&self) -> Result<u32> {
        Ok(self.child.id().ok_or("the server has ended")?)
    }

    /// Microseconds of CPU so far.
    pub(super) fn cpu(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()?))?;
        let rest = stat.rsplit_once(')').ok_or("no stat")?.1;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        Ok(ticks * 10_000.0)
    }

    pub(super) fn rss_kib(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS")).ok_or("no VmRSS")?;
        Ok(line.split_whitespace().nth(1).ok_or("no VmRSS")?.parse()?)
    }
}

/// As many open files as the system lets this process have; the servers inherit it.
#[allow(unsafe_code, reason = "no crate of the tests wraps setrlimit")]
pub(super) fn raise_file_limit() -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls read or write the one struct, which lives through them.
    let is_set = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if is_set { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
}
