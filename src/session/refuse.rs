//! How a client is told that something is wrong (1.2, "ERROR").

use crate::relay::error::Refusal;
use crate::stomp::{Command, Frame, Version};

use super::action::Action;
use super::error::{OnError, Violation, close_code};
use super::machine::{Context, Phase, Session};

impl Session {
    /// Answers bytes that are no frame.
    pub fn garbled(&mut self, violation: Violation, out: &mut Vec<Action>) {
        self.fail(violation, out);
    }

    /// ERROR, then close (1.2, "ERROR").
    pub(super) fn fail(&mut self, violation: Violation, out: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Over) {
            return;
        }
        let Violation { message, body, code, receipt } = violation;
        tracing::info!(session = %self.name, error = message, code, "session refused");
        let mut frame = Frame::new(Command::Error)
            .with("message", message)
            .with("content-type", "text/plain")
            .with("version", Version::SUPPORTED);
        if let Some(receipt) = receipt {
            frame.headers.push("receipt-id", &receipt);
        }
        frame.body = printable(body).into();
        out.push(Action::Send(frame));
        self.close(code, message, out);
    }

    /// Answers a refusal as `errors.<kind>` says.
    pub(super) fn refuse(&mut self, refusal: Refusal, context: &Context, out: &mut Vec<Action>) {
        let wish = self.settings.errors.on(refusal.kind);
        match (wish, self.subscriptions.errors(), &context.receipt) {
            (OnError::Message, Some(errors), _) => {
                let frame = error_message(&refusal, context, errors.id.as_deref(), &self.name);
                out.push(Action::Send(frame));
            }
            (OnError::Message, None, None) => {
                tracing::info!(
                    session = %self.name,
                    kind = refusal.kind.name(),
                    error = refusal.message,
                    command = context.command.name(),
                    "frame refused and dropped"
                );
            }
            (OnError::Close, _, _) | (OnError::Message, None, Some(_)) => {
                let code = close_code(&refusal);
                let receipt = context.receipt.clone();
                let Refusal { message, body, .. } = refusal;
                self.fail(Violation { message, body, code, receipt }, out);
            }
        }
    }
}

/// An ERROR repeats what the client wrote, and whoever looks at it may do so with a terminal.
fn printable(text: String) -> String {
    let is_strange = |character: char| character.is_control() && character != '\n';
    if !text.contains(is_strange) {
        return text;
    }
    let mut shown = String::new();
    for character in text.chars() {
        if is_strange(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// A refusal as a MESSAGE on `/user/queue/errors`.
fn error_message(
    refusal: &Refusal,
    context: &Context,
    subscription: Option<&str>,
    session: &str,
) -> Frame {
    let kind = refusal.kind.name();
    let mut frame = Frame::new(Command::Message)
        .with("destination", "/user/queue/errors")
        .with("message-id", &format!("{session}-error"))
        .with("message", refusal.message)
        .with("x-error", kind)
        .with("content-type", "application/json");
    if let Some(id) = subscription {
        frame.headers.push("subscription", id);
    }
    if let Some(receipt) = &context.receipt {
        frame.headers.push("receipt-id", receipt);
    }
    let body = serde_json::json!({
        "kind": kind,
        "message": refusal.message,
        "command": context.command.name(),
        "destination": context.destination.as_deref(),
        "id": context.id,
        "receipt": context.receipt,
    });
    frame.body = body.to_string().into();
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_repeated_has_no_control_characters() {
        let cases = [
            ("as it is: ü\n", "as it is: ü\n"),
            ("\u{1b}[31m\r\0\u{85}\n", "\\u{1b}[31m\\r\\u{0}\\u{85}\n"),
        ];
        for (text, shown) in cases {
            assert_eq!(printable(text.to_owned()), shown);
        }
    }
}
