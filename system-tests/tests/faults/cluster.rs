//! What happens to the nodes of a cluster. Queues are quorum queues.

use std::sync::Arc;
use std::time::{Duration, Instant};

use system_tests::rabbitmq::{RabbitMqCluster, RabbitMqServer};
use system_tests::redis::RedisServer;
use system_tests::relay::{Relay, Setup};
use system_tests::stomp_client::Client;

use crate::load::{Load, Plan, until};
use crate::network::lost;
use crate::report::Report;
use crate::{Pace, blocking};

const PERSISTENT: (&str, &str) = ("persistent", "true");
const PLAN: Plan = Plan { senders: 20, pace: Duration::from_millis(100), idle: 2 };

/// All nodes but the first do nothing while this lives.
struct Frozen(Arc<RabbitMqCluster>);

impl Frozen {
    fn new(cluster: &Arc<RabbitMqCluster>) -> Self {
        cluster.nodes[1..].iter().for_each(RabbitMqServer::freeze);
        Self(cluster.clone())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.0.nodes[1..].iter().for_each(RabbitMqServer::thaw);
    }
}

fn setup(cluster: &RabbitMqCluster, outage_time: &str) -> Setup {
    let config = format!("relay.queue_type = \"quorum\"\nrelay.outage.time = \"{outage_time}\"");
    Setup::new().broker(&cluster.urls()).config(&config)
}

async fn start(setup: &Setup) -> Relay {
    let setup = setup.clone();
    blocking(move || setup.start()).await
}

/// Two relays and all their clients; the node with a queue's leader is killed.
pub(crate) async fn node_lost(cluster: Arc<RabbitMqCluster>, pace: Pace) -> Report {
    let redis = blocking(|| RedisServer::start(&[])).await;
    let setup = setup(&cluster, "3m").store(&redis.url());
    let relays = (start(&setup).await, start(&setup).await);
    let clients = pace.count(200, 1_000);
    let plan = Plan { idle: clients - PLAN.senders - 5, ..PLAN };
    let load = Load::start("lost", &[&relays.0, &relays.1], plan).await;
    let all = cluster.clone();
    let (began, killed) = blocking(move || {
        let leader = all.leader("lost.acked").unwrap();
        let began = Instant::now();
        leader.kill();
        (began, leader.node_name())
    })
    .await;
    load.flows().await;
    let stall = began.elapsed();
    assert!(stall < Duration::from_secs(20), "stalled for {stall:?}");
    let all = cluster.clone();
    blocking(move || {
        let node = all.nodes.iter().find(|node| node.node_name() == killed).unwrap();
        node.start().unwrap();
    })
    .await;
    load.flows().await;
    let lost = lost(&relays.0) + lost(&relays.1);
    let outcome = Some(load.finish().await);
    Report {
        fault: "kill -9 of the node with a queue's leader; two relays; started again later".into(),
        detected: None,
        recovered: Some(stall),
        outcome,
        note: format!("recovered: from the kill; {lost} connections of the relays were lost"),
    }
}

/// Two of three nodes hang. The third is in the minority, so nothing is confirmed; connections to
/// those that hang are given up and made to the one that answers.
pub(crate) async fn minority(cluster: Arc<RabbitMqCluster>, pace: Pace) -> Report {
    let relay = start(&setup(&cluster, "10s")).await;
    let load = Load::start("minority", &[&relay], PLAN).await;
    let began = Instant::now();
    let frozen = Frozen::new(&cluster);
    // What was on its way is answered by then.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let receipts = load.receipts();
    until("senders are told", || load.counts().refused >= 20).await;
    let lasts = pace.time(24.0, 45.0);
    tokio::time::sleep(lasts.saturating_sub(began.elapsed())).await;
    // Missing heart-beats took 20 s; the node that answers was found at once. It declares no queue
    // before its peers answer or are given up, so the relay is not ready yet.
    until("it is connected to the node that answers", || {
        lost(&relay) < 0.5 || relay.log().contains("RabbitMQ is back")
    })
    .await;
    let connected = began.elapsed();
    assert!(connected < lasts + Duration::from_secs(21), "connected after {connected:?}");
    assert_eq!(load.receipts(), receipts, "a RECEIPT came from a minority");
    let time = began.elapsed().as_secs();
    drop(frozen);
    let recovered = load.flows().await;
    let lost = lost(&relay);
    let outcome = Some(load.finish().await);
    Report {
        fault: format!("SIGSTOP of two of three nodes for {time} s"),
        detected: None,
        recovered: Some(recovered),
        outcome,
        note: format!(
            "no RECEIPT from the minority; refused after relay.outage.time (10 s here); {lost} \
             connections moved"
        ),
    }
}

