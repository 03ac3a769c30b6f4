//! The operator's side: liveness, readiness, metrics.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::routing::get;
use http::{Response, StatusCode, Uri, header};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::auth::secret::Secret;
use crate::relay::rabbitmq::Condition;
use crate::session::driver::Services;

use super::problem::{not_found, problem};
use super::{accept, with_headers};

/// What the admin listener knows.
#[derive(Debug)]
pub struct Admin {
    pub services: Arc<Services>,
    /// Where it listens; other names than this and localhost are somebody's trick.
    pub address: IpAddr,
    pub token: Option<Secret>,
    /// No longer ready once it is about to stop.
    pub stop: CancellationToken,
}

/// Serves the admin pages until `stop`.
pub async fn serve(admin: Arc<Admin>, listener: TcpListener, stop: CancellationToken) {
    let router = with_headers(
        Router::new()
            .route("/metrics", get(metrics))
            .layer(from_fn_with_state(admin.clone(), with_token))
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .fallback(not_found)
            .layer(from_fn_with_state(admin.clone(), with_own_host))
            .with_state(admin),
    );
    while let Some((stream, _)) = accept(&listener, &stop).await {
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            // What ends an operator's connection concerns nobody else.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(admin): State<Arc<Admin>>) -> Response<Body> {
    let services = &admin.services;
    let missing = if admin.stop.is_cancelled() {
        "about to stop".to_owned()
    } else {
        match services.broker.condition() {
            Condition::Away(reason) => format!("RabbitMQ is not reachable: {reason}"),
            Condition::Blocked(reason) => format!("RabbitMQ is blocked: {reason}"),
            Condition::Refused(reason) => format!("RabbitMQ refuses this relay: {reason}"),
            Condition::Up if !services.users.is_ready() => {
                "the store of unread messages is not reachable".to_owned()
            }
            Condition::Up => return Response::new(Body::from("ready\n")),
        }
    };
    problem(StatusCode::SERVICE_UNAVAILABLE, &missing)
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response<Body> {
    let text = admin.services.metrics.text();
    let mut response = Response::new(Body::from(text));
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

/// A page of another site that a name server made point here gets nothing.
async fn with_own_host(
    State(admin): State<Arc<Admin>>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.and_then(|host| host.parse::<Uri>().ok());
    let host = host.as_ref().and_then(Uri::host).unwrap_or_default();
    let host = host.trim_matches(['[', ']']);
    let is_own = host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|ip| {
            ip == admin.address || admin.address.is_unspecified() || ip.is_loopback()
        });
    if is_own {
        next.run(request).await
    } else {
        problem(StatusCode::MISDIRECTED_REQUEST, "The Host header names another server.")
    }
}

async fn with_token(
    State(admin): State<Arc<Admin>>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let sent = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let sent = sent.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    let is_right = admin.token.as_ref().is_none_or(|token| {
        let (sent, token) = (sent.as_bytes(), token.expose().as_bytes());
        aws_lc_rs::constant_time::verify_slices_are_equal(sent, token).is_ok()
    });
    if is_right {
        next.run(request).await
    } else {
        problem(StatusCode::UNAUTHORIZED, "Send the admin token: Authorization: Bearer ...")
    }
}
