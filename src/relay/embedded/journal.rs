//! What the embedded broker keeps on disk, in SQLite: `persistent:true` messages of durable
//! queues, and what queues are that are more than a name, such as durable subscriptions.
//!
//! One thread owns the database. It commits what has gathered while the last commit was under
//! way, so that many senders share one sync. An answer goes out after the commit only.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rusqlite::{Connection, params};
use ulid::Ulid;

use super::stored_queue::StoredQueue;
use crate::destination::Destination;
use crate::message::Message;
use crate::relay::error::{Refusal, RefusalKind};
use crate::relay::mailbox::{Event, Level, Mailbox, Token};
use crate::stomp::Headers;

/// Operations that wait for the disk before senders are held.
const PENDING: usize = 10_000;
/// Operations of one transaction.
const BATCH: usize = 1_000;
const SCHEMA: i64 = 2;

/// A message found at start-up.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) queue: Arc<str>,
    pub(super) number: u64,
    pub(super) message: Message,
    pub(super) expires: Option<SystemTime>,
}

/// What was found at start-up.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) queues: Vec<StoredQueue>,
    /// In the order in which they came.
    pub(super) messages: Vec<Record>,
}

/// A message to keep.
#[derive(Debug)]
pub(super) struct Append {
    pub(super) queue: Arc<str>,
    pub(super) number: u64,
    pub(super) message: Arc<Message>,
    pub(super) expires: Option<SystemTime>,
}

/// Why the journal cannot be used; one line for the operator.
#[derive(Debug)]
pub struct JournalError(String);

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who is told that it is on disk.
pub(super) type Answer = Option<(Arc<Mailbox>, Token)>;

enum Command {
    Change(Change, Answer),
    Stop,
}

/// Changes are made in their order.
enum Change {
    Append(Box<Append>),
    Remove(u64),
    Declare(Box<StoredQueue>),
    /// The queue and all that is in it.
    Delete(Arc<str>),
}

impl Change {
    /// Whether it is made later where it could not be made now: what was settled or deleted must
    /// not come back after a restart.
    const fn must_be(&self) -> bool {
        matches!(self, Self::Remove(_) | Self::Delete(_))
    }
}

/// Handle of the thread that writes.
pub(super) struct Journal {
    commands: Sender<Command>,
    load: Arc<Load>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// How much waits for the disk, and who waits for room.
#[derive(Default)]
struct Load {
    pending: AtomicUsize,
    waiters: Mutex<Vec<Arc<Mailbox>>>,
}

impl Journal {
    /// Opens or makes the database and reads what it holds.
    pub(super) fn open(path: &Path) -> Result<(Self, Found), JournalError> {
        let describe = |error: rusqlite::Error| {
            JournalError(format!("cannot open the queue database {}: {error}", path.display()))
        };
        let (connection, is_ours) = connect(path).map_err(describe)?;
        if !is_ours {
            return Err(JournalError(format!(
                "{} is not a queue database of this version; \
                 move it away or name another with broker.url = \"embedded:PATH\"",
                path.display()
            )));
        }
        let found = load(&connection).map_err(describe)?;
        let (commands, receiver) = channel();
        let load = Arc::new(Load::default());
        let writer = Writer { path: path.to_owned(), connection, load: load.clone(), left: vec![] };
        let thread = std::thread::Builder::new()
            .name("queue-journal".into())
            .spawn(move || writer.run(&receiver))
            .map_err(|error| JournalError(format!("cannot start the journal's thread: {error}")))?;
        Ok((Self { commands, load, thread: Mutex::new(Some(thread)) }, found))
    }

    pub(super) fn append(&self, append: Append, answer: Answer) {
        self.change(Change::Append(Box::new(append)), answer);
    }

    pub(super) fn remove(&self, number: u64) {
        self.change(Change::Remove(number), None);
    }

    /// Keeps what a queue is; one of that name is replaced.
    pub(super) fn declare(&self, queue: StoredQueue, answer: Answer) {
        self.change(Change::Declare(Box::new(queue)), answer);
    }

