//! What public protocol tests ask of each transport and of sessions.

use crate::client::{Client, Said, Via, fresh};
use crate::http::{get, post, request};
use crate::protocol::{has_cors, is_uncached};
use crate::relay::Relay;
use crate::ws::{CLOSE, TEXT, Ws, WsSaid};

/// All 16-bit characters and the first one of each further plane.
fn every_char() -> String {
    let first = (0..=0xFFFF).filter_map(char::from_u32);
    let further = (1..=16).filter_map(|plane| char::from_u32(plane << 16));
    first.chain(further).collect()
}

#[test]
fn xhr_polling() {
    let relay = Relay::echo();
    let session = fresh("/echo");
    let mut http = relay.connect();
    let xhr = Via::Xhr.request(&session);
    let answer = http.answer(&xhr.clone().with("Origin", "test"));
    assert_eq!((answer.status(), answer.text()), (200, "o\n"));
    assert_eq!(answer.header("content-type"), Some("application/javascript; charset=UTF-8"));
    has_cors(&answer.head, Some("test"));
    is_uncached(&answer.head);
    assert_eq!(answer.header("x-accel-buffering"), Some("no"));
    let send = |body: &str| post(&format!("{session}/xhr_send"), body).with("Origin", "null");
    let answer = http.answer(&send("[\"x\"]"));
    assert_eq!((answer.status(), answer.text()), (204, ""));
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=UTF-8"));
    has_cors(&answer.head, Some("null"));
    is_uncached(&answer.head);
    assert_eq!(http.answer(&xhr).text(), "a[\"x\"]\n");
    // What is no payload leaves the session as it is.
    for (body, wanted) in [("[\"x", "Broken JSON encoding."), ("", "Payload expected.")] {
        let answer = http.answer(&send(body));
        assert_eq!((answer.status(), answer.text()), (500, wanted));
    }
    assert_eq!(http.answer(&send("[]")).status(), 204);
    assert_eq!(http.answer(&send("[\"a\"]")).status(), 204);
    assert_eq!(http.answer(&xhr).text(), "a[\"a\"]\n");
    let unknown = http.answer(&post("/echo/000/bad_session/xhr_send", "[\"x\"]"));
    assert_eq!(unknown.status(), 404);
    relay.is_well();
}

#[test]
fn xhr_send_takes_any_content_type() {
    let relay = Relay::echo();
    let mut http = relay.connect();
    let session = fresh("/echo");
    assert_eq!(http.answer(&Via::Xhr.request(&session)).text(), "o\n");
    let types = [
        "text/plain",
        "T",
        "application/json",
        "application/xml",
        "",
        "application/json; charset=utf-8",
        "text/xml; charset=utf-8",
        "text/xml",
    ];
    for kind in types {
        let send = post(&format!("{session}/xhr_send"), "[\"a\"]").with("Content-Type", kind);
        assert_eq!(http.answer(&send).status(), 204, "{kind}");
    }
    let wanted = format!("a[{}]\n", ["\"a\""; 8].join(","));
    assert_eq!(http.answer(&Via::Xhr.request(&session)).text(), wanted);
}

/// What a streaming transport answers, chunk by chunk, and that a long answer ends.
fn streaming(via: Via, content_type: &str, payload: &str) {
    let relay = Relay::echo();
    let session = fresh("/echo");
    let mut http = relay.connect();
    http.ask(&via.request(&session).with("Origin", "test"));
    let head = http.head();
    assert_eq!(head.status, 200);
    assert_eq!(head.header("content-type"), Some(content_type));
    is_uncached(&head);
    if via != Via::HtmlFile {
        has_cors(&head, Some("test"));
    }
    assert!(via.is_prelude(&http.chunk().unwrap()));
    assert_eq!(via.unwrap(&http.chunk().unwrap()), "o");
    let send = post(&format!("{session}/xhr_send"), format!("[{payload}]"));
    assert_eq!(relay.ask(&send).status(), 204);
    let message: String = serde_json::from_str(payload).unwrap();
    let said = Said::read(&via.unwrap(&http.chunk().unwrap()));
    assert_eq!(said, Said::Messages(vec![message]));
    // Its limit is 4,096 bytes.
    let send = post(&format!("{session}/xhr_send"), format!("[\"{}\"]", "x".repeat(4096)));
    assert_eq!(relay.ask(&send).status(), 204);
    let said = Said::read(&via.unwrap(&http.chunk().unwrap()));
    assert_eq!(said, Said::Messages(vec!["x".repeat(4096)]));
    assert_eq!(http.chunk(), None);
    // The session goes on, on the same connection.
    http.ask(&via.request(&session));
    assert_eq!(http.head().status, 200);
    assert!(via.is_prelude(&http.chunk().unwrap()));
    let send = post(&format!("{session}/xhr_send"), "[\"y\"]");
    assert_eq!(relay.ask(&send).status(), 204);
    assert_eq!(via.unwrap(&http.chunk().unwrap()), "a[\"y\"]");
    relay.is_well();
}

