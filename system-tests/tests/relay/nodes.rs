//! Two relays on one Redis and one RabbitMQ: users whose sessions are on the other one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use system_tests::PATIENCE;
use system_tests::rabbitmq::RabbitMqServer;
use system_tests::redis::RedisServer;
use system_tests::relay::{Relay, Setup};
use system_tests::stomp_client::{Client, Frame};

use crate::support::{
    Vhost, assert_distinct_x_ids, blocking, bodies, numbered, pull_unread, shared_rabbitmq,
};

const TO_BOB: &str = "/user/bob/queue/x";
const PERSISTENT: &[(&str, &str)] = &[("persistent", "true")];

/// Two nodes. Their names are nobody else's on that RabbitMQ.
struct Pair {
    a: Relay,
    b: Relay,
    _redis: RedisServer,
    /// Shared ones end with their last user.
    _rabbit: Arc<RabbitMqServer>,
}

impl Pair {
    async fn start(rabbit: Arc<RabbitMqServer>, config: &'static str) -> Self {
        let url = rabbit.amqp_url.clone();
        blocking(move || Self::start_now(rabbit, &url, config)).await
    }

    fn start_now(rabbit: Arc<RabbitMqServer>, url: &str, config: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        let redis = RedisServer::start(&[]);
        let start = |name: &str| {
            Setup::new()
                .broker(url)
                .store(&redis.url())
                .config(&format!("node.id = \"{name}{number}\"\n{config}"))
                .start()
        };
        Self { a: start("a"), b: start("b"), _redis: redis, _rabbit: rabbit }
    }
}

async fn tab(relay: &Relay) -> Client {
    let mut tab = Client::websocket(relay.http_address(), "bob").await;
    tab.subscribe("x", "/user/queue/x", &[]).await;
    tab
}

/// The next frame of a tab that is, or is not, a notice.
async fn next(tab: &Client, is_notice: bool) -> Frame {
    let frame = tab.message().await;
    let destination = if is_notice { "/user/queue/unread" } else { "/user/queue/x" };
    assert_eq!(frame.header("destination"), destination, "{frame:?}");
    frame
}

async fn notice(tab: &Client) -> Value {
    serde_json::from_str(next(tab, true).await.text()).unwrap()
}

/// Bodies and x-ids of all that is unread, none twice; and what else came before and meanwhile.
async fn pull_all_unread(client: &mut Client) -> (BTreeMap<String, String>, Vec<Frame>) {
    let mut unread = BTreeMap::new();
    let mut live = Vec::new();
    let mut after = 0;
    loop {
        let headers = [("x-unread-limit", "500"), ("x-unread-after", &*after.to_string())];
        client.subscribe("pull", "/app/unread", &headers).await;
        let mut left = None;
        for frame in client.take_frames() {
            if frame.header("subscription") != "pull" {
                live.push(frame);
                continue;
            }
            if frame.get("x-unread-end").is_some() {
                left = Some(frame.header("x-unread-left").to_owned());
                continue;
            }
            after = frame.header("unread-id").parse().unwrap();
            let body = frame.text().to_owned();
            assert!(unread.insert(body, frame.header("x-id").to_owned()).is_none(), "{frame:?}");
        }
        if left.expect("an end frame") == "0" {
            return (unread, live);
        }
    }
}

