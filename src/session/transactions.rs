//! Open transactions: what COMMIT will do, bounded.

use std::collections::HashMap;

use super::machine::Limits;
use super::send::Sending;

/// Something a COMMIT does.
#[derive(Debug)]
pub(super) enum Step {
    Send(Box<Sending>),
    /// ACK or NACK of a delivery.
    Settle {
        id: u64,
        settlement: crate::relay::Settlement,
    },
}

#[derive(Debug, Default)]
struct Transaction {
    steps: Vec<Step>,
    bytes: usize,
    /// A frame in it was refused; its COMMIT is refused alike.
    refused: Option<crate::relay::error::Refusal>,
}

/// The transactions of one session.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    open: HashMap<String, Transaction>,
}

/// What does not fit.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Full {
    Transactions,
    Actions,
    Bytes,
}

impl Transactions {
    /// `Ok(false)` where one of that name is open.
    pub(super) fn begin(&mut self, name: &str, limits: &Limits) -> Result<bool, Full> {
        if self.open.contains_key(name) {
            return Ok(false);
        }
        if self.open.len() >= limits.transactions {
            return Err(Full::Transactions);
        }
        self.open.insert(name.to_owned(), Transaction::default());
        Ok(true)
    }

    pub(super) fn is_open(&self, name: &str) -> bool {
        self.open.contains_key(name)
    }

    /// Adds a step to an open transaction; one that was aborted by a refusal takes it and does
    /// nothing with it.
    pub(super) fn add(
        &mut self,
        name: &str,
        step: Step,
        bytes: usize,
        limits: &Limits,
    ) -> Result<(), Full> {
        let Some(transaction) = self.open.get_mut(name) else { return Ok(()) };
        if transaction.refused.is_some() {
            return Ok(());
        }
        if transaction.steps.len() >= limits.transaction_actions {
            return Err(Full::Actions);
        }
        if transaction.bytes + bytes > limits.transaction_bytes {
            return Err(Full::Bytes);
        }
        transaction.bytes += bytes;
        transaction.steps.push(step);
        Ok(())
    }

    /// A frame of the transaction was refused: nothing of it will be done.
    pub(super) fn refuse(&mut self, name: &str, refusal: &crate::relay::error::Refusal) {
        if let Some(transaction) = self.open.get_mut(name) {
            *transaction = Transaction { refused: Some(refusal.clone()), ..Transaction::default() };
        }
    }

    /// The steps of a transaction, or why it was refused; none where it is not open.
    pub(super) fn commit(
        &mut self,
        name: &str,
    ) -> Option<Result<Vec<Step>, crate::relay::error::Refusal>> {
        let transaction = self.open.remove(name)?;
        Some(transaction.refused.map_or(Ok(transaction.steps), Err))
    }

    /// `false` where it is not open.
    pub(super) fn abort(&mut self, name: &str) -> bool {
        self.open.remove(name).is_some()
    }
}
