//! What RabbitMQ refuses: the relay, or one thing that one client asked for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use system_tests::proxy::Proxy;
use system_tests::rabbitmq::RabbitMqServer;
use system_tests::relay::Setup;
use system_tests::stomp_client::{Client, Frame};

use crate::load::{Load, Plan, until};
use crate::network::{Scene, detected, lost};
use crate::report::Report;
use crate::{Pace, blocking};

/// Gives RabbitMQ a user of that name and password, who may do `what` (configure, write, read).
async fn add_user(rabbit: &Arc<RabbitMqServer>, name: &'static str, what: [&'static str; 3]) {
    let server = rabbit.clone();
    blocking(move || {
        server.ctl(&["add_user", name, name]).unwrap();
        server.ctl(&["set_permissions", name, what[0], what[1], what[2]]).unwrap();
    })
    .await;
}

/// The password is not what it was; later it is again.
pub(crate) async fn bad_credentials(rabbit: Arc<RabbitMqServer>, pace: Pace) -> Report {
    add_user(&rabbit, "changing", [".*"; 3]).await;
    let change = |password: &'static str| {
        let server = rabbit.clone();
        blocking(move || server.ctl(&["change_password", "changing", password]).unwrap())
    };
    let proxy = Proxy::start(rabbit.amqp_port).await;
    let url = format!("amqp://changing:changing@{}/%2f", proxy.address());
    let setup = Setup::new().broker(&url).config("relay.outage.time = \"3s\"");
    let relay = blocking(move || setup.start()).await;
    let load = Load::start("credentials", &[&relay], Plan::default()).await;
    let lines = relay.log().lines().count();
    change("another").await;
    let (before, began) = (lost(&relay), Instant::now());
    proxy.cut();
    let noticed = detected(&relay, before, began).await;
    let reason = "the login of user 'changing' was refused";
    until("/readyz names it", || relay.readyz().body.contains(reason)).await;
    until("senders are told", || load.counts().refused > 0).await;
    tokio::time::sleep(pace.time(0.0, 60.0)).await;
    // Who comes now is let in, and told why when he sends.
    let mut client = Client::websocket(relay.http_address(), "alice").await;
    client.subscribe("errors", "/user/queue/errors", &[]).await;
    client.send_later("/queue/credentials.late", &[], "late").await;
    let told = client.message().await;
    assert_eq!(told.get("x-error"), Some("outage"), "{told:?}");
    assert_eq!(told.get("message"), Some("Broker refuses this server"), "{told:?}");
    change("changing").await;
    let recovered = load.flows().await;
    let log = relay.log();
    let named = log.lines().skip(lines).filter(|line| line.contains(reason)).count();
    assert_eq!(named, 1, "{log}");
    let outcome = Some(load.finish().await);
    Report {
        fault: "rabbitmqctl change_password, and a reset; changed back later".into(),
        detected: Some(noticed),
        recovered: Some(recovered),
        outcome,
        note:
            "named once in the log, in /readyz, and to senders after relay.outage.time (3 s here)"
                .into(),
    }
}

