//! Inputs that have broken other SockJS servers, each under the number it has in the collection
//! they come from (S: requests; J: the same seen from security). After each the server is alive,
//! a session works, and none is left over.

use crate::client::{Client, Said, Via, fresh};
use crate::http::{Answer, Request, get, options, post, request};
use crate::relay::Relay;
use crate::ws::{Ws, WsSaid};

const EVIL: (&str, &str) = ("Origin", "http://evil.example");

/// What a case leaves behind is soon gone.
fn relay() -> Relay {
    Relay::stomp("disconnect_delay = \"200ms\"", "")
}

/// For sessions that live on from one request to the next, and end as they should.
fn patient() -> Relay {
    Relay::stomp("", "")
}

/// Requests, the status of their answers, and what the answers have.
fn rows(relay: &Relay, rows: Vec<(&str, Request, u16)>) -> Vec<Answer> {
    let answers = rows.into_iter().map(|(row, request, status)| {
        let answer = relay.ask(&request);
        assert_eq!(answer.status(), status, "{row}: {answer:?}");
        relay.is_well();
        answer
    });
    answers.collect()
}

/// An answer that says nothing to pages of other origins.
fn is_closed_to_others(answer: &Answer) {
    assert_eq!(answer.header("access-control-allow-origin"), None, "{answer:?}");
    assert_eq!(answer.header("access-control-allow-credentials"), None, "{answer:?}");
}

/// J11 and S01 to S05: an upgrade where there is none to be had is answered as a request without
/// one (S04 wants that for `/info`), 404 where there is nothing, and its connection ends, so that
/// nothing sent after it is a request.
#[test]
fn s01_to_s05_j11_upgrades_elsewhere() {
    let relay = relay();
    let cases = [
        ("S01", get("/ws/upgrade").upgrade(), 404),
        ("J11 info", get("/ws/info").upgrade(), 200),
        ("J11 xhr", get("/ws/0/0/xhr").upgrade(), 405),
        ("J11 iframe", get("/ws/iframe.html").upgrade(), 200),
        ("J11 /", get("/ws/").upgrade(), 200),
        ("J11 root", get("/").upgrade(), 404),
        ("S05", get("/ws/0/0/websocket"), 400),
        ("S05 raw", get("/ws/websocket"), 400),
    ];
    for (answer, case) in rows(&relay, cases.to_vec()).iter().zip(cases) {
        if case.0 != "J11 root" {
            assert_eq!(answer.header("connection"), Some("close"), "{}", case.0);
        }
    }
    // Servers have died of those that did not wait for the answer.
    for path in ["/ws/upgrade", "/ws/info", "/ws", "/ws/websocket", "/ws/0/0/websocket"] {
        let mut http = relay.connect();
        http.ask(&get(path).upgrade());
        http.reset();
    }
    relay.is_well();
    let h2c = get("/ws/info").with("Upgrade", "h2c").with("Connection", "Upgrade, HTTP2-Settings");
    rows(&relay, vec![("S04", h2c.with("HTTP2-Settings", "AAMAAABkAAQAoAAAAAIAAAAA"), 200)]);
}

/// S02: the endpoint's own path is a raw WebSocket here, and without an upgrade the greeting.
#[test]
fn s02_the_endpoint_itself() {
    let relay = relay();
    let mut ws = Ws::open(relay.http, "/ws");
    ws.text("CONNECT\naccept-version:1.2\nlogin:guest\npasscode:guest\n\n\0");
    let WsSaid::Text(connected) = ws.next() else { panic!() };
    assert!(connected.starts_with("CONNECTED\n"));
    drop(ws);
    rows(&relay, vec![("S02", get("/ws"), 200)]);
}

