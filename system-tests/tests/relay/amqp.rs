//! An AMQP client of RabbitMQ, as other programs than the relay are.

use std::time::{Duration, Instant};

use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer,
    ExchangeKind,
};
use system_tests::PATIENCE;
use system_tests::rabbitmq::RabbitMqServer;

pub(crate) struct Amqp {
    _connection: Connection,
    pub(crate) channel: Channel,
}

impl Amqp {
    pub(crate) async fn connect(server: &RabbitMqServer) -> Self {
        let properties = ConnectionProperties::default();
        let connection = Connection::connect(&server.amqp_url, properties).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        Self { _connection: connection, channel }
    }

    pub(crate) async fn declare_exchange(&self, name: &str, kind: ExchangeKind, internal: bool) {
        let options = ExchangeDeclareOptions { internal, ..Default::default() };
        let table = FieldTable::default();
        self.channel.exchange_declare(name.into(), kind, options, table).await.unwrap();
    }

    pub(crate) async fn delete_exchange(&self, name: &str) {
        let options = ExchangeDeleteOptions::default();
        self.channel.exchange_delete(name.into(), options).await.unwrap();
    }

    pub(crate) async fn publish(
        &self,
        exchange: &str,
        key: &str,
        properties: BasicProperties,
        body: &str,
    ) {
        let confirm = async || {
            let options = BasicPublishOptions::default();
            let (exchange, key, body) = (exchange.into(), key.into(), body.as_bytes());
            let properties = properties.clone();
            let publish = self.channel.basic_publish(exchange, key, options, body, properties);
            publish.await.unwrap().await.unwrap()
        };
        let mut confirmation = confirm().await;
        let deadline = Instant::now() + PATIENCE;
        while matches!(confirmation, Confirmation::Nack(None)) && Instant::now() < deadline {
            // From 4.0 on RabbitMQ says so while a queue ends, as of who unsubscribed.
            tokio::time::sleep(Duration::from_millis(10)).await;
            confirmation = confirm().await;
        }
        assert!(matches!(confirmation, Confirmation::Ack(None)), "{confirmation:?}");
    }

    /// A queue of this connection's own, bound to the exchange, and what comes into it.
    pub(crate) async fn listen(&self, exchange: &str, key: &str) -> Consumer {
        let options =
            QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
        let table = FieldTable::default;
        let queue = self.channel.queue_declare("".into(), options, table()).await.unwrap();
        let name = queue.name().clone();
        let bind = QueueBindOptions::default();
        self.channel
            .queue_bind(name.clone(), exchange.into(), key.into(), bind, table())
            .await
            .unwrap();
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        self.channel.basic_consume(name, "".into(), options, table()).await.unwrap()
    }
}
