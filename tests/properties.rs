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
    mod model;
    mod sessions;
    mod story;
    mod world;

    use proptest::test_runner::{Config, FileFailurePersistence};

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
}
