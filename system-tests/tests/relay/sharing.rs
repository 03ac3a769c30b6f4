//! What many sessions cost RabbitMQ: the same as few. `SHARING=full` takes 10,000 sessions.

use std::net::SocketAddr;
use std::time::Instant;

use futures_util::stream::{self, StreamExt};
use system_tests::rabbitmq::RabbitMqServer;
use system_tests::relay::{Relay, Setup};
use system_tests::stomp_client::Client;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Vhost, blocking, shared_rabbitmq};

const VHOST: &str = "sharing";
const ALL: &str = "/topic/shared.all";
/// Connects under way.
const AT_ONCE: usize = 64;

/// Sessions on the first node, and distinct topics.
fn size() -> (usize, usize) {
    match std::env::var("SHARING").as_deref() {
        Ok("full") => (10_000, 1_000),
        _ => (1_000, 300),
    }
}

/// A session that subscribes and never says more. Heart-beats are off.
async fn session(address: SocketAddr, topics: Vec<String>) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut frames =
        "CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\n\n\0".to_owned();
    for (number, topic) in topics.iter().enumerate() {
        frames += &format!("SUBSCRIBE\nid:{number}\ndestination:{topic}\nreceipt:{number}\n\n\0");
    }
    stream.write_all(frames.as_bytes()).await.unwrap();
    let mut answers = Vec::new();
    // One CONNECTED, and the RECEIPTs.
    while answers.iter().filter(|byte| **byte == 0).count() <= topics.len() {
        let read = stream.read_buf(&mut answers).await.unwrap();
        assert!(read > 0, "closed: {}", String::from_utf8_lossy(&answers));
    }
    let answers = String::from_utf8(answers).unwrap();
    assert_eq!(answers.matches("RECEIPT\n").count(), topics.len(), "{answers}");
    stream
}

async fn sessions(address: SocketAddr, topics: Vec<Vec<String>>) -> Vec<TcpStream> {
    let connects = topics.into_iter().map(|topics| session(address, topics));
    stream::iter(connects).buffer_unordered(AT_ONCE).collect().await
}

/// Lines of a list of that virtual host.
fn lines(rabbit: &RabbitMqServer, list: &str, columns: &[&str], of_vhost: bool) -> Vec<String> {
    let mut args = vec![list, "--no-table-headers"];
    if of_vhost {
        args.extend(["-p", VHOST]);
    }
    args.extend(columns);
    let text = rabbit.ctl(&args).unwrap();
    text.lines().filter(|line| of_vhost || line.contains(VHOST)).map(str::to_owned).collect()
}

async fn relay(rabbit: &RabbitMqServer) -> Relay {
    let setup = Setup::new().broker(&rabbit.amqp_url.replace("%2f", VHOST));
    blocking(move || setup.start()).await
}

#[tokio::test]
async fn rabbitmqs_cost_does_not_grow_with_sessions() {
    let (count, topics) = size();
    let rabbit = shared_rabbitmq().await;
    let vhost = Vhost::new(&rabbit, VHOST).await;
    let first = relay(&rabbit).await;
    let began = Instant::now();
    let wanted = (0..count).map(|number| {
        let topic = |k| format!("/topic/shared.{}", (3 * number + k) % topics);
        let mut wanted: Vec<String> = (0..3).map(topic).collect();
        wanted.extend((number % 4 == 0).then(|| ALL.to_owned()));
        wanted
    });
    let held = sessions(first.tcp_address(), wanted.collect()).await;
    let time = began.elapsed();

    let connections = lines(&rabbit, "list_connections", &["vhost", "client_properties"], false);
    let channels = lines(&rabbit, "list_channels", &["vhost", "number"], false);
    let queues = lines(&rabbit, "list_queues", &["name"], true);
    let columns = ["source_name", "destination_name", "routing_key"];
    let bindings = lines(&rabbit, "list_bindings", &columns, true);
    let bindings = bindings.iter().filter(|line| line.starts_with("amq.topic\t")).count();
    println!(
        "{count} sessions with 3 of {topics} topics in {time:?}: {} connections, {} channels, \
         {} queues, {bindings} bindings",
        connections.len(),
        channels.len(),
        queues.len()
    );
    assert!(connections.len() <= 4, "{connections:#?}");
    assert!(channels.len() <= 16, "{channels:#?}");
    assert_eq!(queues.len(), 1, "{queues:#?}");
    assert_eq!(bindings, topics + 1);
    let told = |name| first.metric(&format!("stomp_relay_rabbitmq_{name}"));
    assert_eq!(told("channels"), channels.len() as f64);

    // One publish, and one delivery to each node, however many subscribe there.
    let second = relay(&rabbit).await;
    let there = sessions(second.tcp_address(), vec![vec![ALL.to_owned()]; count / 4]).await;
    let counts = || {
        let names = ["published", "received"];
        let of = |relay: &Relay| {
            names.map(|name| relay.metric(&format!("stomp_relay_rabbitmq_{name}_total")))
        };
        [of(&first), of(&second)]
    };
    assert_eq!(counts(), [[0.0, 0.0], [0.0, 0.0]]);
    let mut alice = Client::websocket(first.http_address(), "alice").await;
    assert_eq!(alice.send(ALL, &[], "once").await, "confirmed");
    for relay in [&first, &second] {
        relay.metric_is("stomp_relay_messages_delivered_total", (count / 4) as f64).await;
    }
    assert_eq!(counts(), [[1.0, 1.0], [0.0, 1.0]]);
    drop((held, there, first, second));
    vhost.delete().await;
}
