//! Which case sees which fault.
//!
//! A play without a fault shows which switches the server looks at. A switch that it does not look
//! at cannot change that play, so only the others are switched on and played.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use conformance_tests::{Case, Filter, Outcome, Runner, Transport, Verdict, Version};

use super::fault::take_asked;
use super::{Fault, Faults, Server};

/// Each has a clock of its own, which stands still while there is something to do.
const THREADS: usize = 2;

/// What the plays of one case showed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    pub(crate) case: String,
    pub(crate) title: String,
    /// Failures without a fault, in full.
    pub(crate) wrong: Vec<String>,
    /// The faults that turn it red.
    pub(crate) red: BTreeSet<Fault>,
    /// Versions and transports in which no fault turns it red.
    pub(crate) always_green: Vec<String>,
    pub(crate) plays: usize,
}

/// Plays all cases; rows in the order of the cases.
pub(crate) fn rows(cases: &[Case]) -> Vec<Row> {
    let next = Mutex::new(cases.iter().enumerate());
    let work = || {
        let mut rows = BTreeMap::new();
        loop {
            let Some((at, case)) = next.lock().unwrap().next() else { return rows };
            rows.insert(at, with_clock(row(case)));
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        let rows = threads.into_iter().flat_map(|thread| thread.join().unwrap());
        rows.collect::<BTreeMap<_, _>>().into_values().collect()
    })
}

/// Runs with a clock that jumps to the next deadline where nothing else is left to do.
fn with_clock<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(future)
}

type Place = (Version, Transport);

/// First all places without a fault, then each fault in the place that is nearest to it, then for
/// each place the known faults until one turns it red.
async fn row(case: &Case) -> Row {
    let mut row = Row { case: case.id.clone(), title: case.title.clone(), ..Row::default() };
    let mut asked: BTreeMap<Place, Vec<Fault>> = BTreeMap::new();
    for place in places(case) {
        take_asked();
        let outcome = play(case, place, None, &mut row).await;
        if is_red(&outcome) {
            row.wrong.push(outcome.to_string());
        }
        asked.insert(place, take_asked());
    }
    let mut seen: BTreeSet<Place> = BTreeSet::new();
    for fault in Fault::ALL.iter().copied() {
        let Some(place) = nearest(case, fault) else { continue };
        if asked[&place].contains(&fault) && is_red(&play(case, place, Some(fault), &mut row).await)
        {
            row.red.insert(fault);
            seen.insert(place);
        }
    }
    for place in places(case).filter(|place| !seen.contains(place)) {
        let mut green = true;
        for fault in row.red.clone().into_iter().filter(|fault| asked[&place].contains(fault)) {
            green = !is_red(&play(case, place, Some(fault), &mut row).await);
            if !green {
                break;
            }
        }
        if green {
            row.always_green.push(format!("{}/{}", place.0.name(), place.1.name()));
        }
    }
    row
}

/// All versions and transports of a case.
fn places(case: &Case) -> impl Iterator<Item = Place> {
    let transports = || case.transports.iter().copied();
    case.versions().flat_map(move |version| transports().map(move |over| (version, over)))
}

/// Where a fault is played: in its version over its transport, or what of the case comes nearest.
/// None where it is one of WebSocket and the case is for TCP only.
fn nearest(case: &Case, fault: Fault) -> Option<Place> {
    let (version, transport) = fault.place();
    let version = case.versions().find(|of| *of == version).or_else(|| case.versions().max())?;
    let over_tcp = transport == Transport::Tcp;
    let other = || case.transports.iter().find(|of| over_tcp || **of != Transport::Tcp);
    let transport = case.transports.iter().find(|of| **of == transport).or_else(other)?;
    Some((version, *transport))
}

/// Plays one case to a server of its own.
async fn play(case: &Case, place: Place, fault: Option<Fault>, row: &mut Row) -> Outcome {
    let (version, transport) = place;
    let server = Server::new(Faults(fault));
    let target = server.target(transport != Transport::Tcp);
    let cases = case.only(version, transport).into_iter().collect();
    let report = Runner::default().run(&target, &Filter::default(), cases).await;
    assert!(!server.has_crashed(), "{} with {fault:?} crashed the server", case.id);
    row.plays += 1;
    let mut outcomes = report.outcomes;
    let outcome = outcomes.pop().filter(|_| outcomes.is_empty());
    outcome.unwrap_or_else(|| panic!("{} was not played once", case.id))
}

fn is_red(outcome: &Outcome) -> bool {
    !matches!(outcome.verdict, Verdict::Passed)
}
