//! What the tests against real servers share; run by `make test`.

use std::time::Duration;

pub mod checker;
pub mod ports;
pub mod proxy;
pub mod rabbitmq;
pub mod raw;
pub mod redis;
#[cfg(test)]
mod redis_store;
pub mod relay;
pub mod stomp_client;
#[cfg(test)]
mod store_suite;

/// What has not happened after this time does not happen any more.
pub const PATIENCE: Duration = Duration::from_secs(60);
