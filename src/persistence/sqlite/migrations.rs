//! The tables, version by version; `PRAGMA user_version` says which one a file has.

use rusqlite::Connection;

/// Marks a file as ours ("STRL"), so that nobody else's database is ever written to.
pub(super) const APPLICATION_ID: u32 = 0x5354_524C;

/// What leads from version n to n + 1. Steps are added, never changed.
const STEPS: [&str; 1] = [UNREAD];

/// The version this program writes.
pub(super) const NEWEST: u32 = 1;

/// `unread.seq` is the order over all users, `unread.id` the one of a user. `unread_user` stays
/// when everything was read, since ids are never used twice. `unread_gone` remembers x-ids of
/// messages that were read or dropped. `unread_dropped` has the runs of ids that the caps made
/// go; one without a target is a merged run of which only the number is known.
const UNREAD: &str = "
CREATE TABLE unread_user (
    user     INTEGER PRIMARY KEY,
    name     TEXT    NOT NULL UNIQUE,
    last_id  INTEGER NOT NULL DEFAULT 0,
    messages INTEGER NOT NULL DEFAULT 0,
    bytes    INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE unread (
    seq        INTEGER PRIMARY KEY,
    user       INTEGER NOT NULL REFERENCES unread_user (user),
    id         INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    bytes      INTEGER NOT NULL,
    x_id       BLOB,
    persistent INTEGER NOT NULL,
    target     TEXT    NOT NULL,
    headers    TEXT    NOT NULL,
    body       BLOB    NOT NULL
) STRICT;
CREATE UNIQUE INDEX unread_id ON unread (user, id);
CREATE UNIQUE INDEX unread_x_id ON unread (user, x_id);
CREATE INDEX unread_target ON unread (user, target, id, created_at);
CREATE INDEX unread_age ON unread (user, created_at);
CREATE TABLE unread_gone (
    seq  INTEGER PRIMARY KEY,
    user INTEGER NOT NULL,
    x_id BLOB    NOT NULL,
    at   INTEGER NOT NULL,
    UNIQUE (user, x_id)
) STRICT;
CREATE TABLE unread_dropped (
    user     INTEGER NOT NULL,
    first_id INTEGER NOT NULL,
    last_id  INTEGER NOT NULL,
    target   TEXT,
    number   INTEGER NOT NULL,
    PRIMARY KEY (user, first_id)
) STRICT, WITHOUT ROWID;
";

/// Brings the tables up to date, each step in a transaction of its own.
///
/// # Errors
/// What SQLite says; the step is undone.
pub(super) fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let version = version(connection)?;
    for (number, step) in (1_u32..).zip(STEPS) {
        if number > version {
            let transaction = connection.transaction()?;
            transaction.execute_batch(step)?;
            transaction.pragma_update(None, "user_version", number)?;
            transaction.commit()?;
        }
    }
    Ok(())
}

/// # Errors
/// What SQLite says.
pub(super) fn version(connection: &Connection) -> rusqlite::Result<u32> {
    connection.query_row("PRAGMA user_version", (), |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_taken_once() {
        assert_eq!(STEPS.len(), NEWEST as usize);
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        migrate(&mut connection).unwrap();
        assert_eq!(version(&connection).unwrap(), NEWEST);
    }
}
