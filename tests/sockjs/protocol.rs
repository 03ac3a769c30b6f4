//! What public protocol tests ask of answers that need no session: paths, methods, greeting,
//! iframe, `/info`, and HTTP's own rules.

use crate::client::{Via, fresh};
use crate::http::{Answer, Head, Request, get, options, post, request};
use crate::relay::Relay;

const UNCACHED: &str = "no-store, no-cache, no-transform, must-revalidate, max-age=0";

fn without_spaces(value: Option<&str>) -> String {
    value.unwrap_or_default().replace(' ', "")
}

pub(crate) fn is_uncached(head: &Head) {
    assert_eq!(head.header("cache-control"), Some(UNCACHED));
    assert!(!head.has("expires") && !head.has("last-modified"), "{head:?}");
}

pub(crate) fn is_cached(head: &Head) {
    let cache = head.header("cache-control").unwrap();
    let age = cache.split("max-age=").nth(1).unwrap();
    assert!(cache.contains("public") && age.parse::<u32>().unwrap() >= 1_000_000, "{cache}");
    assert!(head.has("expires") && !head.has("last-modified") && !head.has("set-cookie"));
}

pub(crate) fn has_cors(head: &Head, origin: Option<&str>) {
    assert_eq!(head.header("access-control-allow-origin"), Some(origin.unwrap_or("*")));
    let credentials = head.header("access-control-allow-credentials");
    assert_eq!(credentials, origin.map(|_| "true"), "any origin never with credentials");
}

#[test]
fn greeting() {
    let relay = Relay::echo();
    for path in ["/echo", "/echo/"] {
        let answer = relay.ask(&get(path));
        assert_eq!(answer.status(), 200);
        assert_eq!(without_spaces(answer.header("content-type")), "text/plain;charset=UTF-8");
        assert_eq!(answer.text(), "Welcome to SockJS!\n");
        assert_eq!(answer.header("set-cookie"), None);
    }
    relay.is_well();
}

#[test]
fn paths_are_taken_to_the_letter() {
    let relay = Relay::echo();
    for path in ["/a", "/a.html", "//", "///", "/a/a", "/a/a/", "/a/", "/iframe.htm"] {
        assert_eq!(relay.ask(&get(&format!("/echo{path}"))).status(), 404, "{path}");
    }
    for path in ["//xhr", "/a./a/xhr", "/a/a./xhr", "/././xhr", "//", "///", "/a/b/c/xhr"] {
        for method in ["GET", "POST"] {
            let answer = relay.ask(&request(method, &format!("/echo{path}")));
            assert_eq!(answer.status(), 404, "{method} {path}");
        }
    }
    for session in ["/000/a%20b", "/%20/a", "/000/%C3%A9"] {
        let answer = relay.ask(&post(&format!("/echo{session}/xhr"), ""));
        assert_eq!((answer.status(), answer.text()), (200, "o\n"), "{session}");
    }
    relay.is_well();
}

#[test]
fn other_methods_are_told_which_ones_there_are() {
    let relay = Relay::echo();
    let cases = [
        ("POST", "/0/0/websocket", "GET"),
        ("POST", "/websocket", "GET"),
        ("PUT", "/0/0/xhr", "POST, OPTIONS"),
        ("DELETE", "/0/0/xhr_streaming", "POST, OPTIONS"),
        ("GET", "/0/0/xhr_send", "POST, OPTIONS"),
        ("POST", "/0/0/eventsource", "GET"),
        ("POST", "/0/0/htmlfile", "GET"),
        ("POST", "/0/0/jsonp", "GET"),
        ("GET", "/0/0/jsonp_send", "POST"),
        ("POST", "/info", "GET, OPTIONS"),
        ("POST", "/iframe.html", "GET"),
        ("POST", "", "GET"),
    ];
    for (method, path, allow) in cases {
        let plain = request(method, &format!("/echo{path}"));
        for request in [plain.clone(), plain.clone().upgrade()] {
            let answer = relay.ask(&request);
            // An upgrade at the endpoint's own path is a raw WebSocket's.
            if path.is_empty() && answer.header("content-type").is_some() {
                assert_eq!(answer.status(), 405);
                continue;
            }
            assert_eq!(answer.status(), 405, "{method} {path}");
            assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
            assert_eq!(answer.header("content-type"), None, "{method} {path}");
            assert_eq!(answer.text(), "", "{method} {path}");
        }
    }
    relay.is_well();
}

