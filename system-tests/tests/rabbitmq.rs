//! The relay's RabbitMQ side against a real RabbitMQ.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in tests a panic is how to fail")]

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stomp_relay::destination::Destination;
use stomp_relay::message::Message;
use stomp_relay::relay::error::{Refusal, RefusalKind};
use stomp_relay::relay::mailbox::{
    Delivery, Entry, Event, Level, Mailbox, MailboxLimits, Source, Submit,
};
use stomp_relay::relay::origin::{self, OwnName, QueueHeaders, QueueType};
use stomp_relay::relay::rabbitmq::{Config, QueueDeleted, RabbitMq, Unroutable};
use stomp_relay::relay::{AckMode, Settlement, SubscribeRequest};
use stomp_relay::stomp::Headers;
use system_tests::rabbitmq::RabbitMqServer;

const PATIENCE: Duration = Duration::from_secs(40);

fn config(server: &RabbitMqServer, node_id: &str) -> Config {
    Config {
        urls: vec![server.amqp_url.clone()],
        node_id: node_id.into(),
        unroutable: Unroutable::Error,
        queue_deleted: QueueDeleted::Redeclare,
        queue_type: QueueType::Classic,
        outage_messages: 10_000,
        outage_bytes: 64 << 20,
        outage_time: Duration::from_secs(60),
    }
}

async fn start(server: &RabbitMqServer, node_id: &str) -> Arc<RabbitMq> {
    // Shown with a test that fails.
    drop(
        tracing_subscriber::fmt().with_env_filter("info,lapin=error").with_test_writer().try_init(),
    );
    Arc::new(RabbitMq::start(config(server, node_id)).await.unwrap())
}

/// A session as the driver runs it, by hand.
struct Session {
    broker: Arc<RabbitMq>,
    mailbox: Arc<Mailbox>,
    messages: VecDeque<Got>,
    events: VecDeque<Event>,
    next_token: u64,
}

#[derive(Clone, Debug)]
struct Got {
    subscription: u32,
    message: Arc<Message>,
    redelivered: bool,
    tag: Option<u64>,
}

impl Got {
    fn body(&self) -> &str {
        std::str::from_utf8(&self.message.body).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.message.headers.get(name)
    }
}

fn message(destination: &str, headers: &[(&str, &str)], body: &str) -> Arc<Message> {
    let headers: Headers = headers.iter().copied().collect();
    let persistent = headers.get("persistent") == Some("true");
    let destination_text = destination.to_owned();
    let destination = Destination::for_send(destination).unwrap();
    let body = bytes(body);
    let mut message = Message::new(destination, destination_text.into(), headers, body);
    message.persistent = persistent;
    Arc::new(message)
}

fn bytes(text: &str) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(text.as_bytes())
}

impl Session {
    fn new(broker: &Arc<RabbitMq>, number: u64) -> Self {
        let limits = MailboxLimits { frames: 100_000, bytes: 64 << 20 };
        Self {
            broker: broker.clone(),
            mailbox: Mailbox::new(number, limits),
            messages: VecDeque::new(),
            events: VecDeque::new(),
            next_token: 1,
        }
    }

    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    /// Publishes; the token to wait for.
    fn publish(&mut self, message: Arc<Message>) -> u64 {
        let token = self.token();
        let submit = self.broker.publish(&self.mailbox, Some(token), message, None);
        assert!(matches!(submit, Submit::Pending), "{submit:?}");
        token
    }

    async fn send(&mut self, destination: &str, body: &str) -> Result<Level, Refusal> {
        let token = self.publish(message(destination, &[], body));
        self.done(token).await
    }

    fn start_subscribe(
        &mut self,
        number: u32,
        destination: &str,
        ack: AckMode,
        prefetch: u16,
    ) -> (u64, Submit) {
        let token = self.token();
        let destination = Destination::for_subscribe(destination, "user").unwrap();
        let random = ulid::Ulid::generate().to_string();
        let own = OwnName { id: None, owner: None, random: &random };
        let origin = origin::origin(&destination, ack, &QueueHeaders::default(), own).unwrap();
        let request = SubscribeRequest { subscription: number, origin, ack, prefetch };
        let submit = self.broker.subscribe(&self.mailbox, Some(token), request);
        (token, submit)
    }

    async fn try_subscribe(
        &mut self,
        number: u32,
        destination: &str,
        ack: AckMode,
        prefetch: u16,
    ) -> Result<Level, Refusal> {
        match self.start_subscribe(number, destination, ack, prefetch) {
            (_, Submit::Done(level)) => Ok(level),
            (_, Submit::Refused(refusal)) => Err(refusal),
            (token, Submit::Pending) => self.done(token).await,
        }
    }

    async fn subscribe(&mut self, number: u32, destination: &str, ack: AckMode, prefetch: u16) {
        self.try_subscribe(number, destination, ack, prefetch).await.unwrap();
    }

    async fn unsubscribe(&mut self, number: u32) {
        let token = self.token();
        match self.broker.unsubscribe(&self.mailbox, number, Some(token), false) {
            Submit::Done(_) => {}
            Submit::Pending => drop(self.done(token).await.unwrap()),
            Submit::Refused(refusal) => panic!("{refusal}"),
        }
    }

    fn settle(&self, got: &Got, settlement: Settlement) {
        self.broker.settle(&self.mailbox, got.subscription, &[got.tag.unwrap()], settlement);
    }

