//! What every store of unread messages must do, whatever is behind it.
//!
//! [`store_suite!`] makes a test of each check for one kind of store.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use stomp_relay::destination::{Destination, UserDestination};
use stomp_relay::message::Message;
use stomp_relay::persistence::{
    Caps, Keep, Op, Outcome, PAGE_BYTES, Page, Store, StoreError, UnreadId, Which,
};
use stomp_relay::stomp::Headers;
use ulid::Ulid;

/// Makes a test of each check; `$ground` gives a fresh, empty place for a store.
macro_rules! store_suite {
    ($ground:expr) => {
        $crate::store_suite::store_suite!($ground;
            keeps_in_order, comes_back_whole, keep_modes, presence_is_counted,
            nothing_falls_between_the_last_page_and_being_present, an_x_id_is_kept_once,
            marks_read, counts_are_capped, bytes_are_capped, total_bytes_are_capped,
            age_ends_messages, a_clock_that_jumps_empties_nothing_at_once, pages_are_bounded,
            odd_names_stay_apart, does_what_the_model_does, many_runs_are_merged,
            closes_and_says_so);
    };
    ($ground:expr; $($check:ident),*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $check() {
                let ground = $ground;
                $crate::store_suite::$check(&ground).await;
            }
        )*
    };
}
pub(crate) use store_suite;

/// A fresh place for a store.
pub(crate) struct Ground {
    pub(crate) url: String,
    /// Survives closing.
    pub(crate) durable: bool,
    /// Cleans up when dropped.
    pub(crate) _guard: Box<dyn Any + Send + Sync>,
}

pub(crate) const WIDE: Caps = Caps {
    messages: 1_000_000,
    bytes: 1 << 40,
    age: Duration::from_secs(1_000_000),
    total_bytes: 1 << 40,
};
/// A moment to count from.
const T: i64 = 1_700_000_000_000;
const HOUR: i64 = 3_600_000;

impl Ground {
    pub(crate) async fn open(&self, caps: Caps) -> Store {
        Store::open(&self.url, caps, "node-1").await.unwrap()
    }
}

/// A message of 100 bytes as the caps count.
fn message(user: &str, target: &str, x_id: Option<u128>) -> Message {
    sized(user, target, x_id, 100)
}

fn sized(user: &str, target: &str, x_id: Option<u128>, size: usize) -> Message {
    let (user, target) = (Arc::from(user), Arc::from(target));
    let destination = Destination::User(UserDestination { user, target });
    let shown = destination.to_string();
    let body = Bytes::from(vec![b'x'; size - shown.len()]);
    let mut message = Message::new(destination, shown, Headers::default(), body);
    message.x_id = x_id.map(|id| Ulid::from_bytes(id.to_be_bytes()));
    assert_eq!(message.size(), size);
    message
}

pub(crate) fn append(message: Message, keep: Keep) -> Op {
    Op::Append { message: Arc::new(message), keep }
}

fn keep(user: &str, target: &str) -> Op {
    append(message(user, target, None), Keep::Always)
}

pub(crate) fn page(user: &str, target: Option<&str>, after: UnreadId, limit: u32) -> Op {
    Op::Page { user: user.into(), target: target.map(Arc::from), after, limit }
}

fn page_or_register(user: &str, target: &str, after: UnreadId, limit: u32, session: u64) -> Op {
    Op::PageOrRegister { user: user.into(), target: target.into(), after, limit, session }
}

fn register(user: &str, target: &str, session: u64) -> Op {
    Op::Register { user: user.into(), target: target.into(), session }
}

fn unregister(user: &str, target: &str, session: u64) -> Op {
    Op::Unregister { user: user.into(), target: target.into(), session }
}

fn read(user: &str, which: Which) -> Op {
    Op::MarkRead { user: user.into(), which }
}

fn up_to(id: UnreadId, target: Option<&str>) -> Which {
    Which::UpTo { id, target: target.map(Arc::from) }
}

async fn one(store: &Store, now: i64, op: Op) -> Outcome {
    let mut outcomes = store.apply_at(now, vec![op]).await.unwrap();
    assert_eq!(outcomes.len(), 1);
    outcomes.remove(0)
}

/// An outcome as text, without bodies: what checks compare.
pub(crate) fn say(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Appended { unread_id, new, present, unread, truncated, .. } => {
            let id = unread_id.map_or("-".into(), |id| id.to_string());
            let new = if *new { "new" } else { "old" };
            let present = if *present { "present" } else { "absent" };
            format!("{id} {new} {present} unread {unread} truncated {truncated}")
        }
        Outcome::Page(page) => say_page(page),
        Outcome::Registered => "registered".into(),
        Outcome::Unregistered => "unregistered".into(),
        Outcome::Read { removed, unread, .. } => format!("removed {removed} unread {unread}"),
    }
}

