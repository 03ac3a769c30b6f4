//! stomp-relay: a STOMP-over-WebSocket broker relay.
//!
//! The way of a message: bytes, transport, stomp codec, session machine (no I/O), driver,
//! broker, mailbox, driver, bytes.

pub mod auth;
pub mod cli;
pub mod command;
pub mod config;
pub mod destination;
pub mod heap;
pub mod http;
pub mod message;
pub mod pattern;
pub mod persistence;
pub mod relay;
pub mod server;
pub mod session;
pub mod stomp;
pub mod telemetry;
pub mod ticker;
pub mod transport;
pub mod user;
