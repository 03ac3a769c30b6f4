//! What a hostile or broken client can send, over TCP and WebSocket: it loses its own session,
//! with the right words and code, and nobody else feels anything.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in tests a panic is how to fail")]

use std::fs;
use std::time::{Duration, Instant};

use system_tests::PATIENCE;
use system_tests::rabbitmq::RabbitMqServer;
use system_tests::raw::{End, Raw, opcode, ws_frame};
use system_tests::relay::{Relay, Setup};
use system_tests::stomp_client::Wire;

const WIRES: [Wire; 2] = [Wire::Tcp, Wire::WebSocket];
const TEXT: u8 = opcode::FIN | opcode::TEXT;
const BINARY: u8 = opcode::FIN | opcode::BINARY;

fn end(error: &str, code: u16) -> End {
    End { error: error.into(), code: Some(code) }
}

/// The same without the code where the wire has none.
fn on(wire: Wire, end: End) -> End {
    match wire {
        Wire::Tcp => End { code: None, ..end },
        Wire::WebSocket => end,
    }
}

/// Sessions that behave, one for each wire, and must not notice the others.
struct Canaries {
    sessions: Vec<Raw>,
    destination: String,
    count: usize,
}

impl Canaries {
    fn new(relay: &Relay, destination: &str) -> Self {
        let mut sessions: Vec<Raw> = WIRES.map(|wire| Raw::session(relay, wire)).into();
        for (at, session) in sessions.iter_mut().enumerate() {
            let destination = format!("{destination}-{at}");
            let frame =
                format!("SUBSCRIBE\nid:c\ndestination:{destination}\nack:client\nreceipt:s\n\n\0");
            session.stomp(frame.as_bytes());
            assert_eq!(session.frame().unwrap(), "RECEIPT\nreceipt-id:s\n\n");
        }
        Self { sessions, destination: destination.to_owned(), count: 0 }
    }

    /// Each sends to itself, and gets that and nothing else.
    fn sing(&mut self) {
        self.count += 1;
        for (at, session) in self.sessions.iter_mut().enumerate() {
            let (destination, body) = (format!("{}-{at}", self.destination), self.count);
            let send = format!("SEND\ndestination:{destination}\nreceipt:r\n\nsong {body}\0");
            session.stomp(send.as_bytes());
            let mut answers = [session.frame().unwrap(), session.frame().unwrap()];
            answers.sort_unstable();
            let [message, receipt] = answers;
            assert!(message.starts_with("MESSAGE\nsubscription:c\n"), "{message}");
            assert!(message.contains("redelivered:false\n"), "{message}");
            assert!(!message.contains("x-republished"), "{message}");
            assert!(message.ends_with(&format!("\n\nsong {body}")), "{message}");
            assert!(receipt.starts_with("RECEIPT\nreceipt-id:r\n"), "{receipt}");
            let ack = message.lines().find_map(|line| line.strip_prefix("ack:")).unwrap();
            session.stomp(format!("ACK\nid:{ack}\n\n\0").as_bytes());
        }
    }
}

/// Plays one bad session after the other between two songs of the canaries.
fn with_canaries(relay: &Relay, destination: &str, play: impl FnOnce(&mut dyn FnMut())) {
    let pid = relay.pid();
    let mut canaries = Canaries::new(relay, destination);
    canaries.sing();
    play(&mut || canaries.sing());
    canaries.sing();
    assert_eq!(relay.pid(), pid);
    assert!(!relay.log().contains("panicked"), "{}", relay.log());
}

