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
            (Destination::Queue(_) | Destination::AmqQueue(_), _) => {
                self.defaults == Defaults::Embedded
            }
            // Who was told the name of a queue of answers may answer; only its owner listens.
            (Destination::ReplyQueue(_), frame) => frame == RuleFrame::Send,
            (Destination::Exchange(_), _) => false,
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
        Destination::Queue(_)
        | Destination::AmqQueue(_)
        | Destination::ReplyQueue(_)
        | Destination::Topic(_)
        | Destination::Exchange(_)
        | Destination::App(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use Decision::{Allow as Yes, Deny as No};
    use RuleFrame::{Send, Subscribe};

    fn principal(name: &str, roles: &[&str]) -> Principal {
        let roles = roles.iter().map(|role| (*role).to_owned()).collect();
        Principal { name: Arc::from(name), roles, expires_at: None }
    }

    fn rule(text: &str) -> RuleConfig {
        let words: Vec<_> = text.split(' ').collect();
        let frame = match words[0] {
            "SEND" => Some(Send),
            "SUBSCRIBE" => Some(Subscribe),
            _ => None,
        };
        let destination = Pattern::parse(words[1]).unwrap();
        RuleConfig { frame, destination, allow: Allow::parse(words[2]).unwrap() }
    }

    fn policy(rules: &[&str], defaults: Defaults) -> Policy {
        Policy::new(rules.iter().map(|text| rule(text)).collect(), defaults)
    }

    fn decide(policy: &Policy, who: &Principal, frame: RuleFrame, text: &str) -> Decision {
        let destination = match frame {
            Send => Destination::for_send(text).unwrap(),
            Subscribe => Destination::for_subscribe(text, &who.name).unwrap(),
        };
        policy.decide(frame, who, &destination)
    }

    #[test]
    fn defaults() {
        // Embedded, RabbitMQ, --dev.
        let cases = [
            (Send, "/topic/a", [Yes, Yes, Yes]),
            (Send, "/queue/a", [Yes, No, Yes]),
            (Send, "/app/a", [Yes, Yes, Yes]),
            (Send, "/user/bob/queue/a", [Yes, Yes, Yes]),
            (Send, "/user/bob/topic/a", [No, No, Yes]),
            (Send, "/user/bob/exchange/a", [No, No, Yes]),
            (Subscribe, "/topic/a", [Yes, Yes, Yes]),
            (Subscribe, "/topic/*", [No, No, Yes]),
            (Subscribe, "/topic/a/**", [No, No, Yes]),
            (Subscribe, "/queue/a", [Yes, No, Yes]),
            (Subscribe, "/app/unread", [Yes, Yes, Yes]),
            (Subscribe, "/user/queue/a", [Yes, Yes, Yes]),
            (Subscribe, "/user/topic/a", [Yes, Yes, Yes]),
            (Subscribe, "/topic/room.1.presence", [Yes, Yes, Yes]),
            (Send, "/amq/queue/a", [Yes, No, Yes]),
            (Subscribe, "/amq/queue/a", [Yes, No, Yes]),
            (Subscribe, "/reply-queue/a", [Yes, No, Yes]),
            (Send, "/reply-queue/amq.gen-a", [Yes, Yes, Yes]),
            (Subscribe, "/reply-queue/amq.gen-a", [No, No, Yes]),
            (Send, "/exchange/e/k", [No, No, Yes]),
            (Subscribe, "/exchange/e/k", [No, No, Yes]),
        ];
        let alice = principal("alice", &[]);
        let all = [Defaults::Embedded, Defaults::RabbitMq, Defaults::Everything];
        for (frame, text, expected) in cases {
            let found = all.map(|defaults| decide(&policy(&[], defaults), &alice, frame, text));
            assert_eq!(found, expected, "{frame:?} {text}");
        }
    }

    /// Even where a rule, or --dev, allows everything.
    #[test]
    fn always_denied() {
        let everything = policy(&["* /** permitAll"], Defaults::Everything);
        let alice = principal("alice", &["admin"]);
        for text in [
            "/user/bob/queue/notifications",
            "/user/bob/queue/unread",
            "/user/alice/queue/errors",
            "/topic/room.1.presence",
            "/topic/room/1/presence",
            "/topic/presence",
        ] {
            assert_eq!(decide(&everything, &alice, Send, text), No, "{text}");
        }
        for text in [
            "/user/bob/queue/notifications.x",
            "/topic/presence.x",
            "/queue/presence",
            "/app/unread",
        ] {
            assert_eq!(decide(&everything, &alice, Send, text), Yes, "{text}");
        }
        let bobs = Destination::for_subscribe("/user/queue/x", "bob").unwrap();
        let verdict = everything.explain(Subscribe, &alice, &bobs);
        assert_eq!((verdict.decision, verdict.reason), (No, Reason::NotOwn));
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let policy = policy(
            &[
                "SEND /topic/system.** role:admin",
                "SUBSCRIBE /topic/system.secret denyAll",
                "* /topic/system.** permitAll",
                "SEND /topic/users.{user}.** authenticated",
                "SEND /topic/users.** denyAll",
                "* /queue/jobs user:worker",
            ],
            Defaults::Embedded,
        );
        let (admin, alice) = (principal("root", &["admin"]), principal("alice", &[]));
        let worker = principal("worker", &[]);
        let cases = [
            (&admin, Send, "/topic/system.x", Yes, Reason::Rule(0)),
            (&alice, Send, "/topic/system.x", No, Reason::Rule(0)),
            (&alice, Subscribe, "/topic/system.x", Yes, Reason::Rule(2)),
            (&admin, Subscribe, "/topic/system.secret", No, Reason::Rule(1)),
            (&alice, Send, "/topic/users.alice.x", Yes, Reason::Rule(3)),
            (&alice, Send, "/topic/users.bob.x", No, Reason::Rule(4)),
            (&worker, Subscribe, "/queue/jobs", Yes, Reason::Rule(5)),
            (&alice, Subscribe, "/queue/jobs", No, Reason::Rule(5)),
            (&alice, Subscribe, "/queue/other", Yes, Reason::Default),
            (&alice, Send, "/user/bob/queue/errors", No, Reason::ServerOnly),
        ];
        for (who, frame, text, decision, reason) in cases {
            let destination = match frame {
                Send => Destination::for_send(text).unwrap(),
                Subscribe => Destination::for_subscribe(text, &who.name).unwrap(),
            };
            let verdict = policy.explain(frame, who, &destination);
            assert_eq!(verdict, Verdict { decision, reason }, "{} {frame:?} {text}", who.name);
        }
    }

    #[test]
    fn wildcard_subscriptions() {
        let alice = principal("alice", &["trader"]);
        let cases: &[(&[&str], &str, Decision)] = &[
            (&["* /topic/a.** permitAll"], "/topic/a.*", Yes),
            (&["* /topic/a.** permitAll"], "/topic/a.#", Yes),
            (&["* /topic/a.* permitAll"], "/topic/a.#", No),
            (&["* /topic/a.* permitAll"], "/topic/*.b", No),
            (&["* /topic/** permitAll"], "/topic/#", Yes),
            // Parts allowed one by one do not make a whole.
            (&["* /topic/a.b permitAll", "* /topic/a.** permitAll"], "/topic/a.*", Yes),
            // A deny before it that only overlaps.
            (&["* /topic/a.secret denyAll", "* /topic/** permitAll"], "/topic/a.*", No),
            (&["* /topic/a.secret denyAll", "* /topic/** permitAll"], "/topic/b.*", Yes),
            (&["* /topic/a.secret denyAll", "* /topic/** permitAll"], "/topic/#", No),
            (&["* /topic/** permitAll", "* /topic/a.secret denyAll"], "/topic/#", Yes),
            (&["SEND /topic/a.secret denyAll", "* /topic/** permitAll"], "/topic/#", Yes),
            // A role that is there allows, one that is not denies.
            (&["* /topic/a.b role:boss", "* /topic/** permitAll"], "/topic/a.*", No),
            (&["* /topic/a.b role:trader", "* /topic/** permitAll"], "/topic/a.*", Yes),
            (&["* /topic/{user}.** permitAll"], "/topic/alice.#", Yes),
            (&["* /topic/{user}.** permitAll"], "/topic/*.x", No),
        ];
        for (rules, text, expected) in cases {
            let policy = policy(rules, Defaults::Embedded);
            assert_eq!(decide(&policy, &alice, Subscribe, text), *expected, "{rules:?} {text}");
        }
    }

    /// A name that would be a pattern or a regular expression widens nothing.
    #[test]
    fn user_names_are_literal() {
        let policy = policy(
            &["* /topic/users.{user} permitAll", "* /topic/users.** denyAll"],
            Defaults::Embedded,
        );
        for name in [".*", "a|bob", "[a-z]", "-", "*", "#", "**", "{user}"] {
            let who = principal(name, &[]);
            for text in ["/topic/users.bob", "/topic/users.*", "/topic/users.#"] {
                assert_eq!(decide(&policy, &who, Subscribe, text), No, "{name} {text}");
            }
        }
    }

    #[test]
    fn notice_about_queues() {
        for (rules, defaults, silent) in [
            (&[][..], Defaults::RabbitMq, false),
            (&["* /topic/** denyAll"][..], Defaults::RabbitMq, false),
            (&["* /queue/a permitAll"][..], Defaults::RabbitMq, true),
            (&["* /** permitAll"][..], Defaults::RabbitMq, true),
            (&[][..], Defaults::Embedded, true),
            (&[][..], Defaults::Everything, true),
        ] {
            assert_eq!(policy(rules, defaults).queue_notice().is_none(), silent, "{rules:?}");
        }
    }
}
