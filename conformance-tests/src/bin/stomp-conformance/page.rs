//! `table`: one Markdown page of several runs. The same runs make the same page.

mod markdown;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use conformance_tests::Level;

use crate::cli::Table;
use crate::json::{FORMAT, Played, Run, Word};
use markdown::{code, row, text};

/// Writes the page to its file, or gives it back where there is none.
pub(crate) fn write(table: &Table) -> Result<String, String> {
    let runs = table.runs.iter().map(|file| read(file)).collect::<Result<Vec<_>, _>>()?;
    let page = page(&runs);
    let Some(file) = &table.out else { return Ok(page) };
    fs::write(file, page).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(String::new())
}

fn read(file: &Path) -> Result<Run, String> {
    let failed = |why: String| format!("{}: {why}", file.display());
    let bytes = fs::read(file).map_err(|error| failed(error.to_string()))?;
    let run: Run = serde_json::from_slice(&bytes)
        .map_err(|error| failed(format!("no run of --format json: {error}")))?;
    if run.format != FORMAT {
        return Err(failed(format!("format {}, and this program reads {FORMAT}", run.format)));
    }
    Ok(run)
}

/// A server, with all its runs.
struct Server<'a> {
    label: &'a str,
    played: Vec<&'a Played>,
}

/// A case, whatever it was played to.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Case<'a> {
    file: &'a str,
    id: &'a str,
    level: &'a str,
    section: &'a str,
    title: &'a str,
}

fn page(runs: &[Run]) -> String {
    let mut servers: Vec<Server<'_>> = Vec::new();
    for run in runs {
        let played = run.outcomes.iter();
        match servers.iter_mut().find(|server| server.label == run.about.label) {
            Some(server) => server.played.extend(played),
            None => servers.push(Server { label: &run.about.label, played: played.collect() }),
        }
    }
    let mut out = String::from("# STOMP conformance\n\n");
    out.push_str("Made by `stomp-conformance table` from the runs below.\n");
    out.push_str(&about(runs));
    out.push_str(&summary(&servers));
    out.push_str(&cases(&servers));
    for server in &servers {
        out.push_str(&failures(server));
    }
    out
}

fn about(runs: &[Run]) -> String {
    let mut out = String::from("\n## Runs\n\n");
    out.push_str(&row(["server", "over", "profile", "started (UTC)", "program", "command"]));
    out.push_str(&row(["---"; 6]));
    for Run { about, .. } in runs {
        let scheme = about.url.split("://").next().unwrap_or_default();
        let whole = if about.complete { "" } else { " (interrupted)" };
        out.push_str(&row([
            text(&about.label),
            text(scheme),
            text(&about.profile),
            text(&about.started) + whole,
            text(&about.tool_version),
            code(&about.command),
        ]));
    }
    out
}

/// Passed, failed, failed as listed.
fn counts<'a>(played: impl Iterator<Item = &'a &'a Played>) -> String {
    let (mut passed, mut failed, mut differs) = (0, 0, 0);
    for played in played {
        match played.verdict {
            Word::Passed | Word::PassedUnexpectedly => passed += 1,
            Word::Failed | Word::FailedOtherwise => failed += 1,
            Word::Differs => differs += 1,
        }
    }
    format!("{passed} / {failed} / {differs}")
}

