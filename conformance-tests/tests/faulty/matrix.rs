//! Which case sees which fault.
//!
//! A play without a fault shows which switches the server looks at. A switch that it does not look
//! at cannot change that play, so only the others are switched on and played; `overlooked` plays
//! all of them to some of the cases.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use conformance_tests::{Case, Filter, Outcome, Runner, Transport, Verdict, Version};

use super::fault::take_asked;
use super::{Fault, Faults, Server};

/// Each has a clock of its own, which stands still while there is something to do.
const THREADS: usize = 2;
/// A fault that more than one of so many cases sees says little about any of them.
const CRUDE: usize = 20;
/// Faults that are what the case is about, though others need it too: hardly a case gets along
/// without the RECEIPT of its SUBSCRIBE.
const ITS_OWN: [(&str, Fault); 11] = [
    ("ack-header", Fault::AckHeaderMissing),
    ("ack-header-individual", Fault::AckHeaderMissing),
    ("connect-no-accept-version", Fault::NoAcceptVersionIs12),
    ("connect-one-version", Fault::ConnectedWithoutVersion),
    ("error-message", Fault::ErrorWithoutMessage),
    ("message-subscription-1-0", Fault::MessageWithoutSubscription),
    ("receipt-after-effect", Fault::SubscribeLate),
    ("receipt-subscribe", Fault::ReceiptOfSubscribeLost),
    ("send-between-sessions", Fault::QueuesArePerSession),
    ("subscribe-in-order", Fault::SubscribeOvertaken),
    ("subscribe-several-in-order", Fault::SubscribeOvertaken),
];

type Place = (Version, Transport);

/// What the plays of one case showed.
#[derive(Default)]
struct Row {
    /// Failures without a fault, in full.
    wrong: Vec<String>,
    /// Of each version and transport the switches that the server looked at.
    asked: BTreeMap<Place, Vec<Fault>>,
    /// The faults that turn it red, and where they did.
    red: BTreeMap<Fault, Place>,
}

/// All cases and all faults.
pub(crate) struct Matrix {
    pub(crate) cases: Vec<Case>,
    rows: Vec<Row>,
    /// How many cases see a fault.
    seen_by: BTreeMap<Fault, usize>,
    /// Cases in a version over a transport that none of their own faults turns red.
    pub(crate) blind: Vec<String>,
}

impl Matrix {
    pub(crate) fn new(cases: Vec<Case>) -> Self {
        let rows = on_all_threads(&cases, |_, case| with_clock(row(case)));
        let mut seen_by: BTreeMap<Fault, usize> = BTreeMap::new();
        for fault in rows.iter().flat_map(|row| row.red.keys()) {
            *seen_by.entry(*fault).or_default() += 1;
        }
        let mut matrix = Self { cases, rows, seen_by, blind: Vec::new() };
        let blind = |at, case: &Case| with_clock(blind(case, &matrix.rows[at], &matrix.own(at)));
        matrix.blind = on_all_threads(&matrix.cases, blind).into_iter().flatten().collect();
        matrix
    }

    /// Switches that change a play although the server does not look at them: of every so many
    /// cases one is played with all.
    pub(crate) fn overlooked(&self, every: usize) -> Vec<String> {
        let check = |at: usize, case: &Case| {
            let row = &self.rows[at];
            let some = at.is_multiple_of(every);
            if some { with_clock(overlooked(case, row)) } else { Vec::new() }
        };
        on_all_threads(&self.cases, check).into_iter().flatten().collect()
    }

    /// What fails although nothing is wrong.
    pub(crate) fn wrong(&self) -> Vec<&str> {
        self.rows.iter().flat_map(|row| &row.wrong).map(String::as_str).collect()
    }

    pub(crate) fn seen_by(&self, fault: Fault) -> usize {
        self.seen_by.get(&fault).copied().unwrap_or_default()
    }

    pub(crate) fn is_crude(&self, fault: Fault) -> bool {
        self.seen_by(fault) * CRUDE > self.cases.len()
    }

    /// The faults that a case sees, those that few others see first.
    pub(crate) fn red(&self, at: usize) -> Vec<Fault> {
        let mut red: Vec<Fault> = self.rows[at].red.keys().copied().collect();
        red.sort_by_key(|fault| self.seen_by(*fault));
        red
    }

    /// What is said to be about a fault, and does not see it.
    pub(crate) fn mistaken(&self) -> Vec<(&'static str, Fault)> {
        let sees = |(id, fault): &(&str, Fault)| {
            let at = self.cases.iter().position(|case| case.id == *id);
            at.is_some_and(|at| self.rows[at].red.contains_key(fault))
        };
        ITS_OWN.into_iter().filter(|own| !sees(own)).collect()
    }

