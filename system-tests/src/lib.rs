//! Tests of the relay against real servers; run by `make test`.

#[cfg(test)]
mod redis_store;
#[cfg(test)]
mod store_suite;
