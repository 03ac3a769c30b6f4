//! What the tests against real servers share; run by `make test`.

pub mod rabbitmq;
#[cfg(test)]
mod redis_store;
#[cfg(test)]
mod store_suite;
