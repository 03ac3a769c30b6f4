//! Lists of known differences: read, checked, matched with the names of cases.

mod record;

use std::fmt;

use serde::Deserialize;
use toml::Spanned;

use crate::transcript::{Case, name};

/// A known difference of one server.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Patterns of `id/version/transport` with `*`; the ends may be left out: `id`, `id/1.2`.
    pub cases: Vec<String>,
    /// A part of the failure's text, so that another failure is not taken for this one. Empty:
    /// any failure.
    pub fails_with: String,
    pub reason: String,
}

/// A list of known differences.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    pub differences: Vec<Difference>,
    /// Patterns of cases that pass although the profile lists them as different.
    pub passes: Vec<String>,
}

/// What is wrong with a list, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedError {
    pub line: usize,
    pub text: String,
}

impl fmt::Display for ExpectedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.text)
    }
}

impl std::error::Error for ExpectedError {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDifference {
    cases: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    fails_with: String,
    reason: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawList {
    #[serde(default)]
    difference: Vec<RawDifference>,
    #[serde(default)]
    passes: Vec<Spanned<String>>,
}

impl Expected {
    /// No differences.
    #[must_use]
    pub const fn new() -> Self {
        Self { differences: Vec::new(), passes: Vec::new() }
    }

    /// A list whose patterns all name some of `cases`.
    ///
    /// # Errors
    /// The first mistake.
    pub fn parse(text: &str, cases: &[Case]) -> Result<Self, ExpectedError> {
        let list = read(text)?;
        let names: Vec<String> = cases.iter().flat_map(names).collect();
        let patterns = list.difference.iter().flat_map(|d| d.cases.get_ref());
        for pattern in patterns.chain(&list.passes) {
            if !names.iter().any(|name| covers(pattern.get_ref(), name)) {
                let problem = format!("no case fits `{}`", pattern.get_ref());
                return Err(error_at(text, pattern.span().start, problem));
            }
        }
        Ok(list.into())
    }

    /// A list that comes with this package; a test checks its patterns.
    pub(crate) fn built_in(text: &str) -> Result<Self, ExpectedError> {
        Ok(read(text)?.into())
    }

    pub(crate) fn difference(&self, name: &str) -> Option<&Difference> {
        self.differences.iter().find(|d| d.cases.iter().any(|pattern| covers(pattern, name)))
    }

    /// Whether a case is said to pass in spite of the profile's list.
    pub(crate) fn passes(&self, name: &str) -> bool {
        self.passes.iter().any(|pattern| covers(pattern, name))
    }
}

impl From<RawList> for Expected {
    fn from(list: RawList) -> Self {
        let differences = list.difference.into_iter().map(|raw| Difference {
            cases: raw.cases.into_inner().into_iter().map(Spanned::into_inner).collect(),
            fails_with: raw.fails_with,
            reason: raw.reason.into_inner(),
        });
        let passes = list.passes.into_iter().map(Spanned::into_inner).collect();
        Self { differences: differences.collect(), passes }
    }
}

fn read(text: &str) -> Result<RawList, ExpectedError> {
    let list: RawList = toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        error_at(text, start, error.message().trim_end().replace('\n', ", "))
    })?;
    for difference in &list.difference {
        let (start, problem) = if difference.cases.get_ref().is_empty() {
            (difference.cases.span().start, "`cases` names none")
        } else if difference.reason.get_ref().trim().is_empty() {
            (difference.reason.span().start, "`reason` is empty")
        } else {
            continue;
        };
        return Err(error_at(text, start, problem.into()));
    }
    Ok(list)
}

/// Where an offset is, for people.
fn error_at(text: &str, offset: usize, problem: String) -> ExpectedError {
    let before = text.get(..offset).unwrap_or(text);
    ExpectedError { line: before.matches('\n').count() + 1, text: problem }
}

/// All names a case can have.
pub(crate) fn names(case: &Case) -> Vec<String> {
    case.versions()
        .flat_map(|version| case.transports.iter().map(move |t| name(&case.id, version, *t)))
        .collect()
}

/// Whether `pattern` or `pattern/...` fits `name`.
pub(crate) fn covers(pattern: &str, name: &str) -> bool {
    glob(pattern.as_bytes(), name.as_bytes())
        || name.match_indices('/').any(|(at, _)| {
            name.get(..at).is_some_and(|part| glob(pattern.as_bytes(), part.as_bytes()))
        })
}

/// `*` is any text, everything else itself.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', pattern)), _) => {
            (0..=text.len()).any(|at| glob(pattern, text.get(at..).unwrap_or_default()))
        }
        (Some((a, pattern)), Some((b, text))) => a == b && glob(pattern, text),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let cases = [
            ("a", "a/1.2/tcp", true),
            ("a/1.2", "a/1.2/tcp", true),
            ("a/1.2/tcp", "a/1.2/tcp", true),
            ("a/1.1", "a/1.2/tcp", false),
            ("a/*/tcp", "a/1.2/tcp", true),
            ("a/*/ws-*", "a/1.2/ws-text", true),
            ("a/*/ws-*", "a/1.2/tcp", false),
            ("ab*", "a/1.2/tcp", false),
            ("a*", "ab/1.2/tcp", true),
            ("a", "ab/1.2/tcp", false),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(covers(pattern, name), expected, "{pattern} {name}");
        }
    }

    fn cases() -> Vec<Case> {
        let text = "# t\n@id a\n@level must\n@section s\n@why w\n@connect\n";
        crate::parse("f", text).unwrap()
    }

    #[test]
    fn a_list_is_read() {
        let text = "passes = ['a/1.0']\n[[difference]]\ncases = ['a/1.2', 'a/1.1/tcp']\n\
                    reason = 'known'\n[[difference]]\ncases = ['a']\nfails_with = 'x'\n\
                    reason = 'too'\n";
        let list = Expected::parse(text, &cases()).unwrap();
        let found =
            |name| list.difference(name).map(|d| (d.reason.as_str(), d.fails_with.as_str()));
        assert_eq!(found("a/1.2/ws-text"), Some(("known", "")));
        assert_eq!(found("a/1.0/tcp"), Some(("too", "x")));
        assert_eq!(found("b/1.0/tcp"), None);
        assert!(list.passes("a/1.0/tcp") && !list.passes("a/1.1/tcp"));
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let long = "[[difference]]\ncases = [\n'a',\n'b',\n]\nreason = 'r'\n";
        let cases_of = [
            ("x = 1", 1, "unknown field `x`"),
            ("[[difference]]\ncases = ['a']\nreason = 'r'\nwhy = ''", 4, "unknown field `why`"),
            ("[[difference]]\n\ncases = 'a'\nreason = 'r'", 3, "invalid type"),
            ("[[difference]]\nreason = 'r'", 1, "missing field `cases`"),
            ("[[difference]]\ncases = ['a']", 1, "missing field `reason`"),
            ("[[difference]]\ncases = []\nreason = 'r'", 2, "`cases` names none"),
            ("[[difference]]\ncases = ['a']\nreason = ' '", 3, "`reason` is empty"),
            (long, 4, "no case fits `b`"),
            ("\npasses = ['c']", 2, "no case fits `c`"),
            ("\n\n[difference", 3, ""),
        ];
        for (text, line, expected) in cases_of {
            let error = Expected::parse(text, &cases()).unwrap_err();
            assert!(error.text.contains(expected) && !error.text.contains('\n'), "{error}");
            assert_eq!(error.line, line, "{text}: {error}");
        }
    }
}
