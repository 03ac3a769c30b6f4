//! SockJS from the outside: every behaviour that public protocol tests ask for, inputs that
//! have broken other servers, races, limits, and STOMP over all of it.
//!
//! The server runs in this process, its clients are bare sockets: libraries hide where a chunk
//! ends, which headers came and whether a connection was closed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in tests a panic is how to fail")]

mod beats;
mod client;
mod http;
mod limits;
mod owner;
mod protocol;
mod races;
mod relay;
mod rows;
#[path = "../../examples/sockjs-echo/services.rs"]
mod services;
mod stomp;
mod transports;
mod ws;

/// What has not happened after this time does not happen any more.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);