    pub(super) fn delete(&self, queue: Arc<str>) {
        self.change(Change::Delete(queue), None);
    }

    /// Whether senders may go on; where not, `waiter` hears of it.
    pub(super) fn has_room(&self, waiter: &Arc<Mailbox>) -> bool {
        if self.load.pending.load(Ordering::Relaxed) < PENDING {
            return true;
        }
        let mut waiters = self.load.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at again under the lock that the writer takes after counting down.
        if self.load.pending.load(Ordering::SeqCst) < PENDING {
            return true;
        }
        waiters.push(waiter.clone());
        false
    }

    /// Writes what waits and ends the thread.
    pub(super) fn close(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // An error means that the thread has ended already.
            let _ = self.commands.send(Command::Stop);
            let _ = thread.join();
        }
    }

    fn change(&self, change: Change, answer: Answer) {
        self.load.pending.fetch_add(1, Ordering::SeqCst);
        // After close nobody is left who could be answered.
        let _ = self.commands.send(Command::Change(change, answer));
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pending = self.load.pending.load(Ordering::Relaxed);
        f.debug_struct("Journal").field("pending", &pending).finish_non_exhaustive()
    }
}

struct Writer {
    path: PathBuf,
    connection: Connection,
    load: Arc<Load>,
    /// Changes whose transaction failed and that must be made all the same.
    left: Vec<Change>,
}

impl Writer {
    fn run(mut self, commands: &Receiver<Command>) {
        let mut stop = false;
        while !stop {
            let Ok(first) = commands.recv() else { return };
            let mut changes = Vec::new();
            let mut answers = Vec::new();
            let mut count = 0;
            for command in std::iter::once(first).chain(commands.try_iter()).take(BATCH) {
                match command {
                    Command::Change(change, answer) => {
                        changes.push(change);
                        answers.extend(answer);
                    }
                    Command::Stop => {
                        stop = true;
                        break;
                    }
                }
                count += 1;
            }
            self.write(changes, answers);
            self.load.pending.fetch_sub(count, Ordering::SeqCst);
            let waiters = std::mem::take(
                &mut *self.load.waiters.lock().unwrap_or_else(PoisonError::into_inner),
            );
            waiters.into_iter().for_each(|waiter| waiter.event(Event::Room));
        }
    }

    fn write(&mut self, changes: Vec<Change>, answers: Vec<(Arc<Mailbox>, Token)>) {
        self.left.extend(changes);
        let result = self.commit();
        match &result {
            Ok(()) => self.left.clear(),
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "queue database");
                self.left.retain(Change::must_be);
            }
        }
        for (mailbox, token) in answers {
            let result = match &result {
                Ok(()) => Ok(Level::Stored),
                Err(_) => Err(Refusal::new(
                    RefusalKind::Store,
                    "Not stored",
                    "the queue's store is not available; the message may be lost\n",
                )),
            };
            mailbox.event(Event::Done { token, result });
        }
    }

    fn commit(&mut self) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        for change in &self.left {
            match change {
                Change::Append(append) => insert(&transaction, append)?,
                Change::Remove(number) => {
                    transaction
                        .prepare_cached("DELETE FROM queue_message WHERE number = ?1")?
                        .execute(params![to_i64(*number)])?;
                }
                Change::Declare(queue) => {
                    transaction
                        .prepare_cached(
                            "INSERT OR REPLACE INTO queue (name, what) VALUES (?1, ?2)",
                        )?
                        .execute(params![&*queue.name, queue.to_json()])?;
                }
                Change::Delete(name) => {
                    for table in ["queue WHERE name", "queue_message WHERE queue"] {
                        transaction
                            .prepare_cached(&format!("DELETE FROM {table} = ?1"))?
                            .execute(params![&**name])?;
                    }
                }
            }
        }
        transaction.commit()
    }
}

