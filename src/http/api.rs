//! The users' API: what is unread, and marking it read.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::request::Parts;
use http::{Response, StatusCode, header};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::auth::policy::{Decision, RuleFrame};
use crate::auth::{AuthError, Principal};
use crate::persistence::{Page, Stored};
use crate::user::ReadRequest;

use super::origin::{OriginRule, Verdict};
use super::problem::{problem, refused};
use super::{Front, Peer};

const PAGE: u32 = 100;
const PAGE_MOST: u32 = 500;
const BODY_BYTES: usize = 256 * 1024;
const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

pub(super) fn router(front: Arc<Front>) -> Router {
    Router::new()
        .route("/api/unread", get(unread))
        .route("/api/unread/read", post(read))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .with_state(front)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UnreadQuery {
    /// Exclusive.
    #[serde(default)]
    after: u64,
    limit: Option<u32>,
}

#[derive(Debug, Serialize)]
struct UnreadPage {
    messages: Vec<UnreadMessage>,
    left: u64,
    truncated: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct UnreadMessage {
    id: String,
    x_id: Option<String>,
    destination: String,
    headers: serde_json::Map<String, serde_json::Value>,
    body: String,
    body_encoding: &'static str,
    created_at: String,
}

async fn unread(
    State(front): State<Arc<Front>>,
    query: Result<Query<UnreadQuery>, axum::extract::rejection::QueryRejection>,
    request: Request,
) -> Response<Body> {
    let (parts, _) = request.into_parts();
    let principal = match login(&front, &parts).await {
        Ok(principal) => principal,
        Err(response) => return response,
    };
    let Ok(Query(query)) = query else {
        let detail = "The query may have `after` and `limit`, numbers without sign.";
        return problem(StatusCode::BAD_REQUEST, detail);
    };
    let limit = query.limit.unwrap_or(PAGE).min(PAGE_MOST);
    match front.services.users.fetch(&principal.name, query.after, limit).await {
        Ok(page) => json(&page_of(&front, &principal, &page)),
        Err(refusal) => problem(StatusCode::SERVICE_UNAVAILABLE, refusal.body.trim_end()),
    }
}

async fn read(State(front): State<Arc<Front>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let principal = match login(&front, &parts).await {
        Ok(principal) => principal,
        Err(response) => return response,
    };
    if let Some(response) = forged(&front, &parts) {
        return response;
    }
    let Ok(body) = axum::body::to_bytes(body, BODY_BYTES).await else {
        return problem(StatusCode::PAYLOAD_TOO_LARGE, "The body is too long.");
    };
    let ReadRequest { which, request } = match ReadRequest::parse(&body, &principal.name) {
        Ok(request) => request,
        Err(detail) => return problem(StatusCode::BAD_REQUEST, detail.trim_end()),
    };
    match front.services.users.read(&principal.name, which, request).await {
        Ok(unread) => json(&serde_json::json!({ "unread": unread })),
        Err(refusal) => problem(StatusCode::SERVICE_UNAVAILABLE, refusal.body.trim_end()),
    }
}

async fn login(front: &Front, parts: &Parts) -> Result<Principal, Response<Body>> {
    let peer = parts.extensions.get::<Peer>().copied();
    let Some(peer) = peer else {
        return Err(problem(StatusCode::INTERNAL_SERVER_ERROR, "The client is not known."));
    };
    match front.services.authenticator.handshake(parts, peer.address).await {
        Ok(Some(principal)) => Ok(principal),
        Ok(None) => Err(refused(&AuthError::Missing)),
        Err(error) => Err(refused(&error)),
    }
}

/// A changing call that a foreign page could make a browser send with the user's cookie.
fn forged(front: &Front, parts: &Parts) -> Option<Response<Body>> {
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
    if !kind.trim().eq_ignore_ascii_case("application/json") {
        let detail = "The body must be sent as application/json.";
        return Some(problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    let is_proxied = parts.extensions.get::<Peer>().is_some_and(|peer| peer.is_proxied);
    let has_cookie = parts.headers.contains_key(header::COOKIE);
    let is_allowed = |rule: &OriginRule| {
        match front.origins.judge(rule, &parts.headers, is_proxied) {
            Verdict::Allowed => true,
            // No browser sends a cookie across sites without an Origin.
            Verdict::Absent => !has_cookie,
            Verdict::Denied | Verdict::Malformed => false,
        }
    };
    if front.endpoints.iter().any(|endpoint| is_allowed(&endpoint.origins)) {
        return None;
    }
    Some(problem(StatusCode::FORBIDDEN, "Pages of this origin may not call the API."))
}

fn page_of(front: &Front, principal: &Principal, page: &Page) -> UnreadPage {
    let policy = &front.services.settings.policy;
    let allowed = |stored: &Stored| {
        let destination = &stored.message.destination;
        policy.decide(RuleFrame::Subscribe, principal, destination) == Decision::Allow
    };
    UnreadPage {
        messages: page.messages.iter().filter(|stored| allowed(stored)).map(message_of).collect(),
        left: page.left,
        truncated: page.truncated,
    }
}

fn message_of(stored: &Stored) -> UnreadMessage {
    let Stored { id, message, created_at } = stored;
    let mut headers = serde_json::Map::new();
    for (name, value) in message.headers.iter() {
        headers.entry(name).or_insert_with(|| value.into());
    }
    let (body, body_encoding) = match std::str::from_utf8(&message.body) {
        Ok(text) => (text.to_owned(), "utf8"),
        Err(_) => (STANDARD.encode(&message.body), "base64"),
    };
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(*created_at) * 1_000_000);
    let created_at = at.ok().and_then(|at| at.format(TIME).ok()).unwrap_or_default();
    UnreadMessage {
        id: id.to_string(),
        x_id: message.x_id.map(|id| id.to_string()),
        destination: message.shown.to_string(),
        headers,
        body,
        body_encoding,
        created_at,
    }
}

fn json(value: &impl Serialize) -> Response<Body> {
    axum::response::IntoResponse::into_response(Json(value))
}
