//! What is expected of which server: how strict to be, and where it is known to differ.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

/// A known difference of one server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// Patterns of `id/version/transport` with `*`; the ends may be left out: `id`, `id/1.2`.
    pub cases: Vec<String>,
    /// A part of the failure's text, so that another failure is not taken for this one.
    pub fails_with: String,
    pub reason: String,
}

/// How it is known that a server has done what it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    /// It answers a receipt.
    Receipt,
    /// It answers no receipts: it is left alone for so long.
    Quiet(Duration),
}

/// A kind of server.
#[derive(Clone, Debug)]
pub struct Profile {
    pub name: &'static str,
    /// Whether close codes on WebSocket are compared. The specification has none.
    pub(crate) close_codes: bool,
    /// Whether the ERROR's `message` is compared. The specification leaves it open.
    pub(crate) messages: bool,
    /// Whether a close without an ERROR answers a mistake: "The server MAY send ERROR frames".
    pub(crate) silent_close: bool,
    pub(crate) sync: Sync,
    /// Whether cases of level `field` are played.
    pub(crate) field: bool,
    pub differences: Vec<Difference>,
}

/// Why a profile cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileError(String);

impl fmt::Display for ProfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ProfileError {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    difference: Vec<Difference>,
}

impl Profile {
    /// Their names.
    pub const NAMES: [&'static str; 3] = ["spec", "rabbitmq", "stomp-relay"];

    /// Any server: what the specification says, and nothing else.
    #[must_use]
    pub const fn spec() -> Self {
        Self {
            name: "spec",
            close_codes: false,
            messages: false,
            silent_close: true,
            sync: Sync::Receipt,
            field: false,
            differences: Vec::new(),
        }
    }

    /// Every case, ERROR texts and close codes included, no difference.
    const fn strict(name: &'static str) -> Self {
        Self {
            name,
            close_codes: true,
            messages: true,
            silent_close: false,
            sync: Sync::Receipt,
            field: true,
            differences: Vec::new(),
        }
    }

    /// Every case and all that can be compared, whoever the server is.
    #[must_use]
    pub fn everything() -> Self {
        Self { close_codes: true, ..Self::strict("everything") }
    }

    /// stomp-relay, with what it does not serve yet; whatever broker is behind it.
    ///
    /// # Errors
    /// Where `expected/stomp-relay.toml` is no such list.
    pub fn stomp_relay() -> Result<Self, ProfileError> {
        let differences = differences(include_str!("../expected/stomp-relay.toml"))?;
        Ok(Self { differences, ..Self::strict("stomp-relay") })
    }

    /// RabbitMQ's STOMP and Web STOMP plugins, with their known differences.
    ///
    /// # Errors
    /// Where `expected/rabbitmq.toml` is no such list.
    pub fn rabbitmq() -> Result<Self, ProfileError> {
        let differences = differences(include_str!("../expected/rabbitmq.toml"))?;
        Ok(Self { close_codes: false, differences, ..Self::strict("rabbitmq") })
    }

    /// The profile of that name.
    ///
    /// # Errors
    /// Where there is none.
    pub fn named(name: &str) -> Result<Self, ProfileError> {
        match name {
            "spec" => Ok(Self::spec()),
            "rabbitmq" => Self::rabbitmq(),
            "stomp-relay" => Self::stomp_relay(),
            _ => Err(ProfileError(format!(
                "no profile `{name}`; there are {}",
                Self::NAMES.join(", ")
            ))),
        }
    }

    /// The known difference of a case in a version over a transport.
    #[must_use]
    pub fn difference(&self, name: &str) -> Option<&Difference> {
        self.differences.iter().find(|d| d.cases.iter().any(|pattern| covers(pattern, name)))
    }
}

/// A list of differences.
fn differences(text: &str) -> Result<Vec<Difference>, ProfileError> {
    let list: List = toml::from_str(text).map_err(|error| ProfileError(error.to_string()))?;
    Ok(list.difference)
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
    use crate::runner::names;
    use crate::transcripts::all_cases;

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

    #[test]
    fn unknown_keys_are_refused() {
        let text = "[[difference]]\ncases = []\nfails_with = ''\nreason = ''\nwhy = ''";
        assert!(differences(text).unwrap_err().to_string().contains("why"));
    }

    #[test]
    fn every_listed_pattern_names_a_case_and_a_reason() {
        let names: Vec<String> = all_cases().unwrap().iter().flat_map(names).collect();
        for profile in Profile::NAMES {
            for difference in Profile::named(profile).unwrap().differences {
                assert!(!difference.fails_with.is_empty() && difference.reason.len() > 10);
                for pattern in &difference.cases {
                    let found = names.iter().any(|name| covers(pattern, name));
                    assert!(found, "stale in {profile}: {pattern}");
                }
            }
        }
    }
}