fn say_page(page: &Page) -> String {
    let ids: Vec<_> = page.messages.iter().map(|message| message.id).collect();
    format!("{ids:?} left {} truncated {}", page.left, page.truncated)
}

/// Applies the operations in one batch and compares.
async fn check(store: &Store, now: i64, steps: &[(Op, &str)]) {
    let ops = steps.iter().map(|(op, _)| op.clone()).collect();
    let outcomes = store.apply_at(now, ops).await.unwrap();
    for (at, ((op, expected), outcome)) in steps.iter().zip(&outcomes).enumerate() {
        assert_eq!(say(outcome), *expected, "step {at}: {op:?}");
    }
    assert_eq!(steps.len(), outcomes.len());
}

pub(crate) async fn keeps_in_order(ground: &Ground) {
    let store = ground.open(WIDE).await;
    check(
        &store,
        T,
        &[
            (page("a", None, 0, 9), "[] left 0 truncated 0"),
            (read("a", Which::All), "removed 0 unread 0"),
            (keep("a", "queue/x"), "1 new absent unread 1 truncated 0"),
            (keep("a", "queue/y"), "2 new absent unread 2 truncated 0"),
            (keep("b", "queue/x"), "1 new absent unread 1 truncated 0"),
            (keep("a", "queue/x"), "3 new absent unread 3 truncated 0"),
            (page("a", None, 0, 9), "[1, 2, 3] left 0 truncated 0"),
            (page("a", None, 0, 2), "[1, 2] left 1 truncated 0"),
            (page("a", None, 2, 2), "[3] left 0 truncated 0"),
            (page("a", None, 0, 0), "[] left 3 truncated 0"),
            (page("a", Some("queue/x"), 0, 1), "[1] left 1 truncated 0"),
            (page("a", Some("queue/x"), 1, 1), "[3] left 0 truncated 0"),
            (page("a", Some("queue/"), 0, 1), "[] left 0 truncated 0"),
            (page("a", Some("queue/x"), u64::MAX, 1), "[] left 0 truncated 0"),
            (read("a", Which::All), "removed 3 unread 0"),
            (keep("a", "queue/x"), "4 new absent unread 1 truncated 0"),
            (read("a", Which::All), "removed 1 unread 0"),
        ],
    )
    .await;
    store.close().await;
    if ground.durable {
        let store = ground.open(WIDE).await;
        check(
            &store,
            T,
            &[
                (page("b", None, 0, 9), "[1] left 0 truncated 0"),
                (keep("a", "queue/x"), "5 new absent unread 1 truncated 0"),
            ],
        )
        .await;
        store.close().await;
    }
}

pub(crate) async fn comes_back_whole(ground: &Ground) {
    let bodies: [&[u8]; 5] =
        [b"", b"\0", b"\n{\"a\":1}\n", b"\xff\xfe\0\r\n", "\u{1f980}".as_bytes()];
    let headers: Headers = [("a", "1"), ("b:\n\r\\\0", "\"\u{1f980}\u{7f}"), ("a", "2"), ("", "")]
        .into_iter()
        .collect();
    let mut store = ground.open(WIDE).await;
    for (number, body) in bodies.iter().enumerate() {
        let mut message = message("a", "queue/a/b%c", Some(number as u128 + 1));
        message.headers = headers.clone();
        message.body = Bytes::copy_from_slice(body);
        message.persistent = number % 2 == 0;
        one(&store, T + number as i64, append(message, Keep::IfAbsent)).await;
    }
    if ground.durable {
        store.close().await;
        store = ground.open(WIDE).await;
    }
    let Outcome::Page(page) = one(&store, T, page("a", None, 0, 9)).await else { panic!() };
    assert_eq!(page.messages.len(), bodies.len());
    for (number, (stored, body)) in page.messages.iter().zip(bodies).enumerate() {
        let message = &stored.message;
        assert_eq!((stored.id, stored.created_at), (number as u64 + 1, T + number as i64));
        assert_eq!(message.body, body);
        assert_eq!(message.headers, headers);
        assert_eq!(message.persistent, number % 2 == 0);
        assert_eq!(message.x_id, Some(Ulid::from_bytes((number as u128 + 1).to_be_bytes())));
        assert_eq!(message.shown, "/user/queue/a%2Fb%25c");
        let Destination::User(place) = &message.destination else { panic!() };
        assert_eq!((&*place.user, &*place.target), ("a", "queue/a/b%c"));
    }
    // A message that is no user's is the caller's mistake, and nothing of its batch counts.
    let wrong = Message::new(
        Destination::for_send("/queue/x").unwrap(),
        "/queue/x".into(),
        Headers::default(),
        Bytes::new(),
    );
    let refused = store.apply(vec![keep("b", "queue/x"), append(wrong, Keep::Always)]).await;
    assert!(matches!(refused, Err(StoreError::Broken(_))), "{refused:?}");
}

