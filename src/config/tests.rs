//! What the config takes, refuses and prints.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::cli::Serve;

/// A login that needs no file.
const LOGIN: &str = "[[auth.jwt.keys]]\nalg = \"HS256\"\n\
    secret = \"0123456789abcdef0123456789abcdef\"\n";

struct Case {
    dir: TempDir,
    cli: Serve,
}

impl Case {
    fn new(text: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("stomp-relay.toml");
        std::fs::write(&path, text).unwrap();
        let cli = Serve { config: Some(path), ..Serve::default() };
        Self { dir, cli }
    }

    fn load(&self, env: &[(&str, &str)]) -> Result<Config, Vec<ConfigMistake>> {
        let env: Vec<_> =
            env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::load(&self.cli, env.into_iter())
    }

    /// The mistakes as they are printed, with paths shortened.
    fn mistakes(&self, env: &[(&str, &str)]) -> Vec<String> {
        let dir = format!("{}/", self.dir.path().display());
        let mistakes = self.load(env).err().unwrap_or_default();
        mistakes.iter().map(|mistake| mistake.to_string().replace(&dir, "")).collect()
    }
}

fn config(text: &str) -> Config {
    Case::new(&format!("{text}\n{LOGIN}")).load(&[]).unwrap()
}

/// Each text has the one mistake; a valid login stands after it.
const MISTAKES: &[(&str, &str)] = &[
    (
        "\n[limits]\nframe_byte = 7",
        "stomp-relay.toml:3: limits.frame_byte: unknown key; did you mean limits.frame_bytes?",
    ),
    ("lisen = \"x\"", "stomp-relay.toml:1: lisen: unknown key; did you mean listen?"),
    ("[limit]\na = 1", "stomp-relay.toml:1: limit: unknown key; did you mean limits?"),
    (
        "[[endpoint]]\npath = \"/ws\"\nallowed_origin = []",
        "stomp-relay.toml:3: endpoint.allowed_origin: unknown key; did you mean \
             endpoint.allowed_origins?",
    ),
    ("[tls]\ncert = \"x\"", "stomp-relay.toml:1: tls: unknown key"),
    ("rooms = []", "stomp-relay.toml:1: rooms: unknown key"),
    (
        "[[endpoint]]\npath = \"/ws\"\nsockjs = \"yes\"",
        "stomp-relay.toml:3: endpoint.sockjs: is \"yes\", but takes true or false",
    ),
    (
        "[[endpoint]]\npath = \"/ws\"\ntransports = [\"xhr\", \"flash\"]",
        "stomp-relay.toml:3: endpoint.transports: \"flash\" is no transport; there are \
             \"websocket\", \"xhr\",",
    ),
    (
        "[[endpoint]]\npath = \"/ws\"\nallowed_origins = [\"https://a.example\"]\n\
         transports = [\"jsonp\"]",
        "stomp-relay.toml:4: endpoint.transports: \"jsonp\" cannot keep to allowed_origins;",
    ),
    (
        "[[endpoint]]\npath = \"/ws\"\nbase_url = \"ftp://a\"",
        "stomp-relay.toml:3: endpoint.base_url: \"ftp://a\" is no address; write",
    ),
    ("[notifications]\nself_follow = []", "stomp-relay.toml:1: notifications: unknown key"),
    ("[app]\nbuiltin_prefix = \"/\"", "stomp-relay.toml:1: app: unknown key"),
    ("listen = 8080", "stomp-relay.toml:1: listen: is 8080, but takes a text"),
    ("listen = \"\"", "stomp-relay.toml:1: listen: is empty"),
    ("listen = \":8080\"", "stomp-relay.toml:1: listen: \":8080\" is no address; write"),
    ("listen = true", "stomp-relay.toml:1: listen: is a truth value, but takes a text"),
    ("limits = 3", "stomp-relay.toml:1: limits: is a table: [limits]"),
    ("rule = 3", "stomp-relay.toml:1: rule: is a list of tables: [[rule]]"),
    ("rule = [3]", "stomp-relay.toml:1: rule: is a list of tables: [[rule]]"),
    (
        "[admin]\nlisten = \"0.0.0.0:9090\"",
        "stomp-relay.toml:2: admin.listen: is not loopback, which needs admin.token",
    ),
    ("[admin]\ntoken = \"short\"", "stomp-relay.toml:2: admin.token: is too short"),
    (
        "[broker]\nurl = [\"amqp://a\", \"embedded:\"]",
        "stomp-relay.toml:2: broker.url: takes embedded:[PATH], or amqp://HOST",
    ),
    ("broker.url = \"http://a\"", "stomp-relay.toml:1: broker.url: takes embedded:"),
    ("broker.url = []", "stomp-relay.toml:1: broker.url: is empty"),
    ("broker.url = [1]", "stomp-relay.toml:1: broker.url: has integer in its list of texts"),
    ("store.url = \"mysql://a\"", "stomp-relay.toml:1: store.url: takes sqlite:PATH"),
    ("store.url = \"sqlite:\"", "stomp-relay.toml:1: store.url: names no file"),
    ("store.url = \"redis:\"", "stomp-relay.toml:1: store.url: takes sqlite:PATH"),
    ("public_url = \"app.example\"", "stomp-relay.toml:1: public_url: \"app.example\" is no"),
    ("trusted_proxies = [\"10/8\"]", "stomp-relay.toml:1: trusted_proxies: \"10/8\" is no"),
    ("node.id = \"a b\"", "stomp-relay.toml:1: node.id: takes up to 64 letters"),
    ("static.dir = \"/nowhere\"", "stomp-relay.toml:1: static.dir: is no directory"),
    ("[[endpoint]]\nauth = \"connect\"", "stomp-relay.toml:1: endpoint.path: is missing"),
    ("[[endpoint]]\npath = \"ws\"", "stomp-relay.toml:2: endpoint.path: \"ws\" does not"),
    ("[[endpoint]]\npath = \"/ws/\"", "stomp-relay.toml:2: endpoint.path: \"/ws/\" does not"),
    ("[[endpoint]]\npath = \"/a b\"", "stomp-relay.toml:2: endpoint.path: \"/a b\" has more"),
    ("[[endpoint]]\npath = \"/../x\"", "stomp-relay.toml:2: endpoint.path: \"/../x\" has"),
    ("[[endpoint]]\npath = \"/api/x\"", "stomp-relay.toml:2: endpoint.path: \"/api/x\" bel"),
    (
        "[[endpoint]]\npath = \"/a\"\n[[endpoint]]\npath = \"/a\"",
        "stomp-relay.toml:4: endpoint.path: \"/a\" is there twice",
    ),
    (
        "[[endpoint]]\npath = \"/a\"\nallowed_origins = [\"app.example\"]",
        "stomp-relay.toml:3: endpoint.allowed_origins: \"app.example\" is no origin",
    ),
    (
        "[[endpoint]]\npath = \"/a\"\nallowed_origins = [\"https://a/b\"]",
        "stomp-relay.toml:3: endpoint.allowed_origins: \"https://a/b\" is no origin",
    ),
    (
        "[[endpoint]]\npath = \"/a\"\nauth = \"no\"",
        "stomp-relay.toml:3: endpoint.auth: is \"no\", but takes one of \"handshake\"",
    ),
    ("auth.chain = [\"ldap\"]", "stomp-relay.toml:1: auth.chain: \"ldap\" is no login"),
    (
        "auth.chain = [\"jwt\", \"users\"]",
        "stomp-relay.toml:1: auth.chain: \"users\" is not configured: write [auth.users]",
    ),
    ("auth.chain = [\"jwt\",\"jwt\"]", "stomp-relay.toml:1: auth.chain: \"jwt\" is there tw"),
    ("auth.chain = []", "stomp-relay.toml:1: auth.chain: nobody could log in"),
    ("[auth.users]", "stomp-relay.toml:1: auth.users.file: is missing"),
    (
        "auth.users.file = \"/nowhere\"",
        "stomp-relay.toml:1: auth.users.file: /nowhere: cannot be read: No such file",
    ),
    ("auth.jwt.leeway = \"1h\"", "stomp-relay.toml:1: auth.jwt.leeway: is not between 0s an"),
    ("auth.jwt.cookie = \"a b\"", "stomp-relay.toml:1: auth.jwt.cookie: takes letters"),
    (
        "auth.jwt.cookie = \"t\"\nendpoint = [{ path = \"/ws\", allowed_origins = [\"*\"] }]",
        "stomp-relay.toml:1: auth.jwt.cookie: is not safe while an endpoint allows",
    ),
    (
        "[[auth.jwt.keys]]\nsecret = \"x\"",
        "stomp-relay.toml:1: auth.jwt.keys.alg: is missing: HS256, RS256 or ES256",
    ),
    (
        "[[auth.jwt.keys]]\nalg = \"none\"",
        "stomp-relay.toml:2: auth.jwt.keys.alg: is \"none\", but takes one of \"HS256\"",
    ),
    (
        "[[auth.jwt.keys]]\nalg = \"HS256\"",
        "stomp-relay.toml:1: auth.jwt.keys: has neither secret nor secret_file",
    ),
    (
        "[[auth.jwt.keys]]\nalg = \"HS256\"\nsecret = \"short\"",
        "stomp-relay.toml:1: auth.jwt.keys: a secret for HS256 has at least 32 bytes",
    ),
    (
        "[[auth.jwt.keys]]\nalg = \"RS256\"\npem = \"x\"",
        "stomp-relay.toml:1: auth.jwt.keys: holds no RSA key of 2048 to 8192 bits in PEM",
    ),
    (
        "[[auth.jwt.keys]]\nalg = \"ES256\"\npem_file = \"/nowhere\"",
        "stomp-relay.toml:3: auth.jwt.keys.pem_file: /nowhere: cannot be read",
    ),
    (
        "[[auth.jwt.keys]]\nalg = \"HS256\"\nsecret_file = \"a\"\nsecret = \"b\"",
        "stomp-relay.toml:3: auth.jwt.keys.secret_file: and secret are both set",
    ),
    ("[errors]\ndenied = \"drop\"", "stomp-relay.toml:2: errors.denied: is \"drop\", but ta"),
    ("[limits]\nframe_bytes = 12", "stomp-relay.toml:2: limits.frame_bytes: is 12, which is"),
    ("[limits]\nframe_bytes = \"1MB\"", "stomp-relay.toml:2: limits.frame_bytes: \"1MB\" is"),
    ("[limits]\nheaders = -1", "stomp-relay.toml:2: limits.headers: is no whole number"),
    ("[limits]\nheaders = 1.5", "stomp-relay.toml:2: limits.headers: is a number with a fr"),
    ("[limits]\nheaders = \"64\"", "stomp-relay.toml:2: limits.headers: is \"64\", but takes"),
    ("[limits]\nconnect_time = 10", "stomp-relay.toml:2: limits.connect_time: is 10, but"),
    ("[limits]\nconnect_time = \"10\"", "stomp-relay.toml:2: limits.connect_time: \"10\" is"),
    ("[limits]\nsessions_per_user = 0", "stomp-relay.toml:2: limits.sessions_per_user: is 0"),
    ("[[rule]]\nallow = \"permitAll\"", "stomp-relay.toml:1: rule.destination: is missing"),
    ("[[rule]]\ndestination = \"/**\"", "stomp-relay.toml:1: rule.allow: is missing"),
    (
        "[[rule]]\ndestination = \"/topic/a*\"\nallow = \"permitAll\"",
        "stomp-relay.toml:2: rule.destination: '/topic/a*' has a * that is not a whole word",
    ),
    (
        "[[rule]]\ndestination = \"/**\"\nallow = \"role:\"",
        "stomp-relay.toml:3: rule.allow: \"role:\" is none of permitAll",
    ),
    (
        "[[rule]]\nframe = \"ACK\"\ndestination = \"/**\"\nallow = \"denyAll\"",
        "stomp-relay.toml:2: rule.frame: is \"ACK\", but takes one of",
    ),
    (
        "[[unread]]\ndestination = \"/topic/a\"",
        "stomp-relay.toml:2: unread.destination: '/topic/a' is never kept",
    ),
    ("[[unread]]\nstore = \"always\"", "stomp-relay.toml:1: unread.destination: is missing"),
];

