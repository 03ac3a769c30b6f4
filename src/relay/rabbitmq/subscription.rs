//! The task of one subscription: keeps its consumer there, hands deliveries over, settles them.
//!
//! AMQP acks are always manual. No AMQP request is ever given up half-way: a consume whose
//! future is dropped would leave a consumer that nobody reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::message::Delivery as AmqpDelivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
    QueueDeleteOptions,
};
use lapin::types::ShortString;
use lapin::{Channel, Consumer};
use tracing::warn;

use super::QueueDeleted;
use super::acks::acks;
use super::attached::Attached;
use super::connection::{Backoff, Link};
use super::consumer::{Consumers, Subscription, Unsubscribe};
use super::declarer::{DeclareError, Need, declare_on};
use super::pool::Seat;
use super::properties::{self, Incoming};
use super::recovery::Missing;
use super::refusal::{self, Fault};
use super::stream::StreamPosition;
use super::topology;
use crate::relay::Settlement;
use crate::relay::error::Refusal;
use crate::relay::mailbox::{self, Delivery, Entry, Event, Level, Token};
use crate::relay::origin::{ConsumerArguments, Declaration, StreamOffset};

/// What held for so long was no flicker; the next trouble starts from the shortest pause.
const STABLE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A queue that is gone each time before it can be consumed is given up.
const MOST_GONE: u8 = 5;

pub(super) struct Worker {
    consumers: Arc<Consumers>,
    subscription: Arc<Subscription>,
    seat: Seat,
    /// SUBSCRIBE is not answered yet.
    unanswered: Option<Option<Token>>,
    /// While it has lost its connection and no other yet.
    missing: Option<Missing>,
    backoff: Backoff,
    next_tag: u64,
    /// The queue's name, once it has one.
    queue: Arc<str>,
    stream: StreamPosition,
    /// How often the queue was gone before it could be consumed.
    gone: u8,
}

enum Attach {
    Attached(Box<Attached>),
    Refused(Refusal),
    /// The subscription or the relay ends.
    Ending,
    /// Worth another try.
    Failed,
}

enum End {
    /// UNSUBSCRIBE, or the session's end, or the relay's.
    Wanted,
    /// RabbitMQ cancelled the consumer: the queue is gone.
    QueueGone,
    Lost(Option<lapin::Error>),
}

impl Worker {
    pub(super) fn new(
        consumers: Arc<Consumers>,
        subscription: Arc<Subscription>,
        seat: Seat,
        token: Option<Token>,
    ) -> Self {
        let unanswered = Some(token);
        let queue = subscription.origin.queue.clone();
        let backoff = Backoff::default();
        let (missing, stream) = (None, StreamPosition::default());
        Self {
            consumers,
            subscription,
            seat,
            unanswered,
            missing,
            backoff,
            next_tag: 1,
            queue,
            stream,
            gone: 0,
        }
    }

    /// Whether the queue was ever there.
    pub(super) async fn run(mut self) -> bool {
        let mut was_there = false;
        // A queue that was declared and has had no consumer does not go by itself.
        let may_be_left = loop {
            let goes_on = match self.attach().await {
                Attach::Attached(attached) => {
                    (self.missing, self.gone) = (None, 0);
                    was_there = true;
                    self.answer(Ok(Level::Confirmed));
                    self.name_reply_queue();
                    self.serve(*attached).await
                }
                Attach::Refused(refusal) => {
                    self.refuse(refusal);
                    false
                }
                Attach::Ending => break true,
                Attach::Failed => true,
            };
            if !goes_on {
                break false;
            }
            if self.pause().await.is_err() {
                break true;
            }
        };
        // Whatever was asked last gets its answer; nothing is asked any more once it is forgotten.
        self.answer(Ok(Level::Confirmed));
        self.consumers.forget(&self.subscription);
        let unsubscribe = self.subscription.inbox().unsubscribe.take();
        if may_be_left {
            self.leave_no_queue(unsubscribe.as_ref().is_some_and(|wish| wish.delete)).await;
        }
        if let Some(Unsubscribe { token: Some(token), .. }) = unsubscribe {
            self.done(token, Ok(Level::Confirmed));
        }
        was_there
    }