fn insert(connection: &Connection, append: &Append) -> rusqlite::Result<()> {
    let Append { queue, number, message, expires } = append;
    let headers: Vec<(&str, &str)> = message.headers.iter().collect();
    let headers = serde_json::to_string(&headers).unwrap_or_default();
    let x_id = message.x_id.map(|id| id.to_string());
    connection
        .prepare_cached(
            "INSERT INTO queue_message (number, queue, shown, xId, headers, body, expiresAt)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            to_i64(*number),
            &**queue,
            message.shown,
            x_id,
            headers,
            &message.body[..],
            expires.map(to_milliseconds)
        ])?;
    Ok(())
}

fn to_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn to_milliseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Opens the database; `false` where it is somebody else's, which is left as it is.
fn connect(path: &Path) -> rusqlite::Result<(Connection, bool)> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let is_known = (1..=SCHEMA).contains(&version) || (version == 0 && tables == 0);
    if !is_known {
        return Ok((connection, false));
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "trusted_schema", false)?;
    // Each step leads from one version to the next, and is made as a whole or not at all.
    let steps = [
        "CREATE TABLE queue_message (
             number INTEGER PRIMARY KEY, queue TEXT NOT NULL, shown TEXT NOT NULL, xId TEXT,
             headers TEXT NOT NULL, body BLOB NOT NULL
         ) STRICT",
        "ALTER TABLE queue_message ADD COLUMN expiresAt INTEGER;
         CREATE INDEX queue_message_queue ON queue_message (queue);
         CREATE TABLE queue (name TEXT PRIMARY KEY, what TEXT NOT NULL) STRICT, WITHOUT ROWID",
    ];
    let from = usize::try_from(version).unwrap_or(0);
    for (number, step) in (1..).zip(steps).skip(from) {
        connection
            .execute_batch(&format!("BEGIN; {step}; PRAGMA user_version = {number}; COMMIT;"))?;
    }
    Ok((connection, true))
}

