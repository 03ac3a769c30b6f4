//! What this RabbitMQ takes, found out by trying.
//!
//! From 4.3 on, and before where it is configured so, RabbitMQ closes the connection over a queue
//! that is neither durable nor exclusive. Its version does not say which, so one is declared on a
//! connection that is used for nothing else.

use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{FieldTable, ShortString};

use super::connection::{Link, Shared, random_name};
use super::dialer::DialError;
use super::refusal::Fault;

/// What becomes of a queue that is not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transient {
    /// It may be shared, as the plugin of such a RabbitMQ declares it.
    Shared,
    /// It has to be one connection's alone.
    Exclusive,
}

pub(super) async fn transient(shared: &Shared) -> Result<Transient, DialError> {
    let link = shared.dialer.dial("probe").await?;
    let result = try_shared(&link).await;
    link.close().await;
    match result.map_err(|error| Fault::of(&error)) {
        Err(Fault::Violation) => {
            tracing::info!("RabbitMQ takes transient queues only where they are exclusive");
            Ok(Transient::Exclusive)
        }
        // Without the permission there will be no such queues either.
        Ok(()) | Err(Fault::Refused(_) | Fault::Unavailable | Fault::Gone) => Ok(Transient::Shared),
    }
}

async fn try_shared(link: &Link) -> lapin::Result<()> {
    let name = ShortString::from(format!("stomp-subscription-{}", random_name()));
    let channel = link.open_channel().await?;
    let options = QueueDeclareOptions { auto_delete: true, ..Default::default() };
    link.answer(channel.queue_declare(name.clone(), options, FieldTable::default())).await?;
    link.answer(channel.queue_delete(name, QueueDeleteOptions::default())).await?;
    Ok(())
}
