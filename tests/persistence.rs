//! Stores of unread messages: the suite of all stores on SQLite and in memory, and what only a
//! file can suffer.

#[cfg(test)]
#[path = "../system-tests/src/store_suite.rs"]
mod store_suite;

mod memory {
    use crate::store_suite::{Ground, store_suite};

    store_suite!(Ground { url: "memory:".into(), durable: false, _guard: Box::new(()) });
}

mod sqlite {
    use crate::store_suite::{Ground, store_suite};

    store_suite!({
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("a.db").display());
        Ground { url, durable: true, _guard: Box::new(folder) }
    });
}