pub(crate) async fn keep_modes(ground: &Ground) {
    let store = ground.open(WIDE).await;
    let append = |keep| append(message("a", "queue/x", None), keep);
    check(
        &store,
        T,
        &[
            (append(Keep::Never), "- old absent unread 0 truncated 0"),
            (append(Keep::IfAbsent), "1 new absent unread 1 truncated 0"),
            (register("a", "queue/y", 7), "registered"),
            (append(Keep::IfAbsent), "2 new absent unread 2 truncated 0"),
            (register("b", "queue/x", 8), "registered"),
            (append(Keep::IfAbsent), "3 new absent unread 3 truncated 0"),
            (register("a", "queue/x", 9), "registered"),
            (append(Keep::IfAbsent), "- old present unread 3 truncated 0"),
            (append(Keep::Always), "4 new present unread 4 truncated 0"),
            (append(Keep::Never), "- old present unread 4 truncated 0"),
            (unregister("a", "queue/x", 9), "unregistered"),
            (append(Keep::Never), "- old absent unread 4 truncated 0"),
            (append(Keep::IfAbsent), "5 new absent unread 5 truncated 0"),
        ],
    )
    .await;
}

pub(crate) async fn presence_is_counted(ground: &Ground) {
    let store = ground.open(WIDE).await;
    let asks = || append(message("a", "queue/x", None), Keep::Never);
    let (absent, present) =
        ("- old absent unread 0 truncated 0", "- old present unread 0 truncated 0");
    check(
        &store,
        T,
        &[
            (unregister("a", "queue/x", 1), "unregistered"),
            (register("a", "queue/x", 1), "registered"),
            (page_or_register("a", "queue/x", 0, 1, 1), "registered"),
            (page_or_register("a", "queue/x", 0, 1, 2), "registered"),
            (unregister("a", "queue/x", 1), "unregistered"),
            (unregister("a", "queue/x", 3), "unregistered"),
            (unregister("a", "queue/x", 2), "unregistered"),
            (asks(), present),
            (unregister("a", "queue/x", 1), "unregistered"),
            (asks(), absent),
            (unregister("a", "queue/x", 1), "unregistered"),
            (register("a", "queue/x", 1), "registered"),
            (asks(), present),
        ],
    )
    .await;
    store.close().await;
    if ground.durable {
        let store = ground.open(WIDE).await;
        check(&store, T, &[(asks(), absent)]).await;
    }
}

pub(crate) async fn nothing_falls_between_the_last_page_and_being_present(ground: &Ground) {
    let store = ground.open(WIDE).await;
    let append = |x_id| append(message("a", "queue/x", Some(x_id)), Keep::IfAbsent);
    check(
        &store,
        T,
        &[
            (append(1), "1 new absent unread 1 truncated 0"),
            (append(2), "2 new absent unread 2 truncated 0"),
            (keep("a", "queue/y"), "3 new absent unread 3 truncated 0"),
            (page_or_register("a", "queue/x", 0, 1, 7), "[1] left 1 truncated 0"),
            (append(3), "4 new absent unread 4 truncated 0"),
            (page_or_register("a", "queue/x", 1, 1, 7), "[2] left 1 truncated 0"),
            (page_or_register("a", "queue/x", 2, 0, 7), "[4] left 0 truncated 0"),
            (append(4), "5 new absent unread 5 truncated 0"),
            (page_or_register("a", "queue/x", 4, 100, 7), "[5] left 0 truncated 0"),
            (page_or_register("a", "queue/x", 5, 100, 7), "registered"),
            (append(5), "- old present unread 5 truncated 0"),
            (page("a", Some("queue/x"), 5, 9), "[] left 0 truncated 0"),
        ],
    )
    .await;
}

