//! SIGTERM and Ctrl-C in the midst of traffic.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use system_tests::relay::Setup;
use system_tests::stomp_client::{Client, Frame, Wire};

use crate::support::{Keeper, assert_distinct_x_ids, shared_rabbitmq};

const SENDERS: usize = 6;
/// Each sender has so many RECEIPTs before the signal comes.
const BEFORE: u64 = 30;
const END_TIME: Duration = Duration::from_secs(30);

/// What a sender sent, and of which it has the RECEIPT.
#[derive(Debug)]
struct Sent {
    attempted: Vec<String>,
    receipted: HashSet<String>,
}

/// Sends without a pause until the connection ends.
async fn sender(mut client: Client, name: String, destination: String, go: Go) -> Sent {
    let mut attempted = Vec::new();
    let mut is_told = false;
    while !client.is_closed() {
        let body = format!("{name} {}", attempted.len());
        client.send_later(&destination, &[("persistent", "true")], &body).await;
        attempted.push(body);
        if !is_told && client.receipted() >= BEFORE {
            is_told = true;
            go.send(()).await.unwrap();
        }
        // Lets the reader read, and the relay keep up.
        while !client.is_closed() && client.attempted() - client.receipted() > BEFORE {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let (code, reason) = client.closed().await;
    assert_eq!((code, reason.as_str()), (1012, "the server restarts"));
    assert_eq!(client.take_frames(), []);
    let receipted = client.take_receipts().into_iter();
    let number = |id: String| id["r".len()..].parse::<usize>().unwrap() - 1;
    let receipted = receipted.map(|id| attempted[number(id)].clone()).collect();
    Sent { attempted, receipted }
}

type Go = tokio::sync::mpsc::Sender<()>;

/// What was sent there arrived in the sender's order, once, and nothing with a RECEIPT is missing.
fn judge(what: &str, sent: &[Sent], got: &[Frame]) {
    assert_distinct_x_ids(got);
    let mut total = (0, 0);
    for Sent { attempted, receipted } in sent {
        let got: Vec<&String> = {
            let got: HashSet<&str> = got.iter().map(Frame::text).collect();
            attempted.iter().filter(|body| got.contains(body.as_str())).collect()
        };
        total.0 += attempted.len();
        total.1 += receipted.len();
        let got_set: HashSet<&String> = got.iter().copied().collect();
        let lost: Vec<&String> = receipted.iter().filter(|body| !got_set.contains(body)).collect();
        assert!(lost.is_empty(), "{what}: lost {lost:?}");
    }
    // In order: each sender's numbers grow.
    for Sent { attempted, .. } in sent {
        let name = attempted[0].split(' ').next().unwrap();
        let numbers: Vec<usize> = got
            .iter()
            .filter_map(|frame| frame.text().strip_prefix(name)?.trim().parse().ok())
            .collect();
        assert!(numbers.is_sorted_by(|one, next| one < next), "{what}: {numbers:?}");
    }
    println!("{what}: attempted {}, receipted {}, there {}", total.0, total.1, got.len());
}

async fn ends_in_order(signal: &str, setup: Setup, queue: &str) {
    let mut relay = setup.config("limits.unread_messages = 1000000").start();
    let (go, mut went) = tokio::sync::mpsc::channel(SENDERS);
    let mut senders = Vec::new();
    for number in 0..SENDERS {
        let client = Client::websocket(relay.http_address(), "alice").await;
        let (name, destination) = if number % 2 == 0 {
            (format!("q{number}"), queue.to_owned())
        } else {
            (format!("u{number}"), "/user/bob/queue/x".to_owned())
        };
        senders.push(tokio::spawn(sender(client, name, destination, go.clone())));
    }
    // Somebody who does nothing is told too.
    let idle = Client::websocket(relay.http_address(), "carol").await;
    for _ in 0..SENDERS {
        went.recv().await.unwrap();
    }
    let begun = Instant::now();
    relay.signal(signal);
    let status = relay.ended(END_TIME).await;
    println!("ended after {:?}", begun.elapsed());
    assert_eq!(status.code(), Some(0), "{status}");
    assert_eq!(idle.closed().await.0, 1012);
    let (mut queued, mut to_user) = (Vec::new(), Vec::new());
    for (number, sender) in senders.into_iter().enumerate() {
        let sent = sender.await.unwrap();
        if number % 2 == 0 { queued.push(sent) } else { to_user.push(sent) }
    }

    relay.restart();
    let mut bob = Client::connect(Wire::Tcp, relay.tcp_address(), "bob").await;
    bob.subscribe("x", "/user/queue/x", &[("x-unread", "replay")]).await;
    judge("user", &to_user, &bob.take_frames());
    // The queue gives them in order; a marker of one's own is the last.
    let mut alice = Client::websocket(relay.http_address(), "alice").await;
    alice.send(queue, &[("persistent", "true")], "end").await;
    bob.subscribe("q", queue, &[]).await;
    let mut got = Vec::new();
    loop {
        let message = bob.message().await;
        if message.text() == "end" {
            break;
        }
        got.push(message);
    }
    judge_queue(&queued, &got);
}

/// The same for a queue. The embedded broker gives no x-id.
fn judge_queue(sent: &[Sent], got: &[Frame]) {
    let mut bodies: Vec<&str> = got.iter().map(Frame::text).collect();
    bodies.sort_unstable();
    bodies.dedup();
    assert_eq!(bodies.len(), got.len(), "something is there twice");
    let with_ids: Vec<Frame> = got
        .iter()
        .cloned()
        .map(|mut frame| {
            if frame.get("x-id").is_none() {
                frame.headers.push(("x-id".into(), frame.text().to_owned()));
            }
            frame
        })
        .collect();
    judge("queue", sent, &with_ids);
}

#[tokio::test]
async fn sigterm_embedded_sqlite() {
    ends_in_order("-TERM", Setup::new(), "/queue/drain").await;
}

#[tokio::test]
async fn ctrl_c_embedded_sqlite() {
    ends_in_order("-INT", Setup::new(), "/queue/drain").await;
}

#[tokio::test]
async fn sigterm_rabbitmq_redis() {
    let (rabbit, keeper) = (shared_rabbitmq().await, Keeper::redis());
    let setup = keeper.setup().broker(&rabbit.amqp_url);
    ends_in_order("-TERM", setup, "/queue/drain.term").await;
}
