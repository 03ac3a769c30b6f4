//! STOMP over SockJS, and what becomes of messages whose receiver has gone.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::client::{Client, Said, Via, body, header, login};
use crate::http::Http;
use crate::relay::{Relay, wait_for};
use crate::ws::{BINARY, Ws, WsSaid};

#[test]
fn every_transport_carries_it() {
    let relay = Relay::stomp("", "");
    for via in Via::ALL {
        let mut client = Client::open(&relay, "/ws", via);
        client.connect();
        client.subscribe("a", "/topic/a");
        client.send(&["SEND\ndestination:/topic/a\nx-own:1\\n2\n\né😀\u{2028}\0"]);
        let message = client.frame();
        assert!(message.starts_with("MESSAGE\nsubscription:a\n"), "{via:?}: {message}");
        assert_eq!(header(&message, "destination"), Some("/topic/a"));
        assert_eq!(header(&message, "x-own"), Some("1\\n2"));
        assert_eq!(body(&message), "é😀\u{2028}", "{via:?}");
        client.send(&["DISCONNECT\nreceipt:bye\n\n\0"]);
        assert_eq!(client.frame(), "RECEIPT\nreceipt-id:bye\n\n");
        assert_eq!(client.next(), Said::Close(1000, "DISCONNECT".into()), "{via:?}");
        if via == Via::WebSocket {
            assert_eq!(client.ws().next(), WsSaid::Close(1000, "DISCONNECT".into()));
        }
    }
    relay.is_well();
}

/// Old clients cut frames every 16 KiB, others put several into one message.
#[test]
fn frames_and_messages_need_not_agree() {
    let relay = Relay::stomp("", "");
    for via in Via::ALL {
        let mut client = Client::open(&relay, "/ws", via);
        client.send(&["CONNECT\naccept-ver", "sion:1.2\nlogin:guest\n"]);
        client.send(&["passcode:guest\n\n\0"]);
        assert!(client.frame().starts_with("CONNECTED\n"), "{via:?}");
        client.send(&[
            "\n",
            "SUBSCRIBE\nid:0\ndestination:/topic/a\n\n\0\n\nSEND\ndestination:/topic/a\n\n1\0SEND\n",
            "destination:/topic/a\n\n2",
            "",
            "\0",
        ]);
        for wanted in ["1", "2"] {
            assert_eq!(body(&client.frame()), wanted, "{via:?}");
        }
        let long = "é".repeat(50_000);
        let frame = format!("SEND\ndestination:/topic/a\n\n{long}\0");
        let chars: Vec<char> = frame.chars().collect();
        for piece in chars.chunks(16 * 1024) {
            client.send(&[piece.iter().collect::<String>()]);
        }
        assert_eq!(body(&client.frame()), long, "{via:?}");
    }
}

/// Many messages, in order, however many responses that takes.
#[test]
fn many_messages_come_in_order() {
    let endpoint = "stream_bytes_limit = \"4KiB\"\nhttp_message_cache_size = 7";
    let relay = Relay::stomp(endpoint, "");
    for via in Via::ALL {
        let mut client = Client::open(&relay, "/ws", via);
        client.connect();
        client.subscribe("0", "/topic/a");
        let frames: Vec<String> =
            (0..300).map(|n| format!("SEND\ndestination:/topic/a\n\n{n}\0")).collect();
        client.send(&frames);
        for n in 0..300 {
            assert_eq!(body(&client.frame()), n.to_string(), "{via:?}");
        }
    }
}

/// S62: what a page sends that passes an ArrayBuffer to `send`. The frame after it is not read,
/// and not glued to it.
#[test]
fn s62_binary_frames_of_pages() {
    let relay = Relay::stomp("", "");
    let mut watcher = Client::open(&relay, "/ws", Via::Xhr);
    watcher.connect();
    watcher.subscribe("0", "/topic/a");
    for via in Via::ALL {
        for text in ["[object ArrayBuffer]", "[object Blob]"] {
            let mut client = Client::open(&relay, "/ws", via);
            client.connect();
            client.send(&[text, "SEND\ndestination:/topic/a\n\nlost\0"]);
            let error = client.frame();
            assert!(error.starts_with("ERROR\n"), "{via:?}: {error}");
            assert_eq!(header(&error, "message"), Some("SockJS carries text only"));
            assert!(body(&error).contains("base64"), "{error}");
            assert_eq!(client.closed().0, 1002, "{via:?}");
        }
    }
    watcher.send(&["SEND\ndestination:/topic/a\n\nseen\0"]);
    assert_eq!(body(&watcher.frame()), "seen");
    drop(watcher);
    relay.has_sessions(1);
}

