//! What several of these tests do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use system_tests::rabbitmq::RabbitMqServer;
use system_tests::redis::RedisServer;
use system_tests::relay::Setup;
use system_tests::stomp_client::{Client, Frame};

/// Where unread messages are kept.
#[derive(Debug)]
pub(crate) enum Keeper {
    Sqlite,
    Redis(RedisServer),
}

impl Keeper {
    pub(crate) fn redis() -> Self {
        Self::Redis(RedisServer::start(&[]))
    }

    pub(crate) fn setup(&self) -> Setup {
        match self {
            Self::Sqlite => Setup::new(),
            Self::Redis(server) => Setup::new().store(&server.url()),
        }
    }

    /// A store that is a server of its own is killed too.
    pub(crate) fn crash(&mut self) {
        if let Self::Redis(server) = self {
            server.kill();
            server.restart();
        }
    }
}

/// The RabbitMQ of all tests that leave it alone.
pub(crate) async fn shared_rabbitmq() -> Arc<RabbitMqServer> {
    blocking(|| RabbitMqServer::shared().unwrap()).await
}

/// Runs what blocks without holding up the clients.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// Everything unread of the client's user, by `SUBSCRIBE /app/unread`, which must fit into one
/// page; and the end frame.
pub(crate) async fn pull_unread(client: &mut Client) -> (Vec<Frame>, Frame) {
    client.subscribe("pull", "/app/unread", &[("x-unread-limit", "500")]).await;
    let mut messages = client.take_frames();
    let end = messages.pop().expect("an end frame");
    assert_eq!(end.get("x-unread-end"), Some("true"), "{end:?}");
    (messages, end)
}

pub(crate) fn bodies(frames: &[Frame]) -> Vec<&str> {
    frames.iter().map(Frame::text).collect()
}

/// `prefix-0` and so on.
pub(crate) fn numbered(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}-{number}")).collect()
}

/// No two messages have the same `x-id`.
pub(crate) fn assert_distinct_x_ids(frames: &[Frame]) {
    let mut ids: Vec<&str> = frames.iter().map(|frame| frame.header("x-id")).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), frames.len(), "an x-id came twice");
}

/// A relay before that RabbitMQ that answers every refusal by a message, so that a session lives
/// to be refused again.
pub(crate) fn forgiving(rabbit: &RabbitMqServer) -> Setup {
    let kinds = ["denied", "unknown_destination", "unroutable", "limit"];
    kinds.iter().fold(Setup::new().broker(&rabbit.amqp_url), |setup, kind| {
        setup.config(&format!("errors.{kind} = \"message\""))
    })
}

/// What a client that has subscribed to its errors is told: the kind and the words.
pub(crate) async fn refusal(client: &mut Client) -> (String, String) {
    let frame = client.message().await;
    assert_eq!(frame.get("destination"), Some("/user/queue/errors"), "{frame:?}");
    (frame.header("x-error").to_owned(), frame.header("message").to_owned())
}

/// Lines of `rabbitmqctl list_...` without its header.
pub(crate) async fn listed(rabbit: &Arc<RabbitMqServer>, args: &[&'static str]) -> Vec<String> {
    let (rabbit, args) = (rabbit.clone(), args.to_vec());
    let list = blocking(move || {
        let args = [&args[..1], &["--no-table-headers"], &args[1..]].concat();
        rabbit.ctl(&args).unwrap()
    });
    list.await.lines().map(str::to_owned).collect()
}

/// Waits until something is so.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let deadline = Instant::now() + system_tests::PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) async fn settle(client: &mut Client, command: &str, message: &Frame) {
    let receipt = format!("{command}-{}", message.header("ack"));
    let headers = [("id", message.header("ack")), ("receipt", receipt.as_str())];
    client.write(&Frame::new(command, &headers, b"")).await;
    client.receipt(&receipt).await;
}

/// The first two numbers of RabbitMQ's version.
pub(crate) async fn version(rabbit: &Arc<RabbitMqServer>) -> (u32, u32) {
    let rabbit = rabbit.clone();
    let version = blocking(move || rabbit.ctl(&["version"]).unwrap()).await;
    let mut parts = version.trim().split('.').map(|part| part.parse().unwrap());
    (parts.next().unwrap(), parts.next().unwrap())
}

/// A virtual host of a test's own, so that its connections can be broken and nobody else's.
pub(crate) struct Vhost {
    rabbit: Arc<RabbitMqServer>,
    name: &'static str,
}

impl Vhost {
    pub(crate) async fn new(rabbit: &Arc<RabbitMqServer>, name: &'static str) -> Self {
        let vhost = Self { rabbit: rabbit.clone(), name };
        vhost.ctl(vec!["add_vhost", name]).await;
        vhost.ctl(vec!["set_permissions", "-p", name, "guest", ".*", ".*", ".*"]).await;
        vhost
    }

    pub(crate) fn url(&self) -> String {
        self.rabbit.amqp_url.replace("%2f", self.name)
    }

    pub(crate) async fn close_connections(&self) {
        self.ctl(vec!["close_all_connections", "--vhost", self.name, "the test"]).await;
    }

    pub(crate) async fn delete(self) {
        self.ctl(vec!["delete_vhost", self.name]).await;
    }

    async fn ctl(&self, args: Vec<&'static str>) {
        let rabbit = self.rabbit.clone();
        blocking(move || rabbit.ctl(&args).unwrap()).await;
    }
}
