//! Transcript files to cases. What a step can be, and `parse`; the lines are read in `script`.

mod script;

#[cfg(test)]
pub(crate) use script::GIVEN;

use std::fmt;

use crate::template::Template;

/// A STOMP version a case is played in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    V10,
    V11,
    V12,
}

impl Version {
    /// All versions, lowest first.
    pub const ALL: [Self; 3] = [Self::V10, Self::V11, Self::V12];

    /// As in `accept-version`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V10 => "1.0",
            Self::V11 => "1.1",
            Self::V12 => "1.2",
        }
    }

    /// The version of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.name() == name)
    }
}

/// How frames travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    Tcp,
    /// WebSocket, text messages.
    WsText,
    /// WebSocket, binary messages.
    WsBinary,
    /// SockJS frames on a WebSocket.
    SockJs,
}

impl Transport {
    /// All transports.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::WsText, Self::WsBinary, Self::SockJs];

    /// As in `@transports` and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::WsText => "ws-text",
            Self::WsBinary => "ws-binary",
            Self::SockJs => "sockjs",
        }
    }

    /// The transport of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|transport| transport.name() == name)
    }
}

/// How binding a case is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Must,
    Should,
    May,
    /// Not in the specification, but clients in the field need it.
    Field,
}

impl Level {
    /// All levels, most binding first.
    pub const ALL: [Self; 4] = [Self::Must, Self::Should, Self::May, Self::Field];

    /// As in `@level`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Must => "must",
            Self::Should => "should",
            Self::May => "may",
            Self::Field => "field",
        }
    }

    /// The level of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }
}

/// One conversation, and what it is meant to show.
#[derive(Clone, Debug)]
pub struct Case {
    pub id: String,
    /// The comment above `@id`.
    pub title: String,
    pub file: String,
    /// Line of `@id`.
    pub line: usize,
    pub level: Level,
    /// Where the specification (or this product's documentation) says so.
    pub section: String,
    /// The specification's words, or why clients in the field need it.
    pub why: String,
    pub tags: Vec<String>,
    pub transports: Vec<Transport>,
    pub(crate) scripts: Vec<(Version, Vec<Step>)>,
}

impl Case {
    /// The versions it is played in.
    pub fn versions(&self) -> impl Iterator<Item = Version> {
        self.scripts.iter().map(|(version, _)| *version)
    }

    /// Whether all that the client sends is text, which is all that SockJS carries.
    pub(crate) fn is_text(&self) -> bool {
        self.scripts.iter().flat_map(|(_, steps)| steps).all(|step| match &step.action {
            Action::Send { bytes, .. } => bytes.is_text(),
            _ => true,
        })
    }

    /// The same case in that version and over that transport alone, where it has both.
    #[must_use]
    pub fn only(&self, version: Version, transport: Transport) -> Option<Self> {
        let script = self.scripts.iter().find(|(of, _)| *of == version)?;
        self.transports.contains(&transport).then(|| Self {
            id: self.id.clone(),
            title: self.title.clone(),
            file: self.file.clone(),
            line: self.line,
            level: self.level,
            section: self.section.clone(),
            why: self.why.clone(),
            tags: self.tags.clone(),
            transports: vec![transport],
            scripts: vec![script.clone()],
        })
    }
}

/// What a case in one version over one transport is called.
pub(crate) fn name(id: &str, version: Version, transport: Transport) -> String {
    format!("{id}/{}/{}", version.name(), transport.name())
}

/// One step of a case.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) line: usize,
    pub(crate) connection: String,
    pub(crate) action: Action,
}

#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Opens the connection; WebSocket subprotocols offered, and the one that must be selected;
    /// `none`: none may be.
    Open { offer: Vec<String>, select: Option<String> },
    /// Opens the connection, sends CONNECT with these headers too, expects CONNECTED.
    Connect { headers: Vec<(String, Template)> },
    /// Sends SUBSCRIBE with these headers, and waits until it has taken effect.
    Subscribe { headers: Vec<(String, Template)> },
    /// Closes the socket without a word.
    Drop,
    /// A frame, or several that go out together.
    Send { bytes: Template, cut: Cut },
    /// Bytes for the socket under a WebSocket.
    Socket { bytes: Template },
    /// A PONG with that payload.
    Pong { payload: Template },
    /// These frames, in any order where there are several.
    Frames(Vec<FramePattern>),
    /// An ERROR with that `message`, then a close.
    Error { codes: Vec<u16>, message: Option<Template> },
    /// A close, with or without an ERROR before it.
    Refused { codes: Vec<u16> },
    /// The same, once so many seconds have passed at the latest.
    Ends { seconds: u32, codes: Vec<u16> },
    /// A close, on WebSocket with one of these codes.
    Close { codes: Vec<u16> },
    /// A heart-beat.
    Beat,
    /// For so many of the agreed intervals, never longer than one without a byte.
    Beats { intervals: u32 },
    /// No heart-beat for so many seconds.
    NoBeat { seconds: u32 },
    /// The client says nothing, and answers no PING; the connection ends.
    Silence,
    /// The client sends heart-beats for so many of the agreed intervals, and nothing else.
    KeepAlive { intervals: u32 },
    /// No frame before the answer to a receipt asked for now.
    Nothing,
    /// No two of these are the same.
    Differ { texts: Vec<Template> },
    /// The last frame came in a WebSocket message of this kind.
    As(MessageKind),
}

