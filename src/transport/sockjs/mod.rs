//! SockJS 0.3.3 without HTTP: what a session says and hears as JSON, the session that many
//! requests make up, and the framed WebSocket.

pub mod escape;
pub mod framed;
pub mod payload;
pub mod pipe;
pub mod registry;

/// The most that one `a[...]` frame collects, so that a burst is few frames but no huge ones.
pub const FRAME_BYTES: usize = 16 * 1024;

/// What a page sends where its code passed an `ArrayBuffer` or a `Blob` to `send`: SockJS carries
/// text only, and sockjs-client makes a string of whatever it is given.
#[must_use]
pub fn is_stringified(message: &[u8]) -> bool {
    matches!(
        message,
        b"[object ArrayBuffer]"
            | b"[object Blob]"
            | b"[object Uint8Array]"
            | b"[object DataView]"
            | b"[object Object]"
    )
}

/// Appends `c[code,"reason"]`.
pub fn push_close(out: &mut Vec<u8>, code: u16, reason: &str) {
    out.extend_from_slice(b"c[");
    out.extend_from_slice(code.to_string().as_bytes());
    out.extend_from_slice(b",\"");
    escape::push(out, reason.as_bytes());
    out.extend_from_slice(b"\"]");
}
