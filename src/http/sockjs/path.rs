//! The paths of SockJS, below the endpoint's own.

use crate::transport::sockjs::registry::Kind;

/// Names that clients choose are at most this long.
const NAME_BYTES: usize = 128;

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Greeting,
    Info,
    Iframe,
    RawWebSocket,
    WebSocket,
    Receive(&'a str, Kind),
    /// Also for the transports that only receive.
    Send(&'a str),
    JsonpSend(&'a str),
}

impl Route<'_> {
    pub(super) fn without_session(self) -> Route<'static> {
        match self {
            Self::Greeting => Route::Greeting,
            Self::Info => Route::Info,
            Self::Iframe => Route::Iframe,
            Self::RawWebSocket => Route::RawWebSocket,
            Self::WebSocket => Route::WebSocket,
            Self::Receive(_, kind) => Route::Receive("", kind),
            Self::Send(_) => Route::Send(""),
            Self::JsonpSend(_) => Route::JsonpSend(""),
        }
    }

    /// Whether pages of other origins read the answer.
    pub(super) fn has_cors(self) -> bool {
        match self {
            Self::Info | Self::Send(_) => true,
            Self::Receive(_, kind) => {
                matches!(kind, Kind::Xhr | Kind::XhrStreaming | Kind::EventSource)
            }
            Self::Greeting
            | Self::Iframe
            | Self::RawWebSocket
            | Self::WebSocket
            | Self::JsonpSend(_) => false,
        }
    }
}

/// What the part of a path after the endpoint's own asks for.
pub(super) fn route(rest: &str) -> Option<Route<'_>> {
    match rest {
        "" | "/" => return Some(Route::Greeting),
        "/info" => return Some(Route::Info),
        "/websocket" => return Some(Route::RawWebSocket),
        _ => {}
    }
    let rest = rest.strip_prefix('/')?;
    if !rest.contains('/') {
        return is_iframe(rest).then_some(Route::Iframe);
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let mut parts = rest.split('/');
    let (server, session, transport) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || !is_name(server) || !is_name(session) {
        return None;
    }
    Some(match transport {
        "websocket" => Route::WebSocket,
        "xhr" => Route::Receive(session, Kind::Xhr),
        "xhr_streaming" => Route::Receive(session, Kind::XhrStreaming),
        "eventsource" => Route::Receive(session, Kind::EventSource),
        "htmlfile" => Route::Receive(session, Kind::HtmlFile),
        "jsonp" => Route::Receive(session, Kind::Jsonp),
        "xhr_send" => Route::Send(session),
        "jsonp_send" => Route::JsonpSend(session),
        _ => return None,
    })
}

/// A server's or a session's name: anything without a dot.
fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES).contains(&name.len()) && !name.contains(['.', ';'])
}

/// `iframe[0-9-.a-z_]*.html`
fn is_iframe(name: &str) -> bool {
    let version = name.strip_prefix("iframe").and_then(|rest| rest.strip_suffix(".html"));
    version.is_some_and(|version| {
        version.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase() || b"-._".contains(&b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_to_the_letter() {
        let long = format!("/000/{}/xhr", "a".repeat(128));
        let too_long = format!("/000/{}/xhr", "a".repeat(129));
        let cases = [
            ("", Some(Route::Greeting)),
            ("/", Some(Route::Greeting)),
            ("/info", Some(Route::Info)),
            ("/websocket", Some(Route::RawWebSocket)),
            ("/iframe.html", Some(Route::Iframe)),
            ("/iframe-.html", Some(Route::Iframe)),
            ("/iframe-0.1.2abc-dirty.2144.html", Some(Route::Iframe)),
            ("/000/abc/websocket", Some(Route::WebSocket)),
            ("/000/abc/xhr", Some(Route::Receive("abc", Kind::Xhr))),
            ("/0/a%20b/xhr", Some(Route::Receive("a%20b", Kind::Xhr))),
            ("/000/abc/xhr/", Some(Route::Receive("abc", Kind::Xhr))),
            ("/000/__proto__/xhr_streaming", Some(Route::Receive("__proto__", Kind::XhrStreaming))),
            ("/a/b/eventsource", Some(Route::Receive("b", Kind::EventSource))),
            ("/a/b/htmlfile", Some(Route::Receive("b", Kind::HtmlFile))),
            ("/a/b/jsonp", Some(Route::Receive("b", Kind::Jsonp))),
            ("/a/b/xhr_send", Some(Route::Send("b"))),
            ("/a/b/jsonp_send", Some(Route::JsonpSend("b"))),
            (&long, Some(Route::Receive(long.get(5..133).unwrap(), Kind::Xhr))),
            (&too_long, None),
            ("//", None),
            ("///", None),
            ("/a", None),
            ("/a.html", None),
            ("/a/a", None),
            ("/a/a/", None),
            ("/a/", None),
            ("/info/", None),
            ("/upgrade", None),
            ("//xhr", None),
            ("//a/xhr", None),
            ("/a//xhr", None),
            ("/a./a/xhr", None),
            ("/a/a./xhr", None),
            ("/./x/xhr", None),
            ("/../../etc/passwd", None),
            ("/a/b/xhr/c", None),
            ("/a/b/xhr//", None),
            ("/a/b/XHR", None),
            ("/a/b/jsonp;Setup.bat", None),
            ("/a/b;jsessionid=1/xhr", None),
            ("/iframe", None),
            ("/iframe.htm", None),
            ("/IFRAME.HTML", None),
            ("/iframe.HTML", None),
            ("/iframe.xml", None),
            ("/iframe-/.html", None),
            ("/iframe-A.html", None),
            ("xhr", None),
        ];
        for (rest, expected) in cases {
            assert_eq!(route(rest), expected, "{rest}");
        }
    }
}