#[test]
fn bytes_that_are_no_stomp_end_their_own_session() {
    let long = format!("SEND\ndestination:/queue/{}\n\n\0", "x".repeat(300));
    let names = format!("SEND\ndestination:/queue/a\n{}:1\n\n\0", "n".repeat(300));
    let many = format!("SEND\ndestination:/queue/a\n{}\n\0", "h:v\n".repeat(65));
    // What is sent to a session that has said CONNECT, and how that ends.
    let cases: Vec<(&[u8], End)> = vec![
        (b"FROBNICATE\n\n\0", end("Bad command", 1002)),
        (b"send\ndestination:/queue/a\n\n\0", end("Bad command", 1002)),
        (b"MESSAGE\n\n\0", end("Bad command", 1002)),
        (b"CONNECT\naccept-version:1.2\n\n\0", end("Already connected", 1002)),
        (b"SEND\ncontent-length:-1\n\n\0", end("Bad content-length", 1002)),
        (b"SEND\ncontent-length:5x\n\n\0", end("Bad content-length", 1002)),
        (b"SEND\ncontent-length:1\ncontent-length:2\n\nab\0", end("Bad content-length", 1002)),
        (b"SEND\ncontent-length:4294967296\n\n", end("Frame too big", 1009)),
        (b"SEND\ncontent-length:99999999999999999999\n\n", end("Frame too big", 1009)),
        (b"SEND\nno colon\n\n\0", end("Bad header", 1002)),
        (b"SEND\na:\\t\n\n\0", end("Bad escape", 1002)),
        (long.as_bytes(), end("Destination too long", 1008)),
        (names.as_bytes(), end("Header too long", 1008)),
        (many.as_bytes(), end("Too many headers", 1008)),
        (b"ACK\nid:nobody-knows\n\n\0", end("Subscription not found", 1002)),
        (b"NACK\nid:\n\n\0", end("Subscription not found", 1002)),
        (b"COMMIT\ntransaction:t\n\n\0", end("Bad transaction", 1002)),
        (b"SEND\ndestination:/queue/stomp-relay.x\n\n\0", end("access_refused", 1008)),
        (b"SEND\ndestination:/queue/amq.x\n\n\0", end("access_refused", 1008)),
        (b"SUBSCRIBE\nid:1\ndestination:/queue/amq.x\n\n\0", end("access_refused", 1008)),
        (b"SEND\ndestination:/queue/stomp-subscription-x\n\n\0", end("access_refused", 1008)),
        (b"SEND\ndestination:/queue/a%00\\nb\n\n\0", end("Invalid destination", 1008)),
    ];
    let relay = Setup::new().start();
    with_canaries(&relay, "/queue/canary", |sing| {
        let mut wrong = Vec::new();
        for wire in WIRES {
            for (bytes, expected) in &cases {
                let mut raw = Raw::session(&relay, wire);
                raw.stomp(bytes);
                let shown = String::from_utf8_lossy(bytes);
                let ended = raw.ended();
                if ended != on(wire, expected.clone()) {
                    wrong.push(format!("{wire:?} {shown:?}: {ended:?}, not {expected:?}"));
                }
            }
            for bytes in [&b"SEND\ndestination:/queue/a\n\n\0"[..], b"DISCONNECT\n\n\0"] {
                let mut raw = Raw::open(&relay, wire);
                raw.stomp(bytes);
                assert_eq!(raw.ended(), on(wire, end("Illegal command", 1002)));
            }
            sing();
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        // A head that is no UTF-8: a text message is refused before it is STOMP.
        let bytes = b"SEND\ndestination:/queue/a\nh:\xff\n\n\0";
        for (first, error) in [(TEXT, ""), (BINARY, "Invalid UTF-8")] {
            let mut raw = Raw::session(&relay, Wire::WebSocket);
            raw.bytes(&ws_frame(first, bytes));
            assert_eq!(raw.ended(), end(error, 1007));
        }
        let mut raw = Raw::session(&relay, Wire::Tcp);
        raw.bytes(bytes);
        assert_eq!(raw.ended().error, "Invalid UTF-8");
    });
}

#[test]
fn ten_megabytes_of_headers_cost_no_memory() {
    let relay = Setup::new().start();
    with_canaries(&relay, "/queue/canary", |sing| {
        for wire in WIRES {
            let before = resident_kib(&relay);
            for connect in [true, false] {
                let mut raw =
                    if connect { Raw::session(&relay, wire) } else { Raw::open(&relay, wire) };
                raw.stomp(b"SEND\n");
                let line = format!("x:{}\n", "y".repeat(8000)).repeat(8);
                // It is refused long before the end.
                let taken = (0..160).take_while(|_| raw.stomp(line.as_bytes())).count();
                let End { error, code } = raw.ended();
                // Where the close met bytes under way, the kernel may have dropped the ERROR.
                let known = ["", "Frame too big", "Too many headers"];
                assert!(known.contains(&error.as_str()), "{error}");
                assert!(matches!(code, None | Some(1008 | 1009)), "{code:?} after {taken}");
            }
            let grown = resident_kib(&relay).saturating_sub(before);
            assert!(grown < 5 * 1024, "{wire:?}: {grown} KiB more");
            sing();
        }
    });
}

fn resident_kib(relay: &Relay) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", relay.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

#[test]
fn who_says_half_a_frame_or_nothing_is_not_waited_for() {
    let config = "[limits]\nconnect_time = \"1s\"\nframe_time = \"1s\"\nhttp_head_time = \"1s\"";
    let relay = Setup::new().config(config).start();
    with_canaries(&relay, "/queue/canary", |sing| {
        for wire in WIRES {
            let start = Instant::now();
            let silent = Raw::open(&relay, wire);
            let mut half_connect = Raw::open(&relay, wire);
            half_connect.stomp(b"CONNECT\nlogin:guest\n");
            let mut half: Vec<Raw> = (0..3).map(|_| Raw::session(&relay, wire)).collect();
            for (raw, bytes) in half.iter_mut().zip(["SEND", "SEND\na:b\n", "SEND\na:b\n\nbody"]) {
                raw.stomp(bytes.as_bytes());
            }
            assert_eq!(silent.ended(), on(wire, end("", 1008)));
            assert_eq!(half_connect.ended().error, "", "{wire:?}");
            for raw in half {
                assert_eq!(raw.ended(), on(wire, end("Frame timeout", 1002)));
            }
            assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
            sing();
        }
        // Half a WebSocket frame, and half a request.
        let mut raw = Raw::open(&relay, Wire::WebSocket);
        raw.bytes(&ws_frame(TEXT, b"CONNECT\n\n\0")[..5]);
        assert_eq!(raw.ended(), end("", 1008));
        let mut raw = Raw::door(&relay);
        raw.bytes(b"GET /ws HTTP/1.1\r\nHost: a\r\n");
        assert_eq!(raw.rest(), "");
    });
}

#[test]
fn frames_that_break_rfc_6455_are_answered_by_their_code() {
    let connect = b"CONNECT\naccept-version:1.2\nlogin:guest\npasscode:guest\n\n\0";
    let unmasked = [&[TEXT, 5][..], b"hello"].concat();
    let huge = [&[BINARY, 0xff][..], &(1_u64 << 62).to_be_bytes(), &[0; 4]].concat();
    let signed = [&[BINARY, 0xff][..], &(1_u64 << 63).to_be_bytes(), &[0; 4]].concat();
    let many: Vec<u8> = (0..1100)
        .flat_map(|at| ws_frame(if at == 0 { opcode::TEXT } else { opcode::CONTINUATION }, b"\n"))
        .collect();
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("unmasked", unmasked, 1002),
        ("reserved opcode 3", ws_frame(opcode::FIN | 3, b""), 1002),
        ("reserved opcode 7", ws_frame(opcode::FIN | 7, b""), 1002),
        ("reserved opcode 11", ws_frame(opcode::FIN | 11, b""), 1002),
        ("reserved opcode 15", ws_frame(opcode::FIN | 15, b""), 1002),
        ("RSV1", ws_frame(TEXT | 0x40, b"\n"), 1002),
        ("RSV2", ws_frame(TEXT | 0x20, b"\n"), 1002),
        ("RSV3", ws_frame(TEXT | 0x10, b"\n"), 1002),
        ("a length of 2^62", huge, 1009),
        ("a length of 2^63", signed, 1002),
        ("a continuation of nothing", ws_frame(opcode::FIN, b"\n"), 1002),
        (
            "a text within a text",
            [ws_frame(opcode::TEXT, b"\n"), ws_frame(TEXT, b"\n")].concat(),
            1002,
        ),
        ("a PING in pieces", ws_frame(opcode::PING, b"x"), 1002),
        ("a PING of 126 bytes", ws_frame(opcode::FIN | opcode::PING, &[b'x'; 126]), 1002),
        ("too many fragments", many, 1008),
        ("a close of one byte", ws_frame(opcode::FIN | opcode::CLOSE, b"\x03"), 1002),
        ("a close of 1005", ws_frame(opcode::FIN | opcode::CLOSE, &1005_u16.to_be_bytes()), 1002),
        ("a close with bytes", ws_frame(opcode::FIN | opcode::CLOSE, b"\x03\xe8\xff"), 1007),
        ("a text cut in a character", ws_frame(TEXT, b"\n\xc3"), 1007),
    ];
    let relay = Setup::new().start();
    with_canaries(&relay, "/queue/canary", |sing| {
        for connected in [false, true] {
            for (what, bytes, code) in &cases {
                let mut raw = if connected {
                    Raw::session(&relay, Wire::WebSocket)
                } else {
                    Raw::open(&relay, Wire::WebSocket)
                };
                raw.bytes(bytes);
                assert_eq!(raw.ended().code, Some(*code), "{what}");
            }
            sing();
        }
        // Before CONNECTED a message is small, whatever it says.
        let mut raw = Raw::open(&relay, Wire::WebSocket);
        raw.bytes(&ws_frame(TEXT, &[b'\n'; 20 * 1024]));
        assert_eq!(raw.ended().code, Some(1009));
        // A close without code, and one with.
        for payload in [&b""[..], b"\x03\xe8", b"\x0f\xa0bye"] {
            let mut raw = Raw::session(&relay, Wire::WebSocket);
            raw.bytes(&ws_frame(opcode::FIN | opcode::CLOSE, payload));
            assert_eq!(raw.ended(), end("", 1000));
        }
        // Fragments with a PING between them are one message.
        let mut raw = Raw::open(&relay, Wire::WebSocket);
        let (first, rest) = connect.split_at(9);
        let (second, third) = rest.split_at(20);
        raw.bytes(&ws_frame(opcode::TEXT, first));
        raw.bytes(&ws_frame(opcode::FIN | opcode::PING, b"there?"));
        raw.bytes(&ws_frame(opcode::CONTINUATION, second));
        raw.bytes(&ws_frame(opcode::FIN | opcode::CONTINUATION, third));
        assert!(raw.frame().unwrap().starts_with("CONNECTED\n"));
        assert_eq!(raw.pongs, [b"there?"]);
    });
}

