//! Clients that are there and do not read, and clients that are not there any more.

use std::time::Duration;

use system_tests::relay::Setup;
use system_tests::stomp_client::{Client, Wire};

use crate::support::{Keeper, assert_distinct_x_ids, bodies, pull_unread, shared_rabbitmq};

/// Between two messages to somebody who may be dead.
const PACE: Duration = Duration::from_millis(100);

/// Sends until the relay has noticed, then asks what is unread.
async fn what_a_dead_peer_was_sent_is_unread(keeper: Keeper, wire: Wire, vanish: bool) {
    let relay = keeper.setup().start();
    let address = match wire {
        Wire::WebSocket => relay.http_address(),
        Wire::Tcp => relay.tcp_address(),
    };
    let mut bob = Client::connect(wire, address, "bob").await;
    bob.subscribe("x", "/user/queue/x", &[]).await;
    let mut alice = Client::websocket(relay.http_address(), "alice").await;
    // He is there, and proves to have got this one.
    assert_eq!(alice.send("/user/bob/queue/x", &[], "first").await, "pushed");
    assert_eq!(bob.message().await.text(), "first");
    // The PONG after it is on its way once a later RECEIPT was read.
    bob.subscribe("later", "/topic/later", &[]).await;

    if vanish {
        bob.vanish().await
    } else {
        bob.freeze().await
    };
    let mut sent = Vec::new();
    let mut levels = (0, 0);
    loop {
        let body = format!("m-{}", sent.len());
        let persistent = sent.len() % 10 == 9;
        let headers: &[(&str, &str)] = if persistent { &[("persistent", "true")] } else { &[] };
        let level = alice.send("/user/bob/queue/x", headers, &body).await;
        sent.push(body);
        match level.as_str() {
            "pushed" => levels.0 += 1,
            "stored" => levels.1 += 1,
            other => panic!("{other}"),
        }
        // Not persistent and yet stored: he is known to be gone.
        if level == "stored" && !persistent {
            break;
        }
        tokio::time::sleep(PACE).await;
    }
    println!("{wire:?}, vanished {vanish}: pushed {}, stored {}", levels.0, levels.1);
    assert!(levels.0 > 10, "{levels:?}");

    let mut again = Client::websocket(relay.http_address(), "bob").await;
    let (unread, end) = pull_unread(&mut again).await;
    assert_distinct_x_ids(&unread);
    let mut got = bodies(&unread);
    // Those that were persistent were stored at once, the others when he was found to be gone.
    got.sort_by_key(|body| body[2..].parse::<usize>().unwrap());
    assert_eq!(got, sent);
    assert_eq!((end.get("x-unread-left"), end.get("x-unread-truncated")), (Some("0"), None));
}

#[tokio::test]
async fn websocket_that_is_not_read_sqlite() {
    what_a_dead_peer_was_sent_is_unread(Keeper::Sqlite, Wire::WebSocket, false).await;
}

#[tokio::test]
async fn websocket_that_is_not_read_redis() {
    what_a_dead_peer_was_sent_is_unread(Keeper::redis(), Wire::WebSocket, false).await;
}

#[tokio::test]
async fn websocket_whose_machine_vanished() {
    what_a_dead_peer_was_sent_is_unread(Keeper::Sqlite, Wire::WebSocket, true).await;
}

#[tokio::test]
async fn tcp_whose_machine_vanished_sqlite() {
    what_a_dead_peer_was_sent_is_unread(Keeper::Sqlite, Wire::Tcp, true).await;
}

#[tokio::test]
async fn tcp_whose_machine_vanished_redis() {
    what_a_dead_peer_was_sent_is_unread(Keeper::redis(), Wire::Tcp, true).await;
}

/// More than kernel buffers and the session's limit hold together.
const FLOOD: usize = 300;
const FLOOD_BYTES: usize = 100_000;

async fn a_slow_reader_is_closed_and_nobody_else_waits(setup: Setup) {
    let relay = setup.config("limits.outbound_stall = \"5m\"").start();
    let slow = {
        let mut slow = Client::websocket(relay.http_address(), "carol").await;
        slow.subscribe("t", "/topic/flood", &[]).await;
        slow.freeze().await;
        slow
    };
    let mut others = Vec::new();
    for (wire, address) in [
        (Wire::WebSocket, relay.http_address()),
        (Wire::WebSocket, relay.http_address()),
        (Wire::Tcp, relay.tcp_address()),
    ] {
        let mut client = Client::connect(wire, address, "bob").await;
        client.subscribe("t", "/topic/flood", &[]).await;
        others.push(client);
    }
    let mut alice = Client::websocket(relay.http_address(), "alice").await;
    let filler = "x".repeat(FLOOD_BYTES);
    for number in 0..FLOOD {
        let body = format!("{number} {filler}");
        alice.send("/topic/flood", &[], &body).await;
        // The others are as fast as the sender, which is the point of them.
        for other in &others {
            assert!(other.message().await.text() == body, "message {number} is another");
        }
        if relay.metric("stomp_relay_slow_readers_total") > 0.5 {
            println!("closed after {number} messages of {FLOOD_BYTES} bytes");
            break;
        }
        assert!(number + 1 < FLOOD, "the slow reader is still there");
    }
    // One more for all that are left.
    alice.send("/topic/flood", &[], "end").await;
    for other in &others {
        assert_eq!(other.message().await.text(), "end");
    }
    slow.thaw();
    let (code, reason) = slow.closed().await;
    assert_eq!((code, reason.as_str()), (4500, "slow reader"));
    // What it got is the beginning, without a gap.
    let got = slow.take_frames();
    println!("the slow reader got {} of {}", got.len(), others[0].delivered());
    assert!((got.len() as u64) < others[0].delivered());
    for (number, frame) in got.iter().enumerate() {
        assert!(frame.text().starts_with(&format!("{number} ")), "message {number} is another");
    }
}

#[tokio::test]
async fn slow_reader_embedded() {
    a_slow_reader_is_closed_and_nobody_else_waits(Setup::new()).await;
}

#[tokio::test]
async fn slow_reader_rabbitmq() {
    let rabbit = shared_rabbitmq().await;
    let setup = Setup::new().broker(&rabbit.amqp_url);
    a_slow_reader_is_closed_and_nobody_else_waits(setup).await;
}
