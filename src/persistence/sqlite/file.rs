//! The database file: whose it is, who else has it open, and whether it is still there.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::migrations::{self, APPLICATION_ID, NEWEST};
use crate::persistence::StoreError;

/// A foreign lock is waited for this long.
pub(super) const BUSY: Duration = Duration::from_secs(5);
/// Only the owner reads messages.
const MODE: u32 = 0o600;

/// The path of an open database, and the lock that keeps a second relay away.
#[derive(Debug)]
pub(super) struct DatabaseFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
    _lock: File,
}

impl DatabaseFile {
    /// Opens or creates the database, checked and with its tables up to date.
    ///
    /// # Errors
    /// One line with the path. A file that is not ours, or of a newer version, is not touched.
    pub(super) fn open(path: PathBuf) -> Result<(Self, Connection), StoreError> {
        // Locked before the file is looked at: closing a second descriptor of a database would
        // drop the POSIX locks that a first one in this process holds.
        let lock = lock(&path)?;
        let what = |error: &dyn std::fmt::Display| format!("store {}: {error}", path.display());
        match head(&path).map_err(|error| StoreError::Broken(what(&error)))? {
            Head::Missing => create(&path).map_err(|error| reword(error, &path))?,
            Head::Ours => check_version(&path)?,
            Head::Foreign(why) => {
                return Err(StoreError::Broken(what(&format_args!(
                    "{why}; the file was not touched"
                ))));
            }
        }
        let connection = connect(&path).map_err(|error| reword(error, &path))?;
        let identity = identity(&path).map_err(|error| StoreError::Broken(what(&error)))?;
        Ok((Self { path, identity, _lock: lock }, connection))
    }

    /// Whether the path still leads to the open file: nothing is stored into an unlinked inode.
    ///
    /// # Errors
    /// `Unavailable` where it does not.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        match identity(&self.path) {
            Ok(identity) if identity == self.identity => Ok(()),
            _ => Err(StoreError::Unavailable(format!(
                "store {}: the file was moved, deleted or replaced while it was open",
                self.path.display()
            ))),
        }
    }
}

enum Head {
    /// No file, or an empty one.
    Missing,
    Ours,
    Foreign(&'static str),
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let opened = OpenOptions::new().create(true).append(true).mode(MODE).open(&name);
    let file = opened.map_err(|error| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or_else(|| Path::new("."));
        StoreError::Broken(match error.kind() {
            io::ErrorKind::NotFound => {
                format!("store {}: the folder {} does not exist", path.display(), folder.display())
            }
            _ => format!(
                "store {}: cannot write in the folder {}: {error}",
                path.display(),
                folder.display()
            ),
        })
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Broken(format!(
            "store {}: another relay has it open ({} is locked); one relay per SQLite store, \
             several share a Redis",
            path.display(),
            Path::new(&name).display()
        ))),
        Err(TryLockError::Error(error)) => Err(StoreError::Broken(format!(
            "store {}: cannot lock {}: {error}",
            path.display(),
            Path::new(&name).display()
        ))),
    }
}

/// Looks at the first 100 bytes (SQLite file format, section 1.3) without SQLite, which might
/// recover or checkpoint what is not ours.
fn head(path: &Path) -> io::Result<Head> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Head::Missing),
        Err(error) => return Err(error),
    };
    let mut head = Vec::with_capacity(100);
    file.take(100).read_to_end(&mut head)?;
    Ok(match (head.get(..16), head.get(68..72)) {
        (None, _) if head.is_empty() => Head::Missing,
        (Some(b"SQLite format 3\0"), Some(id)) if id == APPLICATION_ID.to_be_bytes() => Head::Ours,
        (Some(b"SQLite format 3\0"), Some(_)) => {
            Head::Foreign("this database belongs to another program")
        }
        _ => Head::Foreign("this is not an SQLite database"),
    })
}

/// Builds the database beside its place and moves it there when it is whole, so that a crash
/// leaves nothing that looks foreign.
fn create(path: &Path) -> Result<(), StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let io = |error: io::Error| StoreError::Broken(error.to_string());
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    // SQLite gives its side files the mode of the database.
    OpenOptions::new().create_new(true).write(true).mode(MODE).open(&new).map_err(io)?;
    let mut connection = Connection::open(&new)?;
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    migrations::migrate(&mut connection)?;
    connection.close().map_err(|(_, error)| error)?;
    fs::rename(&new, path).map_err(io)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = File::open(folder.unwrap_or_else(|| Path::new("."))).map_err(io)?;
    folder.sync_all().map_err(io)
}

/// A read-only connection neither recovers nor checkpoints.
fn check_version(path: &Path) -> Result<(), StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let read = || {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY)?;
        migrations::version(&connection)
    };
    let version = read().map_err(|error| reword(error.into(), path))?;
    if version > NEWEST {
        return Err(StoreError::Broken(format!(
            "store {}: written by a newer stomp-relay (version {version} of the tables, this \
             program knows {NEWEST}); the file was not touched",
            path.display()
        )));
    }
    Ok(())
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", (), |row| row.get(0))?;
    if mode != "wal" {
        return Err(StoreError::Broken(
            "this file system cannot share memory, which SQLite's write-ahead log needs".into(),
        ));
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", (), |row| row.get(0))?;
    if verdict != "ok" {
        let verdict = verdict.replace('\n', " ");
        return Err(StoreError::Broken(format!("the database is corrupt: {verdict}")));
    }
    migrations::migrate(&mut connection)?;
    Ok(connection)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn reword(error: StoreError, path: &Path) -> StoreError {
    let say = |text: String| format!("store {}: {text}", path.display());
    match error {
        StoreError::Unavailable(text) => StoreError::Unavailable(say(text)),
        StoreError::Broken(text) => StoreError::Broken(say(text)),
    }
}
