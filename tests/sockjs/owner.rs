//! A session belongs to who opened it: whoever knows its name and is somebody else is told that
//! there is none.

use crate::client::{Client, Via, login};
use crate::http::{Request, post};
use crate::relay::Relay;

/// How somebody else asks for the session.
fn requests(client: &Client) -> [Request; 2] {
    let path = if client.via == Via::Jsonp { "jsonp_send" } else { "xhr_send" };
    let send = post(&format!("{}/{path}", client.session), "[\"SEND\\n\\n\\u0000\"]");
    [client.via.request(&client.session), send]
}

/// `other` gets nowhere; the session goes on.
fn is_safe_from(relay: &Relay, client: &mut Client, others: &[Vec<(String, String)>], wanted: u16) {
    for other in others {
        for request in requests(client) {
            let answer = relay.ask(&request.with_all(other));
            assert_eq!(answer.status(), wanted, "{:?} {other:?}", client.via);
        }
    }
    client.send(&["SEND\ndestination:/topic/a\nreceipt:alive\n\nx\0"]);
    assert!(client.frame().starts_with("RECEIPT\nreceipt-id:alive\n"));
}

fn forwarded(address: &str) -> (String, String) {
    ("X-Forwarded-For".into(), address.into())
}

/// J01, J02: another user and nobody, while the session waits and while it does not.
#[test]
fn j01_j02_sessions_of_users() {
    let rest = "[limits]\nauth_failures = \"off\"";
    let relay = Relay::stomp("", rest);
    for via in Via::HTTP {
        let mut client = Client::with(&relay, "/ws", via, vec![login("alice")]);
        client.connect();
        let others = [vec![login("bob")], vec![]];
        is_safe_from(&relay, &mut client, &others, 404);
        // Wrong credentials are told as such.
        let wrong = ("Authorization".into(), "Basic YWxpY2U6d3Jvbmc=".into());
        is_safe_from(&relay, &mut client, &[vec![wrong]], 401);
        // J02: the user's own second receiver, and then the others again.
        assert_eq!(client.ask_twice(), "c[2010,\"Another connection still open\"]");
        is_safe_from(&relay, &mut client, &others, 404);
        client.bye();
    }
    relay.is_well();
}

/// J01: a session of nobody belongs to the client's address, behind a proxy too, and not to
/// its port.
#[test]
fn j01_sessions_of_nobody() {
    let relay = Relay::stomp("", "trusted_proxies = [\"127.0.0.1\"]");
    for via in Via::HTTP {
        let mut client = Client::with(&relay, "/ws", via, vec![forwarded("192.0.2.1")]);
        client.connect();
        let others = [
            vec![forwarded("192.0.2.2")],
            vec![],
            vec![forwarded("192.0.2.1, 192.0.2.2")],
            vec![forwarded("192.0.2.2"), login("alice")],
        ];
        is_safe_from(&relay, &mut client, &others, 404);
        client.bye();
    }
    relay.has_sessions(0);
    // Who is no proxy is not believed.
    let relay = Relay::stomp("", "");
    let mut client = Client::with(&relay, "/ws", Via::Xhr, vec![forwarded("192.0.2.1")]);
    client.connect();
    let send = post(&format!("{}/xhr_send", client.session), "[]");
    assert_eq!(relay.ask(&send.with_all(&[forwarded("192.0.2.2")])).status(), 204);
}

/// Who logs in by CONNECT sends its other requests without credentials, as it did before.
#[test]
fn a_login_by_connect_changes_nothing() {
    let relay = Relay::stomp("", "");
    let mut client = Client::open(&relay, "/ws", Via::Xhr);
    client.send(&["CONNECT\naccept-version:1.2\nlogin:alice\npasscode:alice\n\n\0"]);
    assert!(client.frame().contains("\nuser-name:alice\n"));
    client.subscribe("0", "/user/queue/a");
    client.send(&["SEND\ndestination:/user/alice/queue/a\n\nx\0"]);
    assert!(client.frame().ends_with("\n\nx"));
}

/// A transport does not take over a session of another one.
#[test]
fn a_session_keeps_its_transport() {
    let relay = Relay::stomp("", "");
    for via in Via::HTTP {
        let mut client = Client::open(&relay, "/ws", via);
        for other in Via::HTTP.into_iter().filter(|other| *other != via) {
            let answer = relay.ask(&other.request(&client.session));
            assert_eq!(answer.status(), 404, "{via:?} {other:?}");
        }
        let wrong = if via == Via::Jsonp { "xhr_send" } else { "jsonp_send" };
        let answer = relay.ask(&post(&format!("{}/{wrong}", client.session), "[]"));
        assert_eq!(answer.status(), 404, "{via:?}");
        client.connect();
        client.bye();
    }
    relay.is_well();
}

/// An endpoint that wants a login before a session exists opens none for nobody.
#[test]
fn a_login_at_the_door() {
    let relay = Relay::stomp("auth = \"handshake\"", "");
    for via in Via::ALL {
        let request = via.request(&crate::client::fresh("/ws"));
        let answer = relay.ask(&request);
        assert_eq!(answer.status(), 401, "{via:?}");
        assert!(answer.header("www-authenticate").is_some());
        let mut client = Client::with(&relay, "/ws", via, vec![login("alice")]);
        client.connect();
        client.bye();
    }
    relay.has_sessions(0);
}