pub(crate) async fn an_x_id_is_kept_once(ground: &Ground) {
    let mut store = ground.open(Caps { messages: 2, ..WIDE }).await;
    let append = |user, x_id| append(message(user, "queue/x", Some(x_id)), Keep::Always);
    check(
        &store,
        T,
        &[
            (append("a", 1), "1 new absent unread 1 truncated 0"),
            (append("a", 1), "1 old absent unread 1 truncated 0"),
            (append("b", 1), "1 new absent unread 1 truncated 0"),
            (append("a", 2), "2 new absent unread 2 truncated 0"),
            // 1 is dropped, 2 is read.
            (append("a", 3), "3 new absent unread 2 truncated 1"),
            (read("a", Which::Ids(vec![2])), "removed 1 unread 1"),
            (append("a", 1), "- old absent unread 1 truncated 0"),
        ],
    )
    .await;
    if ground.durable {
        store.close().await;
        store = ground.open(Caps { messages: 2, ..WIDE }).await;
    }
    check(
        &store,
        T + HOUR,
        &[
            (append("a", 2), "- old absent unread 1 truncated 0"),
            (append("a", 3), "3 old absent unread 1 truncated 0"),
            (read("a", Which::All), "removed 1 unread 0"),
            (append("a", 3), "- old absent unread 0 truncated 0"),
        ],
    )
    .await;
    let later = T + HOUR + 1;
    check(&store, later, &[(append("a", 2), "4 new absent unread 1 truncated 0")]).await;
}

pub(crate) async fn marks_read(ground: &Ground) {
    let store = ground.open(Caps { messages: 6, ..WIDE }).await;
    let kept = |n: u64, unread: u64, truncated: u64| {
        format!("{n} new absent unread {unread} truncated {truncated}")
    };
    for id in 1..=8 {
        let target = if id % 2 == 0 { "queue/even" } else { "queue/odd" };
        let outcome = one(&store, T, keep("a", target)).await;
        assert_eq!(say(&outcome), kept(id, id.min(6), u64::from(id > 6)));
    }
    // 1 and 2 are dropped, 3 to 8 are there.
    check(
        &store,
        T,
        &[
            (page("a", None, 0, 9), "[3, 4, 5, 6, 7, 8] left 0 truncated 2"),
            (read("a", Which::Ids(vec![])), "removed 0 unread 6"),
            (read("a", Which::Ids(vec![5, 1, 99, 5, u64::MAX])), "removed 1 unread 5"),
            (read("a", up_to(4, Some("queue/even"))), "removed 1 unread 4"),
            (page("a", None, 0, 9), "[3, 6, 7, 8] left 0 truncated 1"),
            (page("a", Some("queue/even"), 0, 9), "[6, 8] left 0 truncated 0"),
            (page("a", Some("queue/odd"), 0, 9), "[3, 7] left 0 truncated 1"),
            (read("b", up_to(99, None)), "removed 0 unread 0"),
            (read("a", up_to(6, None)), "removed 2 unread 2"),
            (page("a", None, 0, 9), "[7, 8] left 0 truncated 0"),
            (read("a", up_to(u64::MAX, Some("queue/odd"))), "removed 1 unread 1"),
            (read("a", Which::All), "removed 1 unread 0"),
            (read("a", Which::All), "removed 0 unread 0"),
        ],
    )
    .await;
}

pub(crate) async fn counts_are_capped(ground: &Ground) {
    let store = ground.open(Caps { messages: 3, ..WIDE }).await;
    let targets = ["queue/x", "queue/x", "queue/y", "queue/x", "queue/y", "queue/x", "queue/x"];
    let ops = targets.iter().map(|target| keep("a", target)).collect();
    for (at, outcome) in store.apply_at(T, ops).await.unwrap().iter().enumerate() {
        let Outcome::Appended { unread, truncated, .. } = outcome else { panic!() };
        assert_eq!((*unread, *truncated), ((at as u64 + 1).min(3), u64::from(at >= 3)));
    }
    // x: 1 2 4 dropped, 6 7 stored; y: 3 dropped, 5 stored.
    check(
        &store,
        T,
        &[
            (page("a", None, 0, 9), "[5, 6, 7] left 0 truncated 4"),
            (page("a", None, 1, 9), "[5, 6, 7] left 0 truncated 3"),
            (page("a", None, 4, 1), "[5] left 2 truncated 0"),
            (page("a", Some("queue/x"), 0, 1), "[6] left 1 truncated 3"),
            (page("a", Some("queue/x"), 1, 1), "[6] left 1 truncated 2"),
            (page("a", Some("queue/x"), 2, 1), "[6] left 1 truncated 1"),
            (page("a", Some("queue/y"), 0, 1), "[5] left 0 truncated 1"),
            (page("a", Some("queue/y"), 5, 1), "[] left 0 truncated 0"),
            (page("a", None, 2, 0), "[] left 3 truncated 2"),
            (page_or_register("a", "queue/x", 0, 9, 1), "[6, 7] left 0 truncated 3"),
            (read("a", up_to(1, None)), "removed 0 unread 3"),
            (page("a", None, 0, 9), "[5, 6, 7] left 0 truncated 3"),
            (read("a", up_to(7, Some("queue/x"))), "removed 2 unread 1"),
            (page("a", None, 0, 9), "[5] left 0 truncated 1"),
            (read("a", Which::All), "removed 1 unread 0"),
            (page("a", None, 0, 9), "[] left 0 truncated 0"),
        ],
    )
    .await;
}

