//! The whole program put together: builds every part from the config, opens the doors, and
//! takes everything down again in order.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use crate::auth::Authenticator;
use crate::auth::policy::{Defaults, Policy};
use crate::config::{BrokerConfig, Config, EndpointAuth, Limits, StoreConfig};
use crate::http::admin::Admin;
use crate::http::{Endpoint, Front, OriginRule, Origins, Service, SockJs};
use crate::persistence::{Caps, Store, StoreError};
use crate::relay::Broker;
use crate::relay::embedded::Embedded;
use crate::relay::mailbox::{Level, MailboxLimits};
use crate::relay::rabbitmq::{self, RabbitMq};
use crate::session::driver::{ConnectionLimits, Driver, Services};
use crate::session::sessions::{SessionLimits, Sessions};
use crate::session::{self, BrokerKind, Settings};
use crate::stomp;
use crate::telemetry::Metrics;
use crate::ticker::Ticker;
use crate::transport::sockjs::payload::PayloadLimits;
use crate::transport::websocket::frame::FrameLimits;
use crate::transport::{Framing, ReadLimits, Transport};
use crate::user::{Rules, Users, Waiting};

/// Before CONNECTED a frame may have so many bytes.
const NARROW_BYTES: usize = crate::config::BYTES_BEFORE_CONNECTED;
/// Sessions end with this at a shutdown: come back, elsewhere or later.
const DRAIN: (u16, &str) = (1012, "the server restarts");
const SWEEP: Duration = Duration::from_secs(60);
/// What is under way at the end gets so long.
const FLUSH: Duration = Duration::from_secs(10);

/// Why the program does not start: one line for the operator.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(String);

/// A server with its doors open.
#[derive(Debug)]
pub struct Server {
    services: Arc<Services>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    drain_time: Duration,
    addresses: Addresses,
}

/// Where the server listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub http: SocketAddr,
    pub admin: SocketAddr,
    pub tcp: Option<SocketAddr>,
}

impl Server {
    /// Builds everything and opens the doors.
    ///
    /// # Errors
    /// With one line that names what is missing, taken or not reachable.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::start_with(config, |_| Service::Stomp).await
    }

    /// The same, with endpoints that speak something else than STOMP: `service` is asked by
    /// their path.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn start_with(
        config: Config,
        service: impl Fn(&str) -> Service,
    ) -> Result<Self, StartError> {
        // Doors first: a port in use is found out before anything is touched.
        let http = bind("listen", config.listen).await?;
        let admin = bind("admin.listen", config.admin.listen).await?;
        let tcp = match config.tcp_listen {
            Some(address) => Some(bind("tcp.listen", address).await?),
            None => None,
        };
        let address = |listener: &TcpListener| {
            listener.local_addr().map_err(|error| StartError(format!("no local address: {error}")))
        };
        let addresses = Addresses {
            http: address(&http)?,
            admin: address(&admin)?,
            tcp: tcp.as_ref().map(address).transpose()?,
        };
        let services = Arc::new(services(&config).await?);
        let front = Arc::new(front(&config, services.clone(), service));
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(crate::http::serve(front, http, stop.clone()));
        let admin_page = Arc::new(Admin {
            services: services.clone(),
            address: config.admin.listen.ip(),
            token: config.admin.token.clone(),
            stop: stop.clone(),
        });
        // Answers until the very end, so that the drain can be watched.
        let admin_stop = CancellationToken::new();
        tasks.spawn(crate::http::admin::serve(admin_page, admin, admin_stop));
        if let Some(listener) = tcp {
            tasks.spawn(serve_tcp(services.clone(), listener, stop.clone()));
        }
        tasks.spawn(tick(services.clone()));
        let drain_time = config.limits.drain_time;
        Ok(Self { services, stop, tasks, drain_time, addresses })
    }

    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Lets nobody in any more, ends all sessions with 1012, and finishes what they began.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let sessions = &self.services.sessions;
        tracing::info!(sessions = sessions.count(), "draining");
        sessions.drain(DRAIN.0, DRAIN.1);
        if tokio::time::timeout(self.drain_time, sessions.empty()).await.is_err() {
            tracing::warn!(sessions = sessions.count(), "sessions were left at the end");
        }
        // What ended sessions left for the store and the broker.
        if tokio::time::timeout(FLUSH, self.services.users.close()).await.is_err() {
            tracing::error!("the store of unread messages did not take everything in time");
        }
        self.services.broker.shutdown(FLUSH).await;
        self.tasks.abort_all();
        tracing::info!("stopped");
    }
}

