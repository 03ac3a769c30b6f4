//! What the four endpoints are configured with and what they do.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use stomp_relay::config::{Config, EndpointConfig, SockJsTransport};
use stomp_relay::http::Service;
use stomp_relay::transport::{Incoming, Transport};

/// The limit of streaming responses that the tests expect.
const STREAM_BYTES: usize = 4096;

/// The endpoints, open to pages of any origin.
pub(crate) fn endpoints(config: &Config) -> Vec<EndpointConfig> {
    let plain = &config.endpoints[0];
    let endpoint = |path: &str| {
        let mut endpoint = EndpointConfig {
            path: path.into(),
            allowed_origins: vec!["*".into()],
            ..plain.clone()
        };
        if let Some(options) = &mut endpoint.sockjs {
            options.transports = SockJsTransport::ALL.into();
            options.session_cookie_needed = path == "/cookie_needed_echo";
            options.session_cookie_repeated = true;
            if path == "/echo" {
                options.stream_bytes_limit = STREAM_BYTES;
            }
            if path == "/disabled_websocket_echo" {
                options.transports.retain(|known| *known != SockJsTransport::WebSocket);
            }
        }
        endpoint
    };
    ["/echo", "/close", "/disabled_websocket_echo", "/cookie_needed_echo"].map(endpoint).into()
}

/// What the endpoint of that path does.
pub(crate) fn service(path: &str) -> Service {
    if path == "/close" {
        Service::Custom(Arc::new(|transport| Box::pin(close(transport))))
    } else {
        Service::Custom(Arc::new(|transport| {
            Box::pin(async {
                // Whatever ends a session ends it; the next one does not care.
                let _ = echo(transport).await;
            })
        }))
    }
}

async fn close(mut transport: Transport) {
    let mut out = Vec::new();
    transport.put_open(&mut out);
    transport.part(&mut out, 3000, "Go away!");
    transport.finish(out).await;
}

/// Sends every message back until the client goes away or breaks the protocol.
async fn echo(mut transport: Transport) -> io::Result<()> {
    let mut out = Vec::new();
    transport.put_open(&mut out);
    loop {
        write(&mut transport, &mut out).await?;
        let Some(mut bytes) = read(&mut transport).await? else { return Ok(()) };
        if !transport.tick(Instant::now(), &mut out) {
            return Ok(());
        }
        loop {
            match transport.incoming(&mut bytes) {
                Ok(Some(Incoming::Data(data))) => transport.put(&mut out, true, &data, b""),
                Ok(Some(Incoming::Close)) => return part(transport, out, 1000, "").await,
                Ok(Some(Incoming::Ping(_) | Incoming::Pong(_))) => {}
                Ok(None) => break,
                Err(broken) => return part(transport, out, broken.code, broken.reason).await,
            }
        }
    }
}

async fn part(
    mut transport: Transport,
    mut out: Vec<u8>,
    code: u16,
    reason: &str,
) -> io::Result<()> {
    transport.part(&mut out, code, reason);
    transport.finish(out).await;
    Ok(())
}

/// What came, or nothing where only a deadline has come.
async fn read(transport: &mut Transport) -> io::Result<Option<bytes::BytesMut>> {
    let deadline = transport.deadline();
    let reading = poll_fn(|cx| transport.poll_read(cx));
    match deadline {
        Some(at) => match tokio::time::timeout_at(at.into(), reading).await {
            Ok(read) => read,
            Err(_) => Ok(Some(bytes::BytesMut::new())),
        },
        None => reading.await,
    }
}

async fn write(transport: &mut Transport, out: &mut Vec<u8>) -> io::Result<()> {
    while !out.is_empty() {
        let written = transport.write(out, Instant::now())?;
        out.drain(..written);
        if !out.is_empty() {
            poll_fn(|cx| transport.poll_writable(cx)).await?;
        }
    }
    Ok(())
}
