//! Answers that depend on no session: greeting, `/info`, the iframe, refusals.

use std::fmt::Write as _;

use aws_lc_rs::rand;
use axum::body::Body;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use md5::{Digest, Md5};
use serde_json::json;

use crate::transport::sockjs::payload::PayloadError;

use super::config::{SockJsConfig, SockJsTransport};
use super::headers;
use crate::http::OriginRule;

const PLAIN: &str = "text/plain; charset=UTF-8";

/// An answer with a text.
pub(super) fn text(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Body>,
) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// An answer without one.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

pub(super) fn not_found() -> Response<Body> {
    text(StatusCode::NOT_FOUND, PLAIN, "Not found\n")
}

/// A payload that is not taken; the session goes on.
pub(super) fn bad_payload(error: PayloadError) -> Response<Body> {
    let status = match error {
        PayloadError::Missing | PayloadError::Broken => StatusCode::INTERNAL_SERVER_ERROR,
        PayloadError::TooMany => StatusCode::PAYLOAD_TOO_LARGE,
    };
    refusal(status, error.text())
}

pub(super) fn refusal(status: StatusCode, detail: &'static str) -> Response<Body> {
    text(status, PLAIN, detail)
}

/// A request whose body is not read to its end: the connection closes after it.
pub(super) fn unread(status: StatusCode, detail: &'static str) -> Response<Body> {
    let mut response = refusal(status, detail);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

pub(super) fn greeting() -> Response<Body> {
    text(StatusCode::OK, PLAIN, "Welcome to SockJS!\n")
}

/// What a client asks first (0.3.3, "Info"). `transports` is not in 0.3.3; sockjs-node has it too,
/// and pages that let somebody choose can go by it.
pub(super) fn info(config: &SockJsConfig, origins: &OriginRule) -> Response<Body> {
    let mut entropy = [0_u8; 4];
    // Clients mix it into the names they choose; without it they still have their own.
    let _ = rand::fill(&mut entropy);
    let is_served =
        |transport: &SockJsTransport| *transport != SockJsTransport::Iframe || has_iframe(origins);
    let transports = config.transports.iter().copied().filter(is_served);
    let mut info = json!({
        "websocket": config.has(SockJsTransport::WebSocket),
        "origins": ["*:*"],
        "cookie_needed": config.session_cookie_needed,
        "entropy": u32::from_be_bytes(entropy),
        "transports": transports.map(SockJsTransport::public_name).collect::<Vec<_>>(),
    });
    if let (Some(url), Some(info)) = (&config.base_url, info.as_object_mut()) {
        info.insert("base_url".into(), url.as_str().into());
    }
    let body = info.to_string();
    let mut response = text(StatusCode::OK, "application/json; charset=UTF-8", body);
    headers::uncached(response.headers_mut());
    response
}

fn has_iframe(origins: &OriginRule) -> bool {
    origins.is_any() || origins.allowed.is_empty()
}

/// The page inside which the `iframe-...` transports run. With a list of origins there is none:
/// what runs in it has this server's origin, whatever page it stands in.
pub(super) fn iframe(
    config: &SockJsConfig,
    origins: &OriginRule,
    request: &HeaderMap,
) -> Response<Body> {
    if !has_iframe(origins) {
        return not_found();
    }
    let body = iframe_page(&config.client_library_url);
    let tag = iframe_tag(&body);
    let is_known = request.get_all(header::IF_NONE_MATCH).iter().any(|known| {
        let known = known.to_str().unwrap_or_default().split(',').map(str::trim);
        // A proxy that compresses makes it a weak one (RFC 9110, 13.1.2).
        known.map(|known| known.strip_prefix("W/").unwrap_or(known)).any(|known| known == tag)
    });
    let mut response = if is_known {
        empty(StatusCode::NOT_MODIFIED)
    } else {
        text(StatusCode::OK, "text/html; charset=UTF-8", body)
    };
    let headers = response.headers_mut();
    headers::cached(headers);
    if let Ok(tag) = HeaderValue::try_from(tag) {
        headers.insert(header::ETAG, tag);
    }
    if !origins.is_any() {
        let own = HeaderValue::from_static("frame-ancestors 'self'");
        headers.insert(header::CONTENT_SECURITY_POLICY, own);
    }
    response
}

/// The text of 0.3.3, "Iframe page".
fn iframe_page(library: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html>\n<head>\n  \
         <meta http-equiv=\"X-UA-Compatible\" content=\"IE=edge\" />\n  \
         <meta http-equiv=\"Content-Type\" content=\"text/html; charset=UTF-8\" />\n  \
         <script src=\"{library}\"></script>\n  <script>\n    \
         document.domain = document.domain;\n    SockJS.bootstrap_iframe();\n  \
         </script>\n</head>\n<body>\n  <h2>Don't panic!</h2>\n  \
         <p>This is a SockJS hidden iframe. It's used for cross domain magic.</p>\n\
         </body>\n</html>"
    )
}

/// A name for the text; nothing hangs on its being hard to forge.
fn iframe_tag(body: &str) -> String {
    let mut tag = String::from("\"");
    for byte in Md5::digest(body.as_bytes()) {
        // Writing into a String does not fail.
        let _ = write!(tag, "{byte:02x}");
    }
    tag.push('"');
    tag
}