async fn bind(key: &str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|error| {
        let hint = if error.kind() == io::ErrorKind::AddrInUse {
            format!("; another program listens there, choose another with {key}")
        } else {
            String::new()
        };
        StartError(format!("cannot listen on {address} ({key}): {error}{hint}"))
    })
}

async fn services(config: &Config) -> Result<Services, StartError> {
    let authenticator =
        Authenticator::new(&config.auth).map_err(|mistakes| StartError(mistakes.join("\n")))?;
    let node = node_id(config)?;
    let store = open_store(config, &node).await?;
    let broker = open_broker(config, &node).await?;
    // A store of this process alone is the store of one relay.
    let nodes = if store.is_local() { None } else { broker.nodes() };
    let is_rabbit = matches!(config.broker, BrokerConfig::RabbitMq { .. });
    let defaults = match (config.dev, is_rabbit) {
        (true, _) => Defaults::Everything,
        (false, true) => Defaults::RabbitMq,
        (false, false) => Defaults::Embedded,
    };
    let policy = Policy::new(config.rules.clone(), defaults);
    if let Some(notice) = policy.queue_notice() {
        tracing::warn!("{notice}");
    }
    let rules = Rules::new(config.unread.clone());
    let limits = &config.limits;
    let outage = &config.relay.outage;
    let waiting = Waiting { messages: outage.messages, bytes: outage.bytes, time: outage.time };
    let settings = Settings {
        limits: session_limits(limits, outage.time),
        errors: config.errors,
        policy,
        unread: rules.clone(),
        level: if is_rabbit { Level::Confirmed } else { Level::Stored },
        broker: if is_rabbit { BrokerKind::RabbitMq } else { BrokerKind::Embedded },
        names: config.relay.allow_names.iter().map(String::as_str).collect(),
    };
    Ok(Services {
        settings: Arc::new(settings),
        limits: connection_limits(limits, config.websocket.write_delay),
        metrics: Metrics::default().with(broker.collector()),
        broker,
        users: Users::start(store, rules, waiting, nodes),
        authenticator: Arc::new(authenticator),
        sessions: Sessions::new(SessionLimits {
            total: limits.sessions,
            per_user: limits.sessions_per_user,
            per_address: limits.sessions_per_address,
            per_address_before_connected: crate::config::SESSIONS_BEFORE_CONNECTED_PER_ADDRESS,
            mailbox: MailboxLimits { frames: limits.outbound_frames, bytes: limits.outbound_bytes },
        }),
        ticker: Ticker::new(Instant::now()),
    })
}

async fn open_store(config: &Config, node: &str) -> Result<Store, StartError> {
    let limits = &config.limits;
    let caps = Caps {
        messages: limits.unread_messages,
        bytes: limits.unread_bytes,
        age: limits.unread_age,
        total_bytes: limits.unread_total_bytes,
    };
    let url = match &config.store {
        StoreConfig::Sqlite { path } => format!("sqlite:{}", path.display()),
        StoreConfig::Redis { url } => url.expose().to_owned(),
        StoreConfig::Memory => "memory:".to_owned(),
    };
    Store::open(&url, caps, node).await.map_err(|error| {
        let (StoreError::Unavailable(text) | StoreError::Broken(text)) = error;
        StartError(format!("store.url: {}", text.strip_prefix("store: ").unwrap_or(&text)))
    })
}

async fn open_broker(config: &Config, node: &str) -> Result<Broker, StartError> {
    match &config.broker {
        BrokerConfig::Embedded { path } => Embedded::open(Some(path))
            .map(|broker| Broker::Embedded(Box::new(broker)))
            .map_err(|error| StartError(format!("broker.url: {error}"))),
        BrokerConfig::RabbitMq { urls } => {
            let relay = &config.relay;
            let config = rabbitmq::Config {
                urls: urls.iter().map(|url| url.expose().to_owned()).collect(),
                node_id: node.to_owned(),
                unroutable: relay.unroutable,
                queue_deleted: relay.queue_deleted,
                queue_type: relay.queue_type,
                outage_messages: relay.outage.messages,
                outage_bytes: relay.outage.bytes,
                outage_time: relay.outage.time,
            };
            RabbitMq::start(config)
                .await
                .map(Broker::RabbitMq)
                .map_err(|error| StartError(format!("broker.url: {error}")))
        }
    }
}

