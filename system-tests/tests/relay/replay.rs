//! Stored messages first, then live ones, while somebody keeps sending.

use std::collections::VecDeque;

use system_tests::stomp_client::{Client, Frame};

use crate::support::{Keeper, assert_distinct_x_ids, bodies, numbered};

const MESSAGES: usize = 5_000;
/// RECEIPTs not read yet, at most, until bob comes.
const WINDOW: usize = 100;
const LAST: &str = "last";

/// Sends all messages to bob, and one after them; bob comes in the midst of it. What he gets.
/// From then on the sender waits for `window` RECEIPTs, which says who is faster.
async fn came_in_the_midst(
    keeper: &Keeper,
    config: &str,
    before: usize,
    window: usize,
) -> Vec<Frame> {
    let relay = keeper.setup().config(config).start();
    let address = relay.http_address();
    let (reached, wait) = tokio::sync::oneshot::channel();
    let sender = tokio::spawn(async move {
        let mut reached = Some(reached);
        let mut alice = Client::websocket(address, "alice").await;
        let mut open = VecDeque::new();
        for (number, body) in numbered("m", MESSAGES).iter().enumerate() {
            open.push_back(alice.send_later("/user/bob/queue/x", &[], body).await);
            while open.len() >= if number < before { WINDOW } else { window } {
                alice.receipt(&open.pop_front().unwrap()).await;
            }
            if number == before {
                reached.take().unwrap().send(()).unwrap();
            }
        }
        for receipt in open {
            alice.receipt(&receipt).await;
        }
        assert_eq!((alice.attempted(), alice.receipted()), (MESSAGES as u64, MESSAGES as u64));
        alice.send("/user/bob/queue/x", &[], LAST).await;
    });
    wait.await.unwrap();
    let mut bob = Client::websocket(address, "bob").await;
    let receipt = bob.subscribe_later("x", "/user/queue/x", &[("x-unread", "replay")]).await;
    let mut got = Vec::new();
    loop {
        let message = bob.message().await;
        if message.text() == LAST {
            break;
        }
        got.push(message);
    }
    sender.await.unwrap();
    bob.receipt(&receipt).await;
    let stored = got.iter().filter(|frame| frame.get("x-unread-left").is_some()).count();
    println!("attempted {MESSAGES}, delivered {}, of them replayed {stored}", got.len());
    assert!(stored > 0 && stored < MESSAGES, "bob did not come in the midst of it: {stored}");
    got
}

async fn no_gap_and_none_twice(keeper: Keeper) {
    let got = came_in_the_midst(&keeper, "limits.unread_messages = 10000", 1_000, 4).await;
    assert_eq!(bodies(&got), numbered("m", MESSAGES));
    assert_distinct_x_ids(&got);
}

/// The cap of 1,000 makes messages go; how many, the headers say.
async fn what_is_missing_is_said(keeper: Keeper) {
    let got = came_in_the_midst(&keeper, "", 2_500, WINDOW).await;
    assert_distinct_x_ids(&got);
    let numbers: Vec<usize> =
        got.iter().map(|frame| frame.text()["m-".len()..].parse().unwrap()).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next), "out of order");
    let truncated: usize = got
        .iter()
        .filter_map(|frame| frame.get("x-unread-truncated"))
        .map(|number| number.parse::<usize>().unwrap())
        .sum();
    println!("missing {}, x-unread-truncated {truncated}", MESSAGES - got.len());
    assert!(truncated > 0);
    assert_eq!(MESSAGES - got.len(), truncated);
}

#[tokio::test]
async fn whole_sqlite() {
    no_gap_and_none_twice(Keeper::Sqlite).await;
}

#[tokio::test]
async fn whole_redis() {
    no_gap_and_none_twice(Keeper::redis()).await;
}

#[tokio::test]
async fn capped_sqlite() {
    what_is_missing_is_said(Keeper::Sqlite).await;
}

#[tokio::test]
async fn capped_redis() {
    what_is_missing_is_said(Keeper::redis()).await;
}