#[test]
fn the_door_answers_what_is_no_handshake() {
    let config = "[[endpoint]]\npath = \"/ws\"\n[[endpoint]]\npath = \"/closed\"\nauth = \"handshake\"\n\
         [[endpoint]]\npath = \"/plain\"\nsockjs = false";
    let relay = Setup::new().config(config).start();
    let address = relay.http_address();
    let host = format!("Host: {address}\r\n");
    let upgrade = |path: &str, headers: &str| Raw::upgrade(&relay, path, headers, b"").0;
    with_canaries(&relay, "/queue/canary", |sing| {
        let many = "X-Header: value\r\n".repeat(200);
        let long = format!("X-Header: {}\r\n", "v".repeat(64 * 1024));
        let cases = [
            ("/ws", "", 101),
            ("/ws?query=1", "", 101),
            ("/ws", "Origin: http://localhost:3000\r\n", 101),
            ("/ws", "Origin: https://evil.example\r\n", 403),
            ("/ws", "Origin: null\r\n", 403),
            ("/ws", "Origin: http://127.0.0.1.evil.example\r\n", 403),
            ("/closed", "", 401),
            ("/closed", "Authorization: Basic YWxpY2U6d3Jvbmc=\r\n", 401),
            ("/closed", "Authorization: Basic YWxpY2U6YWxpY2U=\r\n", 101),
            ("/closed", "Authorization: Basic ???\r\n", 401),
            // With SockJS that is a greeting.
            ("/ws/", "", 200),
            ("/plain", "", 101),
            ("/plain/", "", 404),
            ("/plain/websocket", "", 404),
            ("/WS", "", 404),
            ("//ws", "", 404),
            ("/./ws", "", 404),
            ("/%77s", "", 404),
            ("/ws%00", "", 404),
            ("/ws/x", "", 404),
            ("/", "", 404),
            ("/ws", &many, 431),
            ("/ws", &long, 431),
        ];
        for (path, headers, expected) in cases {
            let shown = headers.get(..60).unwrap_or(headers);
            assert_eq!(upgrade(path, headers), expected, "{path} {shown}");
        }
        let plain =
            |line: &str, more: &str| Raw::http(&relay, &format!("{line}\r\n{host}{more}\r\n")).0;
        assert_eq!(plain("GET /ws HTTP/1.1", ""), 200);
        assert_eq!(plain("GET /plain HTTP/1.1", ""), 400);
        assert_eq!(plain("GET /ws HTTP/1.1", "Upgrade: h2c\r\nConnection: upgrade\r\n"), 400);
        assert_eq!(plain("POST /ws HTTP/1.1", "Content-Length: 0\r\n"), 405);
        assert_eq!(plain("GARBAGE", ""), 400);
        sing();

        // A client that does not wait for the answer to its handshake.
        let connect = b"CONNECT\naccept-version:1.2\nlogin:guest\npasscode:guest\n\n\0";
        let (status, mut raw) = Raw::upgrade(&relay, "/ws", "", &ws_frame(TEXT, connect));
        assert_eq!(status, 101);
        assert!(raw.frame().unwrap().starts_with("CONNECTED\n"));

        // Behind a refused handshake nothing is taken for a request.
        let smuggled = format!("GET /api/unread HTTP/1.1\r\n{host}\r\n");
        let evil = "Origin: https://evil.example\r\n";
        let (status, raw) = Raw::upgrade(&relay, "/ws", evil, smuggled.as_bytes());
        assert_eq!(status, 403);
        let rest = raw.rest();
        assert!(!rest.contains("HTTP/1.1"), "{rest}");
    });
}

