//! What system tests share: the servers they run against.

pub mod rabbitmq;
