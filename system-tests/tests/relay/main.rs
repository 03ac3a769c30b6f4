//! The built relay as a process of its own, with real clients, RabbitMQ and Redis: what survives
//! when one of them dies, hangs or comes back.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in tests a panic is how to fail")]
#![allow(clippy::print_stdout, reason = "the numbers of a run are worth reading")]
#![allow(clippy::too_many_lines, reason = "a course of events is read from top to bottom")]

mod acks;
mod amqp;
mod crash;
mod exchanges;
mod fan_out;
mod native;
mod nodes;
mod outage;
mod peers;
mod plugin;
mod poison;
mod pressure;
mod queue_headers;
mod readiness;
mod replay;
mod sharing;
mod shutdown;
mod support;
mod unread;
