//! Errors of the HTTP API as RFC 9457 has them.

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

use crate::auth::AuthError;

/// An answer with a problem's title and, where it helps, its detail.
pub(super) fn problem(status: StatusCode, detail: &str) -> Response<Body> {
    let title = status.canonical_reason().unwrap_or("Error");
    let body = json!({
        "type": "about:blank",
        "title": title,
        "status": status.as_u16(),
        "detail": detail,
    });
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Somebody who is not let in.
pub(super) fn refused(error: &AuthError) -> Response<Body> {
    let status = StatusCode::from_u16(error.http_status().into()).unwrap_or(StatusCode::FORBIDDEN);
    let detail = match error {
        AuthError::Missing => "Log in first: no credentials were sent.",
        AuthError::Refused { .. } => "The credentials were refused.",
        AuthError::TooMany { .. } => "Too many attempts; try again later.",
        AuthError::Conflict => "The request has credentials of two different users.",
        AuthError::Unavailable => "Logins cannot be checked at the moment; try again later.",
    };
    let mut response = problem(status, detail);
    let headers = response.headers_mut();
    if status == StatusCode::UNAUTHORIZED {
        let ways = HeaderValue::from_static("Bearer, Basic realm=\"stomp-relay\"");
        headers.insert(header::WWW_AUTHENTICATE, ways);
    }
    if let AuthError::TooMany { retry_after } = error {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after.as_secs().max(1)));
    }
    response
}

pub(super) async fn not_found() -> Response<Body> {
    problem(StatusCode::NOT_FOUND, "There is nothing here.")
}
