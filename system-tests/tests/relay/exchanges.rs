//! `/exchange`: many subscribers cost RabbitMQ one queue, and an exchange that is missing, internal
//! or deleted costs nobody but who names it.

use lapin::{BasicProperties, ExchangeKind};
use system_tests::relay::Relay;
use system_tests::stomp_client::Client;

use crate::amqp::Amqp;
use crate::support::{forgiving, listed, refusal, shared_rabbitmq, until};

async fn judged(relay: &Relay, user: &str) -> Client {
    let mut client = Client::websocket(relay.http_address(), user).await;
    client.subscribe("errors", "/user/queue/errors", &[]).await;
    client
}

fn pair(kind: &str, message: &str) -> (String, String) {
    (kind.to_owned(), message.to_owned())
}

#[tokio::test]
async fn subscribers_share_a_queue_for_each_exchange_and_key() {
    const CLIENTS: usize = 40;
    let rabbit = shared_rabbitmq().await;
    let amqp = Amqp::connect(&rabbit).await;
    amqp.declare_exchange("shared.direct", ExchangeKind::Direct, false).await;
    amqp.declare_exchange("shared.fanout", ExchangeKind::Fanout, false).await;
    let relay = forgiving(&rabbit).config("node.id = \"shared-exchange\"").start();
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let mut client = judged(&relay, "alice").await;
        client.subscribe("a", "/exchange/shared.direct/a", &[]).await;
        client.subscribe("f", "/exchange/shared.fanout", &[]).await;
        if number % 2 == 0 {
            client.subscribe("b", "/exchange/shared.direct/b", &[]).await;
        }
        clients.push(client);
    }
    // Three for exchanges, and the one of all topics.
    let ours = listed(&rabbit, &["list_queues", "name"]).await;
    let ours = ours.iter().filter(|name| name.starts_with("stomp-relay.node.shared-exchange."));
    assert_eq!(ours.count(), 4);

    // From a program that speaks AMQP, and from one of the browsers.
    let properties = || BasicProperties::default().with_content_type("text/plain".into());
    amqp.publish("shared.direct", "a", properties(), "one").await;
    for client in &clients {
        let message = client.message().await;
        assert_eq!((message.header("subscription"), message.text()), ("a", "one"));
        assert_eq!(message.header("destination"), "/exchange/shared.direct/a");
    }
    let mut listener = amqp.listen("shared.direct", "b").await;
    let receipt = clients[1].send("/exchange/shared.direct/b", &[("k", "v")], "two").await;
    assert_eq!(receipt, "confirmed");
    let native = futures_util::StreamExt::next(&mut listener).await.unwrap().unwrap();
    assert_eq!((native.routing_key.as_str(), &*native.data), ("b", &b"two"[..]));
    for client in clients.iter().step_by(2) {
        let message = client.message().await;
        assert_eq!((message.header("subscription"), message.header("k")), ("b", "v"));
    }
    clients[1].send("/exchange/shared.fanout/whatever", &[], "three").await;
    for client in &clients {
        assert_eq!(client.message().await.header("subscription"), "f");
    }
    assert!((relay.metric("stomp_relay_rabbitmq_received_total") - 3.0).abs() < 0.5);

    // What is unsubscribed gets nothing; the others do.
    clients[0].unsubscribe("a").await;
    amqp.publish("shared.direct", "a", properties(), "four").await;
    amqp.publish("shared.direct", "b", properties(), "five").await;
    let message = clients[0].message().await;
    assert_eq!((message.header("subscription"), message.text()), ("b", "five"));
    assert_eq!(clients[1].message().await.text(), "four");
    // The queues are one connection's and go with it.
    drop(relay);
    until("the queues are gone", async || {
        let queues = listed(&rabbit, &["list_queues", "name"]).await;
        !queues.iter().any(|name| name.starts_with("stomp-relay.node.shared-exchange."))
    })
    .await;
}

