//! Limits: what is too much, too many, too slow, and what that is answered with.

use std::time::Duration;

use crate::client::{Client, Said, Via, fresh, login};
use crate::http::{Http, get, post};
use crate::relay::{Relay, wait_for};
use crate::ws::WsSaid;

const DELAY: &str = "disconnect_delay = \"200ms\"";
/// For sessions that live on from one request to the next.
const LONG: &str = "disconnect_delay = \"5s\"";

#[test]
fn s43_bodies_that_are_too_big() {
    let relay = Relay::stomp(LONG, "[limits]\nsockjs_body_bytes = \"2KiB\"");
    let mut client = Client::open(&relay, "/ws", Via::Xhr);
    client.connect();
    let path = format!("{}/xhr_send", client.session);
    let body = |length: usize| format!("[\"{}\"]", "\\n".repeat((length - 4) / 2));
    assert_eq!(client.post(&body(2048)).status(), 204);
    assert_eq!(client.post(&body(2050)).status(), 413);
    // By its length alone, without waiting for it.
    let mut http = relay.connect();
    let answer = http.answer(&post(&path, "[").with("Content-Length", "1000000000000"));
    assert_eq!((answer.status(), answer.header("connection")), (413, Some("close")));
    assert_eq!(http.rest(), b"");
    // In chunks, without a length.
    let mut http = relay.connect();
    http.ask(&post(&path, "").with("Transfer-Encoding", "chunked"));
    for _ in 0..5 {
        http.bytes(format!("200\r\n{}\r\n", " ".repeat(0x200)).as_bytes());
    }
    assert_eq!(http.whole(false).status(), 413);
    // A form may be three times as long, since each byte may be written with three.
    {
        let mut jsonp = Client::open(&relay, "/ws", Via::Jsonp);
        jsonp.connect();
        let form = format!("d={}", "%5B%22".to_owned() + &"%0A".repeat(2040) + "%22%5D");
        let path = format!("{}/jsonp_send", jsonp.session);
        let kind = "application/x-www-form-urlencoded";
        // A bare line end is no JSON, so it was read.
        assert_eq!(relay.ask(&post(&path, form).with("Content-Type", kind)).status(), 500);
        let form = format!("d={}", "%5B".repeat(2049));
        assert_eq!(relay.ask(&post(&path, form).with("Content-Type", kind)).status(), 413);
        jsonp.bye();
    }
    client.bye();
    relay.is_well();
}