pub(crate) async fn bytes_are_capped(ground: &Ground) {
    let store = ground.open(Caps { bytes: 1_000, ..WIDE }).await;
    let append = |size| append(sized("a", "queue/x", None, size), Keep::Always);
    check(
        &store,
        T,
        &[
            (append(400), "1 new absent unread 1 truncated 0"),
            (append(600), "2 new absent unread 2 truncated 0"),
            (append(100), "3 new absent unread 2 truncated 1"),
            (append(950), "4 new absent unread 1 truncated 2"),
            // Too big for the cap by itself, and kept all the same: its sender is told so.
            (append(1_001), "5 new absent unread 1 truncated 1"),
            (append(100), "6 new absent unread 1 truncated 1"),
            (page("a", None, 0, 9), "[6] left 0 truncated 5"),
        ],
    )
    .await;
}

pub(crate) async fn total_bytes_are_capped(ground: &Ground) {
    let mut store = ground.open(Caps { total_bytes: 500, ..WIDE }).await;
    for (at, user) in ["a", "b", "a", "c", "b"].iter().enumerate() {
        one(&store, T + at as i64, keep(user, "queue/x")).await;
    }
    if ground.durable {
        store.close().await;
        store = ground.open(Caps { total_bytes: 500, ..WIDE }).await;
    }
    for (at, user) in ["c", "c"].iter().enumerate() {
        one(&store, T + 10 + at as i64, keep(user, "queue/x")).await;
    }
    let steps = [
        (page("a", None, 0, 9), "[2] left 0 truncated 1"),
        (page("b", None, 0, 9), "[2] left 0 truncated 1"),
        (page("c", None, 0, 9), "[1, 2, 3] left 0 truncated 0"),
        (read("c", Which::All), "removed 3 unread 0"),
    ];
    check(&store, T + 20, &steps).await;
    for at in 0..3 {
        one(&store, T + 30 + at, keep("d", "queue/x")).await;
    }
    check(
        &store,
        T + 40,
        &[
            (page("a", None, 0, 9), "[2] left 0 truncated 1"),
            (page("d", None, 0, 9), "[1, 2, 3] left 0 truncated 0"),
        ],
    )
    .await;
}

pub(crate) async fn age_ends_messages(ground: &Ground) {
    let store = ground.open(Caps { age: Duration::from_secs(10), ..WIDE }).await;
    let append = |x_id| append(message("a", "queue/x", Some(x_id)), Keep::IfAbsent);
    one(&store, T, append(1)).await;
    one(&store, T + 1, keep("a", "queue/y")).await;
    one(&store, T + 5_000, append(2)).await;
    check(&store, T + 10_000, &[(page("a", None, 0, 9), "[1, 2, 3] left 0 truncated 0")]).await;
    let late = T + 10_001;
    let after_it = [
        (append(1), "- old absent unread 2 truncated 0"),
        (page("a", None, 0, 9), "[2, 3] left 0 truncated 1"),
        (page("a", None, 1, 1), "[2] left 1 truncated 0"),
        (page("a", Some("queue/x"), 0, 9), "[3] left 0 truncated 1"),
        (page("a", Some("queue/y"), 0, 9), "[2] left 0 truncated 0"),
        (read("a", Which::Ids(vec![1])), "removed 0 unread 2"),
    ];
    check(&store, late, &after_it).await;
    // Sweeping changes nothing that is seen.
    assert_eq!(store.sweep_at(late).await.unwrap(), 1);
    assert_eq!(store.sweep_at(late).await.unwrap(), 0);
    check(&store, late, &after_it).await;
    check(
        &store,
        T + 15_001,
        &[
            (page("a", None, 0, 9), "[] left 0 truncated 3"),
            (page_or_register("a", "queue/x", 0, 9, 1), "registered"),
            (read("a", Which::All), "removed 0 unread 0"),
            (page("a", None, 0, 9), "[] left 0 truncated 0"),
            (keep("a", "queue/x"), "4 new present unread 1 truncated 0"),
        ],
    )
    .await;
}

