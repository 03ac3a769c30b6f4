//! SEND, and the transactions that may hold it (1.2, "SEND", "BEGIN", "COMMIT", "ABORT").

use std::sync::Arc;

use bytes::Bytes;
use ulid::Ulid;

use crate::auth::policy::{Decision, RuleFrame};
use crate::destination::{Destination, DestinationError};
use crate::message::Message;
use crate::relay::error::{Refusal, RefusalKind};
use crate::relay::mailbox::Token;
use crate::stomp::{Command, Frame, Headers};
use crate::user::ReadRequest;

use super::action::Action;
use super::error::{Violation, code};
use super::machine::{Context, Session, Waiting};
use super::transactions::{Full, Step};

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

/// A SEND that was judged and may be done.
#[derive(Debug)]
pub(super) struct Sending {
    target: Target,
    context: Context,
}

#[derive(Debug)]
enum Target {
    Broker(Message),
    User { message: Message, never: bool },
    Read(ReadRequest),
}

impl Session {
    pub(super) fn send(&mut self, frame: Frame, out: &mut Vec<Action>) -> Result<(), Violation> {
        let Some(text) = frame.headers.get("destination") else {
            return Err(Violation::new(
                "Missing destination",
                "\"SEND\" must include a 'destination' header\n",
            ));
        };
        let context = Context {
            command: Command::Send,
            destination: Some(text.to_owned()),
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
        let size = frame.body.len() + frame.headers.text_len();
        match (self.judge(&frame.headers, frame.body, context.clone()), transaction) {
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

    /// Decides on a SEND when it arrives, in a transaction or not.
    fn judge(&self, headers: &Headers, body: Bytes, context: Context) -> Result<Sending, Refusal> {
        let text = context.destination.as_deref().unwrap_or_default();
        let body = detached(body);
        self.fits(text)?;
        let destination = Destination::for_send(text).map_err(|error| refusal_of(&error))?;
        self.may(RuleFrame::Send, &destination, text)?;
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
                let user = self.principal.as_ref().map(|principal| &*principal.name);
                let request = ReadRequest::parse(&body, user.unwrap_or_default())
                    .map_err(|error| Refusal::new(RefusalKind::Limit, "Invalid body", error))?;
                Target::Read(request)
            }
            Destination::App(_) => return Err(no_application(text)),
            Destination::User(to) => {
                let shown = to.to_string();
                let mut message = Message::new(destination, shown, passing(headers), body);
                message.persistent = headers.get("persistent") == Some("true");
                message.x_id = Some(Ulid::generate());
                Target::User { message, never: headers.get("x-unread") == Some("never") }
            }
            Destination::Queue(_) | Destination::Topic(_) => {
                // A topic is shown as its sender wrote it, a queue by its one name.
                let shown = match &destination {
                    Destination::Queue(_) => destination.to_string(),
                    _ => text.to_owned(),
                };
                let mut message = Message::new(destination, shown, passing(headers), body);
                message.persistent = headers.get("persistent") == Some("true");
                message.x_id = self.settings.x_ids.then(Ulid::generate);
                Target::Broker(message)
            }
        };
        Ok(Sending { target, context })
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

    fn perform(&mut self, sending: Sending, commit: Option<Token>, out: &mut Vec<Action>) {
        let Sending { target, context } = sending;
        let context = if commit.is_some() { Context { receipt: None, ..context } } else { context };
        let token = self.wait(Waiting::Send { context, commit });
        out.push(match target {
            Target::Broker(message) => Action::Publish { token, message: Arc::new(message) },
            Target::User { message, never } => {
                Action::SendToUser { token, message: Arc::new(message), never }
            }
            Target::Read(ReadRequest { which, request }) => {
                Action::MarkRead { which, request, token: Some(token) }
            }
        });
    }

    /// Adds a step to a transaction; what does not fit aborts it and is refused (`false`).
    pub(super) fn add_step(
        &mut self,
        name: &str,
        step: Step,
        size: usize,
        context: &Context,
        out: &mut Vec<Action>,
    ) -> bool {
        let limits = self.settings.limits;
        let added = self.transactions.add(name, step, size, &limits);
        if let Err(full) = &added {
            self.refuse_full(full, name, context, out);
        }
        added.is_ok()
    }

    fn refuse_full(&mut self, full: &Full, name: &str, context: &Context, out: &mut Vec<Action>) {
        let limits = &self.settings.limits;
        let body = match full {
            Full::Transactions => {
                format!("a session may have {} open transactions\n", limits.transactions)
            }
            Full::Actions => {
                format!("a transaction may have {} frames\n", limits.transaction_actions)
            }
            Full::Bytes => format!("a transaction may have {} bytes\n", limits.transaction_bytes),
        };
        let refusal = Refusal::new(RefusalKind::Limit, "Transaction too big", body);
        self.transactions.refuse(name, &refusal);
        self.refuse(refusal, context, out);
    }

    pub(super) fn begin(
        &mut self,
        headers: &Headers,
        out: &mut Vec<Action>,
    ) -> Result<(), Violation> {
        let (name, context) = transaction_frame(Command::Begin, headers)?;
        let limits = self.settings.limits;
        match self.transactions.begin(&name, &limits) {
            Ok(true) => self.receipt(context.receipt, None, out),
            Ok(false) => {
                return Err(Violation::new(
                    "Bad transaction",
                    format!("A transaction named \"{name}\" is open already\n"),
                ));
            }
            Err(full) => self.refuse_full(&full, &name, &context, out),
        }
        Ok(())
    }

    pub(super) fn commit(
        &mut self,
        headers: &Headers,
        out: &mut Vec<Action>,
    ) -> Result<(), Violation> {
        let (name, context) = transaction_frame(Command::Commit, headers)?;
        match self.transactions.commit(&name) {
            None => return Err(bad_transaction(&name)),
            Some(Err(refusal)) => self.refuse(refusal, &context, out),
            Some(Ok(steps)) => {
                let sends = steps.iter().filter(|step| matches!(step, Step::Send(_))).count();
                let receipt = context.receipt.clone();
                let commit =
                    (sends > 0).then(|| self.wait(Waiting::Commit { context, left: sends }));
                for step in steps {
                    match step {
                        Step::Send(sending) => self.perform(*sending, commit, out),
                        Step::Settle { id, settlement } => self.settle(id, settlement, out),
                    }
                }
                if commit.is_none() {
                    self.receipt(receipt, None, out);
                }
            }
        }
        Ok(())
    }

    pub(super) fn abort(
        &mut self,
        headers: &Headers,
        out: &mut Vec<Action>,
    ) -> Result<(), Violation> {
        let (name, context) = transaction_frame(Command::Abort, headers)?;
        if !self.transactions.abort(&name) {
            return Err(bad_transaction(&name));
        }
        self.receipt(context.receipt, None, out);
        Ok(())
    }

    pub(super) fn must_be_open(&self, name: &str) -> Result<(), Violation> {
        if self.transactions.is_open(name) { Ok(()) } else { Err(bad_transaction(name)) }
    }
}

fn bad_transaction(name: &str) -> Violation {
    Violation::new("Bad transaction", format!("Invalid transaction identifier: \"{name}\"\n"))
}

fn transaction_frame(command: Command, headers: &Headers) -> Result<(String, Context), Violation> {
    let Some(name) = headers.get("transaction") else {
        return Err(Violation::new(
            "Missing transaction",
            format!("\"{}\" must include a 'transaction' header\n", command.name()),
        ));
    };
    let context = Context {
        command,
        destination: None,
        id: Some(name.to_owned()),
        receipt: headers.get("receipt").map(str::to_owned),
    };
    Ok((name.to_owned(), context))
}

/// A small body is copied, so that a message that waits does not hold the whole buffer that was
/// read with it.
fn detached(body: Bytes) -> Bytes {
    const SMALL: usize = 16 * 1024;
    if body.len() < SMALL { Bytes::copy_from_slice(&body) } else { body }
}

/// What stays of a SEND's headers in its MESSAGE.
fn passing(headers: &Headers) -> Headers {
    headers
        .iter()
        .filter(|(name, _)| {
            !DROPPED.contains(name)
                && !DROPPED_TOO.contains(name)
                && !name.starts_with(DROPPED_PREFIX)
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
