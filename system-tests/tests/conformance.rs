//! The transcripts of `conformance-tests` against the built relay, with either broker behind it,
//! and against RabbitMQ's own plugins, over TCP and WebSocket; the relay over SockJS too.
//!
//! Most of the time is heart-beats and time limits, which nothing but waiting can show. So all that
//! is played to one kind of server is played at a time.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in tests a panic is how to fail")]

use std::time::Duration;

use conformance_tests::{Filter, Profile, Runner, Target, Verdict, all_cases};
use system_tests::rabbitmq::RabbitMqServer;
use system_tests::relay::{Relay, Setup};

/// An account of `--dev`, and of a fresh RabbitMQ.
const ACCOUNT: &str = "guest";
/// How many plays there are: cases times versions, on WebSocket as text and as binary messages.
const OVER_TCP: usize = 887;
const OVER_WEB_SOCKET: usize = 1860;
const OVER_SOCKJS: usize = 878;

/// What is wrong, if anything is.
async fn check(url: &str, profile: &Profile, at_least: usize, passes_all: bool) -> Vec<String> {
    let target = Target::new(url, ACCOUNT, ACCOUNT, profile.clone()).unwrap();
    let runner = if passes_all {
        // On a busy machine RabbitMQ takes its time for thousands of queues; only a failure waits.
        Runner { jobs: 32, limit: Duration::from_secs(60) }
    } else {
        // Where a difference is that nothing comes, a case waits for its whole time: many wait.
        Runner { jobs: 64, ..Runner::default() }
    };
    let report = runner.run(&target, &Filter::default(), all_cases().unwrap()).await;
    let plays = report.outcomes.len();
    let listed = |verdict: &Verdict| !matches!(verdict, Verdict::Passed | Verdict::Failed(_));
    let listed = report.outcomes.iter().filter(|outcome| listed(&outcome.verdict));
    let listed: Vec<&str> = listed.map(|outcome| outcome.name.as_str()).collect();
    [
        (!report.is_success(), format!("{url}\n{report}")),
        (plays < at_least, format!("{url}: {plays} plays, not {at_least}")),
        (passes_all && !listed.is_empty(), format!("{url}: listed as different: {listed:?}")),
    ]
    .into_iter()
    .filter_map(|(is_wrong, text)| is_wrong.then_some(text))
    .collect()
}

async fn check_both(tcp: String, web: String, profile: Profile, passes_all: bool) -> Vec<String> {
    let (tcp, web) = tokio::join!(
        check(&tcp, &profile, OVER_TCP, passes_all),
        check(&web, &profile, OVER_WEB_SOCKET, passes_all),
    );
    [tcp, web].concat()
}

/// Nothing of the relay is known to differ: every single case passes.
async fn check_relay(relay: &Relay) -> Vec<String> {
    let tcp = format!("tcp://{}", relay.tcp_address());
    let web = format!("ws://{}/ws", relay.http_address());
    let sockjs = format!("http://{}/ws", relay.http_address());
    let profile = Profile::stomp_relay().unwrap();
    let (both, sockjs) = tokio::join!(
        check_both(tcp, web, profile.clone(), true),
        check(&sockjs, &profile, OVER_SOCKJS, true),
    );
    [both, sockjs].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_with_either_broker() {
    let rabbitmq = RabbitMqServer::shared().unwrap();
    let embedded = Setup::new().start();
    let before_rabbitmq = Setup::new().broker(&rabbitmq.amqp_url).start();
    let (embedded, before_rabbitmq) =
        tokio::join!(check_relay(&embedded), check_relay(&before_rabbitmq));
    let texts = [("with its embedded broker", embedded), ("before RabbitMQ", before_rabbitmq)];
    let wrong =
        texts.iter().flat_map(|(of, wrong)| wrong.iter().map(move |w| format!("{of}: {w}")));
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_plugins() {
    let rabbitmq = RabbitMqServer::shared().unwrap();
    let tcp = format!("tcp://127.0.0.1:{}", rabbitmq.stomp_port);
    let web = format!("ws://127.0.0.1:{}/ws", rabbitmq.web_stomp_port);
    let wrong = check_both(tcp, web, Profile::rabbitmq().unwrap(), false).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