pub(crate) async fn a_clock_that_jumps_empties_nothing_at_once(ground: &Ground) {
    let store = ground.open(Caps { age: Duration::from_secs(10), ..WIDE }).await;
    let ops = (0..40).map(|at| keep(["a", "b"][at % 2], "queue/x")).collect();
    store.apply_at(T, ops).await.unwrap();
    assert_eq!(store.sweep_at(T + 24 * HOUR).await.unwrap(), 4);
    // The clock is set right again: what no sweep took is there again, and a clock that is
    // behind ends nothing.
    let mut left = 0;
    for user in ["a", "b"] {
        let Outcome::Page(page) = one(&store, T - 24 * HOUR, page(user, None, 0, 99)).await else {
            panic!()
        };
        assert_eq!(page.messages.len() as u64 + page.truncated, 20);
        left += page.messages.len();
    }
    assert_eq!(left, 36);
    assert_eq!(store.sweep_at(T).await.unwrap(), 0);
}

pub(crate) async fn pages_are_bounded(ground: &Ground) {
    let store = ground.open(WIDE).await;
    let append = |size: usize| {
        let mut message = message("a", "queue/x", None);
        message.body = Bytes::from(vec![0; size]);
        append(message, Keep::Always)
    };
    let sizes = [PAGE_BYTES / 2, PAGE_BYTES / 2, 1, PAGE_BYTES + 1, 1];
    store.apply_at(T, sizes.map(append).to_vec()).await.unwrap();
    check(
        &store,
        T,
        &[
            (page("a", None, 0, 9), "[1, 2] left 3 truncated 0"),
            (page("a", Some("queue/x"), 1, 9), "[2, 3] left 2 truncated 0"),
            (page("a", None, 3, 9), "[4] left 1 truncated 0"),
            (page("a", None, 4, 9), "[5] left 0 truncated 0"),
        ],
    )
    .await;
    // More pages and operations in a batch than one pipeline takes.
    let mut ops = vec![page("a", None, 3, 9); 40];
    ops.extend((0..1_100).map(|_| keep("b", "queue/x")));
    let outcomes = store.apply_at(T, ops).await.unwrap();
    assert_eq!(outcomes.len(), 1_140);
    assert_eq!(say(&outcomes[1_139]), "1100 new absent unread 1100 truncated 0");
}

pub(crate) async fn odd_names_stay_apart(ground: &Ground) {
    let long = "\u{1f980}".repeat(32);
    let users = [
        "a",
        "a:b",
        "{x}",
        "}:order",
        "*",
        "a*",
        "?",
        "\r\n",
        "a\r\nDEL x\r\n",
        "\0",
        "a\0",
        "a\0b",
        "\u{1f980}",
        &long,
        "'; DROP TABLE unread;--",
        "%",
        "A",
        "a ",
        " a",
        "\\",
        "\u{e9}",
        "e\u{301}",
        "../x",
    ];
    let targets = ["queue/x", "queue/x:", "queue", "7:queue/x", "queue/\u{1f980};", "x\0", "x"];
    let mut store = ground.open(WIDE).await;
    for (at, user) in users.iter().enumerate() {
        for (id, target) in (1..).zip(targets) {
            let op = append(message(user, target, Some(1)), Keep::IfAbsent);
            // The x-id is known to the user from the first target on.
            let expected = if id == 1 { "1 new absent" } else { "1 old absent" };
            let said = say(&one(&store, T, op).await);
            assert!(said.starts_with(expected), "{user:?} {target:?}: {said}");
        }
        for target in targets {
            one(&store, T, append(sized(user, target, None, 200 + at), Keep::Always)).await;
        }
    }
    if ground.durable {
        store.close().await;
        store = ground.open(WIDE).await;
    }
    for (at, user) in users.iter().enumerate() {
        for (id, target) in (2..).zip(targets) {
            let op = page(user, Some(target), 1, 9);
            let Outcome::Page(page) = one(&store, T, op).await else { panic!() };
            assert_eq!(
                say_page(&page),
                format!("[{id}] left 0 truncated 0"),
                "{user:?} {target:?}"
            );
            let message = &page.messages[0].message;
            assert_eq!(message.size(), 200 + at);
            let Destination::User(place) = &message.destination else { panic!() };
            assert_eq!((&*place.user, &*place.target), (*user, target));
        }
        one(&store, T, register(user, targets[at % targets.len()], 1)).await;
        for (other, target) in targets.iter().enumerate() {
            let op = append(message(user, target, None), Keep::Never);
            let Outcome::Appended { present, .. } = one(&store, T, op).await else { panic!() };
            assert_eq!(present, other == at % targets.len(), "{user:?} {target:?}");
        }
    }
}