/// How a write goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// In one write; on WebSocket one message in one frame.
    Whole,
    /// In writes of so many bytes; on WebSocket messages.
    Pieces(usize),
    /// On WebSocket one message in frames of so many bytes; elsewhere as `Pieces`.
    Fragments(usize),
}

/// The kind of a WebSocket message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MessageKind {
    Text,
    Binary,
}

impl fmt::Display for MessageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Binary => "binary",
        })
    }
}

/// What a frame must look like.
#[derive(Clone, Debug)]
pub(crate) struct FramePattern {
    pub(crate) line: usize,
    pub(crate) command: String,
    pub(crate) headers: Vec<(String, Template)>,
    /// Headers that must not be there with such a value.
    pub(crate) absent: Vec<(String, Template)>,
    /// Whether headers that are not listed are allowed.
    pub(crate) open: bool,
    pub(crate) body: Template,
}

impl FramePattern {
    /// A frame of that command, whatever else is in it.
    pub(crate) fn of(command: &str) -> Self {
        Self {
            line: 0,
            command: command.into(),
            headers: Vec::new(),
            absent: Vec::new(),
            open: true,
            body: Template::any(),
        }
    }
}

/// What is wrong with a transcript, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    pub file: String,
    pub line: usize,
    pub text: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.text)
    }
}

impl std::error::Error for ParseError {}

/// A line's number and what is wrong with it.
type LineError = (usize, String);

/// A case before its lines are read.
struct Block<'a> {
    id: &'a str,
    line: usize,
    title: String,
    head: Vec<(usize, &'a str)>,
    body: Vec<(usize, &'a str)>,
}

/// The cases of one file.
///
/// # Errors
/// The first mistake, with its line.
pub fn parse(file: &str, text: &str) -> Result<Vec<Case>, ParseError> {
    let cases = blocks(text).and_then(|blocks| {
        let mut cases: Vec<Case> = Vec::new();
        for block in blocks {
            if cases.iter().any(|case| case.id == block.id) {
                return Err((block.line, format!("a second case `{}`", block.id)));
            }
            cases.push(case(file, &block)?);
        }
        Ok(cases)
    });
    cases.map_err(|(line, text)| ParseError { file: file.into(), line, text })
}

const HEAD: [&str; 6] = ["@versions", "@transports", "@level", "@section", "@why", "@tags"];

fn blocks(text: &str) -> Result<Vec<Block<'_>>, LineError> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let mut title: Vec<&str> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let word = line.split(' ').next().unwrap_or_default();
        if let Some(comment) = line.strip_prefix('#') {
            title.push(comment.trim());
        } else if line.is_empty() {
            title.clear();
        } else if word == "@id" {
            let id = line.strip_prefix("@id ").unwrap_or_default();
            if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
                return Err((number, "`@id` needs a name of letters, digits and `-`".into()));
            }
            let title = std::mem::take(&mut title).join(" ");
            if title.is_empty() {
                return Err((number, format!("no comment above `@id {id}` says what it shows")));
            }
            let (head, body) = (Vec::new(), Vec::new());
            blocks.push(Block { id, line: number, title, head, body });
        } else if let Some(block) = blocks.last_mut() {
            if !HEAD.contains(&word) {
                block.body.push((number, line));
            } else if block.body.is_empty() {
                block.head.push((number, line));
            } else {
                return Err((number, format!("`{word}` belongs above the first step")));
            }
        } else {
            return Err((number, "a step before the first `@id`".into()));
        }
    }
    Ok(blocks)
}

fn case(file: &str, block: &Block<'_>) -> Result<Case, LineError> {
    let mut versions = Version::ALL.to_vec();
    let mut transports = Transport::ALL.to_vec();
    let (mut level, mut section, mut tags) = (None, None, Vec::new());
    let mut why: Vec<&str> = Vec::new();
    for &(number, line) in &block.head {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        match key {
            "@versions" => versions = list(number, value, Version::from_name)?,
            "@transports" => transports = list(number, value, Transport::from_name)?,
            "@level" => level = list(number, value, Level::from_name)?.first().copied(),
            "@tags" => tags = value.split_whitespace().map(str::to_owned).collect(),
            // Long sentences take several lines.
            "@why" => why.push(value.trim()),
            _ => section = Some(value.trim().to_owned()),
        }
    }
    let missing = |key: &str| (block.line, format!("case `{}` has no `{key}`", block.id));
    let scripts = versions
        .into_iter()
        .map(|version| Ok((version, script::steps(&block.body, version)?)))
        .collect::<Result<Vec<_>, LineError>>()?;
    if scripts.iter().any(|(_, steps)| steps.is_empty()) {
        return Err((block.line, format!("case `{}` has no steps", block.id)));
    }
    Ok(Case {
        id: block.id.into(),
        title: block.title.clone(),
        file: file.into(),
        line: block.line,
        level: level.ok_or_else(|| missing("@level"))?,
        section: section.filter(|s| !s.is_empty()).ok_or_else(|| missing("@section"))?,
        why: Some(why.join(" ")).filter(|s| !s.is_empty()).ok_or_else(|| missing("@why"))?,
        tags,
        transports,
        scripts,
    })
}