    async fn done(&mut self, token: u64) -> Result<Level, Refusal> {
        let event = self
            .event(|event| matches!(event, Event::Done { token: seen, .. } if *seen == token))
            .await;
        match event {
            Event::Done { result, .. } => result,
            other => panic!("{other:?}"),
        }
    }

    async fn event(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(place) = self.events.iter().position(&wanted) {
                return self.events.remove(place).unwrap();
            }
            self.take(deadline).await;
        }
    }

    async fn message(&mut self) -> Got {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(got) = self.messages.pop_front() {
                return got;
            }
            self.take(deadline).await;
        }
    }

    /// The next message, acked where there is something to ack.
    async fn body(&mut self) -> String {
        let got = self.message().await;
        if got.tag.is_some() {
            self.settle(&got, Settlement::Ack);
        }
        got.body().to_owned()
    }

    async fn take(&mut self, deadline: Instant) {
        let mut entries = Vec::new();
        let take = poll_fn(|cx| self.mailbox.poll_take(cx, usize::MAX, Some(&mut entries)));
        let signals = tokio::time::timeout_at(deadline.into(), take)
            .await
            .expect("nothing came within the test's patience");
        assert!(!signals.overflown);
        if signals.room {
            self.events.push_back(Event::Room);
        }
        for entry in entries {
            match entry {
                Entry::Shared { message, subscription } => self.messages.push_back(Got {
                    subscription,
                    redelivered: message.redelivered,
                    message,
                    tag: None,
                }),
                Entry::Own(delivery) => {
                    let Delivery { message, subscription, redelivered, source } = *delivery;
                    let Source::Queue { tag, .. } = source else { panic!("{source:?}") };
                    self.messages.push_back(Got {
                        subscription,
                        message,
                        redelivered,
                        tag: Some(tag),
                    });
                }
                Entry::Event(event) => self.events.push_back(*event),
            }
        }
    }
}

