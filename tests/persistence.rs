//! Stores of unread messages: the suite of all stores on SQLite and in memory, and what only a
//! file can suffer.

#[cfg(test)]
#[path = "../system-tests/src/store_suite.rs"]
mod store_suite;

#[cfg(test)]
mod memory {
    use crate::store_suite::{Ground, store_suite};

    store_suite!(Ground { url: "memory:".into(), durable: false, _guard: Box::new(()) });
}

#[cfg(test)]
mod sqlite {
    use crate::store_suite::{Ground, store_suite};

    store_suite!({
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("a.db").display());
        Ground { url, durable: true, _guard: Box::new(folder) }
    });
}

#[cfg(test)]
mod file {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};
    use std::time::{Duration, Instant};

    use rusqlite::Connection;
    use stomp_relay::destination::{Destination, UserDestination};
    use stomp_relay::message::Message;
    use stomp_relay::persistence::{Keep, Op, Store, StoreError};
    use stomp_relay::stomp::Headers;
    use tempfile::TempDir;

    use crate::store_suite::{WIDE, append, page, say};

    fn message() -> Op {
        let (user, target) = ("a".into(), "queue/x".into());
        let destination = Destination::User(UserDestination { user, target });
        let shown = destination.to_string();
        append(
            Message::new(destination, shown.into(), Headers::default(), "b".into()),
            Keep::IfAbsent,
        )
    }

    fn register() -> Op {
        Op::Register { user: "a".into(), target: "queue/x".into(), session: 1 }
    }

    async fn open(path: &Path) -> Result<Store, StoreError> {
        Store::open(&format!("sqlite:{}", path.display()), WIDE, "n").await
    }

    fn fresh() -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        (folder, path)
    }

    async fn refusal(path: &Path) -> String {
        match open(path).await {
            Err(StoreError::Broken(text)) if !text.contains('\n') => text,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn what_is_answered_is_in_the_files() {
        let (folder, path) = fresh();
        let store = open(&path).await.unwrap();
        for id in 1..=20 {
            store.apply(vec![message(), message()]).await.unwrap();
            // As a kill -9 leaves them.
            let copy = folder.path().join(format!("{id}.db"));
            for side in ["", "-wal"] {
                let from = format!("{}{side}", path.display());
                fs::copy(from, format!("{}{side}", copy.display())).unwrap();
            }
            let copy = open(&copy).await.unwrap();
            let outcomes = copy.apply(vec![page("a", None, 2 * id - 2, 9)]).await.unwrap();
            let expected = format!("[{}, {}] left 0 truncated 0", 2 * id - 1, 2 * id);
            assert_eq!(say(&outcomes[0]), expected);
        }
    }

    #[tokio::test]
    async fn a_foreign_lock_is_waited_for_and_then_refused() {
        let (_folder, path) = fresh();
        let store = open(&path).await.unwrap();
        let other = Connection::open(&path).unwrap();
        other.execute_batch("BEGIN EXCLUSIVE").unwrap();
        let begun = Instant::now();
        let refused = store.apply(vec![register(), message(), message()]).await;
        assert!(refused.is_ok(), "what needs no write needs no lock: {refused:?}");
        let ops = vec![Op::Unregister { user: "a".into(), target: "queue/x".into(), session: 1 }];
        let refused = store.apply([ops, vec![message()]].concat()).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
        assert!(begun.elapsed() >= Duration::from_secs(4), "{:?}", begun.elapsed());
        other.execute_batch("ROLLBACK").unwrap();
        // The refused batch counts for nothing, its change of presence neither.
        let outcomes = store.apply(vec![message()]).await.unwrap();
        assert_eq!(say(&outcomes[0]), "- old present unread 0 truncated 0");
        assert!(store.ready().await);
    }

    #[tokio::test]
    async fn a_second_relay_is_refused_until_the_first_ends() {
        let (_folder, path) = fresh();
        let store = open(&path).await.unwrap();
        store.apply(vec![message()]).await.unwrap();
        assert!(refusal(&path).await.contains("another relay has it open"));
        store.apply(vec![message()]).await.unwrap();
        store.close().await;
        open(&path).await.unwrap().close().await;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn what_is_not_ours_is_not_touched() {
        let (folder, _) = fresh();
        let newer = folder.path().join("newer.db");
        open(&newer).await.unwrap().close().await;
        Connection::open(&newer).unwrap().pragma_update(None, "user_version", 99).unwrap();
        let foreign = folder.path().join("foreign.db");
        Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
        let text = folder.path().join("text.db");
        fs::write(&text, "not a database, but somebody's notes").unwrap();
        for (path, expected) in [
            (newer, "written by a newer stomp-relay (version 99"),
            (foreign, "belongs to another program"),
            (text, "not an SQLite database"),
        ] {
            let before = fs::read(&path).unwrap();
            let said = refusal(&path).await;
            assert!(said.contains(expected) && said.contains("not touched"), "{said}");
            assert_eq!(fs::read(&path).unwrap(), before, "{}", path.display());
        }
    }

    #[tokio::test]
    async fn start_says_what_is_wrong() {
        let (folder, path) = fresh();
        fs::write(&path, "").unwrap();
        open(&path).await.unwrap().close().await;
        assert!(refusal(&folder.path().join("no/a.db")).await.contains("does not exist"));
        assert!(refusal(&path.join("a.db")).await.contains("cannot write in the folder"));
        for url in ["mysql://u:secret@h/", "sqlite:", "redis", "memory:x", ""] {
            let error = Store::open(url, WIDE, "n").await.unwrap_err().to_string();
            assert!(error.contains("store.url"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_corrupt_file_is_refused() {
        let (_folder, path) = fresh();
        let store = open(&path).await.unwrap();
        store.apply(vec![message(); 100]).await.unwrap();
        store.close().await;
        let mut bytes = fs::read(&path).unwrap();
        for byte in &mut bytes[4096..8 * 4096] {
            *byte ^= 0x5a;
        }
        fs::write(&path, &bytes).unwrap();
        refusal(&path).await;
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }

    #[tokio::test]
    async fn nothing_is_stored_into_a_file_that_is_gone() {
        let (_folder, path) = fresh();
        let store = open(&path).await.unwrap();
        store.apply(vec![message()]).await.unwrap();
        let moved = path.with_extension("moved");
        fs::rename(&path, &moved).unwrap();
        let refused = store.apply(vec![message()]).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
        assert!(!store.ready().await);
        fs::rename(&moved, &path).unwrap();
        assert!(store.ready().await);
        let outcomes = store.apply(vec![message()]).await.unwrap();
        assert_eq!(say(&outcomes[0]), "2 new absent unread 2 truncated 0");
    }
}