#[test]
fn xhr_streaming() {
    streaming(Via::XhrStreaming, "application/javascript; charset=UTF-8", r#""x""#);
}

#[test]
fn eventsource() {
    streaming(Via::EventSource, "text/event-stream", r#""  \u0000\n\r ""#);
}

#[test]
fn htmlfile() {
    streaming(Via::HtmlFile, "text/html; charset=UTF-8", r#""</script><b>""#);
}

/// The prelude does not count towards the limit of a streaming response, what frames a message
/// does.
#[test]
fn the_limit_of_a_streaming_response() {
    let relay = Relay::echo();
    let session = fresh("/echo");
    let mut http = relay.connect();
    http.ask(&Via::XhrStreaming.request(&session));
    assert_eq!(http.head().status, 200);
    assert_eq!(http.chunk().unwrap().len(), 2049);
    assert_eq!(http.chunk().unwrap(), b"o\n");
    let message = format!("\"{}\"", "x".repeat(128));
    for _ in 0..31 {
        let send = post(&format!("{session}/xhr_send"), format!("[{message}]"));
        assert_eq!(relay.ask(&send).status(), 204);
        assert_eq!(http.chunk().unwrap(), format!("a[{message}]\n").as_bytes());
    }
    assert_eq!(http.chunk(), None);
}

#[test]
fn eventsource_to_the_byte() {
    let relay = Relay::echo();
    let session = fresh("/echo");
    let mut http = relay.connect();
    http.ask(&Via::EventSource.request(&session));
    assert_eq!(http.head().header("content-type"), Some("text/event-stream"));
    assert_eq!(http.chunk().unwrap(), b"\r\n");
    assert_eq!(http.chunk().unwrap(), b"data: o\r\n\r\n");
    let send = post(&format!("{session}/xhr_send"), r#"["  \u0000\n\r "]"#);
    assert_eq!(relay.ask(&send).status(), 204);
    let wanted = "data: a[\"  \\u0000\\n\\r \"]\r\n\r\n";
    assert_eq!(http.chunk().unwrap(), wanted.as_bytes());
}

#[test]
fn htmlfile_to_the_byte() {
    let relay = Relay::echo();
    let session = fresh("/echo");
    let mut http = relay.connect();
    http.ask(&get(&format!("{session}/htmlfile?c=%63allback")));
    let head = http.head();
    assert_eq!(head.header("content-type"), Some("text/html; charset=UTF-8"));
    let page = String::from_utf8(http.chunk().unwrap()).unwrap();
    let wanted = "<!doctype html>\n<html><head>\n  \
        <meta http-equiv=\"X-UA-Compatible\" content=\"IE=edge\" />\n  \
        <meta http-equiv=\"Content-Type\" content=\"text/html; charset=UTF-8\" />\n\
        </head><body><h2>Don't panic!</h2>\n  <script>\n    \
        document.domain = document.domain;\n    var c = parent.callback;\n    c.start();\n    \
        function p(d) {c.message(d);};\n    window.onload = function() {c.stop();};\n  </script>";
    assert!(page.len() > 1024);
    assert_eq!(page.trim_end(), wanted);
    assert_eq!(http.chunk().unwrap(), b"<script>\np(\"o\");\n</script>\r\n");
    let send = post(&format!("{session}/xhr_send"), "[\"x\"]");
    assert_eq!(relay.ask(&send).status(), 204);
    assert_eq!(http.chunk().unwrap(), b"<script>\np(\"a[\\\"x\\\"]\");\n</script>\r\n");
}

#[test]
fn callbacks() {
    let relay = Relay::echo();
    let (required, invalid) = ("\"callback\" parameter required", "invalid \"callback\" parameter");
    let cases = [
        ("", required),
        ("?a=b", required),
        ("?c=%20", invalid),
        ("?c=*", invalid),
        ("?c=abc(", invalid),
        ("?c=abc%28", invalid),
    ];
    for transport in ["htmlfile", "jsonp"] {
        for (query, wanted) in cases {
            let answer = relay.ask(&get(&format!("{}/{transport}{query}", fresh("/echo"))));
            assert_eq!(answer.status(), 500, "{transport}{query}");
            assert!(answer.text().contains(wanted), "{transport}{query}: {}", answer.text());
        }
    }
}

#[test]
fn jsonp_polling() {
    let relay = Relay::echo();
    let mut http = relay.connect();
    let session = fresh("/echo");
    let jsonp = get(&format!("{session}/jsonp?c=x"));
    let answer = http.answer(&jsonp);
    assert_eq!((answer.status(), answer.text()), (200, "/**/x(\"o\");\r\n"));
    assert_eq!(answer.header("content-type"), Some("application/javascript; charset=UTF-8"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    is_uncached(&answer.head);
    let form = |body: &str| {
        post(&format!("{session}/jsonp_send"), body)
            .with("Content-Type", "application/x-www-form-urlencoded")
    };
    let text = |body: &str| {
        post(&format!("{session}/jsonp_send"), body).with("Content-Type", "text/plain")
    };
    let answer = http.answer(&form("d=%5B%22x%22%5D"));
    assert_eq!((answer.status(), answer.text()), (200, "ok"));
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=UTF-8"));
    is_uncached(&answer.head);
    assert_eq!(http.answer(&jsonp).text(), "/**/x(\"a[\\\"x\\\"]\");\r\n");
    // No form, no decoding.
    assert_eq!(http.answer(&text("[\"%61bc\"]")).text(), "ok");
    assert_eq!(http.answer(&jsonp).text(), "/**/x(\"a[\\\"%61bc\\\"]\");\r\n");
    let cases = [
        ("d=%5B%22x", "Broken JSON encoding."),
        ("", "Payload expected."),
        ("d=", "Payload expected."),
        ("p=p", "Payload expected."),
    ];
    for (body, wanted) in cases {
        let answer = http.answer(&form(body));
        assert_eq!((answer.status(), answer.text()), (500, wanted), "{body}");
    }
    assert_eq!(http.answer(&text("")).text(), "Payload expected.");
    assert_eq!(http.answer(&form("d=%5B%22b%22%5D")).text(), "ok");
    assert_eq!(http.answer(&jsonp).text(), "/**/x(\"a[\\\"b\\\"]\");\r\n");
    let unknown = post("/echo/000/unknown/jsonp_send", "d=%5B%22x%22%5D");
    assert_eq!(relay.ask(&unknown).status(), 404);
}

#[test]
fn cookies_for_balancers() {
    let relay = Relay::echo();
    let path = "/cookie_needed_echo";
    for via in Via::HTTP {
        for (sent, wanted) in [(None, "dummy"), (Some("abcdef"), "abcdef")] {
            let cookie = sent.map(|value| format!("a=b; JSESSIONID={value}"));
            let session = fresh(path);
            let request = via.request(&session).changed("Cookie", cookie.as_deref());
            let mut http = relay.connect();
            http.ask(&request);
            let head = http.head();
            let set = head.header("set-cookie").unwrap();
            assert!(set.starts_with(&format!("JSESSIONID={wanted}; path=/")), "{via:?}: {set}");
            if via == Via::Jsonp {
                let send = post(&format!("{session}/jsonp_send"), "[\"x\"]")
                    .changed("Cookie", cookie.as_deref());
                let answer = relay.ask(&send);
                assert!(answer.header("set-cookie").unwrap().starts_with(set));
            }
        }
    }
    let info = relay.ask(&get(&format!("{path}/info")).with("Cookie", "JSESSIONID=abcdef"));
    assert_eq!(info.header("set-cookie"), None);
    // What is no plain value is not sent back.
    let strange = Via::Xhr.request(&fresh(path)).with("Cookie", "JSESSIONID=\"<b>\"");
    assert!(relay.ask(&strange).header("set-cookie").unwrap().starts_with("JSESSIONID=dummy;"));
    assert_eq!(relay.ask(&Via::Xhr.request(&fresh("/echo"))).header("set-cookie"), None);
}

#[test]
fn websocket() {
    let relay = Relay::echo();
    let session = fresh("/echo");
    let path = format!("{session}/websocket");
    let mut ws = Ws::open(relay.http, &path);
    assert_eq!(ws.next(), WsSaid::Text("o".into()));
    // Nothing, in two ways, and then something.
    ws.text("");
    ws.text("[]");
    ws.text("[\"a\"]");
    assert_eq!(ws.next(), WsSaid::Text("a[\"a\"]".into()));
    // Sessions of the same name have nothing to do with each other.
    let mut other = Ws::open(relay.http, &path);
    assert_eq!(other.next(), WsSaid::Text("o".into()));
    other.text("[\"b\"]");
    assert_eq!(other.next(), WsSaid::Text("a[\"b\"]".into()));
    ws.frame(CLOSE, &1000_u16.to_be_bytes());
    assert_eq!(ws.next(), WsSaid::Text("c[1000,\"\"]".into()));
    assert_eq!(ws.next(), WsSaid::Close(1000, String::new()));
    assert_eq!(ws.next(), WsSaid::End);
    other.text("[\"c\"]");
    assert_eq!(other.next(), WsSaid::Text("a[\"c\"]".into()));
    let mut again = Ws::open(relay.http, &path);
    assert_eq!(again.next(), WsSaid::Text("o".into()));
    // Broken JSON ends it without another frame of SockJS.
    again.text("[\"a");
    assert!(matches!(again.next(), WsSaid::Close(1002, _)));
    assert_eq!(again.next(), WsSaid::End);
    let mut close = Ws::open(relay.http, &format!("{}/websocket", fresh("/close")));
    assert_eq!(close.next(), WsSaid::Text("o".into()));
    assert_eq!(close.next(), WsSaid::Text("c[3000,\"Go away!\"]".into()));
    assert_eq!(close.next(), WsSaid::Close(3000, "Go away!".into()));
    for path in [path.as_str(), "/echo/websocket"] {
        assert_eq!(relay.ask(&get(path)).status(), 400, "{path}");
        let closing = get(path).upgrade().changed("Connection", Some("close"));
        assert_eq!(relay.ask(&closing).status(), 400, "{path}");
        let nothing = get(path).upgrade().changed("Upgrade", None);
        assert_eq!(relay.ask(&nothing).status(), 400, "{path}");
    }
    relay.is_well();
}

#[test]
fn raw_websocket() {
    let relay = Relay::echo();
    let mut ws = Ws::open(relay.http, "/echo/websocket");
    ws.text("Hello world!\u{ffff}");
    assert_eq!(ws.next(), WsSaid::Text("Hello world!\u{ffff}".into()));
    ws.frame(TEXT, b"[\"a");
    assert_eq!(ws.next(), WsSaid::Text("[\"a".into()));
    let mut close = Ws::open(relay.http, "/close/websocket");
    assert_eq!(close.next(), WsSaid::Close(3000, "Go away!".into()));
    // The same at the endpoint's own path.
    let mut own = Ws::open(relay.http, "/echo");
    own.text("x");
    assert_eq!(own.next(), WsSaid::Text("x".into()));
}

/// What is sent comes back the same, on every transport, and what browsers or proxies change on
/// the way is escaped.
#[test]
fn json_escapes() {
    let relay = Relay::echo();
    let text = every_char();
    for via in Via::ALL {
        let mut client = Client::open(&relay, "/echo", via);
        for piece in [&text[..], "€é😀\u{200c}\u{ffff}\"\\/'</script>%41 50%\r\n\0"] {
            client.send(&[piece]);
            assert_eq!(client.messages().concat(), piece, "{via:?}");
        }
    }
    let session = fresh("/echo");
    let mut http = relay.connect();
    assert_eq!(http.answer(&Via::Xhr.request(&session)).text(), "o\n");
    let json = serde_json::to_string(&[&text]).unwrap();
    assert_eq!(http.answer(&post(&format!("{session}/xhr_send"), json)).status(), 204);
    let answer = http.answer(&Via::Xhr.request(&session));
    let is_changed = |c: char| {
        matches!(c, '\0'..='\x1f' | '\u{200c}'..='\u{200f}' | '\u{2028}'..='\u{202f}'
            | '\u{2060}'..='\u{206f}' | '\u{fff0}'..='\u{ffff}')
    };
    let sent = answer.text().strip_suffix('\n').unwrap();
    assert_eq!(sent.chars().find(|c| is_changed(*c)), None);
    for escaped in ["\\u0000", "\\u001f", "\\u200c", "\\u2028", "\\u206f", "\\ufff0", "\\uffff"] {
        assert!(sent.contains(escaped), "{escaped}");
    }
}

#[test]
fn there_is_one_receiver() {
    let relay = Relay::echo();
    for via in Via::HTTP {
        let mut client = Client::open(&relay, "/echo", via);
        let busy = client.ask_twice();
        assert_eq!(busy, "c[2010,\"Another connection still open\"]", "{via:?}");
        client.send(&["x"]);
        assert_eq!(client.messages(), ["x"], "{via:?}");
    }
}

#[test]
fn a_closed_session_says_so_again() {
    let relay = Relay::echo();
    for via in Via::HTTP {
        let mut client = Client::open(&relay, "/close", via);
        for _ in 0..3 {
            assert_eq!(client.next(), Said::Close(3000, "Go away!".into()), "{via:?}");
        }
        // It takes what comes, and drops it.
        client.send(&["x"]);
        assert_eq!(client.next(), Said::Close(3000, "Go away!".into()), "{via:?}");
    }
    let answer = relay.ask(&Via::XhrStreaming.request(&fresh("/close")));
    let wanted = format!("{}\no\nc[3000,\"Go away!\"]\n", "h".repeat(2048));
    assert_eq!(answer.text(), wanted);
}

#[test]
fn a_receiver_that_breaks_ends_the_session() {
    let relay = Relay::echo();
    for via in Via::HTTP {
        let mut client = Client::open(&relay, "/echo", via);
        assert!(client.ask_twice().starts_with("c[2010,"), "{via:?}");
        client.abort();
        let said = client.next();
        let interrupted = Said::Close(1002, "Connection interrupted".into());
        assert!(said == Said::Open || said == interrupted, "{via:?}: {said:?}");
    }
}

#[test]
fn the_server_in_a_path_means_nothing() {
    let relay = Relay::echo();
    let session = fresh("/echo");
    assert_eq!(relay.ask(&request("POST", &format!("{session}/xhr"))).text(), "o\n");
    let elsewhere = session.replace("/000/", "/999/");
    assert_eq!(relay.ask(&post(&format!("{elsewhere}/xhr_send"), "[\"a\"]")).status(), 204);
    // With or without a slash at the end.
    assert_eq!(relay.ask(&request("POST", &format!("{session}/xhr/"))).text(), "a[\"a\"]\n");
}

/// The same name at two endpoints is two sessions.
#[test]
fn a_name_belongs_to_its_endpoint() {
    let relay = Relay::echo();
    let session = fresh("/echo");
    assert_eq!(relay.ask(&Via::Xhr.request(&session)).text(), "o\n");
    let other = session.replace("/echo/", "/cookie_needed_echo/");
    assert_eq!(relay.ask(&post(&format!("{other}/xhr_send"), "[\"a\"]")).status(), 404);
    assert_eq!(relay.ask(&Via::XhrStreaming.request(&session)).status(), 404);
}

#[test]
fn a_client_that_waits_is_told_that_all_is_well() {
    let relay = Relay::echo_with(|config| {
        let options = config.endpoints[0].sockjs.as_mut().unwrap();
        options.heartbeat_time = std::time::Duration::from_millis(100);
    });
    for via in Via::ALL {
        let mut client = Client::open(&relay, "/echo", via);
        assert_eq!(client.next(), Said::Heartbeat, "{via:?}");
        assert_eq!(client.next(), Said::Heartbeat, "{via:?}");
        client.send(&["x"]);
        assert_eq!(client.messages(), ["x"], "{via:?}");
    }
}
