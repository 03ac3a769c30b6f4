//! How messages leave the tables: read, or made to go by the caps.

use rusqlite::{OptionalExtension, Params, Row, params};

use super::Database;
use super::unread::{User, number};
use crate::persistence::{DROPPED_MERGE, DROPPED_RUNS, StoreError, X_ID_MS};

/// What is needed of a row of `unread` to remove it.
pub(super) struct Removal {
    seq: i64,
    user: i64,
    id: i64,
    bytes: i64,
    x_id: Option<[u8; 16]>,
    target: String,
}

impl Removal {
    const COLUMNS: &str = "seq, user, id, bytes, x_id, target";

    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            seq: row.get(0)?,
            user: row.get(1)?,
            id: row.get(2)?,
            bytes: row.get(3)?,
            x_id: row.get(4)?,
            target: row.get(5)?,
        })
    }
}

impl Database {
    /// Drops the oldest until the caps hold again, but never the newest message of `user`.
    pub(super) fn drop_beyond_caps(&mut self, user: i64, newest: i64) -> Result<u64, StoreError> {
        let mut dropped = 0;
        while self.is_over_own_caps(user)? {
            let oldest =
                self.removal("WHERE user = ?1 AND id < ?2 ORDER BY id LIMIT 1", (user, newest))?;
            let Some(oldest) = oldest else { break };
            self.drop_message(&oldest)?;
            dropped += 1;
        }
        while self.totals.bytes > number(self.caps.total_bytes) {
            let oldest = self.removal(
                "WHERE NOT (user = ?1 AND id = ?2) ORDER BY seq LIMIT 1",
                (user, newest),
            )?;
            let Some(oldest) = oldest else { break };
            self.drop_message(&oldest)?;
            dropped += 1;
        }
        Ok(dropped)
    }

    fn is_over_own_caps(&self, user: i64) -> Result<bool, StoreError> {
        let over = "SELECT messages > ?2 OR bytes > ?3 FROM unread_user WHERE user = ?1";
        let caps = (user, number(self.caps.messages), number(self.caps.bytes));
        Ok(self.connection.prepare_cached(over)?.query_row(caps, |row| row.get(0))?)
    }

    pub(super) fn drop_aged(&mut self, rows: u64) -> Result<u64, StoreError> {
        let limit = (self.totals.messages / 10).clamp(1, number(rows));
        let sql = format!(
            "SELECT {0} FROM (SELECT {0}, created_at FROM unread ORDER BY seq LIMIT ?1)
             WHERE created_at < ?2 ORDER BY seq LIMIT ?3",
            Removal::COLUMNS
        );
        let aged: Vec<Removal> = self
            .connection
            .prepare_cached(&sql)?
            .query_map((number(rows), self.horizon(), limit), Removal::of)?
            .collect::<Result<_, _>>()?;
        for message in &aged {
            self.begin()?;
            self.drop_message(message)?;
        }
        Ok(aged.len() as u64)
    }

    /// Removes a message that nobody read, and remembers that it was there.
    fn drop_message(&mut self, message: &Removal) -> Result<(), StoreError> {
        self.remove(message)?;
        let (user, id) = (message.user, message.id);
        let extended = self.execute(
            "UPDATE unread_dropped SET last_id = ?2, number = number + 1
             WHERE user = ?1 AND last_id = ?2 - 1 AND target = ?3
               AND first_id = (SELECT max(first_id) FROM unread_dropped
                               WHERE user = ?1 AND first_id < ?2)",
            params![user, id, message.target],
        )?;
        if extended == 0 {
            self.execute(
                "INSERT INTO unread_dropped (user, first_id, last_id, target, number)
                 VALUES (?1, ?2, ?2, ?3, 1)",
                params![user, id, message.target],
            )?;
            // Counting takes a while, so that it is not done for each.
            if id % 128 == 0 {
                self.merge_dropped(user)?;
            }
        }
        Ok(())
    }

