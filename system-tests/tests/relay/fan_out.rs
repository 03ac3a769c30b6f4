//! Many subscribers of one topic: one queue and one binding to RabbitMQ, and few writes.

use std::time::{Duration, Instant};

use system_tests::relay::Setup;
use system_tests::stomp_client::{Client, Wire};

use crate::support::{assert_distinct_x_ids, blocking, bodies, numbered, shared_rabbitmq};

const SUBSCRIBERS: usize = 200;
const MESSAGES: usize = 50;
const NODE: &str = "fan-out";

#[tokio::test]
async fn two_hundred_subscribers_are_one_queue_and_one_binding() {
    let rabbit = shared_rabbitmq().await;
    let relay =
        Setup::new().broker(&rabbit.amqp_url).config(&format!("node.id = \"{NODE}\"")).start();
    let mut subscribers = Vec::new();
    for number in 0..SUBSCRIBERS {
        let (wire, address) = if number % 2 == 0 {
            (Wire::WebSocket, relay.http_address())
        } else {
            (Wire::Tcp, relay.tcp_address())
        };
        let mut client = Client::connect(wire, address, "bob").await;
        client.subscribe("t", "/topic/fan.out", &[]).await;
        subscribers.push(client);
    }

    let list = |args: &'static [&'static str]| {
        let rabbit = rabbit.clone();
        blocking(move || rabbit.ctl(args).unwrap())
    };
    let queues = list(&["list_queues", "name", "--no-table-headers"]).await;
    let queues: Vec<&str> = queues
        .lines()
        .filter(|name| name.strip_prefix("stomp-relay.node.").is_some_and(|n| n.starts_with(NODE)))
        .collect();
    let [queue] = queues[..] else { panic!("{queues:?}") };
    let columns = ["list_bindings", "source_name", "routing_key", "destination_name"];
    let bindings = blocking({
        let rabbit = rabbit.clone();
        move || rabbit.ctl(&columns).unwrap()
    })
    .await;
    let bindings: Vec<&str> =
        bindings.lines().filter(|line| line.split('\t').nth(1) == Some("fan.out")).collect();
    assert_eq!(bindings, [format!("amq.topic\tfan.out\t{queue}")]);

    let mut alice = Client::websocket(relay.http_address(), "alice").await;
    let sent = numbered("m", MESSAGES);
    for body in &sent {
        alice.send_later("/topic/fan.out", &[], body).await;
    }
    for number in 1..=MESSAGES {
        alice.receipt(&format!("r{number}")).await;
    }
    for client in &mut subscribers {
        let got = client.messages(MESSAGES).await;
        assert_eq!(bodies(&got), sent);
        assert_distinct_x_ids(&got);
    }
    // Nothing comes after it: the next one is the next one.
    alice.send("/topic/fan.out", &[], "last").await;
    for client in &subscribers {
        assert_eq!(client.message().await.text(), "last");
        assert_eq!(client.delivered(), MESSAGES as u64 + 1);
    }
}

/// A message waits on WebSocket for others to go out with, and on TCP for nobody.
#[tokio::test]
async fn a_write_delay_is_waited_for() {
    const DELAY: Duration = Duration::from_millis(100);
    let relay = Setup::new().config("websocket.write_delay = \"100ms\"").start();
    let mut bob = Client::websocket(relay.http_address(), "bob").await;
    bob.subscribe("1", "/topic/slow", &[]).await;
    let mut alice = Client::websocket(relay.http_address(), "alice").await;
    for round in ["first", "second", "third"] {
        let sent = numbered(round, 20);
        let began = Instant::now();
        let mut receipts = Vec::new();
        for body in &sent {
            receipts.push(alice.send_later("/topic/slow", &[], body).await);
        }
        assert_eq!(bodies(&bob.messages(sent.len()).await), sent);
        assert!(began.elapsed() >= DELAY, "{round}: {:?}", began.elapsed());
        for receipt in receipts {
            alice.receipt(&receipt).await;
        }
    }
}
