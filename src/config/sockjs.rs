//! The SockJS options of an endpoint. Their names are those of Spring's `SockJsServiceRegistration`
//! in this file's spelling, and so are their defaults.

use url::Url;

use super::build::{count, time};
use super::source::Settings;
use super::types::{SockJsConfig, SockJsTransport};

/// The options of `endpoint[index]`, or the defaults where there is none; none where SockJS is
/// off.
pub(super) fn options(
    s: &mut Settings,
    index: usize,
    allowed_origins: &[String],
) -> Option<SockJsConfig> {
    let name = |key: &str| format!("endpoint[{index}].{key}");
    if !s.flag(&name("sockjs")) {
        return None;
    }
    let mut transports = transports(s, &name("transports"), allowed_origins);
    if !s.flag(&name("web_socket_enabled")) {
        transports.retain(|transport| *transport != SockJsTransport::WebSocket);
    }
    Some(SockJsConfig {
        transports,
        base_url: address(s, &name("base_url")),
        client_library_url: address(s, &name("client_library_url")).unwrap_or_default(),
        stream_bytes_limit: count(s, &name("stream_bytes_limit")),
        session_cookie_needed: s.flag(&name("session_cookie_needed")),
        session_cookie_repeated: false,
        heartbeat_time: time(s, &name("heartbeat_time")),
        disconnect_delay: time(s, &name("disconnect_delay")),
        http_message_cache_size: count(s, &name("http_message_cache_size")),
        suppress_cors: s.flag(&name("suppress_cors")),
    })
}

fn transports(s: &mut Settings, name: &str, origins: &[String]) -> Vec<SockJsTransport> {
    let mut transports = Vec::new();
    for text in s.list(name) {
        let Some(transport) = SockJsTransport::ALL.into_iter().find(|t| t.name() == text) else {
            let known = SockJsTransport::ALL.map(SockJsTransport::name).join("\", \"");
            s.mistake(name, format!("{text:?} is no transport; there are \"{known}\""));
            continue;
        };
        // A script of any page can use these two without an Origin that could be judged.
        if transport.is_script() && !origins.is_empty() && !origins.iter().any(|o| o == "*") {
            s.mistake(
                name,
                format!("{text:?} cannot keep to allowed_origins; leave it out, or allow \"*\""),
            );
        }
        if !transports.contains(&transport) {
            transports.push(transport);
        }
    }
    transports
}

/// A URL that goes into an HTML page or to clients.
fn address(s: &mut Settings, name: &str) -> Option<String> {
    let text = s.text(name)?;
    let is_path = text.starts_with('/') && !text.starts_with("//");
    let is_url = Url::parse(&text).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>\"'&`".contains(&byte));
    if !is_plain || !is_path && !is_url {
        s.mistake(name, format!("{text:?} is no address; write \"https://HOST/...\" or \"/...\""));
        return None;
    }
    Some(text)
}
