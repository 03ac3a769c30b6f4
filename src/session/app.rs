//! `/app/unread` and replays: stored messages, page by page.

use std::sync::Arc;
use std::time::Instant;

use crate::auth::policy::{Decision, RuleFrame};
use crate::destination::Destination;
use crate::message::Message;
use crate::persistence::{Page, Stored};
use crate::relay::AckMode;
use crate::relay::error::{Refusal, RefusalKind};
use crate::relay::mailbox::SubscriptionNumber;
use crate::stomp::encode::{encode_end, encode_header};
use crate::stomp::{Command, Headers};

use super::acks::{Settles, Unacked};
use super::action::{Action, After};
use super::deliver::begin_head;
use super::machine::{Context, Session};
use super::subscriptions::Feed;

/// Messages of one page, where the client names no number.
pub(super) const PAGE: u32 = 100;
const PAGE_MOST: u32 = 500;
const UNREAD: &str = "/app/unread";

impl Session {
    /// `SUBSCRIBE /app/unread`: one page, then the end frame.
    pub(super) fn open_page(
        &mut self,
        subscription: SubscriptionNumber,
        headers: &Headers,
        context: Context,
        out: &mut Vec<Action>,
    ) {
        let number = |name: &str, default: u64| match headers.get(name) {
            None => Ok(default),
            Some(text) => text.parse::<u64>().map_err(|_| {
                let body = format!("'{name}' must be a number\n");
                Refusal::new(RefusalKind::Limit, "Invalid header", body)
            }),
        };
        let asked = number("x-unread-after", 0)
            .and_then(|after| Ok((after, number("x-unread-limit", u64::from(PAGE))?)));
        match asked {
            Ok((after, limit)) => {
                let limit = u32::try_from(limit).unwrap_or(PAGE_MOST).min(PAGE_MOST);
                self.pages.push((subscription, context));
                out.push(Action::Page { subscription, after, limit });
            }
            Err(refusal) => {
                self.subscriptions.remove(subscription);
                self.refuse(refusal, &context, out);
            }
        }
    }

    /// A page came: of a replay, or of `/app/unread`.
    pub(super) fn page(
        &mut self,
        number: SubscriptionNumber,
        result: Result<Page, Refusal>,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let Some(subscription) = self.subscriptions.get(number) else {
            self.pages.retain(|(of, _)| *of != number);
            return;
        };
        match (&subscription.feed, result) {
            (Feed::User { .. }, Ok(page)) => self.replay(number, page, now, out),
            (Feed::Page, Ok(page)) => self.unread_page(number, page, now, out),
            (Feed::User { .. } | Feed::Page, Err(refusal)) => {
                let receipt = match &subscription.feed {
                    Feed::User { replay: Some(replaying), .. } => replaying.receipt.clone(),
                    _ => None,
                };
                let context = self.page_context(number).unwrap_or(Context {
                    command: Command::Subscribe,
                    destination: None,
                    id: None,
                    receipt,
                });
                self.end_subscription(number, out);
                self.refuse(refusal, &context, out);
            }
            (Feed::Broker(_) | Feed::Answers(_) | Feed::Errors, _) => {}
        }
    }

    /// Stored messages before live ones; an empty page says that the session is present now.
    fn replay(
        &mut self,
        number: SubscriptionNumber,
        page: Page,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let Some(subscription) = self.subscriptions.get_mut(number) else { return };
        let Feed::User { to, replay } = &mut subscription.feed else { return };
        let Some(last) = page.messages.last().map(|stored| stored.id) else {
            let receipt = replay.take().and_then(|replaying| replaying.receipt);
            return self.receipt(receipt, None, out);
        };
        if let Some(replaying) = replay {
            replaying.after = last;
        }
        let to = to.clone();
        self.stored(number, page, None, now, out);
        if self.is_over() {
            return;
        }
        out.push(Action::Replay { subscription: number, to, after: last, limit: PAGE });
    }

    /// One page of everything unread, its end frame, and the subscription is over.
    fn unread_page(
        &mut self,
        number: SubscriptionNumber,
        page: Page,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let (left, truncated) = (page.left, page.truncated);
        self.stored(number, page, Some(UNREAD), now, out);
        if self.is_over() {
            return;
        }
        if let Some(subscription) = self.subscriptions.get(number) {
            let mut head = Vec::new();
            begin_head(&mut head, subscription, false);
            let mut header = |name: &str, value: &str| {
                encode_header(&mut head, name, value, Command::Message, self.version);
            };
            header("destination", UNREAD);
            header("message-id", &format!("{}-unread-{number}", self.name));
            header("x-unread-end", "true");
            header("x-unread-left", &left.to_string());
            if truncated > 0 {
                header("x-unread-truncated", &truncated.to_string());
            }
            encode_end(&mut head, b"");
            out.push(Action::Written(head));
        }
        let context = self.page_context(number);
        self.end_subscription(number, out);
        self.receipt(context.and_then(|context| context.receipt), None, out);
    }

    /// Writes stored messages that the rules still let the user have.
    fn stored(
        &mut self,
        number: SubscriptionNumber,
        page: Page,
        shown: Option<&str>,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let mut left = page.left + page.messages.len() as u64;
        let mut truncated = page.truncated;
        for Stored { id, message, .. } in page.messages {
            left -= 1;
            let decision = self.principal.as_ref().map(|principal| {
                let policy = &self.settings.policy;
                policy.decide(RuleFrame::Subscribe, principal, &message.destination)
            });
            let Some(subscription) = self.subscriptions.get(number) else { return };
            if decision != Some(Decision::Allow) {
                continue;
            }
            let ack = subscription.ack;
            let mut head = Vec::new();
            begin_head(&mut head, subscription, false);
            let mut header = |name: &str, value: &str| {
                encode_header(&mut head, name, value, Command::Message, self.version);
            };
            header("unread-id", &id.to_string());
            header("x-unread-left", &left.to_string());
            if truncated > 0 && shown.is_none() {
                header("x-unread-truncated", &truncated.to_string());
                truncated = 0;
            }
            let message = match shown {
                Some(shown) => {
                    header("x-destination", &message.shown);
                    shown_as(&message, shown)
                }
                None => message,
            };
            let (own_id, after) = match ack {
                AckMode::Auto => (false, After::Prove { unread_id: Some(id) }),
                AckMode::Client | AckMode::ClientIndividual => {
                    let settles = Settles::User { message: message.clone(), unread_id: Some(id) };
                    let is_cumulative = ack == AckMode::Client;
                    let unacked =
                        Unacked { subscription: number, is_cumulative, settles, since: now };
                    self.unacked(unacked, &mut head, out);
                    if self.is_over() {
                        return;
                    }
                    (true, After::Nothing)
                }
            };
            out.push(Action::Deliver { head, message, own_id, after });
        }
    }

    fn page_context(&mut self, number: SubscriptionNumber) -> Option<Context> {
        let place = self.pages.iter().position(|(of, _)| *of == number)?;
        Some(self.pages.swap_remove(place).1)
    }
}

/// The same message, shown at another destination.
fn shown_as(message: &Message, shown: &str) -> Arc<Message> {
    let destination: Destination = message.destination.clone();
    let mut copy =
        Message::new(destination, shown.into(), message.headers.clone(), message.body.clone());
    copy.persistent = message.persistent;
    copy.x_id = message.x_id;
    Arc::new(copy)
}