#[test]
fn iframe() {
    let relay = Relay::echo();
    let good = ["/iframe.html", "/iframe-a.html", "/iframe-.html", "/iframe-0.1.2.html"];
    let versions =
        ["/iframe-0.1.2abc-dirty.2144.html", "/iframe.html?t=qweqweasd", "/iframe.html?"];
    let mut tag = String::new();
    for path in good.into_iter().chain(versions) {
        let answer = relay.ask(&get(&format!("/echo{path}")));
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(without_spaces(answer.header("content-type")), "text/html;charset=UTF-8");
        is_cached(&answer.head);
        let page = answer.text();
        assert!(page.starts_with("<!DOCTYPE html>\n<html>\n<head>\n  <meta http-equiv"), "{page}");
        let parts = [
            "<script src=\"https://cdn.jsdelivr.net/npm/sockjs-client@1/dist/sockjs.min.js\">",
            "document.domain = document.domain;\n    SockJS.bootstrap_iframe();\n  </script>",
            "<h2>Don't panic!</h2>\n  <p>This is a SockJS hidden iframe. It's used for cross",
        ];
        assert!(parts.iter().all(|part| page.contains(part)) && !page.contains("qweqweasd"));
        answer.header("etag").unwrap().clone_into(&mut tag);
    }
    for known in [tag.clone(), format!("\"a\", W/{tag}")] {
        let answer = relay.ask(&get("/echo/iframe.html").with("If-None-Match", &known));
        assert_eq!((answer.status(), answer.text()), (304, ""));
        assert_eq!(answer.header("content-type"), None);
        is_cached(&answer.head);
    }
    let other = relay.ask(&get("/echo/iframe.html").with("If-None-Match", "\"other\""));
    assert_eq!(other.status(), 200);
    let bad = ["/iframe", "/IFRAME.HTML", "/iframe.HTML", "/iframe.xml", "/iframe-/.html"];
    for path in bad {
        assert_eq!(relay.ask(&get(&format!("/echo{path}"))).status(), 404, "{path}");
    }
}

fn info(answer: &Answer) -> serde_json::Value {
    assert_eq!(answer.status(), 200);
    assert_eq!(without_spaces(answer.header("content-type")), "application/json;charset=UTF-8");
    is_uncached(&answer.head);
    assert_eq!(answer.header("set-cookie"), None);
    serde_json::from_slice(&answer.body).unwrap()
}

#[test]
fn info_says_what_there_is() {
    let relay = Relay::echo();
    let answer = relay.ask(&get("/echo/info").with("Origin", "test"));
    has_cors(&answer.head, Some("test"));
    let first = info(&answer);
    assert_eq!((&first["websocket"], &first["cookie_needed"]), (&true.into(), &false.into()));
    assert_eq!(first["origins"], serde_json::json!(["*:*"]));
    let second = info(&relay.ask(&get("/echo/info")));
    assert!(first["entropy"].is_u64() && first["entropy"] != second["entropy"]);
    has_cors(&relay.ask(&get("/echo/info")).head, None);
    let disabled = info(&relay.ask(&get("/disabled_websocket_echo/info")));
    assert_eq!(disabled["websocket"], false);
    let cookie = info(&relay.ask(&get("/cookie_needed_echo/info")));
    assert_eq!(cookie["cookie_needed"], true);
    for path in ["/disabled_websocket_echo/websocket", "/disabled_websocket_echo/0/0/websocket"] {
        assert_eq!(relay.ask(&get(path).upgrade()).status(), 404, "{path}");
    }
}

