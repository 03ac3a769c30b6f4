//! SUBSCRIBE and UNSUBSCRIBE (1.2, "SUBSCRIBE", "UNSUBSCRIBE").

use ulid::Ulid;

use crate::auth::policy::RuleFrame;
use crate::destination::{Destination, DestinationError, Exchange, TOPIC_EXCHANGE, Topic};
use crate::relay::error::{Refusal, RefusalKind};
use crate::relay::mailbox::SubscriptionNumber;
use crate::relay::origin::{self, BadQueueHeader, OwnName, Place, QueueHeaders};
use crate::relay::{AckMode, Settlement, SubscribeRequest};
use crate::stomp::{Command, Headers, Version};
use crate::user::{ERRORS_TARGET, Replay};

use super::action::Action;
use super::app::PAGE;
use super::error::Violation;
use super::machine::{BrokerKind, Context, Session};
use super::reply::TEMP_QUEUE;
use super::send::{no_application, refusal_of};
use super::subscriptions::{Feed, Replaying};
use super::waiting::Waiting;

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
        if id.is_some_and(|id| id.starts_with(TEMP_QUEUE)) {
            return Err(Violation::new(
                "Processing error",
                format!("SUBSCRIBE 'id' may not start with {TEMP_QUEUE}\n"),
            ));
        }
        let ack = ack_mode(headers)?;
        let prefetch = prefetch(headers, &self.settings.limits)?;
        let queue = QueueHeaders::of_subscribe(headers).map_err(bad_queue_header)?;
        if headers.contains("selector") {
            tracing::info!(session = %self.name, "a SUBSCRIBE's selector was ignored");
        }
        let context = Context {
            command: Command::Subscribe,
            destination: Some(text.into()),
            id: id.map(str::to_owned),
            receipt: headers.get("receipt").map(str::to_owned),
        };
        match self.judge_subscribe(text, &queue) {
            Ok(destination) => {
                let has_queue =
                    matches!(destination, Destination::Topic(_) | Destination::Exchange(_));
                if has_queue && queue.durable == Some(true) && id.is_none() {
                    return Err(Violation::new(
                        "Missing Header",
                        "Header 'id' is required for durable subscriptions",
                    ));
                }
                self.open(&destination, ack, prefetch, headers, &queue, context, out);
            }
            Err(refusal) => self.refuse(refusal, &context, out),
        }
        Ok(())
    }

    fn judge_subscribe(&self, text: &str, queue: &QueueHeaders) -> Result<Destination, Refusal> {
        self.fits(text)?;
        let user = self.user_name();
        let destination = Destination::for_subscribe_within(text, user, &self.settings.names)
            .map_err(|error| refusal_of(&error))?;
        self.may(RuleFrame::Subscribe, &destination, text)?;
        if let (Destination::Topic(_) | Destination::Exchange(_), Some(name)) =
            (&destination, &queue.name)
        {
            // Somebody else may read from the queue of that name.
            self.may_name(RuleFrame::Subscribe, name)?;
        }
        self.may_dead_letter(queue)?;
        self.has_room_for_subscription()?;
        Ok(destination)
    }

    pub(super) fn has_room_for_subscription(&self) -> Result<(), Refusal> {
        let limit = self.settings.limits.subscriptions;
        if self.subscriptions.len() < limit {
            return Ok(());
        }
        Err(Refusal::new(
            RefusalKind::Limit,
            "Too many subscriptions",
            format!("a session may have {limit} subscriptions\n"),
        ))
    }

    /// Whether the session may use a queue by its AMQP name.
    fn may_name(&self, frame: RuleFrame, name: &str) -> Result<(), Refusal> {
        self.fits(name)?;
        if !self.settings.names.reaches(name) {
            return Err(refusal_of(&DestinationError::Reserved { text: name.into() }));
        }
        self.may(frame, &Destination::Queue(name.into()), name)
    }

    /// Whether a queue's dead letters may go where its headers say: a place that the session may
    /// SEND to. Where no routing key is given, the message's own says which queue or topic it is,
    /// and that is nothing to be judged now.
    pub(super) fn may_dead_letter(&self, queue: &QueueHeaders) -> Result<(), Refusal> {
        let arguments = &queue.arguments;
        let Some(exchange) = arguments.dead_letter_exchange.as_deref() else { return Ok(()) };
        match (exchange, arguments.dead_letter_routing_key.as_deref()) {
            ("" | TOPIC_EXCHANGE, None) => Err(Refusal::new(
                RefusalKind::Denied,
                "access_refused",
                "'x-dead-letter-exchange' needs an 'x-dead-letter-routing-key' here\n",
            )),
            ("", Some(key)) => self.may_name(RuleFrame::Send, key),
            (TOPIC_EXCHANGE, Some(key)) => {
                let topic = Destination::Topic(Topic::from_key(key));
                self.may(RuleFrame::Send, &topic, key)
            }
            (name, key) => {
                if !self.settings.names.reaches(name) {
                    return Err(refusal_of(&DestinationError::Reserved { text: name.into() }));
                }
                let (name, key) = (name.into(), key.unwrap_or_default().into());
                let exchange = Exchange { name, key };
                self.may(RuleFrame::Send, &Destination::Exchange(exchange.clone()), &exchange.name)
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "each is one part of the frame")]
    fn open(
        &mut self,
        destination: &Destination,
        ack: AckMode,
        prefetch: u16,
        headers: &Headers,
        queue: &QueueHeaders,
        context: Context,
        out: &mut Vec<Action>,
    ) {
        let text = context.destination.clone().unwrap_or_default();
        let id = context.id.clone();
        let version = self.version;
        let user = self.user_name().to_owned();
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
            Destination::Queue(_)
            | Destination::AmqQueue(_)
            | Destination::ReplyQueue(_)
            | Destination::Topic(_)
            | Destination::Exchange(_) => {
                let own = OwnName {
                    id: id.as_deref(),
                    owner: (self.settings.broker == BrokerKind::Embedded).then_some(&*user),
                    random: &Ulid::generate().to_string(),
                };
                let Some(origin) = origin::origin(destination, ack, queue, own) else { return };
                let subscription = add(Feed::Broker(origin.place()));
                let token = self.wait(Waiting::Subscribe { context, subscription });
                let request = SubscribeRequest { subscription, origin, ack, prefetch };
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
            (Some(id), _) if id.starts_with(TEMP_QUEUE) => {
                return Err(Violation::new(
                    "Invalid id",
                    format!("UNSUBSCRIBE 'id' may not start with {TEMP_QUEUE}\n"),
                ));
            }
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
        // The queue is the subscription's, whatever else this frame names.
        let delete = QueueHeaders::of_subscribe(headers).map_err(bad_queue_header)?.durable;
        if let Some(number) = number {
            self.answer_early(number, out);
            self.unsubscribe_with(number, &mut receipt, delete == Some(true), out);
        }
        self.receipt(receipt, None, out);
        Ok(())
    }

    /// Takes a subscription out; what it was sent may still be settled.
    pub(super) fn end_subscription(&mut self, number: SubscriptionNumber, out: &mut Vec<Action>) {
        self.unsubscribe_with(number, &mut None, false, out);
    }

    /// The same. Where the broker has to say when it is over, the receipt is taken and waits for
    /// that: a message sent after the RECEIPT must not pass through this subscription any more.
    fn unsubscribe_with(
        &mut self,
        number: SubscriptionNumber,
        receipt: &mut Option<String>,
        delete: bool,
        out: &mut Vec<Action>,
    ) {
        let Some(subscription) = self.subscriptions.remove(number) else { return };
        self.pages.retain(|(of, _)| *of != number);
        match subscription.feed {
            Feed::Broker(place) => {
                let receipt = receipt.take();
                let token = receipt.map(|receipt| self.wait(Waiting::Unsubscribe { receipt }));
                out.push(Action::Unsubscribe { token, subscription: number, place, delete });
            }
            // Only where the session gives it up; a client cannot name it.
            Feed::Answers(queue) => {
                let place = Place::Queue(queue.unwrap_or_default());
                let (token, subscription) = (None, number);
                out.push(Action::Unsubscribe { token, subscription, place, delete: true });
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
            destination: Some(subscription.text.as_str().into()),
            id: subscription.id.clone(),
            receipt: None,
        };
        // First, so that what goes back does not come again.
        self.end_subscription(number, out);
        self.settle_all(number, Settlement::Return, out);
        self.refuse(refusal.clone(), &context, out);
    }
}

/// As the plugin says it of a number that is none.
pub(super) fn bad_queue_header(bad: BadQueueHeader) -> Violation {
    let BadQueueHeader { name, takes } = bad;
    Violation::new("Processing error", format!("'{name}' must be {takes}\n"))
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