/// Waits until something is so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Ready and unacked messages of a queue, where it exists.
fn depth(server: &RabbitMqServer, queue: &str) -> Option<(u64, u64)> {
    let list = server
        .ctl(&[
            "list_queues",
            "--no-table-headers",
            "name",
            "messages_ready",
            "messages_unacknowledged",
        ])
        .unwrap();
    let line = list.lines().find(|line| line.split('\t').next() == Some(queue))?;
    let mut numbers = line.split('\t').skip(1).map(|number| number.parse().unwrap());
    Some((numbers.next().unwrap(), numbers.next().unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_both_ways_with_the_plugin() {
    let server = RabbitMqServer::shared().unwrap();
    let broker = start(&server, "queues").await;
    let mut session = Session::new(&broker, 1);
    session.subscribe(1, "/queue/to.relay", AckMode::Auto, 100).await;
    let mut plugin = server.plugin().unwrap();
    let rest = "destination:/queue/to.relay\ncontent-type:text/plain\npersistent:true\n\
                correlation-id:c1\nx-own:o\n\nhello";
    plugin.send_and_wait("SEND", rest).unwrap();
    let got = session.message().await;
    assert_eq!((got.body(), got.redelivered), ("hello", false));
    assert_eq!(&*got.message.shown, "/queue/to.relay");
    assert_eq!(got.header("content-type"), Some("text/plain"));
    assert_eq!((got.header("correlation-id"), got.header("x-own")), (Some("c1"), Some("o")));
    assert!(got.message.persistent);
    session.settle(&got, Settlement::Ack);
    until("acked", || depth(&server, "to.relay") == Some((0, 0))).await;

    plugin.send_and_wait("SUBSCRIBE", "id:0\ndestination:/queue/to.plugin\n\n").unwrap();
    let headers = [
        ("content-type", "text/plain"),
        ("persistent", "true"),
        ("type", "t"),
        ("k", "v:1"),
        ("CC", "elsewhere"),
        ("expiration", "never"),
        ("user-id", "eve"),
    ];
    let token = session.publish(message("/queue/to.plugin", &headers, "there"));
    assert_eq!(session.done(token).await, Ok(Level::Confirmed));
    let frame = plugin.receive().unwrap();
    for line in [
        "destination:/queue/to.plugin",
        "content-type:text/plain",
        "persistent:true",
        "type:t",
        "k:v\\c1",
    ] {
        assert!(frame.lines().any(|seen| seen == line), "{line} in {frame}");
    }
    assert!(frame.contains("\nx-id:") && frame.ends_with("\n\nthere"), "{frame}");
    for name in ["CC:", "expiration:", "user-id:", "x-republished:"] {
        assert!(!frame.contains(&format!("\n{name}")), "{name} in {frame}");
    }
    broker.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_both_ways_with_the_plugin() {
    let server = RabbitMqServer::shared().unwrap();
    let broker = start(&server, "topics").await;
    let mut session = Session::new(&broker, 1);
    session.subscribe(1, "/topic/both.a", AckMode::Auto, 1).await;
    session.subscribe(2, "/topic/both.#", AckMode::Auto, 1).await;
    session.subscribe(3, "/topic/both.*", AckMode::Client, 10).await;
    let mut plugin = server.plugin().unwrap();
    plugin.send_and_wait("SUBSCRIBE", "id:0\ndestination:/topic/both.*\n\n").unwrap();
    plugin.send_and_wait("SEND", "destination:/topic/both.a\nk:v\n\none").unwrap_err();
    // The error above is the plugin's own copy, which came before the receipt.
    assert_eq!(plugin.receive().unwrap(), "RECEIPT\nreceipt-id:r\n\n");
    let mut got = [session.message().await, session.message().await, session.message().await];
    got.sort_by_key(|got| got.subscription);
    for (got, subscription) in got.iter().zip(1..) {
        assert_eq!((got.subscription, got.body()), (subscription, "one"));
        assert_eq!((&*got.message.shown, got.header("k")), ("/topic/both.a", Some("v")));
        assert_eq!(got.tag.is_some(), subscription == 3);
    }
    session.settle(&got[2], Settlement::Ack);

    assert_eq!(session.send("/topic/both.b", "two").await, Ok(Level::Confirmed));
    assert!(plugin.receive().unwrap().contains("destination:/topic/both.b\n"));
    let mut seen = [session.message().await.subscription, session.message().await.subscription];
    seen.sort_unstable();
    assert_eq!(seen, [2, 3]);

    // A topic that nobody subscribes is no error.
    assert_eq!(session.send("/topic/nobody.here", "x").await, Ok(Level::Confirmed));
    // What is unsubscribed gets nothing; the other one tells when all is through.
    session.unsubscribe(1).await;
    session.unsubscribe(3).await;
    assert_eq!(session.send("/topic/both.a", "three").await, Ok(Level::Confirmed));
    let got = session.message().await;
    assert_eq!((got.subscription, got.body()), (2, "three"));
    assert!(session.messages.is_empty());
    // Only the plugin's own is left.
    until("the own queue is gone", || {
        server.ctl(&["list_queues", "name"]).unwrap().matches("stomp-subscription-").count() == 1
    })
    .await;
    broker.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_subscribers_share_one_queue_and_one_binding() {
    let server = RabbitMqServer::shared().unwrap();
    let broker = start(&server, "fan-out").await;
    let mut sessions: Vec<_> = (1..=200).map(|number| Session::new(&broker, number)).collect();
    for session in &mut sessions {
        session.subscribe(1, "/topic/prices.eur", AckMode::Auto, 1).await;
    }
    until("ready", || broker.ready()).await;
    let queues = server.ctl(&["list_queues", "--no-table-headers", "name"]).unwrap();
    let ours: Vec<_> =
        queues.lines().filter(|name| name.starts_with("stomp-relay.node.fan-out.")).collect();
    assert_eq!(ours.len(), 1, "{queues}");
    let bindings = server
        .ctl(&[
            "list_bindings",
            "--no-table-headers",
            "source_name",
            "destination_name",
            "routing_key",
        ])
        .unwrap();
    let ours: Vec<_> = bindings
        .lines()
        .filter(|line| line.contains(ours[0]) && line.starts_with("amq.topic"))
        .collect();
    assert_eq!(ours.len(), 1, "{bindings}");
    assert!(ours[0].ends_with("prices.eur"));

    let sender = &mut sessions[0];
    sender.send("/topic/prices.eur", "1.08").await.unwrap();
    for session in &mut sessions {
        assert_eq!(session.body().await, "1.08");
    }
    assert_eq!(broker.snapshot().received, 1);
    for session in &sessions {
        broker.session_ended(&session.mailbox);
    }
    broker.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acks_and_what_becomes_of_the_rest() {
    let server = RabbitMqServer::shared().unwrap();
    let broker = start(&server, "acks").await;
    let mut sender = Session::new(&broker, 1);
    for body in ["a", "b", "c", "d", "e"] {
        sender.send("/queue/acks", body).await.unwrap();
    }
    let mut session = Session::new(&broker, 2);
    session.subscribe(1, "/queue/acks", AckMode::ClientIndividual, 3).await;
    let (a, b, c) = (session.message().await, session.message().await, session.message().await);
    assert_eq!((a.body(), b.body(), c.body()), ("a", "b", "c"));
    // No more than the prefetch, until something is settled.
    until("three are out", || depth(&server, "acks") == Some((2, 3))).await;
    session.settle(&b, Settlement::Requeue);
    let again = session.message().await;
    assert_eq!((again.body(), again.redelivered), ("b", true));
    session.settle(&again, Settlement::Ack);
    assert_eq!(session.message().await.body(), "d");
    session.settle(&c, Settlement::Discard);
    let e = session.message().await;
    assert_eq!((e.body(), e.redelivered), ("e", false));
    // What is settled already, and what never was, has no effect.
    for tag in [b.tag.unwrap(), c.tag.unwrap(), 0, 99, u64::MAX] {
        broker.settle(&session.mailbox, 1, &[tag], Settlement::Ack);
    }
    session.settle(&e, Settlement::Ack);
    until("a and d are out", || depth(&server, "acks") == Some((0, 2))).await;

    // After UNSUBSCRIBE what is out may still be settled.
    session.unsubscribe(1).await;
    sender.send("/queue/acks", "f").await.unwrap();
    session.settle(&a, Settlement::Ack);
    until("a is acked, f waits", || depth(&server, "acks") == Some((1, 1))).await;
    assert!(session.messages.is_empty());

    // What a session leaves goes back into the queue.
    broker.session_ended(&session.mailbox);
    until("d is back", || depth(&server, "acks") == Some((2, 0))).await;
    let mut other = Session::new(&broker, 3);
    other.subscribe(1, "/queue/acks", AckMode::Client, 10).await;
    let (d, f) = (other.message().await, other.message().await);
    assert_eq!((d.body(), d.redelivered, f.body(), f.redelivered), ("d", true, "f", false));
    broker.settle(&other.mailbox, 1, &[d.tag.unwrap(), f.tag.unwrap()], Settlement::Ack);
    until("all is acked", || depth(&server, "acks") == Some((0, 0))).await;
    broker.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_is_unroutable_is_refused_as_such() {
    let server = RabbitMqServer::shared().unwrap();
    let broker = start(&server, "unroutable").await;
    let mut session = Session::new(&broker, 1);
    session.send("/queue/there", "first").await.unwrap();
    for round in 0..5 {
        session.send("/queue/not-there", "first").await.unwrap();
        server.ctl(&["delete_queue", "not-there"]).unwrap();
        // All in flight together; confirms come in whatever groups RabbitMQ makes of them. The
        // queue is known to be gone with the first return and declared again for the next one,
        // so only the first ones are refused: but at least one, and never one of the others.
        let tokens: Vec<_> = (0..200)
            .map(|number| {
                let queue = if number % 3 == 1 { "/queue/not-there" } else { "/queue/there" };
                let persistent = [("persistent", "true")];
                let headers: &[_] = if number % 2 == 0 { &persistent } else { &[] };
                (queue, session.publish(message(queue, headers, &number.to_string())))
            })
            .collect();
        let (mut refused, mut confirmed) = (0, 0);
        for (queue, token) in tokens {
            match (queue, session.done(token).await) {
                (_, Ok(level)) => {
                    assert_eq!(level, Level::Confirmed);
                    confirmed += u64::from(queue == "/queue/not-there");
                }
                ("/queue/not-there", Err(refusal)) => {
                    assert_eq!(
                        (refusal.kind, refusal.message),
                        (RefusalKind::Unroutable, "Unroutable")
                    );
                    refused += 1;
                }
                (queue, Err(refusal)) => panic!("{queue}: {refusal}"),
            }
        }
        assert!(refused > 0);
        // Every confirmed one is in the queue, and no refused one.
        until(&format!("round {round}: {confirmed} confirmed, {refused} refused"), || {
            depth(&server, "not-there").unwrap_or_default() == (confirmed, 0)
        })
        .await;
        if confirmed > 0 {
            server.ctl(&["delete_queue", "not-there"]).unwrap();
            let gone = session.send("/queue/not-there", "x").await;
            assert_eq!(gone.unwrap_err().kind, RefusalKind::Unroutable);
        }
    }
    broker.shutdown(Duration::from_secs(5)).await;

    let keep = Config { unroutable: Unroutable::Keep, ..config(&server, "keep") };
    let broker = Arc::new(RabbitMq::start(keep).await.unwrap());
    let mut session = Session::new(&broker, 1);
    session.send("/queue/kept", "first").await.unwrap();
    server.ctl(&["delete_queue", "kept"]).unwrap();
    let tokens: Vec<_> =
        (0..50).map(|n| session.publish(message("/queue/kept", &[], &n.to_string()))).collect();
    for token in tokens {
        assert_eq!(session.done(token).await, Ok(Level::Confirmed));
    }
    session.subscribe(1, "/queue/kept", AckMode::Auto, 100).await;
    for number in 0..50 {
        assert_eq!(session.body().await, number.to_string());
    }
    broker.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poisoned_publish_costs_nobody_else_anything() {
    let server = RabbitMqServer::shared().unwrap();
    let broker = start(&server, "poison").await;
    let mut plugin = server.plugin().unwrap();
    let rest = "destination:/queue/poison\nx-message-ttl:600000\n\nx";
    plugin.send_and_wait("SEND", rest).unwrap();
    // Sessions 1 and 5 share a lane.
    let (mut good, mut evil) = (Session::new(&broker, 1), Session::new(&broker, 5));
    good.subscribe(1, "/queue/good", AckMode::Auto, 1000).await;
    let mut tokens = Vec::new();
    let mut poison = Vec::new();
    for number in 0..100 {
        tokens.push(good.publish(message("/queue/good", &[], &number.to_string())));
        poison.push(evil.publish(message("/queue/poison", &[], "x")));
    }
    for token in poison {
        let refusal = evil.done(token).await.unwrap_err();
        assert_eq!((refusal.kind, refusal.message), (RefusalKind::Denied, "precondition_failed"));
    }
    for token in tokens {
        assert_eq!(good.done(token).await, Ok(Level::Confirmed));
    }
    for number in 0..100 {
        let got = good.message().await;
        assert_eq!((got.body(), got.redelivered), (number.to_string().as_str(), false));
        good.settle(&got, Settlement::Ack);
    }
    // So many closed channels wear a connection out; it is replaced, and nobody notices.
    let poison: Vec<_> =
        (0..450).map(|_| evil.publish(message("/queue/poison", &[], "x"))).collect();
    for token in poison {
        assert_eq!(evil.done(token).await.unwrap_err().message, "precondition_failed");
    }
    good.send("/queue/good.too", "x").await.unwrap();
    let refusal = evil.try_subscribe(1, "/queue/poison", AckMode::Auto, 1).await.unwrap_err();
    assert_eq!(refusal.message, "precondition_failed");
    let huge = "v".repeat(130 * 1024);
    let submit =
        broker.publish(&evil.mailbox, Some(1), message("/queue/good", &[("h", &huge)], ""), None);
    assert!(matches!(submit, Submit::Refused(refusal) if refusal.kind == RefusalKind::Limit));
    let snapshot = broker.snapshot();
    assert_eq!((snapshot.lost_connections, snapshot.republished), (0, 0));
    assert_eq!(snapshot.confirmed, 101);
    assert!(snapshot.closed_channels > 500, "{snapshot:?}");
    broker.shutdown(Duration::from_secs(5)).await;
}

/// A channel that RabbitMQ closes over one message: made by a permission, since no header that
/// passes the relay does it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_closed_over_one_message_is_replaced_and_the_others_go_on() {
    let server = RabbitMqServer::shared().unwrap();
    server.ctl(&["add_user", "limited", "secret"]).unwrap();
    // May write to all exchanges, but with no key to this one.
    server.ctl(&["set_permissions", "limited", ".*", ".*", ".*"]).unwrap();
    server.ctl(&["set_topic_permissions", "limited", "amq.topic", "^$", ".*"]).unwrap();
    let url = server.amqp_url.replace("guest:guest", "limited:secret");
    let limited = Config { urls: vec![url], ..config(&server, "limited") };
    let broker = Arc::new(RabbitMq::start(limited).await.unwrap());
    let (mut good, mut evil) = (Session::new(&broker, 1), Session::new(&broker, 5));
    good.subscribe(1, "/queue/chan", AckMode::Auto, 1000).await;
    let mut tokens = Vec::new();
    let mut denied = Vec::new();
    for number in 0..60 {
        tokens.push(good.publish(message("/queue/chan", &[], &number.to_string())));
        if number % 20 == 10 {
            denied.push(evil.publish(message("/topic/denied", &[], "x")));
        }
    }
    for token in denied {
        assert_eq!(evil.done(token).await.unwrap_err().kind, RefusalKind::Denied);
    }
    for token in tokens {
        assert_eq!(good.done(token).await, Ok(Level::Confirmed));
    }
    // In order; a message that was in flight may come twice, then it is marked.
    let mut next = 0;
    while next < 60 {
        let got = good.message().await;
        good.settle(&got, Settlement::Ack);
        let number: u64 = got.body().parse().unwrap();
        if number == next {
            next += 1;
        } else {
            assert!(number < next && got.redelivered, "{number} after {next}");
        }
    }
    // What was denied a moment ago costs nothing; something else costs a channel each time, and
    // many of them a connection.
    let closed = broker.snapshot().closed_channels;
    assert!(closed < 4, "{closed}");
    for number in 0..520 {
        let token = evil.publish(message(&format!("/topic/denied.{number}"), &[], "x"));
        assert_eq!(evil.done(token).await.unwrap_err().message, "access_refused", "{number}");
    }
    good.send("/queue/chan", "after").await.unwrap();
    assert_eq!(good.body().await, "after");
    let snapshot = broker.snapshot();
    assert_eq!(snapshot.lost_connections, 0);
    assert_eq!(snapshot.closed_channels, closed + 520, "{snapshot:?}");
    broker.shutdown(Duration::from_secs(5)).await;
}

/// A queue that is full and says so: what it does not take is tried again, then refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_is_an_outage_for_its_senders_alone() {
    let server = RabbitMqServer::shared().unwrap();
    let limit = r#"{"max-length": 2, "overflow": "reject-publish"}"#;
    server.ctl(&["set_policy", "--apply-to", "queues", "full", "^full$", limit]).unwrap();
    let broker = start(&server, "full").await;
    // On one lane.
    let (mut full, mut other) = (Session::new(&broker, 1), Session::new(&broker, 5));
    for number in 0..2 {
        full.send("/queue/full", &number.to_string()).await.unwrap();
    }
    let mut tokens = Vec::new();
    for number in 0..20 {
        let refused = full.publish(message("/queue/full", &[], "too many"));
        let taken = other.publish(message("/queue/not.full", &[], &number.to_string()));
        tokens.push((refused, taken));
    }
    for (refused, taken) in tokens {
        let refusal = full.done(refused).await.unwrap_err();
        assert_eq!((refusal.kind, refusal.message), (RefusalKind::Outage, "not accepted"));
        assert_eq!(other.done(taken).await, Ok(Level::Confirmed));
    }
    other.subscribe(1, "/queue/not.full", AckMode::Auto, 100).await;
    for number in 0..20 {
        assert_eq!(other.body().await, number.to_string());
    }
    full.subscribe(1, "/queue/full", AckMode::Auto, 100).await;
    assert_eq!((full.body().await, full.body().await), ("0".to_owned(), "1".to_owned()));
    full.send("/queue/full", "there is room again").await.unwrap();
    assert_eq!(full.body().await, "there is room again");
    let snapshot = broker.snapshot();
    assert_eq!((snapshot.closed_channels, snapshot.lost_connections), (0, 0), "{snapshot:?}");
    broker.shutdown(Duration::from_secs(5)).await;
}

/// What a session acked counts, however soon after it the session ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acks_right_before_the_end_count() {
    let server = RabbitMqServer::shared().unwrap();
    let broker = start(&server, "last-acks").await;
    for number in 1..=100 {
        let mut session = Session::new(&broker, number);
        session.subscribe(1, "/queue/last.acks", AckMode::ClientIndividual, 10).await;
        let tokens: Vec<u64> =
            (0..4).map(|_| session.publish(message("/queue/last.acks", &[], "x"))).collect();
        for token in tokens {
            session.done(token).await.unwrap();
        }
        for _ in 0..4 {
            let got = session.message().await;
            assert!(!got.redelivered, "an ack of the session before {number} was lost");
            session.settle(&got, Settlement::Ack);
        }
        broker.session_ended(&session.mailbox);
    }
    until("all are acked", || depth(&server, "last.acks") == Some((0, 0))).await;
    broker.shutdown(Duration::from_secs(5)).await;
}

/// A queue that never had a consumer does not go by itself, and would fill for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_goes_while_it_subscribes_leaves_no_queue() {
    let server = RabbitMqServer::shared().unwrap();
    let broker = start(&server, "orphans").await;
    let mut session = Session::new(&broker, 1);
    let mut tokens = Vec::new();
    for number in 0..60 {
        let (token, submit) = session.start_subscribe(number, "/topic/orphan", AckMode::Client, 10);
        assert!(matches!(submit, Submit::Pending), "{submit:?}");
        tokens.push(token);
        if number % 3 == 0 {
            // So that some are asked for already, and others not.
            tokio::task::yield_now().await;
        }
        let token = session.token();
        match broker.unsubscribe(&session.mailbox, number, Some(token), false) {
            Submit::Done(_) => {}
            Submit::Pending => tokens.push(token),
            Submit::Refused(refusal) => panic!("{refusal}"),
        }
    }
    for token in tokens {
        session.done(token).await.unwrap();
    }
    let is_bound = || {
        let bindings = server.ctl(&["list_bindings", "routing_key"]).unwrap();
        bindings.lines().any(|key| key == "orphan")
    };
    until("all queues are gone", || !is_bound()).await;
    // A session's end is no other.
    for number in 0..20 {
        session.start_subscribe(number, "/topic/orphan", AckMode::Client, 10);
    }
    broker.session_ended(&session.mailbox);
    let mut other = Session::new(&broker, 2);
    other.subscribe(1, "/queue/after.the.orphans", AckMode::Auto, 1).await;
    until("all queues are gone", || !is_bound()).await;
    broker.shutdown(Duration::from_secs(5)).await;
}

/// RabbitMQ may let the relay listen to some topics only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_denied_costs_nobody_else_anything() {
    let server = RabbitMqServer::shared().unwrap();
    let read = |pattern: &str| {
        server.ctl(&["set_topic_permissions", "listener", "amq.topic", ".*", pattern]).unwrap();
    };
    server.ctl(&["add_user", "listener", "secret"]).unwrap();
    server.ctl(&["set_permissions", "listener", ".*", ".*", ".*"]).unwrap();
    read("^open\\.");
    let url = server.amqp_url.replace("guest:guest", "listener:secret");
    let listener = Config { urls: vec![url], ..config(&server, "listener") };
    let broker = Arc::new(RabbitMq::start(listener).await.unwrap());
    let (mut good, mut evil) = (Session::new(&broker, 1), Session::new(&broker, 2));
    good.subscribe(1, "/topic/open.first", AckMode::Auto, 0).await;

    // All at once, and some in between are denied.
    let mut open = Vec::new();
    let mut closed = Vec::new();
    for number in 0..200 {
        let (session, topic, tokens) = if number % 50 == 7 {
            (&mut evil, format!("/topic/closed.{number}"), &mut closed)
        } else {
            (&mut good, format!("/topic/open.{number}"), &mut open)
        };
        let (token, submit) = session.start_subscribe(number + 10, &topic, AckMode::Auto, 0);
        assert!(matches!(submit, Submit::Pending), "{topic}: {submit:?}");
        tokens.push(token);
    }
    for token in closed {
        let refusal = evil.done(token).await.unwrap_err();
        assert_eq!((refusal.kind, refusal.message), (RefusalKind::Denied, "access_refused"));
    }
    for token in open {
        assert_eq!(good.done(token).await, Ok(Level::Confirmed));
    }
    for number in 0..40 {
        let denied = evil.try_subscribe(1, "/topic/closed", AckMode::Auto, 0).await.unwrap_err();
        assert_eq!(denied.kind, RefusalKind::Denied, "{number}");
        good.send("/topic/open.first", &number.to_string()).await.unwrap();
        assert_eq!(good.body().await, number.to_string());
    }
    for number in [8, 106, 199] {
        good.send(&format!("/topic/open.{number}"), "x").await.unwrap();
        assert_eq!(good.message().await.subscription, number + 10);
    }
    let snapshot = broker.snapshot();
    assert_eq!((snapshot.lost_connections, snapshot.node_queue_gaps), (0, 0), "{snapshot:?}");
    // What was denied a moment ago is not asked for again.
    assert!((5..15).contains(&snapshot.closed_channels), "{snapshot:?}");

    // What is denied after an outage is taken from who had it, and only that.
    read("^open\\.1");
    server.ctl(&["close_all_user_connections", "listener", "the test"]).unwrap();
    let mut ended = Vec::new();
    for _ in 0..good_without_one() {
        match good.event(|event| matches!(event, Event::Cancelled { .. })).await {
            Event::Cancelled { subscription, refusal } => {
                assert_eq!(refusal.kind, RefusalKind::Cancelled);
                ended.push(subscription);
            }
            other => panic!("{other:?}"),
        }
    }
    ended.sort_unstable();
    ended.dedup();
    assert_eq!(ended.len(), good_without_one());
    until("the rest is bound again", || {
        let bindings = server.ctl(&["list_bindings", "routing_key"]).unwrap();
        bindings.lines().any(|key| key == "open.100")
    })
    .await;
    good.send("/topic/open.100", "still").await.unwrap();
    assert_eq!(good.message().await.subscription, 110);
    assert_eq!(broker.snapshot().node_queue_gaps, 1);
    broker.shutdown(Duration::from_secs(5)).await;
}

/// Topics of the test above that do not begin with a 1, and are not among the denied.
fn good_without_one() -> usize {
    let open = (0..200).filter(|number| number % 50 != 7);
    1 + open.filter(|number| !number.to_string().starts_with('1')).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_deleted_under_its_consumer() {
    let server = RabbitMqServer::shared().unwrap();
    let broker = start(&server, "redeclare").await;
    let mut session = Session::new(&broker, 1);
    session.subscribe(1, "/queue/redeclared", AckMode::ClientIndividual, 10).await;
    session.send("/queue/redeclared", "lost").await.unwrap();
    let lost = session.message().await;
    server.ctl(&["delete_queue", "redeclared"]).unwrap();
    until("it is declared again", || depth(&server, "redeclared").is_some()).await;
    session.send("/queue/redeclared", "new").await.unwrap();
    let new = session.message().await;
    assert_eq!(new.body(), "new");
    assert!(new.tag > lost.tag);
    // Of the queue that is gone: no effect.
    session.settle(&lost, Settlement::Ack);
    session.settle(&new, Settlement::Requeue);
    assert_eq!(session.body().await, "new");
    broker.shutdown(Duration::from_secs(5)).await;

    let refuse = Config { queue_deleted: QueueDeleted::Refuse, ..config(&server, "refuse") };
    let broker = Arc::new(RabbitMq::start(refuse).await.unwrap());
    let mut session = Session::new(&broker, 1);
    session.subscribe(7, "/queue/refused", AckMode::Auto, 10).await;
    server.ctl(&["delete_queue", "refused"]).unwrap();
    match session.event(|event| matches!(event, Event::Cancelled { .. })).await {
        Event::Cancelled { subscription, refusal } => {
            assert_eq!((subscription, refusal.kind), (7, RefusalKind::Cancelled));
            assert_eq!(refusal.message, "Server cancelled subscription");
        }
        other => panic!("{other:?}"),
    }
    session.unsubscribe(7).await;
    assert_eq!(depth(&server, "refused"), None);
    broker.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_consumers_spread_over_connections() {
    let server = RabbitMqServer::shared().unwrap();
    let broker = start(&server, "many").await;
    let mut session = Session::new(&broker, 1);
    let pending: Vec<_> = (1..=260)
        .map(|number| session.start_subscribe(number, "/queue/many", AckMode::Client, 1).0)
        .collect();
    for token in pending {
        session.done(token).await.unwrap();
    }
    let consumers = || {
        let list = server.ctl(&["list_consumers", "--no-table-headers", "queue_name"]).unwrap();
        list.lines().filter(|name| *name == "many").count()
    };
    until("all consume", || consumers() == 260).await;
    let busy = || {
        let list = server.ctl(&[
            "list_connections",
            "--no-table-headers",
            "channels",
            "client_properties",
        ]);
        let list = list.unwrap();
        let counts = list.lines().filter(|line| line.contains("stomp-relay consume"));
        let mut counts: Vec<u64> =
            counts.map(|line| line.split('\t').next().unwrap().parse().unwrap()).collect();
        counts.retain(|count| *count >= 10);
        counts.sort_unstable();
        counts
    };
    assert_eq!(busy(), [10, 250]);
    broker.session_ended(&session.mailbox);
    until("none consumes", || consumers() == 0).await;
    until("one connection is left", || busy().is_empty()).await;
    broker.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_fails_says_why_in_one_line() {
    let server = RabbitMqServer::shared().unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let port = server.amqp_port;
    let cases = [
        (
            server.amqp_url.replace("guest:guest", "guest:hunter2"),
            format!("RabbitMQ at 127.0.0.1:{port}: the login of user 'guest' was refused"),
        ),
        (
            format!("amqp://guest:hunter2@127.0.0.1:{closed}"),
            format!(
                "RabbitMQ at 127.0.0.1:{closed}: cannot connect: Connection refused (os error 111)"
            ),
        ),
        (
            server.amqp_url.replace("%2f", "nowhere"),
            format!("RabbitMQ at 127.0.0.1:{port}: virtual host 'nowhere': "),
        ),
    ];
    for (url, expected) in cases {
        let config = Config { urls: vec![url], ..config(&server, "fails") };
        let line = RabbitMq::start(config).await.unwrap_err().to_string();
        assert!(line.starts_with(&expected), "{line}");
        assert!(!line.contains('\n') && !line.contains("hunter2"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_five_seconds() {
    let server = RabbitMqServer::new().unwrap();
    let broker = start(&server, "outage").await;
    let mut reader = Session::new(&broker, 100);
    reader.subscribe(1, "/queue/outage", AckMode::ClientIndividual, 5_000).await;
    reader.subscribe(2, "/topic/outage.*", AckMode::Auto, 1).await;
    reader.subscribe(3, "/topic/outage.*", AckMode::Client, 10).await;
    let mut senders: Vec<_> = (1..=8).map(|number| Session::new(&broker, number)).collect();
    let persistent = [("persistent", "true")];
    let mut tokens = Vec::new();
    let mut publish = |senders: &mut Vec<Session>, from: u64, to: u64| {
        for number in from..to {
            for (index, sender) in senders.iter_mut().enumerate() {
                let body = format!("{index} {number}");
                let token = sender.publish(message("/queue/outage", &persistent, &body));
                tokens.push((index, token));
            }
        }
    };
    // Some are confirmed, some in flight, some not sent when it goes.
    publish(&mut senders, 0, 100);
    server.kill();
    let down = Instant::now();
    publish(&mut senders, 100, 200);
    until("it is noticed", || !broker.ready()).await;
    let (late, submit) = reader.start_subscribe(4, "/queue/late", AckMode::Auto, 10);
    assert!(matches!(submit, Submit::Pending));
    tokio::time::sleep_until((down + Duration::from_secs(5)).into()).await;
    server.start().unwrap();
    for (index, token) in tokens {
        assert_eq!(senders[index].done(token).await, Ok(Level::Confirmed));
    }
    assert_eq!(reader.done(late).await, Ok(Level::Confirmed));
    until("all is up", || broker.ready()).await;

    // Each sender's messages are all there and in order; one that comes twice is marked.
    let mut next = [0_u64; 8];
    while next.iter().any(|next| *next < 200) {
        let got = reader.message().await;
        assert_eq!(got.subscription, 1);
        reader.settle(&got, Settlement::Ack);
        let (index, number) = got.body().split_once(' ').unwrap();
        let (index, number): (usize, u64) = (index.parse().unwrap(), number.parse().unwrap());
        if number == next[index] {
            next[index] += 1;
        } else {
            assert!(number < next[index] && got.redelivered, "{index} {number}, {next:?}");
        }
    }
    until("all is acked", || depth(&server, "outage") == Some((0, 0))).await;

    // Subscriptions work as before.
    let sender = &mut senders[0];
    sender.send("/topic/outage.over", "topic").await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let got = reader.message().await;
        assert_eq!(got.body(), "topic");
        seen.push(got.subscription);
    }
    seen.sort_unstable();
    assert_eq!(seen, [2, 3]);
    sender.send("/queue/late", "late").await.unwrap();
    assert_eq!(reader.message().await.subscription, 4);
    let snapshot = broker.snapshot();
    assert!(snapshot.node_queue_gaps == 1 && snapshot.lost_connections >= 4, "{snapshot:?}");
    broker.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_that_lasts() {
    let server = RabbitMqServer::new().unwrap();
    let short = Config {
        outage_messages: 20,
        outage_time: Duration::from_secs(2),
        ..config(&server, "lasts")
    };
    let broker = Arc::new(RabbitMq::start(short).await.unwrap());
    let mut session = Session::new(&broker, 1);
    session.send("/queue/lasts", "before").await.unwrap();
    session.subscribe(1, "/queue/lasts", AckMode::ClientIndividual, 10).await;
    let before = session.message().await;
    server.stop();
    until("it is noticed", || !broker.ready()).await;
    let began = Instant::now();
    let mut tokens = Vec::new();
    while broker.has_room(&session.mailbox) {
        tokens.push(session.publish(message("/queue/lasts", &[], "x")));
    }
    assert_eq!(tokens.len(), 20);
    for token in tokens {
        let refusal = session.done(token).await.unwrap_err();
        assert_eq!((refusal.kind, refusal.message), (RefusalKind::Outage, "Broker not available"));
    }
    assert!(began.elapsed() >= Duration::from_secs(2));
    session.event(|event| matches!(event, Event::Room)).await;
    assert!(broker.has_room(&session.mailbox));
    // Its channel is gone: no effect, and no trouble afterwards.
    session.settle(&before, Settlement::Ack);
    session.unsubscribe(1).await;
    server.start().unwrap();
    until("all is up", || broker.ready()).await;
    assert_eq!(session.send("/queue/lasts", "after").await, Ok(Level::Confirmed));
    broker.shutdown(Duration::from_secs(5)).await;
}

/// Nothing says that a frozen peer is gone but its missing heart-beats.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_freezes() {
    let server = RabbitMqServer::new().unwrap();
    let broker = start(&server, "frozen").await;
    let mut session = Session::new(&broker, 1);
    session.subscribe(1, "/queue/frozen", AckMode::Auto, 100).await;
    session.send("/queue/frozen", "before").await.unwrap();
    assert_eq!(session.body().await, "before");
    server.freeze();
    let began = Instant::now();
    let tokens: Vec<_> = (0..50)
        .map(|number| session.publish(message("/queue/frozen", &[], &number.to_string())))
        .collect();
    until("it is noticed", || !broker.ready()).await;
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    server.thaw();
    for token in tokens {
        assert_eq!(session.done(token).await, Ok(Level::Confirmed));
    }
    let mut next = 0;
    while next < 50 {
        let got = session.message().await;
        session.settle(&got, Settlement::Ack);
        let number: u64 = got.body().parse().unwrap();
        if number == next {
            next += 1;
        } else {
            assert!(number < next && got.redelivered, "{number} after {next}");
        }
    }
    broker.shutdown(Duration::from_secs(5)).await;
}

/// RabbitMQ short of memory stops those who publish. Those who consume are on other connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_short_of_memory() {
    let server = RabbitMqServer::new().unwrap();
    let broker = start(&server, "alarm").await;
    let mut session = Session::new(&broker, 1);
    for body in ["a", "b"] {
        session.send("/queue/alarm", body).await.unwrap();
    }
    server.ctl(&["set_vm_memory_high_watermark", "absolute", "1MB"]).unwrap();
    let tokens: Vec<_> =
        (0..20).map(|_| session.publish(message("/queue/alarm.late", &[], "x"))).collect();
    until("publishing is blocked", || {
        let list = server.ctl(&["list_connections", "--no-table-headers", "state"]).unwrap();
        list.lines().any(|state| state == "blocked")
    })
    .await;
    session.subscribe(1, "/queue/alarm", AckMode::Auto, 1).await;
    assert_eq!((session.body().await, session.body().await), ("a".into(), "b".into()));
    server.ctl(&["set_vm_memory_high_watermark", "absolute", "1GB"]).unwrap();
    for token in tokens {
        assert_eq!(session.done(token).await, Ok(Level::Confirmed));
    }
    assert_eq!(broker.snapshot().republished, 0);
    broker.shutdown(Duration::from_secs(5)).await;
}
