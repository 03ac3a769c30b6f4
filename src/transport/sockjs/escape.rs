//! JSON strings as SockJS writes them: what browsers or proxies have been seen to change on the
//! way is escaped too.
//!
//! Besides what JSON demands these are U+200C to U+200F, U+2028 to U+202F, U+2060 to U+206F and
//! U+FFF0 to U+FFFF (the protocol's list; the surrogates of it cannot stand in UTF-8).

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Bytes at which a run of plain text ends.
const SPECIAL: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = true;
        byte += 1;
    }
    table[b'"' as usize] = true;
    table[b'\\' as usize] = true;
    // The first bytes of U+2000 to U+2FFF and of U+F000 to U+FFFF.
    table[0xE2] = true;
    table[0xEF] = true;
    table
};

/// Appends UTF-8 as the inside of a JSON string.
pub fn push(out: &mut Vec<u8>, text: &[u8]) {
    out.reserve(text.len() + text.len() / 8);
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| is_special(*byte)) {
        let (plain, special) = rest.split_at(at);
        out.extend_from_slice(plain);
        rest = push_special(out, special);
    }
    out.extend_from_slice(rest);
}

fn is_special(byte: u8) -> bool {
    SPECIAL.get(usize::from(byte)).copied().unwrap_or(false)
}

/// Appends the character at the front, and gives what follows it.
fn push_special<'a>(out: &mut Vec<u8>, text: &'a [u8]) -> &'a [u8] {
    let length = match text {
        [short @ (b'"' | b'\\' | b'\n' | b'\r' | b'\t'), ..] => {
            let letter = match short {
                b'\n' => b'n',
                b'\r' => b'r',
                b'\t' => b't',
                same => *same,
            };
            out.extend_from_slice(&[b'\\', letter]);
            1
        }
        [control @ ..0x20, ..] => {
            push_code(out, u16::from(*control));
            1
        }
        [first, second, third, ..] => {
            let bits = |byte: &u8| u16::from(byte & 0x3F);
            let code = u16::from(first & 0x0F) << 12 | bits(second) << 6 | bits(third);
            match code {
                0x200C..=0x200F | 0x2028..=0x202F | 0x2060..=0x206F | 0xFFF0..=0xFFFF => {
                    push_code(out, code);
                }
                _ => out.extend_from_slice(&[*first, *second, *third]),
            }
            3
        }
        // Not UTF-8; nobody calls with that.
        _ => {
            out.extend_from_slice(text);
            text.len()
        }
    };
    text.get(length..).unwrap_or_default()
}

fn push_code(out: &mut Vec<u8>, code: u16) {
    out.extend_from_slice(b"\\u");
    for shift in [12, 8, 4, 0] {
        let digit = usize::from(code >> shift & 0xF);
        out.push(HEX.get(digit).copied().unwrap_or(b'0'));
    }
}

/// A frame as the data of one server-sent event. Clients run `decodeURI` on it, so a bare `%`
/// would be an error there or become something else.
#[must_use]
pub fn for_event(frame: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(frame.len() + 16);
    for byte in frame {
        match byte {
            b'%' => out.extend_from_slice(b"%25"),
            b'\r' => out.extend_from_slice(b"%0D"),
            b'\n' => out.extend_from_slice(b"%0A"),
            0 => out.extend_from_slice(b"%00"),
            byte => out.push(*byte),
        }
    }
    out
}

/// A frame as a string of a script. `<` and `>` are escaped, or a message could end the script
/// element it stands in and begin one of its own.
#[must_use]
pub fn for_script(frame: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(frame.len() + frame.len() / 4 + 16);
    out.push(b'"');
    let mut rest = frame;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'<' | b'>')) {
        let (before, from) = rest.split_at(at);
        push(&mut out, before);
        let Some((angle, after)) = from.split_first() else { break };
        push_code(&mut out, u16::from(*angle));
        rest = after;
    }
    push(&mut out, rest);
    out.push(b'"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn escaped(text: &str) -> String {
        let mut out = Vec::new();
        push(&mut out, text.as_bytes());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_escaped() {
        let cases = [
            ("plain é 😀", "plain é 😀"),
            ("a\"b\\c", r#"a\"b\\c"#),
            ("\n\r\t\0\u{1f}", r"\n\r\t\u0000\u001f"),
            ("\u{200b}\u{200c}\u{200f}\u{2010}", "\u{200b}\\u200c\\u200f\u{2010}"),
            ("\u{2027}\u{2028}\u{202f}\u{2030}", "\u{2027}\\u2028\\u202f\u{2030}"),
            ("\u{205f}\u{2060}\u{206f}\u{2070}", "\u{205f}\\u2060\\u206f\u{2070}"),
            ("\u{ffef}\u{fff0}\u{ffff}€", "\u{ffef}\\ufff0\\uffff€"),
        ];
        for (text, expected) in cases {
            assert_eq!(escaped(text), expected);
        }
    }

    #[test]
    fn scripts_and_events() {
        let frame = br#"a["</script>%\n"]"#;
        assert_eq!(for_script(frame), br#""a[\"\u003c/script\u003e%\\n\"]""#);
        assert_eq!(for_event(b"a[\"50%\"]\r\n\0"), b"a[\"50%25\"]%0D%0A%00");
    }

    proptest! {
        #[test]
        fn json_reads_it_back(text in ".*") {
            let json = format!("\"{}\"", escaped(&text));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
    }
}