#[test]
fn s07_to_s11_handshakes() {
    let relay = relay();
    for path in ["/ws", "/ws/websocket", "/ws/0/0/websocket"] {
        let good = get(path).upgrade();
        let version = |version| good.clone().changed("Sec-WebSocket-Version", Some(version));
        let answers = rows(
            &relay,
            vec![
                ("S07", version("7"), 426),
                ("S07", version("99"), 426),
                ("S08", good.clone().changed("Sec-WebSocket-Key", Some("abc")), 400),
            ],
        );
        assert_eq!(answers[0].header("sec-websocket-version"), Some("13"));
        // S10, S11: what slow parsers choke on is passed over.
        let extension = format!("x; a=\"{}\"", "\\b\\c".repeat(1800));
        let protocol = format!("b{}x", " ".repeat(12_000));
        let mut requests = vec![good.clone().with("Sec-WebSocket-Extensions", &extension)];
        requests.push(good.clone().with("Sec-WebSocket-Protocol", &protocol));
        for request in requests {
            let start = std::time::Instant::now();
            let answer = relay.ask(&request);
            assert!(start.elapsed() < crate::PATIENCE / 10);
            assert_eq!(answer.status(), 101);
            let chosen = ["sec-websocket-extensions", "sec-websocket-protocol"];
            assert!(chosen.iter().all(|name| answer.header(name).is_none()));
        }
    }
    relay.is_well();
}

#[test]
fn s13_s14_s17_j08_j10_pages_of_other_origins() {
    let relay = relay();
    for (name, value) in [EVIL, ("Origin", "null"), ("Origin", "http://127.0.0.1.evil.example")] {
        let session = fresh("/ws");
        let cases = vec![
            ("S13", get("/ws/0/0/websocket").upgrade(), 403),
            ("S14", get("/ws/websocket").upgrade(), 403),
            ("S14 own path", get("/ws").upgrade(), 403),
            ("J08", get("/ws/info"), 403),
            ("J10", options("/ws/info"), 403),
            ("J10 xhr", options("/ws/0/0/xhr"), 403),
            ("S17 xhr", Via::Xhr.request(&session), 403),
            ("S17 xhr_streaming", Via::XhrStreaming.request(&session), 403),
            ("S17 eventsource", Via::EventSource.request(&session), 403),
            ("S17 htmlfile", Via::HtmlFile.request(&session), 403),
            ("S17 jsonp", Via::Jsonp.request(&session), 403),
            ("S17 jsonp_send", post(&format!("{session}/jsonp_send"), "[]"), 403),
        ];
        let cases = cases
            .into_iter()
            .map(|(row, request, status)| (row, request.with(name, value), status));
        for answer in rows(&relay, cases.collect()) {
            is_closed_to_others(&answer);
        }
    }
    // Scripts and forms of other sites say no Origin, but browsers say what they are.
    for via in [Via::HtmlFile, Via::Jsonp] {
        let request = via.request(&fresh("/ws")).with("Sec-Fetch-Site", "cross-site");
        assert_eq!(relay.ask(&request).status(), 403, "{via:?}");
    }
    // Any origin, but never with credentials for who does not say which one.
    let open = Relay::stomp("allowed_origins = [\"*\"]", "");
    crate::protocol::has_cors(&open.ask(&get("/ws/info")).head, None);
}

/// S16: a "simple" request, for which a browser asks nobody before.
#[test]
fn s16_a_send_of_another_origin_changes_nothing() {
    let relay = patient();
    let mut client = Client::open(&relay, "/ws", Via::Xhr);
    client.connect();
    client.subscribe("0", "/topic/a");
    let frame = serde_json::to_string(&["SEND\ndestination:/topic/a\n\nevil\0"]).unwrap();
    let send = post(&format!("{}/xhr_send", client.session), frame)
        .with("Content-Type", "text/plain")
        .with(EVIL.0, EVIL.1);
    let answer = relay.ask(&send);
    assert_eq!(answer.status(), 403);
    is_closed_to_others(&answer);
    client.send(&["SEND\ndestination:/topic/a\n\ngood\0"]);
    assert!(client.frame().ends_with("\n\ngood"));
    client.bye();
    relay.is_well();
}

#[test]
fn s19_long_lists_of_headers_are_not_sent_back() {
    let relay = relay();
    let origin = format!("http://{}", relay.http);
    for asked in [format!("authorization{}", ", x".repeat(1000)), "a\"<b>".into()] {
        let preflight = options(&format!("{}/xhr", fresh("/ws")))
            .with("Origin", &origin)
            .with("Access-Control-Request-Headers", &asked);
        let answers = rows(&relay, vec![("S19", preflight, 204)]);
        assert_eq!(answers[0].header("access-control-allow-headers"), None);
        assert_eq!(answers[0].header("access-control-allow-origin"), Some(origin.as_str()));
    }
}

