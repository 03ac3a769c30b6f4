//! One client's session: a state machine, and the one driver that performs what it says.
//!
//! Everything here but `driver` is without I/O, clock and async. Calls go in (a frame, an event,
//! a delivery, the time), [`Action`]s come out, and the driver performs them.

mod acks;
mod action;
mod app;
mod begin;
mod connect;
mod deadlines;
mod deliver;
pub mod driver;
mod error;
mod held;
mod liveness;
mod machine;
mod proof;
mod refuse;
mod reply;
mod send;
pub mod sessions;
mod settle;
mod subscribe;
mod subscriptions;
mod transactions;
mod waiting;

pub use action::{Action, After, Outgoing};
pub use error::{Errors, OnError, Violation};
pub use liveness::Wire;
pub use machine::{BrokerKind, Limits, Session, Settings};