#[tokio::test]
async fn every_tab_on_every_node() {
    let pair = Pair::start(shared_rabbitmq().await, "").await;
    let mut tabs = [tab(&pair.a).await, tab(&pair.b).await, tab(&pair.b).await];
    for tab in &mut tabs {
        tab.subscribe("unread", "/user/queue/unread", &[]).await;
    }
    let mut alice = Client::websocket(pair.a.http_address(), "alice").await;

    let headers = [("k:\n\\", "v:\n\\"), ("content-type", "text/plain")];
    assert_eq!(alice.send(TO_BOB, &headers, "live").await, "pushed");
    let mut x_ids = BTreeSet::new();
    for tab in &tabs {
        let got = next(tab, false).await;
        assert_eq!((got.text(), got.header("k:\n\\")), ("live", "v:\n\\"));
        assert_eq!((got.header("content-type"), got.get("unread-id")), ("text/plain", None));
        x_ids.insert(got.header("x-id").to_owned());
    }
    assert_eq!(x_ids.len(), 1);
    assert_eq!(pair.b.unread("bob"), Vec::<Value>::new());

    // Kept and pushed, under one id everywhere; everybody hears of it.
    let mut ids = Vec::new();
    for number in 1..=3_u64 {
        let body = format!("kept {number}");
        assert_eq!(alice.send(TO_BOB, PERSISTENT, &body).await, "stored");
        let mut of_tabs = BTreeSet::new();
        for tab in &tabs {
            let got = next(tab, false).await;
            assert_eq!(got.text(), body);
            let id = got.header("unread-id").to_owned();
            assert_eq!(notice(tab).await, json!({ "unread": number, "added": [id] }));
            of_tabs.insert(id);
        }
        assert_eq!(of_tabs.len(), 1);
        ids.extend(of_tabs);
    }

    // Read on one node, told on both.
    let request = json!({ "ids": [ids[0]] });
    tabs[0].send("/app/unread/read", &[], &request.to_string()).await;
    for tab in &tabs {
        assert_eq!(notice(tab).await, json!({ "unread": 2, "read": request }));
    }
    let request = json!({ "upTo": ids[1] });
    let answer = pair.b.api("POST", "/api/unread/read", "bob", Some(&request.to_string()));
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"unread":1}"#));
    for tab in &tabs {
        assert_eq!(notice(tab).await, json!({ "unread": 1, "read": request }));
    }

    // Nobody is there on one's own node: then the others have it, or it is kept.
    tabs[0].unsubscribe("x").await;
    let sent = numbered("m", 500);
    for body in &sent {
        alice.send_later(TO_BOB, &[], body).await;
    }
    for tab in &tabs[1..] {
        assert_eq!(bodies(&tab.messages(sent.len()).await), sent);
    }
    tabs[1].unsubscribe("x").await;
    assert_eq!(alice.send(TO_BOB, &[], "one is left").await, "pushed");
    assert_eq!(next(&tabs[2], false).await.text(), "one is left");
    tabs[2].unsubscribe("x").await;
    // Redis may not know yet; then the other node keeps it.
    let level = alice.send(TO_BOB, &[], "none is left").await;
    assert!(matches!(level.as_str(), "stored" | "pushed"), "{level}");
    for tab in &tabs {
        assert_eq!(notice(tab).await["unread"], 2);
        assert_eq!(tab.take_frames(), []);
    }
    // Each of the nodes has one binding and one queue, whoever is there.
    let count = |of: &Relay, name| of.metric(&format!("stomp_relay_rabbitmq_node_{name}_total"));
    assert!(count(&pair.a, "pushes") >= 500.0 && count(&pair.b, "pushes_received") >= 500.0);
}

