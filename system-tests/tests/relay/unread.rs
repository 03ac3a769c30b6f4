//! Two tabs of one user: live messages, unread counts, and marking as read in one tab, or over
//! HTTP, seen in both.

use serde_json::{Value, json};
use system_tests::stomp_client::Client;

use crate::support::{Keeper, pull_unread};

/// The next notice on `/user/queue/unread`.
async fn notice(tab: &Client) -> Value {
    let message = tab.message().await;
    assert_eq!(message.header("destination"), "/user/queue/unread", "{message:?}");
    assert_eq!(message.header("content-type"), "application/json");
    serde_json::from_str(message.text()).unwrap()
}

async fn tabs_agree(keeper: Keeper) {
    let relay = keeper.setup().start();
    let mut tabs = Vec::new();
    for _ in 0..2 {
        let mut tab = Client::websocket(relay.http_address(), "bob").await;
        tab.subscribe("unread", "/user/queue/unread", &[]).await;
        tab.subscribe("x", "/user/queue/x", &[]).await;
        tabs.push(tab);
    }
    let mut alice = Client::websocket(relay.http_address(), "alice").await;

    // Live, to both, the same message; nothing is kept.
    assert_eq!(alice.send("/user/bob/queue/x", &[], "live").await, "pushed");
    let (one, other) = (tabs[0].message().await, tabs[1].message().await);
    assert_eq!((one.text(), other.text()), ("live", "live"));
    assert_eq!(one.header("x-id"), other.header("x-id"));
    assert_eq!(one.get("unread-id"), None);
    assert_eq!(relay.unread("bob"), Vec::<Value>::new());

    // Kept and pushed: the push has the id it is kept under.
    let mut ids = Vec::new();
    let mut x_ids = Vec::new();
    for number in 1..=5_u64 {
        let body = format!("kept {number}");
        let level = alice.send("/user/bob/queue/x", &[("persistent", "true")], &body).await;
        assert_eq!(level, "stored");
        let mut of_tabs = Vec::new();
        for tab in &tabs {
            let message = tab.message().await;
            assert_eq!(message.text(), body);
            assert_eq!(message.header("destination"), "/user/queue/x");
            let id = message.header("unread-id").to_owned();
            assert_eq!(notice(tab).await, json!({ "unread": number, "added": [id] }));
            of_tabs.push((id, message.header("x-id").to_owned()));
        }
        assert_eq!(of_tabs[0], of_tabs[1]);
        let (id, x_id) = of_tabs.swap_remove(0);
        ids.push(id);
        x_ids.push(x_id);
    }
    let kept = relay.unread("bob");
    let of = |name: &str| kept.iter().map(|m| m[name].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(of("id"), ids);
    assert_eq!(of("xId"), x_ids);
    assert_eq!(of("destination"), ["/user/queue/x"; 5]);
    assert_eq!(of("body"), ["kept 1", "kept 2", "kept 3", "kept 4", "kept 5"]);
    assert_eq!(of("bodyEncoding"), ["utf8"; 5]);

    // Read in one tab, told to both.
    let request = json!({ "ids": [ids[1], "999999"] });
    tabs[0].send("/app/unread/read", &[], &request.to_string()).await;
    for tab in &tabs {
        assert_eq!(notice(tab).await, json!({ "unread": 4, "read": request }));
    }
    let request = json!({ "upTo": ids[2], "destination": "/user/queue/x" });
    let answer = relay.api("POST", "/api/unread/read", "bob", Some(&request.to_string()));
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"unread":2}"#));
    for tab in &tabs {
        assert_eq!(notice(tab).await, json!({ "unread": 2, "read": request }));
    }

    // Pages over HTTP; `after` is exclusive.
    let page = |query: &str| -> (Vec<String>, u64) {
        let answer = relay.api("GET", &format!("/api/unread?{query}"), "bob", None);
        assert_eq!(answer.status, 200, "{}", answer.body);
        let page: Value = serde_json::from_str(&answer.body).unwrap();
        let messages = page["messages"].as_array().unwrap();
        let ids = messages.iter().map(|m| m["id"].as_str().unwrap().to_owned()).collect();
        (ids, page["left"].as_u64().unwrap())
    };
    assert_eq!(page("limit=1"), (vec![ids[3].clone()], 1));
    assert_eq!(page(&format!("after={}", ids[3])), (vec![ids[4].clone()], 0));
    assert_eq!(page("limit=0"), (Vec::new(), 2));

    // Each user has his own: alice's call reads nothing of bob's.
    let answer = relay.api("POST", "/api/unread/read", "alice", Some(r#"{"all":true}"#));
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"unread":0}"#));
    assert_eq!(relay.unread("alice"), Vec::<Value>::new());
    let bad = relay.api("GET", "/api/unread", "mallory", None);
    assert_eq!(bad.status, 401, "{}", bad.body);

    let (pulled, end) = pull_unread(&mut tabs[1]).await;
    let pulled: Vec<&str> = pulled.iter().map(|frame| frame.header("unread-id")).collect();
    assert_eq!(pulled, ids[3..]);
    assert_eq!(end.header("x-unread-left"), "0");
    tabs[1].send("/app/unread/read", &[], r#"{"all":true}"#).await;
    for tab in &tabs {
        assert_eq!(notice(tab).await, json!({ "unread": 0, "read": { "all": true } }));
        assert_eq!(tab.take_frames(), []);
    }
    assert_eq!(relay.unread("bob"), Vec::<Value>::new());
}

#[tokio::test]
async fn two_tabs_sqlite() {
    tabs_agree(Keeper::Sqlite).await;
}

#[tokio::test]
async fn two_tabs_redis() {
    tabs_agree(Keeper::redis()).await;
}
