//! What a client sends: a JSON array of strings.
//!
//! Read by hand and not by a JSON library, since old clients send lone surrogates, which no Rust
//! string can hold and libraries refuse; here they become U+FFFD.

use bytes::Bytes;

/// How much one request or WebSocket message may carry.
#[derive(Clone, Copy, Debug)]
pub struct PayloadLimits {
    /// Of the request's body or the WebSocket message.
    pub bytes: usize,
    /// Strings in it.
    pub messages: usize,
}

/// Why a payload is not taken. The texts are the protocol's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadError {
    Missing,
    Broken,
    TooMany,
}

impl PayloadError {
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Missing => "Payload expected.",
            Self::Broken => "Broken JSON encoding.",
            Self::TooMany => "Too many messages in one payload.",
        }
    }
}

/// The strings of a JSON array.
///
/// # Errors
/// Where the text is something else, or has more of them than allowed.
pub fn parse(text: &[u8], most: usize) -> Result<Vec<Bytes>, PayloadError> {
    let mut reader = Reader { rest: text };
    match reader.token() {
        None => return Err(PayloadError::Missing),
        Some(b'[') => {}
        // JSON, but nothing in it to send.
        Some(b'{' | b'"' | b'n' | b't' | b'f' | b'-' | b'0'..=b'9') if is_json(text) => {
            return Err(PayloadError::Missing);
        }
        Some(_) => return Err(PayloadError::Broken),
    }
    let mut messages = Vec::new();
    if reader.next_is(b']') {
        return reader.end(messages);
    }
    loop {
        if !reader.next_is(b'"') {
            return Err(PayloadError::Broken);
        }
        if messages.len() == most {
            return Err(PayloadError::TooMany);
        }
        messages.push(Bytes::from(reader.string()?));
        match reader.token() {
            Some(b',') => {}
            Some(b']') => return reader.end(messages),
            _ => return Err(PayloadError::Broken),
        }
    }
}

/// The same for a WebSocket message, where nothing at all is nothing to do, and a bare string
/// counts as an array of one.
///
/// # Errors
/// As [`parse`].
pub fn parse_message(text: &[u8], most: usize) -> Result<Vec<Bytes>, PayloadError> {
    let mut reader = Reader { rest: text };
    match reader.token() {
        None => Ok(Vec::new()),
        Some(b'"') => {
            let message = Bytes::from(reader.string()?);
            reader.end(vec![message])
        }
        Some(_) => parse(text, most),
    }
}

fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok()
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    /// The next byte that is no white space.
    fn token(&mut self) -> Option<u8> {
        loop {
            let byte = self.byte()?;
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    /// Takes the next token where it is that byte.
    fn next_is(&mut self, wanted: u8) -> bool {
        let before = self.rest;
        let is_wanted = self.token() == Some(wanted);
        if !is_wanted {
            self.rest = before;
        }
        is_wanted
    }

    fn end(mut self, messages: Vec<Bytes>) -> Result<Vec<Bytes>, PayloadError> {
        if self.token().is_some() { Err(PayloadError::Broken) } else { Ok(messages) }
    }

    /// The inside of a string and its closing quote.
    fn string(&mut self) -> Result<Vec<u8>, PayloadError> {
        let mut out = Vec::new();
        loop {
            let end = memchr::memchr2(b'"', b'\\', self.rest).ok_or(PayloadError::Broken)?;
            let (plain, rest) = self.rest.split_at(end);
            // RFC 8259, 7: control characters are escaped, and text is UTF-8.
            if plain.iter().any(|byte| *byte < 0x20) || simdutf8::basic::from_utf8(plain).is_err() {
                return Err(PayloadError::Broken);
            }
            out.extend_from_slice(plain);
            self.rest = rest;
            if self.byte() == Some(b'"') {
                return Ok(out);
            }
            self.escape(&mut out)?;
        }
    }

    /// What follows a backslash.
    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), PayloadError> {
        match self.byte() {
            Some(same @ (b'"' | b'\\' | b'/')) => out.push(same),
            Some(b'n') => out.push(b'\n'),
            Some(b'r') => out.push(b'\r'),
            Some(b't') => out.push(b'\t'),
            Some(b'b') => out.push(8),
            Some(b'f') => out.push(12),
            Some(b'u') => {
                let char = self.unicode()?;
                out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => return Err(PayloadError::Broken),
        }
        Ok(())
    }

    fn unicode(&mut self) -> Result<char, PayloadError> {
        let first = self.code()?;
        if (0xD800..0xDC00).contains(&first) {
            let before = self.rest;
            if let Some(rest) = self.rest.strip_prefix(b"\\u") {
                self.rest = rest;
                let second = self.code()?;
                if (0xDC00..0xE000).contains(&second) {
                    let code = 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00);
                    return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                }
                // A character of its own, read next.
                self.rest = before;
            }
        }
        Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn code(&mut self) -> Result<u32, PayloadError> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.byte().and_then(|byte| char::from(byte).to_digit(16));
            code = code << 4 | digit.ok_or(PayloadError::Broken)?;
        }
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(json: &str) -> Result<Vec<String>, PayloadError> {
        let messages = parse(json.as_bytes(), 3)?;
        Ok(messages.iter().map(|m| String::from_utf8(m.to_vec()).unwrap()).collect())
    }

    #[test]
    fn good_payloads() {
        let cases: [(&str, &[&str]); 7] = [
            ("[]", &[]),
            (" [ ] \n", &[]),
            (r#"["a","b"]"#, &["a", "b"]),
            ("[ \"a\" ,\r\n\"é😀\" ]", &["a", "é😀"]),
            (r#"["\"\\\/\n\r\t\b\f\u0041\u00e9"]"#, &["\"\\/\n\r\t\u{8}\u{c}Aé"]),
            (r#"["\ud83d\ude00","\ud800","\udc00x"]"#, &["😀", "\u{fffd}", "\u{fffd}x"]),
            (r#"["\ud800\u0041"]"#, &["\u{fffd}A"]),
        ];
        for (json, expected) in cases {
            assert_eq!(texts(json).unwrap(), expected, "{json}");
        }
    }

    #[test]
    fn bad_payloads() {
        use PayloadError::{Broken, Missing, TooMany};
        let deep = "[".repeat(100_000);
        let cases = [
            ("", Missing),
            ("  \n", Missing),
            ("{}", Missing),
            ("null", Missing),
            ("1", Missing),
            (r#""a""#, Missing),
            (r#"["x"#, Broken),
            (r#"["x""#, Broken),
            (r#"["x"]x"#, Broken),
            (r#"["x",]"#, Broken),
            (r#"["x" "y"]"#, Broken),
            ("[1]", Broken),
            (r#"[["a"]]"#, Broken),
            (r#"["\x"]"#, Broken),
            (r#"["\u00g0"]"#, Broken),
            ("[\"a\nb\"]", Broken),
            ("\u{feff}[\"a\"]", Broken),
            ("{", Broken),
            (&deep, Broken),
            (r#"["a","b","c","d"]"#, TooMany),
        ];
        for (json, expected) in cases {
            let start = json.get(..20).unwrap_or(json);
            assert_eq!(texts(json), Err(expected), "{start}");
        }
        assert_eq!(parse(b"[\"\xff\"]", 3), Err(Broken));
    }

    #[test]
    fn a_websocket_message_may_be_nothing_or_one_string() {
        assert_eq!(parse_message(b"", 3), Ok(Vec::new()));
        assert_eq!(parse_message(b"\"a\"", 3), Ok(vec![Bytes::from("a")]));
        assert_eq!(parse_message(b"[\"a\"]", 3), Ok(vec![Bytes::from("a")]));
        assert_eq!(parse_message(b"\"a", 3), Err(PayloadError::Broken));
    }

    proptest! {
        #[test]
        fn reads_what_serde_writes(texts in proptest::collection::vec(".*", 0..5)) {
            let json = serde_json::to_vec(&texts).unwrap();
            let read = parse(&json, 10).unwrap();
            let expected: Vec<Bytes> = texts.into_iter().map(Bytes::from).collect();
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn takes_what_serde_takes_and_never_panics(json in "[\\[\\]\",\\\\nu0aD8C é]{0,24}") {
            if let Ok(texts) = serde_json::from_str::<Vec<String>>(&json) {
                prop_assert_eq!(parse(json.as_bytes(), 100).map(|m| m.len()), Ok(texts.len()));
            } else {
                let _ = parse(json.as_bytes(), 100);
            }
        }
    }
}
