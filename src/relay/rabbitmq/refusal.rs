//! What a sender or subscriber is told when RabbitMQ says no. Pure.
//!
//! RabbitMQ's own texts go to the log only; the first words are those of its STOMP plugin.

use lapin::protocol::AMQPErrorKind;
use lapin::{Error, ErrorKind};

use crate::relay::error::{Refusal, RefusalKind, not_found, resource_locked};
use crate::relay::origin::{QueueOrigin, binding_key};

/// What an AMQP error means for whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// RabbitMQ refused this one thing and closed the channel; the reply code.
    Refused(u16),
    /// It closed the channel because the queue's node of the cluster is away. The queue is not.
    Unavailable,
    /// The connection is gone over something that was on it.
    Violation,
    /// The connection is gone, for no fault of ours.
    Gone,
}

impl Fault {
    pub(super) fn of(error: &Error) -> Self {
        // CONNECTION_FORCED: RabbitMQ shuts down, or an operator closed the connection.
        const FORCED: u16 = 320;
        match error.kind() {
            ErrorKind::ProtocolError(amqp) => match amqp.kind() {
                AMQPErrorKind::Soft(_) if is_down(amqp.get_message().as_str()) => Self::Unavailable,
                AMQPErrorKind::Soft(_) => Self::Refused(amqp.get_id()),
                AMQPErrorKind::Hard(_) if amqp.get_id() == FORCED => Self::Gone,
                AMQPErrorKind::Hard(_) => Self::Violation,
            },
            // What RabbitMQ said, lapin could not read; it would say it again.
            ErrorKind::ParsingError(_) => Self::Violation,
            _ => Self::Gone,
        }
    }
}

/// Only by its text is such a 404 told from the one of a queue that does not exist.
fn is_down(text: &str) -> bool {
    // The second is what 4.3 says after it has tried for a minute.
    text.contains("is down or inaccessible") || text.contains("due to timeout")
}

/// RabbitMQ closed a channel over this request.
pub(super) fn refused(code: u16) -> Refusal {
    let (kind, message, body) = match code {
        403 => (RefusalKind::Denied, "access_refused", "RabbitMQ denies the access.\n"),
        404 => (RefusalKind::Unroutable, "not_found", "RabbitMQ has nothing of that name.\n"),
        405 => (RefusalKind::Denied, "resource_locked", "The queue is somebody else's.\n"),
        _ => (
            RefusalKind::Denied,
            "precondition_failed",
            "RabbitMQ has the queue with other properties, or does not take the message.\n",
        ),
    };
    Refusal::new(kind, message, body)
}

/// RabbitMQ closed a channel over that queue.
pub(super) fn of_queue(code: u16, queue: &str) -> Refusal {
    match code {
        404 => not_found("queue", queue),
        405 => resource_locked(queue),
        _ => refused(code),
    }
}

/// RabbitMQ closed a channel over declaring a queue, or over what it is to be bound to.
pub(super) fn of_declare(code: u16, origin: &QueueOrigin) -> Refusal {
    match (code, origin.binding.as_ref().and_then(binding_key)) {
        (404, Some((exchange, _))) => not_found("exchange", exchange),
        _ => of_queue(code, &origin.queue),
    }
}

/// RabbitMQ closed a channel over that exchange.
pub(super) fn of_exchange(code: u16, name: &str) -> Refusal {
    if code == 404 { not_found("exchange", name) } else { refused(code) }
}

/// Whether a 403 is about a routing key only (RabbitMQ's topic permissions), so that the next
/// message to the exchange may pass.
pub(super) fn is_about_key(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::ProtocolError(amqp) => amqp.get_message().as_str().contains("access to topic "),
        _ => false,
    }
}

/// A mandatory message came back.
pub(super) fn unroutable() -> Refusal {
    Refusal::new(RefusalKind::Unroutable, "Unroutable", "The queue does not exist.\n")
}

/// RabbitMQ answered with `basic.nack`, or closed connections over it.
pub(super) fn not_accepted() -> Refusal {
    Refusal::new(RefusalKind::Outage, "not accepted", "RabbitMQ did not take the message.\n")
}

/// It waited for RabbitMQ too long. `is_refused`: which does not let this relay in, and will not
/// before somebody has looked after it.
pub(super) fn outage(is_refused: bool) -> Refusal {
    let (message, body) = if is_refused {
        ("Broker refuses this server", "Its operator finds the reason in the log.\n")
    } else {
        ("Broker not available", "RabbitMQ did not answer in time.\n")
    };
    Refusal::new(RefusalKind::Outage, message, body)
}

/// The queue is on a node that is away.
pub(super) fn unavailable() -> Refusal {
    let body = "The queue is on a node of RabbitMQ that is away.\n";
    Refusal::new(RefusalKind::Outage, "Broker not available", body)
}

/// Its headers do not fit into an AMQP frame.
pub(super) fn headers_too_large() -> Refusal {
    Refusal::new(RefusalKind::Limit, "Headers too large", "RabbitMQ takes 120 KiB of headers.\n")
}

/// RabbitMQ ended a subscription. The plugin's words.
pub(super) fn cancelled() -> Refusal {
    let body = "The server has canceled a subscription.\n";
    Refusal::new(RefusalKind::Cancelled, "Server cancelled subscription", body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::protocol::AMQPError;

    #[test]
    fn faults() {
        let cases = [
            (403, Fault::Refused(403)),
            (404, Fault::Refused(404)),
            (406, Fault::Refused(406)),
            (320, Fault::Gone),
            (501, Fault::Violation),
            (504, Fault::Violation),
        ];
        let down = "NOT_FOUND - home node 'a@b' of durable queue 'q' in vhost '/' is down or \
                    inaccessible";
        let cases = cases.map(|(code, expected)| (code, "text", expected));
        for (code, text, expected) in cases.into_iter().chain([(404, down, Fault::Unavailable)]) {
            let error = AMQPError::from_id(code, text.into()).unwrap();
            assert_eq!(Fault::of(&ErrorKind::ProtocolError(error).into()), expected, "{code}");
        }
        assert_eq!(Fault::of(&ErrorKind::MissingHeartbeatError.into()), Fault::Gone);
    }
}
