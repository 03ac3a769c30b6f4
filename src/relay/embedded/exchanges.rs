//! The exchanges of the embedded broker: those that every AMQP broker has. Each knows the
//! sessions that listen to a key, and the queues that are bound to one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::queue::Queue;
use crate::destination::{Destination, TOPIC_EXCHANGE, Topic};
use crate::message::Message;
use crate::relay::Together;
use crate::relay::error::{self, Refusal};
use crate::relay::mailbox::{Mailbox, SubscriptionNumber, Token};
use crate::relay::origin::binding_key;
use crate::relay::topics::Topics;
use crate::relay::words::{Bucket, Words};

/// How keys of an exchange match.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// By words, with `*` and `#` in bindings.
    Topic,
    /// Byte for byte.
    Direct,
    /// Not at all: everybody gets everything. Headers exchanges are that too, since nobody can
    /// name headers in a SUBSCRIBE, and a binding without any matches every message.
    Fanout,
}

const EXCHANGES: [(&str, Kind); 4] = [
    (TOPIC_EXCHANGE, Kind::Topic),
    ("amq.direct", Kind::Direct),
    ("amq.fanout", Kind::Fanout),
    ("amq.headers", Kind::Fanout),
];

/// All exchanges.
#[derive(Debug)]
pub(super) struct Exchanges([Exchange; 4]);

#[derive(Debug)]
struct Exchange {
    name: &'static str,
    kind: Kind,
    sessions: Topics,
    queues: Words<Bound>,
    /// Bindings of queues, so that a publish need not look where there is none.
    bindings: AtomicUsize,
}

/// The queues that are bound to one key or pattern.
#[derive(Debug, Default)]
struct Bound(Vec<Arc<Mutex<Queue>>>);

impl Bucket for Bound {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// An exchange and a key of it.
struct Place<'a> {
    exchange: &'a Exchange,
    topic: Topic,
}

impl Exchanges {
    pub(super) fn new() -> Self {
        Self(EXCHANGES.map(|(name, kind)| Exchange {
            name,
            kind,
            sessions: Topics::new(),
            queues: Words::new(),
            bindings: AtomicUsize::new(0),
        }))
    }

    pub(super) fn listen(
        &self,
        to: &Arc<Mailbox>,
        number: SubscriptionNumber,
        destination: &Destination,
    ) -> Result<(), Refusal> {
        let Place { exchange, topic } = self.place(destination)?;
        exchange.sessions.subscribe(&topic, to, number);
        Ok(())
    }

    pub(super) fn ignore(
        &self,
        session: u64,
        number: SubscriptionNumber,
        destination: &Destination,
    ) {
        if let Ok(Place { exchange, topic }) = self.place(destination) {
            exchange.sessions.unsubscribe(&topic, session, number);
        }
    }