fn load(connection: &Connection) -> rusqlite::Result<Found> {
    let mut select = connection.prepare("SELECT name, what FROM queue ORDER BY name")?;
    let rows = select.query_map([], |row| {
        let (name, what): (String, String) = (row.get(0)?, row.get(1)?);
        Ok(StoredQueue::from_json(&name, &what))
    })?;
    let queues = rows.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().flatten().collect();
    let mut select = connection.prepare(
        "SELECT number, queue, shown, xId, headers, body, expiresAt
         FROM queue_message ORDER BY number",
    )?;
    let rows = select.query_map([], |row| {
        let number: i64 = row.get(0)?;
        let queue: Arc<str> = row.get::<_, String>(1)?.into();
        let headers: String = row.get(4)?;
        let headers: Vec<(String, String)> = serde_json::from_str(&headers).unwrap_or_default();
        let headers: Headers =
            headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let body = Bytes::from(row.get::<_, Vec<u8>>(5)?);
        let x_id = row.get::<_, Option<String>>(3)?;
        let expires: Option<u64> = row.get::<_, Option<i64>>(6)?.and_then(|at| at.try_into().ok());
        let mut message = Message::new(
            Destination::Queue(queue.clone()),
            row.get::<_, String>(2)?.into(),
            headers,
            body,
        );
        message.persistent = true;
        message.x_id = x_id.and_then(|id| Ulid::from_string(&id).ok());
        Ok(Record {
            queue,
            number: u64::try_from(number).unwrap_or(0),
            message,
            expires: expires.map(|at| UNIX_EPOCH + Duration::from_millis(at)),
        })
    })?;
    let messages = rows.collect::<rusqlite::Result<_>>()?;
    Ok(Found { queues, messages })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::{Exchange, Topic};
    use crate::relay::mailbox::{Entry, MailboxLimits};
    use crate::relay::origin::{Arguments, Declaration};
    use std::task::{Context, Poll, Waker};
    use std::time::Instant;

    fn message(body: &'static [u8]) -> Arc<Message> {
        let headers: Headers = [("a", "b"), ("a", "c:\n")].into_iter().collect();
        let destination = Destination::for_send("/queue/q").unwrap();
        let mut message =
            Message::new(destination, "/queue/q".into(), headers, Bytes::from_static(body));
        message.persistent = true;
        message.x_id = Some(Ulid::from_parts(1, 2));
        Arc::new(message)
    }

    #[test]
    fn what_is_answered_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("q.db");
        let (journal, found) = Journal::open(&path).unwrap();
        assert!(found.messages.is_empty() && found.queues.is_empty());
        let mailbox = Mailbox::new(1, MailboxLimits { frames: 10, bytes: 1000 });
        for number in 1..=3 {
            let answer = (number == 3).then(|| (mailbox.clone(), 7));
            let expires =
                (number == 1).then(|| UNIX_EPOCH + Duration::from_millis(1_800_000_000_123));
            let message = message(b"x\0\xff");
            journal.append(Append { queue: "q".into(), number, message, expires }, answer);
        }
        journal.remove(2);
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut entries = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        while mailbox.poll_take(&mut cx, 1000, Some(&mut entries)) == Poll::Pending {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        let [Entry::Event(event)] = entries.as_slice() else { panic!("one event") };
        assert!(matches!(**event, Event::Done { token: 7, result: Ok(Level::Stored) }));
        journal.close();
        let (_journal, found) = Journal::open(&path).unwrap();
        let records = found.messages;
        let kept: Vec<_> =
            records.iter().map(|r| (r.number, r.expires.map(to_milliseconds))).collect();
        assert_eq!(kept, [(1, Some(1_800_000_000_123)), (3, None)]);
        let found = &records[0].message;
        let original = message(b"x\0\xff");
        assert_eq!((&found.headers, &found.body), (&original.headers, &original.body));
        assert_eq!((found.x_id, found.persistent), (original.x_id, true));
    }

    #[test]
    fn a_queue_is_kept_until_it_is_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("q.db");
        let stored = |name: &str, ttl| StoredQueue {
            name: name.into(),
            declaration: Declaration {
                arguments: Arguments { message_ttl: ttl, ..Arguments::default() },
                ..Declaration::QUEUE
            },
            bindings: vec![
                Destination::Topic(Topic::from_key("a.*")),
                Destination::Exchange(Exchange { name: "amq.direct".into(), key: "k".into() }),
            ],
        };
        let (journal, _) = Journal::open(&path).unwrap();
        for (name, ttl) in [("a", None), ("b", None), ("a", Some(7))] {
            journal.declare(stored(name, ttl), None);
        }
        for (number, queue) in (1..).zip(["a", "b"]) {
            let (queue, message) = (queue.into(), message(b"x"));
            journal.append(Append { queue, number, message, expires: None }, None);
        }
        journal.delete("b".into());
        journal.close();
        let (_journal, found) = Journal::open(&path).unwrap();
        assert_eq!(found.queues, [stored("a", Some(7))]);
        let queues: Vec<&str> = found.messages.iter().map(|record| &*record.queue).collect();
        assert_eq!(queues, ["a"]);
    }

    #[test]
    fn a_database_of_the_first_version_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("q.db");
        let first = "CREATE TABLE queue_message (
                number INTEGER PRIMARY KEY, queue TEXT NOT NULL, shown TEXT NOT NULL, xId TEXT,
                headers TEXT NOT NULL, body BLOB NOT NULL
            ) STRICT;
            INSERT INTO queue_message VALUES (5, 'q', '/queue/q', NULL, '[[\"a\",\"b\"]]', x'78');
            PRAGMA user_version = 1;";
        Connection::open(&path).unwrap().execute_batch(first).unwrap();
        let (_journal, found) = Journal::open(&path).unwrap();
        let [record] = found.messages.as_slice() else { panic!("one message") };
        assert_eq!((record.number, &record.message.body[..]), (5, &b"x"[..]));
        assert_eq!(record.message.headers.get("a"), Some("b"));
    }

    #[test]
    fn somebody_elses_database_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("q.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE other (a)").unwrap();
        let error = Journal::open(&path).unwrap_err().to_string();
        assert!(error.contains("is not a queue database"), "{error}");
    }
}
