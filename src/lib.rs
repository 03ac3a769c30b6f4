//! stomp-relay: a STOMP-over-WebSocket broker relay.
//!
//! The way of a message: bytes, transport, stomp codec, session machine (no I/O), driver,
//! broker, mailbox, driver, bytes.

pub mod auth;
pub mod cli;
pub mod command;
pub mod config;
pub mod destination;
pub mod message;
pub mod pattern;
pub mod persistence;
pub mod relay;
pub mod stomp;