/// A body that is no text goes as base64, and says so. As text it is what it was.
#[test]
fn bodies_that_are_no_text() {
    let relay = Relay::stomp("", "");
    let mut ws = Ws::open(relay.http, "/ws");
    ws.text("CONNECT\naccept-version:1.2\nlogin:guest\npasscode:guest\n\n\0");
    assert!(matches!(ws.next(), WsSaid::Text(_)));
    let bytes = b"\xff\0\xfe\"\\\n\x80";
    for via in Via::ALL {
        let mut client = Client::open(&relay, "/ws", via);
        client.connect();
        client.subscribe("0", "/topic/a");
        let mut frame = b"SEND\ndestination:/topic/a\ncontent-length:7\n\n".to_vec();
        frame.extend(bytes);
        frame.push(0);
        ws.frame(BINARY, &frame);
        let message = client.frame();
        assert_eq!(header(&message, "x-body-encoding"), Some("base64"), "{via:?}: {message}");
        assert_eq!(STANDARD.decode(body(&message)).unwrap(), bytes, "{via:?}");
        let length = header(&message, "content-length").map(|length| length.parse().unwrap());
        assert!(length.is_none_or(|length: usize| length == body(&message).len()), "{message}");
        ws.text("SEND\ndestination:/topic/a\n\ntext\0");
        let message = client.frame();
        assert_eq!((header(&message, "x-body-encoding"), body(&message)), (None, "text"));
    }
}

/// Broken STOMP: ERROR, and then the close code.
#[test]
fn errors_end_it() {
    let relay = Relay::stomp("", "");
    for via in Via::ALL {
        let mut client = Client::open(&relay, "/ws", via);
        client.connect();
        client.send(&["SEND\ndestination:/queue/a\nno header\n\n\0"]);
        assert!(client.frame().starts_with("ERROR\n"), "{via:?}");
        assert_eq!(client.closed().0, 1002, "{via:?}");
        let mut client = Client::open(&relay, "/ws", via);
        client.send(&["CONNECT\naccept-version:1.2\nlogin:guest\npasscode:wrong\n\n\0"]);
        assert!(client.frame().starts_with("ERROR\n"), "{via:?}");
        assert_eq!(client.closed().0, 1008, "{via:?}");
    }
    relay.is_well();
}

const DELAY: &str = "disconnect_delay = \"1s\"";

/// A session of alice that waits for user messages.
fn alice(relay: &Relay, via: Via) -> Client {
    let mut alice = Client::with(relay, "/ws", via, vec![login("alice")]);
    alice.connect();
    alice.subscribe("0", "/user/queue/a");
    alice
}

/// Sends alice a message.
fn tell(relay: &Relay, text: &str) {
    let mut bob = Client::with(relay, "/ws", Via::WebSocket, vec![login("bob")]);
    bob.connect();
    bob.publish("/user/alice/queue/a", text);
    bob.bye();
}

/// The bodies of what alice has not read.
fn unread(relay: &Relay) -> Vec<String> {
    let mut alice = Client::with(relay, "/ws", Via::WebSocket, vec![login("alice")]);
    alice.connect();
    alice.send(&["SUBSCRIBE\nid:u\ndestination:/app/unread\n\n\0"]);
    let mut bodies = Vec::new();
    loop {
        let frame = alice.frame();
        if header(&frame, "x-unread-end").is_some() {
            assert_eq!(header(&frame, "x-unread-left"), Some("0"));
            break;
        }
        assert_eq!(header(&frame, "x-destination"), Some("/user/queue/a"));
        bodies.push(body(&frame).to_owned());
    }
    alice.bye();
    bodies
}

/// Waits until `last` is there, which was told after everything else, and gives all.
fn unread_with(relay: &Relay, last: &str) -> Vec<String> {
    wait_for(|| {
        let texts = unread(relay);
        if texts.iter().any(|text| text == last) { Ok(texts) } else { Err(format!("{texts:?}")) }
    })
}

/// A message that a response took along and whose receiver never comes back was not delivered,
/// whether the response ended well or broke. On a WebSocket, where no PONG came after it.
#[test]
fn what_a_lost_client_took_is_unread() {
    for via in Via::ALL {
        let relay = Relay::stomp(DELAY, "");
        let mut client = alice(&relay, via);
        client.ask();
        tell(&relay, "taken");
        assert_eq!(body(&client.frame()), "taken");
        client.abort();
        relay.has_sessions(0);
        tell(&relay, "later");
        let mut texts = unread_with(&relay, "later");
        texts.sort();
        assert_eq!(texts, ["later", "taken"], "{via:?}");
        relay.is_well();
    }
}