#[tokio::test]
async fn a_node_that_is_killed_takes_nothing_persistent_along() {
    let mut pair = Pair::start(shared_rabbitmq().await, "").await;
    let bob = tab(&pair.b).await;
    let mut alice = Client::websocket(pair.a.http_address(), "alice").await;
    let mut open = VecDeque::new();
    let mut levels = BTreeMap::new();
    let mut after_kill = Vec::new();
    for number in 0..600 {
        let (kind, headers) =
            if number % 2 == 0 { ("kept", PERSISTENT) } else { ("live", &[][..]) };
        let body = format!("{kind} {number}");
        let receipt = alice.send_later(TO_BOB, headers, &body).await;
        open.push_back((receipt, body.clone()));
        if number == 300 {
            pair.b.kill();
        } else if number > 300 {
            after_kill.push(body);
        }
        while open.len() > if number == 599 { 0 } else { 20 } {
            let (receipt, body) = open.pop_front().unwrap();
            let receipt = alice.receipt(&receipt).await;
            levels.insert(body, receipt.header("x-receipt-level").to_owned());
        }
    }
    let got: BTreeSet<String> = bob.take_frames().iter().map(|f| f.text().to_owned()).collect();
    let mut again = Client::websocket(pair.a.http_address(), "bob").await;
    let (unread, _) = pull_all_unread(&mut again).await;
    let mut pushed = 0;
    for (body, level) in &levels {
        let is_kept = unread.contains_key(body);
        match level.as_str() {
            "stored" => assert!(is_kept, "{body} was stored and is not there"),
            // The other node had it, and what it had in its hands is gone with it.
            "pushed" => pushed += 1,
            other => panic!("{other}"),
        }
        assert!(!body.starts_with("kept") || is_kept, "{body}");
    }
    println!("delivered {} before the kill, pushed {pushed}, unread {}", got.len(), unread.len());
    assert!(pushed > 0 && pushed < 200, "{pushed}");
    // What was sent long after it died is there, whatever it was.
    assert!(after_kill[100..].iter().all(|body| unread.contains_key(body)));
}

/// Sends messages to bob, four RECEIPTs open; says at `at` that it got there, and waits for `rest`
/// before the last tenth.
async fn stream(
    relay: std::net::SocketAddr,
    headers: &'static [(&'static str, &'static str)],
    sent: Vec<String>,
    at: usize,
    reached: tokio::sync::oneshot::Sender<()>,
    rest: tokio::sync::oneshot::Receiver<()>,
) {
    let (mut reached, mut rest) = (Some(reached), Some(rest));
    let mut alice = Client::websocket(relay, "alice").await;
    let mut open = VecDeque::new();
    for (number, body) in sent.iter().enumerate() {
        if number == sent.len() / 10 * 9 {
            rest.take().unwrap().await.unwrap();
        }
        open.push_back(alice.send_later(TO_BOB, headers, body).await);
        if open.len() >= 4 {
            alice.receipt(&open.pop_front().unwrap()).await;
        }
        if number == at {
            reached.take().unwrap().send(()).unwrap();
        }
    }
    for receipt in open {
        alice.receipt(&receipt).await;
    }
}

/// For a stream that waits for nothing.
fn at_once() -> tokio::sync::oneshot::Receiver<()> {
    let (go, wait) = tokio::sync::oneshot::channel();
    go.send(()).unwrap();
    wait
}

fn x_ids(frames: &[Frame]) -> BTreeMap<String, String> {
    let of = |frame: &Frame| (frame.text().to_owned(), frame.header("x-id").to_owned());
    frames.iter().map(of).collect()
}

fn numbers(frames: &[Frame]) -> Vec<usize> {
    frames.iter().map(|frame| frame.text()["m-".len()..].parse().unwrap()).collect()
}

const STREAM: usize = 1_000;

#[tokio::test]
async fn a_user_who_moves_gets_everything_persistent_in_order() {
    let pair = Pair::start(shared_rabbitmq().await, "limits.unread_messages = 10000").await;
    let before = tab(&pair.b).await;
    let sent = numbered("m", STREAM);
    let (reached, wait) = tokio::sync::oneshot::channel();
    let address = pair.a.http_address();
    let (go, rest) = tokio::sync::oneshot::channel();
    let sender = stream(address, PERSISTENT, sent.clone(), STREAM / 3, reached, rest);
    let sender = tokio::spawn(sender);
    wait.await.unwrap();
    let got_there = before.take_frames();
    drop(before);
    let mut after = Client::websocket(pair.a.http_address(), "bob").await;
    let replay = [("x-unread", "replay")];
    let receipt = after.subscribe_later("x", "/user/queue/x", &replay).await;
    // All that was stored is read then, and what comes later is live.
    after.receipt(&receipt).await;
    go.send(()).unwrap();
    let got_here = after.messages(STREAM).await;
    sender.await.unwrap();
    let live = got_here.iter().filter(|frame| frame.get("x-unread-left").is_none()).count();
    println!("{} there, {} here, of them {live} live", got_there.len(), got_here.len());
    assert!(!got_there.is_empty() && live > 0 && live < STREAM);
    assert_eq!(bodies(&got_here), sent);
    assert_distinct_x_ids(&got_here);
    assert_eq!(numbers(&got_there), Vec::from_iter(0..got_there.len()));
    let all = x_ids(&got_here);
    for (body, x_id) in x_ids(&got_there) {
        assert_eq!(all[&body], x_id, "{body}");
    }
}

