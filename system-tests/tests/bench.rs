//! The load generator against the relay, small: it and the relay agree about every kind of load.

use clap::Parser;
use stomp_bench::cli::{Cli, Command};
use stomp_bench::report::Report;
use stomp_bench::{churn, connect, idle, load};
use system_tests::relay::{Relay, Setup};

#[expect(clippy::panic, reason = "in tests a panic is how to fail")]
async fn run(relay: &Relay, scheme: &str, line: &str) -> Report {
    let url = match scheme {
        "tcp" => format!("tcp://{}", relay.tcp_address()),
        _ => format!("ws://{}/ws", relay.http_address()),
    };
    let (mode, rest) = line.split_once(' ').unwrap_or((line, ""));
    let pid = relay.pid().to_string();
    let words = ["stomp-bench", mode, &url, "--login", "guest", "--passcode", "guest"];
    let words = words.into_iter().chain(["--pid", &pid]).chain(rest.split_whitespace());
    let report = match Cli::parse_from(words).command {
        Command::Fanout(args) => {
            load::run(&args.load(), &args.common.target(), &args.common.pid).await
        }
        Command::Pairs(args) => {
            load::run(&args.load(), &args.common.target(), &args.common.pid).await
        }
        Command::Queue(args) => {
            load::run(&args.load(), &args.common.target(), &args.common.pid).await
        }
        Command::Publish(args) => {
            load::run(&args.load(), &args.common.target(), &args.common.pid).await
        }
        Command::Idle(args) => {
            idle::run(&args.idle(), &args.common.target(), &args.common.pid).await
        }
        Command::Connect(args) => {
            connect::run(&args.connect(), &args.common.target(), &args.common.pid).await
        }
        Command::Churn(args) => {
            churn::run(&args.churn(), &args.common.target(), &args.common.pid).await
        }
        Command::Floor(_) | Command::Table(_) => panic!("{line} measures nothing"),
    };
    report.unwrap_or_else(|failure| panic!("{scheme} {line}: {failure}"))
}

const SHORT: &str = "--warm-up 100 --deliveries 2000 --time 0.1 --limit 60";

#[tokio::test]
async fn every_load_runs_and_loses_nothing() {
    let relay = Setup::new().start();
    for scheme in ["ws", "tcp"] {
        for line in [
            "fanout --subscribers 20 --window 50",
            "fanout --publishers 3 --subscribers 7 --topics 5 --window 4 --elsewhere 20",
            "fanout --subscribers 20 --rate 1000",
            "pairs --pairs 3 --window 1",
            "queue --publishers 2 --consumers 3 --window 20",
            "queue --consumers 2 --ack client --prefetch 5 --window 20",
        ] {
            let report = run(&relay, scheme, &format!("{line} {SHORT}")).await;
            let lost = report.warnings.iter().find(|warning| warning.contains("did not come"));
            assert_eq!(lost, None, "{scheme} {line}");
            assert!(report.number("delivered_count") >= Some(2000.0), "{report:?}");
            assert!(report.number("server_cpu_us_per_delivered") > Some(0.0), "{report:?}");
        }
        let line = format!("publish --publishers 3 --window 20 {SHORT}");
        let report = run(&relay, scheme, &line).await;
        assert_eq!(report.warnings.iter().find(|warning| warning.contains("did not")), None);
        assert!(report.number("receipt_count") >= Some(2000.0), "{report:?}");
        let line = "idle --connections 20 --settle 0.1 --burst 50 --large 60000 --hold 0.1";
        let report = run(&relay, scheme, line).await;
        assert!(report.number("idle_kib_after_large").is_some(), "{report:?}");
        let report = run(&relay, scheme, "connect --connections 50 --at-once 5").await;
        assert_eq!(report.number("connect_count"), Some(50.0));
        for kind in ["session", "drop", "subscription"] {
            let report =
                run(&relay, scheme, &format!("churn --kind {kind} --staying 3 --time 0.2")).await;
            assert!(report.number("cycle_count") > Some(0.0), "{report:?}");
        }
    }
}
