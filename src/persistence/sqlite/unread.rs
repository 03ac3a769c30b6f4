//! What each operation does to the tables.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{OptionalExtension, Params, Row, params};
use ulid::Ulid;

use super::Database;
use crate::message::Message;
use crate::persistence::presence::Place;
use crate::persistence::record::{self, Parts};
use crate::persistence::{
    Keep, Op, Outcome, PAGE_BYTES, Page, StoreError, Stored, UnreadId, Which, X_ID_MS,
};

/// A row of `unread_user`.
pub(super) struct User {
    pub(super) number: i64,
    last_id: i64,
    messages: i64,
}

/// A question for a page.
struct Question<'a> {
    user: &'a Arc<str>,
    target: Option<&'a str>,
    after: i64,
    limit: u32,
}

impl Database {
    pub(super) fn step(&mut self, op: &Op) -> Result<Outcome, StoreError> {
        match op {
            Op::Append { message, keep } => self.append(message, *keep),
            Op::PageOrRegister { user, target, after, limit, session } => {
                let target_only = Some(&**target);
                let after = number(*after);
                let question = Question { user, target: target_only, after, limit: *limit.max(&1) };
                let page = self.page(&question)?;
                if page.messages.is_empty() {
                    self.presence.add((user.clone(), target.clone()), *session);
                    return Ok(Outcome::Registered);
                }
                Ok(Outcome::Page(page))
            }
            Op::Register { user, target, session } => {
                self.presence.add((user.clone(), target.clone()), *session);
                Ok(Outcome::Registered)
            }
            Op::Unregister { user, target, session } => {
                self.presence.remove((user.clone(), target.clone()), *session);
                Ok(Outcome::Unregistered)
            }
            Op::Page { user, target, after, limit } => {
                let (target, after) = (target.as_deref(), number(*after));
                self.page(&Question { user, target, after, limit: *limit }).map(Outcome::Page)
            }
            Op::MarkRead { user, which } => self.mark_read(user, which),
        }
    }

    fn append(&mut self, message: &Message, keep: Keep) -> Result<Outcome, StoreError> {
        let destination = record::place(message)?;
        let place: Place = (destination.user.clone(), destination.target.clone());
        let present = self.presence.is_present(&place);
        let user = self.user(&destination.user)?;
        let answer = |unread_id: Option<i64>, new, unread, truncated| Outcome::Appended {
            unread_id: unread_id.map(unsigned),
            new,
            present,
            unread,
            truncated,
            nodes: Vec::new(),
            hearers: Vec::new(),
        };
        let unread = self.unread(user.as_ref())?;
        if keep == Keep::Never {
            return Ok(answer(None, false, unread, 0));
        }
        if let (Some(user), Some(x_id)) = (&user, message.x_id)
            && let Some(known) = self.known(user.number, x_id)?
        {
            return Ok(answer(known, false, unread, 0));
        }
        if keep == Keep::IfAbsent && present {
            return Ok(answer(None, false, unread, 0));
        }
        self.begin()?;
        let user = match user {
            Some(user) => user,
            None => self.create_user(&destination.user)?,
        };
        let id = user.last_id + 1;
        self.insert(user.number, id, &destination.target, message)?;
        let truncated = self.drop_beyond_caps(user.number, id)?;
        let user = self.user(&destination.user)?;
        let unread = self.unread(user.as_ref())?;
        Ok(answer(Some(id), true, unread, truncated))
    }

