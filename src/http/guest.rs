//! The interceptor: who may have a session. Origin first, then who it is, then whether there is a
//! place.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use crate::auth::{AuthError, Principal};
use crate::session::driver::{Driver, Services};
use crate::session::sessions::{NoPlace, Place};
use crate::stomp::Version;
use crate::transport::Transport;

use super::origin::Verdict;
use super::problem::{problem, refused};
use super::{Endpoint, Front, Peer};

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What sessions of an endpoint speak.
#[derive(Clone, Default)]
pub enum Service {
    #[default]
    Stomp,
    /// Something else on the same transports, without login and without a place among the STOMP
    /// sessions: how a program of its own serves SockJS.
    Custom(Arc<dyn Fn(Transport) -> Running + Send + Sync>),
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stomp => "Stomp",
            Self::Custom(_) => "Custom",
        })
    }
}

/// Where somebody comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    Upgrade,
    /// The first request of a SockJS session. Where there is no place it gets 503, whoever has
    /// too many: its clients then try the next transport and give up.
    Receive,
}

/// Somebody who is let in, and has no connection yet.
pub(super) enum Guest {
    Stomp { place: Place, principal: Option<Principal> },
    Custom(Arc<dyn Fn(Transport) -> Running + Send + Sync>),
}

impl Guest {
    /// The user, where it is known who it is.
    pub(super) fn user(&self) -> Option<&Arc<str>> {
        match self {
            Self::Stomp { principal, .. } => principal.as_ref().map(|principal| &principal.name),
            Self::Custom(_) => None,
        }
    }

    /// Starts the session, in a task that holds nothing but it.
    pub(super) fn start(
        self,
        services: Arc<Services>,
        transport: Transport,
        subprotocol: Option<Version>,
        early: Bytes,
    ) {
        match self {
            Self::Stomp { place, principal } => {
                let driver = Driver::new(services, transport, place, subprotocol, principal, early);
                tokio::spawn(driver.run());
            }
            Self::Custom(service) => {
                tokio::spawn(service(transport));
            }
        }
    }
}

/// Whether pages of the request's origin may use the endpoint.
pub(super) fn judge_origin(
    front: &Front,
    endpoint: &Endpoint,
    peer: Peer,
    headers: &HeaderMap,
) -> Result<(), Response<Body>> {
    let denied = || {
        problem(
            StatusCode::FORBIDDEN,
            "Pages of this origin may not connect; see endpoint.allowed_origins.",
        )
    };
    match front.origins.judge(&endpoint.origins, headers, peer.is_proxied) {
        // A script or a form of another site says no Origin, but what it is.
        Verdict::Absent if !endpoint.origins.is_any() && is_cross_site(headers) => Err(denied()),
        Verdict::Absent | Verdict::Allowed => Ok(()),
        Verdict::Denied => Err(denied()),
        Verdict::Malformed => {
            Err(problem(StatusCode::BAD_REQUEST, "The Origin header is malformed."))
        }
    }
}

fn is_cross_site(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site")
}

/// Who sends a request, by its head.
pub(super) async fn principal(
    front: &Front,
    endpoint: &Endpoint,
    peer: Peer,
    parts: &Parts,
) -> Result<Option<Principal>, AuthError> {
    match endpoint.service {
        Service::Stomp => front.services.authenticator.handshake(parts, peer.address).await,
        Service::Custom(_) => Ok(None),
    }
}

/// Lets somebody in whose origin was judged.
pub(super) async fn admit(
    front: &Front,
    endpoint: &Endpoint,
    peer: Peer,
    parts: &Parts,
    door: Door,
) -> Result<Guest, Response<Body>> {
    if let Service::Custom(service) = &endpoint.service {
        return Ok(Guest::Custom(service.clone()));
    }
    let principal = principal(front, endpoint, peer, parts).await;
    let principal = principal.map_err(|error| refused(&error))?;
    if principal.is_none() && endpoint.needs_login {
        return Err(refused(&AuthError::Missing));
    }
    let user = principal.as_ref().map(|principal| &principal.name);
    let place = front.services.sessions.enter(peer.address, user);
    Ok(Guest::Stomp { place: place.map_err(|reason| no_place(reason, door))?, principal })
}

fn no_place(reason: NoPlace, door: Door) -> Response<Body> {
    let (status, detail) = match reason {
        NoPlace::Draining => (StatusCode::SERVICE_UNAVAILABLE, "The server is about to restart."),
        NoPlace::Total => (StatusCode::SERVICE_UNAVAILABLE, "The server has no place left."),
        NoPlace::Address => (StatusCode::TOO_MANY_REQUESTS, "Too many sessions from this address."),
        NoPlace::User => (StatusCode::TOO_MANY_REQUESTS, "Too many sessions of this user."),
    };
    let status = match door {
        Door::Upgrade => status,
        Door::Receive => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut response = problem(status, detail);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
    response
}
