//! What each part of the program is configured with: validated, public, without behaviour.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::auth::secret::Secret;
pub use crate::http::{AddressRange, SockJsConfig, SockJsTransport};
pub use crate::relay::origin::QueueType;
pub use crate::relay::rabbitmq::{QueueDeleted, Unroutable};
pub use crate::session::{Errors, OnError};
use crate::user as unread;

/// Frames and WebSocket messages before CONNECTED are at most this long.
pub const BYTES_BEFORE_CONNECTED: usize = 16 * 1024;
/// Sessions of one address that are not connected yet.
pub const SESSIONS_BEFORE_CONNECTED_PER_ADDRESS: usize = 10_000;

/// Health, metrics and dashboard.
#[derive(Clone, Debug)]
pub struct AdminConfig {
    pub listen: SocketAddr,
    /// Required where `listen` is not loopback.
    pub token: Option<Secret>,
}

/// What stands behind.
#[derive(Clone, Debug)]
pub enum BrokerConfig {
    /// The broker in this process, and the file of its persistent messages.
    Embedded { path: PathBuf },
    /// The nodes of a RabbitMQ, `amqp://` or `amqps://`; never empty.
    RabbitMq { urls: Vec<Secret> },
}

/// Where unread messages are.
#[derive(Clone, Debug)]
pub enum StoreConfig {
    Sqlite { path: PathBuf },
    Redis { url: Secret },
    Memory,
}

/// Where sessions begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointConfig {
    /// Begins with `/`, does not end with it.
    pub path: String,
    /// `https://app.example.org` in lower case, without a path; `*` is any. Empty: the
    /// server's own origin only.
    pub allowed_origins: Vec<String>,
    /// Every origin on a loopback host is allowed too (`--dev`).
    pub loopback_origins: bool,
    pub auth: EndpointAuth,
    /// None: WebSocket only.
    pub sockjs: Option<SockJsConfig>,
}

/// When a session must be logged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointAuth {
    /// At the upgrade; 401 without.
    Handshake,
    /// At the upgrade or in CONNECT.
    Connect,
}

/// How RabbitMQ is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayConfig {
    /// Queues and exchanges with reserved names that clients reach, where a rule lets them.
    pub allow_names: Vec<String>,
    /// What `/queue/N` is on RabbitMQ, where its headers do not say.
    pub queue_type: QueueType,
    pub queue_deleted: QueueDeleted,
    pub unroutable: Unroutable,
    pub outage: OutageConfig,
}

/// What waits in the node while the broker is away, all sessions together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutageConfig {
    pub messages: usize,
    pub bytes: usize,
    pub time: Duration,
}

/// How WebSocket connections are written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WebSocketConfig {
    /// A message waits so long for others to go out with; none by default.
    pub write_delay: Duration,
}

/// Every limit; `None` is off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Headers and body of a frame.
    pub frame_bytes: usize,
    pub headers: usize,
    pub header_name_bytes: usize,
    pub header_value_bytes: usize,
    /// Destinations, ids, receipts and transactions.
    pub destination_bytes: usize,
    pub websocket_message_bytes: usize,
    /// Of one WebSocket message.
    pub fragments: usize,
    /// From the upgrade to CONNECTED.
    pub connect_time: Duration,
    /// From a frame's first byte to its last.
    pub frame_time: Duration,
    pub http_head_time: Duration,
    /// From the end of a request's head to the end of its body.
    pub http_body_time: Duration,
    /// Of one SockJS request or WebSocket message.
    pub sockjs_body_bytes: usize,
    /// Messages in one SockJS request or WebSocket message.
    pub sockjs_messages: usize,
    pub outbound_bytes: usize,
    pub outbound_frames: usize,
    /// How long a socket may take nothing.
    pub outbound_stall: Duration,
    pub subscriptions: usize,
    pub unacked: usize,
    /// Where the SUBSCRIBE names none.
    pub prefetch: u16,
    pub ack_time: Duration,
    pub transactions: usize,
    /// Of one transaction.
    pub transaction_actions: usize,
    /// Of one session's transactions.
    pub transaction_bytes: usize,
    pub sessions_per_user: Option<usize>,
    pub sessions_per_address: Option<usize>,
    pub sessions: usize,
    /// Wrong passwords a minute from one address for one user.
    pub auth_failures: Option<NonZeroU32>,
    pub unread_messages: u64,
    pub unread_bytes: u64,
    pub unread_age: Duration,
    pub unread_total_bytes: u64,
    /// How long a shutdown may take to end all sessions.
    pub drain_time: Duration,
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Config {
    /// `--dev`: loopback only, fixed accounts, everything allowed.
    pub dev: bool,
    pub listen: SocketAddr,
    pub admin: AdminConfig,
    pub tcp_listen: Option<SocketAddr>,
    pub broker: BrokerConfig,
    pub store: StoreConfig,
    /// How browsers reach the server.
    pub public_url: Option<Url>,
    /// Whose `X-Forwarded-*` are believed.
    pub trusted_proxies: Vec<AddressRange>,
    /// None: random, kept beside the data.
    pub node_id: Option<String>,
    pub static_dir: Option<PathBuf>,
    /// At least one, with different paths.
    pub endpoints: Vec<EndpointConfig>,
    pub auth: crate::auth::AuthConfig,
    pub relay: RelayConfig,
    pub websocket: WebSocketConfig,
    pub rules: Vec<crate::auth::policy::RuleConfig>,
    pub errors: Errors,
    pub unread: Vec<unread::Rule>,
    pub limits: Limits,
    /// What start-up should log: legal, but perhaps not meant.
    pub warnings: Vec<String>,
}