    /// Those of them that show what the case is for.
    pub(crate) fn own(&self, at: usize) -> Vec<Fault> {
        let case = self.cases[at].id.as_str();
        let mut own = self.red(at);
        own.retain(|fault| !self.is_crude(*fault) || ITS_OWN.contains(&(case, *fault)));
        own
    }
}

/// Does something with each case; the results are in the order of the cases.
fn on_all_threads<T: Send>(cases: &[Case], work: impl Fn(usize, &Case) -> T + Sync) -> Vec<T> {
    let next = Mutex::new(cases.iter().enumerate());
    let worker = || {
        let mut done = BTreeMap::new();
        loop {
            let Some((at, case)) = next.lock().unwrap().next() else { return done };
            done.insert(at, work(at, case));
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(worker)).collect();
        let done = threads.into_iter().flat_map(|thread| thread.join().unwrap());
        done.collect::<BTreeMap<_, _>>().into_values().collect()
    })
}

/// Runs with a clock that jumps to the next deadline where nothing else is left to do.
fn with_clock<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(future)
}

/// All places without a fault, then each fault in the place that is nearest to it.
async fn row(case: &Case) -> Row {
    let mut row = Row::default();
    // The faulty server has no SockJS. What is STOMP is the same over it, and the relay is played
    // to over it too.
    let transports = || case.transports.iter().copied().filter(|over| *over != Transport::SockJs);
    for place in case.versions().flat_map(|v| transports().map(move |over| (v, over))) {
        take_asked();
        let outcome = play(case, place, None).await;
        if is_red(&outcome) {
            row.wrong.push(outcome.to_string());
        }
        row.asked.insert(place, take_asked());
    }
    for fault in Fault::ALL.iter().copied() {
        let Some(place) = nearest(case, fault) else { continue };
        if row.asked[&place].contains(&fault) && is_red(&play(case, place, Some(fault)).await) {
            row.red.insert(fault, place);
        }
    }
    row
}

/// The places in which none of a case's own faults turns it red.
async fn blind(case: &Case, row: &Row, own: &[Fault]) -> Vec<String> {
    let known: BTreeSet<&Place> = own.iter().map(|fault| &row.red[fault]).collect();
    let mut blind = Vec::new();
    for (place, asked) in row.asked.iter().filter(|(place, _)| !known.contains(place)) {
        let mut sees = false;
        for fault in own.iter().filter(|fault| asked.contains(fault)) {
            sees = is_red(&play(case, *place, Some(*fault)).await);
            if sees {
                break;
            }
        }
        if !sees {
            blind.push(format!("{}/{}/{}", case.id, place.0.name(), place.1.name()));
        }
    }
    blind
}

async fn overlooked(case: &Case, row: &Row) -> Vec<String> {
    let mut overlooked = Vec::new();
    for fault in Fault::ALL.iter().copied() {
        let Some(place) = nearest(case, fault) else { continue };
        let asked = row.asked[&place].contains(&fault);
        if !asked && is_red(&play(case, place, Some(fault)).await) {
            overlooked.push(format!("{} {fault:?}", case.id));
        }
    }
    overlooked
}

/// Where a fault is played: in its version over its transport, or what of the case comes nearest.
/// None where it is one of WebSocket and the case is for TCP only.
fn nearest(case: &Case, fault: Fault) -> Option<Place> {
    let (version, transport) = fault.place();
    let version = case.versions().find(|of| *of == version).or_else(|| case.versions().max())?;
    let over_tcp = transport == Transport::Tcp;
    // The faulty server has no SockJS: what matters there is the same over WebSocket.
    let other = || {
        let mut others = case.transports.iter().filter(|of| **of != Transport::SockJs);
        others.find(|of| over_tcp || **of != Transport::Tcp)
    };
    let transport = case.transports.iter().find(|of| **of == transport).or_else(other)?;
    Some((version, *transport))
}

/// Plays one case to a server of its own.
async fn play(case: &Case, place: Place, fault: Option<Fault>) -> Outcome {
    let (version, transport) = place;
    let server = Server::new(Faults(fault));
    let target = server.target(transport != Transport::Tcp);
    let cases = case.only(version, transport).into_iter().collect();
    let report = Runner::default().run(&target, &Filter::default(), cases).await;
    assert!(!server.has_crashed(), "{} with {fault:?} crashed the server", case.id);
    let mut outcomes = report.outcomes;
    let outcome = outcomes.pop().filter(|_| outcomes.is_empty());
    outcome.unwrap_or_else(|| panic!("{} was not played once", case.id))
}

fn is_red(outcome: &Outcome) -> bool {
    !matches!(outcome.verdict, Verdict::Passed)
}
