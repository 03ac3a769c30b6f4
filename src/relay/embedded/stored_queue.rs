//! A queue as the journal keeps it: one row of JSON.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::destination::{Destination, Exchange, TOPIC_EXCHANGE, Topic};
use crate::relay::origin::{Arguments, Declaration, binding_key};

/// What a queue is, and what it is bound to. Only durable queues are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredQueue {
    pub(super) name: Arc<str>,
    pub(super) declaration: Declaration,
    pub(super) bindings: Vec<Destination>,
}

/// The row. Arguments have AMQP's names.
#[derive(Serialize, Deserialize)]
struct Row {
    bindings: Vec<Binding>,
    #[serde(rename = "x-message-ttl", skip_serializing_if = "Option::is_none")]
    message_ttl: Option<u64>,
    #[serde(rename = "x-expires", skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
    #[serde(rename = "x-max-length", skip_serializing_if = "Option::is_none")]
    max_length: Option<u64>,
    #[serde(rename = "x-max-length-bytes", skip_serializing_if = "Option::is_none")]
    max_length_bytes: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct Binding {
    exchange: String,
    key: String,
}

impl StoredQueue {
    pub(super) fn to_json(&self) -> String {
        let bindings = self.bindings.iter().filter_map(binding_key);
        let bindings = bindings
            .map(|(exchange, key)| Binding { exchange: exchange.into(), key: (**key).into() });
        let arguments = &self.declaration.arguments;
        let row = Row {
            bindings: bindings.collect(),
            message_ttl: arguments.message_ttl,
            expires: arguments.expires,
            max_length: arguments.max_length,
            max_length_bytes: arguments.max_length_bytes,
        };
        serde_json::to_string(&row).expect("strings and numbers are always JSON")
    }

    /// None where somebody else has written there.
    pub(super) fn from_json(name: &str, text: &str) -> Option<Self> {
        let row: Row = serde_json::from_str(text).ok()?;
        let bindings = row.bindings.into_iter().map(|Binding { exchange, key }| {
            if exchange == TOPIC_EXCHANGE {
                Destination::Topic(Topic::from_key(&key))
            } else {
                Destination::Exchange(Exchange { name: exchange.into(), key: key.into() })
            }
        });
        let arguments = Arguments {
            message_ttl: row.message_ttl,
            expires: row.expires,
            max_length: row.max_length,
            max_length_bytes: row.max_length_bytes,
            ..Arguments::default()
        };
        let declaration = Declaration { arguments, ..Declaration::QUEUE };
        Some(Self { name: name.into(), declaration, bindings: bindings.collect() })
    }
}