    fn merge_dropped(&self, user: i64) -> Result<(), StoreError> {
        let runs: i64 = self
            .connection
            .prepare_cached("SELECT count(*) FROM unread_dropped WHERE user = ?1")?
            .query_row([user], |row| row.get(0))?;
        if runs <= DROPPED_RUNS as i64 {
            return Ok(());
        }
        let (first, last, until, sum): (i64, i64, i64, i64) = self
            .connection
            .prepare_cached(
                "SELECT min(first_id), max(last_id), max(first_id), sum(number) FROM
                 (SELECT * FROM unread_dropped WHERE user = ?1 ORDER BY first_id LIMIT ?2)",
            )?
            .query_row((user, DROPPED_MERGE as i64), |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })?;
        self.execute(
            "DELETE FROM unread_dropped WHERE user = ?1 AND first_id <= ?2",
            (user, until),
        )?;
        self.execute(
            "INSERT INTO unread_dropped (user, first_id, last_id, target, number)
             VALUES (?1, ?2, ?3, NULL, ?4)",
            (user, first, last, sum),
        )?;
        Ok(())
    }

    pub(super) fn remove(&mut self, message: &Removal) -> Result<(), StoreError> {
        self.execute("DELETE FROM unread WHERE seq = ?1", [message.seq])?;
        self.execute(
            "UPDATE unread_user SET messages = messages - 1, bytes = bytes - ?2 WHERE user = ?1",
            (message.user, message.bytes),
        )?;
        self.totals.messages -= 1;
        self.totals.bytes -= message.bytes;
        if let Some(x_id) = message.x_id {
            self.execute(
                "INSERT OR REPLACE INTO unread_gone (user, x_id, at) VALUES (?1, ?2, ?3)",
                params![message.user, x_id, self.now],
            )?;
            self.forgotten += 1;
        }
        Ok(())
    }

    /// Twice as many as were added, so that the table shrinks again after a rush.
    pub(super) fn forget_old_x_ids(&self) -> Result<(), StoreError> {
        self.execute(
            "DELETE FROM unread_gone WHERE at < ?1
               AND seq IN (SELECT seq FROM unread_gone ORDER BY seq LIMIT ?2)",
            (self.now - X_ID_MS, 2 * self.forgotten),
        )?;
        Ok(())
    }

    /// Also forgets which ids were dropped up to there: their number has been told.
    pub(super) fn remove_up_to(
        &mut self,
        user: &User,
        id: i64,
        target: Option<&str>,
    ) -> Result<(), StoreError> {
        let range = params![user.number, id, target];
        let (messages, bytes): (i64, i64) = self
            .connection
            .prepare_cached(
                "SELECT count(*), coalesce(sum(bytes), 0) FROM unread
                 WHERE user = ?1 AND id <= ?2 AND (?3 IS NULL OR target = ?3)",
            )?
            .query_row(range, |row| Ok((row.get(0)?, row.get(1)?)))?;
        let dropped: i64 = self.count(
            "SELECT count(*) FROM unread_dropped
             WHERE user = ?1 AND first_id <= ?2 AND (?3 IS NULL OR target = ?3)",
            range,
        )?;
        if messages + dropped == 0 {
            return Ok(());
        }
        self.begin()?;
        self.execute(
            "INSERT OR REPLACE INTO unread_gone (user, x_id, at)
             SELECT user, x_id, ?4 FROM unread
             WHERE user = ?1 AND id <= ?2 AND (?3 IS NULL OR target = ?3) AND x_id NOT NULL",
            params![user.number, id, target, self.now],
        )?;
        self.execute(
            "DELETE FROM unread WHERE user = ?1 AND id <= ?2 AND (?3 IS NULL OR target = ?3)",
            range,
        )?;
        self.execute(
            "UPDATE unread_user SET messages = messages - ?2, bytes = bytes - ?3 WHERE user = ?1",
            (user.number, messages, bytes),
        )?;
        self.execute(
            "DELETE FROM unread_dropped
             WHERE user = ?1 AND last_id <= ?2 AND (?3 IS NULL OR target = ?3)",
            range,
        )?;
        self.execute(
            "UPDATE unread_dropped SET first_id = ?2 + 1, number = last_id - ?2
             WHERE user = ?1 AND first_id <= ?2 AND last_id > ?2 AND target NOT NULL
               AND (?3 IS NULL OR target = ?3)",
            range,
        )?;
        self.totals.messages -= messages;
        self.totals.bytes -= bytes;
        self.forgotten += messages;
        Ok(())
    }

    pub(super) fn removal(
        &self,
        which: &str,
        params: impl Params,
    ) -> Result<Option<Removal>, StoreError> {
        let sql = format!("SELECT {} FROM unread {which}", Removal::COLUMNS);
        Ok(self.connection.prepare_cached(&sql)?.query_row(params, Removal::of).optional()?)
    }
}