#[tokio::test]
async fn a_missing_exchange_is_refused_and_the_next_one_is_not() {
    let rabbit = shared_rabbitmq().await;
    let amqp = Amqp::connect(&rabbit).await;
    amqp.declare_exchange("missing.here", ExchangeKind::Direct, false).await;
    let relay = forgiving(&rabbit).start();
    let mut client = judged(&relay, "alice").await;
    client.subscribe("ok", "/exchange/missing.here/k", &[]).await;
    // With acks there is a queue of its own, which is declared elsewhere.
    for (id, ack) in [("x", "auto"), ("y", "client")] {
        client.subscribe_later(id, "/exchange/missing.not/k", &[("ack", ack)]).await;
        assert_eq!(refusal(&mut client).await, pair("unroutable", "not_found"), "{ack}");
    }
    let send = async |client: &mut Client, destination: &str| {
        client.send_later(destination, &[], "x").await;
        refusal(client).await
    };
    for round in 0..20 {
        let told = send(&mut client, "/exchange/missing.not/k").await;
        assert_eq!(told, pair("unroutable", "not_found"), "{round}");
    }
    // Who goes on asking is answered without RabbitMQ.
    let closed = relay.metric("stomp_relay_rabbitmq_closed_channels_total");
    assert!(closed < 15.0, "{closed} channels were closed");
    assert_eq!(client.send("/exchange/missing.here/k", &[], "there").await, "confirmed");
    assert_eq!(client.message().await.text(), "there");
    // It is there as soon as somebody declares it, but for a moment.
    amqp.declare_exchange("missing.not", ExchangeKind::Direct, false).await;
    until("it is served", async || {
        let mut other = Client::websocket(relay.http_address(), "bob").await;
        other.subscribe("errors", "/user/queue/errors", &[]).await;
        other.subscribe_later("s", "/exchange/missing.not/k", &[]).await;
        other.send_later("/exchange/missing.not/k", &[], "x").await;
        let frame = other.frame().await;
        frame.get("subscription") == Some("s")
    })
    .await;
}

/// The relay has four channels to publish on; the evil one shares one with some of the others.
#[tokio::test]
async fn what_rabbitmq_closes_a_channel_for_costs_only_its_sender() {
    const OTHERS: usize = 8;
    const ROUNDS: usize = 30;
    let rabbit = shared_rabbitmq().await;
    let amqp = Amqp::connect(&rabbit).await;
    amqp.declare_exchange("evil.internal", ExchangeKind::Topic, true).await;
    amqp.declare_exchange("evil.deleted", ExchangeKind::Direct, false).await;
    let relay = forgiving(&rabbit).start();
    let mut evil = judged(&relay, "carol").await;
    let mut others = Vec::new();
    for number in 0..OTHERS {
        let mut other = judged(&relay, "bob").await;
        let queue = format!("/queue/evil.other.{number}");
        other.subscribe("q", &queue, &[("ack", "client-individual")]).await;
        others.push((other, queue));
    }
    assert_eq!(evil.send("/exchange/evil.deleted/k", &[], "x").await, "confirmed");
    for round in 0..ROUNDS {
        if round == 10 {
            amqp.delete_exchange("evil.deleted").await;
        }
        let body = round.to_string();
        let mut receipts = Vec::new();
        for (other, queue) in &mut others {
            receipts.push(other.send_later(queue, &[("persistent", "true")], &body).await);
        }
        // Another key each time, which says nothing about the exchange.
        let internal = format!("/exchange/evil.internal/{round}");
        evil.send_later(&internal, &[], "x").await;
        assert_eq!(refusal(&mut evil).await, pair("denied", "access_refused"), "{round}");
        if round >= 10 {
            evil.send_later("/exchange/evil.deleted/k", &[], "x").await;
            assert_eq!(refusal(&mut evil).await, pair("unroutable", "not_found"), "{round}");
        }
        for ((other, _), receipt) in others.iter_mut().zip(receipts) {
            other.receipt(&receipt).await;
            let message = other.message().await;
            assert_eq!(message.text(), body);
        }
    }
    let closed = relay.metric("stomp_relay_rabbitmq_closed_channels_total");
    assert!((2.0..20.0).contains(&closed), "{closed} channels were closed");
    assert!(relay.metric("stomp_relay_rabbitmq_lost_connections_total") < 0.5);
    for (other, queue) in &others {
        assert!(!other.is_closed(), "{queue}");
        assert_eq!(other.take_frames(), [], "{queue}");
    }
}
