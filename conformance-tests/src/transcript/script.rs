//! The lines of one case, for one version, to steps.

use std::collections::BTreeSet;

use super::{Action, Cut, FramePattern, LineError, MessageKind, Step, Version, list};
use crate::template::Template;

/// Values every case has.
pub(crate) const GIVEN: [&str; 7] =
    ["version", "login", "passcode", "host", "unique", "queue", "topic"];

/// The steps of a case in `version`.
pub(super) fn steps(lines: &[(usize, &str)], version: Version) -> Result<Vec<Step>, LineError> {
    let mut script = Script::new(version);
    for &(number, line) in lines {
        script.number = number;
        script.line(line).map_err(|(at, text)| (if at == 0 { number } else { at }, text))?;
    }
    script.finish()
}

/// What a line's mistake is; its number is the current one's unless it is said.
type Outcome<T> = Result<T, LineError>;

fn here<T>(text: impl Into<String>) -> Outcome<T> {
    Err((0, text.into()))
}

fn at_here(text: String) -> LineError {
    (0, text)
}

/// A frame whose lines are being read.
enum Open {
    None,
    Client { connection: String, line: usize, bytes: Template },
    Server { connection: String, pattern: FramePattern, part: Part },
}

#[derive(PartialEq)]
enum Part {
    Headers,
    Body,
}

struct Script {
    version: Version,
    number: usize,
    steps: Vec<Step>,
    known: BTreeSet<String>,
    open: Open,
    /// `@hold`: bytes kept for one write.
    hold: Option<(String, Template)>,
    /// `@pieces`, `@fragments`: for the next write.
    cut: Cut,
    /// `@any-order`: frames collected.
    group: Option<(String, Vec<FramePattern>)>,
}

/// `a>[1.2]*3 text`, taken apart.
struct Line<'a> {
    connection: &'a str,
    client: bool,
    applies: bool,
    repeat: Option<usize>,
    rest: &'a str,
}

impl Script {
    fn new(version: Version) -> Self {
        Self {
            version,
            number: 0,
            steps: Vec::new(),
            known: GIVEN.iter().map(|name| (*name).to_owned()).collect(),
            open: Open::None,
            hold: None,
            cut: Cut::Whole,
            group: None,
        }
    }

    fn finish(self) -> Result<Vec<Step>, LineError> {
        let what = match (&self.open, &self.hold, &self.group) {
            (Open::Client { .. } | Open::Server { .. }, _, _) => "the frame is not ended by `^@`",
            (_, Some(_), _) => "`@hold` without `@send`",
            (_, _, Some(_)) => "`@any-order` without `@end`",
            _ => return Ok(self.steps),
        };
        Err((self.number, what.into()))
    }

    fn line(&mut self, text: &str) -> Outcome<()> {
        if let Some(directive) = text.strip_prefix('@') {
            self.no_open_frame()?;
            let (word, rest) = directive.split_once(' ').unwrap_or((directive, ""));
            return self.directive(word, rest);
        }
        let Some(line) = self.split(text)? else { return here(format!("`{text}` is no step")) };
        if !line.applies {
            return Ok(());
        }
        let continues = match &self.open {
            Open::None => false,
            Open::Client { connection, .. } => line.client && connection == line.connection,
            Open::Server { connection, .. } => !line.client && connection == line.connection,
        };
        if !continues {
            self.no_open_frame()?;
        }
        match (line.rest.strip_prefix('|'), line.rest.strip_prefix(' '), line.rest) {
            (Some(raw), _, _) if line.client => {
                let raw = repeated(&line, raw, Template::raw)?;
                self.client_raw(&line, raw)
            }
            (Some(raw), _, _) => self.server_raw(Template::raw(raw).map_err(at_here)?),
            (_, Some(text), _) | (_, None, text @ "") => {
                if line.client {
                    self.client_line(&line, text)
                } else {
                    self.server_line(&line, text)
                }
            }
            (_, _, word) => {
                self.no_open_frame()?;
                self.word(&line, word)
            }
        }
    }

