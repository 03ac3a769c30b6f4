//! Who may send where, and who may subscribe what: ordered rules, the first that matches counts.
//!
//! Pure: no clock, no I/O, no state. What no rule matches is decided by the defaults.

use std::sync::LazyLock;

use super::Principal;
use crate::destination::{Destination, UserDestination};
use crate::pattern::Pattern;

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleFrame {
    Send,
    Subscribe,
}

/// Whom a rule lets through; everybody else is denied by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allow {
    PermitAll,
    DenyAll,
    /// Whoever is logged in.
    Authenticated,
    Role(String),
    User(String),
}

impl Allow {
    /// Reads `permitAll`, `denyAll`, `authenticated`, `role:X` or `user:X`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "permitAll" => Some(Self::PermitAll),
            "denyAll" => Some(Self::DenyAll),
            "authenticated" => Some(Self::Authenticated),
            _ => match text.split_once(':')? {
                ("role", role) if !role.is_empty() => Some(Self::Role(role.into())),
                ("user", user) if !user.is_empty() => Some(Self::User(user.into())),
                _ => None,
            },
        }
    }

    fn lets(&self, principal: &Principal) -> bool {
        match self {
            Self::PermitAll | Self::Authenticated => true,
            Self::DenyAll => false,
            Self::Role(role) => principal.roles.contains(role),
            Self::User(user) => *principal.name == **user,
        }
    }
}

/// One `[[rule]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleConfig {
    /// None: both.
    pub frame: Option<RuleFrame>,
    pub destination: Pattern,
    pub allow: Allow,
}

impl RuleConfig {
    fn is_for(&self, frame: RuleFrame) -> bool {
        self.frame.is_none_or(|own| own == frame)
    }
}

/// What decides where no rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defaults {
    /// The embedded broker: queues, topics, the application, users.
    Embedded,
    /// RabbitMQ: the same without `/queue/**`. The relay speaks to RabbitMQ with one account for
    /// everybody, so that RabbitMQ's own permissions no longer protect its queues.
    RabbitMq,
    /// `--dev`: everything.
    Everything,
}

/// Yes or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow,
    Deny,
}

impl Decision {
    const fn of(yes: bool) -> Self {
        if yes { Self::Allow } else { Self::Deny }
    }
}

/// What decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Only the server sends there.
    ServerOnly,
    /// Another user's destination.
    NotOwn,
    /// The rule of that number, from 0.
    Rule(usize),
    /// No rule matched.
    Default,
}

/// A decision and what made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub decision: Decision,
    pub reason: Reason,
}

/// All rules.
#[derive(Clone, Debug)]
pub struct Policy {
    rules: Vec<RuleConfig>,
    defaults: Defaults,
}

impl Policy {
    #[must_use]
    pub const fn new(rules: Vec<RuleConfig>, defaults: Defaults) -> Self {
        Self { rules, defaults }
    }

    /// Whether `principal` may do that. Rules run on every SEND, SUBSCRIBE and pulled message.
    #[must_use]
    pub fn decide(
        &self,
        frame: RuleFrame,
        principal: &Principal,
        destination: &Destination,
    ) -> Decision {
        self.explain(frame, principal, destination).decision
    }

    /// The same, with what decided.
    #[must_use]
    pub fn explain(
        &self,
        frame: RuleFrame,
        principal: &Principal,
        destination: &Destination,
    ) -> Verdict {
        let deny = |reason| Verdict { decision: Decision::Deny, reason };
        match frame {
            RuleFrame::Send if is_server_only(destination) => return deny(Reason::ServerOnly),
            RuleFrame::Subscribe if !is_own(destination, principal) => {
                return deny(Reason::NotOwn);
            }
            RuleFrame::Send | RuleFrame::Subscribe => {}
        }
        for (index, rule) in self.rules.iter().enumerate() {
            if !rule.is_for(frame) {
                continue;
            }
            let decision = Decision::of(rule.allow.lets(principal));
            // A wildcard must be allowed as a whole, and be denied nowhere before that.
            let applies = match decision {
                Decision::Allow => rule.destination.contains(destination, &principal.name),
                Decision::Deny => rule.destination.overlaps(destination, &principal.name),
            };
            if applies {
                return Verdict { decision, reason: Reason::Rule(index) };
            }
        }
        let decision = Decision::of(self.by_default(frame, destination));
        Verdict { decision, reason: Reason::Default }
    }

    /// What start-up says where `/queue/**` is denied for want of a rule, with the rule to write.
    #[must_use]
    pub fn queue_notice(&self) -> Option<&'static str> {
        let silent = self.defaults != Defaults::RabbitMq
            || self.rules.iter().any(|rule| rule.destination.is_about("queue"));
        (!silent).then_some(
            "No rule is about /queue/**, so clients are denied all queues: the relay uses one \
             RabbitMQ account for everybody. To let everybody who is logged in use queues, write\n\
             [[rule]]\n\
             frame = \"*\"\n\
             destination = \"/queue/**\"\n\
             allow = \"authenticated\"",
        )
    }

    fn by_default(&self, frame: RuleFrame, destination: &Destination) -> bool {
        if self.defaults == Defaults::Everything {
            return true;
        }
        match (destination, frame) {
            (Destination::Queue(_), _) => self.defaults == Defaults::Embedded,
            (Destination::Topic(topic), RuleFrame::Subscribe) => !topic.is_wildcard(),
            (Destination::Topic(_), RuleFrame::Send) | (Destination::App(_), _) => true,
            (Destination::User(user), RuleFrame::Send) => user.target.starts_with("queue/"),
            // Judged to be one's own already.
            (Destination::User(_), RuleFrame::Subscribe) => true,
        }
    }
}

/// Where only the server sends, whatever the rules say: a client that could would forge
/// notifications, the state of unread messages, errors and presence.
fn is_server_only(destination: &Destination) -> bool {
    static PATTERNS: LazyLock<Vec<Pattern>> = LazyLock::new(|| {
        [
            "/user/*/queue/notifications",
            "/user/*/queue/unread",
            "/user/*/queue/errors",
            "/topic/**.presence",
        ]
        .into_iter()
        .map(|text| Pattern::parse(text).expect("a pattern written here is a pattern"))
        .collect()
    });
    PATTERNS.iter().any(|pattern| pattern.overlaps(destination, ""))
}

fn is_own(destination: &Destination, principal: &Principal) -> bool {
    match destination {
        Destination::User(UserDestination { user, .. }) => *user == principal.name,
        Destination::Queue(_) | Destination::Topic(_) | Destination::App(_) => true,
    }
}
