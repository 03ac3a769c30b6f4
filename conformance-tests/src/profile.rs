//! What is expected of which server: how strict to be, and where it is known to differ.

use std::fmt;
use std::time::Duration;

use crate::expected::{Difference, Expected, ExpectedError};
use crate::transcript::Level;

/// Longer than Spring's threads take to do what two frames of a session ask for.
const SPRING_QUIET: Duration = Duration::from_millis(250);

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
    /// The least binding level that is played where nobody says.
    pub level: Level,
    /// Whether cases are played that only RabbitMQ's plugin, and what stands in for it, can pass.
    pub(crate) rabbitmq: bool,
    /// The differences that come with the profile.
    built_in: Expected,
    /// Those of whoever runs it.
    own: Expected,
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

impl Profile {
    /// Their names.
    pub const NAMES: [&'static str; 4] = ["spec", "rabbitmq", "spring", "stomp-relay"];

    /// Any server: what the specification says, and nothing else.
    #[must_use]
    pub const fn spec() -> Self {
        Self {
            name: "spec",
            close_codes: false,
            messages: false,
            silent_close: true,
            sync: Sync::Receipt,
            level: Level::May,
            rabbitmq: false,
            built_in: Expected::new(),
            own: Expected::new(),
        }
    }

    /// Every case, ERROR texts included, no difference.
    fn strict(name: &'static str) -> Self {
        Self {
            name,
            messages: true,
            silent_close: false,
            level: Level::Field,
            rabbitmq: true,
            ..Self::spec()
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
        let profile = Self { close_codes: true, ..Self::strict("stomp-relay") };
        profile.with_list(include_str!("../expected/stomp-relay.toml"))
    }

    /// RabbitMQ's STOMP and Web STOMP plugins, with their known differences.
    ///
    /// # Errors
    /// Where `expected/rabbitmq.toml` is no such list.
    pub fn rabbitmq() -> Result<Self, ProfileError> {
        Self::strict("rabbitmq").with_list(include_str!("../expected/rabbitmq.toml"))
    }

    /// Spring's simple broker: it answers no receipt but DISCONNECT's, and handles the frames of
    /// a session in parallel.
    ///
    /// # Errors
    /// Where `expected/spring.toml` is no such list.
    pub fn spring() -> Result<Self, ProfileError> {
        let sync = Sync::Quiet(SPRING_QUIET);
        let profile = Self { name: "spring", sync, level: Level::Field, ..Self::spec() };
        profile.with_list(include_str!("../expected/spring.toml"))
    }

    fn with_list(self, text: &str) -> Result<Self, ProfileError> {
        let built_in = Expected::built_in(text).map_err(|ExpectedError { line, text }| {
            ProfileError(format!("expected/{}.toml:{line}: {text}", self.name))
        })?;
        Ok(self.with_built_in(built_in))
    }

    pub(crate) fn with_built_in(self, built_in: Expected) -> Self {
        Self { built_in, ..self }
    }

    /// The profile of that name.
    ///
    /// # Errors
    /// Where there is none.
    pub fn named(name: &str) -> Result<Self, ProfileError> {
        match name {
            "spec" => Ok(Self::spec()),
            "rabbitmq" => Self::rabbitmq(),
            "spring" => Self::spring(),
            "stomp-relay" => Self::stomp_relay(),
            _ => Err(ProfileError(format!(
                "no profile `{name}`; there are {}",
                Self::NAMES.join(", ")
            ))),
        }
    }

    /// The same with a list of one's own, which goes before the profile's.
    #[must_use]
    pub fn with_expected(self, own: Expected) -> Self {
        Self { own, ..self }
    }

    /// The known difference of a case in a version over a transport.
    #[must_use]
    pub fn difference(&self, name: &str) -> Option<&Difference> {
        self.own.difference(name).or_else(|| self.built_in_difference(name))
    }

    /// The same where it comes with the profile, and no list of one's own says otherwise.
    fn built_in_difference(&self, name: &str) -> Option<&Difference> {
        self.built_in.difference(name).filter(|_| !self.own.passes(name))
    }

    /// The same where it is one's own.
    pub(crate) fn own_difference(&self, name: &str) -> Option<&Difference> {
        self.own.difference(name)
    }

    /// Whether one's own list says that a case passes which the profile lists.
    pub(crate) fn says_passes(&self, name: &str) -> bool {
        self.own.passes(name) && self.built_in.difference(name).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expected::{covers, names};
    use crate::transcripts::all_cases;

    #[test]
    fn every_listed_pattern_names_a_case_and_a_reason() {
        let names: Vec<String> = all_cases().unwrap().iter().flat_map(names).collect();
        for profile in Profile::NAMES {
            for difference in Profile::named(profile).unwrap().built_in.differences {
                assert!(!difference.fails_with.is_empty() && difference.reason.len() > 10);
                for pattern in &difference.cases {
                    let found = names.iter().any(|name| covers(pattern, name));
                    assert!(found, "stale in {profile}: {pattern}");
                }
            }
        }
    }

    #[test]
    fn ones_own_list_goes_before_the_profiles() {
        let list = |text| Expected::built_in(text).unwrap();
        let built_in = "[[difference]]\ncases = ['a', 'b', 'c']\nreason = 'built in'";
        let profile = Profile::spec().with_built_in(list(built_in));
        let own = "passes = ['b/1.2']\n[[difference]]\ncases = ['a']\nreason = 'own'";
        let profile = profile.with_expected(list(own));
        for (name, expected) in [
            ("a/1.2/tcp", Some("own")),
            ("b/1.2/tcp", None),
            ("b/1.1/tcp", Some("built in")),
            ("c/1.2/tcp", Some("built in")),
            ("d/1.2/tcp", None),
        ] {
            assert_eq!(profile.difference(name).map(|d| d.reason.as_str()), expected, "{name}");
        }
    }
}
