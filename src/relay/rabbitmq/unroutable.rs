//! What the sender of a message is told that came back.
//!
//! RabbitMQ returns it in the same way where its queue does not exist and where the node that has
//! the queue is away. Only the first is the sender's business, so RabbitMQ is asked which it is.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::declarer::{DeclareError, Need};
use super::ledger::Pending;
use super::publisher::Publisher;
use super::refusal;
use crate::destination::Destination;
use crate::relay::error::Refusal;

/// Answers their senders.
pub(super) async fn refuse(publisher: Arc<Publisher>, refused: Vec<Pending>) {
    const PATIENCE: Duration = Duration::from_secs(5);
    let mut known = HashMap::<Arc<str>, Refusal>::new();
    for pending in refused {
        // Nothing else is mandatory.
        let Destination::Queue(queue) = &pending.message.destination else { continue };
        let refusal = match known.get(queue) {
            Some(refusal) => refusal.clone(),
            None => {
                let ask = publisher.declarer.get(Need::Found(queue.clone()));
                match tokio::time::timeout(PATIENCE, ask).await {
                    Ok(Err(DeclareError::Unavailable)) => refusal::unavailable(),
                    Ok(_) => refusal::unroutable(),
                    Err(_) => refusal::outage(false),
                }
            }
        };
        publisher.shared.counters.unroutable.add(u64::from(refusal == refusal::unroutable()));
        known.insert(queue.clone(), refusal.clone());
        publisher.refuse(&pending, refusal);
    }
}
