//! The embedded store: one thread owns the connection, and a batch is at most one transaction.
//!
//! Beside the database `PATH` lie SQLite's own `PATH-wal` and `PATH-shm`, and `PATH.lock`, which
//! a relay locks while it runs.

mod file;
mod migrations;
mod removal;
mod unread;

use std::path::PathBuf;
use std::thread;

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};

use super::presence::Presence;
use super::store::Request;
use super::{Caps, Op, Outcome, SWEEP_ROWS, StoreError};
use file::DatabaseFile;

/// Older ones can lose committed pages ("WAL-reset", fixed in 3.51.3).
const OLDEST_SQLITE: i32 = 3_051_003;
/// Age is looked after this often.
const SWEEP_MS: i64 = 30_000;

/// Starts the thread; with a path on a file, else in memory.
///
/// # Errors
/// One line why the store cannot be used.
pub(super) async fn start(
    path: Option<PathBuf>,
    caps: Caps,
    requests: mpsc::Receiver<Request>,
) -> Result<(), StoreError> {
    let (started, starting) = oneshot::channel();
    let run = move || match Database::open(path, caps) {
        Ok(database) => {
            if started.send(Ok(())).is_ok() {
                work(database, requests);
            }
        }
        // Nobody waits where the caller gave up.
        Err(error) => drop(started.send(Err(error))),
    };
    thread::Builder::new()
        .name("store".into())
        .spawn(run)
        .map_err(|error| StoreError::Unavailable(format!("store: no thread: {error}")))?;
    starting.await.map_err(|_| StoreError::Broken("store: the thread ended".into()))?
}

fn work(mut database: Database, mut requests: mpsc::Receiver<Request>) {
    let mut closing = None;
    while let Some(request) = requests.blocking_recv() {
        // An answer that nobody waits for is dropped: the effect stands all the same.
        match request {
            Request::Apply { now, ops, answer } => drop(answer.send(database.apply(now, &ops))),
            Request::Sweep { now, answer } => drop(answer.send(database.sweep(now))),
            Request::Tick { now } => database.tick(now),
            Request::Ready { answer } => drop(answer.send(database.probe())),
            Request::Close { answer } => {
                requests.close();
                closing = Some(answer);
            }
        }
    }
    database.close();
    if let Some(answer) = closing {
        answer.send(()).ok();
    }
}

/// Messages and bytes of all users.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    messages: i64,
    bytes: i64,
}

#[derive(Debug)]
struct Database {
    connection: Connection,
    /// None in memory.
    file: Option<DatabaseFile>,
    caps: Caps,
    presence: Presence,
    totals: Totals,
    /// Of the batch under way.
    now: i64,
    /// X-ids remembered by the batch under way.
    forgotten: i64,
    write_failed: bool,
    next_sweep: i64,
}

