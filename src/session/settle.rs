//! ACK, NACK, and what else settles a delivery (1.2, "ACK", "NACK").

use std::sync::Arc;

use crate::destination::Destination;
use crate::persistence::{UnreadId, Which};
use crate::relay::Settlement;
use crate::relay::mailbox::SubscriptionNumber;
use crate::stomp::{Command, Headers, Version};
use crate::user::Read;

use super::acks::{Found, Settles, Unacked};
use super::action::Action;
use super::error::Violation;
use super::machine::{Context, Session};
use super::transactions::Step;

impl Session {
    pub(super) fn ack(
        &mut self,
        command: Command,
        headers: &Headers,
        out: &mut Vec<Action>,
    ) -> Result<(), Violation> {
        // 1.2 names the MESSAGE's `ack`, 1.1 and 1.0 its `message-id`.
        let name = if self.version == Version::V12 { "id" } else { "message-id" };
        let Some(text) = headers.get(name) else {
            return Err(Violation::new(
                "Missing header",
                format!("\"{}\" must include the \"{name}\" header\n", command.name()),
            ));
        };
        let number = text
            .strip_prefix(&*self.name)
            .and_then(|rest| rest.strip_prefix('-'))
            .filter(|rest| rest.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|rest| rest.parse::<u64>().ok());
        let found = number.map_or(Found::Never, |id| self.acks.find(id));
        if matches!(found, Found::Never) {
            let shown: String = text.chars().take(64).collect();
            return Err(Violation::new(
                "Subscription not found",
                format!("Message with id \"{shown}\" has no subscription\n"),
            ));
        }
        let id = number.unwrap_or_default();
        let settlement = match (command, headers.get("requeue")) {
            (Command::Nack, Some("false")) => Settlement::Discard,
            (Command::Nack, _) => Settlement::Requeue,
            _ => Settlement::Ack,
        };
        let receipt = headers.get("receipt").map(str::to_owned);
        if let Some(name) = headers.get("transaction") {
            self.must_be_open(name)?;
            let context = Context {
                command,
                destination: None,
                id: Some(text.to_owned()),
                receipt: receipt.clone(),
            };
            if !self.add_step(name, Step::Settle { id, settlement }, 0, &context, out) {
                return Ok(());
            }
        } else {
            self.settle(id, settlement, out);
        }
        self.receipt(receipt, None, out);
        Ok(())
    }

    /// Settles a delivery, in mode `client` all before it of the same subscription too.
    pub(super) fn settle(&mut self, id: u64, settlement: Settlement, out: &mut Vec<Action>) {
        // Settled before, or gone with its channel: no effect.
        let Found::Open(number) = self.acks.find(id) else { return };
        let taken = if self.acks.is_cumulative(id) {
            self.acks.take_up_to(id, number)
        } else {
            self.acks.take(id)
        };
        settle_taken(number, taken, settlement, out);
    }

    pub(super) fn settle_all(
        &mut self,
        number: SubscriptionNumber,
        settlement: Settlement,
        out: &mut Vec<Action>,
    ) {
        let taken = self.acks.take_of(number);
        settle_taken(number, taken, settlement, out);
    }

    /// The kernel took a delivery of an `ack:auto` subscription.
    pub fn written(
        &self,
        subscription: SubscriptionNumber,
        queue: &Arc<str>,
        tag: u64,
        out: &mut Vec<Action>,
    ) {
        if let Some(Action::Settle { subscription: last, tags, .. }) = out.last_mut()
            && *last == subscription
        {
            tags.push(tag);
            return;
        }
        let (queue, settlement) = (queue.clone(), Settlement::Ack);
        out.push(Action::Settle { subscription, queue, tags: vec![tag], settlement });
    }

    /// The other side proved to have got messages of the user.
    pub fn proven(
        &mut self,
        messages: impl Iterator<Item = (Destination, UnreadId)>,
        out: &mut Vec<Action>,
    ) {
        let read: Vec<UnreadId> = messages
            .filter(|(destination, _)| self.settings.unread.read(destination) == Read::Delivered)
            .map(|(_, id)| id)
            .collect();
        if !read.is_empty() {
            out.push(read_action(read));
        }
    }
}

fn settle_taken(
    number: SubscriptionNumber,
    taken: Vec<Unacked>,
    settlement: Settlement,
    out: &mut Vec<Action>,
) {
    let mut tags = Vec::new();
    let mut queue = None;
    let mut read = Vec::new();
    let mut kept = Vec::new();
    for Unacked { settles, .. } in taken {
        match (settles, settlement) {
            (Settles::Tag { tag, queue: of }, _) => {
                tags.push(tag);
                queue = Some(of);
            }
            (Settles::User { unread_id: Some(id), .. }, Settlement::Ack) => read.push(id),
            (
                Settles::User { message, unread_id: None },
                Settlement::Requeue | Settlement::Return | Settlement::Discard,
            ) => kept.push(message),
            (Settles::User { .. } | Settles::Nothing, _) => {}
        }
    }
    if let Some(queue) = queue {
        out.push(Action::Settle { subscription: number, queue, tags, settlement });
    }
    if !read.is_empty() {
        out.push(read_action(read));
    }
    if !kept.is_empty() {
        out.push(Action::Restore(kept));
    }
}

fn read_action(ids: Vec<UnreadId>) -> Action {
    let shown: Vec<String> = ids.iter().map(UnreadId::to_string).collect();
    let request = serde_json::json!({ "ids": shown }).to_string().into();
    Action::MarkRead { which: Which::Ids(ids), request, token: None }
}