pub(crate) async fn many_runs_are_merged(ground: &Ground) {
    const N: u64 = 10_500;
    let store = ground.open(Caps { messages: 2, ..WIDE }).await;
    for chunk in (0..N).collect::<Vec<_>>().chunks(100) {
        let ops = chunk.iter().map(|at| keep("a", if at % 2 == 0 { "queue/x" } else { "queue/y" }));
        store.apply_at(T, ops.collect()).await.unwrap();
    }
    let last = format!("[{}, {N}] left 0 truncated {}", N - 1, N - 2);
    let near = format!("[{}, {N}] left 0 truncated 10", N - 1);
    check(&store, T, &[(page("a", None, 0, 9), &*last), (page("a", None, N - 12, 9), &*near)])
        .await;
    // A merged run counts for every target, so never too little.
    let Outcome::Page(page) = one(&store, T, page("a", Some("queue/x"), 0, 9)).await else {
        panic!()
    };
    assert!(page.truncated >= N / 2 - 1 && page.truncated < N, "{}", page.truncated);
}

pub(crate) async fn closes_and_says_so(ground: &Ground) {
    let store = ground.open(WIDE).await;
    assert!(store.ready().await);
    store.close().await;
    store.close().await;
    assert!(!store.ready().await);
    let refused = store.apply(vec![keep("a", "queue/x")]).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
}

/// What a store should do, written down as simply as possible.
struct Model {
    caps: Caps,
    users: HashMap<&'static str, Vec<Known>>,
    present: HashMap<(&'static str, &'static str, u64), u32>,
}

struct Known {
    target: &'static str,
    x_id: u128,
    at: i64,
    size: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Stored,
    Dropped,
    /// Read, or dropped and told.
    Over,
}

impl Model {
    fn append(&mut self, at: i64, user: &'static str, new: Known, keep: Keep) -> String {
        let present =
            self.present.iter().any(|((u, t, _), n)| *u == user && *t == new.target && *n > 0);
        let word = if present { "present" } else { "absent" };
        self.end_aged(at);
        let known = self.users.entry(user).or_default();
        let unread = |known: &[Known]| known.iter().filter(|m| m.state == State::Stored).count();
        let kept = keep == Keep::Always || keep == Keep::IfAbsent && !present;
        if keep != Keep::Never
            && let Some(at) = known.iter().position(|m| m.x_id == new.x_id)
        {
            let id =
                if known[at].state == State::Stored { (at + 1).to_string() } else { "-".into() };
            return format!("{id} old {word} unread {} truncated 0", unread(known));
        }
        if !kept {
            return format!("- old {word} unread {} truncated 0", unread(known));
        }
        known.push(new);
        let last = known.len() - 1;
        let mut truncated = 0;
        loop {
            let stored: Vec<_> =
                (0..known.len()).filter(|at| known[*at].state == State::Stored).collect();
            let bytes: usize = stored.iter().map(|at| known[*at].size).sum();
            let over = stored.len() as u64 > self.caps.messages || bytes as u64 > self.caps.bytes;
            if !over || stored[0] == last {
                return format!(
                    "{} new {word} unread {} truncated {truncated}",
                    last + 1,
                    stored.len()
                );
            }
            known[stored[0]].state = State::Dropped;
            truncated += 1;
        }
    }

    fn end_aged(&mut self, now: i64) {
        let horizon = now - i64::try_from(self.caps.age.as_millis()).unwrap();
        for known in self.users.values_mut().flatten() {
            if known.state == State::Stored && known.at < horizon {
                known.state = State::Dropped;
            }
        }
    }

    fn page(
        &mut self,
        now: i64,
        user: &'static str,
        target: Option<&str>,
        after: usize,
        limit: usize,
    ) -> (String, bool) {
        self.end_aged(now);
        let known = self.users.entry(user).or_default();
        let ids = |state| {
            (1..)
                .zip(known.iter())
                .filter(move |(id, m)| *id > after && m.state == state)
                .filter(move |(_, m)| target.is_none_or(|target| m.target == target))
                .map(|(id, _)| id)
                .collect::<Vec<usize>>()
        };
        let (stored, dropped) = (ids(State::Stored), ids(State::Dropped));
        let page = &stored[..limit.min(stored.len())];
        let truncated = dropped.iter().filter(|id| page.last().is_none_or(|l| *id <= l)).count();
        let left = stored.len() - page.len();
        (format!("{page:?} left {left} truncated {truncated}"), page.is_empty())
    }

