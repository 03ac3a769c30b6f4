//! SockJS 0.3.3 over HTTP: which request is what, and what every answer has.
//!
//! Paths are taken as they came, neither decoded nor cleaned: what does not match to the letter
//! is not there.

mod config;
mod headers;
mod path;
mod receive;
mod send;
mod statics;
mod streaming;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use crate::auth::{AuthError, Principal};
use crate::transport::sockjs::registry::{Kind, Owner, Registry};

pub use config::{SockJsConfig, SockJsTransport};
use path::Route;

use super::guest;
use super::{Endpoint, Front, Peer, upgrade};

/// The SockJS side of an endpoint.
#[derive(Debug)]
pub struct SockJs {
    pub config: SockJsConfig,
    pub registry: Arc<Registry>,
    /// From the end of a request's head to the end of its body.
    pub body_time: Duration,
}

/// A request to an endpoint with SockJS, and what is known of who sent it.
struct Call<'a> {
    front: &'a Arc<Front>,
    endpoint: &'a Arc<Endpoint>,
    sockjs: &'a SockJs,
    peer: Peer,
    parts: Parts,
}

/// Answers a request whose path begins with the endpoint's.
pub(super) async fn respond(
    front: &Arc<Front>,
    endpoint: &Arc<Endpoint>,
    sockjs: &SockJs,
    peer: Peer,
    request: Request<Incoming>,
) -> Response<Body> {
    let asks_for_websocket = upgrade::asks_for_websocket(request.headers());
    let mut response = answer(front, endpoint, sockjs, peer, request).await;
    if asks_for_websocket && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        // It is answered as if it had not asked. What it may have sent after its head is no
        // request (RFC 9931).
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn answer(
    front: &Arc<Front>,
    endpoint: &Arc<Endpoint>,
    sockjs: &SockJs,
    peer: Peer,
    request: Request<Incoming>,
) -> Response<Body> {
    let rest = request.uri().path().get(endpoint.path.len()..).unwrap_or_default();
    let route = path::route(rest).filter(|route| is_served(sockjs, *route));
    let Some(route) = route else { return statics::not_found() };
    if let Some(answer) = by_method(route, request.method()) {
        return answer;
    }
    match route {
        Route::RawWebSocket => return upgrade::respond(front, endpoint, peer, request).await,
        Route::WebSocket => return upgrade::respond_framed(front, endpoint, peer, request).await,
        _ => {}
    }
    let session = match route {
        Route::Receive(session, _) | Route::Send(session) | Route::JsonpSend(session) => {
            session.to_owned()
        }
        _ => String::new(),
    };
    let route = route.without_session();
    let (parts, body) = request.into_parts();
    let call = Call { front, endpoint, sockjs, peer, parts };
    let mut response = match guest::judge_origin(front, endpoint, peer, &call.parts.headers) {
        Err(refused) => return refused,
        Ok(()) => call.answer(route, &session, body).await,
    };
    if route.has_cors() && !sockjs.config.suppress_cors {
        headers::cors(&call.parts.headers, response.headers_mut());
    }
    response
}

fn is_served(sockjs: &SockJs, route: Route<'_>) -> bool {
    let has = |transport| sockjs.config.has(transport);
    match route {
        Route::Greeting | Route::Info | Route::Send(_) => true,
        Route::Iframe => has(SockJsTransport::Iframe),
        Route::RawWebSocket | Route::WebSocket => has(SockJsTransport::WebSocket),
        Route::Receive(_, kind) => has(SockJsTransport::of(kind)),
        Route::JsonpSend(_) => has(SockJsTransport::Jsonp),
    }
}

/// The answer where the method is not the route's own.
fn by_method(route: Route<'_>, method: &Method) -> Option<Response<Body>> {
    let allow = match route {
        Route::Greeting | Route::Iframe | Route::RawWebSocket | Route::WebSocket => "GET",
        Route::Receive(_, Kind::EventSource | Kind::HtmlFile | Kind::Jsonp) => "GET",
        Route::Info => "GET, OPTIONS",
        Route::Receive(_, Kind::Xhr | Kind::XhrStreaming) | Route::Send(_) => "POST, OPTIONS",
        Route::JsonpSend(_) => "POST",
    };
    if allow.split(", ").any(|allowed| allowed == method.as_str()) {
        return None;
    }
    let mut response = statics::empty(StatusCode::METHOD_NOT_ALLOWED);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    // A body that nobody reads must not become the next request.
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    Some(response)
}

impl Call<'_> {
    async fn answer(&self, route: Route<'_>, session: &str, body: Incoming) -> Response<Body> {
        let config = &self.sockjs.config;
        if self.parts.method == Method::OPTIONS {
            let methods = if route == Route::Info { "OPTIONS, GET" } else { "OPTIONS, POST" };
            return headers::preflight(&self.parts.headers, methods);
        }
        let mut response = match route {
            Route::Greeting => return statics::greeting(),
            Route::Info => return statics::info(config, &self.endpoint.origins),
            Route::Iframe => {
                return statics::iframe(config, &self.endpoint.origins, &self.parts.headers);
            }
            Route::Receive(_, kind) => self.receive(session, kind).await,
            Route::Send(_) => self.send(session, body).await,
            Route::JsonpSend(_) => self.jsonp_send(session, body).await,
            Route::RawWebSocket | Route::WebSocket => return statics::not_found(),
        };
        headers::uncached(response.headers_mut());
        if config.session_cookie_needed {
            let request = &self.parts.headers;
            let repeats = config.session_cookie_repeated;
            headers::cookie(request, self.peer, repeats, response.headers_mut());
        }
        response
    }

    /// Who sends this request.
    async fn principal(&self) -> Result<Option<Principal>, AuthError> {
        guest::principal(self.front, self.endpoint, self.peer, &self.parts).await
    }

    /// Whether the request may use that session. One that may not is told that there is none.
    async fn is_owner(&self, owner: &Owner) -> Result<bool, AuthError> {
        Ok(match owner {
            Owner::Address(address) => *address == self.peer.address,
            Owner::User(user) => {
                self.principal().await?.is_some_and(|principal| principal.name == *user)
            }
        })
    }
}
