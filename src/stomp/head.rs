//! The grammar of a complete head: command line, header lines, empty line.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

use super::decode::Limits;
use super::error::{DecodeError, Excerpt, Fault, LineFault};
use super::{Command, Headers, Version};

/// A parsed head.
pub(super) struct Head {
    pub(super) command: Command,
    pub(super) headers: Headers,
    pub(super) content_length: Option<u64>,
}

/// Parses a head with its empty line and at most `count` headers.
pub(super) fn parse(
    head: &[u8],
    count: usize,
    version: Option<Version>,
    limits: &Limits,
) -> Result<Head, DecodeError> {
    let head = simdutf8::basic::from_utf8(head).map_err(|_| DecodeError::from(Fault::Utf8))?;
    parse_text(head, count, version, limits)
        .map_err(|fault| DecodeError::new(fault, find_receipt(head, version).as_deref()))
}

/// The first line without its end, and what comes after. `EOL = [CR] LF`, in every version; any
/// other CR is an error (1.2, "Augmented BNF"). Bytes are looked for, not characters: this is where
/// half of the time of a small frame goes.
fn line(head: &str) -> Option<(&str, &str)> {
    let (line, end) = head.split_at_checked(memchr2(b'\r', b'\n', head.as_bytes())?)?;
    let after = end.strip_prefix('\n').or_else(|| end.strip_prefix("\r\n"))?;
    Some((line, after))
}

/// A value may hold colons of its own: the first one counts.
fn header(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.split_at_checked(memchr(b':', line.as_bytes())?)?;
    Some((name, rest.get(1..)?)).filter(|(name, _)| !name.is_empty())
}

fn parse_text(
    head: &str,
    count: usize,
    version: Option<Version>,
    limits: &Limits,
) -> Result<Head, Fault> {
    let (name, mut lines) = line(head).ok_or_else(|| stray_cr(head))?;
    let command = Command::from_name(name.as_bytes())
        .ok_or_else(|| Fault::UnknownCommand { command: Excerpt::new(name.as_bytes()) })?;
    // 1.1 and 1.2, "Value Encoding": none in CONNECT and CONNECTED. 1.0 has none at all.
    let escapes = version.filter(|_| command.escapes_headers()).unwrap_or(Version::V10);
    let mut headers = Headers::with_capacity(count, lines.len());
    let mut content_length = None;
    loop {
        let (text, after) = line(lines).ok_or_else(|| stray_cr(lines))?;
        if text.is_empty() {
            return Ok(Head { command, headers, content_length });
        }
        lines = after;
        let (name, value) = header(text).ok_or_else(|| bad_line(text))?;
        if value.len() > limits.header_value_bytes {
            let limit = limits.header_value_bytes;
            let header = Excerpt::new(name.as_bytes());
            return Err(Fault::HeaderTooLong { part: "value", limit, header });
        }
        let (name, value) = decoded(name, value, version, escapes)?;
        if name == "content-length" {
            let length = parse_length(&value, limits)?;
            // The first of two headers counts (1.2, "Repeated Header Entries"), but where two
            // lengths differ, somebody on the way may have read another frame than this one.
            let first = *content_length.get_or_insert(length);
            if first != length {
                return Err(Fault::ContentLengthsDiffer { first, second: length });
            }
        }
        headers.push(&name, &value);
    }
}

fn decoded<'a>(
    name: &'a str,
    value: &'a str,
    version: Option<Version>,
    escapes: Version,
) -> Result<(Cow<'a, str>, Cow<'a, str>), Fault> {
    // As RabbitMQ does: the examples of 1.0 have a space after the colon.
    let value = if version == Some(Version::V10) { value.trim_start_matches(' ') } else { value };
    let fault = |sequence: &str| Fault::Escape {
        header: Excerpt::new(name.as_bytes()),
        sequence: Excerpt::new(sequence.as_bytes()),
        version: escapes,
    };
    Ok((unescape(name, escapes).map_err(fault)?, unescape(value, escapes).map_err(fault)?))
}

/// 1.1 knows `\n`, `\c` and `\\`, 1.2 `\r` too; any other is an error, which holds the sequence.
fn unescape(text: &str, version: Version) -> Result<Cow<'_, str>, &str> {
    if version == Version::V10 || memchr(b'\\', text.as_bytes()).is_none() {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        out.push_str(plain);
        let mut after = escape.chars();
        out.push(match (after.next(), version) {
            (Some('n'), _) => '\n',
            (Some('c'), _) => ':',
            (Some('\\'), _) => '\\',
            (Some('r'), Version::V12) => '\r',
            (undefined, _) => {
                let length = 1 + undefined.map_or(0, char::len_utf8);
                return Err(rest.get(plain.len()..plain.len() + length).unwrap_or("\\"));
            }
        });
        rest = after.as_str();
    }
    out.push_str(rest);
    Ok(Cow::Owned(out))
}

/// 1*10DIGIT: signs, spaces and fractions are refused. More digits are no mistake of writing, but
/// a body beyond any limit.
fn parse_length(value: &str, limits: &Limits) -> Result<u64, Fault> {
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Fault::ContentLength { value: Excerpt::new(value.as_bytes()) });
    }
    let too_big = Fault::TooBig { limit: limits.frame_bytes };
    if value.len() > 10 { Err(too_big) } else { value.parse().map_err(|_| too_big) }
}

fn stray_cr(text: &str) -> Fault {
    let line = text.split('\n').next().unwrap_or(text);
    Fault::Line { fault: LineFault::StrayCr, line: Excerpt::new(line.as_bytes()) }
}

fn bad_line(line: &str) -> Fault {
    let fault = if line.starts_with(':') { LineFault::EmptyName } else { LineFault::NoColon };
    Fault::Line { fault, line: Excerpt::new(line.as_bytes()) }
}

/// The receipt of a head that has something wrong elsewhere, so that the ERROR can name it.
fn find_receipt(head: &str, version: Option<Version>) -> Option<Cow<'_, str>> {
    let escapes = version.unwrap_or(Version::V10);
    let value = head.lines().find_map(|line| line.strip_prefix("receipt:"))?;
    decoded("receipt", value, version, escapes).ok().map(|(_, value)| value)
}