#[test]
fn info_may_name_another_address() {
    let relay = Relay::echo_with(|config| {
        let options = config.endpoints[0].sockjs.as_mut().unwrap();
        options.base_url = Some("https://node-1.example.org/ws".into());
    });
    let info = info(&relay.ask(&get("/echo/info")));
    assert_eq!(info["base_url"], "https://node-1.example.org/ws");
}

/// The options that a configuration of Spring may have.
#[test]
fn options_of_an_endpoint() {
    let relay = Relay::stomp("suppress_cors = true\nsession_cookie_needed = false", "");
    let asked = options("/ws/0/0/xhr").with("Origin", "http://127.0.0.1:1");
    for request in [get("/ws/info"), asked, Via::Xhr.request(&fresh("/ws"))] {
        let answer = relay.ask(&request);
        assert!(matches!(answer.status(), 200 | 204));
        for name in ["access-control-allow-origin", "set-cookie"] {
            assert_eq!(answer.header(name), None, "{answer:?}");
        }
    }
    let relay = Relay::stomp("web_socket_enabled = false", "");
    assert_eq!(info(&relay.ask(&get("/ws/info")))["websocket"], false);
    assert_eq!(relay.ask(&get("/ws/websocket").upgrade()).status(), 404);
    assert_eq!(relay.ask(&get("/ws/0/0/websocket").upgrade()).status(), 404);
    // Without SockJS there is the WebSocket at the path itself, and nothing else.
    let relay = Relay::stomp("sockjs = false", "");
    assert_eq!(relay.ask(&get("/ws").upgrade()).status(), 101);
    for path in ["/ws/", "/ws/info", "/ws/websocket", "/ws/0/0/websocket"] {
        assert_eq!(relay.ask(&get(path).upgrade()).status(), 404, "{path}");
    }
    // Of two endpoints the longer path counts.
    let two = "[[endpoint]]\npath = \"/ws/inner\"\nsession_cookie_needed = false";
    let relay = Relay::stomp("session_cookie_needed = true", two);
    assert_eq!(info(&relay.ask(&get("/ws/info")))["cookie_needed"], true);
    assert_eq!(info(&relay.ask(&get("/ws/inner/info")))["cookie_needed"], false);
}

#[test]
fn preflights() {
    let relay = Relay::echo();
    let cases = [
        ("/info", &["OPTIONS", "GET"]),
        ("/a/b/xhr", &["OPTIONS", "POST"]),
        ("/a/b/xhr_streaming", &["OPTIONS", "POST"]),
        ("/a/b/xhr_send", &["OPTIONS", "POST"]),
    ];
    for (path, methods) in cases {
        for origin in ["test", "null"] {
            let path = format!("/echo{path}");
            let plain = options(&path).with("Origin", origin);
            for asked in [None, Some(""), Some("a, b, c")] {
                let request = plain.clone().changed("Access-Control-Request-Headers", asked);
                let answer = relay.ask(&request);
                assert_eq!((answer.status(), answer.text()), (204, ""), "{path}");
                is_cached(&answer.head);
                has_cors(&answer.head, Some(origin));
                let allowed = answer.header("access-control-allow-methods").unwrap();
                assert!(methods.iter().all(|method| allowed.contains(method)), "{allowed}");
                let age = answer.header("access-control-max-age").unwrap();
                assert!(age.parse::<u32>().unwrap() > 1_000_000);
                let wanted = asked.filter(|asked| !asked.is_empty());
                assert_eq!(answer.header("access-control-allow-headers"), wanted, "{path}");
            }
        }
    }
}