#[test]
fn s41_messages_in_one_body() {
    let relay = Relay::stomp(LONG, "[limits]\nsockjs_messages = 3");
    for via in Via::HTTP {
        let mut client = Client::open(&relay, "/ws", via);
        client.connect();
        assert!(matches!(client.post(r#"["\n","\n","\n"]"#).status(), 200 | 204));
        let answer = client.post(r#"["\n","\n","\n","\n"]"#);
        assert_eq!(answer.status(), 413, "{via:?}");
        client.bye();
    }
    let mut client = Client::open(&relay, "/ws", Via::WebSocket);
    client.connect();
    client.send(&["\n"; 3]);
    client.send(&["\n"; 4]);
    assert!(matches!(client.ws().next(), WsSaid::Close(1009, _)));
    relay.is_well();
}

/// S43, S56: a body that does not come, or comes byte by byte.
#[test]
fn s56_slow_bodies() {
    let relay = Relay::stomp(LONG, "[limits]\nhttp_body_time = \"200ms\"");
    for via in [Via::Xhr, Via::Jsonp] {
        let mut client = Client::open(&relay, "/ws", via);
        let path = if via == Via::Xhr { "xhr_send" } else { "jsonp_send" };
        let request = post(&format!("{}/{path}", client.session), "[");
        let mut http = relay.connect();
        let answer = http.answer(&request.clone().with("Content-Length", "100"));
        assert_eq!((answer.status(), answer.header("connection")), (408, Some("close")));
        assert_eq!(http.rest(), b"");
        let mut http = relay.connect();
        http.ask(&request.with("Content-Length", "16000"));
        while !http.speaks() {
            http.bytes(b" ");
        }
        assert_eq!(http.whole(false).status(), 408);
        client.connect();
        client.bye();
    }
    relay.is_well();
}

/// S56: the same with the head. There is no answer to a request that nobody knows.
#[test]
fn s56_slow_heads() {
    let relay = Relay::stomp(DELAY, "[limits]\nhttp_head_time = \"200ms\"");
    for is_first in [true, false] {
        let mut http = relay.connect();
        if !is_first {
            assert_eq!(http.answer(&get("/ws/info")).status(), 200);
        }
        http.bytes(b"POST /ws/000/a/xhr HTTP/1.1\r\nHost: a\r\n");
        let answer = http.rest();
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408 "), "{answer:?}");
    }
    // Nothing at all from who has just come.
    assert_eq!(relay.connect().rest(), b"");
    relay.is_well();
}

/// S53: sessions beyond what there may be get 503 on every transport, and nothing is kept of
/// them; a WebSocket of an address or a user that has too many gets 429.
#[test]
fn s53_too_many_sessions() {
    let cases = [("sessions_per_address", 429), ("sessions_per_user", 429), ("sessions", 503)];
    for (limit, upgrade) in cases {
        let relay = Relay::stomp(DELAY, &format!("[limits]\n{limit} = 3"));
        let open = || Client::with(&relay, "/ws", Via::XhrStreaming, vec![login("alice")]);
        let clients = [open(), open(), open()];
        let mut http = relay.connect();
        for _ in 0..20 {
            for via in Via::HTTP {
                let request = via.request(&fresh("/ws")).with_all(&[login("alice")]);
                let answer = http.answer(&request);
                assert_eq!(answer.status(), 503, "{limit} {via:?}");
                assert_eq!(answer.header("retry-after"), Some("10"));
            }
        }
        let request = Via::WebSocket.request(&fresh("/ws")).with_all(&[login("alice")]);
        assert_eq!(relay.ask(&request).status(), upgrade, "{limit}");
        assert_eq!(relay.sessions(), 3);
        drop(clients);
        relay.has_sessions(0);
        relay.is_well();
    }
}

/// S53: sessions that nobody asks for again are gone after their delay.
#[test]
fn s53_sessions_of_nobody_go() {
    let relay = Relay::stomp(DELAY, "");
    let mut http = relay.connect();
    for _ in 0..1000 {
        assert_eq!(http.answer(&Via::Xhr.request(&fresh("/ws"))).text(), "o\n");
    }
    relay.has_sessions(0);
    relay.is_well();
}

/// S55: what is pushed for a client that does not ask is bounded; the client is told when it
/// asks after all.
#[test]
fn s55_a_client_that_does_not_ask() {
    let endpoint = "disconnect_delay = \"1m\"\nhttp_message_cache_size = 3";
    let relay = Relay::stomp(endpoint, "[limits]\noutbound_frames = 16");
    let mut sender = Client::open(&relay, "/ws", Via::WebSocket);
    sender.connect();
    // A response under way takes what comes, so only who polls can be away.
    for via in [Via::Xhr, Via::Jsonp] {
        let mut client = Client::open(&relay, "/ws", via);
        client.connect();
        client.subscribe("0", "/topic/a");
        let before = relay.metric("stomp_relay_slow_readers_total");
        for n in 0..40 {
            sender.publish("/topic/a", &n.to_string());
        }
        wait_for(|| {
            let now = relay.metric("stomp_relay_slow_readers_total");
            if now == before + 1 { Ok(()) } else { Err(format!("{now} slow readers")) }
        });
        // At most what was encoded ahead, and what was taken from the mailbox at a time.
        let mut messages = Vec::new();
        let closed = loop {
            match client.next() {
                Said::Messages(more) => messages.extend(more),
                other => break other,
            }
        };
        assert!(messages.len() <= 3 + 16, "{via:?}: {messages:?}");
        assert_eq!(closed, Said::Close(4500, "slow reader".into()), "{via:?}");
    }
    drop(sender);
}

/// J13: a streaming client that never reads. It is told why as soon as it does.
#[test]
fn j13_a_client_that_does_not_read() {
    let endpoint = "disconnect_delay = \"200ms\"\nstream_bytes_limit = \"1GiB\"";
    let relay = Relay::stomp(endpoint, "[limits]\noutbound_stall = \"300ms\"");
    let mut sender = Client::open(&relay, "/ws", Via::WebSocket);
    sender.connect();
    for via in [Via::XhrStreaming, Via::EventSource, Via::HtmlFile] {
        let before = relay.metric("stomp_relay_slow_readers_total");
        let session = fresh("/ws");
        let mut http = Http::narrow(relay.http);
        http.ask(&via.request(&session));
        assert_eq!(http.head().status, 200);
        assert!(via.is_prelude(&http.chunk().unwrap()));
        assert_eq!(via.unwrap(&http.chunk().unwrap()), "o");
        let frames = [
            "CONNECT\naccept-version:1.2\nlogin:guest\npasscode:guest\n\n\0",
            "SUBSCRIBE\nid:0\ndestination:/topic/a\n\n\0",
        ];
        for frame in frames {
            let send = serde_json::to_string(&[frame]).unwrap();
            let sent = relay.ask(&post(&format!("{session}/xhr_send"), send));
            assert_eq!(sent.status(), 204);
        }
        let text = "x".repeat(200_000);
        wait_for(|| {
            sender.publish("/topic/a", &text);
            let now = relay.metric("stomp_relay_slow_readers_total");
            if now == before + 1 { Ok(()) } else { Err(format!("{now} slow readers")) }
        });
        relay.has_sessions(1);
        let closed = loop {
            match Said::read(&via.unwrap(&http.chunk().unwrap())) {
                Said::Messages(_) => {}
                other => break other,
            }
        };
        assert_eq!(closed, Said::Close(4500, "slow reader".into()), "{via:?}");
        assert_eq!(http.chunk(), None);
    }
    drop(sender);
    relay.is_well();
}

/// S61: who does not say who it is has a session for a while only.
#[test]
fn s61_no_connect() {
    let relay = Relay::stomp(DELAY, "[limits]\nconnect_time = \"200ms\"");
    for via in Via::ALL {
        let mut client = Client::open(&relay, "/ws", via);
        assert_eq!(client.closed().0, 1008, "{via:?}");
    }
    relay.has_sessions(0);
}

/// S61: floods on a framed WebSocket.
#[test]
fn s61_floods() {
    let relay = Relay::stomp(DELAY, "");
    let mut client = Client::open(&relay, "/ws", Via::WebSocket);
    client.connect();
    for n in 0..2000_u32 {
        client.ws().frame(crate::ws::PING, &n.to_be_bytes());
    }
    for n in 0..2000_u32 {
        assert_eq!(client.ws().next(), WsSaid::Pong(n.to_be_bytes().to_vec()));
    }
    client.bye();
    // A message in more pieces than there may be.
    let mut client = Client::open(&relay, "/ws", Via::WebSocket);
    client.connect();
    client.ws().frame(0x01, b"[");
    for _ in 0..1030 {
        client.ws().frame(0x00, b" ");
    }
    let WsSaid::Close(code, _) = client.ws().next() else { panic!() };
    assert!(matches!(code, 1008 | 1009), "{code}");
    drop(client);
    relay.is_well();
}

/// A session that ends for want of a receiver does so soon after its delay.
#[test]
fn sessions_end_after_their_delay() {
    let relay = Relay::stomp("disconnect_delay = \"300ms\"", "");
    let start = std::time::Instant::now();
    let clients: Vec<_> = [Via::Xhr, Via::Jsonp].map(|via| Client::open(&relay, "/ws", via)).into();
    relay.has_sessions(0);
    let time = start.elapsed();
    assert!(time >= Duration::from_millis(300), "{time:?}");
    drop(clients);
}
