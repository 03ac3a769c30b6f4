//! What the scripts answer, taken apart.

use std::sync::Arc;

use redis::Value;

use crate::persistence::{Outcome, Page, StoreError, Stored, record};

/// A user's sums after an operation: messages, bytes, when the oldest was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) messages: i64,
    pub(super) bytes: i64,
    pub(super) oldest: i64,
}

pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

pub(super) fn unexpected() -> StoreError {
    StoreError::Broken("store: Redis answers an operation otherwise than expected".into())
}

pub(super) fn list(value: Value) -> Result<Vec<Value>, StoreError> {
    match value {
        Value::Array(values) => Ok(values),
        _ => Err(unexpected()),
    }
}

/// All numbers of an answer.
pub(super) fn numbers<const N: usize>(value: Value) -> Result<[i64; N], StoreError> {
    numbers_of(list(value)?)
}

fn numbers_of<const N: usize>(values: Vec<Value>) -> Result<[i64; N], StoreError> {
    let numbers: Option<Vec<i64>> = values
        .into_iter()
        .map(|value| match value {
            Value::Int(number) => Some(number),
            _ => None,
        })
        .collect();
    numbers.and_then(|numbers| numbers.try_into().ok()).ok_or_else(unexpected)
}

/// A negative number of messages says that nothing changed.
fn sums(messages: i64, bytes: i64, oldest: i64) -> Option<Sums> {
    (messages >= 0).then_some(Sums { messages, bytes, oldest })
}

/// The nodes of an answer's last value: whether there are any, and which beside `own`.
fn nodes(values: &mut Vec<Value>, own: &str) -> Result<(bool, Vec<Arc<str>>), StoreError> {
    let names = list(values.pop().ok_or_else(unexpected)?)?;
    let mut others: Vec<Arc<str>> = Vec::new();
    for name in &names {
        let name = text(name).ok_or_else(unexpected)?;
        // A node that took a new incarnation may stand there twice.
        if name != own && !others.iter().any(|known| **known == *name) {
            others.push(Arc::from(name));
        }
    }
    Ok((!names.is_empty(), others))
}

pub(super) fn appended(value: Value, own: &str) -> Result<(Outcome, Option<Sums>), StoreError> {
    let mut values = list(value)?;
    let (_, hearers) = nodes(&mut values, own)?;
    let (present, nodes) = nodes(&mut values, own)?;
    let [messages, bytes, oldest, id, new, unread, truncated] = numbers_of(values)?;
    let outcome = Outcome::Appended {
        unread_id: (id > 0).then_some(id.unsigned_abs()),
        new: new == 1,
        present,
        unread: unread.unsigned_abs(),
        truncated: truncated.unsigned_abs(),
        nodes,
        hearers,
    };
    Ok((outcome, sums(messages, bytes, oldest)))
}

pub(super) fn read(value: Value, own: &str) -> Result<(Outcome, Option<Sums>), StoreError> {
    let mut values = list(value)?;
    let (_, hearers) = nodes(&mut values, own)?;
    let [messages, bytes, oldest, removed, unread] = numbers_of(values)?;
    let outcome =
        Outcome::Read { removed: removed.unsigned_abs(), unread: unread.unsigned_abs(), hearers };
    Ok((outcome, sums(messages, bytes, oldest)))
}

/// None where the session was registered instead.
pub(super) fn page(user: &Arc<str>, value: Value) -> Result<Option<Page>, StoreError> {
    let mut values = list(value)?.into_iter();
    let (left, truncated) = match (values.next(), values.next()) {
        (None, _) => return Ok(None),
        (Some(Value::Int(left)), Some(Value::Int(truncated))) => (left, truncated),
        _ => return Err(unexpected()),
    };
    let mut messages: Vec<Stored> = Vec::with_capacity(values.len() / 2);
    while let Some(id) = values.next() {
        let (Value::Int(id), Some(Value::BulkString(bytes))) = (id, values.next()) else {
            return Err(unexpected());
        };
        messages.push(record::from_bytes(id.unsigned_abs(), user, bytes)?);
    }
    let (left, truncated) = (left.unsigned_abs(), truncated.unsigned_abs());
    Ok(Some(Page { messages, left, truncated }))
}