impl Database {
    fn open(path: Option<PathBuf>, caps: Caps) -> Result<Self, StoreError> {
        if rusqlite::version_number() < OLDEST_SQLITE {
            return Err(StoreError::Broken(format!(
                "store: SQLite {} can lose data; 3.51.3 or newer is needed",
                rusqlite::version()
            )));
        }
        let (file, connection) = match path {
            Some(path) => {
                let (file, connection) = DatabaseFile::open(path)?;
                (Some(file), connection)
            }
            None => {
                let mut connection = Connection::open_in_memory()?;
                migrations::migrate(&mut connection)?;
                (None, connection)
            }
        };
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "trusted_schema", false)?;
        connection.set_prepared_statement_cache_capacity(64);
        let totals = connection.query_row(
            "SELECT coalesce(sum(messages), 0), coalesce(sum(bytes), 0) FROM unread_user",
            (),
            |row| Ok(Totals { messages: row.get(0)?, bytes: row.get(1)? }),
        )?;
        Ok(Self {
            connection,
            file,
            caps,
            presence: Presence::default(),
            totals,
            now: 0,
            forgotten: 0,
            write_failed: false,
            next_sweep: 0,
        })
    }

    fn apply(&mut self, now: i64, ops: &[Op]) -> Result<Vec<Outcome>, StoreError> {
        self.batch(now, |database| ops.iter().map(|op| database.step(op)).collect())
    }

    /// Removes messages past their age: of the oldest [`SWEEP_ROWS`], and at most a tenth of all,
    /// so that a clock that jumped does not empty the store before somebody looks.
    fn sweep(&mut self, now: i64) -> Result<u64, StoreError> {
        self.batch(now, |database| database.drop_aged(SWEEP_ROWS))
    }

    fn tick(&mut self, now: i64) {
        // A clock set back must not stop the sweeps.
        if now < self.next_sweep && self.next_sweep - now <= SWEEP_MS {
            return;
        }
        self.next_sweep = now.saturating_add(SWEEP_MS);
        match self.sweep(now) {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "unread messages past their age are removed"),
            Err(error) => tracing::warn!(%error, "cannot remove unread messages past their age"),
        }
    }

    /// Runs `work`; its writes, if any, are one transaction. All of it counts or nothing.
    fn batch<T>(
        &mut self,
        now: i64,
        work: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let before = self.totals;
        self.now = now;
        self.forgotten = 0;
        let done = work(self).and_then(|value| self.commit().map(|()| value));
        if done.is_ok() {
            self.presence.keep();
        } else {
            self.roll_back();
            self.totals = before;
            self.presence.undo();
        }
        done
    }

    /// Called before every write; the first of a batch begins the transaction.
    fn begin(&mut self) -> Result<(), StoreError> {
        if !self.connection.is_autocommit() {
            return Ok(());
        }
        // Stays set until a commit succeeds.
        self.write_failed = true;
        if let Some(file) = &self.file {
            file.check()?;
        }
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute(())?;
        Ok(())
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        if self.connection.is_autocommit() {
            return Ok(());
        }
        if self.forgotten > 0 {
            self.forget_old_x_ids()?;
        }
        self.connection.prepare_cached("COMMIT")?.execute(())?;
        self.write_failed = false;
        Ok(())
    }

    fn roll_back(&self) {
        // SQLite may have rolled back by itself, where the disk is full for example.
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "the store cannot roll back");
        }
    }

    /// Reads; after a failed write also writes, since reading says nothing about a full disk.
    fn probe(&mut self) -> bool {
        let probed = if self.write_failed {
            self.batch(self.now, |database| {
                database.begin()?;
                let version = migrations::version(&database.connection)?;
                Ok(database.connection.pragma_update(None, "user_version", version)?)
            })
        } else {
            self.file.as_ref().map_or(Ok(()), DatabaseFile::check).and_then(|()| {
                let read = "SELECT EXISTS (SELECT 1 FROM unread_user)";
                Ok(self.connection.prepare_cached(read)?.query_row((), |_| Ok(()))?)
            })
        };
        probed.inspect_err(|error| tracing::warn!(%error, "the store is not ready")).is_ok()
    }

    fn close(self) {
        self.connection.flush_prepared_statement_cache();
        // Closing the last connection checkpoints; this says so where it fails.
        let checkpointed =
            self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()));
        let closed = self.connection.close().map_err(|(_, error)| error);
        if let Err(error) = checkpointed.and(closed) {
            tracing::warn!(%error, "the store was not closed cleanly; nothing is lost by it");
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let text = error.to_string();
        match error.sqlite_error_code() {
            Some(
                ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::ConstraintViolation
                | ErrorCode::TypeMismatch
                | ErrorCode::ApiMisuse
                | ErrorCode::ParameterOutOfRange,
            )
            // Not SQLite's: a column that does not hold what we wrote.
            | None => Self::Broken(text),
            Some(_) => Self::Unavailable(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::destination::{Destination, UserDestination};
    use crate::message::Message;
    use crate::persistence::{Keep, Which};
    use crate::stomp::Headers;

    fn message(body: usize) -> Op {
        let (user, target) = (Arc::from("a"), Arc::from("queue/x"));
        let destination = Destination::User(UserDestination { user, target });
        let body = Bytes::from(vec![0; body]);
        let message = Message::new(destination, "".into(), Headers::default(), body);
        Op::Append { message: Arc::new(message), keep: Keep::Always }
    }

    #[test]
    fn a_full_disk_refuses_whole_batches_and_recovers() {
        let folder = tempfile::tempdir().unwrap();
        let age = Duration::from_secs(9);
        let caps = Caps { messages: 1_000, bytes: 1 << 30, age, total_bytes: 1 << 30 };
        let mut database = Database::open(Some(folder.path().join("a.db")), caps).unwrap();
        let limit = |database: &Database, pages: u32| {
            database
                .connection
                .query_row(&format!("PRAGMA max_page_count = {pages}"), (), |_| Ok(()))
                .unwrap();
        };
        let count = |database: &mut Database| {
            let read = Op::MarkRead { user: Arc::from("a"), which: Which::Ids(vec![]) };
            format!("{:?}", database.apply(1, &[read]).unwrap())
        };
        database.apply(1, &[message(10)]).unwrap();
        limit(&database, 1);
        let full = database.apply(1, &[message(10), message(100_000)]).unwrap_err();
        assert!(matches!(full, StoreError::Unavailable(_)), "{full:?}");
        assert!(count(&mut database).contains("unread: 1"));
        assert_eq!((database.totals.messages, database.totals.bytes), (1, 10));
        limit(&database, 1_000_000);
        assert!(database.probe());
        assert!(!database.write_failed);
        database.apply(1, &[message(10), message(100_000)]).unwrap();
        assert!(count(&mut database).contains("unread: 3"));
        let totals = database.totals;
        database.close();
        let database = Database::open(Some(folder.path().join("a.db")), caps).unwrap();
        assert_eq!(format!("{:?}", database.totals), format!("{totals:?}"));
    }
}
