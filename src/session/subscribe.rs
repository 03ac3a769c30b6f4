//! SUBSCRIBE, UNSUBSCRIBE, what a subscription is sent, and its ACKs (1.2, "SUBSCRIBE", "ACK").

use std::time::Instant;

use crate::auth::policy::RuleFrame;
use crate::destination::{Destination, UserDestination};
use crate::relay::error::{Refusal, RefusalKind};
use crate::relay::mailbox::{Delivery, Entry, Source, SubscriptionNumber};
use crate::relay::{AckMode, Settlement, SubscribeRequest};
use crate::stomp::encode::{encode_header, push_decimal};
use crate::stomp::{Command, Headers, Version};
use crate::user::{ERRORS_TARGET, Replay};

use super::acks::{Settles, Unacked};
use super::action::{Action, After, Outgoing};
use super::app::PAGE;
use super::error::Violation;
use super::machine::{Context, Session, Waiting};
use super::send::{no_application, refusal_of};
use super::subscriptions::{Feed, Replaying, Subscription};

impl Session {
    pub(super) fn subscribe(
        &mut self,
        headers: &Headers,
        out: &mut Vec<Action>,
    ) -> Result<(), Violation> {
        let Some(text) = headers.get("destination") else {
            return Err(Violation::new(
                "Missing destination",
                "\"SUBSCRIBE\" must include a 'destination' header\n",
            ));
        };
        let id = headers.get("id");
        if id.is_none() && self.version != Version::V10 {
            return Err(Violation::new(
                "Missing header",
                "\"SUBSCRIBE\" must include the \"id\" header\n",
            ));
        }
        if let Some(id) = id.filter(|id| self.subscriptions.by_id(id).is_some()) {
            return Err(Violation::new(
                "Duplicated subscription identifier",
                format!("A subscription identified by '{id}' already exists.\n"),
            ));
        }
        let ack = ack_mode(headers)?;
        let prefetch = prefetch(headers, &self.settings.limits)?;
        if headers.contains("selector") {
            tracing::info!(session = %self.name, "a SUBSCRIBE's selector was ignored");
        }
        let context = Context {
            command: Command::Subscribe,
            destination: Some(text.to_owned()),
            id: id.map(str::to_owned),
            receipt: headers.get("receipt").map(str::to_owned),
        };
        let judged = supported(headers).and_then(|()| self.judge_subscribe(text));
        match judged {
            Ok(destination) => {
                self.open(&destination, ack, prefetch, headers, context, out);
            }
            Err(refusal) => self.refuse(refusal, &context, out),
        }
        Ok(())
    }

    fn judge_subscribe(&self, text: &str) -> Result<Destination, Refusal> {
        self.fits(text)?;
        let user = self.principal.as_ref().map(|principal| &*principal.name);
        let destination = Destination::for_subscribe(text, user.unwrap_or_default())
            .map_err(|error| refusal_of(&error))?;
        self.may(RuleFrame::Subscribe, &destination, text)?;
        let limit = self.settings.limits.subscriptions;
        if self.subscriptions.len() >= limit {
            return Err(Refusal::new(
                RefusalKind::Limit,
                "Too many subscriptions",
                format!("a session may have {limit} subscriptions\n"),
            ));
        }
        Ok(destination)
    }

    fn open(
        &mut self,
        destination: &Destination,
        ack: AckMode,
        prefetch: u16,
        headers: &Headers,
        context: Context,
        out: &mut Vec<Action>,
    ) {
        let text = context.destination.clone().unwrap_or_default();
        let id = context.id.clone();
        let version = self.version;
        let mut add =
            |feed| self.subscriptions.add(id.as_deref(), &text, feed, ack, version).number;
        match destination {
            Destination::App(key) if &**key == "unread" => {
                let subscription = add(Feed::Page);
                self.open_page(subscription, headers, context, out);
            }
            Destination::App(_) => self.refuse(no_application(&text), &context, out),
            Destination::User(to) if &*to.target == ERRORS_TARGET => {
                add(Feed::Errors);
                self.receipt(context.receipt, None, out);
            }
            Destination::User(to) => {
                let always = self.settings.unread.replay(destination) == Replay::Always;
                if always || headers.get("x-unread") == Some("replay") {
                    let replay = Some(Replaying { after: 0, receipt: context.receipt });
                    let subscription = add(Feed::User { to: to.clone(), replay });
                    let to = to.clone();
                    out.push(Action::Replay { subscription, to, after: 0, limit: PAGE });
                } else {
                    let subscription = add(Feed::User { to: to.clone(), replay: None });
                    let token = self.wait(Waiting::Subscribe { context, subscription });
                    out.push(Action::SubscribeUser { token, subscription, to: to.clone() });
                }
            }
            Destination::Queue(_) | Destination::Topic(_) => {
                let subscription = add(Feed::Broker(destination.clone()));
                let token = self.wait(Waiting::Subscribe { context, subscription });
                let destination = destination.clone();
                let headers = headers.clone();
                let request =
                    SubscribeRequest { subscription, destination, ack, prefetch, headers };
                out.push(Action::Subscribe { token, request });
            }
        }
    }

