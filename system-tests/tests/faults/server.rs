//! What happens to a RabbitMQ.

use std::sync::Arc;
use std::time::{Duration, Instant};

use system_tests::rabbitmq::RabbitMqServer;
use system_tests::relay::{Relay, Setup};

use crate::load::{Load, Plan, until};
use crate::network::{detected, lost};
use crate::report::Report;
use crate::{Pace, blocking};

/// What waits while RabbitMQ restarts is not refused: it needs its time on a busy machine.
const PATIENT: &str = "relay.outage.time = \"3m\"";

async fn scene(rabbit: &RabbitMqServer, row: &str, config: &str) -> (Relay, Load) {
    let setup = Setup::new().broker(&rabbit.amqp_url).config(config);
    let relay = blocking(move || setup.start()).await;
    let load = Load::start(row, &[&relay], Plan::default()).await;
    (relay, load)
}

pub(crate) async fn killed(rabbit: Arc<RabbitMqServer>, pace: Pace) -> Report {
    let (relay, load) = scene(&rabbit, "killed", PATIENT).await;
    let (mut slowest, mut longest) = (Duration::ZERO, Duration::ZERO);
    let times = pace.count(1, 3);
    for _ in 0..times {
        relay.ready().await;
        let (before, began) = (lost(&relay), Instant::now());
        let server = rabbit.clone();
        blocking(move || server.kill()).await;
        slowest = slowest.max(detected(&relay, before, began).await);
        let server = rabbit.clone();
        blocking(move || server.start().unwrap()).await;
        longest = longest.max(load.flows().await);
    }
    assert!(longest < Duration::from_secs(15), "recovered after {longest:?}");
    let outcome = Some(load.finish().await);
    Report {
        fault: format!("kill -9, and started again, {times} times"),
        detected: Some(slowest),
        recovered: Some(longest),
        outcome,
        note: "detected: with the time until its ports were closed".into(),
    }
}

pub(crate) async fn restarted(rabbit: Arc<RabbitMqServer>, pace: Pace) -> Report {
    let (relay, load) = scene(&rabbit, "restarted", PATIENT).await;
    let lines = relay.log().lines().count();
    let (mut slowest, mut longest) = (Duration::ZERO, Duration::ZERO);
    let times = pace.count(1, 3);
    for _ in 0..times {
        relay.ready().await;
        let (before, began) = (lost(&relay), Instant::now());
        let server = rabbit.clone();
        let stop = tokio::task::spawn_blocking(move || server.ctl(&["stop_app"]).unwrap());
        slowest = slowest.max(detected(&relay, before, began).await);
        stop.await.unwrap();
        let server = rabbit.clone();
        blocking(move || server.ctl(&["start_app"]).unwrap()).await;
        longest = longest.max(load.flows().await);
    }
    assert!(longest < Duration::from_secs(15), "recovered after {longest:?}");
    let log = relay.log();
    let said: Vec<&str> = log.lines().skip(lines).collect();
    assert!(said.len() <= 4 * times, "{} lines:\n{}", said.len(), said.join("\n"));
    let outcome = Some(load.finish().await);
    Report {
        fault: format!("rabbitmqctl stop_app, start_app, {times} times"),
        detected: Some(slowest),
        recovered: Some(longest),
        outcome,
        note: format!(
            "detected: with rabbitmqctl's own start; {} lines in the relay's log",
            said.len()
        ),
    }
}

pub(crate) async fn memory_alarm(rabbit: Arc<RabbitMqServer>, pace: Pace) -> Report {
    let alarm = |level: &'static str| ["set_vm_memory_high_watermark", "absolute", level];
    an_alarm(rabbit, pace, "memory", alarm("1MB"), alarm("1GB")).await
}

pub(crate) async fn disk_alarm(rabbit: Arc<RabbitMqServer>, pace: Pace) -> Report {
    let alarm = |level: &'static str| ["set_disk_free_limit", level, ""];
    an_alarm(rabbit, pace, "disk", alarm("100000GB"), alarm("50MB")).await
}

/// Senders wait; who reads gets what is there.
async fn an_alarm(
    rabbit: Arc<RabbitMqServer>,
    pace: Pace,
    name: &str,
    raise: [&'static str; 3],
    clear: [&'static str; 3],
) -> Report {
    let ctl = |args: [&'static str; 3]| {
        let server = rabbit.clone();
        let args = if args[2].is_empty() { args[..2].to_vec() } else { args.to_vec() };
        blocking(move || server.ctl(&args).unwrap())
    };
    let row = format!("alarm-{name}");
    let (relay, load) = scene(&rabbit, &row, PATIENT).await;
    // There before the alarm, and not read yet.
    let mut sender =
        system_tests::stomp_client::Client::websocket(relay.http_address(), "bob").await;
    let queue = format!("/queue/{row}.kept");
    for number in 0..5 {
        sender.send(&queue, &[("persistent", "true")], &number.to_string()).await;
    }
    let before = lost(&relay);
    ctl(raise).await;
    let blocked = || relay.log().lines().any(|line| line.contains("takes no messages"));
    until("the relay knows", blocked).await;
    // What was confirmed just before is answered by now; from then on nothing is.
    let mut receipts = load.receipts();
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = load.receipts();
        if std::mem::replace(&mut receipts, now) == now {
            break;
        }
    }
    let mut reader =
        system_tests::stomp_client::Client::websocket(relay.http_address(), "bob").await;
    reader.subscribe("kept", &queue, &[]).await;
    for number in 0..5 {
        assert_eq!(reader.message().await.text(), number.to_string());
    }
    tokio::time::sleep(pace.time(1.0, 45.0)).await;
    assert_eq!(load.receipts(), receipts, "a RECEIPT came while RabbitMQ takes nothing");
    ctl(clear).await;
    let recovered = load.flows().await;
    assert!((lost(&relay) - before).abs() < 0.5, "a connection was lost");
    assert!(!sender.is_closed() && !reader.is_closed());
    let outcome = Some(load.finish().await);
    Report {
        fault: format!("rabbitmqctl {}, and undone", raise.join(" ").trim()),
        detected: None,
        recovered: Some(recovered),
        outcome,
        note: "senders wait without RECEIPTs; a queue subscribed meanwhile is delivered".into(),
    }
}

/// The process is there and does nothing. Later it goes on with what it had.
pub(crate) async fn frozen(rabbit: Arc<RabbitMqServer>, pace: Pace) -> Report {
    let (relay, load) = scene(&rabbit, "frozen", "").await;
    let (before, began) = (lost(&relay), Instant::now());
    rabbit.freeze();
    let noticed = detected(&relay, before, began).await;
    assert!(noticed < Duration::from_secs(25), "noticed after {noticed:?}");
    tokio::time::sleep(pace.time(0.0, 60.0).saturating_sub(began.elapsed())).await;
    let time = began.elapsed().as_secs();
    rabbit.thaw();
    let recovered = load.flows().await;
    let outcome = Some(load.finish().await);
    Report {
        fault: format!("SIGSTOP for {time} s, then SIGCONT"),
        detected: Some(noticed),
        recovered: Some(recovered),
        outcome,
        note: "noticed by missing heart-beats (every 10 s)".into(),
    }
}
