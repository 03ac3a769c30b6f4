//! The transcripts of `conformance-tests` against the built relay, with either broker behind it,
//! and against RabbitMQ's own plugins, over TCP and WebSocket.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in tests a panic is how to fail")]

use conformance_tests::{Filter, Profile, Runner, Target, all_cases};
use system_tests::rabbitmq::RabbitMqServer;
use system_tests::relay::{Relay, Setup};

/// An account of `--dev`, and of a fresh RabbitMQ.
const ACCOUNT: &str = "guest";

async fn check(url: &str, profile: Profile, at_least: usize) {
    let target = Target::new(url, ACCOUNT, ACCOUNT, profile).unwrap();
    // Where a difference is that nothing comes, a case waits for its whole time: many wait at once.
    let runner = Runner { jobs: 64, ..Runner::default() };
    let report = runner.run(&target, &Filter::default(), all_cases().unwrap()).await;
    assert!(report.is_success(), "{url}\n{report}");
    assert!(report.outcomes.len() >= at_least, "{url}\n{report}");
}

async fn check_relay(relay: &Relay) {
    let profile = Profile::stomp_relay().unwrap();
    check(&format!("tcp://{}", relay.tcp_address()), profile.clone(), 500).await;
    check(&format!("ws://{}/ws", relay.http_address()), profile, 1000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_with_its_embedded_broker() {
    check_relay(&Setup::new().start()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_before_rabbitmq() {
    let rabbitmq = RabbitMqServer::shared().unwrap();
    check_relay(&Setup::new().broker(&rabbitmq.amqp_url).start()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_plugins() {
    let rabbitmq = RabbitMqServer::shared().unwrap();
    let profile = Profile::rabbitmq().unwrap();
    let tcp = format!("tcp://127.0.0.1:{}", rabbitmq.stomp_port);
    let web = format!("ws://127.0.0.1:{}/ws", rabbitmq.web_stomp_port);
    check(&tcp, profile.clone(), 500).await;
    check(&web, profile, 1000).await;
}
