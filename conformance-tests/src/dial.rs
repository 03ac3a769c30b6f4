//! How a connection is opened: TCP, then TLS, then WebSocket, all before one deadline.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::{ProtocolError, SubProtocolError};
use tokio_tungstenite::tungstenite::handshake::client::{Request, Response, generate_request};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::handshake::machine::TryParse;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::sockjs;
use crate::tls::Tls;
use crate::transcript::Transport;

const PROTOCOL: &str = "Sec-WebSocket-Protocol";
/// How much of what came before a WebSocket was there is kept, to say what it was.
const KEPT: usize = 512;
/// How long the head of a server's answer to the handshake may be.
const HEAD_BYTES: usize = 16 * 1024;

/// A connection without framing: TCP, or a pipe within this process.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Where the server is.
#[derive(Clone)]
pub(crate) enum Place {
    /// `host:port`
    Network(String),
    /// What opens a connection to a server in this process.
    Memory(Arc<dyn Fn() -> Box<dyn Stream> + Send + Sync>),
}

/// Where the server is, and how it is spoken to before the first frame.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) place: Place,
    /// And the name that the certificate must have.
    pub(crate) tls: Option<(Tls, ServerName<'static>)>,
    /// What a WebSocket asks for; with SockJS the address below which sessions are.
    pub(crate) url: String,
    /// Further headers of the WebSocket's request.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

/// What frames travel on.
pub(crate) enum Wire {
    Plain(Box<dyn Stream>),
    WebSocket(Box<WebSocketStream<Box<dyn Stream>>>),
    /// Dropped by this side.
    Gone,
}

/// What was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Lookup,
    Connect,
    Tls,
    Upgrade,
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum DialError {
    Lookup(io::Error),
    Connect(io::Error),
    Tls(io::Error),
    /// With the first bytes that came in its place.
    Upgrade {
        error: Box<WsError>,
        came: Vec<u8>,
    },
    Slow {
        phase: Phase,
        limit: Duration,
    },
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lookup(error) => write!(f, "looking up the host: {error}"),
            Self::Connect(error) => write!(f, "connecting: {error}"),
            Self::Tls(error) => write!(f, "TLS handshake: {error}"),
            Self::Upgrade { error, .. } => write!(f, "WebSocket handshake: {error}"),
            Self::Slow { phase, limit } => {
                let what = match phase {
                    Phase::Lookup => "looking up the host",
                    Phase::Connect => "connecting",
                    Phase::Tls => "the TLS handshake",
                    Phase::Upgrade => "the WebSocket handshake",
                };
                write!(f, "{what} took longer than {limit:?}")
            }
        }
    }
}

/// Opens a connection within `limit`; on WebSocket with the subprotocol that was selected.
pub(crate) async fn dial(
    endpoint: &Endpoint,
    transport: Transport,
    offer: &[String],
    limit: Duration,
) -> Result<(Wire, Option<String>), DialError> {
    let deadline = Instant::now() + limit;
    let slow = |phase| DialError::Slow { phase, limit };
    let mut stream: Box<dyn Stream> = match &endpoint.place {
        Place::Memory(open) => open(),
        Place::Network(authority) => {
            let addresses = timeout_at(deadline, lookup_host(authority))
                .await
                .map_err(|_| slow(Phase::Lookup))?
                .map_err(DialError::Lookup)?;
            let addresses: Vec<_> = addresses.collect();
            let tcp = timeout_at(deadline, TcpStream::connect(addresses.as_slice()))
                .await
                .map_err(|_| slow(Phase::Connect))?
                .map_err(DialError::Connect)?;
            // A small write must not wait for the answer to the one before it.
            tcp.set_nodelay(true).map_err(DialError::Connect)?;
            Box::new(tcp)
        }
    };
    if let Some((tls, name)) = &endpoint.tls {
        let handshake = TlsConnector::from(tls.config()).connect(name.clone(), stream);
        let tls = timeout_at(deadline, handshake)
            .await
            .map_err(|_| slow(Phase::Tls))?
            .map_err(DialError::Tls)?;
        stream = Box::new(tls);
    }
    if transport == Transport::Tcp {
        return Ok((Wire::Plain(stream), None));
    }
    let url = match transport {
        Transport::SockJs => sockjs::session_url(&endpoint.url),
        Transport::Tcp | Transport::WsText | Transport::WsBinary => endpoint.url.clone(),
    };
    let upgraded = timeout_at(deadline, upgrade(endpoint, &url, offer, stream)).await;
    let (stream, selected) = upgraded.map_err(|_| slow(Phase::Upgrade))??;
    Ok((Wire::WebSocket(Box::new(stream)), selected))
}