#[test]
fn s20_to_s25_j07_names_of_functions() {
    let relay = relay();
    let long = "a".repeat(65);
    let names = [
        "c=alert(1)",
        "c=",
        "c=a&c=%3Cb%3E",
        "c=%3Cscript%3E",
        "c=alert(1)//",
        &format!("c={long}"),
        "",
    ];
    for transport in ["htmlfile", "jsonp"] {
        for name in names {
            let request = get(&format!("{}/{transport}?{name}", fresh("/ws")));
            let answers = rows(&relay, vec![(name, request, 500)]);
            let text = answers[0].text();
            assert!(!text.contains(['<', '(']) && text.ends_with("\n"), "{name}: {text}");
            assert_eq!(answers[0].header("content-type"), Some("text/plain; charset=UTF-8"));
            assert_eq!(answers[0].header("x-content-type-options"), Some("nosniff"));
        }
    }
    // What no URL may have is refused as that.
    rows(&relay, vec![("J07", get("/ws/0/0/jsonp?c=<script>"), 400)]);
    let flash = get(&format!("{}/jsonp?c=CWSMIKI0hCD0Up0IZUnnnnnnnnn", fresh("/ws")));
    let answers = rows(&relay, vec![("S25", flash, 200)]);
    assert_eq!(answers[0].text(), "/**/CWSMIKI0hCD0Up0IZUnnnnnnnnn(\"o\");\r\n");
    assert_eq!(answers[0].header("x-content-type-options"), Some("nosniff"));
    // J07: not there where nobody asked for them.
    let usual = Relay::stomp("transports = [\"websocket\", \"xhr\"]", "");
    for via in [Via::HtmlFile, Via::Jsonp, Via::EventSource, Via::XhrStreaming] {
        assert_eq!(usual.ask(&via.request(&fresh("/ws"))).status(), 404, "{via:?}");
    }
    assert_eq!(usual.ask(&post("/ws/0/0/jsonp_send", "[]")).status(), 404);
    assert_eq!(usual.ask(&get("/ws/iframe.html")).status(), 404);
}

/// S26, S28, S29, J14: what breaks out of the script, the event or the string it stands in.
#[test]
fn s26_s28_s29_j14_messages_stay_what_they_are() {
    let relay = patient();
    let texts = [
        "</script><script>top.p=1</script>",
        "50%",
        "%41",
        "\n\ndata: x",
        "\r\n\r\nevent: y",
        "a\u{2028}b\u{2029}c",
        "\"];alert(1);//",
        "\u{fffd}",
    ];
    for via in Via::ALL {
        let mut client = Client::open(&relay, "/ws", via);
        client.connect();
        client.subscribe("0", "/topic/a");
        for text in texts {
            let frame = format!("SEND\ndestination:/topic/a\ncontent-type:text/html\n\n{text}\0");
            client.send(&[frame]);
            assert_eq!(crate::client::body(&client.frame()), text, "{via:?}");
        }
        client.bye();
    }
    // To the byte.
    let (htmlfile, eventsource) = (Via::HtmlFile, Via::EventSource);
    let cases = [
        (htmlfile, "</script>", "\\u003c/script\\u003e"),
        (Via::Jsonp, "</script>", "\\u003c/script\\u003e"),
        (eventsource, "50%", "50%25"),
        (eventsource, "%41", "%2541"),
        (eventsource, "\n\ndata: x", "\\n\\ndata: x"),
    ];
    let echo = Relay::echo();
    for (via, text, wanted) in cases {
        let mut client = Client::open(&echo, "/echo", via);
        client.send(&[text]);
        let piece = client.piece();
        assert!(piece.contains(wanted), "{via:?}: {piece}");
    }
    relay.is_well();
}