#[test]
fn one_mistake_each() {
    for (text, expected) in MISTAKES {
        let mistakes = Case::new(&format!("{text}\n{LOGIN}")).mistakes(&[]);
        assert_eq!(mistakes.len(), 1, "{text}: {mistakes:#?}");
        assert!(mistakes[0].starts_with(expected), "{text}: {mistakes:#?}");
    }
}

#[test]
fn every_mistake_is_named_in_the_order_of_the_lines() {
    let case = Case::new(
        "listen = \"nowhere\"\n\
         bogus = 1\n\
         [limits]\n\
         headers = 0\n\
         frame_bites = 1\n\
         [[rule]]\n\
         destination = \"/foo/a\"\n\
         allow = \"nobody\"\n",
    );
    let lines: Vec<_> =
        case.load(&[]).unwrap_err().iter().map(|m| (m.line, m.key.clone())).collect();
    let expected = [
        (None, "auth"),
        (Some(1), "listen"),
        (Some(2), "bogus"),
        (Some(4), "limits.headers"),
        (Some(5), "limits.frame_bites"),
        (Some(7), "rule.destination"),
        (Some(8), "rule.allow"),
    ];
    assert_eq!(lines, expected.map(|(line, key)| (line, key.to_owned())));
}

#[test]
fn what_is_not_toml() {
    let mistakes = Case::new("listen = \"a\"\nlisten = \"b\"\n[x\nb = \n").mistakes(&[]);
    assert!(mistakes.len() >= 2, "{mistakes:#?}");
    assert!(mistakes.iter().all(|m| m.contains(": not TOML: ")), "{mistakes:#?}");
    assert!(mistakes[0].starts_with("stomp-relay.toml:2: "), "{mistakes:#?}");
    let cli = Serve { config: Some("/nowhere/x.toml".into()), ..Serve::default() };
    let mistakes = Config::load(&cli, std::iter::empty()).unwrap_err();
    assert_eq!(mistakes.len(), 1);
    let text = mistakes[0].to_string();
    assert!(text.starts_with("/nowhere/x.toml: --config: cannot be read: No such file"), "{text}");
}

