//! The built program played over TLS, and through a door that wants a cookie.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy does not take the helpers of a test file for tests"
)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use support::authority::{Authority, Certificate};
use support::broker::broker;
use support::{run, serve};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

const COOKIE: &str = "session=s3cret-cookie";

/// A WebSocket for whoever has the cookie, the broker behind it.
async fn web_broker<S: AsyncRead + AsyncWrite + Unpin>(stream: S) {
    let check = |request: &Request, response: Response| {
        if request.headers().get("cookie").is_some_and(|cookie| cookie == COOKIE) {
            return Ok(response);
        }
        let mut refusal = ErrorResponse::new(None);
        *refusal.status_mut() = tokio_tungstenite::tungstenite::http::StatusCode::UNAUTHORIZED;
        Err(refusal)
    };
    let Ok(socket) = accept_hdr_async(stream, check).await else { return };
    let (mut sink, mut source) = socket.split();
    let (near, far) = tokio::io::duplex(1 << 20);
    let (mut from_broker, mut to_broker) = tokio::io::split(near);
    let reading = async {
        while let Some(Ok(message)) = source.next().await {
            if to_broker.write_all(&message.into_data()).await.is_err() {
                return;
            }
        }
    };
    let writing = async {
        let mut buffer = vec![0; 4096];
        while let Ok(count @ 1..) = from_broker.read(&mut buffer).await {
            let text = String::from_utf8(buffer[..count].to_vec()).unwrap();
            sink.send(Message::text(text)).await.unwrap_or_default();
        }
        sink.close().await.unwrap_or_default();
    };
    let both = async { tokio::join!(broker(far, Arc::default()), writing) };
    tokio::select! { () = reading => {}, _ = both => {} }
}

async fn start(authority: &Authority, web: bool, secure: bool) -> SocketAddr {
    let config = authority.config(Certificate::Good, false);
    serve(move |stream| {
        let acceptor = TlsAcceptor::from(Arc::clone(&config));
        async move {
            match (web, secure) {
                (true, false) => web_broker(stream).await,
                (false, false) => broker(stream, Arc::default()).await,
                (_, true) => match acceptor.accept(stream).await {
                    Ok(tls) if web => web_broker(tls).await,
                    Ok(tls) => broker(tls, Arc::default()).await,
                    Err(_) => {}
                },
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn cases_are_played_over_every_kind_of_url() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    let ca = ca.to_str().unwrap();
    let cookie = format!("Cookie: {COOKIE}");
    let rows: [(&str, &[&str], i32); 7] = [
        ("tls://", &["--ca", ca], 1),
        ("tls://", &["--insecure"], 1),
        ("tls://", &[], 2),
        ("wss://", &["--ca", ca, "--header", &cookie], 1),
        ("wss://", &["--insecure", "--header", &cookie], 1),
        ("ws://", &["--header", &cookie], 1),
        ("ws://", &[], 2),
    ];
    for (scheme, args, code) in rows {
        let web = scheme.starts_with('w');
        let address = start(&authority, web, scheme.ends_with("s://") && scheme != "ws://").await;
        let url = format!("{scheme}{address}");
        let fixed = ["--timeout", "2", "--jobs", "64", "--skip-tag", "slow", "--format", "json"];
        let ran = run([url.as_str()].into_iter().chain(fixed).chain(args.iter().copied())).await;
        assert_eq!(ran.code, code, "{url} {args:?} {}", ran.stderr);
        assert!(!ran.stdout.contains("s3cret") && !ran.stderr.contains("s3cret"), "{url}");
        if code == 2 {
            continue;
        }
        let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        let passed = report["counts"]["must"]["passed"].as_u64().unwrap();
        assert!(passed > 5, "{url}: {passed}");
        let transport = if web { "ws-text" } else { "tcp" };
        let outcomes = report["outcomes"].as_array().unwrap();
        assert!(outcomes.iter().any(|outcome| outcome["transport"] == transport), "{url}");
    }
}