/// A node loses its disk and joins again.
pub(crate) async fn node_wiped(cluster: Arc<RabbitMqCluster>, _: Pace) -> Report {
    let relay = start(&setup(&cluster, "3m")).await;
    let load = Load::start("wiped", &[&relay], PLAN).await;
    let all = cluster.clone();
    let began = blocking(move || {
        let began = Instant::now();
        all.nodes[2].kill();
        began
    })
    .await;
    load.flows().await;
    let stall = began.elapsed();
    let all = cluster.clone();
    blocking(move || {
        let (first, wiped) = (&all.nodes[0], &all.nodes[2]);
        first.ctl(&["forget_cluster_node", &wiped.node_name()]).unwrap();
        wiped.wipe().unwrap();
        wiped.start().unwrap();
        first.tool("rabbitmq-queues", &["grow", &wiped.node_name(), "all"]).unwrap();
        assert_eq!(all.members().unwrap(), 3);
    })
    .await;
    load.flows().await;
    let outcome = Some(load.finish().await);
    Report {
        fault: "a node killed and its data deleted; forgotten, started, joined, queues grown"
            .into(),
        detected: None,
        recovered: Some(stall),
        outcome,
        note: "recovered: from the kill".into(),
    }
}

/// A classic queue is on one node, and that one is killed. It is away and not missing, so nobody
/// is told that there is no such queue.
pub(crate) async fn queue_away(cluster: Arc<RabbitMqCluster>, _: Pace) -> Report {
    const QUEUE: &str = "/queue/away.there";
    let on = |node: usize| {
        let setup = Setup::new().broker(&cluster.nodes[node].amqp_url);
        async move { start(&setup).await }
    };
    // A queue is where it was declared.
    let there = on(1).await;
    let mut bob = Client::websocket(there.http_address(), "bob").await;
    assert_eq!(bob.send(QUEUE, &[PERSISTENT], "before").await, "confirmed");
    drop((bob, there));

    let here = on(0).await;
    let mut reader = Client::websocket(here.http_address(), "bob").await;
    reader.subscribe("r", QUEUE, &[]).await;
    assert_eq!(reader.message().await.text(), "before");
    let mut sender = Client::websocket(here.http_address(), "alice").await;
    sender.subscribe("errors", "/user/queue/errors", &[]).await;
    assert_eq!(sender.send("/queue/away.here", &[PERSISTENT], "x").await, "confirmed");

    let killed = cluster.clone();
    blocking(move || killed.nodes[1].kill()).await;
    let mut told = Vec::new();
    while told.last().is_none_or(|text| text != "Broker not available") {
        let receipt = sender.send_later(QUEUE, &[PERSISTENT], "meanwhile").await;
        let error = sender.message().await;
        let seen = (error.header("x-error"), error.header("receipt-id"));
        assert_eq!(seen, ("outage", &*receipt), "{error:?}");
        told.push(error.header("message").to_owned());
    }
    assert_eq!(sender.send("/queue/away.here", &[PERSISTENT], "y").await, "confirmed");

    let killed = cluster.clone();
    blocking(move || killed.nodes[1].start().unwrap()).await;
    let began = Instant::now();
    let mut receipts = Vec::new();
    while receipts.is_empty() {
        sender.send_later(QUEUE, &[PERSISTENT], "after").await;
        let mut frames = Vec::new();
        until("it is answered", || {
            (receipts, frames) = (sender.take_receipts(), sender.take_frames());
            !receipts.is_empty() || !frames.is_empty()
        })
        .await;
        assert!(frames.iter().all(|frame| frame.header("x-error") == "outage"), "{frames:?}");
    }
    let recovered = began.elapsed();
    while reader.message().await.text() != "after" {}
    assert!(!reader.is_closed() && !sender.is_closed());
    Report {
        fault: "kill -9 of the node that has a classic queue; started again".into(),
        detected: None,
        recovered: Some(recovered),
        outcome: None,
        note: "senders to it are told of an outage, others go on; its consumer comes back".into(),
    }
}