#[test]
fn without_a_login_it_says_what_to_write() {
    let mistakes = Config::load(&Serve::default(), std::iter::empty()).unwrap_err();
    assert_eq!(mistakes.len(), 1);
    for word in ["[auth.users]", "[[auth.jwt.keys]]", "--dev", "hash-password"] {
        assert!(mistakes[0].text.contains(word), "{word}");
    }
}

#[test]
fn flag_over_environment_over_file_over_default() {
    let text = format!("listen = \"127.0.0.1:1\"\nstore.url = \"memory:\"\n{LOGIN}");
    let mut case = Case::new(&text);
    let listen = |case: &Case, env| case.load(env).unwrap().listen.port();
    assert_eq!(config("").listen.port(), 8080);
    assert_eq!(listen(&case, &[]), 1);
    assert_eq!(listen(&case, &[("STOMP_RELAY_LISTEN", "")]), 1);
    assert_eq!(listen(&case, &[("STOMP_RELAY_LISTEN", "127.0.0.1:2")]), 2);
    case.cli.listen = Some("127.0.0.1:3".into());
    assert_eq!(listen(&case, &[("STOMP_RELAY_LISTEN", "127.0.0.1:2")]), 3);
    case.cli.listen = Some("x".into());
    assert!(case.mistakes(&[])[0].starts_with("listen (--listen): \"x\" is no address"));
}

