//! What a subscription is sent, and what a session leaves behind (1.2, "MESSAGE").

use std::sync::Arc;
use std::time::Instant;

use crate::destination::UserDestination;
use crate::message::Message;
use crate::relay::mailbox::{Delivery, Entry, Source, SubscriptionNumber};
use crate::relay::origin::Place;
use crate::relay::{AckMode, Settlement};
use crate::stomp::encode::{encode_header, push_decimal};
use crate::stomp::{Command, Version};

use super::acks::{Settles, Unacked};
use super::action::{Action, After, Outgoing};
use super::error::Violation;
use super::machine::Session;
use super::subscriptions::{Feed, Subscription};

impl Session {
    /// Takes an entry of the mailbox: writes the head of its MESSAGE up to where the message's
    /// shared tail begins. None where it is for nobody any more.
    pub fn deliver(
        &mut self,
        entry: Entry,
        now: Instant,
        head: &mut Vec<u8>,
        out: &mut Vec<Action>,
    ) -> Option<Outgoing> {
        let (message, number, redelivered, source) = match entry {
            Entry::Shared { message, subscription } => {
                let redelivered = message.redelivered;
                (message, subscription, redelivered, None)
            }
            Entry::Own(delivery) => {
                let Delivery { message, subscription, redelivered, source } = *delivery;
                (message, subscription, redelivered, Some(source))
            }
            Entry::Event(_) => return None,
        };
        let Some(subscription) = self.subscriptions.get(number) else {
            match source {
                Some(Source::Queue { queue, tag }) => out.push(Action::Settle {
                    subscription: number,
                    queue,
                    tags: vec![tag],
                    settlement: Settlement::Return,
                }),
                Some(Source::User { unread_id: None }) => {
                    out.push(Action::Restore(vec![message]));
                }
                Some(Source::User { unread_id: Some(_) }) | None => {}
            }
            return None;
        };
        begin_head(head, subscription, redelivered);
        if let Some(Source::User { unread_id: Some(id) }) = source {
            head.extend_from_slice(b"unread-id:");
            push_decimal(head, id);
            head.push(b'\n');
        }
        if subscription.ack == AckMode::Auto {
            let after = match source {
                Some(Source::Queue { queue, tag }) => {
                    After::Settle { subscription: number, queue, tag }
                }
                Some(Source::User { unread_id }) => After::Prove { unread_id },
                None => After::Nothing,
            };
            return Some(Outgoing { message, own_id: false, after });
        }
        let settles = match source {
            Some(Source::Queue { queue, tag }) => Settles::Tag { tag, queue },
            Some(Source::User { unread_id }) => {
                Settles::User { message: message.clone(), unread_id }
            }
            None => Settles::Nothing,
        };
        let is_cumulative = subscription.ack == AckMode::Client;
        let unacked = Unacked { subscription: number, is_cumulative, settles, since: now };
        self.unacked(unacked, head, out);
        Some(Outgoing { message, own_id: true, after: After::Nothing })
    }

    /// Enters a delivery into the ledger and writes its ids into the head.
    pub(super) fn unacked(&mut self, unacked: Unacked, head: &mut Vec<u8>, out: &mut Vec<Action>) {
        let id = self.acks.add(unacked);
        let id = format!("{}-{id}", self.name);
        let mut header = |name| encode_header(head, name, &id, Command::Message, self.version);
        header("message-id");
        if self.version == Version::V12 {
            header("ack");
        }
        let limit = self.settings.limits.unacked;
        if self.acks.len() > limit {
            let body = format!("a session may have {limit} messages without ACK\n");
            self.fail(Violation::new("Too many unacknowledged messages", body).policy(), out);
        }
    }

    /// Ends the session: gives back its subscriptions, and the user's messages that were neither
    /// acknowledged nor kept.
    pub fn end(&mut self) -> Ending {
        let mut ending = Ending::default();
        for unacked in self.acks.take_all() {
            match unacked.settles {
                Settles::User { message, unread_id: None } => ending.unacked.push(message),
                // Its subscription may be gone, but the broker still waits for it.
                Settles::Tag { queue, .. } => {
                    let place = (unacked.subscription, Place::Queue(queue));
                    if ending.broker.last() != Some(&place) {
                        ending.broker.push(place);
                    }
                }
                Settles::User { .. } | Settles::Nothing => {}
            }
        }
        for Subscription { number, feed, .. } in self.subscriptions.take() {
            match feed {
                Feed::Broker(place) => ending.broker.push((number, place)),
                Feed::Answers(Some(queue)) => ending.broker.push((number, Place::Queue(queue))),
                Feed::Answers(None) => {}
                Feed::User { to, .. } => ending.user.push((number, to)),
                Feed::Errors | Feed::Page => {}
            }
        }
        ending
    }
}

/// What a session leaves behind.
#[derive(Debug, Default)]
pub struct Ending {
    pub broker: Vec<(SubscriptionNumber, Place)>,
    pub user: Vec<(SubscriptionNumber, UserDestination)>,
    pub unacked: Vec<Arc<Message>>,
}

pub(super) fn begin_head(head: &mut Vec<u8>, subscription: &Subscription, redelivered: bool) {
    head.clear();
    head.extend_from_slice(b"MESSAGE\n");
    head.extend_from_slice(&subscription.line);
    head.extend_from_slice(if redelivered {
        b"redelivered:true\n"
    } else {
        b"redelivered:false\n"
    });
}