#[test]
fn wrong_passwords_are_counted_for_their_user_alone() {
    let relay = Setup::new().start();
    let login = |user: &str, passcode: &str, wire| {
        let mut raw = Raw::open(&relay, wire);
        let frame = format!("CONNECT\naccept-version:1.2\nlogin:{user}\npasscode:{passcode}\n\n\0");
        raw.stomp(frame.as_bytes());
        match raw.frame() {
            Some(frame) if frame.starts_with("CONNECTED\n") => "in".to_owned(),
            frame => {
                let frame = frame.unwrap_or_default();
                frame.lines().find_map(|line| line.strip_prefix("message:")).unwrap().to_owned()
            }
        }
    };
    with_canaries(&relay, "/queue/canary", |sing| {
        for attempt in 0..10 {
            let wire = WIRES[attempt % 2];
            assert_eq!(login("alice", "guess", wire), "Bad CONNECT", "{attempt}");
        }
        for wire in WIRES {
            // The right one neither: who guesses must not see it.
            assert_eq!(login("alice", "alice", wire), "Too many logins");
            assert_eq!(login("bob", "bob", wire), "in");
        }
        sing();
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_reads_is_closed() {
    let config = "[limits]\noutbound_stall = \"2s\"\noutbound_bytes = \"1MiB\"";
    let relay = Setup::new().config(config).start();
    let mut canaries = Canaries::new(&relay, "/queue/canary");
    let mut deaf: Vec<Raw> = WIRES.map(|wire| Raw::session(&relay, wire)).into();
    for raw in &mut deaf {
        raw.stomp(b"SUBSCRIBE\nid:1\ndestination:/topic/flood\nreceipt:r\n\n\0");
        assert!(raw.frame().unwrap().starts_with("RECEIPT\n"));
    }
    let mut sender = Raw::session(&relay, Wire::Tcp);
    let body = "x".repeat(100_000);
    let frame = format!("SEND\ndestination:/topic/flood\nreceipt:r\n\n{body}\0");
    // More than the kernel's buffers and the mailbox hold.
    for _ in 0..200 {
        assert!(sender.stomp(frame.as_bytes()));
        assert!(sender.frame().unwrap().starts_with("RECEIPT\n"));
    }
    relay.metric_is("stomp_relay_slow_readers_total", 2.0).await;
    canaries.sing();
    assert!(!relay.log().contains("panicked"), "{}", relay.log());
}

#[test]
fn headers_that_amqp_would_act_on_reach_no_channel_of_others() {
    let rabbitmq = RabbitMqServer::shared().unwrap();
    let relay = Setup::new().broker(&rabbitmq.amqp_url).start();
    let headers = [
        "CC:/queue/stolen",
        "BCC:stolen",
        "user-id:somebody-else",
        "expiration:abc",
        "expiration:-1",
        "priority:x",
        "priority:256",
        "delivery-mode:9",
        "timestamp:never",
        "content-type:\\n",
        "correlation-id:%LONG%",
        "type:%LONG%",
        "x-death:x",
        "persistent:maybe",
    ];
    // As many as there are channels to share, so that one of them would be met.
    let mut choirs: Vec<Canaries> =
        (0..8).map(|at| Canaries::new(&relay, &format!("/queue/canary-{at}"))).collect();
    for wire in WIRES {
        for header in headers {
            let header = header.replace("%LONG%", &"x".repeat(300));
            for destination in ["/queue/canary-0-0x", "/topic/bad"] {
                let mut raw = Raw::session(&relay, wire);
                let subscribe =
                    format!("SUBSCRIBE\nid:1\ndestination:{destination}\nreceipt:s\n\n\0");
                raw.stomp(subscribe.as_bytes());
                assert!(raw.frame().unwrap().starts_with("RECEIPT\n"));
                let send = format!("SEND\ndestination:{destination}\n{header}\nreceipt:r\n\nx\0");
                raw.stomp(send.as_bytes());
                // Taken or refused, but answered.
                let answer = raw.frame().unwrap();
                let known = ["RECEIPT\n", "MESSAGE\n", "ERROR\n"];
                assert!(known.iter().any(|start| answer.starts_with(start)), "{header}: {answer}");
                raw.stomp(b"DISCONNECT\nreceipt:d\n\n\0");
                drop(raw.ended());
            }
        }
        choirs.iter_mut().for_each(Canaries::sing);
        for destination in ["/queue/stomp-relay.x", "/queue/amq.x", "/queue/stomp-subscription-x"] {
            for frame in ["SEND", "SUBSCRIBE\nid:1"] {
                let mut raw = Raw::session(&relay, wire);
                raw.stomp(format!("{frame}\ndestination:{destination}\n\n\0").as_bytes());
                assert_eq!(raw.ended(), on(wire, end("access_refused", 1008)), "{destination}");
            }
        }
        choirs.iter_mut().for_each(Canaries::sing);
    }
    let queues = rabbitmq.ctl(&["list_queues", "name"]).unwrap();
    assert!(!queues.contains("stolen"), "{queues}");
    assert!(!relay.log().contains("panicked"), "{}", relay.log());
    assert!(!relay.log().contains("channel"), "{}", relay.log());
}

#[test]
fn no_secret_is_logged() {
    const SECRET: &str = "Xyzzy-marker";
    let config = "[auth]\nchain = [\"jwt\", \"users\"]\n[[auth.jwt.keys]]\nalg = \"HS256\"\n\
                  secret = \"Xyzzy-marker-Xyzzy-marker-Xyzzy-marker\"\n[auth.jwt]\nquery = \"token\"";
    let relay = Setup::new().config(config).log_level("trace").start();
    let address = relay.http_address();
    // A token's parts are base64: a marker that is there in clear and as a claim.
    let token = format!("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJYeXp6eS1tYXJrZXIifQ.{SECRET}");
    for wire in WIRES {
        let frames = [
            format!("CONNECT\nlogin:alice\npasscode:{SECRET}\n\n\0"),
            format!("CONNECT\nlogin:{SECRET}\npasscode:{token}\n\n\0"),
            format!("CONNECT\nAuthorization:Bearer {token}\n\n\0"),
            format!("CONNECT\ntoken:{token}\n\n\0"),
            format!("CONNECT\npasscode {SECRET}\n\n\0"),
            format!("CONNECT\naccept-version:1.2\npasscode:{SECRET}\\t\n\n\0"),
            format!("SEND\npasscode:{SECRET}\n\nbody {SECRET}\0"),
            format!("{SECRET}\n\n\0"),
        ];
        for frame in frames {
            let mut raw = Raw::open(&relay, wire);
            raw.stomp(frame.as_bytes());
            drop(raw.ended());
        }
        let mut raw = Raw::session(&relay, wire);
        raw.stomp(format!("SEND\ndestination:/queue/a\nh:{SECRET}\n\n{SECRET}\0").as_bytes());
        raw.stomp(format!("SEND\ndestination:/nowhere/a\nh:{SECRET}\n\n{SECRET}\0").as_bytes());
        drop(raw.ended());
    }
    let headers = [
        format!("Authorization: Bearer {token}\r\n"),
        format!("Authorization: Basic {SECRET}\r\n"),
        format!("Sec-WebSocket-Protocol: v12.stomp, bearer.{token}\r\n"),
        format!("Cookie: token={token}\r\n"),
    ];
    for headers in headers {
        drop(Raw::upgrade(&relay, "/ws", &headers, b""));
    }
    drop(Raw::upgrade(&relay, &format!("/ws?token={token}"), "", b""));
    let request = format!("GET /api/unread?token={token} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    drop(Raw::http(&relay, &request));
    // The log is there, and has what these sessions were refused for.
    let end = Instant::now() + Duration::from_secs(5);
    while !relay.log().contains("Unknown destination") {
        assert!(Instant::now() < end, "{}", relay.log());
        std::thread::yield_now();
    }
    let log = relay.log();
    for marker in [SECRET, "eyJhbGci", "WHl6enktbWFya2Vy", "eyJzdWIi"] {
        assert!(!log.contains(marker), "{marker} in\n{log}");
    }
}
