//! What holds for all users together: the cap on bytes, and age.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use redis::{Cmd, Value};

use super::reply::{self, Sums};
use super::{Worker, code, horizon};
use crate::persistence::{SWEEP_ROWS, StoreError};

const TOTAL_KEYS: [&str; 3] =
    ["stomp-relay:all:{all}:oldest", "stomp-relay:all:{all}:sizes", "stomp-relay:all:{all}:totals"];
/// Users looked at in one sweep, and trimmed after one batch.
const USERS_AT_ONCE: usize = 100;

impl Worker {
    /// Removes messages past their age, at most a tenth of all, so that a clock that jumped does
    /// not empty the store before somebody looks.
    pub(super) async fn sweep(&mut self, now: i64) -> Result<u64, StoreError> {
        self.account(now).await;
        let [oldest, _, totals] = TOTAL_KEYS;
        let horizon = horizon(now, &self.caps);
        let mut find = redis::cmd("ZRANGEBYSCORE");
        find.arg(oldest).arg("-inf").arg(format!("({horizon}"));
        find.arg("LIMIT").arg(0).arg(USERS_AT_ONCE);
        let sum = redis::cmd("HGET").arg(totals).arg("messages").to_owned();
        let mut replies = self.send([find, sum]).await?.into_iter();
        let codes = reply::list(replies.next().unwrap_or(Value::Nil))?;
        let sum = replies.next().as_ref().and_then(reply::text).and_then(|t| t.parse::<u64>().ok());
        let mut budget = (sum.unwrap_or(0) / 10).clamp(1, SWEEP_ROWS);
        let mut removed = 0;
        for code in codes.iter().filter_map(reply::text) {
            if budget == 0 {
                break;
            }
            let mut command = self.script_by_code(code, "sweep", now);
            command.arg(budget);
            let went = self.reduce(code, command).await?;
            removed += went;
            budget = budget.saturating_sub(went);
        }
        Ok(removed)
    }

    /// Accounts for the users that changed, and trims where all together have too much. What
    /// fails here is made good by a later batch.
    pub(super) async fn account(&mut self, now: i64) {
        for _ in 0..USERS_AT_ONCE {
            match self.account_once(now).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::debug!(%error, "the sums of the store are not up to date");
                    return;
                }
            }
        }
    }

    /// Answers whether a user was trimmed, so that there may be more to do.
    async fn account_once(&mut self, now: i64) -> Result<bool, StoreError> {
        if self.changed.is_empty() {
            return Ok(false);
        }
        let mut command = Cmd::new();
        command.arg("EVALSHA").arg(self.scripts.account.get_hash()).arg(3).arg(&TOTAL_KEYS);
        for (user, sums) in self.changed.drain() {
            command.arg(code(&user)).arg(sums.messages).arg(sums.bytes).arg(sums.oldest);
        }
        let reply = self.send([command]).await?.pop().unwrap_or(Value::Nil);
        let [_, bytes] = reply::numbers(reply)?;
        let excess = bytes.saturating_sub_unsigned(self.caps.total_bytes);
        if excess <= 0 {
            return Ok(false);
        }
        let find =
            redis::cmd("ZRANGE").arg(TOTAL_KEYS[0]).arg(0).arg(1).arg("WITHSCORES").to_owned();
        let found = reply::list(self.send([find]).await?.pop().unwrap_or(Value::Nil))?;
        let mut found = found.iter().map(reply::text);
        let Some(Some(oldest)) = found.next() else { return Ok(false) };
        // Up to what the next user kept longest, so that the oldest of all go first.
        let until = found.nth(2).flatten().unwrap_or("inf");
        let mut command = self.script_by_code(oldest, "trim", now);
        command.arg(excess).arg(if until == "inf" { "9007199254740992" } else { until });
        let removed = self.reduce(oldest, command).await?;
        tracing::info!(removed, "unread messages go, since all together have too much");
        Ok(removed > 0)
    }

    /// Runs a script that removes messages of a user, and answers how many.
    async fn reduce(&mut self, code: &str, command: Cmd) -> Result<u64, StoreError> {
        let reply = self.send([command]).await?.pop().unwrap_or(Value::Nil);
        let [messages, bytes, oldest, removed] = reply::numbers(reply)?;
        let name = URL_SAFE_NO_PAD.decode(code).ok().and_then(|name| String::from_utf8(name).ok());
        if let Some(name) = name {
            self.changed.insert(Arc::from(name), Sums { messages, bytes, oldest });
        }
        Ok(removed.unsigned_abs())
    }
}
