//! The WebSocket handshake (RFC 6455 section 4.2), after which the interceptor decides. A refused upgrade
//! closes the connection, so that bytes sent after it are never taken for a request (RFC 9931).

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tungstenite::handshake::derive_accept_key;

use crate::session::driver::Services;
use crate::stomp::Version;
use crate::transport::sockjs::framed::Framed;
use crate::transport::websocket::frame::FrameReader;
use crate::transport::{Framing, Transport};

use super::guest::{self, Door, Guest};
use super::patience::Watched;
use super::problem::problem;
use super::{Endpoint, Front, Peer};

/// What goes over the WebSocket.
enum Content {
    Stomp(Option<Version>),
    SockJs(Duration),
}

/// Answers a request to an endpoint: STOMP on a WebSocket.
pub(super) async fn respond(
    front: &Arc<Front>,
    endpoint: &Arc<Endpoint>,
    peer: Peer,
    request: Request<Incoming>,
) -> Response<Body> {
    let subprotocol = subprotocol(request.headers());
    let content = Content::Stomp(subprotocol.map(|(_, version)| version));
    let mut response = upgrade(front, endpoint, peer, request, content).await;
    if let Some((name, _)) = subprotocol
        && response.status() == StatusCode::SWITCHING_PROTOCOLS
    {
        let name = HeaderValue::from_static(name);
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, name);
    }
    response
}

/// The same for SockJS frames on a WebSocket. Its clients name no subprotocol.
pub(super) async fn respond_framed(
    front: &Arc<Front>,
    endpoint: &Arc<Endpoint>,
    peer: Peer,
    request: Request<Incoming>,
) -> Response<Body> {
    let heartbeat = endpoint.sockjs.as_ref().map(|sockjs| sockjs.config.heartbeat_time);
    let content = Content::SockJs(heartbeat.unwrap_or_default());
    upgrade(front, endpoint, peer, request, content).await
}

async fn upgrade(
    front: &Arc<Front>,
    endpoint: &Arc<Endpoint>,
    peer: Peer,
    request: Request<Incoming>,
    content: Content,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    match admit(front, endpoint, peer, &parts).await {
        Ok((guest, accept)) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let headers = response.headers_mut();
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
            let request = Request::from_parts(parts, body);
            // A task of its own, so that HTTP's ends and gives its buffers back.
            tokio::spawn(run(front.services.clone(), guest, content, request));
            response
        }
        Err(mut response) => {
            front.services.metrics.handshakes_refused.inc();
            tracing::info!(
                address = %peer.address,
                status = response.status().as_u16(),
                "handshake refused"
            );
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
            response
        }
    }
}

async fn admit(
    front: &Front,
    endpoint: &Endpoint,
    peer: Peer,
    parts: &Parts,
) -> Result<(Guest, HeaderValue), Response<Body>> {
    let accept = handshake(parts)?;
    guest::judge_origin(front, endpoint, peer, &parts.headers)?;
    let guest = guest::admit(front, endpoint, peer, parts, Door::Upgrade).await?;
    Ok((guest, accept))
}

/// Whether the request wants a WebSocket, right or wrong.
pub(super) fn is_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE) || headers.contains_key(header::SEC_WEBSOCKET_KEY)
}

/// Checks the handshake and gives the answer to its key.
fn handshake(parts: &Parts) -> Result<HeaderValue, Response<Body>> {
    let bad = |detail| Err(problem(StatusCode::BAD_REQUEST, detail));
    if parts.method != Method::GET {
        let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, "Use GET.");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
        return Err(response);
    }
    let headers = &parts.headers;
    if !has_token(headers, header::UPGRADE, "websocket")
        || !has_token(headers, header::CONNECTION, "upgrade")
    {
        return bad("This is a WebSocket endpoint: connect to it with a STOMP client.");
    }
    if headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0")
    {
        return bad("An upgrade has no body.");
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let mut response =
            problem(StatusCode::UPGRADE_REQUIRED, "Only WebSocket version 13 is known.");
        let known = HeaderValue::from_static("13");
        response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, known);
        return Err(response);
    }
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).into_iter();
    let (Some(key), None) = (keys.next(), keys.next()) else {
        return bad("There must be one Sec-WebSocket-Key.");
    };
    if STANDARD.decode(key.as_bytes()).map_or(0, |key| key.len()) != 16 {
        return bad("Sec-WebSocket-Key must be 16 bytes in base64.");
    }
    let accept = derive_accept_key(key.as_bytes());
    HeaderValue::try_from(accept).or_else(|_| bad("Sec-WebSocket-Key has no answer."))
}

