//! Credentials in the head of an HTTP request.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::HeaderMap;
use http::header::{AUTHORIZATION, COOKIE, SEC_WEBSOCKET_PROTOCOL};
use http::request::Parts;

use super::secret::Secret;
use super::{AuthError, JwtConfig};

/// Nobody needs more ways to say who they are; each costs a verification.
const MAX_CREDENTIALS: usize = 4;

/// Something that says who somebody is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Credential {
    Token(Secret),
    Password {
        user: String,
        password: Secret,
    },
    /// `Authorization: Basic` with something else than base64 of a name and a password.
    Broken,
}

/// All credentials of a request, each once. `Conflict` where there are too many to be honest.
pub(super) fn credentials(
    head: &Parts,
    jwt: Option<&JwtConfig>,
) -> Result<Vec<Credential>, AuthError> {
    let mut found = Vec::new();
    let mut add = |credential: Credential| {
        if !found.contains(&credential) {
            found.push(credential);
        }
    };
    for value in head.headers.get_all(AUTHORIZATION) {
        match value.to_str() {
            Ok(value) => authorization(value).into_iter().for_each(&mut add),
            Err(_) => add(Credential::Broken),
        }
    }
    for protocol in values(&head.headers, &SEC_WEBSOCKET_PROTOCOL, ',') {
        if let Some(token) = protocol.strip_prefix("bearer.") {
            add(Credential::Token(Secret::new(token)));
        }
    }
    if let Some(name) = jwt.and_then(|jwt| jwt.cookie.as_deref()) {
        for cookie in values(&head.headers, &COOKIE, ';') {
            if let Some((own, value)) = cookie.split_once('=')
                && own == name
                && !value.is_empty()
            {
                add(Credential::Token(Secret::new(value.trim_matches('"'))));
            }
        }
    }
    if let Some(name) = jwt.and_then(|jwt| jwt.query.as_deref()) {
        let query = head.uri.query().unwrap_or_default();
        for (own, value) in url::form_urlencoded::parse(query.as_bytes()) {
            if own == name {
                add(Credential::Token(Secret::new(value)));
            }
        }
    }
    if found.len() > MAX_CREDENTIALS { Err(AuthError::Conflict) } else { Ok(found) }
}

/// The token of `Bearer TOKEN`.
pub(super) fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_start())
}

/// Schemes that are not known may be meant for a proxy in between.
fn authorization(value: &str) -> Option<Credential> {
    if let Some(token) = bearer(value) {
        return Some(Credential::Token(Secret::new(token)));
    }
    let (scheme, rest) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
    scheme.eq_ignore_ascii_case("basic").then(|| basic(rest).unwrap_or(Credential::Broken))
}

/// RFC 7617: base64 of the name, a colon and the password, here always UTF-8.
fn basic(encoded: &str) -> Option<Credential> {
    let bytes = BASE64_STANDARD.decode(encoded.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(Credential::Password { user: user.to_owned(), password: Secret::new(password) })
}

/// The parts of all headers of that name; what is not text is left out.
fn values<'a>(
    headers: &'a HeaderMap,
    name: &http::HeaderName,
    separator: char,
) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(move |value| value.split(separator))
        .map(str::trim)
}
