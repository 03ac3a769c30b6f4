//! Login, rules and what is kept unread, from their tables.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use super::build::{REDACTION, choice, time};
use super::keys::REDACTED;
use super::source::Settings;
use super::{AuthConfig, ConfigMistake, JwtAlgorithm, JwtConfig, JwtKeyConfig};
use super::{LinkKind, RuleConfig, UsersConfig};
use crate::auth::policy::{Allow, RuleFrame};
use crate::auth::secret::Secret;
use crate::auth::{jwt, users};
use crate::destination;
use crate::pattern::Pattern;
use crate::user::{Read, Replay, Rule, Storing};

/// What start-up says where nobody could log in.
pub(super) const NO_LOGIN: &str = "nobody could log in: write, for accounts in a file,\n\
    [auth.users]\n\
    file = \"users.txt\"   # lines of name:hash, made by stomp-relay hash-password\n\
    or, for tokens of your own application,\n\
    [[auth.jwt.keys]]\n\
    alg = \"RS256\"\n\
    pem_file = \"public.pem\"\n\
    or start with --dev to try things out on this machine";

pub(super) fn auth(s: &mut Settings, failures: Option<NonZeroU32>) -> AuthConfig {
    let users = if s.has("auth.users") {
        users(s)
    } else if s.dev {
        Some(UsersConfig::Dev)
    } else {
        None
    };
    let jwt = s.has("auth.jwt").then(|| jwt(s));
    let chain = chain(s, jwt.is_some(), users.is_some());
    AuthConfig { chain, jwt, users, failures_per_minute: failures }
}

fn chain(s: &mut Settings, jwt: bool, users: bool) -> Vec<LinkKind> {
    let configured: Vec<_> = [(LinkKind::Jwt, jwt), (LinkKind::Users, users)]
        .into_iter()
        .filter_map(|(link, there)| there.then_some(link))
        .collect();
    if s.written("auth.chain").is_none() {
        // An [auth.users] without its file was noted before, and so was a chain that is no list.
        if configured.is_empty() && !s.has("auth.users") && s.needs("auth.chain") {
            s.mistake("auth", NO_LOGIN);
        }
        return configured;
    }
    let names = s.list("auth.chain");
    if names.is_empty() {
        s.mistake("auth.chain", NO_LOGIN);
    }
    let mut chain = Vec::new();
    for name in names {
        let Some(link) = [LinkKind::Jwt, LinkKind::Users].into_iter().find(|l| l.name() == name)
        else {
            s.mistake("auth.chain", format!("{name:?} is no login; there are \"jwt\", \"users\""));
            continue;
        };
        if chain.contains(&link) {
            s.mistake("auth.chain", format!("{name:?} is there twice"));
        } else if !configured.contains(&link) && !s.has(&format!("auth.{name}")) {
            s.mistake("auth.chain", format!("{name:?} is not configured: write [auth.{name}]"));
        }
        chain.push(link);
    }
    chain
}

fn users(s: &mut Settings) -> Option<UsersConfig> {
    let Some(file) = s.text("auth.users.file") else {
        if s.needs("auth.users.file") {
            s.mistake("auth.users.file", "is missing");
        }
        return None;
    };
    let path = PathBuf::from(&file);
    if let Err(mistakes) = users::load(&path) {
        for mistake in mistakes {
            match mistake.line {
                None => s.mistake("auth.users.file", mistake.text),
                line => s.mistakes.push(ConfigMistake {
                    file: Some(file.clone()),
                    line,
                    key: "auth.users.file".into(),
                    text: mistake.text,
                }),
            }
        }
    }
    Some(UsersConfig::File(path))
}

fn jwt(s: &mut Settings) -> JwtConfig {
    let mut keys = Vec::new();
    for index in 0..s.length("auth.jwt.keys") {
        let name = format!("auth.jwt.keys[{index}]");
        let Some(key) = jwt_key(s, &name) else { continue };
        if let Err(text) = jwt::Key::new(&key) {
            s.mistake(&name, text);
        }
        keys.push(key);
    }
    if s.length("auth.jwt.keys") == 0 {
        s.mistake("auth.jwt", "has no keys; write [[auth.jwt.keys]] with alg and a key");
    }
    let config = JwtConfig {
        keys,
        issuer: s.text("auth.jwt.issuer"),
        audience: s.list("auth.jwt.audience"),
        user_claim: s.text("auth.jwt.user_claim").unwrap_or_default(),
        roles_claim: s.text("auth.jwt.roles_claim").unwrap_or_default(),
        leeway: time(s, "auth.jwt.leeway"),
        cookie: s.text("auth.jwt.cookie"),
        query: s.text("auth.jwt.query"),
    };
    let is_token =
        |text: &String| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    for (key, name) in [("cookie", &config.cookie), ("query", &config.query)] {
        if name.as_ref().is_some_and(|name| !is_token(name)) {
            let text = "takes letters, digits, - _ and . only";
            s.mistake(&format!("auth.jwt.{key}"), text);
        }
    }
    if config.issuer.is_none() && config.audience.is_empty() {
        s.warnings.push(
            "auth.jwt: neither issuer nor audience is set, so that a token made for another \
             application with the same key is taken too"
                .into(),
        );
    }
    config
}