    /// The subscription ends while it has no consumer. `delete`: its queue goes in any case.
    async fn leave_no_queue(&self, delete: bool) {
        let Subscription { origin, is_exclusive, .. } = &*self.subscription;
        let goes = delete || origin.declare.as_ref().is_some_and(|declare| declare.auto_delete);
        if origin.binding.is_some() && goes && !is_exclusive {
            let need = Need::Gone { queue: origin.queue.clone(), if_unused: !delete };
            // One that others use is theirs now.
            drop(self.consumers.declarer.get(need).await);
        }
    }

    /// Waits a little before another try, unless all is well or there is none to be.
    async fn pause(&mut self) -> Result<(), ()> {
        let pause = self.backoff.next(LONGEST_PAUSE);
        tokio::select! {
            () = self.consumers.shared.stop.cancelled() => Err(()),
            () = self.subscription.ending() => Err(()),
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }

    /// Queue, channel, prefetch, consumer. Waits while RabbitMQ is away.
    async fn attach(&mut self) -> Attach {
        let link = tokio::select! {
            () = self.subscription.ending() => return Attach::Ending,
            link = self.seat.link() => link,
        };
        let Some(link) = link else { return Attach::Ending };
        // Exclusive queues are declared on the connection that consumes.
        let is_here = self.subscription.is_exclusive || self.subscription.is_for_answers();
        let origin = &self.subscription.origin;
        let need = Need::Queue(Box::new(origin.clone()));
        let may_be_gone = origin.declare.as_ref().is_some_and(topology::goes_by_itself);
        let known = !may_be_gone && self.consumers.declarer.knows(&need);
        if !known && !is_here {
            let declared = tokio::select! {
                () = self.subscription.ending() => return Attach::Ending,
                declared = self.consumers.declarer.get(need) => declared,
            };
            match declared {
                Ok(()) => {}
                Err(DeclareError::Refused(refusal)) => return Attach::Refused(refusal),
                Err(DeclareError::Unavailable) => return self.unavailable(),
                Err(DeclareError::Stopped) => return Attach::Ending,
            }
        }
        let consumed = self.consume(&link).await;
        let origin = &self.subscription.origin;
        let error = match consumed {
            Ok((channel, consumer)) => {
                let out = BTreeMap::new();
                let since = Instant::now();
                return Attach::Attached(Box::new(Attached {
                    link,
                    channel,
                    consumer,
                    out,
                    since,
                }));
            }
            Err(error) => error,
        };
        match Fault::of(&error) {
            Fault::Refused(code) => {
                self.seat.closed_channel(&link);
                // It was there a moment ago: its last consumer went, or somebody deleted it.
                self.gone += 1;
                if code == 404 && (known || origin.declare.is_some()) && self.gone < MOST_GONE {
                    self.consumers.declarer.forget(&origin.queue);
                    return Attach::Failed;
                }
                warn!("RabbitMQ refuses a consumer: {error}");
                Attach::Refused(match self.subscription.is_exclusive {
                    true => refusal::of_declare(code, origin),
                    false => refusal::of_queue(code, &origin.queue),
                })
            }
            Fault::Unavailable => {
                self.seat.closed_channel(&link);
                self.consumers.declarer.forget(&origin.queue);
                self.unavailable()
            }
            Fault::Violation | Fault::Gone => Attach::Failed,
        }
    }

    /// The queue's node is away, nobody knows for how long. Publishing does not wait for that.
    fn unavailable(&mut self) -> Attach {
        self.missing = None;
        Attach::Failed
    }

    async fn consume(&mut self, link: &Link) -> lapin::Result<(Channel, Consumer)> {
        let channel = link.open_channel().await?;
        if self.subscription.is_for_answers() {
            let (options, arguments) = topology::declare_options(&Declaration::ANSWERS);
            let declare = channel.queue_declare(ShortString::default(), options, arguments);
            self.queue = Arc::from(link.answer(declare).await?.name().as_str());
        } else if self.subscription.is_exclusive {
            link.answer(declare_on(&channel, &self.subscription.origin)).await?;
        }
        // Its length was checked when it was asked for.
        let queue = topology::short(&self.queue).unwrap_or_default();
        link.answer(channel.basic_qos(self.subscription.prefetch, BasicQosOptions::default()))
            .await?;
        let options = BasicConsumeOptions::default();
        let arguments = topology::consume_arguments(&self.consumer_arguments());
        let consume = channel.basic_consume(queue, self.tag(), options, arguments);
        let consumer = link.answer(consume).await?;
        Ok((channel, consumer))
    }

    /// As they were asked for; of a stream, after an outage, from where its reader has got to.
    fn consumer_arguments(&mut self) -> ConsumerArguments {
        let mut arguments = self.subscription.origin.consumer.clone();
        if let Some(offset) = self.stream.restart() {
            arguments.stream_offset = Some(StreamOffset::Offset(offset));
        }
        arguments
    }

    fn tag(&self) -> ShortString {
        let Subscription { to, number, .. } = &*self.subscription;
        ShortString::from(format!("stomp-relay.{}.{number}", to.session()))
    }

    /// Until the consumer ends. Whether there is to be another one.
    async fn serve(&mut self, mut attached: Attached) -> bool {
        let end = self.deliver(&mut attached).await;
        if attached.since.elapsed() > STABLE {
            self.backoff = Backoff::default();
        }
        match end {
            End::Wanted => {
                self.finish(attached).await;
                false
            }
            End::QueueGone => {
                self.consumers.declarer.forget(&self.subscription.origin.queue);
                attached.close().await;
                match self.consumers.queue_deleted {
                    QueueDeleted::Redeclare => true,
                    QueueDeleted::Refuse => {
                        self.refuse(refusal::cancelled());
                        false
                    }
                }
            }
            End::Lost(error) => {
                if !attached.link.is_alive() {
                    self.missing = Some(self.consumers.shared.recovery.lost());
                }
                if let Some(error) = error
                    && let Fault::Refused(_) = Fault::of(&error)
                {
                    self.seat.closed_channel(&attached.link);
                    warn!("RabbitMQ closed a consumer's channel: {error}");
                }
                true
            }
        }
    }

    async fn deliver(&mut self, attached: &mut Attached) -> End {
        loop {
            self.settle(attached).await;
            if self.subscription.is_ending() {
                return End::Wanted;
            }
            tokio::select! {
                biased;
                () = self.consumers.shared.stop.cancelled() => return End::Wanted,
                () = self.subscription.woken() => {}
                delivery = attached.next() => match delivery {
                    Some(Ok(delivery)) => {
                        if self.hand_over(delivery, attached).await.is_err() {
                            return End::Wanted;
                        }
                    }
                    Some(Err(error)) => return End::Lost(Some(error)),
                    None if attached.channel.status().connected() && attached.link.is_alive() => {
                        return End::QueueGone;
                    }
                    None => return End::Lost(None),
                },
            }
        }
    }

    /// Into the session's mailbox.
    async fn hand_over(
        &mut self,
        delivery: AmqpDelivery,
        attached: &mut Attached,
    ) -> Result<(), mailbox::Gone> {
        self.consumers.shared.counters.received.add(1);
        let AmqpDelivery {
            delivery_tag, exchange, routing_key, redelivered, properties, data, ..
        } = delivery;
        let subscription = &self.subscription;
        let (exchange, key) = (exchange.as_str(), routing_key.as_str());
        let stream_offset = properties::stream_offset(&properties);
        let Incoming { message, republished } =
            properties::incoming(exchange, key, &properties, data);
        if let Some(id) = message.x_id {
            let queue = &self.queue;
            let is_duplicate = {
                let recent = &self.consumers.recent;
                let mut recent = recent.lock().unwrap_or_else(PoisonError::into_inner);
                recent.note(queue, id, republished, Instant::now())
            };
            if is_duplicate && !redelivered {
                self.consumers.shared.counters.duplicates.add(1);
                // Where that fails the channel is lost, and the stream says so.
                let ack = attached.channel.basic_ack(delivery_tag, BasicAckOptions::default());
                drop(attached.link.answer(ack).await);
                return Ok(());
            }
        }
        let tag = self.next_tag;
        self.next_tag += 1;
        attached.out.insert(tag, delivery_tag);
        let is_again = stream_offset.is_some_and(|offset| self.stream.delivered(tag, offset));
        subscription.to.push(Entry::Own(Box::new(Delivery {
            message: Arc::new(message),
            subscription: subscription.number,
            redelivered: redelivered || republished || is_again,
            source: mailbox::Source::Queue { queue: self.queue.clone(), tag },
        })))
    }

    /// Does what the session decided of its deliveries. Tags that are not out mean nothing.
    async fn settle(&mut self, attached: &mut Attached) {
        let settlements = std::mem::take(&mut self.subscription.inbox().settlements);
        let mut acked = BTreeSet::new();
        for (tag, settlement) in settlements {
            self.stream.settled(tag);
            if settlement == Settlement::Ack {
                acked.insert(tag);
            } else if let Some(amqp) = attached.out.remove(&tag) {
                let requeue = matches!(settlement, Settlement::Requeue | Settlement::Return);
                let options = BasicNackOptions { multiple: false, requeue };
                // Where that fails the channel is lost, and the stream says so.
                drop(attached.link.answer(attached.channel.basic_nack(amqp, options)).await);
            }
        }
        for (amqp, multiple) in acks(&mut attached.out, &acked) {
            let ack = attached.channel.basic_ack(amqp, BasicAckOptions { multiple });
            drop(attached.link.answer(ack).await);
        }
    }

    /// The subscription ends. After UNSUBSCRIBE what is out may still be settled; what is out at
    /// the session's end goes back into the queue with the channel.
    async fn finish(&mut self, mut attached: Attached) {
        // What was decided before the end, while another settlement was under way.
        self.settle(&mut attached).await;
        let unsubscribe = self.subscription.inbox().unsubscribe.take();
        if let Some(Unsubscribe { token, delete }) = unsubscribe {
            let cancel = attached.channel.basic_cancel(self.tag(), BasicCancelOptions::default());
            let cancelled = attached.link.answer(cancel).await;
            while cancelled.is_ok()
                && let Ok(Some(Ok(delivery))) =
                    attached.link.answer(async { Ok(attached.consumer.next().await) }).await
            {
                let options = BasicNackOptions { multiple: false, requeue: true };
                let nack = attached.channel.basic_nack(delivery.delivery_tag, options);
                drop(attached.link.answer(nack).await);
            }
            let origin = &self.subscription.origin;
            let is_own = origin.binding.is_some();
            if delete && is_own {
                let queue = topology::short(&origin.queue).unwrap_or_default();
                let delete = attached.channel.queue_delete(queue, QueueDeleteOptions::default());
                // One that is gone already is what was wanted.
                drop(attached.link.answer(delete).await);
            }
            if let Some(token) = token {
                self.done(token, Ok(Level::Confirmed));
            }
            let goes_with_consumer = origin.declare.as_ref().is_some_and(|d| d.auto_delete);
            if !(goes_with_consumer || delete && is_own) {
                self.settle_rest(&mut attached).await;
            }
        }
        attached.close().await;
    }

    async fn settle_rest(&mut self, attached: &mut Attached) {
        loop {
            self.settle(attached).await;
            if attached.out.is_empty()
                || self.subscription.inbox().session_ended
                || !attached.channel.status().connected()
            {
                return;
            }
            let link = attached.link.clone();
            tokio::select! {
                () = self.consumers.shared.stop.cancelled() => return,
                () = self.subscription.woken() => {}
                () = link.lost() => return,
            }
        }
    }

    /// Whoever asks by that queue has to know its name.
    fn name_reply_queue(&self) {
        if self.subscription.is_for_answers() {
            let (subscription, result) = (self.subscription.number, Ok(self.queue.clone()));
            self.subscription.to.event(Event::ReplyQueue { subscription, result });
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        if self.subscription.is_for_answers() {
            let subscription = self.subscription.number;
            let result = Err(refusal);
            return self.subscription.to.event(Event::ReplyQueue { subscription, result });
        }
        if self.unanswered.is_some() {
            return self.answer(Err(refusal));
        }
        // It was there once, so its end is an event of its own.
        let refusal = Refusal { kind: refusal::cancelled().kind, ..refusal };
        let subscription = self.subscription.number;
        self.subscription.to.event(Event::Cancelled { subscription, refusal });
    }

    fn answer(&mut self, result: Result<Level, Refusal>) {
        if let Some(Some(token)) = self.unanswered.take() {
            self.done(token, result);
        }
    }

    fn done(&self, token: Token, result: Result<Level, Refusal>) {
        self.subscription.to.event(Event::Done { token, result });
    }
}