    fn split<'a>(&self, text: &'a str) -> Outcome<Option<Line<'a>>> {
        let Some(at) = text.find(['>', '<']) else { return Ok(None) };
        let (connection, rest) = text.split_at(at);
        if !connection.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
            return Ok(None);
        }
        let client = rest.starts_with('>');
        let mut rest = rest.get(1..).unwrap_or_default();
        let mut applies = true;
        if let Some((versions, after)) = rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
            applies = list(0, versions, Version::from_name)?.contains(&self.version);
            rest = after;
        }
        let mut repeat = None;
        if let Some(after) = rest.strip_prefix('*') {
            let (count, after) = after.split_at(after.find([' ', '|']).unwrap_or(after.len()));
            repeat = Some(count.parse().map_err(|_| (0, format!("`{count}` is no number")))?);
            rest = after;
        }
        Ok(Some(Line { connection, client, applies, repeat, rest }))
    }

    fn no_open_frame(&self) -> Outcome<()> {
        let line = match &self.open {
            Open::None => return Ok(()),
            Open::Client { line, .. } => *line,
            Open::Server { pattern, .. } => pattern.line,
        };
        here(format!("the frame of line {line} is not ended by `^@`"))
    }

    fn push(&mut self, line: usize, connection: &str, action: Action) -> Outcome<()> {
        if self.group.is_some() {
            return here("`@any-order` takes frames only");
        }
        self.steps.push(Step { line, connection: connection.into(), action });
        Ok(())
    }

    fn directive(&mut self, word: &str, rest: &str) -> Outcome<()> {
        let mut words = rest.split_whitespace().peekable();
        let connection = words
            .next_if(|word| !word.contains([':', '=']))
            .filter(|_| !matches!(word, "pieces" | "fragments" | "differ"))
            .unwrap_or_default();
        match word {
            "connect" => {
                let headers = words.map(|word| self.header(word)).collect::<Outcome<Vec<_>>>()?;
                self.push(self.number, connection, Action::Connect { headers })
            }
            "open" => {
                let (mut offer, mut select) = (Vec::new(), None);
                for word in words {
                    match word.split_once('=') {
                        Some(("offer", list)) => {
                            offer = list.split(',').map(str::to_owned).collect();
                        }
                        Some(("select", name)) => select = Some(name.to_owned()),
                        _ => return here(format!("`{word}`: `@open` takes offer= and select=")),
                    }
                }
                self.push(self.number, connection, Action::Open { offer, select })
            }
            "subscribe" => {
                let headers = words.map(|word| self.header(word)).collect::<Outcome<Vec<_>>>()?;
                if headers.is_empty() {
                    return here("`@subscribe` needs the headers of the SUBSCRIBE");
                }
                self.push(self.number, connection, Action::Subscribe { headers })
            }
            "drop" => self.push(self.number, connection, Action::Drop),
            "pieces" | "fragments" => match rest.trim().parse() {
                Ok(bytes) if bytes > 0 => {
                    let is_pieces = word == "pieces";
                    self.cut = if is_pieces { Cut::Pieces(bytes) } else { Cut::Fragments(bytes) };
                    Ok(())
                }
                _ => here(format!("`@{word}` needs a number of bytes")),
            },
            "differ" => {
                let texts = rest.split_whitespace().map(|word| self.text(word));
                let texts = texts.collect::<Outcome<Vec<_>>>()?;
                if texts.len() < 2 {
                    return here("`@differ` needs two texts or more");
                }
                self.push(self.number, connection, Action::Differ { texts })
            }
            "hold" => {
                self.hold = Some((connection.into(), Template::default()));
                Ok(())
            }
            "send" => match self.hold.take() {
                Some((connection, bytes)) => self.send(self.number, &connection, bytes),
                None => here("`@send` without `@hold`"),
            },
            "any-order" => {
                self.group = Some((connection.into(), Vec::new()));
                Ok(())
            }
            "end" => match self.group.take() {
                Some((connection, frames)) if !frames.is_empty() => {
                    self.push(self.number, &connection, Action::Frames(frames))
                }
                _ => here("`@end` without `@any-order` and frames"),
            },
            _ => here(format!("`@{word}` is no step")),
        }
    }

    fn header(&self, text: &str) -> Outcome<(String, Template)> {
        let Some((name, value)) = text.split_once(':') else {
            return here(format!("`{text}` is no header"));
        };
        Ok((name.into(), self.text(value)?))
    }

    /// A text whose values are known here.
    fn text(&self, text: &str) -> Outcome<Template> {
        let text = Template::text(text).map_err(at_here)?;
        text.check_names(&mut self.known.clone()).map_err(at_here)?;
        Ok(text)
    }

    fn client_line(&mut self, line: &Line<'_>, text: &str) -> Outcome<()> {
        let bytes = repeated(line, text, |text| {
            let mut bytes = Template::text(text)?;
            if !bytes.ends_with_nul() {
                bytes.push(b"\n");
            }
            Ok(bytes)
        })?;
        self.client_bytes(line, bytes)
    }

    /// Inside a frame raw bytes are part of it, outside they are a write of their own.
    fn client_raw(&mut self, line: &Line<'_>, raw: Template) -> Outcome<()> {
        match self.open {
            Open::None => {
                self.sendable(&raw)?;
                self.send(self.number, line.connection, raw)
            }
            Open::Client { .. } | Open::Server { .. } => self.client_bytes(line, raw),
        }
    }

    fn client_bytes(&mut self, line: &Line<'_>, more: Template) -> Outcome<()> {
        self.sendable(&more)?;
        let ends = more.ends_with_nul();
        let (start, mut bytes) = match std::mem::replace(&mut self.open, Open::None) {
            Open::Client { line, bytes, .. } => (line, bytes),
            Open::None | Open::Server { .. } => (self.number, Template::default()),
        };
        bytes.append(more);
        if ends {
            return self.send(start, line.connection, bytes);
        }
        self.open = Open::Client { connection: line.connection.into(), line: start, bytes };
        Ok(())
    }

    fn sendable(&mut self, bytes: &Template) -> Outcome<()> {
        if !bytes.is_sendable() {
            return here("nothing is captured from what is sent");
        }
        bytes.check_names(&mut self.known).map_err(at_here)
    }

    fn send(&mut self, line: usize, connection: &str, bytes: Template) -> Outcome<()> {
        if let Some((held, all)) = &mut self.hold {
            if held != connection {
                return here("`@hold` is for one connection");
            }
            all.append(bytes);
            return Ok(());
        }
        let cut = std::mem::replace(&mut self.cut, Cut::Whole);
        self.push(line, connection, Action::Send { bytes, cut })
    }

    fn server_line(&mut self, line: &Line<'_>, text: &str) -> Outcome<()> {
        let Open::Server { pattern, part, .. } = &mut self.open else {
            self.open = Open::Server {
                connection: line.connection.into(),
                pattern: FramePattern {
                    line: self.number,
                    command: text.into(),
                    headers: Vec::new(),
                    absent: Vec::new(),
                    open: false,
                    body: Template::default(),
                },
                part: Part::Headers,
            };
            return Ok(());
        };
        if *part == Part::Body {
            let mut more = Template::text(text).map_err(at_here)?;
            if !more.ends_with_nul() {
                more.push(b"\n");
            }
            return self.server_raw(more);
        }
        if text.is_empty() {
            *part = Part::Body;
        } else if text == "..." {
            pattern.open = true;
        } else if let Some(text) = text.strip_prefix('!') {
            let (name, value) = match text.split_once(':') {
                Some((name, value)) => (name, Template::text(value).map_err(at_here)?),
                None => (text, Template::any()),
            };
            value.check_names(&mut self.known).map_err(at_here)?;
            pattern.absent.push((name.into(), value));
        } else {
            let Some((name, value)) = text.split_once(':') else {
                return here(format!("a header pattern has a colon: `{text}`"));
            };
            let value = Template::text(value).map_err(at_here)?;
            value.check_names(&mut self.known).map_err(at_here)?;
            pattern.headers.push((name.into(), value));
        }
        Ok(())
    }

    fn server_raw(&mut self, more: Template) -> Outcome<()> {
        more.check_names(&mut self.known).map_err(at_here)?;
        let Open::Server { connection, mut pattern, part: Part::Body } =
            std::mem::replace(&mut self.open, Open::None)
        else {
            return here("`<|` belongs into a body");
        };
        pattern.body.append(more);
        if !pattern.body.ends_with_nul() {
            self.open = Open::Server { connection, pattern, part: Part::Body };
            return Ok(());
        }
        pattern.body = pattern.body.without_last_byte();
        if let Some((held, frames)) = &mut self.group {
            if *held != connection {
                return here("`@any-order` is for one connection");
            }
            frames.push(pattern);
            return Ok(());
        }
        self.push(pattern.line, &connection, Action::Frames(vec![pattern]))
    }

    fn word(&mut self, line: &Line<'_>, text: &str) -> Outcome<()> {
        if let Some(raw) = text.strip_prefix("socket|").filter(|_| line.client) {
            let bytes = Template::raw(raw).map_err(at_here)?;
            self.sendable(&bytes)?;
            return self.push(self.number, line.connection, Action::Socket { bytes });
        }
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let action = match (line.client, word) {
            (false, "close") => Action::Close { codes: codes(rest)? },
            (false, "error") => {
                let (first, message) = rest.split_once(' ').unwrap_or((rest, ""));
                let message = Template::text(message).map_err(at_here)?;
                message.check_names(&mut self.known).map_err(at_here)?;
                let message = (message != Template::default()).then_some(message);
                Action::Error { codes: codes(first)?, message }
            }
            (false, "refused") => Action::Refused { codes: codes(rest)? },
            (false, "ends") => {
                let (seconds, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                Action::Ends { seconds: number(seconds)?, codes: codes(rest)? }
            }
            (false, "beat") => Action::Beat,
            (false, "beats") => Action::Beats { intervals: number(rest)? },
            (true, "beats") => Action::KeepAlive { intervals: number(rest)? },
            (false, "no-beat") => Action::NoBeat { seconds: number(rest)? },
            (false, "silence") => Action::Silence,
            (false, "pong") => {
                let payload = Template::text(rest).map_err(at_here)?;
                payload.check_names(&mut self.known).map_err(at_here)?;
                Action::Pong { payload }
            }
            (false, "nothing") => Action::Nothing,
            (false, "as") if rest == "text" => Action::As(MessageKind::Text),
            (false, "as") if rest == "binary" => Action::As(MessageKind::Binary),
            _ => {
                let side = if line.client { '>' } else { '<' };
                return here(format!("`{side}{text}` is no step"));
            }
        };
        self.push(self.number, line.connection, action)
    }
}

