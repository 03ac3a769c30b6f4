//! A story: what clients do, one step after another. Numbers in it choose among what is there at
//! the time, so that a story that was made shorter still means something.

use proptest::prelude::*;
use stomp_relay::stomp::Version;

use super::model::{Mode, Settlement};

pub(crate) const CLIENTS: usize = 3;
/// To which clients SEND.
pub(crate) const TARGETS: [&str; 5] =
    ["/queue/a", "/queue/b", "/topic/x.a", "/topic/x.b", "/queue/a.dead"];
/// To which they SUBSCRIBE.
pub(crate) const SOURCES: [&str; 8] = [
    "/queue/a",
    "/queue/a",
    "/queue/b",
    "/queue/a.dead",
    "/topic/x.a",
    "/topic/x.*",
    "/topic/#",
    "/topic/*.#.b",
];
pub(crate) const TRANSACTIONS: [&str; 2] = ["t0", "t1"];

/// Something a client does. A client that has no session connects first.
#[derive(Clone, Debug)]
pub(crate) enum Deed {
    Subscribe {
        source: usize,
        mode: Mode,
        prefetch: Option<u8>,
    },
    Unsubscribe {
        which: usize,
    },
    Send {
        target: usize,
        transaction: Option<usize>,
    },
    /// ACK or NACK of something it got.
    Settle {
        which: usize,
        settlement: Settlement,
        transaction: Option<usize>,
    },
    /// ACK of something it has settled before.
    SettleAgain {
        which: usize,
    },
    /// NACK of one message as often as it comes back.
    NackOnAndOn {
        times: u8,
    },
    Begin {
        transaction: usize,
    },
    Finish {
        transaction: usize,
        commits: bool,
    },
    Disconnect,
    /// The socket is gone, without a word.
    Drop,
    Bad(Bad),
}

/// What no client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    Command,
    ServersFrame,
    SecondConnect,
    Escape,
    ContentLength,
    BodyOfSubscribe,
    SendWithoutDestination,
    SendToNowhere,
    SendInNoTransaction,
    SubscribeWithoutDestination,
    SubscribeTwice,
    SubscribeInNoMode,
    UnsubscribeWithoutId,
    AckOfNothing,
    AckWithoutId,
    NackInNoTransaction,
    BeginTwice,
    BeginWithoutName,
    CommitOfNothing,
    AbortOfNothing,
}

pub(crate) const BAD: [Bad; 20] = [
    Bad::Command,
    Bad::ServersFrame,
    Bad::SecondConnect,
    Bad::Escape,
    Bad::ContentLength,
    Bad::BodyOfSubscribe,
    Bad::SendWithoutDestination,
    Bad::SendToNowhere,
    Bad::SendInNoTransaction,
    Bad::SubscribeWithoutDestination,
    Bad::SubscribeTwice,
    Bad::SubscribeInNoMode,
    Bad::UnsubscribeWithoutId,
    Bad::AckOfNothing,
    Bad::AckWithoutId,
    Bad::NackInNoTransaction,
    Bad::BeginTwice,
    Bad::BeginWithoutName,
    Bad::CommitOfNothing,
    Bad::AbortOfNothing,
];

#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) client: usize,
    pub(crate) deed: Deed,
    pub(crate) receipt: bool,
    /// Clients that do not read what comes of it, as bits.
    pub(crate) lazy: u8,
}

#[derive(Clone, Debug)]
pub(crate) struct Story {
    /// Of each client.
    pub(crate) versions: [Version; CLIENTS],
    pub(crate) steps: Vec<Step>,
}

/// Stories of up to so many steps; whether clients make mistakes.
pub(crate) fn stories(steps: usize, has_bad: bool) -> impl Strategy<Value = Story> {
    let version = || prop::sample::select(vec![Version::V12, Version::V11, Version::V10]);
    let steps = prop::collection::vec(step(has_bad), 1..steps);
    ([version(), version(), version()], steps)
        .prop_map(|(versions, steps)| Story { versions, steps })
}

fn step(has_bad: bool) -> impl Strategy<Value = Step> {
    let lazy = prop_oneof![3 => Just(0_u8), 1 => 0_u8..1 << CLIENTS];
    (0..CLIENTS, deed(has_bad), any::<bool>(), lazy)
        .prop_map(|(client, deed, receipt, lazy)| Step { client, deed, receipt, lazy })
}

fn deed(has_bad: bool) -> impl Strategy<Value = Deed> {
    let which = || 0_usize..8;
    let name = || 0..TRANSACTIONS.len();
    let in_transaction = || prop_oneof![2 => Just(None), 1 => name().prop_map(Some)];
    let mode = prop::sample::select(vec![Mode::Auto, Mode::Client, Mode::Individual]);
    let prefetch = prop::option::of(prop_oneof![Just(0_u8), 1_u8..5]);
    let settlement = prop_oneof![
        4 => Just(Settlement::Ack),
        2 => Just(Settlement::Nack),
        1 => Just(Settlement::Discard),
    ];
    let good = prop_oneof![
        9 => (0..TARGETS.len(), in_transaction())
            .prop_map(|(target, transaction)| Deed::Send { target, transaction }),
        5 => (0..SOURCES.len(), mode, prefetch)
            .prop_map(|(source, mode, prefetch)| Deed::Subscribe { source, mode, prefetch }),
        8 => (which(), settlement, in_transaction()).prop_map(
            |(which, settlement, transaction)| Deed::Settle { which, settlement, transaction }
        ),
        2 => which().prop_map(|which| Deed::Unsubscribe { which }),
        1 => which().prop_map(|which| Deed::SettleAgain { which }),
        1 => prop_oneof![1_u8..4, 19_u8..25].prop_map(|times| Deed::NackOnAndOn { times }),
        3 => name().prop_map(|transaction| Deed::Begin { transaction }),
        3 => (name(), prop::bool::weighted(0.7))
            .prop_map(|(transaction, commits)| Deed::Finish { transaction, commits }),
        1 => Just(Deed::Disconnect),
        1 => Just(Deed::Drop),
    ];
    let bad = prop::sample::select(BAD.to_vec()).prop_map(Deed::Bad);
    if has_bad { prop_oneof![18 => good, 1 => bad].boxed() } else { good.boxed() }
}
