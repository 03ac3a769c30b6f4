//! stomp-relay: a STOMP-over-WebSocket broker relay.
//!
//! The way of a message: bytes, transport, stomp codec, session machine (no I/O), driver,
//! broker, mailbox, driver, bytes.

pub mod auth;
pub mod destination;
pub mod message;
pub mod persistence;
pub mod relay;
pub mod stomp;
pub mod transport;
