//! What the relay says of RabbitMQ: in `/readyz`, in the log and in `/metrics`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;
use system_tests::PATIENCE;
use system_tests::rabbitmq::RabbitMqServer;
use system_tests::relay::{Relay, Setup};
use system_tests::stomp_client::Client;

use crate::support::blocking;

/// Waits until `/readyz` says it.
async fn says(relay: &Relay, wanted: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = relay.admin("/readyz");
        let text = match answer.status {
            200 => answer.body.trim().to_owned(),
            503 => {
                let problem: Value = serde_json::from_str(&answer.body).unwrap();
                problem["detail"].as_str().unwrap().to_owned()
            }
            other => panic!("{other} {}", answer.body),
        };
        if text.starts_with(wanted) {
            assert!(!text.contains("secret"), "{text}");
            return;
        }
        assert!(Instant::now() < deadline, "/readyz says {text:?} and never {wanted:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Lines of the log that say so.
fn logged(relay: &Relay, state: &str) -> usize {
    relay.log().lines().filter(|line| line.contains(&format!("state=\"{state}\""))).count()
}

/// Samples of a metric by their labels, and its type. Every metric says what it is.
fn metrics(relay: &Relay) -> BTreeMap<String, f64> {
    let text = relay.admin("/metrics").body;
    assert!(text.ends_with("# EOF\n"), "{text}");
    let mut samples = BTreeMap::new();
    let mut described = BTreeMap::<&str, usize>::new();
    let mut family = "";
    for line in text.lines().filter(|line| *line != "# EOF") {
        match line.strip_prefix("# ") {
            Some(about) => {
                let mut words = about.splitn(3, ' ');
                let (kind, name) = (words.next().unwrap(), words.next().unwrap());
                assert!(name.starts_with("stomp_relay_"), "{line}");
                if kind == "HELP" {
                    assert!(described.insert(name, 0).is_none(), "twice: {line}");
                }
                if kind == "UNIT" {
                    let unit = words.next().unwrap();
                    assert!(name.ends_with(&format!("_{unit}")), "{line}");
                }
                *described.get_mut(name).unwrap_or_else(|| panic!("no HELP before {line}")) += 1;
                family = name;
            }
            None => {
                assert!(line.starts_with(family), "{line} after {family}");
                let (name, value) = line.rsplit_once(' ').unwrap();
                samples.insert(name.to_owned(), value.parse().unwrap());
            }
        }
    }
    let page = include_str!("../../../docs/metrics.md");
    for name in samples.keys() {
        let name = name.split('{').next().unwrap();
        let name = ["_bucket", "_sum", "_count"]
            .iter()
            .fold(name, |name, suffix| name.strip_suffix(suffix).unwrap_or(name));
        let own = name.strip_prefix("stomp_relay_").unwrap();
        let own = own.strip_prefix("rabbitmq_").unwrap_or(own);
        assert!(page.contains(&format!("`{own}")), "{name} is not in docs/metrics.md");
    }
    // HELP and TYPE, and UNIT where there is one.
    assert!(described.values().all(|lines| (2..=3).contains(lines)), "{described:?}");
    samples
}

#[tokio::test]
async fn away_blocked_and_refused_are_told_apart() {
    let rabbit = Arc::new(blocking(|| RabbitMqServer::new().unwrap()).await);
    let ctl = async |args: &[&str]| {
        let server = rabbit.clone();
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        blocking(move || {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            server.ctl(&args).unwrap()
        })
        .await
    };
    ctl(&["add_user", "relay", "secret"]).await;
    ctl(&["set_permissions", "relay", ".*", ".*", ".*"]).await;
    let url = rabbit.amqp_url.replace("guest:guest", "relay:secret");
    let setup = Setup::new().broker(&url).config("relay.outage.time = \"3m\"");
    let relay = blocking(move || setup.start()).await;
    let mut alice = Client::websocket(relay.http_address(), "alice").await;
    let mut bob = Client::websocket(relay.http_address(), "bob").await;
    bob.subscribe("q", "/queue/readiness", &[]).await;
    assert_eq!(alice.send("/queue/readiness", &[], "first").await, "confirmed");
    assert_eq!(bob.message().await.text(), "first");
    assert_eq!(logged(&relay, "up"), 0);

    let seen = metrics(&relay);
    let of = |name: &str| seen[&format!("stomp_relay_rabbitmq_{name}")];
    for name in ["declare", "publish", "consume", "node_queue"] {
        assert_eq!(of(&format!("connections{{connection=\"{name}\"}}")), 1.0, "{name}");
    }
    assert_eq!((of("state{state=\"up\"}"), of("state{state=\"away\"}")), (1.0, 0.0));
    assert_eq!((of("published_total"), of("confirm_seconds_count")), (1.0, 1.0));
    assert!(of("confirm_seconds_sum") > 0.0 && of("confirm_seconds_bucket{le=\"30.0\"}") > 0.5);
    for name in ["unconfirmed_messages", "buffer_messages", "buffer_bytes", "reconnects_total"] {
        assert_eq!(of(name), 0.0, "{name}");
    }

    // Short of memory: whoever publishes is stopped, whoever consumes is not.
    ctl(&["set_vm_memory_high_watermark", "absolute", "1MB"]).await;
    let waiting = alice.send_later("/queue/readiness", &[], "second").await;
    says(&relay, "RabbitMQ is blocked: 127.0.0.1:").await;
    assert_eq!(metrics(&relay)["stomp_relay_rabbitmq_state{state=\"blocked\"}"], 1.0);
    assert_eq!(relay.metric("stomp_relay_rabbitmq_unconfirmed_messages"), 1.0);
    ctl(&["set_vm_memory_high_watermark", "absolute", "1GB"]).await;
    alice.receipt(&waiting).await;
    assert_eq!(bob.message().await.text(), "second");
    says(&relay, "ready").await;
    assert_eq!((logged(&relay, "blocked"), logged(&relay, "up")), (1, 1));

    // Another password: it is named, and asked again.
    let port = rabbit.amqp_port;
    let refused = "the login of user 'relay' was refused";
    let refused = format!("RabbitMQ refuses this relay: RabbitMQ at 127.0.0.1:{port}: {refused}");
    let began = Instant::now();
    ctl(&["change_password", "relay", "another"]).await;
    ctl(&["close_all_connections", "the test"]).await;
    says(&relay, &refused).await;
    let waiting = alice.send_later("/queue/readiness", &[], "third").await;
    ctl(&["change_password", "relay", "secret"]).await;
    alice.receipt(&waiting).await;
    says(&relay, "ready").await;
    println!("refused for {:?}", began.elapsed());
    assert_eq!((logged(&relay, "refused"), logged(&relay, "up")), (1, 2));

    // Gone, and back.
    let began = Instant::now();
    let server = rabbit.clone();
    blocking(move || server.kill()).await;
    says(&relay, "RabbitMQ is not reachable: ").await;
    let waiting = alice.send_later("/queue/readiness", &[], "fourth").await;
    let server = rabbit.clone();
    blocking(move || server.start().unwrap()).await;
    alice.receipt(&waiting).await;
    says(&relay, "ready").await;
    assert_eq!(logged(&relay, "up"), 3);
    assert!(relay.metric("stomp_relay_rabbitmq_reconnects_total") > 7.5);
    println!("away for {:?}", began.elapsed());
    let gaps = relay.log().matches("topic messages of others passed by").count();
    assert_eq!((gaps, relay.metric("stomp_relay_rabbitmq_node_queue_gaps_total")), (2, 2.0));

    assert!(!alice.is_closed() && !bob.is_closed());
}