fn summary(servers: &[Server<'_>]) -> String {
    let mut out = String::from("\n## Summary\n\n");
    let ids = servers.iter().flat_map(|server| &server.played).map(|played| &played.id);
    let count = ids.collect::<BTreeSet<_>>().len();
    out.push_str(&format!(
        "Passed / failed / failed as the list of known differences says. Of {count} cases each counts\n"
    ));
    out.push_str("once for each version and transport in which it was played.\n\n");
    out.push_str(
        "must, should, may: as binding as the specification says. field: not in it, but\n",
    );
    out.push_str("clients rely on it.\n\n");
    let labels = servers.iter().map(|server| text(server.label));
    out.push_str(&row(std::iter::once("level".to_owned()).chain(labels)));
    out.push_str(&row(std::iter::repeat_n("---", servers.len() + 1)));
    for level in Level::ALL.into_iter().map(Some).chain([None]) {
        let cells = servers.iter().map(|server| {
            let own = server.played.iter();
            counts(own.filter(|p| level.is_none_or(|level| p.level == level.name())))
        });
        let name = level.map_or("all", Level::name).to_owned();
        out.push_str(&row(std::iter::once(name).chain(cells)));
    }
    out
}

fn cases(servers: &[Server<'_>]) -> String {
    let all: BTreeSet<Case<'_>> = servers
        .iter()
        .flat_map(|server| &server.played)
        .map(|played| Case {
            file: &played.file,
            id: &played.id,
            level: &played.level,
            section: &played.section,
            title: &played.title,
        })
        .collect();
    let mut out = String::from("\n## Cases\n\n");
    out.push_str(
        "yes: passed in all versions and over all transports in which it was played. no:\n",
    );
    out.push_str("failed in all. 2 of 6: passed in two of six. n/a: not played.\n");
    let mut file = "";
    for case in &all {
        if case.file != file {
            file = case.file;
            out.push_str(&format!("\n### {}\n\n", text(file.trim_end_matches(".stomp"))));
            let head = ["case", "level", "section", "what it shows"].map(str::to_owned);
            let labels = servers.iter().map(|server| text(server.label));
            out.push_str(&row(head.into_iter().chain(labels)));
            out.push_str(&row(std::iter::repeat_n("---", servers.len() + 4)));
        }
        let head = [code(case.id), text(case.level), text(case.section), text(case.title)];
        out.push_str(&row(head.into_iter().chain(servers.iter().map(|s| mark(s, case.id)))));
    }
    out
}

fn passed(played: &Played) -> bool {
    match played.verdict {
        Word::Passed | Word::PassedUnexpectedly => true,
        Word::Failed | Word::FailedOtherwise | Word::Differs => false,
    }
}

fn mark(server: &Server<'_>, id: &str) -> String {
    let own: Vec<bool> = server.played.iter().filter(|p| p.id == id).map(|p| passed(p)).collect();
    let good = own.iter().filter(|passed| **passed).count();
    match (own.len(), good) {
        (0, _) => "n/a".into(),
        (all, good) if all == good => "yes".into(),
        (_, 0) => "no".into(),
        (all, good) => format!("{good} of {all}"),
    }
}

/// Each reason once, with its cases.
fn failures(server: &Server<'_>) -> String {
    let mut out = format!("\n## Failures of {}\n\n", text(server.label));
    let mut reasons: BTreeMap<&str, BTreeMap<&str, Vec<&Played>>> = BTreeMap::new();
    for played in &server.played {
        let Some(failure) = &played.failure else { continue };
        let reason = match (played.verdict, &played.listed) {
            (Word::Differs, Some(listed)) => listed.as_str(),
            _ => failure.kind.as_str(),
        };
        reasons.entry(reason).or_default().entry(&played.id).or_default().push(played);
    }
    if reasons.is_empty() {
        out.push_str("None.\n");
    }
    for (reason, cases) in reasons {
        let cases = cases.into_iter().map(|(id, failed)| {
            let all = server.played.iter().filter(|played| played.id == id).copied().collect();
            match places(all, &failed).as_str() {
                "" => code(id),
                places => format!("{} ({})", code(id), text(places)),
            }
        });
        let cases: Vec<String> = cases.collect();
        out.push_str(&format!("- {}\n  - {}\n", text(reason), cases.join(", ")));
    }
    out
}

/// Where a case failed, as shortly as it can be said: nothing where it failed wherever it was
/// played, else the versions, else TCP, WebSocket and SockJS, else each.
fn places(mut all: Vec<&Played>, failed: &[&Played]) -> String {
    let has_failed = |played: &Played| failed.iter().any(|failed| failed.name == played.name);
    let mut places = Vec::new();
    let version = |played: &Played| played.version.clone();
    let line = |played: &Played| {
        match played.transport.as_str() {
            "tcp" => "TCP",
            "sockjs" => "SockJS",
            _ => "WebSocket",
        }
        .to_owned()
    };
    if all.iter().all(|played| has_failed(played)) {
        return String::new();
    }
    for key in [&version as &dyn Fn(&Played) -> String, &line] {
        let keys: BTreeSet<String> = all.iter().map(|played| key(played)).collect();
        for whole in keys {
            if all.iter().filter(|played| key(played) == whole).all(|played| has_failed(played)) {
                all.retain(|played| key(played) != whole);
                places.push(whole);
            }
        }
    }
    let rest = all.iter().filter(|played| has_failed(played));
    let mut rest: Vec<&str> = rest.filter_map(|p| Some(p.name.split_once('/')?.1)).collect();
    rest.sort_unstable();
    places.extend(rest.into_iter().map(str::to_owned));
    places.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = include_str!("page/fixture/tcp.json");
    const WEB: &str = include_str!("page/fixture/ws.json");
    const OTHER: &str = include_str!("page/fixture/other.json");
    const PAGE: &str = include_str!("page/fixture/page.md");

    fn run(text: &str) -> Run {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn three_runs_of_two_servers_make_one_page() {
        let made = page(&[run(TCP), run(WEB), run(OTHER)]);
        assert_eq!(made, PAGE, "\n{made}");
    }

    #[test]
    fn the_order_of_outcomes_does_not_matter() {
        let mut turned = run(WEB);
        turned.outcomes.reverse();
        assert_eq!(page(&[run(TCP), turned, run(OTHER)]), PAGE);
    }

    #[test]
    fn places_are_short() {
        let made = run(TCP);
        let play = |place: &str| {
            let (version, transport) = place.split_once('/').unwrap();
            let mut played = made.outcomes[0].clone();
            played.name = format!("x/{place}");
            (played.version, played.transport) = (version.to_owned(), transport.to_owned());
            played
        };
        let all = ["1.1/tcp", "1.1/ws-binary", "1.1/ws-text", "1.2/tcp", "1.2/ws-binary"];
        let all = all.map(play);
        let cases: [(&[&str], &str); 6] = [
            (&["1.1/tcp", "1.1/ws-binary", "1.1/ws-text", "1.2/tcp", "1.2/ws-binary"], ""),
            (&["1.2/tcp", "1.2/ws-binary"], "1.2"),
            (&["1.1/tcp", "1.2/tcp"], "TCP"),
            (&["1.1/ws-binary", "1.1/ws-text", "1.2/ws-binary"], "WebSocket"),
            (&["1.1/tcp", "1.2/tcp", "1.2/ws-binary"], "1.2, TCP"),
            (&["1.1/ws-text", "1.2/tcp"], "1.1/ws-text, 1.2/tcp"),
        ];
        for (failed, expected) in cases {
            let is_in = |played: &&Played| failed.iter().any(|f| played.name.ends_with(f));
            let failed: Vec<&Played> = all.iter().filter(is_in).collect();
            assert_eq!(places(all.iter().collect(), &failed), expected);
        }
    }

    #[test]
    fn what_is_no_run_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let later = TCP.replacen("\"format\": 1", "\"format\": 2", 1);
        for (name, text, expected) in
            [("a", "{}", "no run of --format json"), ("b", later.as_str(), "format 2")]
        {
            let file = folder.path().join(name);
            fs::write(&file, text).unwrap();
            let error = read(&file).unwrap_err();
            assert!(error.contains(expected) && error.contains(name), "{error}");
        }
        assert!(read(&folder.path().join("none")).is_err());
    }
}
