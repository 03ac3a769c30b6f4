//! Properties: what holds of every input, tried with many that nobody thought of.
//!
//! A failure is shrunk and shown as the shortest case there is. `PROPTEST_CASES` says how many
//! cases each property has; by default they are as few as a minute for all tests allows.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in tests a panic is how to fail")]

mod harness;
#[path = "harness/memory.rs"]
mod memory;
#[path = "../fuzz/targets/mod.rs"]
mod targets;

mod properties {
    mod codec;
    mod machine;
    mod model;
    mod sessions;
    mod story;
    mod world;

    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Once;

    use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError};

    /// `default` cases, or as many as the environment says.
    pub(crate) fn cases(default: u32) -> Config {
        let config = Config::default();
        let is_set = std::env::var_os("PROPTEST_CASES").is_some();
        Config {
            cases: if is_set { config.cases } else { default },
            failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
                "proptest-regressions/properties.txt",
            ))),
            ..config
        }
    }

    thread_local! {
        static QUIET: Cell<bool> = const { Cell::new(false) };
    }

    /// Does something and makes an error of its panic. Nothing is printed: a case is tried many
    /// times while it is shrunk, and only the last one is worth reading.
    pub(crate) fn caught<T>(act: impl FnOnce() -> T) -> Result<T, String> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let usual = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                if !QUIET.get() {
                    usual(info);
                }
            }));
        });
        let was_quiet = QUIET.replace(true);
        let result = catch_unwind(AssertUnwindSafe(act));
        QUIET.set(was_quiet);
        result.map_err(|panic| {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            text.or_else(|| panic.downcast_ref().cloned()).unwrap_or_else(|| "a panic".into())
        })
    }

    /// The same for a property.
    pub(crate) fn tried<T>(act: impl FnOnce() -> T) -> Result<T, TestCaseError> {
        caught(act).map_err(TestCaseError::fail)
    }
}
