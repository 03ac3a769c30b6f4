//! What the embedded broker keeps on disk: `persistent:true` messages of queues, in SQLite.
//!
//! One thread owns the database. It commits what has gathered while the last commit was under
//! way, so that many senders share one sync. An answer goes out after the commit only.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, params};
use ulid::Ulid;

use crate::destination::Destination;
use crate::message::Message;
use crate::relay::error::{Refusal, RefusalKind};
use crate::relay::mailbox::{Event, Level, Mailbox, Token};
use crate::stomp::Headers;

/// Operations that wait for the disk before senders are held.
const PENDING: usize = 10_000;
/// Operations of one transaction.
const BATCH: usize = 1_000;
const SCHEMA: i64 = 1;

/// A message found at start-up.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) queue: Arc<str>,
    pub(super) number: u64,
    pub(super) message: Message,
}

/// Why the journal cannot be used; one line for the operator.
#[derive(Debug)]
pub struct JournalError(String);

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

enum Command {
    Append(Box<Append>),
    Remove(u64),
    Stop,
}

struct Append {
    queue: Arc<str>,
    number: u64,
    message: Arc<Message>,
    answer: Option<(Arc<Mailbox>, Token)>,
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
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<Record>), JournalError> {
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
        let records = load(&connection).map_err(describe)?;
        let (commands, receiver) = channel();
        let load = Arc::new(Load::default());
        let writer =
            Writer { path: path.to_owned(), connection, load: load.clone(), removes: vec![] };
        let thread = std::thread::Builder::new()
            .name("queue-journal".into())
            .spawn(move || writer.run(&receiver))
            .map_err(|error| JournalError(format!("cannot start the journal's thread: {error}")))?;
        Ok((Self { commands, load, thread: Mutex::new(Some(thread)) }, records))
    }

    pub(super) fn append(
        &self,
        queue: Arc<str>,
        number: u64,
        message: Arc<Message>,
        answer: Option<(Arc<Mailbox>, Token)>,
    ) {
        self.command(Command::Append(Box::new(Append { queue, number, message, answer })));
    }

    pub(super) fn remove(&self, number: u64) {
        self.command(Command::Remove(number));
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

    fn command(&self, command: Command) {
        self.load.pending.fetch_add(1, Ordering::SeqCst);
        // After close nobody is left who could be answered.
        let _ = self.commands.send(command);
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
    /// Numbers to remove whose transaction failed; they must not come back after a restart.
    removes: Vec<u64>,
}

impl Writer {
    fn run(mut self, commands: &Receiver<Command>) {
        let mut stop = false;
        while !stop {
            let Ok(first) = commands.recv() else { return };
            let mut appends = Vec::new();
            let mut count = 0;
            for command in std::iter::once(first).chain(commands.try_iter()).take(BATCH) {
                match command {
                    Command::Append(append) => appends.push(*append),
                    Command::Remove(number) => self.removes.push(number),
                    Command::Stop => {
                        stop = true;
                        break;
                    }
                }
                count += 1;
            }
            self.write(&appends);
            self.load.pending.fetch_sub(count, Ordering::SeqCst);
            let waiters = std::mem::take(
                &mut *self.load.waiters.lock().unwrap_or_else(PoisonError::into_inner),
            );
            waiters.into_iter().for_each(|waiter| waiter.event(Event::Room));
        }
    }

    fn write(&mut self, appends: &[Append]) {
        let result = self.commit(appends);
        match &result {
            Ok(()) => self.removes.clear(),
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "queue database");
            }
        }
        for append in appends {
            if let Some((mailbox, token)) = &append.answer {
                let result = match &result {
                    Ok(()) => Ok(Level::Stored),
                    Err(_) => Err(Refusal::new(
                        RefusalKind::Store,
                        "Not stored",
                        "the queue's store is not available; the message may be lost\n",
                    )),
                };
                mailbox.event(Event::Done { token: *token, result });
            }
        }
    }

    fn commit(&mut self, appends: &[Append]) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached(
                "INSERT INTO queue_message (number, queue, shown, xId, headers, body)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?;
            for Append { queue, number, message, .. } in appends {
                let headers: Vec<(&str, &str)> = message.headers.iter().collect();
                let headers = serde_json::to_string(&headers).unwrap_or_default();
                let x_id = message.x_id.map(|id| id.to_string());
                let number = i64::try_from(*number).unwrap_or(i64::MAX);
                insert.execute(params![
                    number,
                    &**queue,
                    message.shown,
                    x_id,
                    headers,
                    &message.body[..]
                ])?;
            }
            let mut delete =
                transaction.prepare_cached("DELETE FROM queue_message WHERE number = ?1")?;
            for number in &self.removes {
                delete.execute(params![i64::try_from(*number).unwrap_or(i64::MAX)])?;
            }
        }
        transaction.commit()
    }
}

/// Opens the database; `false` where it is somebody else's, which is left as it is.
fn connect(path: &Path) -> rusqlite::Result<(Connection, bool)> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if version != SCHEMA && (version != 0 || tables != 0) {
        return Ok((connection, false));
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS queue_message (
             number INTEGER PRIMARY KEY, queue TEXT NOT NULL, shown TEXT NOT NULL, xId TEXT,
             headers TEXT NOT NULL, body BLOB NOT NULL
         ) STRICT;
         PRAGMA user_version = 1;",
    )?;
    Ok((connection, true))
}

fn load(connection: &Connection) -> rusqlite::Result<Vec<Record>> {
    let mut select = connection.prepare(
        "SELECT number, queue, shown, xId, headers, body FROM queue_message ORDER BY number",
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
        let mut message =
            Message::new(Destination::Queue(queue.clone()), row.get(2)?, headers, body);
        message.persistent = true;
        message.x_id = x_id.and_then(|id| Ulid::from_string(&id).ok());
        Ok(Record { queue, number: u64::try_from(number).unwrap_or(0), message })
    })?;
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::mailbox::{Entry, MailboxLimits};
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
        let (journal, records) = Journal::open(&path).unwrap();
        assert!(records.is_empty());
        let mailbox = Mailbox::new(1, MailboxLimits { frames: 10, bytes: 1000 });
        for number in 1..=3 {
            let answer = (number == 3).then(|| (mailbox.clone(), 7));
            journal.append("q".into(), number, message(b"x\0\xff"), answer);
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
        let (_journal, records) = Journal::open(&path).unwrap();
        let numbers: Vec<u64> = records.iter().map(|record| record.number).collect();
        assert_eq!(numbers, [1, 3]);
        let found = &records[0].message;
        let original = message(b"x\0\xff");
        assert_eq!((&found.headers, &found.body), (&original.headers, &original.body));
        assert_eq!((found.x_id, found.persistent), (original.x_id, true));
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