    /// Where the x-id is known: the id of its message, or none where that is gone.
    fn known(&self, user: i64, x_id: Ulid) -> Result<Option<Option<i64>>, StoreError> {
        let x_id = x_id.to_bytes();
        let stored: Option<(i64, i64)> = self
            .connection
            .prepare_cached("SELECT id, created_at FROM unread WHERE user = ?1 AND x_id = ?2")?
            .query_row(params![user, x_id], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        if let Some((id, created_at)) = stored {
            return Ok(Some((created_at >= self.horizon()).then_some(id)));
        }
        let gone = self
            .connection
            .prepare_cached("SELECT 1 FROM unread_gone WHERE user = ?1 AND x_id = ?2 AND at >= ?3")?
            .exists(params![user, x_id, self.now - X_ID_MS])?;
        Ok(gone.then_some(None))
    }

    fn insert(
        &mut self,
        user: i64,
        id: i64,
        target: &str,
        message: &Message,
    ) -> Result<(), StoreError> {
        let bytes = i64::try_from(message.size()).unwrap_or(i64::MAX);
        self.execute(
            "INSERT INTO unread
                 (user, id, created_at, bytes, x_id, persistent, target, headers, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                user,
                id,
                self.now,
                bytes,
                message.x_id.map(|x_id| x_id.to_bytes()),
                message.persistent,
                target,
                record::headers_to_json(&message.headers),
                &message.body[..],
            ],
        )?;
        self.execute(
            "UPDATE unread_user SET last_id = ?2, messages = messages + 1, bytes = bytes + ?3
             WHERE user = ?1",
            params![user, id, bytes],
        )?;
        self.totals.messages += 1;
        self.totals.bytes += bytes;
        Ok(())
    }

    fn page(&self, question: &Question<'_>) -> Result<Page, StoreError> {
        let Some(user) = self.user(question.user)? else { return Ok(Page::default()) };
        let messages = self.messages(user.number, question)?;
        let last = messages.last().map(|message: &Stored| number(message.id));
        let place =
            params![user.number, question.target, self.horizon(), last.unwrap_or(question.after)];
        let left: i64 = match question.target {
            Some(_) => self.count(
                "SELECT count(*) FROM unread
                 WHERE user = ?1 AND target = ?2 AND created_at >= ?3 AND id > ?4",
                place,
            )?,
            None => self.count(
                "SELECT count(*) FROM unread
                 WHERE user = ?1 AND ?2 IS NULL AND created_at >= ?3 AND id > ?4",
                place,
            )?,
        };
        let truncated = self.truncated(user.number, question, last.unwrap_or(i64::MAX))?;
        Ok(Page { messages, left: unsigned(left), truncated })
    }

    fn messages(&self, user: i64, question: &Question<'_>) -> Result<Vec<Stored>, StoreError> {
        let mut statement = self.connection.prepare_cached(match question.target {
            Some(_) => {
                "SELECT id, target, x_id, created_at, persistent, headers, body FROM unread
                 WHERE user = ?1 AND target = ?5 AND id > ?2 AND created_at >= ?3
                 ORDER BY id LIMIT ?4"
            }
            None => {
                "SELECT id, target, x_id, created_at, persistent, headers, body FROM unread
                 WHERE user = ?1 AND ?5 IS NULL AND id > ?2 AND created_at >= ?3
                 ORDER BY id LIMIT ?4"
            }
        })?;
        let horizon = self.horizon();
        let mut rows = statement.query(params![
            user,
            question.after,
            horizon,
            question.limit,
            question.target
        ])?;
        let mut messages = Vec::new();
        let mut bytes = 0;
        while let Some(row) = rows.next()? {
            let body = row.get_ref(6)?.as_blob().map_err(rusqlite::Error::from)?;
            bytes += body.len();
            if bytes > PAGE_BYTES && !messages.is_empty() {
                break;
            }
            let headers = row.get_ref(5)?.as_str().map_err(rusqlite::Error::from)?;
            let x_id: Option<[u8; 16]> = row.get(2)?;
            let parts = Parts {
                user: question.user.clone(),
                target: Arc::from(row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?),
                headers: record::headers_from_json(headers)?,
                persistent: row.get(4)?,
                x_id: x_id.map(Ulid::from_bytes),
            };
            messages.push(Stored {
                id: unsigned(row.get(0)?),
                message: record::rebuild(parts, Bytes::copy_from_slice(body)),
                created_at: row.get(3)?,
            });
        }
        Ok(messages)
    }

    /// What the caps made go after the question's `after` and up to `last`: the runs of dropped
    /// ids, and what is past its age and not swept yet.
    fn truncated(&self, user: i64, question: &Question<'_>, last: i64) -> Result<u64, StoreError> {
        let dropped: i64 = self.count(
            "SELECT coalesce(sum(CASE WHEN target IS NULL THEN number
                 ELSE min(last_id, ?4) - max(first_id, ?3 + 1) + 1 END), 0)
             FROM unread_dropped
             WHERE user = ?1 AND (?2 IS NULL OR target IS NULL OR target = ?2)
               AND last_id > ?3 AND first_id <= ?4",
            params![user, question.target, question.after, last],
        )?;
        let aged: i64 = self.count(
            "SELECT count(*) FROM unread
             WHERE user = ?1 AND created_at < ?2 AND (?3 IS NULL OR target = ?3)
               AND id > ?4 AND id <= ?5",
            params![user, self.horizon(), question.target, question.after, last],
        )?;
        Ok(unsigned(dropped + aged))
    }

    fn mark_read(&mut self, name: &Arc<str>, which: &Which) -> Result<Outcome, StoreError> {
        let Some(user) = self.user(name)? else {
            return Ok(Outcome::Read { removed: 0, unread: 0, hearers: Vec::new() });
        };
        let before = self.unread(Some(&user))?;
        match which {
            Which::Ids(ids) => {
                for id in ids {
                    let message = self.removal(
                        "WHERE user = ?1 AND id = ?2 AND created_at >= ?3",
                        (user.number, number(*id), self.horizon()),
                    )?;
                    if let Some(message) = message {
                        self.begin()?;
                        self.remove(&message)?;
                    }
                }
            }
            Which::UpTo { id, target } => {
                self.remove_up_to(&user, number(*id), target.as_deref())?;
            }
            Which::All => self.remove_up_to(&user, i64::MAX - 1, None)?,
        }
        let user = self.user(name)?;
        let unread = self.unread(user.as_ref())?;
        Ok(Outcome::Read { removed: before - unread, unread, hearers: Vec::new() })
    }

    /// Stored messages of a user that are not past their age.
    fn unread(&self, user: Option<&User>) -> Result<u64, StoreError> {
        let Some(user) = user else { return Ok(0) };
        if user.messages == 0 {
            return Ok(0);
        }
        let aged: i64 = self.count(
            "SELECT count(*) FROM unread WHERE user = ?1 AND created_at < ?2",
            (user.number, self.horizon()),
        )?;
        Ok(unsigned(user.messages - aged))
    }

    fn user(&self, name: &str) -> Result<Option<User>, StoreError> {
        let sql = "SELECT user, last_id, messages FROM unread_user WHERE name = ?1";
        let user = |row: &Row<'_>| {
            Ok(User { number: row.get(0)?, last_id: row.get(1)?, messages: row.get(2)? })
        };
        Ok(self.connection.prepare_cached(sql)?.query_row([name], user).optional()?)
    }

    fn create_user(&self, name: &str) -> Result<User, StoreError> {
        self.execute("INSERT INTO unread_user (name) VALUES (?1)", [name])?;
        let number = self.connection.last_insert_rowid();
        Ok(User { number, last_id: 0, messages: 0 })
    }

    pub(super) fn count(&self, sql: &str, params: impl Params) -> Result<i64, StoreError> {
        Ok(self.connection.prepare_cached(sql)?.query_row(params, |row| row.get(0))?)
    }

    pub(super) fn execute(&self, sql: &str, params: impl Params) -> Result<usize, StoreError> {
        Ok(self.connection.prepare_cached(sql)?.execute(params)?)
    }

    /// What was kept before this moment is past its age.
    pub(super) fn horizon(&self) -> i64 {
        self.now.saturating_sub(i64::try_from(self.caps.age.as_millis()).unwrap_or(i64::MAX))
    }
}

/// Small enough that one can be added.
pub(super) fn number(id: UnreadId) -> i64 {
    i64::try_from(id).unwrap_or(i64::MAX).min(i64::MAX - 1)
}

/// Ids and counts are never negative.
fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
