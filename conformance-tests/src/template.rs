//! Text with holes: `${name}` is put in, `${name=*}` is taken out, `${*}` is any text.

use std::collections::{BTreeMap, BTreeSet};

use crate::target::Account;

/// Values by name: those of the target, of the case, and what was captured.
pub(crate) type Values = BTreeMap<String, Vec<u8>>;

/// Bytes to send, or to compare with what came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Bytes(Vec<u8>),
    /// `${name}`
    Value(String),
    /// `${name=*}`
    Capture(String),
    /// `${*}`
    Any,
}

impl Template {
    /// Text as it stands, except for `^@` (NUL), `^M` (CR) and the holes.
    pub(crate) fn text(text: &str) -> Result<Self, String> {
        Self::parse(text, false)
    }

    /// Bytes with the escapes `\0 \r \n \t \\ \xNN`, and the holes.
    pub(crate) fn raw(text: &str) -> Result<Self, String> {
        Self::parse(text, true)
    }

    pub(crate) fn bytes(bytes: &[u8]) -> Self {
        let mut template = Self::default();
        template.push(bytes);
        template
    }

    /// Whether what stands in it is UTF-8.
    pub(crate) fn is_text(&self) -> bool {
        let mut bytes = Vec::new();
        for part in &self.parts {
            match part {
                Part::Bytes(own) => bytes.extend_from_slice(own),
                // Text, and no part of a character.
                Part::Value(_) | Part::Capture(_) | Part::Any => bytes.push(b'x'),
            }
        }
        std::str::from_utf8(&bytes).is_ok()
    }

    /// Whatever comes.
    pub(crate) fn any() -> Self {
        Self { parts: vec![Part::Any] }
    }

    fn parse(text: &str, raw: bool) -> Result<Self, String> {
        let mut out = Self::default();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("${") {
                let (hole, after) = after
                    .split_once('}')
                    .ok_or_else(|| format!("`${{` without `}}` in `{text}`"))?;
                out.parts.push(hole_part(hole)?);
                rest = after;
            } else if !raw && let Some(after) = rest.strip_prefix("^@") {
                out.push(b"\0");
                rest = after;
            } else if !raw && let Some(after) = rest.strip_prefix("^M") {
                out.push(b"\r");
                rest = after;
            } else if raw && let Some(after) = rest.strip_prefix('\\') {
                let (byte, after) = escape(after)?;
                out.push(&[byte]);
                rest = after;
            } else {
                let end = rest.char_indices().nth(1).map_or(rest.len(), |(at, _)| at);
                let (piece, after) = rest.split_at(end);
                out.push(piece.as_bytes());
                rest = after;
            }
        }
        Ok(out)
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if let Some(Part::Bytes(last)) = self.parts.last_mut() {
            last.extend_from_slice(bytes);
        } else if !bytes.is_empty() {
            self.parts.push(Part::Bytes(bytes.to_vec()));
        }
    }

    pub(crate) fn append(&mut self, other: Self) {
        for part in other.parts {
            match part {
                Part::Bytes(bytes) => self.push(&bytes),
                Part::Value(_) | Part::Capture(_) | Part::Any => self.parts.push(part),
            }
        }
    }

    /// Whether it ends with a NUL, which ends a frame.
    pub(crate) fn ends_with_nul(&self) -> bool {
        matches!(self.parts.last(), Some(Part::Bytes(bytes)) if bytes.last() == Some(&0))
    }

    /// The same without its last byte.
    pub(crate) fn without_last_byte(mut self) -> Self {
        if let Some(Part::Bytes(bytes)) = self.parts.last_mut() {
            bytes.pop();
            if bytes.is_empty() {
                self.parts.pop();
            }
        }
        self
    }

    /// Checks that every `${name}` is known, and remembers what is captured.
    pub(crate) fn check_names(&self, known: &mut BTreeSet<String>) -> Result<(), String> {
        for part in &self.parts {
            match part {
                Part::Value(name) if !known.contains(name) => {
                    return Err(format!("`${{{name}}}` has no value here"));
                }
                Part::Capture(name) => {
                    known.insert(name.clone());
                }
                Part::Bytes(_) | Part::Value(_) | Part::Any => {}
            }
        }
        Ok(())
    }

    /// Whether it can be sent: nothing to take out.
    pub(crate) fn is_sendable(&self) -> bool {
        !self.parts.iter().any(|part| matches!(part, Part::Capture(_) | Part::Any))
    }

    /// Whether it is the same in every run.
    pub(crate) fn is_fixed(&self) -> bool {
        !self.parts.iter().any(|part| matches!(part, Part::Value(_)))
    }

    /// The same for an account: what logs in without a login says nothing of it, and the account's
    /// further headers follow the passcode. A CONNECT with another passcode stays as it is.
    pub(crate) fn for_account(&self, account: &Account) -> Self {
        let mut out = Self::default();
        let mut more: Option<Vec<u8>> = None;
        for part in &self.parts {
            match part {
                Part::Bytes(bytes) => {
                    let (eol, rest) = bytes.split_at(end_of_line(bytes).unwrap_or(0));
                    match more.take() {
                        Some(lines) if !eol.is_empty() => {
                            // Without a login the line's end goes with the line.
                            if !account.login.is_empty() {
                                out.push(eol);
                            }
                            out.push(&lines);
                            out.push(rest);
                        }
                        _ => out.push(bytes),
                    }
                }
                Part::Value(name) if out.ends_with_header(name) => {
                    more = Some(if name == "passcode" { account.lines() } else { Vec::new() });
                    if account.login.is_empty() {
                        out.drop_header(name);
                    } else {
                        out.parts.push(part.clone());
                    }
                }
                Part::Value(_) | Part::Capture(_) | Part::Any => out.parts.push(part.clone()),
            }
        }
        out
    }

    /// Whether `login:` or `passcode:` at the begin of a line comes last.
    fn ends_with_header(&self, name: &str) -> bool {
        let Some(Part::Bytes(bytes)) = self.parts.last() else { return false };
        let header = format!("\n{name}:");
        matches!(name, "login" | "passcode") && bytes.ends_with(header.as_bytes())
    }

    fn drop_header(&mut self, name: &str) {
        if let Some(Part::Bytes(bytes)) = self.parts.last_mut() {
            bytes.truncate(bytes.len().saturating_sub(name.len() + 1));
        }
    }

    /// The bytes to send.
    pub(crate) fn fill(&self, values: &Values) -> Vec<u8> {
        let mut out = Vec::new();
        for part in &self.parts {
            match part {
                Part::Bytes(bytes) => out.extend_from_slice(bytes),
                Part::Value(name) => {
                    out.extend_from_slice(values.get(name).map_or(&[][..], Vec::as_slice));
                }
                Part::Capture(_) | Part::Any => {}
            }
        }
        out
    }

    /// How the pattern reads with its values, for reports.
    pub(crate) fn describe(&self, values: &Values) -> Vec<u8> {
        let mut out = Vec::new();
        for part in &self.parts {
            match part {
                Part::Bytes(bytes) => out.extend_from_slice(bytes),
                Part::Value(name) => {
                    out.extend_from_slice(values.get(name).map_or(&[][..], Vec::as_slice));
                }
                Part::Capture(name) => out.extend_from_slice(format!("${{{name}=*}}").as_bytes()),
                Part::Any => out.extend_from_slice(b"${*}"),
            }
        }
        out
    }

    /// What was captured, if all of `bytes` fits.
    pub(crate) fn matches(&self, bytes: &[u8], values: &Values) -> Option<Values> {
        fits(&self.parts, bytes, values)
    }
}