    fn read(&mut self, now: i64, user: &'static str, which: &Which) -> String {
        self.end_aged(now);
        let known = self.users.entry(user).or_default();
        let mut removed = 0;
        for (id, m) in (1..).zip(known.iter_mut()) {
            let (meant, forgets) = match which {
                Which::Ids(ids) => (ids.contains(&id), false),
                Which::UpTo { id: last, target } => {
                    (id <= *last && target.as_ref().is_none_or(|t| **t == *m.target), true)
                }
                Which::All => (true, true),
            };
            if meant && m.state == State::Stored {
                removed += 1;
                m.state = State::Over;
            } else if meant && forgets {
                m.state = State::Over;
            }
        }
        let unread = known.iter().filter(|m| m.state == State::Stored).count();
        format!("removed {removed} unread {unread}")
    }
}

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn small(&mut self, limit: u16) -> u16 {
        u16::try_from(self.below(limit.into())).unwrap()
    }

    fn pick<X: Copy>(&mut self, from: &[X]) -> X {
        from[usize::from(self.small(u16::try_from(from.len()).unwrap()))]
    }
}

const USERS: [&str; 3] = ["a", "a:b\0", "\u{1f980}"];
const TARGETS: [&str; 3] = ["queue/x", "queue/y", "topic/x"];

/// One random step: the operation and what the model says of it.
fn random_step(dice: &mut Dice, model: &mut Model, now: i64) -> (Op, String) {
    let (user, target) = (dice.pick(&USERS), dice.pick(&TARGETS));
    let some_target = if dice.below(2) == 0 { Some(target) } else { None };
    let known = model.users.get(user).map_or(0, Vec::len) as u64;
    let id = known.saturating_sub(dice.below(12));
    let session = dice.below(2);
    match dice.below(20) {
        0..=8 => {
            let x_id = u128::from(known + 3 - dice.below(5).min(known + 2));
            let size = 100 + usize::from(dice.small(200));
            let keep = dice.pick(&[Keep::Always, Keep::IfAbsent, Keep::IfAbsent, Keep::Never]);
            let new = Known { target, x_id, at: now, size, state: State::Stored };
            let op = append(sized(user, target, Some(x_id), size), keep);
            (op, model.append(now, user, new, keep))
        }
        9..=11 => {
            let limit = u32::from(dice.small(5));
            let op = page(user, some_target, id, limit);
            (op, model.page(now, user, some_target, usize::try_from(id).unwrap(), limit as usize).0)
        }
        12..=13 => {
            let op = page_or_register(user, target, id, 2, session);
            let (said, empty) =
                model.page(now, user, Some(target), usize::try_from(id).unwrap(), 2);
            if !empty {
                return (op, said);
            }
            *model.present.entry((user, target, session)).or_default() += 1;
            (op, "registered".into())
        }
        14 => {
            *model.present.entry((user, target, session)).or_default() += 1;
            (register(user, target, session), "registered".into())
        }
        15..=17 => {
            let count = model.present.entry((user, target, session)).or_default();
            *count = count.saturating_sub(1);
            (unregister(user, target, session), "unregistered".into())
        }
        18 => {
            let which = Which::Ids(vec![id, id + 2]);
            (read(user, which.clone()), model.read(now, user, &which))
        }
        _ => {
            let which = if dice.below(4) == 0 {
                Which::All
            } else {
                up_to(id.saturating_sub(2), some_target)
            };
            (read(user, which.clone()), model.read(now, user, &which))
        }
    }
}

/// What the model cannot know: how many rows past their age, but not swept, the caps took.
fn comparable(said: &str, age_passed: bool) -> &str {
    match said.split_once(" truncated ") {
        Some((before, _)) if age_passed && before.contains("unread") => before,
        _ => said,
    }
}

pub(crate) async fn does_what_the_model_does(ground: &Ground) {
    let caps = Caps { messages: 8, bytes: 1_500, age: Duration::from_secs(60), ..WIDE };
    let mut model = Model { caps, users: HashMap::new(), present: HashMap::new() };
    let mut dice = Dice(20_261_123);
    let mut store = ground.open(caps).await;
    let mut now = T;
    for round in 0..800 {
        // Half of the rounds without a passing of time, so that the caps are seen exactly.
        now += if round < 400 { 0 } else { i64::from(dice.small(10_000)) };
        let steps: Vec<_> =
            (0..=dice.below(20)).map(|_| random_step(&mut dice, &mut model, now)).collect();
        let ops = steps.iter().map(|(op, _)| op.clone()).collect();
        let outcomes = store.apply_at(now, ops).await.unwrap();
        for ((op, expected), outcome) in steps.iter().zip(&outcomes) {
            let said = say(outcome);
            let (said, expected) =
                (comparable(&said, round >= 400), comparable(expected, round >= 400));
            assert_eq!(said, expected, "round {round}: {op:?}");
        }
        if dice.below(4) == 0 {
            store.sweep_at(now).await.unwrap();
        }
        if ground.durable && dice.below(20) == 0 {
            store.close().await;
            store = ground.open(caps).await;
            model.present.clear();
        }
    }
}
