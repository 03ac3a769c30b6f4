//! Clients that go away and come back at once. What a server on several threads sees first is
//! the one or the other.

use std::thread;

use crate::client::{Said, Via, fresh};
use crate::http::{Http, post};
use crate::relay::Relay;

const ROUNDS: usize = 400;
const THREADS: usize = 4;

/// A session is opened, its receiver breaks off, and another one asks at once. The new one opens
/// a session or goes on with the old one; it is never told that somebody else receives.
fn abort_and_reconnect(relay: &Relay, via: Via) {
    let session = fresh("/ws");
    let mut first = Http::to(relay.http);
    first.ask(&via.request(&session));
    if via.is_polling() {
        assert_eq!(via.unwrap(&first.whole(false).body), "o", "{via:?}");
        first.ask(&via.request(&session));
    } else {
        assert_eq!(first.head().status, 200);
        assert!(via.is_prelude(&first.chunk().unwrap()));
        assert_eq!(via.unwrap(&first.chunk().unwrap()), "o", "{via:?}");
    }
    drop(first);
    let mut second = Http::to(relay.http);
    second.ask(&via.request(&session));
    // Where the second poll was seen before the first one, the session lives and has nothing to
    // say: then it is made to speak.
    let path = if via == Via::Jsonp { "jsonp_send" } else { "xhr_send" };
    if via.is_polling() {
        let connect = serde_json::to_string(&["CONNECT\naccept-version:1.2\n\n\0"]).unwrap();
        let sent = relay.ask(&post(&format!("{session}/{path}"), connect));
        assert!(matches!(sent.status(), 200 | 204 | 404), "{via:?}: {sent:?}");
    }
    let frame = if via.is_polling() {
        let answer = second.whole(false);
        assert_eq!(answer.status(), 200, "{via:?}");
        via.unwrap(&answer.body)
    } else {
        let head = second.head();
        assert_eq!(head.status, 200, "{via:?}");
        // Who is told of another one gets that in one piece.
        let coding = head.header("transfer-encoding");
        assert_eq!(coding, Some("chunked"), "{via:?}: somebody else receives");
        assert!(via.is_prelude(&second.chunk().unwrap()));
        via.unwrap(&second.chunk().unwrap())
    };
    match Said::read(&frame) {
        Said::Open | Said::Messages(_) => {}
        // The ERROR went to the first one, which the server had not seen go.
        Said::Close(1008, reason) => assert_eq!(reason, "Bad CONNECT"),
        Said::Close(1002, reason) => assert_eq!(reason, "Connection interrupted"),
        other => panic!("{via:?}: {other:?}"),
    }
}

fn races(via: Via) {
    let relay = Relay::stomp("disconnect_delay = \"200ms\"", "");
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| (0..ROUNDS / THREADS).for_each(|_| abort_and_reconnect(&relay, via)));
        }
    });
    relay.has_sessions(0);
    relay.is_well();
}

/// Two requests that both open a session of the same name: one does, the other is told so.
#[test]
fn two_who_come_first() {
    let relay = Relay::stomp("disconnect_delay = \"200ms\"", "[limits]\nconnect_time = \"100ms\"");
    for round in 0..30 {
        let via = Via::HTTP[round % Via::HTTP.len()];
        let session = fresh("/ws");
        let mut both = [relay.connect(), relay.connect()];
        both.iter_mut().for_each(|http| http.ask(&via.request(&session)));
        let heard = both.map(|mut http| {
            let head = http.head();
            assert_eq!(head.status, 200);
            if head.header("content-length").is_some() {
                let length = head.header("content-length").unwrap().parse().unwrap();
                return via.unwrap_last(&http.exactly(length));
            }
            assert!(via.is_prelude(&http.chunk().unwrap()));
            via.unwrap(&http.chunk().unwrap())
        });
        let is_open = |frame: &String| frame == "o";
        assert!(heard.iter().any(is_open), "{via:?}: {heard:?}");
        // A poll that has its answer makes room: the other one waits until the session ends.
        let other = heard.iter().find(|frame| !is_open(frame));
        assert!(other.is_none_or(|frame| frame.starts_with("c[")), "{via:?}: {heard:?}");
    }
    relay.has_sessions(0);
}

#[test]
fn xhr() {
    races(Via::Xhr);
}

#[test]
fn xhr_streaming() {
    races(Via::XhrStreaming);
}

#[test]
fn eventsource() {
    races(Via::EventSource);
}

#[test]
fn htmlfile() {
    races(Via::HtmlFile);
}

#[test]
fn jsonp() {
    races(Via::Jsonp);
}
