//! HTTP: the door. Upgrades hand a connection to a session; everything else is the API, the
//! admin pages or a static file.

pub mod admin;
mod api;
mod guest;
mod origin;
mod patience;
mod problem;
mod range;
mod sockjs;
mod upgrade;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tower_http::services::ServeDir;
use tower_http::set_header::SetResponseHeaderLayer;

use crate::session::driver::Services;
use crate::transport::tcp;
pub use guest::Service;
pub use origin::{OriginRule, Origins};
pub use range::AddressRange;
pub use sockjs::{SockJs, SockJsConfig, SockJsTransport};

/// Head and header limits of a request.
const HEAD_BYTES: usize = 16 * 1024;
const HEADERS: usize = 100;
/// Pause after an accept that failed, doubled up to the second.
const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// A place where sessions begin.
#[derive(Debug)]
pub struct Endpoint {
    pub path: String,
    pub origins: OriginRule,
    /// Nobody gets a session without a login at the upgrade.
    pub needs_login: bool,
    /// None: WebSocket only.
    pub sockjs: Option<SockJs>,
    pub service: Service,
}

/// What the door knows.
#[derive(Debug)]
pub struct Front {
    pub services: Arc<Services>,
    pub endpoints: Vec<Arc<Endpoint>>,
    pub origins: Origins,
    /// Whose `X-Forwarded-*` are believed.
    pub trusted: Vec<AddressRange>,
    pub static_dir: Option<PathBuf>,
    pub head_time: Duration,
}

/// A request as the door sees it.
#[derive(Clone, Copy, Debug)]
struct Peer {
    /// The client behind trusted proxies.
    address: IpAddr,
    /// The connection itself comes from a trusted proxy.
    is_proxied: bool,
}

impl Front {
    /// The endpoint of that path: its own or, with SockJS, one below; the longest counts.
    fn endpoint(&self, path: &str) -> Option<&Arc<Endpoint>> {
        let serves = |endpoint: &&Arc<Endpoint>| {
            path.strip_prefix(&endpoint.path).is_some_and(|rest| {
                rest.is_empty() || rest.starts_with('/') && endpoint.sockjs.is_some()
            })
        };
        self.endpoints.iter().filter(serves).max_by_key(|endpoint| endpoint.path.len())
    }

    /// Who the client is: the connection's address, or behind trusted proxies the last address
    /// in `X-Forwarded-For` that no trusted proxy has.
    fn peer(&self, connection: IpAddr, headers: &HeaderMap) -> Peer {
        let trusts = |address| self.trusted.iter().any(|range| range.contains(address));
        if !trusts(connection) {
            return Peer { address: connection, is_proxied: false };
        }
        let forwarded = headers.get_all("x-forwarded-for").into_iter();
        let items: Vec<&str> = forwarded
            .flat_map(|value| value.to_str().unwrap_or_default().split(','))
            .map(str::trim)
            .collect();
        // From the nearest proxy outwards; what is no address ends the chain of trust.
        let mut address = connection;
        for item in items.iter().rev() {
            let with_port = || item.parse().ok().map(|address: SocketAddr| address.ip());
            let Some(next) = item.parse().ok().or_else(with_port) else { break };
            address = next;
            if !trusts(next) {
                break;
            }
        }
        Peer { address, is_proxied: true }
    }
}

/// Serves HTTP until `stop`.
pub async fn serve(front: Arc<Front>, listener: TcpListener, stop: CancellationToken) {
    let router = with_headers(router(&front));
    while let Some((stream, address)) = accept(&listener, &stop).await {
        let (front, router) = (front.clone(), router.clone());
        tokio::spawn(connection(front, router, stream, address, stop.clone()));
    }
}

/// Accepts a connection; backs off where the process has no descriptor left. None at the end.
pub async fn accept(
    listener: &TcpListener,
    stop: &CancellationToken,
) -> Option<(TcpStream, SocketAddr)> {
    let (mut pause, most) = ACCEPT_PAUSE;
    loop {
        let result = tokio::select! {
            result = listener.accept() => result,
            () = stop.cancelled() => return None,
        };
        match result {
            Ok((stream, address)) => {
                // One that is gone already is found out by its first read.
                let _ = tcp::configure(&stream);
                return Some((stream, address));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections at the moment");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(most);
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Serves a connection until it ends or `stop`. What waits is a pointer: of a response that
/// streams for hours nothing else should be kept.
fn connection(
    front: Arc<Front>,
    router: Router,
    stream: TcpStream,
    address: SocketAddr,
    stop: CancellationToken,
) -> impl Future<Output = ()> {
    let head_time = front.head_time;
    let service = service_fn(move |request: Request<Incoming>| {
        // hyper keeps room for the future of a request as long as the connection lives.
        let answer = Box::pin(respond(front.clone(), router.clone(), request, address.ip()));
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let (stream, clock) = patience::watched(stream, head_time);
    let serving = http1::Builder::new()
        .timer(clock)
        .header_read_timeout(head_time)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut serving = Box::pin(serving);
    async move {
        // What ends a connection of HTTP concerns nobody else.
        tokio::select! {
            _ = serving.as_mut() => {}
            () = stop.cancelled() => {
                serving.as_mut().graceful_shutdown();
                let _ = serving.await;
            }
        }
    }
}

async fn respond(
    front: Arc<Front>,
    router: Router,
    mut request: Request<Incoming>,
    connection: IpAddr,
) -> Response<Body> {
    let peer = front.peer(connection, request.headers());
    if let Some(endpoint) = front.endpoint(request.uri().path()).cloned() {
        let is_own_path = request.uri().path() == endpoint.path;
        return match &endpoint.sockjs {
            Some(sockjs) if !is_own_path || !upgrade::is_upgrade(request.headers()) => {
                sockjs::respond(&front, &endpoint, sockjs, peer, request).await
            }
            _ => upgrade::respond(&front, &endpoint, peer, request).await,
        };
    }
    request.extensions_mut().insert(peer);
    let answer = router.oneshot(request.map(Body::new)).await;
    answer.unwrap_or_else(|never| match never {})
}

fn router(front: &Arc<Front>) -> Router {
    let router = api::router(front.clone());
    match &front.static_dir {
        Some(folder) => router.fallback_service(ServeDir::new(folder)),
        None => router.fallback(problem::not_found),
    }
}

/// Headers that every answer has.
fn with_headers(router: Router) -> Router {
    let headers: [(HeaderName, &str); 3] = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    headers.into_iter().fold(router, |router, (name, value)| {
        let value = HeaderValue::from_static(value);
        router.layer(SetResponseHeaderLayer::if_not_present(name, value))
    })
}