async fn upgrade(
    endpoint: &Endpoint,
    url: &str,
    offer: &[String],
    stream: Box<dyn Stream>,
) -> Result<(WebSocketStream<Box<dyn Stream>>, Option<String>), DialError> {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let failed = |error: WsError| {
        let came = kept.lock().map(|bytes| bytes.clone()).unwrap_or_default();
        DialError::Upgrade { error: Box::new(error), came }
    };
    let mut request = url.into_client_request().map_err(failed)?;
    for (name, value) in &endpoint.headers {
        request.headers_mut().insert(name.clone(), value.clone());
    }
    if !offer.is_empty() {
        let list = HeaderValue::from_str(&offer.join(", "));
        request.headers_mut().insert(PROTOCOL, list.map_err(|error| failed(error.into()))?);
    }
    // Those of a header of the user's too.
    let list = request.headers().get(PROTOCOL).and_then(|value| value.to_str().ok());
    let offered: Vec<String> =
        list.unwrap_or_default().split(',').map(|name| name.trim().to_owned()).collect();
    let stream: Box<dyn Stream> = Box::new(Kept { stream, first: Arc::clone(&kept) });
    let (stream, selected) = shake_hands(stream, request).await.map_err(failed)?;
    if selected.as_ref().is_some_and(|name| !offered.contains(name)) {
        let error = ProtocolError::SecWebSocketSubProtocolError(
            SubProtocolError::ServerSentSubProtocolNoneRequested,
        );
        return Err(failed(error.into()));
    }
    Ok((stream, selected))
}

/// The handshake, and the subprotocol that was selected. Not the library's own: that one refuses
/// an answer that selects none, which is right where all are unknown (RFC 6455, 4.2.2).
async fn shake_hands(
    mut stream: Box<dyn Stream>,
    request: Request,
) -> Result<(WebSocketStream<Box<dyn Stream>>, Option<String>), WsError> {
    let (head, key) = generate_request(request)?;
    stream.write_all(&head).await?;
    stream.flush().await?;
    let mut answer = Vec::with_capacity(HEAD_BYTES);
    let (used, response) = loop {
        if answer.len() >= HEAD_BYTES || stream.read_buf(&mut answer).await? == 0 {
            return Err(ProtocolError::HandshakeIncomplete.into());
        }
        if let Some(parsed) = Response::try_parse(&answer)? {
            break parsed;
        }
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(WsError::Http(Box::new(response)));
    }
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    if header("Sec-WebSocket-Accept") != Some(derive_accept_key(key.as_bytes()).as_str()) {
        return Err(ProtocolError::SecWebSocketAcceptKeyMismatch.into());
    }
    let selected = header(PROTOCOL).map(str::to_owned);
    let tail = answer.split_off(used);
    let stream = WebSocketStream::from_partially_read(stream, tail, Role::Client, None).await;
    Ok((stream, selected))
}

/// Keeps the first bytes that come.
struct Kept {
    stream: Box<dyn Stream>,
    first: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Kept {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        if let Ok(mut first) = self.first.lock() {
            let came = buffer.filled().get(before..).unwrap_or_default();
            let room = KEPT.saturating_sub(first.len()).min(came.len());
            first.extend_from_slice(came.get(..room).unwrap_or_default());
        }
        Poll::Ready(result)
    }
}

impl AsyncWrite for Kept {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
