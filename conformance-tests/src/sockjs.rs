//! SockJS as a client has it on a WebSocket: frames are JSON, and text only.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// What a server says in one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SockJsFrame {
    Open,
    Beat,
    Messages(Vec<String>),
    Close(u16, String),
}

/// Reads one message.
///
/// # Errors
/// With what is wrong with it.
pub(crate) fn decode(text: &str) -> Result<SockJsFrame, String> {
    let wrong = |error: serde_json::Error| format!("no SockJS frame: {error}");
    let (kind, rest) = text.split_at_checked(1).unwrap_or(("", ""));
    match (kind, rest) {
        ("o", "") => Ok(SockJsFrame::Open),
        ("h", "") => Ok(SockJsFrame::Beat),
        ("a", list) => serde_json::from_str(list).map(SockJsFrame::Messages).map_err(wrong),
        ("c", pair) => {
            let (code, reason) = serde_json::from_str(pair).map_err(wrong)?;
            Ok(SockJsFrame::Close(code, reason))
        }
        _ => Err("no SockJS frame: it begins with none of o, h, a and c".into()),
    }
}

/// What a client sends as one message.
pub(crate) fn encode(text: &str) -> String {
    serde_json::Value::from(vec![text]).to_string()
}

/// Pieces of about `size` bytes that are text each.
pub(crate) fn pieces(text: &str, size: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        // A character may be longer than a piece.
        let end = rest.ceil_char_boundary(size.max(1));
        let (piece, after) = rest.split_at(end);
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// The WebSocket of a session that nobody else has, below the SockJS address.
pub(crate) fn session_url(url: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (base, query) = url
        .split_once('?')
        .map_or((url, String::new()), |(base, query)| (base, format!("?{query}")));
    // http to ws, https to wss.
    let rest = base.strip_prefix("http").unwrap_or(base);
    let rest = rest.trim_end_matches('/');
    format!(
        "ws{rest}/000/{:x}-{:x}-{count}/websocket{query}",
        since.as_micros(),
        std::process::id()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames() {
        let cases = [
            ("o", Ok(SockJsFrame::Open)),
            ("h", Ok(SockJsFrame::Beat)),
            (r#"a["x\n","\u0000"]"#, Ok(SockJsFrame::Messages(vec!["x\n".into(), "\0".into()]))),
            (r#"c[1002,"why"]"#, Ok(SockJsFrame::Close(1002, "why".into()))),
        ];
        for (text, expected) in cases {
            assert_eq!(decode(text), expected, "{text}");
        }
        for text in ["", "x", "oo", "a", "a[1]", "c[1002]", "MESSAGE", "é"] {
            assert!(decode(text).is_err(), "{text}");
        }
        assert_eq!(encode("a\"\n\0"), r#"["a\"\n\u0000"]"#);
    }

    #[test]
    fn pieces_are_text() {
        assert_eq!(pieces("aé😀b", 1), ["a", "é", "😀", "b"]);
        assert_eq!(pieces("aé😀b", 4), ["aé😀", "b"]);
        assert_eq!(pieces("", 4), [] as [&str; 0]);
    }

    #[test]
    fn urls() {
        let url = session_url("https://a:1/ws/?token=x");
        assert!(url.starts_with("wss://a:1/ws/000/"), "{url}");
        assert!(url.ends_with("/websocket?token=x"), "{url}");
        assert_ne!(session_url("http://a/ws"), session_url("http://a/ws"));
    }
}
