//! What each client does, as tables: read from its bytes, written into `docs/clients.md`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::format::{Kind, Recording, Side};
use crate::wire::{self, Said};

const BEGIN: &str = "<!-- Made from the recordings by tests/recordings; `make clients-md`. -->\n";
const END: &str = "<!-- The end of what is made. -->\n";

/// The story has a body so large.
const LARGE: usize = 40_000;

/// Compares the tables in the docs with those of the recordings, or writes them.
///
/// # Panics
/// Where they differ.
pub(crate) fn check(recordings: &[Recording]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/clients.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let made = format!("{before}{BEGIN}{}{END}{after}", tables(recordings));
    if std::env::var_os("WRITE_CLIENTS_MD").is_some() {
        fs::write(&path, &made).unwrap();
    } else {
        assert!(text == made, "docs/clients.md is not that of the recordings: make clients-md");
    }
}

/// A title and what stands below it.
type Column = (&'static str, fn(&Facts<'_>) -> String);

/// How a session begins.
const CONNECT: [Column; 8] = [
    ("recording", link),
    ("client", |facts| {
        format!("{} {}", facts.recording.head("client"), facts.recording.head("version"))
    }),
    ("frame", |facts| code(&facts.client.frames[0].command)),
    ("`accept-version`", |facts| facts.connect("accept-version")),
    ("subprotocols offered", subprotocols),
    ("spoken", |facts| facts.server.frames[0].get("version").unwrap().to_owned()),
    ("`host`", |facts| facts.connect("host")),
    ("`heart-beat`", |facts| facts.connect("heart-beat")),
];

/// How frames look.
const FRAMES: [Column; 9] = [
    ("recording", link),
    ("`content-length` of SEND", content_length),
    ("header escapes", escapes),
    ("id of SUBSCRIBE", subscription_ids),
    ("of a transaction", |facts| shapes(&facts.values("BEGIN", "transaction"))),
    ("ACK has", ack_names),
    ("after NUL", after_nul),
    ("WebSocket messages", messages),
    ("DISCONNECT's receipt", |facts| shapes(&facts.values("DISCONNECT", "receipt"))),
];

fn tables(recordings: &[Recording]) -> String {
    let facts: Vec<Facts<'_>> = recordings.iter().map(Facts::of).collect();
    // One for all: a client that differed would need a column.
    for facts in &facts {
        assert!(!facts.client.frames.iter().any(|f| f.has_cr), "{}", facts.recording.name);
    }
    format!("\n{}\n{}\n", table(&CONNECT, &facts), table(&FRAMES, &facts))
}

fn table(columns: &[Column], facts: &[Facts<'_>]) -> String {
    let mut out = String::new();
    let mut row = |cells: Vec<String>| writeln!(out, "| {} |", cells.join(" | ")).unwrap();
    row(columns.iter().map(|(title, _)| (*title).to_owned()).collect());
    row(columns.iter().map(|_| "---".to_owned()).collect());
    for facts in facts {
        row(columns.iter().map(|(_, cell)| cell(facts)).collect());
    }
    out
}

struct Facts<'a> {
    recording: &'a Recording,
    client: Said,
    server: Said,
}

impl<'a> Facts<'a> {
    fn of(recording: &'a Recording) -> Self {
        let read = |side| wire::read(recording.stomp(side).map(|piece| piece.bytes.as_slice()));
        Self { recording, client: read(Side::Client), server: read(Side::Server) }
    }

    /// A header of CONNECT.
    fn connect(&self, name: &str) -> String {
        self.client.frames[0].get(name).map_or("none".into(), code)
    }

