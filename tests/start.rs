//! The built program from the outside: what it says where it cannot start, and the commands that
//! only read and print. Needs no server; whatever it listens on is a free loopback port.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in tests a panic is how to fail")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// A door that nobody else has, and no file left behind.
const DOORS: &[&str] = &["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
const MEMORY: &[&str] = &["--store", "memory:"];
const EMBEDDED: &[&str] = &["--broker", "embedded:broker.db"];

/// The program in a folder, with nothing of this environment but a wish for backtraces, which
/// must not come.
fn relay(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stomp-relay"));
    command.args(args).current_dir(folder).env_clear().env("RUST_BACKTRACE", "1");
    command
}

fn run(folder: &Path, args: &[&str], input: &str) -> Output {
    let mut child = relay(folder, args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have ended without reading.
    child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
    child.wait_with_output().unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", errors(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// It ends with code 1, says nothing on standard output, and on standard error one line that has
/// all of `parts`.
fn fails(folder: &Path, args: &[&[&str]], parts: &[&str]) {
    let output = run(folder, &args.concat(), "");
    let errors = errors(&output);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {errors}");
    assert_eq!(output.stdout, b"", "{args:?}");
    assert_eq!(errors.lines().count(), 1, "{args:?}: {errors}");
    for part in parts {
        assert!(errors.contains(part), "{args:?}: no {part:?} in {errors}");
    }
}

/// A port that is in use as long as this lives, and one that nobody listens on.
fn taken() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

fn closed() -> String {
    taken().1
}

#[test]
fn says_which_port_is_in_use() {
    let folder = TempDir::new().unwrap();
    let (_listener, address) = taken();
    let free = "127.0.0.1:0";
    for (flag, key) in [
        ("--listen", "(listen)"),
        ("--admin-listen", "(admin.listen)"),
        ("--tcp-listen", "(tcp.listen)"),
    ] {
        let mut args = vec!["--dev", "--store", "memory:", "--broker", "embedded:broker.db"];
        for door in ["--listen", "--admin-listen", "--tcp-listen"] {
            args.extend([door, if door == flag { &address } else { free }]);
        }
        fails(folder.path(), &[&args], &[&address, key, "in use"]);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "it left files behind");
}

#[test]
fn says_which_server_cannot_be_reached() {
    let folder = TempDir::new().unwrap();
    let address = closed();
    let amqp = format!("amqp://guest:secret-word@{address}/%2f");
    let redis = format!("redis://:secret-word@{address}/");
    let broker: [&[&str]; 4] = [&["--dev"], DOORS, MEMORY, &["--broker", &amqp]];
    let store: [&[&str]; 4] = [&["--dev"], DOORS, EMBEDDED, &["--store", &redis]];
    fails(folder.path(), &broker, &["broker.url: RabbitMQ at", &address, "refused"]);
    fails(folder.path(), &store, &["store.url: Redis at", &address, "refused"]);
    for args in [broker, store] {
        let output = run(folder.path(), &args.concat(), "");
        assert!(!errors(&output).contains("secret-word"), "{}", errors(&output));
    }
}

#[test]
fn says_which_file_cannot_be_written() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    fs::create_dir(folder.path().join("folder.db")).unwrap();
    let dev: &[&str] = &["--dev"];
    // Permissions do not stop root, but nobody writes below a file.
    let store: &[&str] = &["--store", "sqlite:file/store.db"];
    fails(folder.path(), &[dev, DOORS, EMBEDDED, store], &["file/stomp-relay-node.id"]);
    let store: &[&str] = &["--store", "sqlite:folder.db"];
    fails(folder.path(), &[dev, DOORS, EMBEDDED, store], &["store.url:", "folder.db"]);
    let broker: &[&str] = &["--broker", "embedded:folder.db"];
    fails(folder.path(), &[dev, DOORS, MEMORY, broker], &["broker.url:", "folder.db"]);
}

#[test]
fn dev_is_for_this_machine_only() {
    let folder = TempDir::new().unwrap();
    for (flag, key) in
        [("--listen", "listen"), ("--admin-listen", "admin.listen"), ("--tcp-listen", "tcp.listen")]
    {
        let args: [&[&str]; 2] = [&["--dev"], &[flag, "0.0.0.0:0"]];
        fails(folder.path(), &args, &[key, flag, "loopback", "--dev"]);
    }
    let args: [&[&str]; 2] = [&["--dev"], &["--listen", "[::]:0"]];
    fails(folder.path(), &args, &["loopback"]);
}

/// Without a login there is more to say than a line holds.
#[test]
fn says_what_to_write_where_nobody_could_log_in() {
    let folder = TempDir::new().unwrap();
    for command in [&["serve"][..], &["check-config"], &["token", "--user", "alice"], &[]] {
        let output = run(folder.path(), command, "");
        assert_eq!(output.status.code(), Some(1));
        let errors = errors(&output);
        for part in ["auth: nobody could log in", "[auth.users]", "[[auth.jwt.keys]]", "--dev"] {
            assert!(errors.contains(part), "{command:?}: no {part:?} in {errors}");
        }
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "it left files behind");
}

#[test]
fn names_every_mistake_with_its_line_and_key() {
    const CONFIG: &str = "\
listen = \"here\"
lisen = \"127.0.0.1:8080\"
admin.listen = \"0.0.0.0:9090\"
[limits]
headers = \"many\"
frame_time = \"fast\"
frame_bytes = \"1 elephant\"
[broker]
url = \"http://127.0.0.1\"
[store]
url = \"paper:\"
[errors]
denied = \"shout\"
[[rule]]
destination = \"/queue/a\"
allow = \"friends\"
[[endpoint]]
path = \"ws\"
[auth]
chain = [\"magic\"]
[[auth.jwt.keys]]
alg = \"none\"
";
    const MISTAKES: [(usize, &str); 13] = [
        (1, "listen"),
        (2, "lisen: unknown key; did you mean listen?"),
        (3, "admin"),
        (5, "limits.headers"),
        (6, "limits.frame_time"),
        (7, "limits.frame_bytes"),
        (9, "broker.url"),
        (11, "store.url"),
        (13, "errors.denied"),
        (16, "rule.allow"),
        (18, "endpoint.path"),
        (20, "auth.chain"),
        (22, "auth.jwt.keys.alg"),
    ];
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("relay.toml"), CONFIG).unwrap();
    for command in ["check-config", "serve"] {
        let output = run(folder.path(), &[command, "--config", "relay.toml"], "");
        assert_eq!(output.status.code(), Some(1));
        let errors = errors(&output);
        for (line, key) in MISTAKES {
            let start = format!("relay.toml:{line}: {key}");
            let found = errors.lines().filter(|line| line.starts_with(&start)).count();
            assert_eq!(found, 1, "{command}: {start:?} in\n{errors}");
        }
        assert_eq!(errors.lines().count(), MISTAKES.len(), "{errors}");
    }
    fs::write(folder.path().join("relay.toml"), "a = [").unwrap();
    let config: &[&str] = &["--config", "relay.toml"];
    fails(folder.path(), &[config], &["relay.toml:1:", "not TOML"]);
    let config: &[&str] = &["--config", "missing.toml"];
    fails(folder.path(), &[config], &["missing.toml", "--config", "No such file"]);
}

#[test]
fn a_printed_config_is_read_as_the_same() {
    let folder = TempDir::new().unwrap();
    let dev = stdout(&run(folder.path(), &["print-config", "--dev"], ""));
    assert!(dev.contains("listen = \"127.0.0.1:8080\""), "{dev}");

    let config = "[limits]\nheaders = 9\n[[auth.jwt.keys]]\nalg = \"HS256\"\n\
                  secret = \"0123456789abcdef0123456789abcdef\"\n[[rule]]\n\
                  destination = \"/topic/**\"\nallow = \"permitAll\"\n";
    fs::write(folder.path().join("relay.toml"), config).unwrap();
    let first = stdout(&run(folder.path(), &["print-config", "--config", "relay.toml"], ""));
    assert!(first.contains("headers = 9"), "{first}");
    assert!(!first.contains("0123456789abcdef"), "{first}");
    fs::write(folder.path().join("printed.toml"), &first).unwrap();
    let checked = run(folder.path(), &["check-config", "--config", "printed.toml"], "");
    assert!(stdout(&checked).contains("valid"));
    // The secret is not printed, and that is said.
    assert!(errors(&checked).contains("warning:"), "{}", errors(&checked));
    let whole = first.replace("***", "0123456789abcdef0123456789abcdef");
    fs::write(folder.path().join("printed.toml"), whole).unwrap();
    let second = stdout(&run(folder.path(), &["print-config", "--config", "printed.toml"], ""));
    assert_eq!(first, second);
}

/// A running relay with its TCP door; killed when this is dropped.
struct Running {
    child: Child,
    tcp: String,
}

impl Running {
    fn start(folder: &Path) -> Self {
        let args = [
            &["--config", "relay.toml", "--tcp-listen", "127.0.0.1:0"][..],
            DOORS,
            MEMORY,
            EMBEDDED,
        ]
        .concat();
        let mut child = relay(folder, &args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut greeting =
            BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let tcp =
            greeting.find_map(|line| Some(line.trim().strip_prefix("TCP")?.trim().to_owned()));
        let Some(tcp) = tcp else {
            child.kill().ok();
            panic!("no TCP in the greeting");
        };
        Self { child, tcp }
    }

    /// The first line of the answer to a CONNECT with these headers.
    fn connect(&self, headers: &str) -> String {
        let mut stream = TcpStream::connect(&self.tcp).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let frame = format!("CONNECT\naccept-version:1.2\nhost:/\n{headers}\n\n\0");
        stream.write_all(frame.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let mut byte = [0];
        while stream.read(&mut byte).unwrap() == 1 && byte != [0] {
            answer.push(byte[0]);
        }
        String::from_utf8(answer).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn passwords_and_tokens_made_here_are_taken_here() {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    let hash = stdout(&run(path, &["hash-password"], "correct horse\n"));
    assert!(hash.starts_with("$argon2id$"), "{hash}");
    assert_ne!(hash, stdout(&run(path, &["hash-password"], "correct horse\n")), "no salt");
    let empty = run(path, &["hash-password"], "\n");
    assert_eq!((empty.status.code(), errors(&empty).lines().count()), (Some(1), 1));

    fs::write(path.join("users.txt"), format!("alice:{hash}")).unwrap();
    let config = "[auth.users]\nfile = \"users.txt\"\n[[auth.jwt.keys]]\nalg = \"HS256\"\n\
                  secret = \"0123456789abcdef0123456789abcdef\"\n";
    fs::write(path.join("relay.toml"), config).unwrap();
    let make = ["token", "--config", "relay.toml", "--user", "bob", "--ttl", "1m"];
    let token = stdout(&run(path, &make, ""));
    let token = token.trim();

    let relay = Running::start(path);
    let cases = [
        ("login:alice\npasscode:correct horse", "user-name:alice"),
        ("login:alice\npasscode:wrong", "ERROR"),
        ("login:bob\npasscode:correct horse", "ERROR"),
        (&format!("Authorization:Bearer {token}"), "user-name:bob"),
        (&format!("login:x\npasscode:{token}"), "user-name:bob"),
        (&format!("Authorization:Bearer {token}x"), "ERROR"),
        ("accept-version:1.2", "ERROR"),
    ];
    for (headers, expected) in cases {
        let answer = relay.connect(headers);
        assert!(answer.contains(expected), "{headers}: {answer}");
    }
}

/// A public key that signs nothing.
const PUBLIC_KEY: &str = "\
-----BEGIN PUBLIC KEY-----\n\
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAp5eikqjIAxysLzheTvru\n\
qnEEn9c9nA2P2auprlqq1yg5dlM4coOleQuIDknNqpVKCB0FgbnnF5hORzp7xCsg\n\
yzKRZniwpXSUZ+NeWmlmNr0/ZDxODzZGaE2hLY7GJmUzWLeiGyKeLHzpoxNxROwD\n\
6tQW9UrvS/QYmVyQmFZBzfcK++79uXDq7utYMNzUa/Mnu0h5kvRJZGgxpS7AMcdo\n\
KgDmoyXnWhl0jMwdxrHIiTG+g1gVdZ/6kzEVGZondQKMsOQaLOBrjlBKDoXxXmfz\n\
98nzGCR3vKkJ0DGLYyUxS/HJoYwNWydqdqNseFF3CG1JLfMzpVYp4eDMKRbGrYOA\n\
MwIDAQAB\n\
-----END PUBLIC KEY-----\n";

#[test]
fn the_config_of_the_readme_is_good_as_it_stands() {
    let folder = TempDir::new().unwrap();
    let readme = include_str!("../README.md");
    let (_, config) = readme.split_once("```toml\n").unwrap();
    let (config, _) = config.split_once("```").unwrap();
    fs::write(folder.path().join("stomp-relay.toml"), config).unwrap();
    fs::write(folder.path().join("jwt.pub.pem"), PUBLIC_KEY).unwrap();
    let hash = stdout(&run(folder.path(), &["hash-password"], "a good password\n"));
    fs::write(folder.path().join("users"), format!("alice:{}:worker\n", hash.trim())).unwrap();
    let output = run(folder.path(), &["check-config", "--config", "stomp-relay.toml"], "");
    assert_eq!(stdout(&output).lines().count(), 1);
    assert_eq!(errors(&output), "");
}