/// The first hole takes as little as it can.
fn fits(parts: &[Part], bytes: &[u8], values: &Values) -> Option<Values> {
    let Some((part, parts)) = parts.split_first() else {
        return bytes.is_empty().then(Values::new);
    };
    match part {
        Part::Bytes(expected) => fits(parts, bytes.strip_prefix(expected.as_slice())?, values),
        Part::Value(name) => fits(parts, bytes.strip_prefix(values.get(name)?.as_slice())?, values),
        Part::Capture(_) | Part::Any => {
            for taken in 0..=bytes.len() {
                let (taken, rest) = bytes.split_at(taken);
                if let Some(mut captured) = fits(parts, rest, values) {
                    if let Part::Capture(name) = part {
                        captured.insert(name.clone(), taken.to_vec());
                    }
                    return Some(captured);
                }
            }
            None
        }
    }
}

/// Where the line that ends here ends.
fn end_of_line(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [b'\n', ..] => Some(1),
        [b'\r', b'\n', ..] => Some(2),
        _ => None,
    }
}

fn hole_part(hole: &str) -> Result<Part, String> {
    if hole == "*" {
        return Ok(Part::Any);
    }
    if let Some(count) = hole.strip_prefix("fill:") {
        let count: usize = count.parse().map_err(|_| format!("`fill:{count}` is no number"))?;
        return Ok(Part::Bytes(vec![b'x'; count]));
    }
    let (name, capture) = hole.strip_suffix("=*").map_or((hole, false), |name| (name, true));
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(format!("`${{{hole}}}` is no value's name"));
    }
    Ok(if capture { Part::Capture(name.into()) } else { Part::Value(name.into()) })
}