/// Names separated by spaces, at least one.
fn list<T>(
    number: usize,
    text: &str,
    from_name: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, LineError> {
    let items = text
        .split_whitespace()
        .map(|name| from_name(name).ok_or_else(|| (number, format!("`{name}` is not known here"))))
        .collect::<Result<Vec<_>, _>>()?;
    if items.is_empty() { Err((number, "nothing is named".into())) } else { Ok(items) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "# t\n@id a\n@level must\n@section s\n@why w\n";

    #[test]
    fn a_case_has_its_head() {
        let text = "# file\n\n# what\n# it shows\n@id a-1\n@versions 1.1 1.2\n@level should\n\
                    @section 1.2 \"SEND\"\n@why because\n@why it is so\n@transports tcp\n@tags x y\n> A\n>\n> ^@\n\n\
                    # two\n@id b\n@level may\n@section s\n@why w\n@connect\n";
        let cases = parse("f", text).unwrap();
        let [a, b] = cases.as_slice() else { panic!("{cases:?}") };
        assert_eq!((a.id.as_str(), a.title.as_str(), a.line), ("a-1", "what it shows", 5));
        assert_eq!(a.versions().collect::<Vec<_>>(), [Version::V11, Version::V12]);
        assert_eq!((a.level, a.section.as_str()), (Level::Should, "1.2 \"SEND\""));
        assert_eq!(
            (a.why.as_str(), a.transports.as_slice()),
            ("because it is so", &[Transport::Tcp][..])
        );
        assert_eq!(a.tags, ["x", "y"]);
        assert_eq!((b.versions().count(), b.transports.len()), (3, 4));
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let cases = [
            ("> A\n", 1, "a step before the first `@id`"),
            ("@id a\n", 1, "no comment above `@id a` says what it shows"),
            ("# t\n@id a b\n", 2, "`@id` needs a name of letters, digits and `-`"),
            ("# t\n@id a\n@level must\n@connect\n", 2, "case `a` has no `@section`"),
            ("# t\n@id a\n@section s\n@connect\n", 2, "case `a` has no `@level`"),
            ("# t\n@id a\n@section s\n@level may\n@connect\n", 2, "case `a` has no `@why`"),
            ("# t\n@id a\n@versions 1.3\n@connect\n", 3, "`1.3` is not known here"),
            ("# t\n@id a\n@level\n@connect\n", 3, "nothing is named"),
            ("# t\n@id a\n@connect\n@level must\n", 4, "`@level` belongs above the first step"),
            ("# t\n@id a\n@level must\n@section s\n", 2, "case `a` has no steps"),
        ];
        for (text, line, expected) in cases {
            let error = parse("f", text).unwrap_err();
            assert_eq!((error.line, error.text.as_str()), (line, expected), "{text}");
        }
        let twice = format!("{HEAD}@connect\n{HEAD}@connect\n");
        assert_eq!(parse("f", &twice).unwrap_err().to_string(), "f:8: a second case `a`");
    }

    #[test]
    fn mistakes_in_steps_are_named_with_their_line() {
        let cases = [
            ("hello\n", 6, "`hello` is no step"),
            ("@wait 5\n", 6, "`@wait` is no step"),
            ("> A\n", 6, "the frame is not ended by `^@`"),
            ("> A\n< B\n", 7, "the frame of line 6 is not ended by `^@`"),
            ("< A\n<\n< b^@\n> A\n", 9, "the frame is not ended by `^@`"),
            ("< A\n< b\n<\n< ^@\n", 7, "a header pattern has a colon: `b`"),
            ("<close x\n", 6, "`x` is no close code"),
            ("<foo\n", 6, "`<foo` is no step"),
            ("> ${q}^@\n", 6, "`${q}` has no value here"),
            ("> ${q=*}^@\n", 6, "nothing is captured from what is sent"),
            ("@differ a\n", 6, "`@differ` needs two texts or more"),
            ("@differ a ${b}\n", 6, "`${b}` has no value here"),
            ("@pieces 0\n", 6, "`@pieces` needs a number of bytes"),
            ("@any-order\n<close\n", 7, "`@any-order` takes frames only"),
            ("@any-order\n< A\n<\n< ^@\n", 9, "`@any-order` without `@end`"),
            ("@hold\n> A\n>\n> ^@\n", 9, "`@hold` without `@send`"),
            ("@send\n", 6, "`@send` without `@hold`"),
            (">[1.3] A\n", 6, "`1.3` is not known here"),
        ];
        for (steps, line, expected) in cases {
            let error = parse("f", &format!("{HEAD}{steps}")).unwrap_err();
            assert_eq!((error.line, error.text.as_str()), (line, expected), "{steps}");
        }
    }
}