/// One that was pushed while no request waited, neither.
#[test]
fn what_waits_for_a_lost_client_is_unread() {
    for via in Via::HTTP {
        let relay = Relay::stomp(DELAY, "");
        let mut client = alice(&relay, via);
        if !via.is_polling() {
            client.abort();
            relay.has_sessions(0);
        }
        tell(&relay, "never asked for");
        relay.has_sessions(0);
        assert_eq!(unread_with(&relay, "never asked for"), ["never asked for"], "{via:?}");
    }
}

/// One that the client proved to have by asking again is delivered, and not unread.
#[test]
fn what_the_next_request_proves_is_not_unread() {
    for via in [Via::Xhr, Via::Jsonp] {
        let relay = Relay::stomp(DELAY, "");
        let mut client = alice(&relay, via);
        client.ask();
        tell(&relay, "delivered");
        assert_eq!(body(&client.frame()), "delivered");
        // That the second one hears that a first one waits shows that the first one is there.
        assert!(client.ask_twice().starts_with("c[2010,"));
        client.abort();
        relay.has_sessions(0);
        tell(&relay, "later");
        assert_eq!(unread_with(&relay, "later"), ["later"], "{via:?}");
    }
}

/// In client modes the ACK proves it, and nothing else.
#[test]
fn what_is_not_acked_comes_again() {
    let relay = Relay::stomp(DELAY, "");
    for via in Via::ALL {
        let mut client = Client::with(&relay, "/ws", via, vec![login("alice")]);
        client.connect();
        for (id, destination) in [("u", "/user/queue/a"), ("q", "/queue/a")] {
            let head = format!("id:{id}\ndestination:{destination}\nack:client-individual");
            client.send(&[format!("SUBSCRIBE\n{head}\nreceipt:{id}\n\n\0")]);
            assert!(client.frame().starts_with(&format!("RECEIPT\nreceipt-id:{id}\n")));
        }
        for (destination, text) in [
            ("/user/alice/queue/a", "read"),
            ("/user/alice/queue/a", "not read"),
            ("/queue/a", "done"),
            ("/queue/a", "not done"),
        ] {
            client.send(&[format!("SEND\ndestination:{destination}\n\n{text}\0")]);
            let message = client.frame();
            assert_eq!(body(&message), text, "{via:?}");
            if !text.starts_with("not ") {
                let ack = header(&message, "ack").unwrap();
                client.send(&[format!("ACK\nid:{ack}\nreceipt:ack\n\n\0")]);
                assert!(client.frame().starts_with("RECEIPT\nreceipt-id:ack\n"));
            }
        }
        client.abort();
        relay.has_sessions(0);
        assert_eq!(unread_with(&relay, "not read"), ["not read"], "{via:?}");
        let mut client = Client::with(&relay, "/ws", Via::WebSocket, vec![login("alice")]);
        client.connect();
        client.send(&["SUBSCRIBE\nid:q\ndestination:/queue/a\n\n\0"]);
        let message = client.frame();
        let again = (body(&message), header(&message, "redelivered"));
        assert_eq!(again, ("not done", Some("true")), "{via:?}");
        client.send(&["SEND\ndestination:/app/unread/read\nreceipt:all\n\n{\"all\":true}\0"]);
        assert!(client.frame().starts_with("RECEIPT\nreceipt-id:all\n"));
        client.bye();
        relay.has_sessions(0);
    }
}

/// A streaming response that ends at its limit is proved by the next one.
#[test]
fn a_streaming_response_is_proved_by_the_next_one() {
    for via in [Via::XhrStreaming, Via::EventSource, Via::HtmlFile] {
        let relay = Relay::stomp(&format!("{DELAY}\nstream_bytes_limit = \"1KiB\""), "");
        let mut client = alice(&relay, via);
        let long = "x".repeat(1024);
        tell(&relay, &long);
        assert_eq!(body(&client.frame()), long);
        tell(&relay, "on the next one");
        assert_eq!(body(&client.frame()), "on the next one");
        client.abort();
        relay.has_sessions(0);
        let texts = unread_with(&relay, "on the next one");
        assert_eq!(texts, ["on the next one"], "{via:?}");
    }
}

