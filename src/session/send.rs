//! SEND (1.2, "SEND").

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use ulid::Ulid;

use crate::auth::policy::{Decision, RuleFrame};
use crate::destination::{Destination, DestinationError, reply_to_shown};
use crate::message::Message;
use crate::relay::error::{Refusal, RefusalKind};
use crate::relay::mailbox::Token;
use crate::relay::origin::{Declaration, QueueHeaders};
use crate::stomp::{Command, Frame, Headers};
use crate::user::ReadRequest;

use super::action::Action;
use super::error::{Violation, code};
use super::machine::{BrokerKind, Context, Session};
use super::reply::ReplyTo;
use super::subscribe::bad_queue_header;
use super::transactions::Step;
use super::waiting::Waiting;

/// Headers of a SEND that its MESSAGE does not have: they are the server's own, or would mean
/// something to RabbitMQ that no client may say.
const DROPPED: [&str; 17] = [
    "destination",
    "content-length",
    "CC",
    "BCC",
    "user-id",
    "receipt",
    "transaction",
    "subscription",
    "message-id",
    "ack",
    "redelivered",
    "x-id",
    "unread-id",
    "x-destination",
    "x-republished",
    "x-receipt-level",
    "x-user",
];
const DROPPED_TOO: [&str; 2] = ["x-session", "x-roles"];
const DROPPED_PREFIX: &str = "x-unread";

/// Headers that become AMQP short strings.
const SHORT: [&str; 8] = [
    "content-type",
    "content-encoding",
    "correlation-id",
    "reply-to",
    "expiration",
    "amqp-message-id",
    "type",
    "app-id",
];
/// Headers that are numbers to RabbitMQ, which closes a channel for one that is none.
const NUMBERS: [&str; 3] = ["priority", "expiration", "timestamp"];

/// A destination that the session may send to, and what it is: who sends mostly sends there again.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    /// As the client writes it.
    text: Arc<str>,
    destination: Destination,
    /// As a MESSAGE has it.
    shown: Arc<str>,
}

/// A SEND that was judged and may be done.
#[derive(Debug)]
pub(super) struct Sending {
    target: Target,
    context: Context,
}

#[derive(Debug)]
enum Target {
    Broker { message: Arc<Message>, declare: Option<Box<Declaration>> },
    User { message: Arc<Message>, never: bool },
    Read(ReadRequest),
}

