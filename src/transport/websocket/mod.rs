//! STOMP over WebSocket (RFC 6455).

pub mod frame;
mod utf8;
