//! What the relay counts, and how it logs.

use std::io::IsTerminal;
use std::sync::atomic::AtomicI64;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tracing_subscriber::EnvFilter;

/// Counters of one server. Labels are closed sets: nothing a client says becomes one.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub sessions: Gauge<i64, AtomicI64>,
    pub sessions_opened: Counter,
    pub frames_received: Counter,
    pub messages_delivered: Counter,
    pub bytes_received: Counter,
    pub bytes_sent: Counter,
    pub handshakes_refused: Counter,
    pub sessions_refused: Counter,
    pub slow_readers: Counter,
    pub unread_restored: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("stomp_relay");
        let sessions = Gauge::default();
        registry.register("sessions", "Sessions that are open", sessions.clone());
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let sessions_opened = counter("sessions_opened", "Sessions opened since start");
        let frames_received = counter("frames_received", "STOMP frames taken in");
        let messages_delivered = counter("messages_delivered", "MESSAGE frames written");
        let bytes_received = counter("bytes_received", "Bytes read from clients");
        let bytes_sent = counter("bytes_sent", "Bytes that the kernel took for clients");
        let handshakes_refused = counter("handshakes_refused", "Upgrades refused");
        let sessions_refused = counter("sessions_refused", "Sessions ended by the server");
        let slow_readers = counter("slow_readers", "Sessions closed with code 4500");
        let unread_restored =
            counter("unread_restored", "Messages kept because a session did not prove them");
        Self {
            registry,
            sessions,
            sessions_opened,
            frames_received,
            messages_delivered,
            bytes_received,
            bytes_sent,
            handshakes_refused,
            sessions_refused,
            slow_readers,
            unread_restored,
        }
    }
}

impl Metrics {
    /// With what another part counts itself.
    #[must_use]
    pub fn with(mut self, collector: Option<Box<dyn Collector>>) -> Self {
        if let Some(collector) = collector {
            self.registry.register_collector(collector);
        }
        self
    }

    /// All metrics in Prometheus' text format.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// Logs to standard error; `STOMP_RELAY_LOG` sets the level (`info`, `stomp_relay=debug`).
pub fn init_logging() {
    let filter = EnvFilter::try_from_env("STOMP_RELAY_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,lapin=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}
