//! What Prometheus is told of RabbitMQ: counters as they are, the rest looked at when it asks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;

use super::connection::Shared;
use super::node_queue::NodeQueue;
use super::publisher::Publisher;
use super::state::Condition;

/// In seconds: from a confirm out of memory to the longest that a message may wait.
const CONFIRM_BUCKETS: [f64; 12] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// How long RabbitMQ takes to confirm.
pub(super) fn confirm_histogram() -> Histogram {
    Histogram::new(CONFIRM_BUCKETS)
}

/// Everything there is to know of one broker.
#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) shared: Arc<Shared>,
    pub(super) publisher: Arc<Publisher>,
    pub(super) node_queue: Arc<NodeQueue>,
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, value) in self.shared.counters.snapshot().described() {
            let counter = ConstCounter::new(value);
            let name = format!("rabbitmq_{name}");
            counter.encode(encoder.encode_descriptor(&name, help, None, MetricType::Counter)?)?;
        }
        let buffer = self.publisher.buffer();
        let (depth, burst) = (&self.node_queue.depth, &self.node_queue.burst);
        let gauges = [
            ("channels", "AMQP channels that are open.", self.shared.state.channels()),
            (
                "unconfirmed_messages",
                "Messages handed to RabbitMQ that it has not confirmed yet.",
                buffer.in_flight,
            ),
            (
                "buffer_messages",
                "Messages without an answer, in flight or waiting: limited by relay.outage.",
                buffer.messages,
            ),
            ("node_queue_messages", "Messages that wait in the node queue, asked every 10 s.", {
                depth.load(Ordering::Relaxed)
            }),
            ("node_queue_burst", "Deliveries of the node queue that its last ack was for.", {
                burst.load(Ordering::Relaxed)
            }),
        ];
        for (name, help, value) in gauges {
            let name = format!("rabbitmq_{name}");
            encoder
                .encode_descriptor(&name, help, None, MetricType::Gauge)?
                .encode_gauge(&value)?;
        }
        let help = "Headers and bodies of the messages without an answer.";
        encoder
            .encode_descriptor("rabbitmq_buffer", help, Some(&Unit::Bytes), MetricType::Gauge)?
            .encode_gauge(&buffer.bytes)?;
        self.encode_connections(&mut encoder)?;
        let help = "From handing a message to RabbitMQ to its confirm.";
        let histogram = &self.shared.confirm_time;
        let unit = Some(&Unit::Seconds);
        histogram.encode(encoder.encode_descriptor(
            "rabbitmq_confirm",
            help,
            unit,
            MetricType::Histogram,
        )?)
    }
}

impl Metrics {
    fn encode_connections(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "AMQP connections that are up, by what they are for.";
        let mut family =
            encoder.encode_descriptor("rabbitmq_connections", help, None, MetricType::Gauge)?;
        for (name, open) in self.shared.state.open() {
            let name = name.replace(' ', "_");
            family.encode_family(&[("connection", name.as_str())])?.encode_gauge(&open)?;
        }
        let help = "1 for how RabbitMQ is (up, blocked, away, refused), 0 for the others.";
        let mut family =
            encoder.encode_descriptor("rabbitmq_state", help, None, MetricType::Gauge)?;
        let now = self.shared.state.condition().name();
        for name in Condition::NAMES {
            let is_now = u64::from(name == now);
            family.encode_family(&[("state", name)])?.encode_gauge(&is_now)?;
        }
        Ok(())
    }
}