#[test]
fn environment() {
    let case = Case::new(LOGIN);
    let env = [
        ("STOMP_RELAY_ADMIN_TOKEN", "0123456789abcdef"),
        ("STOMP_RELAY_ADMIN_LISTEN", "0.0.0.0:1"),
        ("STOMP_RELAY_BROKER", "amqp://a, amqp://b"),
        ("STOMP_RELAY_STORE", "memory:"),
        ("STOMP_RELAY_LIMITS_FRAME_BYTES", "1MiB"),
        ("STOMP_RELAY_LIMITS_HEADERS", "10"),
        ("STOMP_RELAY_LIMITS_AUTH_FAILURES", "off"),
        ("STOMP_RELAY_RELAY_OUTAGE_TIME", "1s"),
        ("STOMP_RELAY_TCP_LISTEN", "127.0.0.1:61613"),
        ("STOMP_RELAY_TRUSTED_PROXIES", "10.0.0.0/8,::1"),
        ("STOMP_RELAY_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("OTHER", "x"),
    ];
    let config = case.load(&env).unwrap();
    assert_eq!(config.admin.token.unwrap().expose(), "0123456789abcdef");
    assert!(matches!(config.broker, BrokerConfig::RabbitMq { urls }
        if urls.iter().map(|url| url.expose()).eq(["amqp://a", "amqp://b"])));
    assert!(matches!(config.store, StoreConfig::Memory));
    assert_eq!((config.limits.frame_bytes, config.limits.headers), (1 << 20, 10));
    assert_eq!(config.limits.websocket_message_bytes, 1 << 20);
    assert_eq!(config.limits.auth_failures, None);
    assert_eq!(config.relay.outage.time, Duration::from_secs(1));
    assert_eq!(config.tcp_listen.unwrap().port(), 61613);
    assert_eq!(config.trusted_proxies.len(), 2);
    assert!(config.warnings.iter().any(|warning| warning.contains("PORT_8080_TCP_ADDR")));

    let cases = [
        (
            "STOMP_RELAY_LISTN",
            "x",
            "STOMP_RELAY_LISTN: unknown variable; did you mean STOMP_RELAY_LI",
        ),
        ("STOMP_RELAY_DEV", "yes", "STOMP_RELAY_DEV: is \"yes\", but takes true or false"),
        (
            "STOMP_RELAY_LIMITS_HEADERS",
            "many",
            "limits.headers (STOMP_RELAY_LIMITS_HEADERS): is \"many\", but takes a whole number",
        ),
    ];
    for (name, value, expected) in cases {
        let mistakes = case.mistakes(&[(name, value)]);
        assert!(mistakes.len() == 1 && mistakes[0].starts_with(expected), "{mistakes:#?}");
    }
    let path = case.cli.config.as_ref().unwrap();
    let env = ("STOMP_RELAY_CONFIG".to_owned(), path.display().to_string());
    assert!(Config::load(&Serve::default(), std::iter::once(env)).is_ok());
}

#[test]
fn defaults() {
    let config = config("");
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:9090");
    assert!(matches!(&config.broker,
        BrokerConfig::Embedded { path } if path == Path::new("stomp-relay-broker.db")));
    assert!(matches!(&config.store,
        StoreConfig::Sqlite { path } if path == Path::new("stomp-relay.db")));
    assert_eq!(config.endpoints.len(), 1);
    assert_eq!(config.endpoints[0].path, "/ws");
    assert_eq!(config.endpoints[0].auth, EndpointAuth::Connect);
    let errors = config.errors;
    for kind in [errors.denied, errors.unknown_destination, errors.unroutable, errors.limit] {
        assert_eq!(kind, OnError::Close);
    }
    for kind in [errors.outage, errors.store, errors.cancelled] {
        assert_eq!(kind, OnError::Message);
    }
    let limits = config.limits;
    assert_eq!((limits.frame_bytes, limits.websocket_message_bytes), (262_144, 262_144));
    assert_eq!((limits.sessions_per_user, limits.sessions_per_address), (Some(1000), None));
    assert_eq!(limits.ack_time, Duration::from_secs(25 * 60));
    assert_eq!(limits.unread_age, Duration::from_secs(7 * 86_400));
    assert!(limits.sessions > 0);
    assert_eq!(limits.auth_failures.unwrap().get(), 10);
    let jwt = config.auth.jwt.unwrap();
    assert_eq!((jwt.user_claim.as_str(), jwt.leeway), ("sub", Duration::from_secs(5)));
    assert_eq!((jwt.cookie, jwt.query), (None, None));
    // Neither issuer nor audience.
    assert_eq!(config.warnings.len(), 1);
}

#[test]
fn what_follows_from_other_keys() {
    let with_path = config("store.url = \"sqlite:/data/relay.db\"");
    assert!(matches!(with_path.broker, BrokerConfig::Embedded { path }
        if path == Path::new("/data/stomp-relay-broker.db")));
    let rabbit = "broker.url = \"amqp://guest:guest@localhost/%2f\"\n";
    let notice = |config: &Config| config.warnings.iter().any(|w| w.contains("/queue/**"));
    assert!(notice(&config(rabbit)));
    let rule = "[[rule]]\ndestination = \"/queue/**\"\nallow = \"authenticated\"\n";
    assert!(!notice(&config(&format!("{rabbit}{rule}"))));
    let origins = "[[endpoint]]\npath = \"/a\"\nallowed_origins = \"HTTPS://App.Example:443/\"";
    assert_eq!(config(origins).endpoints[0].allowed_origins, ["https://app.example"]);
    let outline = config("[[unread]]\ndestination = \"/user/queue/**\"\nreplay = \"always\"");
    assert_eq!(outline.unread[0].replay, crate::user::Replay::Always);
    assert_eq!(outline.unread[0].store, crate::user::Storing::Absent);
}

#[test]
fn dev() {
    let mut case = Case::new("");
    case.cli.dev = true;
    let config = case.load(&[]).unwrap();
    assert_eq!(config.auth.chain, [LinkKind::Users]);
    assert_eq!(config.auth.users, Some(UsersConfig::Dev));
    assert_eq!(config.limits.sessions_per_user, None);
    assert!(config.endpoints[0].loopback_origins);
    for (flag, key) in [("STOMP_RELAY_LISTEN", "listen"), ("STOMP_RELAY_TCP_LISTEN", "tcp.listen")]
    {
        let mistakes = case.mistakes(&[(flag, "0.0.0.0:1")]);
        assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
        assert!(mistakes[0].starts_with(&format!("{key} ({flag}): is not loopback, but --dev")));
    }
    let mut own = Case::new("[limits]\nsessions_per_user = 3");
    own.cli.dev = true;
    assert_eq!(own.load(&[]).unwrap().limits.sessions_per_user, Some(3));
    assert!(Case::new("").load(&[("STOMP_RELAY_DEV", "true")]).unwrap().dev);
    assert!(Case::new("").load(&[("STOMP_RELAY_DEV", "false")]).is_err());
}

#[test]
fn mistakes_of_the_users_file_have_its_lines() {
    let case = Case::new("");
    let users = case.dir.path().join("users.txt");
    std::fs::write(&users, "# nobody\nalice\n\nbob:plain\n").unwrap();
    let env = [("STOMP_RELAY_AUTH_USERS_FILE", users.to_str().unwrap())];
    assert_eq!(
        case.mistakes(&env),
        [
            "users.txt:2: auth.users.file: has no colon: write name:hash, or name:hash:role,role",
            "users.txt:4: auth.users.file: has no argon2id hash after the name; \
             stomp-relay hash-password makes one",
        ]
    );
}

/// A config with something in every section, secrets among it.
const FULL: &str = r#"
listen = "127.0.0.1:1234"
public_url = "https://app.example"
trusted_proxies = ["10.0.0.0/8"]
admin.token = "hidden-hidden-hidden"
tcp.listen = "127.0.0.1:61613"
broker.url = ["amqp://me:hidden-pass@a/%2f", "amqps://b"]
store.url = "redis://:hidden-pass@c/0"
node.id = "n-1"
[auth]
chain = ["jwt"]
[auth.jwt]
issuer = "\"quoted\\ \u0001"
audience = ["a", "b"]
cookie = "token"
[[auth.jwt.keys]]
alg = "HS256"
kid = "k1"
secret = "hidden-0123456789abcdef0123456789abcdef"
[limits]
frame_bytes = 300000
sessions_per_address = 7
ack_time = "1500ms"
[relay.outage]
bytes = "1MiB"
[[endpoint]]
path = "/stomp"
allowed_origins = ["https://app.example"]
[[endpoint]]
path = "/ws"
auth = "handshake"
[[rule]]
destination = "/queue/**"
allow = "role:worker"
[[rule]]
frame = "SEND"
destination = "/topic/{user}.**"
allow = "permitAll"
[[unread]]
destination = "/user/queue/x"
store = "never"
"#;

fn printed(case: &Case) -> String {
    let mut out = Vec::new();
    Config::print(&case.cli, std::iter::empty(), &mut out).unwrap().unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_printed_config_says_the_same() {
    let case = Case::new(FULL);
    let text = printed(&case);
    assert!(!text.contains("hidden"), "{text}");
    for key in keys::KEYS {
        let name = key.name.rsplit('.').next().unwrap();
        assert!(text.contains(&format!("{name} =")), "{name} is not printed:\n{text}");
    }
    // Only the secrets are missing; with them put back nothing differs.
    let again = Case::new(&text);
    let mistakes = again.load(&[]).unwrap_err();
    assert!(mistakes.iter().all(ConfigMistake::is_redaction), "{mistakes:#?}");
    assert_eq!(mistakes.len(), 4, "{mistakes:#?}");
    assert_eq!(printed(&again), text);
    let full = case.load(&[]).unwrap();
    let back = text
        .replace("secret = \"(redacted)\"", "secret = \"hidden-0123456789abcdef0123456789abcdef\"")
        .replace("token = \"(redacted)\"", "token = \"hidden-hidden-hidden\"")
        .replace("(redacted)", "hidden-pass");
    let back = Case::new(&back).load(&[]).unwrap();
    assert_eq!(format!("{back:?}"), format!("{full:?}"));
    assert!(!format!("{full:?}").contains("hidden"));
}

#[test]
fn printed_defaults_are_valid_once_there_is_a_login() {
    let case = Case { dir: TempDir::new().unwrap(), cli: Serve::default() };
    let text = printed(&case);
    for line in ["frame_bytes = \"256KiB\"", "# [auth.jwt]", "# [[rule]]", "leeway = \"5s\""] {
        assert!(text.lines().any(|own| own.contains(line)), "{line}\n{text}");
    }
    let mistakes = Case::new(&text).load(&[]).unwrap_err();
    assert_eq!(mistakes.len(), 1);
    assert_eq!(mistakes[0].text, login::NO_LOGIN);
    assert!(Case::new(&format!("{text}\n{LOGIN}")).load(&[]).is_ok());
}

#[test]
fn every_default_is_a_value_of_its_key() {
    for key in keys::KEYS {
        if let Some(default) = key.default {
            key.kind.read_text(default).unwrap_or_else(|error| panic!("{}: {error}", key.name));
        } else {
            assert!(!key.note.is_empty(), "{}", key.name);
        }
    }
}
