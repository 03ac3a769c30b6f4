//! BEGIN, COMMIT and ABORT, and what is held between them (1.2, "BEGIN", "COMMIT", "ABORT").

use crate::relay::error::{Refusal, RefusalKind};
use crate::stomp::{Command, Headers};

use super::action::Action;
use super::error::Violation;
use super::machine::{Context, Session};
use super::transactions::{Full, Step};
use super::waiting::Waiting;

impl Session {
    /// Adds a step to a transaction; what does not fit aborts it and is refused (`false`).
    pub(super) fn add_step(
        &mut self,
        name: &str,
        step: Step,
        size: usize,
        context: &Context,
        out: &mut Vec<Action>,
    ) -> bool {
        let limits = self.settings.limits;
        let added = self.transactions.add(name, step, size, &limits);
        if let Err(full) = &added {
            self.refuse_full(full, name, context, out);
        }
        added.is_ok()
    }

    fn refuse_full(&mut self, full: &Full, name: &str, context: &Context, out: &mut Vec<Action>) {
        let limits = &self.settings.limits;
        let body = match full {
            Full::Transactions => {
                format!("a session may have {} open transactions\n", limits.transactions)
            }
            Full::Actions => {
                format!("a transaction may have {} frames\n", limits.transaction_actions)
            }
            Full::Bytes => format!("a transaction may have {} bytes\n", limits.transaction_bytes),
        };
        let refusal = Refusal::new(RefusalKind::Limit, "Transaction too big", body);
        self.transactions.refuse(name, &refusal);
        self.refuse(refusal, context, out);
    }

    pub(super) fn begin(
        &mut self,
        headers: &Headers,
        out: &mut Vec<Action>,
    ) -> Result<(), Violation> {
        let (name, context) = transaction_frame(Command::Begin, headers)?;
        let limits = self.settings.limits;
        match self.transactions.begin(&name, &limits) {
            Ok(true) => self.receipt(context.receipt, None, out),
            Ok(false) => {
                return Err(Violation::new(
                    "Bad transaction",
                    format!("A transaction named \"{name}\" is open already\n"),
                ));
            }
            Err(full) => self.refuse_full(&full, &name, &context, out),
        }
        Ok(())
    }

    pub(super) fn commit(
        &mut self,
        headers: &Headers,
        out: &mut Vec<Action>,
    ) -> Result<(), Violation> {
        let (name, context) = transaction_frame(Command::Commit, headers)?;
        match self.transactions.commit(&name) {
            None => return Err(bad_transaction(&name)),
            Some(Err(refusal)) => self.refuse(refusal, &context, out),
            Some(Ok(steps)) => {
                let sends = steps.iter().filter(|step| matches!(step, Step::Send(_))).count();
                let receipt = context.receipt.clone();
                let commit =
                    (sends > 0).then(|| self.wait(Waiting::Commit { context, left: sends }));
                for step in steps {
                    match step {
                        Step::Send(sending) => self.perform(*sending, commit, out),
                        Step::Settle { id, settlement } => self.settle(id, settlement, out),
                    }
                }
                if commit.is_none() {
                    self.receipt(receipt, None, out);
                }
            }
        }
        Ok(())
    }

    pub(super) fn abort(
        &mut self,
        headers: &Headers,
        out: &mut Vec<Action>,
    ) -> Result<(), Violation> {
        let (name, context) = transaction_frame(Command::Abort, headers)?;
        if !self.transactions.abort(&name) {
            return Err(bad_transaction(&name));
        }
        self.receipt(context.receipt, None, out);
        Ok(())
    }

    pub(super) fn must_be_open(&self, name: &str) -> Result<(), Violation> {
        if self.transactions.is_open(name) { Ok(()) } else { Err(bad_transaction(name)) }
    }
}

fn bad_transaction(name: &str) -> Violation {
    Violation::new("Bad transaction", format!("Invalid transaction identifier: \"{name}\"\n"))
}

fn transaction_frame(command: Command, headers: &Headers) -> Result<(String, Context), Violation> {
    let Some(name) = headers.get("transaction") else {
        return Err(Violation::new(
            "Missing transaction",
            format!("\"{}\" must include a 'transaction' header\n", command.name()),
        ));
    };
    let context = Context {
        command,
        destination: None,
        id: Some(name.to_owned()),
        receipt: headers.get("receipt").map(str::to_owned),
    };
    Ok((name.to_owned(), context))
}
