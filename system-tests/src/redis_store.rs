//! The Redis store on a real redis-server: the suite of all stores, and what Redis can suffer.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use stomp_relay::destination::{Destination, UserDestination};
use stomp_relay::message::Message;
use stomp_relay::persistence::{Keep, NOTICES, Op, Outcome, Store, StoreError, Which};
use stomp_relay::stomp::Headers;
use ulid::Ulid;

use crate::redis::RedisServer;
use crate::store_suite::{Ground, WIDE, append, page, say, store_suite};

store_suite!({
    // These checks end no server, and a disk that is busy otherwise must not fail them.
    let server = RedisServer::start(&["--appendonly", "no"]);
    Ground { url: server.url(), durable: true, _guard: Box::new(server) }
});

const DEADLINE: Duration = Duration::from_secs(20);

fn message(x_id: u128, body: usize) -> Op {
    append(raw_message(x_id, body), Keep::IfAbsent)
}

fn raw_message(x_id: u128, body: usize) -> Message {
    let destination =
        Destination::User(UserDestination { user: "a".into(), target: "queue/x".into() });
    let shown = destination.to_string();
    let mut message =
        Message::new(destination, shown, Headers::default(), Bytes::from(vec![b'x'; body]));
    message.x_id = Some(Ulid::from_bytes(x_id.to_be_bytes()));
    message
}

fn register(session: u64) -> Op {
    Op::Register { user: "a".into(), target: "queue/x".into(), session }
}

fn unregister(session: u64) -> Op {
    Op::Unregister { user: "a".into(), target: "queue/x".into(), session }
}

fn is_present(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Appended { present: true, .. })
}