/// Every answer says where it ends.
#[test]
fn answers_have_an_end() {
    let relay = Relay::echo();
    let session = fresh("/echo");
    let requests = [
        get("/echo"),
        get("/echo/a"),
        get("/echo/info"),
        get("/echo/iframe.html"),
        get("/echo/0/0/xhr"),
        get("/echo/0/0/htmlfile"),
        get("/echo/0/0/websocket"),
        get("/nothing"),
        Via::Xhr.request(&session),
        post(&format!("{session}/xhr_send"), "["),
        Via::Jsonp.request(&fresh("/echo")),
        Via::XhrStreaming.request(&fresh("/close")),
        Via::EventSource.request(&fresh("/close")),
        Via::HtmlFile.request(&fresh("/close")),
    ];
    for request in requests {
        let answer = relay.ask(&request);
        let head = &answer.head;
        let is_sure = head.has("content-length")
            || head.header("transfer-encoding") == Some("chunked")
            || head.header("connection") == Some("close");
        assert!(is_sure, "{head:?}");
    }
}

#[test]
fn http_1_0() {
    let relay = Relay::echo();
    let old = |request: Request| request.http_1_0().with("Connection", "Keep-Alive");
    let mut http = relay.connect();
    for _ in 0..2 {
        let answer = http.answer(&old(get("/echo")));
        assert_eq!(answer.text(), "Welcome to SockJS!\n");
        assert_eq!(answer.header("transfer-encoding"), None);
        if answer.header("connection") == Some("close") {
            assert_eq!(http.rest(), b"");
            http = relay.connect();
        } else {
            assert_eq!(answer.header("content-length"), Some("19"));
            assert_eq!(answer.header("connection").unwrap().to_lowercase(), "keep-alive");
        }
    }
    let mut http = relay.connect();
    http.ask(&old(Via::XhrStreaming.request(&fresh("/close"))));
    let head = http.head();
    assert_eq!(head.status, 200);
    assert!(!head.has("transfer-encoding") && !head.has("content-length"), "{head:?}");
    let body = String::from_utf8(http.rest()).unwrap();
    assert_eq!(body, format!("{}\no\nc[3000,\"Go away!\"]\n", "h".repeat(2048)));
}

#[test]
fn http_1_1_goes_on_with_the_connection() {
    let relay = Relay::echo();
    let mut http = relay.connect();
    let session = fresh("/echo");
    assert_eq!(http.answer(&get("/echo")).text(), "Welcome to SockJS!\n");
    assert_eq!(http.answer(&Via::Xhr.request(&session)).text(), "o\n");
    let sent = http.answer(&post(&format!("{session}/xhr_send"), "[\"a\"]"));
    assert_eq!(sent.status(), 204);
    assert_eq!(http.answer(&Via::Xhr.request(&session)).text(), "a[\"a\"]\n");
    let answer = http.answer(&Via::XhrStreaming.request(&fresh("/close")));
    assert!(answer.text().ends_with("c[3000,\"Go away!\"]\n"));
    assert_eq!(http.answer(&get("/echo/nothing")).status(), 404);
    // Bodies of requests that want none are not the next request.
    assert_eq!(http.answer(&post("/echo/0/0/xhr_send", "[\"a\"]")).status(), 404);
}

/// A POST without length and coding has no body; some clients and proxies send such ones.
#[test]
fn http_quirks() {
    let relay = Relay::echo();
    let mut http = relay.connect();
    let session = fresh("/echo");
    assert_eq!(http.answer(&request("POST", &format!("{session}/xhr"))).text(), "o\n");
    let sent = http.answer(&request("POST", &format!("{session}/xhr_send")));
    assert_eq!((sent.status(), sent.text()), (500, "Payload expected."));
    // sockjs-client in Node sends bodies in chunks.
    let path = format!("{session}/xhr_send");
    let chunked = post(&path, "4\r\n[\"a\"\r\n1\r\n]\r\n0\r\n\r\n");
    let sent = http.answer(&chunked.with("Transfer-Encoding", "chunked"));
    assert_eq!(sent.status(), 204);
    assert_eq!(http.answer(&request("POST", &format!("{session}/xhr"))).text(), "a[\"a\"]\n");
}
