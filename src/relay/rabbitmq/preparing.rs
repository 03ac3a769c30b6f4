//! What has to be there, or may not be denied, before a message is published.

use std::pin::Pin;

use super::declarer::{DeclareError, Need};
use super::ledger::Outgoing;
use super::publisher::Publisher;
use super::refusal;
use super::topology::Goal;
use crate::destination::{Destination, TOPIC_EXCHANGE};
use crate::relay::origin::{ConsumerArguments, Declaration, QueueOrigin};

pub(super) type Preparing = Pin<Box<dyn Future<Output = Result<(), DeclareError>> + Send>>;

/// What is to be done before the message is published, where there is anything.
pub(super) fn prepare(publisher: &Publisher, goal: &Goal, next: &Outgoing) -> Option<Preparing> {
    let declarer = publisher.declarer.clone();
    let need = match goal {
        Goal::Open => return denied_topic(publisher, &next.message.destination),
        Goal::Exchange(exchange) if declarer.is_denied(&exchange.name, &exchange.key) => {
            return Some(denied());
        }
        Goal::Exchange(exchange) => Need::Exchange(exchange.name.clone()),
        Goal::Queue(queue) => {
            let declare = next.declare.as_ref().unwrap_or(&publisher.queue);
            let declare = Declaration::clone(declare);
            let own = publisher.exclusives.declaration(next.from.session(), queue);
            if declare.exclusive || own.is_some() {
                let exclusives = publisher.exclusives.clone();
                let (from, queue) = (next.from.clone(), queue.clone());
                return Some(Box::pin(async move {
                    exclusives.declare(&from, &queue, own.as_ref().unwrap_or(&declare)).await
                }));
            }
            let (binding, consumer) = (None, ConsumerArguments::default());
            let declare = Some(declare);
            Need::Queue(Box::new(QueueOrigin { queue: queue.clone(), declare, binding, consumer }))
        }
    };
    if declarer.knows(&need) {
        return None;
    }
    Some(Box::pin(async move { declarer.get(need).await }))
}

fn denied_topic(publisher: &Publisher, destination: &Destination) -> Option<Preparing> {
    let Destination::Topic(topic) = destination else { return None };
    let is_denied = publisher.declarer.is_denied(TOPIC_EXCHANGE, topic.key());
    is_denied.then(denied)
}

fn denied() -> Preparing {
    let refused = DeclareError::Refused(refusal::refused(403));
    Box::pin(std::future::ready(Err(refused)))
}

/// Waits for it, and for ever where there is nothing.
pub(super) async fn prepared(preparing: &mut Option<(u64, Preparing)>) -> Result<(), DeclareError> {
    match preparing {
        Some((_, prepare)) => prepare.await,
        None => std::future::pending().await,
    }
}