/// A queue that is consumed is deleted. What was in it is gone with it, so nothing is.
pub(crate) async fn queue_deleted(rabbit: Arc<RabbitMqServer>, pace: Pace) -> Report {
    let scene = Scene::new(&rabbit, "deleted", Setup::new()).await;
    let url = rabbit.amqp_url.clone();
    let refusing = blocking(move || {
        Setup::new().broker(&url).config("relay.queue_deleted = \"refuse\"").start()
    })
    .await;
    let mut bob = Client::websocket(refusing.http_address(), "bob").await;
    bob.subscribe("errors", "/user/queue/errors", &[]).await;
    let ctl = |args: &'static [&'static str]| {
        let server = rabbit.clone();
        blocking(move || server.ctl(args).unwrap())
    };
    let mut longest = Duration::ZERO;
    let times = pace.count(1, 5);
    for _ in 0..times {
        bob.subscribe("own", "/queue/deleted.refused", &[]).await;
        scene.load.pause().await;
        let began = Instant::now();
        ctl(&["delete_queue", "deleted.acked"]).await;
        loop {
            let list = ctl(&["list_queues", "--no-table-headers", "name", "consumers"]).await;
            if list.lines().any(|line| line == "deleted.acked\t1") {
                break;
            }
        }
        longest = longest.max(began.elapsed());
        scene.load.resume();
        scene.load.flows().await;
        ctl(&["delete_queue", "deleted.refused"]).await;
        let told = bob.message().await;
        assert_eq!(told.get("x-error"), Some("cancelled"), "{told:?}");
        assert!(told.text().contains(r#""id":"own""#), "{told:?}");
    }
    let fault = format!("rabbitmqctl delete_queue under its consumer, {times} times");
    let note = "declared and consumed again; with queue_deleted = refuse the subscriber is told. \
                recovered: with two calls of rabbitmqctl";
    scene.end(fault, None, Some(longest), note.into()).await
}

/// What RabbitMQ closes a channel for. Only who asked for it hears of it.
pub(crate) async fn channel_closed(rabbit: Arc<RabbitMqServer>, pace: Pace) -> Report {
    // May do nothing with queues whose name begins with "forbidden".
    add_user(&rabbit, "limited", ["^(?!forbidden)"; 3]).await;
    let proxy = Proxy::start(rabbit.amqp_port).await;
    let url = format!("amqp://limited:limited@{}/%2f", proxy.address());
    let relay = blocking(move || Setup::new().broker(&url).start()).await;
    let load = Load::start("channels", &[&relay], Plan::default()).await;
    let server = rabbit.clone();
    // It lives as long as its queue is to be exclusive.
    let plugin = blocking(move || {
        let mut plugin = server.plugin().unwrap();
        let other = "destination:/queue/channels.other\nx-message-ttl:600000\n\nx";
        plugin.send_and_wait("SEND", other).unwrap();
        let locked = "destination:/queue/channels.locked\nid:1\nexclusive:true\n\n";
        plugin.send_and_wait("SUBSCRIBE", locked).unwrap();
        plugin
    })
    .await;
    let cases = [
        ("SEND", "/queue/channels.other", "precondition_failed"),
        ("SUBSCRIBE", "/queue/channels.other", "precondition_failed"),
        ("SUBSCRIBE", "/queue/channels.locked", "resource_locked"),
        ("SUBSCRIBE", "/queue/forbidden", "access_refused"),
        ("SUBSCRIBE", "/amq/queue/channels.none", "not_found"),
    ];
    let before = lost(&relay);
    let rounds = pace.count(2, 40);
    for _ in 0..rounds {
        for (command, destination, expected) in cases {
            let mut client = Client::websocket(relay.http_address(), "alice").await;
            let headers = [("destination", destination), ("id", "1"), ("receipt", "r")];
            client.write(&Frame::new(command, &headers, b"")).await;
            let (code, _) = client.closed().await;
            let frames = client.take_frames();
            let error = frames.last().expect("an ERROR");
            let seen =
                (error.command.as_str(), error.get("message"), error.get("receipt-id"), code);
            let expected = ("ERROR", Some(expected), Some("r"), 1008);
            assert_eq!(seen, expected, "{command} {destination}: {frames:?}");
        }
    }
    drop(plugin);
    load.flows().await;
    assert!((lost(&relay) - before).abs() < 0.5, "a connection was lost");
    let republished = relay.metric("stomp_relay_rabbitmq_republished_total");
    assert!(republished < 0.5, "{republished} messages of others were published again");
    let outcome = Some(load.finish().await);
    Report {
        fault: format!("403, 404, 405, 406 for a queue, {} in all", rounds * cases.len()),
        detected: None,
        recovered: None,
        outcome,
        note: "only the session that asked was told; no connection was lost".into(),
    }
}

/// The specification's way: ERROR, then the end.
pub(crate) async fn outage_closes(rabbit: Arc<RabbitMqServer>, _: Pace) -> Report {
    let mut proxy = Proxy::start(rabbit.amqp_port).await;
    let url = format!("amqp://guest:guest@{}/%2f", proxy.address());
    let setup =
        Setup::new().broker(&url).config("relay.outage.time = \"1s\"\nerrors.outage = \"close\"");
    let relay = blocking(move || setup.start()).await;
    let mut sender = Client::websocket(relay.http_address(), "alice").await;
    let idle = Client::websocket(relay.http_address(), "bob").await;
    sender.send("/queue/closes", &[], "before").await;
    proxy.refuse().await;
    proxy.cut();
    let began = Instant::now();
    let receipt = sender.send_later("/queue/closes", &[], "meanwhile").await;
    let (code, _) = sender.closed().await;
    let waited = began.elapsed();
    let frames = sender.take_frames();
    let error = frames.last().expect("an ERROR");
    let seen = (error.command.as_str(), error.get("message"), error.get("receipt-id"), code);
    let expected = ("ERROR", Some("Broker not available"), Some(receipt.as_str()), 1013);
    assert_eq!(seen, expected, "{frames:?}");
    assert!(waited >= Duration::from_secs(1), "after {waited:?}");
    assert!(!idle.is_closed(), "who sends nothing is closed");
    Report {
        fault: "connections refused; errors.outage = close, relay.outage.time = 1 s".into(),
        detected: None,
        recovered: None,
        outcome: None,
        note: "the sender gets ERROR and close code 1013; who sends nothing stays".into(),
    }
}