/// What a line says, as often as it says so: `${n}` is which time it is.
fn repeated(
    line: &Line<'_>,
    text: &str,
    read: impl Fn(&str) -> Result<Template, String>,
) -> Outcome<Template> {
    let Some(count) = line.repeat else { return read(text).map_err(at_here) };
    let mut bytes = Template::default();
    for n in 1..=count {
        bytes.append(read(&text.replace("${n}", &n.to_string())).map_err(at_here)?);
    }
    Ok(bytes)
}

fn number(text: &str) -> Outcome<u32> {
    text.parse().map_err(|_| (0, format!("`{text}` is no number")))
}

/// `1002|1008`; none means any.
fn codes(text: &str) -> Outcome<Vec<u16>> {
    text.split('|')
        .filter(|code| !code.is_empty())
        .map(|code| code.parse().map_err(|_| (0, format!("`{code}` is no close code"))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::Values;

    /// What is sent, and how it is cut.
    type Sent<'a> = (&'a str, Cut);

    fn read(text: &str, version: Version) -> Vec<Step> {
        let lines: Vec<_> = (1..).zip(text.lines()).collect();
        steps(&lines, version).unwrap()
    }

    fn sent(text: &str, version: Version) -> Vec<(String, Cut)> {
        let values = Values::from([("queue".into(), b"/queue/q".to_vec())]);
        read(text, version)
            .into_iter()
            .map(|step| match step.action {
                Action::Send { bytes, cut } => {
                    (String::from_utf8(bytes.fill(&values)).unwrap(), cut)
                }
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn client_frames() {
        let cases: [(&str, &[Sent<'_>]); 10] = [
            ("> A\n> b:${queue}\n>\n> x\n> y^@", &[("A\nb:/queue/q\n\nx\ny\0", Cut::Whole)]),
            ("> A\n>\n> x^@y^@", &[("A\n\nx\0y\0", Cut::Whole)]),
            ("> A^M\n> ^M\n> ^@", &[("A\r\n\r\n\0", Cut::Whole)]),
            (">|A\\n\n>|\\n\\0", &[("A\n", Cut::Whole), ("\n\0", Cut::Whole)]),
            ("> A\n>|b:\\t\\n\n>\n> ^@", &[("A\nb:\t\n\n\0", Cut::Whole)]),
            ("@pieces 1\n> A\n>\n> ^@", &[("A\n\n\0", Cut::Pieces(1))]),
            ("@fragments 2\n> A\n>\n> ^@", &[("A\n\n\0", Cut::Fragments(2))]),
            ("@hold\n> A\n>\n> ^@\n> B\n>\n> ^@\n@send", &[("A\n\n\0B\n\n\0", Cut::Whole)]),
            (">*2 h${n}:v\n> ^@", &[("h1:v\nh2:v\n\0", Cut::Whole)]),
            (">*2|A\\n\\n${n}\\0", &[("A\n\n1\0A\n\n2\0", Cut::Whole)]),
        ];
        for (text, expected) in cases {
            let expected: Vec<_> = expected.iter().map(|(t, p)| ((*t).to_owned(), *p)).collect();
            assert_eq!(sent(text, Version::V12), expected, "{text}");
        }
    }

    #[test]
    fn lines_of_a_version() {
        let text = "> A\n>[1.0 1.1] a:1\n>[1.2] a:2\n>\n> ^@";
        assert_eq!(sent(text, Version::V11)[0].0, "A\na:1\n\n\0");
        assert_eq!(sent(text, Version::V12)[0].0, "A\na:2\n\n\0");
    }

    #[test]
    fn patterns_of_frames() {
        let steps = read(
            "b< M\nb< x:${q=*}\nb< !z\nb< !y:1\nb< ...\nb<\nb<|a\\x80\nb< c^@d^@",
            Version::V12,
        );
        let [Step { line: 1, connection, action: Action::Frames(frames) }] = steps.as_slice()
        else {
            panic!("{steps:?}")
        };
        let [frame] = frames.as_slice() else { panic!("{frames:?}") };
        assert_eq!((connection.as_str(), frame.command.as_str(), frame.open), ("b", "M", true));
        let absent = [("z".into(), Template::any()), ("y".into(), Template::bytes(b"1"))];
        assert_eq!(frame.absent, absent);
        assert_eq!(frame.headers[0].0, "x");
        assert_eq!(frame.body.fill(&Values::new()), b"a\x80c\0d");
    }

    #[test]
    fn words_and_directives() {
        let text = "@connect a x:1\n@open b offer=v,w select=w\n@drop a\n<close 1002|1008\n<close\n\
                    <error 1002 Bad thing\n<error\n<beat\n<nothing\n<as binary\n\
                    @subscribe a id:1 destination:x\n@differ ${queue} b\n<beats 2\n>beats 3\n<no-beat 12\n<silence\n\
                    <ends 60 1002|1008\n\
                    >socket|\\x89 a\n<pong a";
        let shown: Vec<String> = read(text, Version::V12)
            .into_iter()
            .map(|step| match step.action {
                Action::Connect { headers } => {
                    format!("{} connect {}", step.connection, headers[0].0)
                }
                Action::Subscribe { headers } => {
                    format!("{} subscribe {}", step.connection, headers[1].0)
                }
                Action::Socket { bytes } => format!("socket {:x?}", bytes.fill(&Values::new())),
                Action::Differ { texts } => format!("differ {}", texts.len()),
                Action::Pong { payload } => format!("pong {:x?}", payload.fill(&Values::new())),
                Action::Open { offer, select } => {
                    format!("{} open {} {select:?}", step.connection, offer.join("+"))
                }
                Action::Error { codes, message } => {
                    format!(
                        "error {codes:?} {:?}",
                        message.map(|m| String::from_utf8(m.fill(&Values::new())).unwrap())
                    )
                }
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(
            shown,
            [
                "a connect x",
                "b open v+w Some(\"w\")",
                "Drop",
                "Close { codes: [1002, 1008] }",
                "Close { codes: [] }",
                "error [1002] Some(\"Bad thing\")",
                "error [] None",
                "Beat",
                "Nothing",
                "As(Binary)",
                "a subscribe destination",
                "differ 2",
                "Beats { intervals: 2 }",
                "KeepAlive { intervals: 3 }",
                "NoBeat { seconds: 12 }",
                "Silence",
                "Ends { seconds: 60, codes: [1002, 1008] }",
                "socket [89, 20, 61]",
                "pong [61]",
            ]
        );
    }
}
