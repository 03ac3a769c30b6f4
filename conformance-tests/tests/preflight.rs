//! What is no STOMP server, or lets nobody in: one line that says what to do, and exit code 2.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy does not take the helpers of a test file for tests"
)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rustls::ServerConfig;
use support::authority::{Authority, Certificate};
use support::{closed_port, run, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

/// `--timeout` of every run here, in seconds.
const LIMIT: &str = "2";
/// The program's own limit, and time to start on a busy machine.
const AT_MOST: Duration = Duration::from_secs(12);
const PASSCODE: &str = "s3cret-passcode";

/// What a little server does with a connection.
#[derive(Clone, Copy)]
enum Server {
    /// Nobody listens.
    None,
    /// Says this at once, and reads on.
    Greets(&'static str),
    /// Says this once something came, and reads on.
    Answers(&'static [u8]),
    /// Says this once something came, and closes.
    AnswersAndCloses(&'static [u8]),
    Closes,
    /// Reads and says nothing.
    Hangs,
    /// WebSocket: sends back what comes.
    Echo,
    /// WebSocket: closes at the first message.
    WebSocketCloses(u16, &'static str),
    WebSocketHangs,
    /// TLS with that certificate, then as the server within.
    Tls(Certificate, &'static Self),
    /// Closes where the first byte is none of TLS, without a word.
    SilentTls,
    /// As nginx: plain HTTP at a port of TLS is answered in plain.
    PlainHttpRefused,
    /// Wants a certificate of the client.
    MutualTls,
}

async fn start(server: Server, authority: &Authority) -> SocketAddr {
    let config = match server {
        Server::None => return closed_port().await,
        Server::Tls(certificate, _) => authority.config(certificate, false),
        Server::MutualTls => authority.config(Certificate::Good, true),
        _ => authority.config(Certificate::Good, false),
    };
    serve(move |stream| handle(server, stream, Arc::clone(&config))).await
}

async fn handle(server: Server, mut stream: TcpStream, config: Arc<ServerConfig>) {
    let mut first = [0];
    match server {
        Server::Tls(_, within) => {
            if let Ok(tls) = TlsAcceptor::from(config).accept(stream).await {
                plain(*within, tls).await;
            }
        }
        Server::MutualTls => {
            if let Ok(tls) = TlsAcceptor::from(config).accept(stream).await {
                plain(Server::Hangs, tls).await;
            }
        }
        Server::SilentTls | Server::PlainHttpRefused => {
            if stream.peek(&mut first).await.is_err() {
                return;
            }
            if first == [0x16] {
                let Ok(tls) = TlsAcceptor::from(config).accept(stream).await else { return };
                plain(Server::Hangs, tls).await;
            } else if matches!(server, Server::PlainHttpRefused) {
                let answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 58\r\n\r\n\
                    Bad: the plain HTTP request was sent to HTTPS port, nginx";
                stream.write_all(answer).await.unwrap_or_default();
            }
        }
        server => plain(server, stream).await,
    }
}

async fn plain<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    server: Server,
    mut stream: S,
) {
    let mut buffer = vec![0; 4096];
    let (greeting, answer, closes): (&str, &[u8], bool) = match server {
        Server::Greets(text) => (text, b"", false),
        Server::Answers(bytes) => ("", bytes, false),
        Server::AnswersAndCloses(bytes) => ("", bytes, true),
        Server::Closes => ("", b"", true),
        Server::Hangs => ("", b"", false),
        Server::Echo | Server::WebSocketCloses(..) | Server::WebSocketHangs => {
            return web_socket(server, stream).await;
        }
        _ => panic!("not within TLS"),
    };
    stream.write_all(greeting.as_bytes()).await.unwrap_or_default();
    stream.flush().await.unwrap_or_default();
    if !stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
        return;
    }
    stream.write_all(answer).await.unwrap_or_default();
    stream.flush().await.unwrap_or_default();
    while !closes && stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
}

async fn web_socket<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    server: Server,
    stream: S,
) {
    let Ok(mut socket) = accept_async(stream).await else { return };
    while let Some(Ok(message)) = socket.next().await {
        match server {
            Server::Echo if message.is_text() => socket.send(message).await.unwrap_or_default(),
            Server::WebSocketCloses(code, reason) if message.is_text() => {
                let frame = CloseFrame { code: code.into(), reason: reason.into() };
                socket.send(Message::Close(Some(frame))).await.unwrap_or_default();
            }
            _ => {}
        }
    }
}

/// A server, the URL before and after its address, and a part of the line.
type Row = (Server, &'static str, &'static str, &'static str);

const REFUSED: &[u8] =
    b"ERROR\nmessage:Bad CONNECT\n\nAccess refused: joe with s3cret-passcode\n\0";

/// One line on standard error, nothing on standard output, 2, in time, and no passcode.
async fn check(rows: &[Row], more: &[&str]) {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    for (server, before, after, expected) in rows {
        let address = start(*server, &authority).await;
        let url = format!("{before}{address}{after}");
        let ca = ca.to_str().unwrap();
        let fixed = ["--timeout", LIMIT, "--passcode", PASSCODE, &url];
        let more = more.iter().map(|word| if *word == "CA" { ca } else { word });
        let ran = run(fixed.into_iter().chain(more)).await;
        let port = address.port().to_string();
        let expected = expected.replace("PORT", &port);
        assert!(ran.stderr.contains(&expected), "expected: {expected}\n{url}\n{ran}");
        assert!(ran.stderr.starts_with(&format!("stomp-conformance: {url}: ")), "{ran}");
        assert!(ran.stderr.matches('\n').count() == 1, "{ran}");
        assert!(!ran.stderr.contains(PASSCODE), "{ran}");
        assert!(ran.code == 2 && ran.stdout.is_empty(), "{ran}");
        assert!(ran.took < AT_MOST, "{url} {ran}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp() {
    use Server::*;
    let rows: [Row; 16] = [
        (
            AnswersAndCloses(b"<!DOCTYPE HTML>\n<html>"),
            "tcp://",
            "",
            r#"but HTML: "<!DOCTYPE HTML>\n<html>""#,
        ),
        (None, "tcp://", "", "nothing listens at 127.0.0.1:PORT; start the server, or check"),
        (
            AnswersAndCloses(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"),
            "tcp://",
            "",
            "a web server answers there; where its STOMP is WebSocket, use ws://127.0.0.1:PORT/",
        ),
        (Greets("SSH-2.0-OpenSSH_9.2\r\n"), "tcp://", "", r#"but SSH: "SSH-2.0-OpenSSH_9.2\r\n""#),
        (Greets("220 mail ESMTP\r\n"), "tcp://", "", r#"but SMTP or FTP: "220 mail ESMTP\r\n""#),
        (AnswersAndCloses(b"AMQP\0\0\x09\x01"), "tcp://", "", r#"but AMQP: "AMQP\0\0\x09\x01""#),
        (
            Answers(b"-ERR unknown\r\n"),
            "tcp://",
            "",
            r#"answers there but "-ERR unknown\r\n"; check"#,
        ),
        (
            Answers(REFUSED),
            "tcp://",
            "",
            r#"it refuses CONNECT: "Bad CONNECT" ("Access refused: joe with ***"); check --login"#,
        ),
        (Answers(b"MESSAGE\n\n\0"), "tcp://", "", r#"answers CONNECT by "MESSAGE" and not by"#),
        (Answers(b"CONNECTED\nx\n\n\0"), "tcp://", "", "by what is no frame: malformed frame"),
        (Answers(b"CONNECTED\nversion"), "tcp://", "", r#"within 2s, only "CONNECTED\nversion""#),
        (
            AnswersAndCloses(b"ERROR\nmes"),
            "tcp://",
            "",
            r#"within a frame, after "ERROR\nmes"; check"#,
        ),
        (Hangs, "tcp://", "", "takes the connection and says nothing to CONNECT within 2s"),
        (
            Closes,
            "tcp://",
            "",
            "closes the connection on CONNECT, without an answer; check --login",
        ),
        (Tls(Certificate::Good, &Hangs), "tcp://", "", "this port speaks TLS; use tls://"),
        (SilentTls, "tcp://", "", "this port speaks TLS; use tls://"),
    ];
    check(&rows, &["--login", "joe"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_was_not_sent() {
    let rows: [Row; 1] =
        [(Server::Answers(REFUSED), "tcp://", "", "none was sent: give --login and --passcode")];
    check(&rows, &["--login", ""]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls() {
    use Server::*;
    let rows: [Row; 8] = [
        (None, "tls://", "", "nothing listens at"),
        (
            Hangs,
            "tls://",
            "",
            "no answer to the TLS handshake within 2s; where the port is plain, use tcp",
        ),
        (Answers(REFUSED), "tls://", "", "what answers there is not TLS; use tcp://"),
        (Closes, "tls://", "", "closes the connection in the TLS handshake"),
        (Tls(Certificate::Good, &Hangs), "tls://", "", "by nobody trusted here; give its root"),
        (Tls(Certificate::Good, &Hangs), "wss://", "/ws", "certificate by --ca FILE, or look away"),
        (Answers(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "wss://", "/", "is not TLS; use ws://"),
        (Hangs, "wss://", "/", "TLS handshake within 2s; where the port is plain, use ws://"),
    ];
    check(&rows, &["--login", "joe"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_its_root() {
    use Server::*;
    const PAGE: Server = AnswersAndCloses(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    const NOT_FOUND: Server = AnswersAndCloses(b"HTTP/1.1 404 Not Found\r\n\r\n");
    let rows: [Row; 7] = [
        (Tls(Certificate::Expired, &Hangs), "tls://", "", "certificate has expired; renew it"),
        (
            Tls(Certificate::OfAnotherName, &Hangs),
            "tls://",
            "",
            r#"certificate is not for 127.0.0.1 but for"#,
        ),
        (Tls(Certificate::Good, &Hangs), "tls://", "", "says nothing to CONNECT within 2s"),
        (Tls(Certificate::Good, &Answers(REFUSED)), "tls://", "", "it refuses CONNECT"),
        (Tls(Certificate::Good, &PAGE), "tls://", "", "use wss://127.0.0.1:PORT/PATH"),
        (Tls(Certificate::Good, &NOT_FOUND), "wss://", "/ws", "HTTP 404"),
        (MutualTls, "tls://", "", "a client certificate"),
    ];
    check(&rows, &["--login", "joe", "--ca", "CA"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn web_socket_servers() {
    use Server::*;
    let rows: [Row; 11] = [
        (None, "ws://", "/ws", "nothing listens at"),
        (AnswersAndCloses(REFUSED), "ws://", "/ws", "a plain STOMP server answers there; use tcp:"),
        (Hangs, "ws://", "/ws", "a WebSocket within 2s; where the port is plain STOMP, use tcp://"),
        (Closes, "ws://", "/ws", "it closes the connection on the request for a WebSocket"),
        (Greets("SSH-2.0-x\r\n"), "ws://", "/ws", "no web server answers there but SSH"),
        (Tls(Certificate::Good, &Hangs), "ws://", "/ws", "this port speaks TLS; use wss://"),
        (PlainHttpRefused, "ws://", "/ws", "this port speaks TLS; use wss://"),
        (Echo, "ws://", "/ws", "so it is an echo server and no STOMP server"),
        (WebSocketHangs, "ws://", "/ws", "says nothing to CONNECT within 2s"),
        (WebSocketCloses(1008, "log in"), "ws://", "/ws", r#"on CONNECT with 1008 "log in", with"#),
        (WebSocketCloses(1002, ""), "ws://", "/ws", "on CONNECT with 1002, without an answer"),
    ];
    check(&rows, &["--login", "joe"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn web_servers_that_open_no_web_socket() {
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
    let rows: [(&[u8], &str); 10] = [
        (b"HTTP/1.0 401 Unauthorized\r\n\r\n", "HTTP 401 in place of a WebSocket: it wants"),
        (OK, "/ws is a page, or an interceptor refused"),
        (
            b"HTTP/1.1 401 Unauthorized\r\n\r\n",
            "HTTP 401 in place of a WebSocket: it wants a login",
        ),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "HTTP 403 in place of a WebSocket: it refuses this"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "there is no WebSocket at /ws; check the path"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "of a SockJS endpoint it is /ws/websocket"),
        (b"HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n", r#"leads to "/login"; use that"#),
        (b"HTTP/1.1 426 Upgrade Required\r\n\r\n", "--header 'Sec-WebSocket-Protocol"),
        (b"HTTP/1.1 503 Unavailable\r\n\r\n", "HTTP 503 in place of a WebSocket: the server, or"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "the request for a WebSocket is none"),
    ];
    let rows =
        rows.map(|(answer, expected)| (Server::AnswersAndCloses(answer), "ws://", "/ws", expected));
    check(&rows, &["--login", "joe"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn command_lines_that_cannot_be() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let no_pem = file("no.pem", "nothing");
    let unfit = file("unfit.toml", "\n[[difference]]\nreason = 'r'\ncases = ['no-such-case']\n");
    let broken = file("broken.toml", "\n\n[[difference]]\nwhy = 1\n");
    let url = "tcp://127.0.0.1:9";
    let rows: [(&[&str], &str); 15] = [
        (&["ftp://127.0.0.1:9/ws"], "or for SockJS with http:// or https://"),
        (&["http://127.0.0.1:9/ws"], "http://127.0.0.1:9/ws: nothing listens at 127.0.0.1:9"),
        (&["ws://joe:s3cret@127.0.0.1:9/ws"], "the account belongs in --login and --passcode"),
        (&["tcp://127.0.0.1:9/path"], "a path is for ws:// and wss://"),
        (&[url, "--header", "Cookie: s3cret"], "a header of CONNECT is given by --connect-header"),
        (&["ws://127.0.0.1:9", "--header", "s3cret"], "--header takes NAME:VALUE"),
        (&[url, "--connect-header", "s3cret"], "--connect-header takes NAME:VALUE"),
        (&[url, "--destination-prefixes", "q=/q/"], "queue=PREFIX,topic=PREFIX, not `q=/q/`"),
        (&[url, "--only", "no-such-case"], "no case fits"),
        (&["--list", "--only", "no-such-case"], "no case fits"),
        (&["tls://127.0.0.1:9", "--ca", &no_pem], "no.pem: there is no PEM certificate in it"),
        (&["tls://127.0.0.1:9", "--ca", "/none/ca.pem"], "/none/ca.pem: No such file"),
        (&[url, "--expected", &unfit], "unfit.toml:4: no case fits `no-such-case`"),
        (&[url, "--expected", &broken], "broken.toml:4: unknown field `why`"),
        (&["table", &no_pem], "no.pem: no run of --format json"),
    ];
    for (args, expected) in rows {
        let ran = run(args.iter().copied()).await;
        assert!(ran.stderr.contains(expected), "{expected}\n{args:?} {ran}");
        assert!(ran.stderr.matches('\n').count() == 1 && !ran.stderr.contains("s3cret"), "{ran}");
        assert!(ran.code == 2 && ran.stdout.is_empty(), "{args:?} {ran}");
    }
    // The parser of the command line has more lines to say.
    for args in [&[][..], &["tcp://a", "--stomp", "2.0"], &["tcp://a", "--jobs", "0"]] {
        let ran = run(args.iter().copied()).await;
        assert!(ran.code == 2 && ran.stdout.is_empty() && !ran.stderr.is_empty(), "{ran}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_not_there() {
    let ran = run(["ws://no-such-host.invalid/ws", "--timeout", LIMIT]).await;
    // Where there is no name server, it is the time that runs out.
    assert!(ran.stderr.contains("check its name"), "{ran}");
    assert!(ran.code == 2 && ran.stdout.is_empty() && ran.took < AT_MOST, "{ran}");
}