fn escape(after: &str) -> Result<(u8, &str), String> {
    let Some(kind) = after.chars().next() else { return Err("a single `\\` at the end".into()) };
    let rest = after.get(kind.len_utf8()..).unwrap_or_default();
    let byte = match kind {
        '0' => 0,
        'r' => b'\r',
        'n' => b'\n',
        't' => b'\t',
        '\\' => b'\\',
        'x' => {
            let digits = rest.get(..2).ok_or("`\\x` needs two hexadecimal digits")?;
            let byte =
                u8::from_str_radix(digits, 16).map_err(|_| "`\\x` needs two hexadecimal digits")?;
            return Ok((byte, rest.get(2..).unwrap_or_default()));
        }
        other => return Err(format!("`\\{other}` is no escape (\\0 \\r \\n \\t \\\\ \\xNN)")),
    };
    Ok((byte, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, &str)]) -> Values {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec())).collect()
    }

    #[test]
    fn fills() {
        let known = values(&[("a", "1")]);
        let cases: [(&str, bool, &[u8]); 6] = [
            ("x${a}y", false, b"x1y"),
            ("a^@b^M", false, b"a\0b\r"),
            (r"a\c", false, br"a\c"),
            (r"\0\r\n\t\\\x80", true, b"\0\r\n\t\\\x80"),
            ("^@${fill:3}", true, b"^@xxx"),
            ("\u{e9}", false, "\u{e9}".as_bytes()),
        ];
        for (text, raw, expected) in cases {
            let template = Template::parse(text, raw).unwrap();
            assert_eq!(template.fill(&known), expected, "{text}");
        }
    }

    #[test]
    fn refuses() {
        for (text, raw) in
            [("${a", false), ("${}", false), ("${a b}", false), (r"\q", true), (r"\x8", true)]
        {
            assert!(Template::parse(text, raw).is_err(), "{text}");
        }
    }

    #[test]
    fn matches_and_captures() {
        let known = values(&[("a", "1")]);
        let cases = [
            ("abc", "abc", Some(values(&[]))),
            ("abc", "abcd", None),
            ("abc", "ab", None),
            ("x${a}", "x1", Some(values(&[]))),
            ("x${a}", "x2", None),
            ("${m=*}", "", Some(values(&[("m", "")]))),
            ("${m=*}@@${n=*}", "1@@2", Some(values(&[("m", "1"), ("n", "2")]))),
            ("${m=*}@@${n=*}", "1@2", None),
            ("${*},${*}", "10,20", Some(values(&[]))),
            ("*.#", "a.b", None),
        ];
        for (pattern, text, expected) in cases {
            let template = Template::text(pattern).unwrap();
            assert_eq!(template.matches(text.as_bytes(), &known), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn accounts() {
        type Headers = &'static [(&'static str, &'static str)];
        let values = values(&[("login", "joe"), ("passcode", "pw"), ("host", "/")]);
        let sent = |text: &str, login: &str, headers: Headers| {
            let headers = headers.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
            let account = Account { login: login.into(), passcode: "pw".into(), headers };
            let template = Template::raw(text).unwrap().for_account(&account);
            String::from_utf8(template.fill(&values)).unwrap()
        };
        let connect = r"CONNECT\nhost:${host}\nlogin:${login}\npasscode:${passcode}\n\n\0";
        let crlf = r"CONNECT\r\nlogin:${login}\r\npasscode:${passcode}\r\n\r\n\0";
        let wrong = r"CONNECT\nlogin:${login}\npasscode:wrong\n\n\0";
        let body = r"SEND\n\nlogin:${login}";
        let cases: [(&str, &str, Headers, &str); 8] = [
            (connect, "joe", &[], "CONNECT\nhost:/\nlogin:joe\npasscode:pw\n\n\0"),
            (
                connect,
                "joe",
                &[("a", "b"), ("c", "d:e")],
                "CONNECT\nhost:/\nlogin:joe\npasscode:pw\na:b\nc:d:e\n\n\0",
            ),
            (connect, "", &[], "CONNECT\nhost:/\n\n\0"),
            (connect, "", &[("a", "b")], "CONNECT\nhost:/\na:b\n\n\0"),
            (crlf, "joe", &[("a", "b")], "CONNECT\r\nlogin:joe\r\npasscode:pw\r\na:b\n\r\n\0"),
            (crlf, "", &[], "CONNECT\r\n\r\n\0"),
            (wrong, "joe", &[("a", "b")], "CONNECT\nlogin:joe\npasscode:wrong\n\n\0"),
            (body, "joe", &[("a", "b")], "SEND\n\nlogin:joe"),
        ];
        for (text, login, headers, expected) in cases {
            assert_eq!(sent(text, login, headers), expected, "{text} {login} {headers:?}");
        }
    }
}
