//! Which case sees which fault: every case played against a server with every fault.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use conformance_tests::{Case, Filter, Outcome, Runner, Transport, Version};

use super::{Fault, Faults, Server};

/// Threads: each has a clock of its own, which stands still while there is something to do.
const THREADS: usize = 2;

/// A case in one version over one transport.
pub(crate) struct Place {
    pub(crate) case: Case,
    pub(crate) version: Version,
    pub(crate) transport: Transport,
}

/// All places of a case.
pub(crate) fn places(case: &Case) -> impl Iterator<Item = Place> {
    case.versions().flat_map(move |version| {
        case.transports.iter().filter_map(move |transport| {
            let case = case.only(version, *transport)?;
            Some(Place { case, version, transport: *transport })
        })
    })
}

/// The place that is nearest to where the fault shows: its transport or its version, else 1.2 or
/// what comes nearest, over what comes first. None where the fault is one of WebSocket and the
/// case has none.
fn nearest(case: &Case, fault: Fault) -> Option<(Version, Transport)> {
    let (version, transport) = fault.place();
    let versions = || case.versions();
    let version = versions().find(|of| *of == version).or_else(|| versions().max())?;
    let has = |transport: &Transport| case.transports.contains(transport);
    match transport {
        Transport::Tcp => Some((version, *case.transports.first()?)),
        _ if has(&transport) => Some((version, transport)),
        _ => Some((version, *case.transports.iter().find(|t| **t != Transport::Tcp)?)),
    }
}

/// Plays one case to a server of its own.
pub(crate) async fn play(case: Case, transport: Transport, fault: Option<Fault>) -> Outcome {
    let server = Server::new(Faults(fault));
    let target = server.target(transport != Transport::Tcp);
    let name = case.id.clone();
    let report = Runner::default().run(&target, &Filter::default(), vec![case]).await;
    assert!(!server.has_crashed(), "{name} with {fault:?} crashed the server");
    let mut outcomes = report.outcomes;
    let outcome = outcomes.pop().filter(|_| outcomes.is_empty());
    outcome.unwrap_or_else(|| panic!("{name} was not played once"))
}

/// For each fault the cases that it turns red.
pub(crate) fn red(cases: &[Case]) -> BTreeMap<Fault, BTreeSet<String>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut red = BTreeMap::new();
        while let Some(fault) = Fault::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
            red.insert(*fault, with_clock(red_under(cases, *fault)));
        }
        red
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

async fn red_under(cases: &[Case], fault: Fault) -> BTreeSet<String> {
    let mut red = BTreeSet::new();
    for case in cases {
        let Some((version, transport)) = nearest(case, fault) else { continue };
        let Some(narrow) = case.only(version, transport) else { continue };
        let outcome = play(narrow, transport, Some(fault)).await;
        if !matches!(outcome.verdict, conformance_tests::Verdict::Passed) {
            red.insert(case.id.clone());
        }
    }
    red
}

/// Runs with a clock that jumps to the next deadline where nothing else is left to do.
pub(crate) fn with_clock<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(future)
}
