//! RabbitMQ goes away and comes back while everybody is there.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use system_tests::PATIENCE;
use system_tests::rabbitmq::RabbitMqServer;
use system_tests::relay::Setup;
use system_tests::stomp_client::{Client, Frame, Wire};

use crate::support::{Keeper, assert_distinct_x_ids, blocking, bodies, numbered};

const CLIENTS: usize = 50;
/// RECEIPTs that a sender waits for at a time, at most.
const WINDOW: usize = 20;
const PACE: Duration = Duration::from_millis(50);
const OUTAGE: Duration = Duration::from_secs(10);

/// What one sender did: bodies in order, for queue and user.
#[derive(Debug, Default)]
struct Sent {
    queue: Vec<String>,
    user: Vec<String>,
}

#[derive(Debug, Default)]
struct Progress {
    receipted: Vec<AtomicUsize>,
    is_over: AtomicBool,
}

impl Progress {
    /// Waits until every sender has so many RECEIPTs more.
    async fn more(&self, count: usize) {
        let wanted: Vec<usize> =
            self.receipted.iter().map(|done| done.load(Ordering::SeqCst) + count).collect();
        let wait = async {
            while !self
                .receipted
                .iter()
                .zip(&wanted)
                .all(|(done, wanted)| done.load(Ordering::SeqCst) >= *wanted)
            {
                tokio::time::sleep(PACE).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("senders do not get on");
    }
}

/// Sends to queue and user in turn until told to stop, then waits for all RECEIPTs.
async fn sender(mut client: Client, number: usize, progress: Arc<Progress>) -> (Client, Sent) {
    let mut sent = Sent::default();
    let mut open = std::collections::VecDeque::new();
    let mut count = 0;
    while !progress.is_over.load(Ordering::SeqCst) || count % 2 == 1 {
        let body = format!("{number} {}", count / 2);
        let destination = if count % 2 == 0 { "/queue/out" } else { "/user/bob/queue/out" };
        open.push_back(client.send_later(destination, &[("persistent", "true")], &body).await);
        if count % 2 == 0 {
            sent.queue.push(body)
        } else {
            sent.user.push(body)
        };
        count += 1;
        if open.len() >= WINDOW {
            client.receipt(&open.pop_front().unwrap()).await;
        }
        progress.receipted[number]
            .store(usize::try_from(client.receipted()).unwrap(), Ordering::SeqCst);
        tokio::time::sleep(PACE).await;
    }
    for receipt in open {
        client.receipt(&receipt).await;
    }
    (client, sent)
}

/// Reads until each of `wanted` was there.
async fn collect(client: &Client, wanted: &HashSet<&str>) -> Vec<Frame> {
    let mut missing = wanted.clone();
    let mut got = Vec::new();
    while !missing.is_empty() {
        let message = client.message().await;
        missing.remove(message.text());
        got.push(message);
    }
    got
}

/// First occurrences are in each sender's order; others have the same x-id and say redelivered.
/// Returns how many others there are.
fn judge(got: &[Frame], sent: &[Vec<String>]) -> usize {
    let mut x_ids = HashMap::new();
    let mut next = vec![0; sent.len()];
    let mut duplicates = 0;
    for frame in got {
        let body = frame.text();
        match x_ids.get(body) {
            None => {
                let sender: usize = body.split(' ').next().unwrap().parse().unwrap();
                assert_eq!(Some(body), sent[sender].get(next[sender]).map(String::as_str));
                next[sender] += 1;
                x_ids.insert(body.to_owned(), frame.header("x-id").to_owned());
            }
            Some(x_id) => {
                assert_eq!(frame.header("x-id"), x_id, "{frame:?}");
                assert_eq!(frame.get("redelivered"), Some("true"), "{frame:?}");
                duplicates += 1;
            }
        }
    }
    assert_eq!(next, sent.iter().map(Vec::len).collect::<Vec<_>>());
    duplicates
}

/// How RabbitMQ goes.
#[derive(Clone, Copy, Debug)]
enum End {
    /// As an operator stops it.
    Stopped,
    /// As with kill -9: what is under way is lost, connections just end.
    Killed,
}

async fn restart(rabbit: &Arc<RabbitMqServer>, end: End, outage: Duration) {
    let server = rabbit.clone();
    blocking(move || match end {
        End::Stopped => server.stop(),
        End::Killed => server.kill(),
    })
    .await;
    tokio::time::sleep(outage).await;
    let server = rabbit.clone();
    blocking(move || server.start().unwrap()).await;
}

#[tokio::test]
async fn nothing_is_lost_when_rabbitmq_is_stopped_for_10_s() {
    nothing_is_lost(Keeper::redis(), End::Stopped).await;
}

#[tokio::test]
async fn nothing_is_lost_when_rabbitmq_is_killed_for_10_s() {
    nothing_is_lost(Keeper::Sqlite, End::Killed).await;
}

async fn nothing_is_lost(keeper: Keeper, end: End) {
    let rabbit = Arc::new(blocking(|| RabbitMqServer::new().unwrap()).await);
    let relay = keeper
        .setup()
        .broker(&rabbit.amqp_url)
        // RabbitMQ needs some time to stop and to start too.
        .config("relay.outage.time = \"3m\"\nlimits.unread_messages = 1000000")
        .start();
    let mut bob = Client::websocket(relay.http_address(), "bob").await;
    bob.subscribe("user", "/user/queue/out", &[]).await;
    let mut carol = Client::websocket(relay.http_address(), "carol").await;
    carol.subscribe("queue", "/queue/out", &[]).await;

    let receipted = (0..CLIENTS).map(|_| AtomicUsize::new(0)).collect();
    let progress = Arc::new(Progress { receipted, is_over: AtomicBool::new(false) });
    let mut senders = Vec::new();
    for number in 0..CLIENTS {
        let (wire, address) = if number % 2 == 0 {
            (Wire::WebSocket, relay.http_address())
        } else {
            (Wire::Tcp, relay.tcp_address())
        };
        let client = Client::connect(wire, address, "alice").await;
        senders.push(tokio::spawn(sender(client, number, progress.clone())));
    }
    progress.more(2 * WINDOW).await;
    restart(&rabbit, end, OUTAGE).await;
    progress.more(2 * WINDOW).await;
    progress.is_over.store(true, Ordering::SeqCst);
    let mut clients = Vec::new();
    let (mut queue, mut user) = (Vec::new(), Vec::new());
    for sender in senders {
        let (client, sent) = sender.await.unwrap();
        clients.push(client);
        queue.push(sent.queue);
        user.push(sent.user);
    }

    let flat = |sent: &[Vec<String>]| sent.iter().flatten().cloned().collect::<Vec<_>>();
    let (all_queue, all_user) = (flat(&queue), flat(&user));
    let got_user = collect(&bob, &all_user.iter().map(String::as_str).collect()).await;
    let got_queue = collect(&carol, &all_queue.iter().map(String::as_str).collect()).await;
    let attempted: u64 = clients.iter().map(Client::attempted).sum();
    let receipted: u64 = clients.iter().map(Client::receipted).sum();
    let duplicates = judge(&got_queue, &queue);
    assert_eq!(judge(&got_user, &user), 0);
    assert_distinct_x_ids(&got_user);
    println!(
        "{end:?}: attempted {attempted}, receipted {receipted}, delivered {} + {}, redelivered {duplicates}",
        got_user.len(),
        got_queue.len()
    );
    assert_eq!(attempted, receipted);
    assert_eq!(attempted, (all_queue.len() + all_user.len()) as u64);
    assert!(clients.iter().chain([&bob, &carol]).all(|client| !client.is_closed()));
}

#[tokio::test]
async fn subscriptions_work_again_after_a_restart_of_rabbitmq() {
    let rabbit = Arc::new(blocking(|| RabbitMqServer::new().unwrap()).await);
    let relay = Setup::new().broker(&rabbit.amqp_url).config("relay.outage.time = \"3m\"").start();
    let mut bob = Client::websocket(relay.http_address(), "bob").await;
    bob.subscribe("topic", "/topic/again", &[]).await;
    let mut carol = Client::connect(Wire::Tcp, relay.tcp_address(), "carol").await;
    carol.subscribe("topic", "/topic/*", &[]).await;
    let mut taker = Client::websocket(relay.http_address(), "bob").await;
    taker.subscribe("auto", "/queue/again", &[]).await;
    let mut acker = Client::websocket(relay.http_address(), "carol").await;
    acker.subscribe("acked", "/queue/acked", &[("ack", "client-individual")]).await;
    let mut alice = Client::websocket(relay.http_address(), "alice").await;

    for (round, end) in
        [("first", None), ("second", Some(End::Stopped)), ("third", Some(End::Killed))]
    {
        if let Some(end) = end {
            restart(&rabbit, end, Duration::ZERO).await;
            // The relay dials by itself; until then topics pass by.
            relay.ready().await;
            until_topics_flow(&mut alice, &[&bob, &carol], round).await;
        }
        let sent = numbered(round, 20);
        for body in &sent {
            assert_eq!(alice.send("/topic/again", &[], body).await, "confirmed");
            for queue in ["/queue/again", "/queue/acked"] {
                let headers = [("persistent", "true")];
                assert_eq!(alice.send(queue, &headers, body).await, "confirmed");
            }
        }
        for client in [&bob, &carol] {
            assert_eq!(bodies(&client.messages(sent.len()).await), sent, "{round}");
        }
        for body in &sent {
            assert_eq!(fresh(&taker, round).await.text(), body);
            let message = fresh(&acker, round).await;
            assert_eq!(message.text(), body);
            let ack = [("id", message.header("ack")), ("receipt", body.as_str())];
            acker.write(&Frame::new("ACK", &ack, b"")).await;
            acker.receipt(body).await;
        }
    }
    assert!([&alice, &bob, &carol, &taker, &acker].iter().all(|client| !client.is_closed()));
}

/// The next message of this round. RabbitMQ may have stopped before it took the last ACKs of the
/// round before; what it sends again for that says so.
async fn fresh(client: &Client, round: &str) -> Frame {
    loop {
        let message = client.message().await;
        if message.text().starts_with(&format!("{round}-")) {
            return message;
        }
        assert_eq!(message.get("redelivered"), Some("true"), "{message:?}");
    }
}

/// Sends probes until one comes through to each, and takes them all out.
async fn until_topics_flow(alice: &mut Client, receivers: &[&Client], round: &str) {
    let before: Vec<u64> = receivers.iter().map(|client| client.delivered()).collect();
    let wait = async {
        for number in 0.. {
            let probe = format!("probe {round} {number}");
            alice.send("/topic/again", &[], &probe).await;
            tokio::time::sleep(PACE).await;
            if receivers.iter().zip(&before).all(|(client, before)| client.delivered() > *before) {
                break;
            }
        }
        alice.send("/topic/again", &[], &format!("flows {round}")).await;
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("no topic flows again");
    for client in receivers {
        while client.message().await.text() != format!("flows {round}") {}
    }
}
