//! Requests that send: a body with messages for a session that is there.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};

use crate::http::problem::refused;
use crate::transport::sockjs::payload::{self, PayloadError, PayloadLimits};
use crate::transport::sockjs::pipe::Pipe;
use crate::transport::sockjs::registry::Kind;

use super::Call;
use super::statics::{bad_payload, empty, not_found, refusal, text, unread};

/// A session that takes nothing for so long refuses what comes.
const ROOM_TIME: Duration = Duration::from_secs(25);
/// What a form adds to a body: `d=` and up to three bytes for one.
const FORM: usize = 3;

impl Call<'_> {
    /// `xhr_send`: a JSON array, whatever content type it says to have.
    pub(super) async fn send(&self, session: &str, body: Incoming) -> Response<Body> {
        match self.take(session, body, Sender::Xhr).await {
            Ok(()) => {
                let mut response = empty(StatusCode::NO_CONTENT);
                // Some browsers complain about an answer without a type.
                let plain = HeaderValue::from_static("text/plain; charset=UTF-8");
                response.headers_mut().insert(header::CONTENT_TYPE, plain);
                response
            }
            Err(response) => response,
        }
    }

    /// `jsonp_send`: the array is a form's field `d`, or the body.
    pub(super) async fn jsonp_send(&self, session: &str, body: Incoming) -> Response<Body> {
        let kind = self.parts.headers.get(header::CONTENT_TYPE);
        let sender = if kind.is_some_and(is_form) { Sender::Form } else { Sender::Jsonp };
        match self.take(session, body, sender).await {
            Ok(()) => text(StatusCode::OK, "text/plain; charset=UTF-8", "ok"),
            Err(response) => response,
        }
    }

    async fn take(
        &self,
        session: &str,
        body: Incoming,
        sender: Sender,
    ) -> Result<(), Response<Body>> {
        let Some(found) = self.sockjs.registry.find(session) else { return Err(not_found()) };
        let is_its_own = (found.kind == Kind::Jsonp) == (sender != Sender::Xhr);
        match self.is_owner(&found.owner).await {
            Ok(true) if is_its_own => {}
            Ok(_) => return Err(not_found()),
            Err(error) => return Err(refused(&error)),
        }
        let limits = found.pipe.limits();
        let body = self.read(body, limits, sender).await?;
        let messages = match sender {
            Sender::Xhr | Sender::Jsonp => payload::parse(&body, limits.messages),
            Sender::Form => field(&body).and_then(|json| payload::parse(&json, limits.messages)),
        };
        hand_over(&found.pipe, messages.map_err(bad_payload)?).await
    }

    async fn read(
        &self,
        body: Incoming,
        limits: PayloadLimits,
        sender: Sender,
    ) -> Result<Bytes, Response<Body>> {
        let most = if sender == Sender::Form { limits.bytes * FORM + 2 } else { limits.bytes };
        let encodings = self.parts.headers.get_all(header::CONTENT_ENCODING);
        if encodings.iter().any(|encoding| encoding != "identity") {
            let detail = "Bodies are taken as they are, not compressed.\n";
            return Err(unread(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
        let too_big = || unread(StatusCode::PAYLOAD_TOO_LARGE, "The body is too big.\n");
        if body.size_hint().lower() > most as u64 {
            return Err(too_big());
        }
        let reading = Limited::new(body, most).collect();
        match tokio::time::timeout(self.sockjs.body_time, reading).await {
            Ok(Ok(collected)) => Ok(collected.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_big()),
            Ok(Err(_)) => Err(unread(StatusCode::BAD_REQUEST, "The body is broken.\n")),
            Err(_) => Err(unread(StatusCode::REQUEST_TIMEOUT, "The body took too long.\n")),
        }
    }
}

async fn hand_over(pipe: &Pipe, messages: Vec<Bytes>) -> Result<(), Response<Body>> {
    if pipe.send(messages, ROOM_TIME).await {
        Ok(())
    } else {
        Err(refusal(StatusCode::SERVICE_UNAVAILABLE, "The session takes nothing now.\n"))
    }
}

/// How messages come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sender {
    Xhr,
    /// The same body, by the page of jsonp.
    Jsonp,
    /// The form that page submits.
    Form,
}

fn is_form(kind: &HeaderValue) -> bool {
    let kind = kind.to_str().unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

/// The one field `d` of a form.
fn field(body: &[u8]) -> Result<Vec<u8>, PayloadError> {
    let mut fields = url::form_urlencoded::parse(body).filter(|(name, _)| name == "d");
    let (_, value) = fields.next().ok_or(PayloadError::Missing)?;
    match fields.next() {
        Some(_) => Err(PayloadError::Broken),
        None => Ok(value.into_owned().into_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let cases = [
            ("d=%5B%22x%22%5D", Ok("[\"x\"]")),
            ("d=[\"a+b\"]", Ok("[\"a b\"]")),
            ("i=1&d=[]", Ok("[]")),
            ("d=", Ok("")),
            ("d=%", Ok("%")),
            ("p=p", Err(PayloadError::Missing)),
            ("", Err(PayloadError::Missing)),
            ("d=[]&d=[]", Err(PayloadError::Broken)),
        ];
        for (body, expected) in cases {
            assert_eq!(field(body.as_bytes()), expected.map(|e| e.as_bytes().to_vec()), "{body}");
        }
    }
}
