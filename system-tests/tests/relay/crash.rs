//! kill -9 of the relay between "stored" and "read", and after "read".

use serde_json::json;
use system_tests::stomp_client::Client;

use crate::support::{Keeper, assert_distinct_x_ids, bodies, numbered, pull_unread};

const MESSAGES: usize = 20;
const READ: usize = 8;

async fn stored_is_stored_and_read_is_read(mut keeper: Keeper) {
    let mut relay = keeper.setup().start();
    let mut alice = Client::websocket(relay.http_address(), "alice").await;
    let sent = numbered("m", MESSAGES);
    for body in &sent {
        let level = alice.send("/user/bob/queue/x", &[("persistent", "true")], body).await;
        assert_eq!(level, "stored");
    }
    assert_eq!(alice.receipted(), alice.attempted());
    relay.kill();
    keeper.crash();
    relay.restart();

    // Unread, and all of it, once.
    let mut bob = Client::websocket(relay.http_address(), "bob").await;
    bob.subscribe("x", "/user/queue/x", &[("x-unread", "replay")]).await;
    let got = bob.take_frames();
    assert_eq!(bodies(&got), sent);
    assert_distinct_x_ids(&got);
    for (message, left) in got.iter().zip((0..MESSAGES).rev()) {
        assert_eq!(message.header("x-unread-left"), left.to_string(), "{message:?}");
    }
    let (pulled, end) = pull_unread(&mut bob).await;
    assert_eq!(bodies(&pulled), sent);
    assert_eq!(end.header("x-unread-left"), "0");

    let ids: Vec<&str> = got.iter().take(READ).map(|frame| frame.header("unread-id")).collect();
    bob.send("/app/unread/read", &[], &json!({ "ids": ids }).to_string()).await;
    relay.kill();
    keeper.crash();
    relay.restart();

    // What was read stays read, what was not stays unread.
    let mut bob = Client::websocket(relay.http_address(), "bob").await;
    bob.subscribe("x", "/user/queue/x", &[("x-unread", "replay")]).await;
    let rest = bob.take_frames();
    assert_eq!(bodies(&rest), sent[READ..]);
    let x_ids = |frames: &[system_tests::stomp_client::Frame]| {
        frames.iter().map(|frame| frame.header("x-id").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(x_ids(&rest), x_ids(&got)[READ..]);
    bob.send("/app/unread/read", &[], r#"{"all":true}"#).await;
    relay.kill();
    keeper.crash();
    relay.restart();

    let mut bob = Client::websocket(relay.http_address(), "bob").await;
    bob.subscribe("x", "/user/queue/x", &[("x-unread", "replay")]).await;
    assert_eq!(bob.take_frames(), []);
    assert_eq!(pull_unread(&mut bob).await.0, []);
}

#[tokio::test]
async fn sqlite() {
    stored_is_stored_and_read_is_read(Keeper::Sqlite).await;
}

#[tokio::test]
async fn redis() {
    stored_is_stored_and_read_is_read(Keeper::redis()).await;
}