/// J16: a request that breaks while it waits or is answered ends the session at once, although
/// it could live on for long; the next one finds a new one.
#[test]
fn j16_a_receiver_that_breaks() {
    for via in Via::HTTP {
        let relay = Relay::stomp("disconnect_delay = \"10m\"", "");
        let mut client = alice(&relay, via);
        assert!(client.ask_twice().starts_with("c[2010,"));
        if !via.is_polling() {
            tell(&relay, "under way");
            assert_eq!(body(&client.frame()), "under way");
        }
        client.abort();
        relay.has_sessions(0);
        assert_eq!(client.next(), Said::Open, "{via:?}");
        tell(&relay, "later");
        let texts = unread_with(&relay, "later");
        let wanted: &[&str] = if via.is_polling() { &["later"] } else { &["under way", "later"] };
        assert_eq!(texts, wanted, "{via:?}");
    }
}

/// J16, while a poll is answered: what the kernel took is no proof, so the message is unread. The
/// session does not end at once, since the answer had ended as far as the server could see; that
/// is so too where all of it was read and the client then never came back.
#[test]
fn j16_a_poll_that_breaks_while_it_is_answered() {
    let long = "x".repeat(200_000);
    for via in [Via::Xhr, Via::Jsonp] {
        let relay = Relay::stomp(DELAY, "");
        let client = alice(&relay, via);
        let mut http = Http::narrow(relay.http);
        http.ask(&via.request(&client.session).with_all(&[login("alice")]));
        tell(&relay, &long);
        assert_eq!(http.head().status, 200);
        http.exactly(1000);
        http.reset();
        relay.has_sessions(0);
        let texts = unread_with(&relay, &long);
        assert_eq!(texts.len(), 1, "{via:?}");
    }
}

#[test]
fn who_waits_is_told_of_a_restart() {
    let relay = Relay::stomp("", "");
    let mut clients: Vec<Client> = Via::ALL
        .into_iter()
        .map(|via| {
            let mut client = Client::open(&relay, "/ws", via);
            client.connect();
            if via != Via::WebSocket {
                assert!(client.ask_twice().starts_with("c[2010,"));
            }
            client
        })
        .collect();
    let stopped = relay.stop();
    for client in &mut clients {
        let said = client.next();
        assert_eq!(said, Said::Close(1012, "the server restarts".into()), "{:?}", client.via);
    }
    drop(clients);
    stopped();
}

/// The same with the program and a signal.
#[test]
fn a_signal_is_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_stomp-relay"))
        .args(["--dev", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .args(["--store", "memory:", "--broker", "embedded:broker.db"])
        .current_dir(folder.path())
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = lines.find_map(|line| {
        line.unwrap().trim().strip_prefix("WebSocket  ws://")?.strip_suffix("/ws")?.parse().ok()
    });
    let address = address.unwrap();
    let open = |via| Client::at(address, "/ws", via, vec![login("alice")]);
    let mut clients = [open(Via::XhrStreaming), open(Via::Xhr), open(Via::WebSocket)];
    for client in &mut clients {
        client.connect();
    }
    assert!(clients[0].ask_twice().starts_with("c[2010,"));
    assert!(clients[1].ask_twice().starts_with("c[2010,"));
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    assert!(killed.unwrap().success());
    for client in &mut clients {
        assert_eq!(client.closed(), (1012, "the server restarts".into()), "{:?}", client.via);
    }
    drop(clients);
    assert!(child.wait().unwrap().success());
}

/// A session that ends is gone at once from the gauge, and soon for who asks for it.
#[test]
fn a_session_is_forgotten_after_its_delay() {
    let relay = Relay::stomp(DELAY, "");
    for via in Via::HTTP {
        let mut client = Client::open(&relay, "/ws", via);
        client.connect();
        client.send(&["DISCONNECT\n\n\0"]);
        relay.has_sessions(0);
        assert_eq!(client.closed(), (1000, "DISCONNECT".into()));
        // Asked for again and again it says so; then its name is free.
        let said = wait_for(|| {
            let path = format!("{}/xhr_send", client.session);
            let path = if via == Via::Jsonp { path.replace("xhr", "jsonp") } else { path };
            let status = relay.ask(&crate::http::post(&path, "[]")).status();
            if status == 404 { Ok(client.next()) } else { Err(format!("{status}")) }
        });
        assert_eq!(said, Said::Open, "{via:?}");
        client.abort();
    }
    relay.is_well();
}
