//! `--list`: the cases that there are.

use conformance_tests::{Case, Filter, Level, all_cases};
use serde::Serialize;

use crate::cli::{Format, Suite};

#[derive(Serialize)]
struct Listed<'a> {
    id: &'a str,
    level: &'static str,
    section: &'a str,
    title: &'a str,
    why: &'a str,
    versions: Vec<&'static str>,
    transports: Vec<&'static str>,
    tags: &'a [String],
    file: &'a str,
    line: usize,
}

/// The cases that the flags take; all levels where no flag says otherwise.
pub(crate) fn of(suite: &Suite) -> Result<String, String> {
    let cases = all_cases().map_err(|error| error.to_string())?;
    let filter = Filter {
        only: suite.only.clone(),
        skip_tags: suite.skip_tag.clone(),
        level: suite.level,
        versions: suite.versions(),
    };
    let listed: Vec<Listed<'_>> = cases.iter().filter_map(|case| listed(case, &filter)).collect();
    if listed.is_empty() {
        return Err("no case fits".into());
    }
    match suite.format {
        Format::Text => Ok(listed.iter().map(line).collect()),
        Format::Json => {
            let text = serde_json::to_string_pretty(&listed).map_err(|error| error.to_string())?;
            Ok(text + "\n")
        }
        Format::Junit => Err("--list has the formats text and json".into()),
    }
}

fn listed<'a>(case: &'a Case, filter: &Filter) -> Option<Listed<'a>> {
    let takes = |version, transport| filter.takes(case, version, transport, Level::Field);
    let versions = case.versions().filter(|v| case.transports.iter().any(|t| takes(*v, *t)));
    let versions: Vec<&str> = versions.map(|version| version.name()).collect();
    let transports = case.transports.iter().filter(|t| case.versions().any(|v| takes(v, **t)));
    (!versions.is_empty()).then(|| Listed {
        id: &case.id,
        level: case.level.name(),
        section: &case.section,
        title: &case.title,
        why: &case.why,
        versions,
        transports: transports.map(|transport| transport.name()).collect(),
        tags: &case.tags,
        file: &case.file,
        line: case.line,
    })
}

fn line(case: &Listed<'_>) -> String {
    let versions = case.versions.join(",");
    format!("{:<6} {:<34} {versions:<11} {}\n", case.level, case.id, case.title)
}