/// The configured name, or one made at the first start and kept beside the data.
fn node_id(config: &Config) -> Result<String, StartError> {
    if let Some(id) = &config.node_id {
        return Ok(id.clone());
    }
    let folder = match (&config.store, &config.broker) {
        (StoreConfig::Sqlite { path }, _) | (_, BrokerConfig::Embedded { path }) => {
            path.parent().map(Path::to_owned).unwrap_or_default()
        }
        _ => return Ok(new_node_id()),
    };
    let path: PathBuf = folder.join("stomp-relay-node.id");
    match fs::read_to_string(&path) {
        Ok(id) if is_node_id(id.trim()) => Ok(id.trim().to_owned()),
        Ok(_) => Err(StartError(format!("{} holds no node id; delete it", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = new_node_id();
            fs::write(&path, format!("{id}\n")).map_err(|error| {
                let path = path.display();
                StartError(format!("node.id: cannot keep the node's name in {path}: {error}"))
            })?;
            Ok(id)
        }
        Err(error) => Err(StartError(format!("node.id: cannot read {}: {error}", path.display()))),
    }
}

fn new_node_id() -> String {
    Ulid::generate().to_string().to_lowercase()
}

fn is_node_id(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn session_limits(limits: &Limits, outage_time: Duration) -> session::Limits {
    session::Limits {
        destination_bytes: limits.destination_bytes,
        subscriptions: limits.subscriptions,
        unacked: limits.unacked,
        prefetch: limits.prefetch,
        ack_time: limits.ack_time,
        transactions: limits.transactions,
        transaction_actions: limits.transaction_actions,
        transaction_bytes: limits.transaction_bytes,
        connect_time: limits.connect_time,
        frame_time: limits.frame_time,
        outage_time,
    }
}

fn connection_limits(limits: &Limits, write_delay: Duration) -> ConnectionLimits {
    let wide = stomp::Limits {
        frame_bytes: limits.frame_bytes,
        headers: limits.headers,
        header_name_bytes: limits.header_name_bytes,
        header_value_bytes: limits.header_value_bytes,
    };
    let fragments = u32::try_from(limits.fragments).unwrap_or(u32::MAX);
    let narrow_bytes = limits.frame_bytes.min(NARROW_BYTES);
    let message_bytes = limits.websocket_message_bytes;
    let read = |message_bytes: usize, body_bytes| ReadLimits {
        websocket: FrameLimits { message_bytes: message_bytes as u64, fragments },
        sockjs: PayloadLimits { bytes: body_bytes, messages: limits.sockjs_messages },
    };
    ConnectionLimits {
        narrow: stomp::Limits { frame_bytes: narrow_bytes, ..wide },
        wide,
        narrow_read: read(
            message_bytes.min(NARROW_BYTES),
            limits.sockjs_body_bytes.min(NARROW_BYTES),
        ),
        wide_read: read(message_bytes, limits.sockjs_body_bytes),
        outbound_stall: limits.outbound_stall,
        write_delay,
        burst_frames: (limits.outbound_frames / 8).clamp(1, 512),
        burst_bytes: limits.outbound_bytes / 8,
    }
}

fn front(config: &Config, services: Arc<Services>, service: impl Fn(&str) -> Service) -> Front {
    let endpoints = config.endpoints.iter().map(|endpoint| Endpoint {
        path: endpoint.path.clone(),
        origins: OriginRule {
            allowed: endpoint.allowed_origins.clone(),
            loopback: endpoint.loopback_origins,
        },
        needs_login: endpoint.auth == EndpointAuth::Handshake,
        sockjs: endpoint.sockjs.clone().map(|options| SockJs {
            config: options,
            registry: Arc::default(),
            body_time: config.limits.http_body_time,
        }),
        service: service(&endpoint.path),
    });
    let public = config.public_url.as_ref().map(|url| url.origin().ascii_serialization());
    Front {
        services,
        endpoints: endpoints.map(Arc::new).collect(),
        origins: Origins { public, is_local: config.listen.ip().is_loopback() },
        trusted: config.trusted_proxies.clone(),
        static_dir: config.static_dir.clone(),
        head_time: config.limits.http_head_time,
    }
}

/// Plain STOMP: who it is, is said in CONNECT.
async fn serve_tcp(services: Arc<Services>, listener: TcpListener, stop: CancellationToken) {
    while let Some((stream, address)) = crate::http::accept(&listener, &stop).await {
        let Ok(place) = services.sessions.enter(address.ip(), None) else { continue };
        let transport = Transport::new(stream, Framing::Tcp);
        let driver = Driver::new(services.clone(), transport, place, None, None, Bytes::new());
        tokio::spawn(driver.run());
    }
}

async fn tick(services: Arc<Services>) {
    let sweep = async {
        let mut interval = tokio::time::interval(SWEEP);
        loop {
            interval.tick().await;
            services.broker.sweep(Instant::now());
        }
    };
    tokio::join!(services.ticker.run(), sweep, crate::heap::run(&services.metrics));
}