#[test]
fn s31_s32_s34_paths() {
    let relay = relay();
    let long = "a".repeat(6000);
    let nothing = [
        "/ws/../../etc/passwd",
        "/ws/./x/xhr",
        "//ws/info",
        "/wsfoo/info",
        "/ws.js",
        "/ws/info/",
        "/ws/info;a.js",
        "/ws/000/a;b/xhr",
        "/ws/000/abc/xhr.js",
        "/ws/000/abc/xhr;.bat",
        &format!("/ws/000/{long}/xhr"),
        &format!("/ws/{long}/abc/xhr"),
    ];
    for path in nothing {
        for method in ["GET", "POST"] {
            rows(&relay, vec![(path, request(method, path), 404)]);
        }
    }
    // A name is a name, whatever is in it.
    for name in ["%2e%2e", "a%00b", "a%2fb", "__proto__", "constructor", "a'b", "*"] {
        let path = format!("/ws/000/{name}/xhr");
        rows(&relay, vec![(name, request("POST", &path), 200)]);
    }
    // Bytes beyond ASCII, as they are.
    let mut http = relay.connect();
    http.bytes(b"POST /ws/000/\xc3\xa9\xff/xhr HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert!(matches!(http.head().status, 400 | 404));
    relay.is_well();
}

/// S35 to S41, J05: bodies that are no array of strings. After each the session goes on.
#[test]
fn s35_to_s41_j05_bodies() {
    let relay = patient();
    let mut client = Client::open(&relay, "/ws", Via::Xhr);
    client.connect();
    let deep = "[".repeat(100_000);
    let (expected, broken) = ("Payload expected.", "Broken JSON encoding.");
    let cases = [
        ("J05 empty", "", expected),
        ("S35 {}", "{}", expected),
        ("S35 null", "null", expected),
        ("S35 \"a\"", "\"a\"", expected),
        ("S35 1", "1", expected),
        ("J05 numbers", "[1, 2]", broken),
        ("J05 nested", "[[\"a\"]]", broken),
        ("J05 null in it", "[null]", broken),
        ("J05 open", "[\"x", broken),
        ("S37", &deep, broken),
        ("S38 rest", "[\"a\"]x", broken),
        ("S38 BOM", "\u{feff}[\"a\"]", broken),
        ("J05 text", "hello", broken),
        ("J05 control", "[\"a\nb\"]", broken),
    ];
    for (row, body, text) in cases {
        let answer = client.post(body);
        assert_eq!((answer.status(), answer.text()), (500, text), "{row}");
    }
    let path = format!("{}/xhr_send", client.session);
    assert_eq!(relay.ask(&post(&path, b"[\"\xff\"]")).status(), 500);
    // S40: half a character becomes one that says so.
    client.subscribe("0", "/topic/a");
    let body = r#"["SEND\ndestination:/topic/a\n\na\ud800b\u0000"]"#;
    assert_eq!(client.post(body).status(), 204);
    assert!(client.frame().ends_with("\n\na\u{fffd}b"));
    // S41: too many and too much.
    let many = |count: usize| format!("[{}]", vec!["\"\""; count].join(","));
    assert_eq!(client.post(&many(1025)).status(), 413);
    assert_eq!(client.post(&many(200_000)).status(), 413);
    assert_eq!(client.post(&many(1024)).status(), 204);
    client.bye();
    relay.is_well();
}

/// S37 before CONNECTED, where 16 KiB is all there is to send.
#[test]
fn s37_before_connected() {
    let relay = patient();
    let mut client = Client::open(&relay, "/ws", Via::Xhr);
    assert_eq!(client.post(&"[".repeat(16 * 1024)).status(), 500);
    assert_eq!(client.post(&"[".repeat(16 * 1024 + 1)).status(), 413);
    client.connect();
    client.bye();
    relay.is_well();
}

/// S44: HTTP lets a server take the coding and forget the length, as long as the connection ends
/// after the answer (RFC 9112, 6.1). That is what hyper does.
#[test]
fn s44_length_and_coding() {
    let relay = patient();
    let mut client = Client::open(&relay, "/ws", Via::Xhr);
    client.connect();
    let smuggled = "0\r\n\r\nGET /ws/info HTTP/1.1\r\nHost: a\r\n\r\n";
    for names in [["Content-Length", "Transfer-Encoding"], ["Transfer-Encoding", "Content-Length"]]
    {
        let mut request = post(&format!("{}/xhr_send", client.session), smuggled);
        for name in names {
            request = request.with(name, if name == "Content-Length" { "5" } else { "chunked" });
        }
        let mut http = relay.connect();
        let answer = http.answer(&request);
        assert!(matches!(answer.status(), 400 | 500), "{answer:?}");
        assert_eq!(http.rest(), b"", "nothing after it is a request");
    }
    client.bye();
    relay.is_well();
}

#[test]
fn s46_s47_s52_j04_sends() {
    let relay = patient();
    let mut xhr = Client::open(&relay, "/ws", Via::Xhr);
    xhr.connect();
    let path = format!("{}/xhr_send", xhr.session);
    for coding in ["gzip", "br", "identity, gzip"] {
        let answer = relay.ask(&post(&path, "\x1f\u{8b}").with("Content-Encoding", coding));
        assert_eq!(answer.status(), 415, "S46 {coding}");
    }
    let mut jsonp = Client::open(&relay, "/ws", Via::Jsonp);
    jsonp.connect();
    let path = format!("{}/jsonp_send", jsonp.session);
    let cases = [
        ("d=%", "application/x-www-form-urlencoded"),
        ("d=[]&d=[]", "application/x-www-form-urlencoded"),
        (
            "--x\r\nContent-Disposition: form-data; name=\"d\"\r\n\r\n[]\r\n--x--",
            "multipart/form-data",
        ),
    ];
    for (body, kind) in cases {
        let answer = relay.ask(&post(&path, body).with("Content-Type", kind));
        assert_eq!(answer.status(), 500, "S47 {body}");
    }
    let mut ws = Client::open(&relay, "/ws", Via::WebSocket);
    ws.connect();
    let path = format!("{}/xhr_send", ws.session);
    assert_eq!(relay.ask(&post(&path, "[\"\\n\"]")).status(), 404, "S52");
    let unknown = post(&format!("{}/xhr_send", fresh("/ws")), "[\"a\"]");
    assert_eq!(relay.ask(&unknown).status(), 404, "J04");
    for client in [&mut xhr, &mut jsonp, &mut ws] {
        client.bye();
    }
    relay.is_well();
}

#[test]
fn s49_methods() {
    let relay = relay();
    let secret = |method: &str, path: &str| request(method, path).with("X-Secret", "s3cret");
    let cases = vec![
        ("HEAD", secret("HEAD", "/ws/info"), 405),
        ("TRACE", secret("TRACE", "/ws/info"), 405),
        ("FOO", secret("FOO", "/ws/0/0/xhr"), 405),
        ("PUT", secret("PUT", "/ws/0/0/xhr"), 405),
        ("DELETE", secret("DELETE", "/ws/0/0/xhr_send"), 405),
    ];
    for answer in rows(&relay, cases) {
        assert!(answer.header("allow").is_some() && !answer.text().contains("s3cret"));
    }
}

#[test]
fn s50_large_heads() {
    let relay = relay();
    let many = (0..300).fold(get("/ws/info"), |request, n| request.with(&format!("X-{n}"), "a"));
    let cases = vec![
        ("S50 80 KB", get("/ws/info").with("X-Long", &"a".repeat(80_000)), 431),
        ("S50 300", many, 431),
    ];
    rows(&relay, cases);
}

#[test]
fn s58_s59_broken_websockets() {
    let relay = relay();
    let cases: [(&str, u8, &[u8], u16); 8] = [
        ("bad UTF-8", 0x81, b"[\"\xff\"]", 1007),
        ("close 999", 0x88, &999_u16.to_be_bytes(), 1002),
        ("close 1005", 0x88, &1005_u16.to_be_bytes(), 1002),
        ("close of one byte", 0x88, b"\x03", 1002),
        ("reserved bit", 0xC1, b"[]", 1002),
        ("unknown opcode", 0x83, b"", 1002),
        ("continuation of nothing", 0x80, b"", 1002),
        ("no JSON", 0x81, b"hello", 1002),
    ];
    for (row, first, payload, code) in cases {
        let mut ws = Ws::open(relay.http, &format!("{}/websocket", fresh("/ws")));
        assert_eq!(ws.next(), WsSaid::Text("o".into()));
        ws.frame(first, payload);
        let WsSaid::Close(got, _) = ws.next() else { panic!("S58 {row}") };
        assert_eq!(got, code, "S58 {row}");
        assert_eq!(ws.next(), WsSaid::End);
        relay.is_well();
    }
    // Lengths that nobody has: 2^63 and 20 MiB.
    for length in [1_u64 << 63, 20 << 20] {
        let mut ws = Ws::open(relay.http, &format!("{}/websocket", fresh("/ws")));
        assert_eq!(ws.next(), WsSaid::Text("o".into()));
        ws.bytes(&[&[0x81, 0xFF][..], &length.to_be_bytes(), &[0; 4]].concat());
        let WsSaid::Close(got, _) = ws.next() else { panic!("S58 {length}") };
        assert!(matches!(got, 1002 | 1009), "S58 {length}: {got}");
        relay.is_well();
    }
    // S59: a binary message is read as a text one.
    let mut ws = Ws::open(relay.http, &format!("{}/websocket", fresh("/ws")));
    assert_eq!(ws.next(), WsSaid::Text("o".into()));
    ws.frame(
        crate::ws::BINARY,
        br#"["CONNECT\naccept-version:1.2\nlogin:guest\npasscode:guest\n\n\u0000"]"#,
    );
    let WsSaid::Text(frame) = ws.next() else { panic!("S59") };
    assert!(frame.starts_with("a[\"CONNECTED\\n"), "{frame}");
    drop(ws);
    relay.is_well();
}

/// S64, J19: the iframe, which has the server's origin in every page that holds it.
#[test]
fn s64_j19_iframe() {
    let relay = relay();
    let answer = relay.ask(&get("/ws/iframe-1.6.1.html?%3Cscript%3Ealert(1)"));
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.header("content-security-policy"), Some("frame-ancestors 'self'"));
    assert!(!answer.text().contains("alert"));
    let tag = answer.header("etag").unwrap();
    let again = relay.ask(&get("/ws/iframe.html").with("If-None-Match", tag));
    assert_eq!((again.status(), again.text()), (304, ""));
    assert_eq!(again.header("content-security-policy"), Some("frame-ancestors 'self'"));
    let some = Relay::stomp(
        "allowed_origins = [\"https://app.example.org\"]\ntransports = [\"xhr\", \"iframe\"]",
        "",
    );
    assert_eq!(some.ask(&get("/ws/iframe.html")).status(), 404);
    relay.is_well();
}

