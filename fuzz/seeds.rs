//! Writes what the fuzzer begins with. `seeds FOLDER` plays the conformance transcripts to the
//! session machine and writes what each client sent, as scripts for `session` and as bytes for
//! `decoder` and `websocket`; for `destination` it takes the destinations out of them.

#[path = "../tests/harness/mod.rs"]
mod harness;
#[path = "../tests/harness/memory.rs"]
mod memory;
#[path = "targets/mod.rs"]
mod targets;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::BytesMut;
use conformance_tests::{Filter, Profile, Runner, Target, all_cases};
use harness::{ACCOUNT, Connection, Setup, Shared};
use stomp_relay::session::Wire;
use stomp_relay::stomp::Version;
use targets::decoder::Case;
use targets::script::{self, CLIENTS, Step};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// More than any case sends, so that nobody waits for the other side to read.
const PIPE_BYTES: usize = 16 << 20;
/// A case that is longer is about a limit in bytes, which the fuzzer reaches with small limits.
const MOST: usize = 4_000;
const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// A destination, a subscription, a rule's pattern, a user.
const SETS: [&str; 12] = [
    "/topic/a.b.c\n/topic/a.*.c\n/topic/a.**\nalice",
    "/topic/a/b\n/topic/#\n/topic/**.b\nalice",
    "/topic/a%2Fb.c%25\n/topic/*.#.*\n/topic/*.*\nalice",
    "/topic/alice.x\n/topic/*.x\n/topic/{user}.*\nalice",
    "/queue/a..b\n/queue/a..b\n/queue/**\nalice",
    "/queue/a%2Fb\n/amq/queue/a\n/queue/a%2Fb\nalice",
    "/exchange/amq.topic/a.b\n/exchange/amq.topic/a.#\n/topic/a.*\nalice",
    "/exchange/e.f/a.b\n/exchange/e.f\n/exchange/*/a.**\nalice",
    "/user/b%2Fo%25b/queue/x\n/user/queue/x/y\n/user/queue/**\nb.c",
    "/user/alice/topic/x\n/user/exchange/x\n/user/*/topic/x\nalice",
    "/app/unread/read\n/app/unread\n/app/**\nalice",
    "/reply-queue/amq.gen-x\n/reply-queue/a\n/reply-queue/**\nalice",
];

/// Frames by their names (`targets/frames.rs`), after which a fuzzer knows more of them.
const STORIES: [(&str, &[[u8; 3]]); 5] = [
    ("ack", &[[1, 8, 0], [0, 1, 0], [0, 1, 0], [2, 1, 1], [4, 1, 0], [8, 1, 0]]),
    ("nack", &[[1, 0x10, 0], [0, 0, 0], [3, 1, 0], [3, 1, 0], [3, 0x19, 0]]),
    ("commit", &[[5, 2, 0], [0, 3, 0], [0, 3, 2], [1, 8, 0], [2, 3, 0], [6, 3, 0]]),
    ("abort", &[[1, 8, 0], [0, 0, 0], [5, 4, 0], [2, 4, 0], [7, 5, 0]]),
    ("answers", &[[1, 0, 1], [0, 0x19, 0], [1, 0, 0], [0, 1, 0]]),
];

type Log = Arc<Mutex<Vec<(usize, Step<'static>)>>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: seeds FOLDER")?;
    let seeds = Seeds::new(Path::new(&folder))?;
    let mut destinations = BTreeSet::new();
    for name in names().await? {
        let log = record(&name).await?;
        let (case, version) = name.trim_end_matches("/tcp").rsplit_once('/').ok_or("a name")?;
        let version = match version {
            "1.0" => Version::V10,
            "1.1" => Version::V11,
            _ => Version::V12,
        };
        seeds.write(&format!("{case}-{}", version.name()), version, &log, &mut destinations)?;
    }
    for (name, frames) in STORIES {
        let login = [9, 0, 0];
        let clients = [Step::Client(0), Step::Frame(login), Step::Client(1), Step::Frame(login)];
        let frames = frames.iter().map(|frame| Step::Frame(*frame));
        let steps: Vec<Step<'_>> = clients.into_iter().chain(frames).collect();
        for flags in 0..2 {
            let script = [vec![flags], script::write(&steps)].concat();
            fs::write(seeds.path("session", &format!("story-{name}-{flags}")), script)?;
        }
    }
    let sets = SETS.iter().map(|set| set.to_string());
    let alone = destinations.iter().map(|text| format!("{text}\n{text}\n{text}\nalice"));
    for (number, text) in sets.chain(alone).enumerate() {
        fs::write(seeds.path("destination", &format!("{number:03}")), text)?;
    }
    Ok(())
}

/// The names of all cases that pass, which is all but those of features that are missing.
async fn names() -> Result<Vec<String>, Box<dyn Error>> {
    let report = play(Filter { skip_tags: vec!["slow".into()], ..Filter::default() }, None).await?;
    Ok(report.outcomes.into_iter().map(|outcome| outcome.name).collect())
}

async fn record(name: &str) -> Result<Vec<(usize, Step<'static>)>, Box<dyn Error>> {
    let log = Log::default();
    play(Filter { only: vec![name.to_owned()], ..Filter::default() }, Some(log.clone())).await?;
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut *log))
}

