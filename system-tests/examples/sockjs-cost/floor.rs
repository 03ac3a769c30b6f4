//! The floor: hyper, and on it nothing but responses that stream chunks. A line on a TCP
//! connection of its own is a message for all of them.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::Result;

type Receivers = Arc<Mutex<Vec<mpsc::Sender<Bytes>>>>;

struct Chunks(mpsc::Receiver<Bytes>);

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}

/// Serves until it is killed. Says where, as the relay does.
pub(super) async fn serve() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let publishing = TcpListener::bind("127.0.0.1:0").await?;
    let port = publishing.local_addr()?.port();
    println!("ws://{}/{port}", listener.local_addr()?);
    println!("Ctrl-C");
    let receivers = Receivers::default();
    tokio::spawn(publish(publishing, receivers.clone()));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let receivers = receivers.clone();
        let service = service_fn(move |request| respond(request, receivers.clone(), port));
        tokio::spawn(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), service),
        );
    }
}

async fn respond(
    request: Request<Incoming>,
    receivers: Receivers,
    port: u16,
) -> std::result::Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    if request.uri().path() == "/port" {
        return Ok(Response::new(Full::from(port.to_string()).boxed()));
    }
    let (sender, receiver) = mpsc::channel(1024);
    // The prelude and the first frame, as SockJS has them.
    let _ = sender.try_send(Bytes::from("h".repeat(2048) + "\n"));
    let _ = sender.try_send(Bytes::from_static(b"o\n"));
    if let Ok(mut receivers) = receivers.lock() {
        receivers.push(sender);
    }
    Ok(Response::new(Chunks(receiver).boxed()))
}

async fn publish(listener: TcpListener, receivers: Receivers) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let mut lines = BufReader::new(stream).lines();
        while let Some(line) = lines.next_line().await? {
            let chunk = Bytes::from(line + "\n");
            if let Ok(receivers) = receivers.lock() {
                for receiver in receivers.iter() {
                    // The publisher's window is smaller than the channel.
                    let _ = receiver.try_send(chunk.clone());
                }
            }
        }
    }
}