/// What is stored nowhere is live here or there, or kept.
#[tokio::test]
async fn a_user_who_moves_loses_nothing_transient() {
    let pair = Pair::start(shared_rabbitmq().await, "limits.unread_messages = 10000").await;
    let mut before = tab(&pair.b).await;
    let sent = numbered("m", STREAM);
    let (reached, wait) = tokio::sync::oneshot::channel();
    let address = pair.a.http_address();
    let sender = tokio::spawn(stream(address, &[], sent.clone(), STREAM / 3, reached, at_once()));
    wait.await.unwrap();
    let mut after = Client::websocket(pair.a.http_address(), "bob").await;
    // Both at once, then only the new one.
    after.subscribe("x", "/user/queue/x", &[]).await;
    before.write(&Frame::new("DISCONNECT", &[("receipt", "bye")], b"")).await;
    before.receipt("bye").await;
    let got_there = before.take_frames();
    sender.await.unwrap();
    let mut alice = Client::websocket(pair.a.http_address(), "alice").await;
    alice.send(TO_BOB, &[], "end").await;
    let mut got_here = Vec::new();
    loop {
        let message = after.message().await;
        if message.text() == "end" {
            break;
        }
        got_here.push(message);
    }
    for got in [&got_there, &got_here] {
        assert!(numbers(got).is_sorted_by(|one, next| one < next), "out of order");
        assert_distinct_x_ids(got);
    }
    let mut known = x_ids(&got_there);
    let mut add = |frames: &[Frame]| {
        for (body, x_id) in x_ids(frames) {
            assert_eq!(known.entry(body).or_insert_with(|| x_id.clone()), &x_id);
        }
        known.len()
    };
    add(&got_here);
    // What the other session did not prove is kept once its end is known.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (kept, _) = pull_unread(&mut after).await;
        if add(&kept) == STREAM {
            println!("{} there, {} here, {} kept", got_there.len(), got_here.len(), kept.len());
            break;
        }
        assert!(Instant::now() < deadline, "messages are missing");
    }
    assert!(!got_there.is_empty() && !got_here.is_empty());
}

#[tokio::test]
async fn a_node_that_is_stopped_loses_nothing() {
    let mut pair = Pair::start(shared_rabbitmq().await, "limits.unread_messages = 10000").await;
    let bob = tab(&pair.b).await;
    let sent = numbered("m", STREAM);
    let (reached, wait) = tokio::sync::oneshot::channel();
    let address = pair.a.http_address();
    let sender = tokio::spawn(stream(address, &[], sent.clone(), STREAM / 3, reached, at_once()));
    wait.await.unwrap();
    pair.b.signal("-TERM");
    assert!(pair.b.ended(PATIENCE).await.success());
    assert_eq!(bob.closed().await.0, 1012);
    sender.await.unwrap();
    let mut known = x_ids(&bob.take_frames());
    let there = known.len();
    let mut again = Client::websocket(pair.a.http_address(), "bob").await;
    again.subscribe("x", "/user/queue/x", &[("x-unread", "replay")]).await;
    let kept = again.take_frames();
    for (body, x_id) in x_ids(&kept) {
        assert_eq!(known.entry(body).or_insert_with(|| x_id.clone()), &x_id);
    }
    println!("{there} there, {} kept", kept.len());
    assert_eq!(known.len(), STREAM);
    assert!(there > 0 && !kept.is_empty());
}