    /// The values of a header, in all frames of a command.
    fn values(&self, command: &str, name: &str) -> Vec<&str> {
        let frames = self.client.frames.iter().filter(|frame| frame.command == command);
        frames.filter_map(|frame| frame.get(name)).collect()
    }
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

fn link(facts: &Facts<'_>) -> String {
    let name = &facts.recording.name;
    format!("[{name}](../conformance-tests/recordings/{name}.rec)")
}

fn subprotocols(facts: &Facts<'_>) -> String {
    if !facts.recording.is_websocket() {
        return "TCP".into();
    }
    let offered = facts.recording.http_header(Side::Client, "sec-websocket-protocol");
    offered.map_or("none".into(), code)
}

/// Which SENDs have a content-length.
fn content_length(facts: &Facts<'_>) -> String {
    let sends = facts.client.frames.iter().filter(|frame| frame.command == "SEND");
    let (with, without): (Vec<_>, Vec<_>) = sends.partition(|frame| frame.has("content-length"));
    let text_without = without.iter().any(|frame| !frame.body.is_empty());
    match (with.is_empty(), text_without) {
        (false, false) => "always",
        (false, true) => "bytes only",
        (true, _) => "never",
    }
    .into()
}

/// The header `x-text` is `a:b`, and where the client escapes `\`, a space, `c`, LF, `d` follow.
fn escapes(facts: &Facts<'_>) -> String {
    let values = facts.values("SEND", "x-text");
    match values.as_slice() {
        [value] if value.contains(r"\c") && value.contains(r"\\") && value.contains(r"\n") => {
            r"`\c` `\\` `\n`".into()
        }
        ["a:b"] => "none, `:` stays".into(),
        other => panic!("{}: x-text is {other:?}", facts.recording.name),
    }
}

fn subscription_ids(facts: &Facts<'_>) -> String {
    let ids = facts.values("SUBSCRIBE", "id");
    if ids == facts.values("SUBSCRIBE", "destination") {
        "the destination".into()
    } else {
        shapes(&ids)
    }
}

/// What values look like.
fn shapes(values: &[&str]) -> String {
    if values.is_empty() {
        return "none".into();
    }
    let shapes: BTreeSet<String> = values.iter().map(|value| shape(value)).collect();
    shapes.into_iter().map(|shape| code(&shape)).collect::<Vec<_>>().join(" ")
}

/// Digits become N, so that the table is the same after every recording.
fn shape(id: &str) -> String {
    let is_uuid = id.len() == 36 && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    if is_uuid {
        return "UUID".into();
    }
    let mut out = String::new();
    for letter in id.chars() {
        if !letter.is_ascii_digit() {
            out.push(letter);
        } else if !out.ends_with('N') {
            out.push('N');
        }
    }
    out
}

fn ack_names(facts: &Facts<'_>) -> String {
    let ack = facts.client.frames.iter().find(|frame| frame.command == "ACK").unwrap();
    let names = ack.headers.iter().map(|(name, _)| name.as_str());
    names.filter(|name| *name != "receipt").map(code).collect::<Vec<_>>().join(" ")
}

fn after_nul(facts: &Facts<'_>) -> String {
    let with = facts.client.frames.iter().filter(|frame| frame.has_lf).count();
    match with {
        0 => "nothing".into(),
        _ if with == facts.client.frames.len() => "LF".into(),
        _ => panic!("{}: {with} frames are followed by LF", facts.recording.name),
    }
}

/// Kinds, and how large the largest is where the client splits what is larger.
fn messages(facts: &Facts<'_>) -> String {
    let pieces: Vec<_> = facts.recording.stomp(Side::Client).collect();
    let mut kinds = BTreeSet::new();
    for piece in &pieces {
        match piece.kind {
            Kind::Text => kinds.insert("text"),
            Kind::Binary => kinds.insert("binary"),
            Kind::Continuation => kinds.insert("continuation"),
            Kind::Bytes => return "TCP".into(),
            Kind::Http | Kind::Ping | Kind::Pong | Kind::Close | Kind::End => false,
        };
    }
    let kinds = kinds.into_iter().collect::<Vec<_>>().join(", ");
    let largest = pieces.iter().map(|piece| piece.bytes.len()).max().unwrap();
    if largest < LARGE { format!("{kinds}; at most {largest} bytes") } else { kinds }
}