async fn play(
    filter: Filter,
    log: Option<Log>,
) -> Result<conformance_tests::Report, Box<dyn Error>> {
    let shared = Arc::new(Shared::with(Setup::new()));
    let next = Mutex::new(0);
    let open = move || {
        let (client, server) = tokio::io::duplex(PIPE_BYTES);
        let connection = Connection::new(shared.clone(), Wire::Tcp, None, Instant::now());
        let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
        tokio::spawn(serve(connection, server, *next, log.clone()));
        *next += 1;
        client
    };
    let target = Target::in_process(open, ACCOUNT, ACCOUNT, Profile::stomp_relay()?);
    Ok(Runner::default().run(&target, &filter, all_cases()?).await)
}

async fn serve(mut connection: Connection, mut stream: DuplexStream, who: usize, log: Option<Log>) {
    let write = |step| {
        if let Some(log) = &log {
            log.lock().unwrap_or_else(PoisonError::into_inner).push((who, step));
        }
    };
    let mut buffer = BytesMut::new();
    while !connection.is_over {
        // Room for all there is, so that a piece is what the client wrote at once.
        buffer.reserve(PIPE_BYTES / 16);
        tokio::select! {
            read = stream.read_buf(&mut buffer) => match read {
                Ok(count) if count > 0 => {
                    write(Step::Bytes(Cow::Owned(buffer.to_vec())));
                    let bytes = buffer.split().freeze();
                    connection.take_bytes(bytes, Instant::now(), &mut std::convert::identity);
                }
                _ => {
                    write(Step::Drop);
                    break;
                }
            },
            () = poll_fn(|cx| connection.poll_mail(cx, Instant::now())) => write(Step::Read),
        }
        stream.write_all(&std::mem::take(&mut connection.out)).await.ok();
    }
    connection.end();
}

struct Seeds(PathBuf);

impl Seeds {
    fn new(folder: &Path) -> Result<Self, Box<dyn Error>> {
        for (target, _) in targets::ALL {
            fs::create_dir_all(folder.join(target))?;
        }
        Ok(Self(folder.to_owned()))
    }

    fn path(&self, target: &str, name: &str) -> PathBuf {
        self.0.join(target).join(name)
    }

    fn write(
        &self,
        name: &str,
        version: Version,
        log: &[(usize, Step<'static>)],
        destinations: &mut BTreeSet<String>,
    ) -> Result<(), Box<dyn Error>> {
        let mut steps = Vec::new();
        let mut said: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        let mut last = None;
        for (who, step) in log.iter().filter(|(who, _)| *who < CLIENTS) {
            // Names of queues are fresh for each case, and long.
            let step = match step {
                Step::Bytes(bytes) => {
                    let bytes = short_names(bytes);
                    said.entry(*who).or_default().extend(&bytes);
                    Step::Bytes(Cow::Owned(bytes))
                }
                other => other.clone(),
            };
            if last.replace(*who) != Some(*who) {
                steps.push(Step::Client(*who));
            } else if step == Step::Read {
                // Whatever a client does, it reads after it.
                continue;
            }
            steps.push(step);
        }
        let script = [vec![0], script::write(&steps)].concat();
        if script.len() <= MOST {
            fs::write(self.path("session", name), script)?;
        }
        for (who, bytes) in said.into_iter().filter(|(_, bytes)| bytes.len() <= MOST) {
            let name = format!("{name}-{who}");
            fs::write(self.path("decoder", &name), Case::write(version, &bytes))?;
            fs::write(self.path("websocket", &name), web_socket(&bytes))?;
            let text = String::from_utf8_lossy(&bytes);
            let lines = text.lines().filter_map(|line| line.strip_prefix("destination:"));
            // Names of queues of answers are new each time.
            destinations.extend(lines.filter(|line| !line.contains("amq.gen-")).map(str::to_owned));
        }
        Ok(())
    }
}

/// `conf-` and what makes a name unique becomes one letter.
fn short_names(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(5).position(|window| window == b"conf-") {
        out.extend_from_slice(&rest[..at]);
        out.push(b'q');
        rest = &rest[at + 5..];
        let end = rest.iter().position(|byte| !byte.is_ascii_hexdigit() && *byte != b'-');
        rest = &rest[end.unwrap_or(rest.len())..];
    }
    out.extend_from_slice(rest);
    out
}

/// The bytes in messages of up to 100 bytes, each in two fragments with a PING between.
fn web_socket(bytes: &[u8]) -> Vec<u8> {
    let mut input = vec![1, 9];
    for (number, piece) in bytes.chunks(100).enumerate() {
        let (first, second) = piece.split_at(piece.len() / 2);
        let opcode = if number % 2 == 0 { 2 } else { 1 };
        frame(&mut input, opcode, first);
        frame(&mut input, 0x89, b"ping");
        frame(&mut input, 0x80, second);
    }
    frame(&mut input, 0x88, &[&1000_u16.to_be_bytes()[..], b"bye"].concat());
    input
}

fn frame(out: &mut Vec<u8>, first: u8, payload: &[u8]) {
    out.extend([first, 0x80 | u8::try_from(payload.len()).unwrap_or(0)]);
    out.extend(MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}
