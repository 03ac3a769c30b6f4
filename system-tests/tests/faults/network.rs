//! What happens between the relay and RabbitMQ. Each row has a relay and a proxy of its own.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use system_tests::proxy::{Proxy, Way};
use system_tests::rabbitmq::RabbitMqServer;
use system_tests::relay::{Relay, Setup};

use crate::load::{Load, Plan, until};
use crate::report::Report;
use crate::{Pace, blocking};

/// A relay behind a proxy, and its load.
pub(crate) struct Scene {
    pub(crate) proxy: Proxy,
    pub(crate) relay: Relay,
    pub(crate) load: Load,
}

impl Scene {
    pub(crate) async fn new(rabbit: &RabbitMqServer, row: &str, setup: Setup) -> Self {
        let proxy = Proxy::start(rabbit.amqp_port).await;
        let url = rabbit
            .amqp_url
            .replace(&rabbit.amqp_port.to_string(), &proxy.address().port().to_string());
        let setup = setup.broker(&url);
        let relay = blocking(move || setup.start()).await;
        let load = Load::start(row, &[&relay], Plan::default()).await;
        Self { proxy, relay, load }
    }

    pub(crate) async fn end(
        self,
        fault: String,
        detected: Option<Duration>,
        recovered: Option<Duration>,
        note: String,
    ) -> Report {
        let outcome = Some(self.load.finish().await);
        Report { fault, detected, recovered, outcome, note }
    }
}

/// Connections that the relay has lost.
pub(crate) fn lost(relay: &Relay) -> f64 {
    relay.metric("stomp_relay_rabbitmq_lost_connections_total")
}

/// Waits until it has lost all four since there were `before`; how long after `since`.
pub(crate) async fn detected(relay: &Relay, before: f64, since: Instant) -> Duration {
    until("the relay notices", || lost(relay) >= before + 4.0).await;
    since.elapsed()
}

pub(crate) async fn reset(rabbit: Arc<RabbitMqServer>, pace: Pace) -> Report {
    let scene = Scene::new(&rabbit, "reset", Setup::new()).await;
    let times = pace.count(2, 10);
    let (mut slowest, mut longest) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..times {
        scene.relay.ready().await;
        let (before, began) = (lost(&scene.relay), Instant::now());
        scene.proxy.cut();
        slowest = slowest.max(detected(&scene.relay, before, began).await);
        longest = longest.max(scene.load.flows().await);
    }
    let fault = format!("all connections reset, {times} times");
    scene.end(fault, Some(slowest), Some(longest), "the longest times".into()).await
}

/// Nothing gets through, and nobody says so.
pub(crate) async fn black_hole(rabbit: Arc<RabbitMqServer>, pace: Pace) -> Report {
    let scene = Scene::new(&rabbit, "hole", Setup::new()).await;
    let (before, began) = (lost(&scene.relay), Instant::now());
    scene.proxy.hold();
    let noticed = detected(&scene.relay, before, began).await;
    assert!(noticed < Duration::from_secs(25), "noticed after {noticed:?}");
    // Missing heart-beats said so; the network stays away for a while.
    tokio::time::sleep(pace.time(0.0, 20.0)).await;
    let away = began.elapsed().as_secs();
    scene.proxy.cut();
    scene.proxy.pass();
    let recovered = scene.load.flows().await;
    scene
        .end(
            format!("nothing gets through either way, without a reset, for {away} s"),
            Some(noticed),
            Some(recovered),
            "noticed by missing heart-beats (every 10 s)".into(),
        )
        .await
}

/// RabbitMQ gets what is published, and its confirms never arrive.
pub(crate) async fn cut_before_the_confirm(rabbit: Arc<RabbitMqServer>, pace: Pace) -> Report {
    let scene = Scene::new(&rabbit, "unconfirmed", Setup::new()).await;
    let times = pace.count(2, 10);
    let (mut slowest, mut longest) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..times {
        scene.relay.ready().await;
        scene.proxy.set(Way::Open, Way::Held);
        // Senders fill their windows; what they send arrives.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (before, began) = (lost(&scene.relay), Instant::now());
        scene.proxy.cut();
        scene.proxy.pass();
        slowest = slowest.max(detected(&scene.relay, before, began).await);
        longest = longest.max(scene.load.flows().await);
    }
    let republished = scene.relay.metric("stomp_relay_rabbitmq_republished_total");
    let dropped = scene.relay.metric("stomp_relay_rabbitmq_duplicates_total");
    assert!(republished > 0.0 && dropped > 0.0, "{republished} {dropped}");
    let note = format!("{republished} published again, {dropped} of them dropped as duplicates");
    let fault = format!("RabbitMQ's direction held back for 2 s, then a reset, {times} times");
    scene.end(fault, Some(slowest), Some(longest), note).await
}