/// One key; none where it is noted what is missing.
fn jwt_key(s: &mut Settings, name: &str) -> Option<JwtKeyConfig> {
    let of = |key: &str| format!("{name}.{key}");
    let Some(algorithm) = s.text(&of("alg")) else {
        if s.needs(&of("alg")) {
            s.mistake(&of("alg"), "is missing: HS256, RS256 or ES256");
        }
        return None;
    };
    let algorithm = JwtAlgorithm::from_name(&algorithm)?;
    let (own, other) = match algorithm {
        JwtAlgorithm::Hs256 => (["secret", "secret_file"], ["pem", "pem_file"]),
        JwtAlgorithm::Rs256 | JwtAlgorithm::Es256 => {
            (["pem", "pem_file"], ["secret", "secret_file"])
        }
    };
    for key in other {
        if s.written(&of(key)).is_some() {
            s.mistake(&of(key), format!("is not for {}", algorithm.name()));
        }
    }
    let [inline, file] = own.map(|key| s.text(&of(key)));
    let material = match (inline, file) {
        (Some(_), Some(_)) => {
            s.mistake(&of(own[1]), format!("and {} are both set", own[0]));
            return None;
        }
        (Some(text), None) if text == REDACTED => {
            s.mistake(&of(own[0]), REDACTION);
            return None;
        }
        (Some(text), None) => text,
        (None, Some(file)) => read(s, &of(own[1]), Path::new(&file))?,
        (None, None) => {
            if own.iter().all(|key| s.needs(&of(key))) {
                s.mistake(name, format!("has neither {} nor {}", own[0], own[1]));
            }
            return None;
        }
    };
    Some(JwtKeyConfig { algorithm, id: s.text(&of("kid")), material: Secret::new(material) })
}

/// A file's text without the line end that editors leave.
fn read(s: &mut Settings, name: &str, path: &Path) -> Option<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned()),
        Err(error) => {
            s.mistake(name, format!("{}: cannot be read: {error}", path.display()));
            None
        }
    }
}

pub(super) fn rules(s: &mut Settings) -> Vec<RuleConfig> {
    let mut rules = Vec::new();
    for index in 0..s.length("rule") {
        let of = |key: &str| format!("rule[{index}].{key}");
        let frames = [
            ("*", None),
            ("SEND", Some(RuleFrame::Send)),
            ("SUBSCRIBE", Some(RuleFrame::Subscribe)),
        ];
        let frame = choice(s, &of("frame"), &frames);
        let destination = pattern(s, &of("destination"));
        let allow = allow(s, &of("allow"));
        if let (Some(destination), Some(allow)) = (destination, allow) {
            rules.push(RuleConfig { frame, destination, allow });
        }
    }
    rules
}

fn allow(s: &mut Settings, name: &str) -> Option<Allow> {
    let Some(text) = s.text(name) else {
        if s.needs(name) {
            s.mistake(name, "is missing");
        }
        return None;
    };
    let allow = Allow::parse(&text);
    match &allow {
        None => s.mistake(
            name,
            format!("{text:?} is none of permitAll, denyAll, authenticated, role:X, user:X"),
        ),
        Some(Allow::User(user)) if !destination::is_user_name(user) => {
            s.mistake(name, format!("{text:?} names no possible user"));
        }
        Some(_) => {}
    }
    allow
}

fn pattern(s: &mut Settings, name: &str) -> Option<Pattern> {
    let Some(text) = s.text(name) else {
        if s.needs(name) {
            s.mistake(name, "is missing");
        }
        return None;
    };
    Pattern::parse(&text).map_err(|error| s.mistake(name, error.to_string())).ok()
}

pub(super) fn unread(s: &mut Settings) -> Vec<Rule> {
    let mut rules = Vec::new();
    for index in 0..s.length("unread") {
        let of = |key: &str| format!("unread[{index}].{key}");
        let destination = pattern(s, &of("destination"));
        let stores =
            [("absent", Storing::Absent), ("always", Storing::Always), ("never", Storing::Never)];
        let store = choice(s, &of("store"), &stores);
        let replays = [("header", Replay::Header), ("always", Replay::Always)];
        let replay = choice(s, &of("replay"), &replays);
        let reads = [("explicit", Read::Explicit), ("delivered", Read::Delivered)];
        let read = choice(s, &of("read"), &reads);
        let Some(destination) = destination else { continue };
        if !destination.is_about("user") {
            let text = format!("'{destination}' is never kept: only /user/... messages are");
            s.mistake(&of("destination"), text);
        }
        rules.push(Rule { destination, store, replay, read });
    }
    rules
}