    /// Binds a queue; a second time is as once.
    pub(super) fn bind(
        &self,
        queue: &Arc<Mutex<Queue>>,
        destination: &Destination,
    ) -> Result<(), Refusal> {
        let Place { exchange, topic } = self.place(destination)?;
        exchange.queues.change(&topic, |Bound(queues)| {
            if !queues.iter().any(|bound| Arc::ptr_eq(bound, queue)) {
                queues.push(queue.clone());
                exchange.bindings.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok(())
    }

    pub(super) fn unbind(&self, queue: &Arc<Mutex<Queue>>, destination: &Destination) {
        let Ok(Place { exchange, topic }) = self.place(destination) else { return };
        exchange.queues.change(&topic, |Bound(queues)| {
            let before = queues.len();
            queues.retain(|bound| !Arc::ptr_eq(bound, queue));
            exchange.bindings.fetch_sub(before - queues.len(), Ordering::Relaxed);
        });
    }

    /// Puts the message into the mailboxes of who listens. Returns the queues it goes to, each
    /// once, however many of its bindings match.
    pub(super) fn publish(
        &self,
        message: &Arc<Message>,
    ) -> Result<Vec<Arc<Mutex<Queue>>>, Refusal> {
        let Place { exchange, topic } = self.place(&message.destination)?;
        exchange.sessions.publish(topic.key(), message);
        let mut queues: Vec<Arc<Mutex<Queue>>> = Vec::new();
        if exchange.bindings.load(Ordering::Relaxed) > 0 {
            exchange.queues.look_up(topic.key(), |Bound(bound)| {
                for queue in bound {
                    if !queues.iter().any(|other| Arc::ptr_eq(other, queue)) {
                        queues.push(queue.clone());
                    }
                }
            });
        }
        Ok(queues)
    }

    /// Puts messages of one destination into the mailboxes of who listens. Not where a queue is
    /// bound, which takes them one by one.
    pub(super) fn publish_together(&self, messages: &[(Token, Arc<Message>)]) -> Together {
        let Some((_, first)) = messages.first() else { return Together::Refused };
        let Ok(Place { exchange, topic }) = self.place(&first.destination) else {
            return Together::Refused;
        };
        if exchange.bindings.load(Ordering::Relaxed) > 0 {
            return Together::Refused;
        }
        let messages = messages.iter().map(|(_, message)| message);
        let crowded = exchange.sessions.publish_together(topic.key(), &messages);
        Together::Published { crowded }
    }

    fn place(&self, destination: &Destination) -> Result<Place<'_>, Refusal> {
        let Some((name, key)) = binding_key(destination) else {
            return Err(error::not_found("exchange", ""));
        };
        let exchange = self.0.iter().find(|exchange| exchange.name == name);
        let exchange = exchange.ok_or_else(|| error::not_found("exchange", name))?;
        let topic = match (exchange.kind, destination) {
            (Kind::Topic, Destination::Topic(topic)) => topic.clone(),
            (Kind::Topic, _) => Topic::from_key(key),
            (Kind::Direct, _) => Topic::literal(key),
            (Kind::Fanout, _) => Topic::literal(&Arc::from("")),
        };
        Ok(Place { exchange, topic })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::relay::mailbox::MailboxLimits;
    use crate::relay::origin::Declaration;
    use crate::stomp::Headers;

    fn destination(text: &str) -> Destination {
        let allowed = EXCHANGES.map(|(name, _)| name).into_iter().collect();
        Destination::for_subscribe_within(text, "alice", &allowed).unwrap()
    }

    fn message(text: &str) -> Arc<Message> {
        let (headers, body) = (Headers::default(), Bytes::new());
        Arc::new(Message::new(destination(text), text.into(), headers, body))
    }

    #[test]
    fn who_gets_what() {
        let cases = [
            ("/topic/a.*", "/topic/a.b", true),
            ("/topic/a.*", "/exchange/amq.topic/a.b", true),
            ("/topic/a.*", "/exchange/amq.direct/a.b", false),
            ("/exchange/amq.direct/a.*", "/exchange/amq.direct/a.b", false),
            ("/exchange/amq.direct/a.*", "/exchange/amq.direct/a.*", true),
            ("/exchange/amq.direct", "/exchange/amq.direct", true),
            ("/exchange/amq.fanout/a", "/exchange/amq.fanout/b", true),
            ("/exchange/amq.headers", "/exchange/amq.headers/b", true),
        ];
        for (subscribed, sent, expected) in cases {
            let exchanges = Exchanges::new();
            let to = Mailbox::new(1, MailboxLimits { frames: 9, bytes: 9999 });
            let queue = Queue::new("q".into(), Declaration::QUEUE, None);
            let queue = Arc::new(Mutex::new(queue));
            exchanges.listen(&to, 1, &destination(subscribed)).unwrap();
            exchanges.bind(&queue, &destination(subscribed)).unwrap();
            exchanges.bind(&queue, &destination(subscribed)).unwrap();
            let queues = exchanges.publish(&message(sent)).unwrap().len();
            let found = (to.depth().0, queues);
            let count = usize::from(expected);
            assert_eq!(found, (count, count), "{subscribed} {sent}");
            exchanges.ignore(1, 1, &destination(subscribed));
            exchanges.unbind(&queue, &destination(subscribed));
            assert!(exchanges.publish(&message(sent)).unwrap().is_empty());
            assert_eq!(to.depth().0, count);
        }
    }

    #[test]
    fn a_queue_gets_a_message_once() {
        let exchanges = Exchanges::new();
        let queue = Arc::new(Mutex::new(Queue::new("q".into(), Declaration::QUEUE, None)));
        for pattern in ["/topic/a", "/topic/*", "/topic/#"] {
            exchanges.bind(&queue, &destination(pattern)).unwrap();
        }
        assert_eq!(exchanges.publish(&message("/topic/a")).unwrap().len(), 1);
    }

    #[test]
    fn no_other_exchange_is_there() {
        let exchanges = Exchanges::new();
        let refusal = exchanges.publish(&message("/exchange/other/k")).unwrap_err();
        assert_eq!(refusal.message, "not_found");
    }
}
