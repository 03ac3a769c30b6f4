//! Several clients at once, against the model.

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::cases;
use super::story::stories;
use super::world::{Counts, live};
use crate::harness::Setup;

const STEPS: usize = 60;

static SETUP: LazyLock<Setup> = LazyLock::new(Setup::new);

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn clients_that_keep_to_the_protocol_get_what_the_model_allows(story in stories(STEPS, false)) {
        live(&SETUP, &story).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn who_makes_a_mistake_is_closed_and_nobody_else_is_touched(story in stories(STEPS, true)) {
        live(&SETUP, &story).map_err(TestCaseError::fail)?;
    }
}

#[test]
fn stories_have_everything_in_them() {
    // Without this the properties above could be about nothing.
    let mut runner = TestRunner::deterministic();
    let mut all = Counts::default();
    for _ in 0..200 {
        let story = stories(STEPS, true).new_tree(&mut runner).unwrap().current();
        let counts = live(&SETUP, &story).unwrap();
        all.messages += counts.messages;
        all.redelivered += counts.redelivered;
        all.receipts += counts.receipts;
        all.errors += counts.errors;
        all.dead += counts.dead;
        all.left += counts.left;
    }
    let Counts { messages, redelivered, receipts, errors, dead, left } = all;
    assert!(messages > 1_000 && redelivered > 200 && receipts > 1_000, "{all:?}");
    assert!(errors > 100 && dead > 10 && left > 200, "{all:?}");
}