/// RabbitMQ's direction ends; the relay's could go on.
pub(crate) async fn half_closed(rabbit: Arc<RabbitMqServer>, _: Pace) -> Report {
    let scene = Scene::new(&rabbit, "half", Setup::new()).await;
    let (before, began) = (lost(&scene.relay), Instant::now());
    scene.proxy.half_close();
    let noticed = detected(&scene.relay, before, began).await;
    let recovered = scene.load.flows().await;
    let fault = "RabbitMQ's direction ends (FIN), the other stays open".into();
    scene.end(fault, Some(noticed), Some(recovered), String::new()).await
}

/// A client that counts heart-beats: the longest time between two.
fn beats(address: SocketAddr, time: Duration) -> Duration {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(
            b"CONNECT\naccept-version:1.2\nlogin:carol\npasscode:carol\nheart-beat:5000,10000\n\n\0",
        )
        .unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let (began, mut last, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
    while began.elapsed() < time {
        match stream.read(&mut [0; 256]) {
            Ok(0) => panic!("the session was closed after {:?}", began.elapsed()),
            Ok(_) => {
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
        stream.write_all(b"\n").unwrap();
    }
    longest.max(last.elapsed())
}

pub(crate) async fn slow(rabbit: Arc<RabbitMqServer>, pace: Pace) -> Report {
    let scene = Scene::new(&rabbit, "slow", Setup::new()).await;
    let before = lost(&scene.relay);
    let way = Way::Slow { delay: Duration::from_millis(300), rate: 64 * 1024 };
    scene.proxy.set(way, way);
    let (address, time) = (scene.relay.tcp_address(), pace.time(22.0, 60.0));
    let longest = blocking(move || beats(address, time)).await;
    // Offered every 10 s, so there has to be one in 11.
    assert!(longest < Duration::from_secs(11), "{longest:?} without a heart-beat");
    // It flows, if late.
    scene.load.flows().await;
    scene.proxy.pass();
    let recovered = scene.load.flows().await;
    assert!((lost(&scene.relay) - before).abs() < 0.5, "a connection was lost");
    let note = format!("longest time between two heart-beats to a client {longest:.1?}");
    let fault = format!("300 ms later and 64 KiB/s, both ways, for {} s", time.as_secs());
    scene.end(fault, None, Some(recovered), note).await
}

/// As a RabbitMQ that is not there. Nobody is told anything for as long as messages may wait.
pub(crate) async fn nobody_listens(rabbit: Arc<RabbitMqServer>, pace: Pace) -> Report {
    let mut scene = Scene::new(&rabbit, "refused", Setup::new()).await;
    let lines = scene.relay.log().lines().count();
    let (before, began) = (lost(&scene.relay), Instant::now());
    scene.proxy.refuse().await;
    scene.proxy.cut();
    let noticed = detected(&scene.relay, before, began).await;
    until("it says so", || !scene.relay.is_ready()).await;
    let time = pace.time(5.0, 60.0);
    tokio::time::sleep(time).await;
    scene.proxy.listen().await;
    let recovered = scene.load.flows().await;
    assert!(recovered < Duration::from_secs(15), "recovered after {recovered:?}");
    scene.relay.ready().await;
    let log = scene.relay.log();
    let said: Vec<&str> = log.lines().skip(lines).collect();
    assert!(said.len() <= 4, "{} lines:\n{}", said.len(), said.join("\n"));
    let note = format!("{} lines in the relay's log", said.len());
    let fault = format!("connections refused for {} s", time.as_secs());
    scene.end(fault, Some(noticed), Some(recovered), note).await
}