/// Whether the request asks for a WebSocket, wherever it goes.
pub(super) fn asks_for_websocket(headers: &HeaderMap) -> bool {
    has_token(headers, header::UPGRADE, "websocket")
}

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
}

/// The first STOMP subprotocol the client names. Where it names others only, none is selected.
fn subprotocol(headers: &HeaderMap) -> Option<(&'static str, Version)> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter();
    let names = values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    names
        .filter_map(|name| match name.trim() {
            "v12.stomp" => Some(("v12.stomp", Version::V12)),
            "v11.stomp" => Some(("v11.stomp", Version::V11)),
            "v10.stomp" => Some(("v10.stomp", Version::V10)),
            _ => None,
        })
        .max_by_key(|(_, version)| *version)
}

/// Waits for the upgrade and runs the session on the bare connection.
async fn run(services: Arc<Services>, guest: Guest, content: Content, request: Request<Incoming>) {
    // Where the client has gone meanwhile, there is nobody to tell.
    let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
    let Ok(parts) = upgraded.downcast::<TokioIo<Watched>>() else {
        tracing::error!("an upgraded connection is not one of this server's");
        return;
    };
    let early: Bytes = parts.read_buf;
    // Who needs no CONNECT has no narrow limits before it.
    let limits = match guest {
        Guest::Stomp { .. } => services.limits.narrow_read,
        Guest::Custom(_) => services.limits.wide_read,
    };
    let (framing, subprotocol) = match content {
        Content::Stomp(version) => {
            (Framing::WebSocket(FrameReader::new(limits.websocket)), version)
        }
        Content::SockJs(heartbeat) => {
            let fragments = limits.websocket.fragments;
            let framed = Framed::new(limits.sockjs, fragments, heartbeat, Instant::now());
            (Framing::SockJs(Box::new(framed)), None)
        }
    };
    let transport = Transport::new(parts.io.into_inner().into_inner(), framing);
    guest.start(services, transport, subprotocol, early);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subprotocols() {
        let cases = [
            (&["v12.stomp, v11.stomp"][..], Some("v12.stomp")),
            (&["v10.stomp", "v11.stomp"], Some("v11.stomp")),
            (&["bearer.abc, v10.stomp"], Some("v10.stomp")),
            (&["chat"], None),
            (&[], None),
        ];
        for (values, expected) in cases {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::SEC_WEBSOCKET_PROTOCOL, value.parse().unwrap());
            }
            assert_eq!(subprotocol(&headers).map(|(name, _)| name), expected, "{values:?}");
        }
    }

    #[test]
    fn handshakes() {
        let good = [
            ("upgrade", "WebSocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let status = |method: Method, change: Option<(&'static str, Option<&str>)>| {
            let mut builder = Request::builder().method(method);
            for (name, value) in good {
                match change {
                    Some((changed, None)) if changed == name => {}
                    Some((changed, Some(other))) if changed == name => {
                        builder = builder.header(name, other);
                    }
                    _ => builder = builder.header(name, value),
                }
            }
            if let Some((name, Some(value))) = change
                && !good.iter().any(|(known, _)| *known == name)
            {
                builder = builder.header(name, value);
            }
            let (parts, ()) = builder.body(()).unwrap().into_parts();
            match handshake(&parts) {
                Ok(accept) => {
                    assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
                    101
                }
                Err(response) => response.status().as_u16(),
            }
        };
        assert_eq!(status(Method::GET, None), 101);
        assert_eq!(status(Method::POST, None), 405);
        assert_eq!(status(Method::GET, Some(("upgrade", None))), 400);
        assert_eq!(status(Method::GET, Some(("connection", Some("close")))), 400);
        assert_eq!(status(Method::GET, Some(("sec-websocket-version", Some("8")))), 426);
        assert_eq!(status(Method::GET, Some(("sec-websocket-key", None))), 400);
        assert_eq!(status(Method::GET, Some(("sec-websocket-key", Some("short")))), 400);
        assert_eq!(status(Method::GET, Some(("content-length", Some("5")))), 400);
        assert_eq!(status(Method::GET, Some(("transfer-encoding", Some("chunked")))), 400);
    }
}
