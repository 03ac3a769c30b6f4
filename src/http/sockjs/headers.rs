//! Headers of SockJS answers: caching, CORS, the cookie for balancers.

use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

use super::statics::empty;
use crate::http::Peer;

const UNCACHED: &str = "no-store, no-cache, no-transform, must-revalidate, max-age=0";
/// A year.
const CACHED: &str = "public, max-age=31536000";
const YEAR: u32 = 31_536_000;
/// Of `Access-Control-Request-Headers`.
const ASKED_BYTES: usize = 1024;
const COOKIE: &[u8] = b"JSESSIONID";
const COOKIE_BYTES: usize = 256;
/// A day long past or far away is as good as any; this one is what others send.
const EXPIRES: &str = "Fri, 01 Jan 2500 00:00:00 GMT";

/// Nobody keeps the answer, and nginx passes it on as it comes.
pub(super) fn uncached(headers: &mut HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(UNCACHED));
    let buffering = HeaderName::from_static("x-accel-buffering");
    headers.insert(buffering, HeaderValue::from_static("no"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// Everybody may keep the answer for a year.
pub(super) fn cached(headers: &mut HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(CACHED));
    headers.insert(header::EXPIRES, HeaderValue::from_static(EXPIRES));
}

/// The Origin has been judged before.
pub(super) fn cors(request: &HeaderMap, response: &mut HeaderMap) {
    response.append(header::VARY, HeaderValue::from_static("Origin"));
    match request.get(header::ORIGIN) {
        Some(origin) => {
            response.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            let credentials = HeaderValue::from_static("true");
            response.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, credentials);
        }
        None => {
            let any = HeaderValue::from_static("*");
            response.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, any);
        }
    }
    let asked = request.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
    if let Some(asked) = asked.filter(|asked| is_list_of_names(asked.as_bytes())) {
        response.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
}

/// What is repeated is names of headers and nothing else.
fn is_list_of_names(value: &[u8]) -> bool {
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~, ".contains(byte);
    !value.is_empty() && value.len() <= ASKED_BYTES && value.iter().all(is_name)
}

/// The answer to the question whether a request is allowed.
pub(super) fn preflight(request: &HeaderMap, methods: &'static str) -> Response<Body> {
    let mut response = empty(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    cached(headers);
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(YEAR));
    if request.contains_key(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.append(header::VARY, HeaderValue::from_static("Access-Control-Request-Headers"));
    }
    response
}

/// The cookie by which balancers stick. It says nothing and opens nothing. A client that has one
/// of that name, maybe an application's, keeps it as it is; where `repeats`, it is sent back.
pub(super) fn cookie(request: &HeaderMap, peer: Peer, repeats: bool, response: &mut HeaderMap) {
    let cookies = request.get_all(header::COOKIE).into_iter();
    let own = cookies
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b';'))
        .filter_map(|item| item.trim_ascii().strip_prefix(COOKIE)?.strip_prefix(b"="))
        .next();
    if own.is_some() && !repeats {
        return;
    }
    let own = own.filter(|value| is_token(value)).and_then(|value| std::str::from_utf8(value).ok());
    let is_secure =
        peer.is_proxied && request.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
    let secure = if is_secure { "; Secure" } else { "" };
    let value = format!("JSESSIONID={}; path=/; HttpOnly{secure}", own.unwrap_or("dummy"));
    if let Ok(value) = HeaderValue::try_from(value) {
        response.insert(header::SET_COOKIE, value);
    }
}

fn is_token(value: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!".contains(byte);
    (1..=COOKIE_BYTES).contains(&value.len()) && value.iter().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn set(cookies: &[&'static str], repeats: bool) -> Option<String> {
        let mut request = HeaderMap::new();
        for cookie in cookies {
            request.append(header::COOKIE, HeaderValue::from_static(cookie));
        }
        let peer = Peer { address: IpAddr::V4(Ipv4Addr::LOCALHOST), is_proxied: false };
        let mut response = HeaderMap::new();
        cookie(&request, peer, repeats, &mut response);
        response.get(header::SET_COOKIE).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn an_application_keeps_its_cookie() {
        let dummy = || Some("JSESSIONID=dummy; path=/; HttpOnly".to_owned());
        assert_eq!(set(&[], false), dummy());
        assert_eq!(set(&["a=b; XJSESSIONID=1; JSESSIONIDX=2"], false), dummy());
        for own in
            ["JSESSIONID=abc.node1", "a=b; JSESSIONID=0000a:17", "JSESSIONID=\"x\"", "JSESSIONID="]
        {
            assert_eq!(set(&["c=d", own], false), None, "{own}");
        }
        let repeated = Some("JSESSIONID=abc; path=/; HttpOnly".to_owned());
        assert_eq!(set(&["a=b;JSESSIONID=abc"], true), repeated);
        assert_eq!(set(&["JSESSIONID=<b>"], true), dummy());
    }
}
