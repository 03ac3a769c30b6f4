//! Requests that receive: they open a session or find theirs, and become its receiver.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use http::{Response, StatusCode};

use crate::http::guest::{self, Door, Guest};
use crate::http::problem::refused;
use crate::transport::Transport;
use crate::transport::sockjs::pipe::{Outbound, Pipe, PipeConfig};
use crate::transport::sockjs::registry::{Attached, Found, Kind, Owner};

use super::Call;
use super::statics::{not_found, refusal, text};
use super::streaming::{Streaming, Wrapping, frame};

/// A client that aborts a request and asks again may be seen asking first. It waits so long
/// before it is told that somebody else receives.
const GRACE: Duration = Duration::from_millis(100);
const CALLBACK_BYTES: usize = 64;

/// What became of the wish to receive.
enum Turn {
    Mine(Attached),
    Taken,
}

impl Call<'_> {
    pub(super) async fn receive(&self, session: &str, kind: Kind) -> Response<Body> {
        let callback = match kind {
            Kind::HtmlFile | Kind::Jsonp => match callback(self.parts.uri.query()) {
                Ok(callback) => callback,
                Err(detail) => return refusal(StatusCode::INTERNAL_SERVER_ERROR, detail),
            },
            Kind::Xhr | Kind::XhrStreaming | Kind::EventSource => String::new(),
        };
        let wrapping = Wrapping::new(kind, callback);
        match self.attach(session, kind).await {
            Ok(Turn::Mine(attached)) if matches!(kind, Kind::Xhr | Kind::Jsonp) => {
                self.poll(attached, &wrapping).await
            }
            Ok(Turn::Mine(attached)) => {
                let config = &self.sockjs.config;
                let content_type = wrapping.content_type();
                let (limit, heartbeat) = (config.stream_bytes_limit, config.heartbeat_time);
                let body = Streaming::new(attached, wrapping, limit, heartbeat);
                text(StatusCode::OK, content_type, Body::new(body))
            }
            Ok(Turn::Taken) => {
                let frame = wrapping.wrap(b"c[2010,\"Another connection still open\"]");
                let mut body = wrapping.prelude().map(Vec::from).unwrap_or_default();
                body.extend_from_slice(&frame);
                text(StatusCode::OK, wrapping.content_type(), body)
            }
            Err(response) => response,
        }
    }

    /// Finds the session, or opens it, and becomes its receiver.
    async fn attach(&self, session: &str, kind: Kind) -> Result<Turn, Response<Body>> {
        let registry = &self.sockjs.registry;
        let mut patience = Some(GRACE);
        loop {
            let Some(found) = registry.find(session) else {
                self.open(session, kind).await?;
                continue;
            };
            if found.kind != kind {
                return Err(not_found());
            }
            match self.is_owner(&found.owner).await {
                Ok(true) => {}
                Ok(false) => return Err(not_found()),
                Err(error) => return Err(refused(&error)),
            }
            match registry.attach(session, &found.pipe) {
                Ok(Some(attached)) => return Ok(Turn::Mine(attached)),
                // It has just gone; the next round opens a new one.
                Ok(None) => {}
                Err(_) => match patience.take() {
                    Some(grace) => found.pipe.vacant(grace).await,
                    None => return Ok(Turn::Taken),
                },
            }
        }
    }

    /// Opens a session of that name, where nobody else is faster.
    async fn open(&self, session: &str, kind: Kind) -> Result<(), Response<Body>> {
        let door = Door::Receive;
        let admitted = guest::admit(self.front, self.endpoint, self.peer, &self.parts, door).await;
        let metrics = &self.front.services.metrics;
        let guest = admitted.inspect_err(|_| {
            metrics.handshakes_refused.inc();
        })?;
        let owner = match guest.user() {
            Some(user) => Owner::User(user.clone()),
            None => Owner::Address(self.peer.address),
        };
        let config = &self.sockjs.config;
        let pipe_config = PipeConfig {
            disconnect_delay: config.disconnect_delay,
            messages_ahead: config.http_message_cache_size,
        };
        let limits = self.front.services.limits.narrow_read.sockjs;
        let limits = if matches!(guest, Guest::Custom(_)) {
            self.front.services.limits.wide_read.sockjs
        } else {
            limits
        };
        let pipe = Pipe::new(pipe_config, limits, Instant::now());
        let found = Found { pipe, kind, owner };
        if let Some(registered) = self.sockjs.registry.insert(session, found) {
            let services = self.front.services.clone();
            let transport = Transport::over_http(registered);
            guest.start(services, transport, None, bytes::Bytes::new());
        }
        Ok(())
    }

    /// One frame, then the response ends.
    async fn poll(&self, mut attached: Attached, wrapping: &Wrapping) -> Response<Body> {
        // Where the client goes away meanwhile this future is dropped, and `attached` with it.
        let number = attached.number();
        let pipe: Arc<Pipe> = attached.pipe().clone();
        let outbound = poll_fn(|cx| pipe.poll_outbound(number, cx));
        let waited = tokio::time::timeout(self.sockjs.config.heartbeat_time, outbound).await;
        let frame = waited.map_or_else(|_| b"h".to_vec(), |outbound: Outbound| frame(outbound).0);
        attached.finish();
        text(StatusCode::OK, wrapping.content_type(), wrapping.wrap(&frame))
    }
}

/// The name of the function that a script is to call (`c`, or `callback`).
fn callback(query: Option<&str>) -> Result<String, &'static str> {
    const INVALID: &str = "invalid \"callback\" parameter\n";
    let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let mut names = pairs.filter(|(key, _)| key == "c" || key == "callback").map(|(_, name)| name);
    let Some(name) = names.next() else { return Err("\"callback\" parameter required\n") };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_name = (1..=CALLBACK_BYTES).contains(&name.len()) && name.bytes().all(is_plain);
    if is_name && names.next().is_none() { Ok(name.into_owned()) } else { Err(INVALID) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callbacks() {
        let (required, invalid) =
            ("\"callback\" parameter required\n", "invalid \"callback\" parameter\n");
        let longest = format!("c={}", "a".repeat(64));
        let too_long = format!("c={}", "a".repeat(65));
        let cases = [
            (None, Err(required)),
            (Some("t=1"), Err(required)),
            (Some("c=%63allback"), Ok("callback")),
            (Some("callback=_jp.aXYZ&t=1"), Ok("_jp.aXYZ")),
            (Some(longest.as_str()), Ok(longest.get(2..).unwrap())),
            (Some(too_long.as_str()), Err(invalid)),
            (Some("c="), Err(invalid)),
            (Some("c=%20"), Err(invalid)),
            (Some("c=*"), Err(invalid)),
            (Some("c=abc("), Err(invalid)),
            (Some("c=abc%28"), Err(invalid)),
            (Some("c=a&c=%3Cb%3E"), Err(invalid)),
            (Some("c=a&callback=a"), Err(invalid)),
        ];
        for (query, expected) in cases {
            assert_eq!(callback(query), expected.map(str::to_owned), "{query:?}");
        }
    }
}