#[tokio::test]
async fn rabbitmq_between_two_nodes_goes_and_comes_back() {
    let rabbit = Arc::new(blocking(|| RabbitMqServer::new().unwrap()).await);
    let pair = Pair::start(rabbit.clone(), "relay.outage.time = \"2s\"").await;
    let bob = tab(&pair.b).await;
    let mut alice = Client::websocket(pair.a.http_address(), "alice").await;
    assert_eq!(alice.send(TO_BOB, &[], "before").await, "pushed");
    assert_eq!(bob.message().await.text(), "before");
    let server = rabbit.clone();
    blocking(move || server.kill()).await;

    let began = Instant::now();
    let transient = alice.send_later(TO_BOB, &[], "live").await;
    assert_eq!(alice.send(TO_BOB, PERSISTENT, "kept").await, "stored");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    // It has waited as long as a SEND may, and then it is kept.
    assert_eq!(alice.receipt(&transient).await.header("x-receipt-level"), "stored");
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    let kept: Vec<Value> = pair.b.unread("bob").iter().map(|m| m["body"].clone()).collect();
    assert_eq!(kept, ["kept", "live"]);

    let server = rabbit.clone();
    blocking(move || server.start().unwrap()).await;
    pair.a.ready().await;
    pair.b.ready().await;
    // Live again by itself; what was tried before that is kept.
    let deadline = Instant::now() + PATIENCE;
    for number in 0.. {
        let body = format!("again {number}");
        if alice.send(TO_BOB, &[], &body).await == "pushed" {
            while bob.message().await.text() != body {}
            break;
        }
        assert!(Instant::now() < deadline, "the nodes do not find each other again");
    }
    assert!(!bob.is_closed() && !alice.is_closed());
}

/// RabbitMQ's confirm says only that it has a message; the queue of the other node goes with its
/// connection.
#[tokio::test]
async fn connections_that_break_lose_nothing() {
    let rabbit = shared_rabbitmq().await;
    let vhost = Vhost::new(&rabbit, "broken").await;
    let url = vhost.url();
    let server = rabbit.clone();
    let config = "relay.outage.time = \"3m\"\nlimits.unread_messages = 100000";
    let pair = blocking(move || Pair::start_now(server, &url, config)).await;
    let mut bob = tab(&pair.b).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let stop = is_over.clone();
    let address = pair.a.http_address();
    let sender = tokio::spawn(async move {
        let mut alice = Client::websocket(address, "alice").await;
        let mut open = VecDeque::new();
        let mut count = 0;
        while !stop.load(Ordering::SeqCst) {
            open.push_back(alice.send_later(TO_BOB, &[], &format!("m-{count}")).await);
            count += 1;
            tokio::time::sleep(Duration::from_millis(1)).await;
            // Something is under way when they break.
            if open.len() >= 50 {
                alice.receipt(&open.pop_front().unwrap()).await;
            }
        }
        for receipt in open {
            alice.receipt(&receipt).await;
        }
        count
    });
    for _ in 0..3 {
        let before = bob.delivered();
        let deadline = Instant::now() + PATIENCE;
        while bob.delivered() < before + 100 {
            assert!(Instant::now() < deadline, "nothing comes through");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        vhost.close_connections().await;
    }
    pair.a.ready().await;
    pair.b.ready().await;
    is_over.store(true, Ordering::SeqCst);
    let count = sender.await.unwrap();
    // What went again may still be under way; each RECEIPT says that it is here or kept.
    let (kept, live) = pull_all_unread(&mut bob).await;
    let mut known = x_ids(&live);
    let live = known.len();
    for (body, x_id) in &kept {
        assert_eq!(known.entry(body.clone()).or_insert_with(|| x_id.clone()), x_id);
    }
    println!("{count} sent, {live} live, {} kept", kept.len());
    let missing: Vec<usize> =
        (0..count).filter(|number| !known.contains_key(&format!("m-{number}"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(live > 300 && !bob.is_closed());
    drop(pair);
    vhost.delete().await;
}
