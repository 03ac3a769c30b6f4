//! Every kind of load against the floor: what is sent arrives, is counted once, and is told.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in tests a panic is how to fail")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_stomp-bench");

struct Floor {
    child: Child,
    address: String,
}

impl Floor {
    fn start(args: &[&str]) -> Self {
        let mut child =
            Command::new(BENCH).arg("floor").args(args).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("ws://").unwrap().strip_suffix('/').unwrap();
        Self { child, address: address.to_owned() }
    }

    /// Runs a load and gives its JSON.
    fn run(&self, scheme: &str, line: &str) -> Value {
        let output = bench(&format!("{scheme}://{}", self.address), line, self.child.id());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {error}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// `line` is what comes after the URL's place, which its first word is before.
fn bench(url: &str, line: &str, pid: u32) -> Output {
    let (mode, rest) = line.split_once(' ').unwrap_or((line, ""));
    Command::new(BENCH)
        .args([mode, url, "--json", "--pid", &pid.to_string()])
        .args(rest.split_whitespace())
        .output()
        .unwrap()
}

fn figure(report: &Value, name: &str) -> f64 {
    report["figures"][name].as_f64().unwrap_or_else(|| panic!("no {name} in {report}"))
}

const SHORT: &str = "--warm-up 100 --deliveries 2000 --time 0.1 --limit 60";

#[test]
fn all_that_is_sent_is_delivered_and_measured() {
    for args in [&[][..], &["--coalesce"]] {
        let floor = Floor::start(args);
        for scheme in ["ws", "tcp"] {
            for line in [
                "fanout --subscribers 10 --window 20",
                "fanout --publishers 3 --subscribers 7 --topics 5 --window 4 --elsewhere 600",
                "fanout --subscribers 10 --rate 2000 --size 12",
                "fanout --subscribers 4 --window 3 --size 70000 --same-ids --threads 2",
                "pairs --pairs 3 --window 1",
                "queue --publishers 2 --consumers 3 --ack client-individual --window 10",
                "queue --consumers 2 --queues 2 --ack client --prefetch 5 --window 10",
            ] {
                let report = floor.run(scheme, &format!("{line} {SHORT}"));
                assert_eq!(report["warnings"].to_string().find("did not come"), None, "{report}");
                assert!(figure(&report, "delivered_count") >= 2000.0, "{report}");
                assert!(figure(&report, "server_cpu_us_per_delivered") > 0.0, "{report}");
                assert!(figure(&report, "bench_cpu_us_per_delivered") > 0.0, "{report}");
                let latency = |name| figure(&report, &format!("latency_{name}_us"));
                assert!(latency("p50") > 0.0 && latency("p50") <= latency("p999"), "{report}");
            }
        }
    }
}

#[test]
fn every_receipt_is_waited_for() {
    let floor = Floor::start(&[]);
    for scheme in ["ws", "tcp"] {
        for line in ["publish --publishers 5 --queues 2 --window 10", "publish --rate 2000"] {
            let report = floor.run(scheme, &format!("{line} {SHORT}"));
            assert_eq!(report["warnings"].to_string().find("did not come"), None, "{report}");
            assert!(figure(&report, "receipt_count") >= 2000.0, "{report}");
            assert!(figure(&report, "server_cpu_us_per_receipt") > 0.0, "{report}");
            assert!(figure(&report, "latency_p50_us") > 0.0, "{report}");
        }
    }
}

#[test]
fn a_rate_is_kept() {
    let floor = Floor::start(&[]);
    let report = floor.run("ws", &format!("fanout --subscribers 5 --rate 1000 {SHORT}"));
    let rate = figure(&report, "delivered_per_second");
    // On a busy machine messages are late, and the last ones are not there at the end.
    assert!((2500.0..6500.0).contains(&rate), "{report}");
}

#[test]
fn sessions_are_counted_too() {
    let floor = Floor::start(&[]);
    let line = "idle --connections 20 --settle 0.1 --burst 50 --large 60000 --hold 0.1";
    let report = floor.run("ws", line);
    for name in ["idle_kib", "idle_kib_after_burst", "idle_kib_after_large"] {
        figure(&report, name);
    }
    let report = floor.run("tcp", "connect --connections 50 --at-once 5");
    assert_eq!(figure(&report, "connect_count"), 50.0);
    assert!(figure(&report, "latency_p50_us") > 0.0);
    for kind in ["session", "drop", "subscription"] {
        let report = floor.run("ws", &format!("churn --kind {kind} --staying 3 --time 0.2"));
        assert!(figure(&report, "cycle_count") > 0.0, "{report}");
    }
}

/// A server that answers with whatever it is told, to each connection.
fn rude(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream: TcpStream = stream.unwrap();
            let mut request = [0; 1024];
            // What it says does not matter, and it may go away.
            if stream.read(&mut request).is_ok() && stream.write_all(answer).is_ok() {
                std::io::copy(&mut stream, &mut std::io::sink()).ok();
            }
        }
    });
    address
}

#[test]
fn says_why_a_server_does_not_want() {
    for (scheme, answer, expected) in [
        ("tcp", &b"ERROR\nmessage:Bad CONNECT\n\nno\0"[..], "Bad CONNECT"),
        ("ws", b"HTTP/1.1 401 Unauthorized\r\nConnection: close\r\n\r\n", "401 Unauthorized"),
        ("ws", b"HTTP/1.1 101 Yes\r\n\r\n\x88\x02\x03\xf0", "1008"),
    ] {
        // A head that a read ends with; what comes after it is another.
        let address = rude(answer);
        let output = bench(&format!("{scheme}://{address}"), "connect --connections 1", 1);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(expected), "{error}");
    }
    let output = bench("ws://127.0.0.1:1/", "connect", 1);
    assert!(String::from_utf8_lossy(&output.stderr).contains("127.0.0.1:1"));
}

#[test]
fn a_table_is_made_of_runs() {
    let floor = Floor::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("runs.jsonl");
    let lines: Vec<String> = ["one", "two"]
        .map(|label| {
            let line = format!("fanout --subscribers 5 --label {label} --row fan-out {SHORT}");
            floor.run("ws", &line).to_string()
        })
        .to_vec();
    std::fs::write(&file, lines.join("\n")).unwrap();
    let output = Command::new(BENCH).arg("table").arg(&file).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("| work | figure | one | two | one : two |"), "{text}");
    assert!(text.contains("| fan-out | us CPU per delivered message | "), "{text}");
}