impl Session {
    pub(super) fn send(
        &mut self,
        frame: Frame,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> Result<(), Violation> {
        let Some(text) = frame.headers.get("destination") else {
            return Err(Violation::new(
                "Missing destination",
                "\"SEND\" must include a 'destination' header\n",
            ));
        };
        let known = self.sent.as_deref().filter(|sent| &*sent.text == text).cloned();
        let text = known.as_ref().map_or_else(|| Arc::from(text), |sent| sent.text.clone());
        let context = Context {
            command: Command::Send,
            destination: Some(text),
            id: None,
            receipt: frame.headers.get("receipt").map(str::to_owned),
        };
        for name in NUMBERS {
            let is_number =
                |value: &str| !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
            if frame.headers.get(name).is_some_and(|value| !is_number(value)) {
                return Err(Violation::new(
                    "Invalid header",
                    format!("'{name}' must be a number without sign\n"),
                ));
            }
        }
        let transaction = frame.headers.get("transaction").map(str::to_owned);
        if let Some(name) = &transaction {
            self.must_be_open(name)?;
        }
        let queue = QueueHeaders::of_send(&frame.headers).map_err(bad_queue_header)?;
        let size = frame.body.len() + frame.headers.text_len();
        let is_new = known.is_none();
        let judged = self.reply_to(&frame.headers).and_then(|reply_to| {
            let shown = match &reply_to {
                ReplyTo::Shown(shown) => Some(&**shown),
                ReplyTo::Nowhere | ReplyTo::NotYet(_) => None,
            };
            let body = frame.body.clone();
            let sending =
                self.judge(&frame.headers, body, known, &queue, shown, context.clone())?;
            Ok((sending, reply_to))
        });
        let judged = match judged {
            // It is judged once more when its queue of answers has a name.
            Ok((_, ReplyTo::NotYet(id))) => {
                self.hold_for_answers(&id, frame, now, out);
                return Ok(());
            }
            Ok((sending, _)) => {
                if is_new {
                    self.sent = sending.sent();
                }
                Ok(sending)
            }
            Err(refusal) => Err(refusal),
        };
        match (judged, transaction) {
            (Ok(sending), None) => self.perform(sending, None, out),
            (Ok(sending), Some(name)) => {
                let step = Step::Send(Box::new(sending));
                if self.add_step(&name, step, size, &context, out) {
                    self.receipt(context.receipt, None, out);
                }
            }
            (Err(refusal), transaction) => {
                if let Some(name) = transaction {
                    self.transactions.refuse(&name, &refusal);
                }
                self.refuse(refusal, &context, out);
            }
        }
        Ok(())
    }

    /// Decides on a SEND when it arrives, in a transaction or not. `known`: the destination, where
    /// it was decided before that the session may send there.
    fn judge(
        &self,
        headers: &Headers,
        body: Bytes,
        known: Option<Sent>,
        queue: &QueueHeaders,
        reply_to: Option<&str>,
        context: Context,
    ) -> Result<Sending, Refusal> {
        let text = context.destination.as_deref().unwrap_or_default();
        let body = detached(body);
        let (destination, shown) = match known {
            Some(Sent { destination, shown, .. }) => (destination, Some(shown)),
            None => (self.destination(text)?, None),
        };
        for name in SHORT {
            if headers.get(name).is_some_and(|value| value.len() > 255) {
                return Err(Refusal::new(
                    RefusalKind::Limit,
                    "Header too long",
                    format!("'{name}' may have at most 255 bytes\n"),
                ));
            }
        }
        let target = match &destination {
            Destination::App(key) if &**key == "unread.read" => {
                let request = ReadRequest::parse(&body, self.user_name())
                    .map_err(|error| Refusal::new(RefusalKind::Limit, "Invalid body", error))?;
                Target::Read(request)
            }
            Destination::App(_) => return Err(no_application(text)),
            Destination::User(to) => {
                let shown = to.to_string();
                let reply_to = reply_to.map(reply_to_shown);
                let headers_shown = passing(headers, reply_to.as_deref());
                let mut message = Message::new(destination, shown.into(), headers_shown, body);
                message.persistent = headers.get("persistent") == Some("true");
                message.x_id = Some(Ulid::generate());
                Target::User {
                    message: Arc::new(message),
                    never: headers.get("x-unread") == Some("never"),
                }
            }
            Destination::Queue(_)
            | Destination::AmqQueue(_)
            | Destination::ReplyQueue(_)
            | Destination::Topic(_)
            | Destination::Exchange(_) => {
                // A topic is shown as its sender wrote it, all else by its one name.
                let shown = shown.unwrap_or_else(|| match &destination {
                    Destination::Topic(_) if text.starts_with("/topic/") => Arc::from(text),
                    other => Arc::from(other.to_string()),
                });
                let declare = match &destination {
                    Destination::Queue(_) if !queue.is_plain() => {
                        self.may_dead_letter(queue)?;
                        Some(Box::new(queue.queue()))
                    }
                    _ => None,
                };
                let headers_shown = passing(headers, reply_to);
                let mut message = Message::new(destination, shown, headers_shown, body);
                message.persistent = headers.get("persistent") == Some("true");
                let is_rabbit = self.settings.broker == BrokerKind::RabbitMq;
                message.x_id = is_rabbit.then(Ulid::generate);
                Target::Broker { message: Arc::new(message), declare }
            }
        };
        Ok(Sending { target, context })
    }

    /// The destination that a text is, where the session may send there.
    fn destination(&self, text: &str) -> Result<Destination, Refusal> {
        self.fits(text)?;
        let destination = Destination::for_send_within(text, &self.settings.names)
            .map_err(|error| refusal_of(&error))?;
        self.may(RuleFrame::Send, &destination, text)?;
        Ok(destination)
    }

    /// Whether a destination is as short as the config wants it.
    pub(super) fn fits(&self, text: &str) -> Result<(), Refusal> {
        let (bytes, limit) = (text.len(), self.settings.limits.destination_bytes);
        let error = DestinationError::TooLong { bytes, limit };
        if bytes > limit { Err(refusal_of(&error)) } else { Ok(()) }
    }

    /// Whether the rules let the session do it.
    pub(super) fn may(
        &self,
        frame: RuleFrame,
        destination: &Destination,
        text: &str,
    ) -> Result<(), Refusal> {
        let decision = self
            .principal
            .as_ref()
            .map(|principal| self.settings.policy.decide(frame, principal, destination));
        match decision {
            Some(Decision::Allow) => Ok(()),
            Some(Decision::Deny) | None => Err(Refusal::new(
                RefusalKind::Denied,
                "access_refused",
                format!("access to '{text}' refused\n"),
            )),
        }
    }

    pub(super) fn perform(
        &mut self,
        sending: Sending,
        commit: Option<Token>,
        out: &mut Vec<Action>,
    ) {
        let Sending { target, context } = sending;
        let context = if commit.is_some() { Context { receipt: None, ..context } } else { context };
        let token = self.wait(Waiting::Send { context, commit });
        out.push(match target {
            Target::Broker { message, declare } => Action::Publish { token, message, declare },
            Target::User { message, never } => Action::SendToUser { token, message, never },
            Target::Read(ReadRequest { which, request }) => {
                Action::MarkRead { which, request, token: Some(token) }
            }
        });
    }
}

impl Sending {
    /// What is worth remembering of it: rules and login of a session do not change.
    fn sent(&self) -> Option<Box<Sent>> {
        match (&self.target, &self.context.destination) {
            (Target::Broker { message, .. }, Some(text)) => Some(Box::new(Sent {
                text: text.clone(),
                destination: message.destination.clone(),
                shown: message.shown.clone(),
            })),
            _ => None,
        }
    }
}

/// A small body is copied, so that a message that waits does not hold the whole buffer that was
/// read with it.
fn detached(body: Bytes) -> Bytes {
    const SMALL: usize = 16 * 1024;
    if body.len() < SMALL { Bytes::copy_from_slice(&body) } else { body }
}

/// What stays of a SEND's headers in its MESSAGE.
fn passing(headers: &Headers, reply_to: Option<&str>) -> Headers {
    headers
        .iter()
        .filter(|(name, _)| {
            !DROPPED.contains(name)
                && !DROPPED_TOO.contains(name)
                && !name.starts_with(DROPPED_PREFIX)
        })
        .map(|(name, value)| match reply_to {
            Some(shown) if name == "reply-to" => (name, shown),
            _ => (name, value),
        })
        .collect()
}

/// A text that is no destination, as a refusal.
pub(super) fn refusal_of(error: &DestinationError) -> Refusal {
    let kind = match error {
        DestinationError::TooLong { .. } => RefusalKind::Limit,
        DestinationError::Reserved { .. } | DestinationError::NotOwn { .. } => RefusalKind::Denied,
        DestinationError::Blank
        | DestinationError::Control
        | DestinationError::Unknown { .. }
        | DestinationError::Invalid { .. } => RefusalKind::UnknownDestination,
    };
    let (message, body) = error.text();
    Refusal::new(kind, message, body)
}

pub(super) fn no_application(text: &str) -> Refusal {
    Refusal::new(
        RefusalKind::UnknownDestination,
        "Unknown destination",
        format!("no application serves '{text}'\n"),
    )
}

impl Violation {
    /// The same with another close code.
    #[must_use]
    pub(super) fn policy(self) -> Self {
        Self { code: code::POLICY, ..self }
    }
}
