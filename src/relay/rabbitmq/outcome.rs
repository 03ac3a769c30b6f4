//! One publish and how it ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use lapin::options::BasicPublishOptions;
use lapin::{Channel, Confirmation};
use ulid::Ulid;

use super::ledger::{Loss, Outgoing};
use super::properties;
use super::refusal::Fault;
use super::topology::{Goal, Route};
use crate::relay::origin::Declaration;

/// How a publish ended.
pub(super) struct Outcome {
    pub(super) number: u64,
    pub(super) id: Ulid,
    goal: Goal,
    /// What the queue was declared with, where its sender said it.
    pub(super) declare: Option<Arc<Declaration>>,
    pub(super) handed: Instant,
    pub(super) result: lapin::Result<Confirmation>,
}

impl Outcome {
    pub(super) fn is_taken(&self) -> bool {
        matches!(self.result, Ok(Confirmation::Ack(_)))
    }

    /// The queue it was for, where it was mandatory.
    pub(super) fn queue(&self) -> Option<&Arc<str>> {
        match &self.goal {
            Goal::Queue(name) => Some(name),
            Goal::Open | Goal::Exchange(_) => None,
        }
    }
}

pub(super) type Publishing = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// What the errors of a channel's publishes say together: only some have the reason.
pub(super) fn worst(so_far: Option<Loss>, fault: Fault) -> Option<Loss> {
    let loss = match fault {
        Fault::Refused(_) => Loss::Channel,
        Fault::Violation => Loss::Violation,
        Fault::Gone => Loss::Connection,
    };
    match so_far {
        Some(Loss::Channel | Loss::Violation) => so_far,
        Some(Loss::Connection) | None => Some(loss),
    }
}

/// Sends a message at once, so that the order of calls is the order on the wire, and waits for
/// the confirm.
pub(super) fn publish(channel: Channel, route: Route, next: Outgoing) -> Publishing {
    let handed = Instant::now();
    let mut publishing: Publishing = Box::pin(async move {
        let properties = properties::outgoing(&next.message, next.id, next.republished);
        let mandatory = matches!(route.goal, Goal::Queue(_));
        let options = BasicPublishOptions { mandatory, ..Default::default() };
        let body = &next.message.body;
        let publish = channel.basic_publish(route.exchange, route.key, options, body, properties);
        let result = match publish.await {
            Ok(confirm) => confirm.await,
            Err(error) => Err(error),
        };
        let Outgoing { number, id, declare, .. } = next;
        Outcome { number, id, goal: route.goal, declare, handed, result }
    });
    let mut context = Context::from_waker(Waker::noop());
    match publishing.as_mut().poll(&mut context) {
        Poll::Pending => publishing,
        Poll::Ready(outcome) => Box::pin(std::future::ready(outcome)),
    }
}

/// Waits until lapin is not within a frame of confirms.
pub(super) fn barrier(channel: &Channel) {
    let wait = std::pin::pin!(channel.wait_for_confirms());
    // The lock is taken in the first poll; what comes after it is of no use here.
    let _first = wait.poll(&mut Context::from_waker(Waker::noop())).is_ready();
}