    pub(super) fn unsubscribe(
        &mut self,
        headers: &Headers,
        out: &mut Vec<Action>,
    ) -> Result<(), Violation> {
        let found = match (headers.get("id"), headers.get("destination")) {
            (Some(id), _) => self.subscriptions.by_id(id),
            (None, Some(text)) if self.version == Version::V10 => self.subscriptions.by_text(text),
            _ => {
                return Err(Violation::new(
                    "Missing destination or id",
                    "UNSUBSCRIBE must include a 'destination' or 'id' header\n",
                ));
            }
        };
        // One that is not there, or was refused, is fine: it is not there.
        let number = found.map(|subscription| subscription.number);
        let mut receipt = headers.get("receipt").map(str::to_owned);
        if let Some(number) = number {
            self.unsubscribe_with(number, &mut receipt, out);
        }
        self.receipt(receipt, None, out);
        Ok(())
    }

    /// Takes a subscription out; what it was sent may still be settled.
    pub(super) fn end_subscription(&mut self, number: SubscriptionNumber, out: &mut Vec<Action>) {
        self.unsubscribe_with(number, &mut None, out);
    }

    /// The same. Where the broker has to say when it is over, the receipt is taken and waits for
    /// that: a message sent after the RECEIPT must not pass through this subscription any more.
    fn unsubscribe_with(
        &mut self,
        number: SubscriptionNumber,
        receipt: &mut Option<String>,
        out: &mut Vec<Action>,
    ) {
        let Some(subscription) = self.subscriptions.remove(number) else { return };
        self.pages.retain(|(of, _)| *of != number);
        match subscription.feed {
            Feed::Broker(destination) => {
                let receipt = receipt.take();
                let token = receipt.map(|receipt| self.wait(Waiting::Unsubscribe { receipt }));
                out.push(Action::Unsubscribe { token, subscription: number, destination });
            }
            Feed::User { to, .. } => {
                out.push(Action::UnsubscribeUser { subscription: number, to });
            }
            Feed::Errors | Feed::Page => {}
        }
    }

    /// The server ends a subscription.
    pub(super) fn cancel(
        &mut self,
        number: SubscriptionNumber,
        refusal: &Refusal,
        out: &mut Vec<Action>,
    ) {
        let Some(subscription) = self.subscriptions.get(number) else {
            // It was UNSUBSCRIBEd; what it had goes back.
            return self.settle_all(number, Settlement::Return, out);
        };
        let context = Context {
            command: Command::Subscribe,
            destination: Some(subscription.text.clone()),
            id: subscription.id.clone(),
            receipt: None,
        };
        // First, so that what goes back does not come again.
        self.end_subscription(number, out);
        self.settle_all(number, Settlement::Return, out);
        self.refuse(refusal.clone(), &context, out);
    }

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
                Some(Source::Queue { tag }) => out.push(Action::Settle {
                    subscription: number,
                    destination: message.destination.clone(),
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
                Some(Source::Queue { tag }) => After::Settle { subscription: number, tag },
                Some(Source::User { unread_id }) => After::Prove { unread_id },
                None => After::Nothing,
            };
            return Some(Outgoing { message, own_id: false, after });
        }
        let settles = match source {
            Some(Source::Queue { tag }) => Settles::Tag { tag, queue: message.destination.clone() },
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
                    let place = (unacked.subscription, queue);
                    if ending.broker.last() != Some(&place) {
                        ending.broker.push(place);
                    }
                }
                Settles::User { .. } | Settles::Nothing => {}
            }
        }
        for Subscription { number, feed, .. } in self.subscriptions.take() {
            match feed {
                Feed::Broker(destination) => ending.broker.push((number, destination)),
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
    pub broker: Vec<(SubscriptionNumber, Destination)>,
    pub user: Vec<(SubscriptionNumber, UserDestination)>,
    pub unacked: Vec<std::sync::Arc<crate::message::Message>>,
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

/// What RabbitMQ's plugin would make a queue of its own for. Taken for a plain subscription it
/// would lose messages in silence.
fn supported(headers: &Headers) -> Result<(), Refusal> {
    const QUEUE_HEADERS: [&str; 4] = ["durable", "persistent", "auto-delete", "exclusive"];
    let asks = |name: &str, value: &str| {
        QUEUE_HEADERS.contains(&name) && value == "true" || name == "x-queue-name"
    };
    match headers.iter().find(|(name, value)| asks(name, value)) {
        Some((name, _)) => Err(Refusal::new(
            RefusalKind::UnknownDestination,
            "Unsupported subscription",
            format!("'{name}': this server has no subscriptions with a queue of their own yet\n"),
        )),
        None => Ok(()),
    }
}

fn ack_mode(headers: &Headers) -> Result<AckMode, Violation> {
    match headers.get("ack") {
        None | Some("auto") => Ok(AckMode::Auto),
        Some("client") => Ok(AckMode::Client),
        Some("client-individual") => Ok(AckMode::ClientIndividual),
        Some(_) => Err(Violation::new(
            "Processing error",
            "'ack' must be auto, client or client-individual\n",
        )),
    }
}

/// `prefetch-count`, held between 1 and what a session may leave unacknowledged.
fn prefetch(headers: &Headers, limits: &super::Limits) -> Result<u16, Violation> {
    let Some(text) = headers.get("prefetch-count") else { return Ok(limits.prefetch) };
    let Ok(count) = text.parse::<u64>() else {
        return Err(Violation::new("Processing error", "'prefetch-count' must be a number\n"));
    };
    let most = u64::try_from(limits.unacked).unwrap_or(u64::MAX).min(u64::from(u16::MAX));
    Ok(u16::try_from(count.clamp(1, most)).unwrap_or(u16::MAX))
}