/// S65: 1,000 receivers while the first one waits.
#[test]
fn s65_second_receivers() {
    let relay = patient();
    let mut client = Client::open(&relay, "/ws", Via::XhrStreaming);
    client.connect();
    let mut others: Vec<_> = (0..100).map(|_| relay.connect()).collect();
    for _ in 0..10 {
        for http in &mut others {
            http.ask(&client.via.request(&client.session));
        }
        for http in &mut others {
            let body = http.whole(false).body;
            assert!(client.via.unwrap_last(&body).starts_with("c[2010,"));
        }
    }
    client.send(&["DISCONNECT\nreceipt:1\n\n\0"]);
    assert!(client.frame().starts_with("RECEIPT\n"));
    assert_eq!(client.next(), Said::Close(1000, "DISCONNECT".into()));
    relay.is_well();
}

/// J17: the cookie is for balancers only, and says and opens nothing, so there is nothing to
/// guess. Scripts do not see it, and behind TLS it stays there.
#[test]
fn j17_the_cookie() {
    let relay = Relay::stomp("disconnect_delay = \"200ms\"", "trusted_proxies = [\"127.0.0.1\"]");
    let request = Via::Xhr.request(&fresh("/ws"));
    let plain = relay.ask(&request);
    assert_eq!(plain.header("set-cookie"), Some("JSESSIONID=dummy; path=/; HttpOnly"));
    let request = Via::Xhr.request(&fresh("/ws")).with("X-Forwarded-Proto", "https");
    let secure = relay.ask(&request);
    assert_eq!(secure.header("set-cookie"), Some("JSESSIONID=dummy; path=/; HttpOnly; Secure"));
    relay.is_well();
}