/// Tries until the store takes it, as a relay does.
async fn insist(store: &Store, ops: Vec<Op>) -> Vec<Outcome> {
    let end = Instant::now() + DEADLINE;
    loop {
        match store.apply(ops.clone()).await {
            Ok(outcomes) => return outcomes,
            Err(StoreError::Unavailable(text)) => assert!(Instant::now() < end, "{text}"),
            Err(broken) => panic!("{broken}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn ids(store: &Store) -> Vec<u64> {
    let mut ids = Vec::new();
    loop {
        let after = ids.last().copied().unwrap_or(0);
        let outcomes = insist(store, vec![page("a", None, after, 500)]).await;
        let [Outcome::Page(page)] = &outcomes[..] else { panic!() };
        ids.extend(page.messages.iter().map(|message| message.id));
        if page.left == 0 {
            return ids;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_redis_keeps_what_was_acknowledged() {
    let mut server = RedisServer::start(&[]);
    let store = Store::open(&server.url(), WIDE, "n").await.unwrap();
    let mut x_id = 0;
    for round in 1..=5_u64 {
        insist(&store, vec![register(round)]).await;
        insist(&store, vec![unregister(round)]).await;
        for _ in 0..40 {
            x_id += 1;
            insist(&store, vec![message(x_id, 50)]).await;
        }
        server.kill();
        let away = store.apply(vec![message(x_id + 1, 50)]).await;
        assert!(matches!(away, Err(StoreError::Unavailable(_))), "{away:?}");
        assert!(!store.ready().await);
        server.restart();
        assert_eq!(ids(&store).await, (1..=40 * round).collect::<Vec<_>>());
    }
    assert!(store.ready().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn presence_outlives_a_redis_that_forgets_everything() {
    let mut server = RedisServer::start(&[]);
    let store = Store::open(&server.url(), WIDE, "n").await.unwrap();
    insist(&store, vec![register(1), register(1), register(2)]).await;
    assert_eq!(server.command("FLUSHALL"), "+OK");
    server.kill();
    server.restart();
    assert!(is_present(&insist(&store, vec![message(1, 50)]).await[0]));
    insist(&store, vec![unregister(1), unregister(2)]).await;
    assert!(is_present(&insist(&store, vec![message(2, 50)]).await[0]));
    insist(&store, vec![unregister(1)]).await;
    assert!(!is_present(&insist(&store, vec![message(3, 50)]).await[0]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_redis_forgot_are_loaded_again() {
    let server = RedisServer::start(&["--appendonly", "no"]);
    let store = Store::open(&server.url(), WIDE, "n").await.unwrap();
    assert_eq!(server.command("SCRIPT FLUSH"), "+OK");
    let outcomes = store.apply(vec![message(1, 50), message(2, 50)]).await.unwrap();
    let said: Vec<_> = outcomes.iter().map(say).collect();
    assert_eq!(said, ["1 new absent unread 1 truncated 0", "2 new absent unread 2 truncated 0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_refuses_and_recovers() {
    let server = RedisServer::start(&[]);
    let store = Store::open(&server.url(), WIDE, "n").await.unwrap();
    insist(&store, vec![message(1, 50)]).await;
    insist(&store, vec![register(1)]).await;
    assert_eq!(server.command("CONFIG SET maxmemory 1"), "+OK");
    let refused = store.apply(vec![append(raw_message(2, 50), Keep::Always)]).await;
    assert!(
        matches!(&refused, Err(StoreError::Unavailable(text)) if text.contains("OOM")),
        "{refused:?}"
    );
    // A batch that fails changes no presence, and what needs no memory goes on.
    let ops = vec![unregister(1), append(raw_message(2, 50), Keep::Always)];
    store.apply(ops).await.unwrap_err();
    let read = Op::MarkRead { user: "a".into(), which: Which::Ids(vec![1]) };
    insist(&store, vec![read]).await;
    assert_eq!(server.command("CONFIG SET maxmemory 0"), "+OK");
    assert!(is_present(&insist(&store, vec![message(3, 50)]).await[0]));
    let outcomes = insist(&store, vec![append(raw_message(2, 50), Keep::Always)]).await;
    assert_eq!(say(&outcomes[0]), "2 new present unread 1 truncated 0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_redis_is_given_up_after_2_s_and_its_late_work_does_no_harm() {
    let server = RedisServer::start(&[]);
    let store = Store::open(&server.url(), WIDE, "n").await.unwrap();
    insist(&store, vec![register(1)]).await;
    server.signal("-STOP");
    let begun = Instant::now();
    let of_b = || Op::Register { user: "b".into(), target: "queue/x".into(), session: 2 };
    let ops = vec![unregister(1), of_b(), message(1, 50)];
    let refused = store.apply(ops).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    server.signal("-CONT");
    // The refused batch left no trace: session 1 is there, session 2 is not, though Redis does
    // all of it once it goes on.
    let to_b = |x_id| {
        let mut message = raw_message(x_id, 50);
        message.destination =
            Destination::User(UserDestination { user: "b".into(), target: "queue/x".into() });
        append(message, Keep::IfAbsent)
    };
    assert!(!is_present(&insist(&store, vec![to_b(1)]).await[0]));
    assert!(is_present(&insist(&store, vec![message(2, 50)]).await[0]));
    insist(&store, vec![unregister(1)]).await;
    assert!(!is_present(&insist(&store, vec![message(3, 50)]).await[0]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_see_each_other_until_one_dies() {
    let server = RedisServer::start(&[]);
    let first = Store::open(&server.url(), WIDE, "n1").await.unwrap();
    // Younger than the list of the living that `first` has.
    let second = Store::open(&server.url(), WIDE, "n2").await.unwrap();
    insist(&second, vec![register(1)]).await;
    assert!(is_present(&insist(&first, vec![message(1, 50)]).await[0]));
    insist(&first, vec![register(1)]).await;
    insist(&second, vec![unregister(1)]).await;
    assert!(is_present(&insist(&second, vec![message(2, 50)]).await[0]));
    insist(&second, vec![register(1)]).await;
    insist(&first, vec![unregister(1)]).await;
    // A node that ends gives its lease up; the others learn of it within 5 s.
    second.close().await;
    let end = Instant::now() + DEADLINE;
    for x_id in 10.. {
        if !is_present(&insist(&first, vec![message(x_id, 50)]).await[0]) {
            break;
        }
        assert!(Instant::now() < end, "the dead node still counts");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// To which nodes something goes: messages, and notices.
fn to(outcome: &Outcome) -> (Vec<&str>, Vec<&str>) {
    fn names(nodes: &[Arc<str>]) -> Vec<&str> {
        nodes.iter().map(|node| &**node).collect()
    }
    match outcome {
        Outcome::Appended { nodes, hearers, .. } => (names(nodes), names(hearers)),
        Outcome::Read { hearers, .. } => (Vec::new(), names(hearers)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_names_the_other_nodes() {
    let server = RedisServer::start(&["--appendonly", "no"]);
    let mut stores = Vec::new();
    for node in ["n-1", "n-2", "n_3"] {
        stores.push(Store::open(&server.url(), WIDE, node).await.unwrap());
    }
    let hears = |session| Op::Register { user: "a".into(), target: NOTICES.into(), session };
    insist(&stores[0], vec![register(1), hears(1)]).await;
    insist(&stores[1], vec![register(1), register(2)]).await;
    insist(&stores[2], vec![hears(1)]).await;
    let always = |x_id| append(raw_message(x_id, 50), Keep::Always);
    let read = || Op::MarkRead { user: "a".into(), which: Which::All };
    let expected: [(&[&str], &[&str]); 3] =
        [(&["n-2"], &["n_3"]), (&["n-1"], &["n-1", "n_3"]), (&["n-1", "n-2"], &["n-1"])];
    for (at, (nodes, hearers)) in expected.into_iter().enumerate() {
        let x_id = 10 * at as u128;
        let ops = vec![message(x_id, 50), always(x_id + 1), always(x_id + 1), read()];
        let outcomes = insist(&stores[at], ops).await;
        // Pushed only, kept, kept before, read.
        let seen: Vec<_> = outcomes.iter().map(to).collect();
        let none: &[&str] = &[];
        let all = [(nodes, none), (nodes, hearers), (nodes, none), (none, hearers)];
        for (seen, expected) in seen.iter().zip(all) {
            assert_eq!((&seen.0[..], &seen.1[..]), expected, "{at}");
        }
    }
    // Of two sessions on a node the last one counts.
    insist(&stores[1], vec![unregister(1)]).await;
    assert_eq!(to(&insist(&stores[0], vec![message(100, 50)]).await[0]).0, ["n-2"]);
    insist(&stores[1], vec![unregister(2)]).await;
    assert_eq!(to(&insist(&stores[0], vec![message(101, 50)]).await[0]).0, [] as [&str; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_says_what_is_wrong() {
    let evicting = RedisServer::start(&["--maxmemory-policy", "allkeys-lru"]);
    let password = RedisServer::start(&[]);
    assert_eq!(password.command("CONFIG SET requirepass s3cret"), "+OK");
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let cases = [
        (evicting.url(), "noeviction"),
        (format!("redis://:wr0ng@127.0.0.1:{}/", password.port()), "authentication failed"),
        (format!("redis://:wr0ng@{closed}/"), "refused"),
        ("redis://".into(), "store.url is no Redis URL"),
    ];
    for (url, expected) in cases {
        let error = Store::open(&url, WIDE, "n").await.unwrap_err().to_string();
        assert!(error.contains(expected), "{url}: {error}");
        assert!(!error.contains("wr0ng") && !error.contains('\n'), "{error}");
    }
    let url = format!("redis://:s3cret@127.0.0.1:{}/", password.port());
    Store::open(&url, WIDE, "n").await.unwrap().close().await;
}
