//! Frames to bytes, with the escapes of each version.

use super::{Command, Frame, Version};

/// Appends the frame with its NUL. `content-length` is written where there is a body.
pub fn encode(out: &mut Vec<u8>, frame: &Frame, version: Version) {
    out.extend_from_slice(frame.command.name().as_bytes());
    out.push(b'\n');
    for (name, value) in frame.headers.iter() {
        encode_header(out, name, value, frame.command, version);
    }
    encode_end(out, &frame.body);
}

/// Appends one header line, escaped as `command` and `version` want it.
pub fn encode_header(
    out: &mut Vec<u8>,
    name: &str,
    value: &str,
    command: Command,
    version: Version,
) {
    let escapes = if command.escapes_headers() { version } else { Version::V10 };
    if escapes == Version::V10 && name.contains(':') {
        // Unescaped, the colon would end the name early: `x-user:me` would arrive as `x-user`.
        encode_text(out, &name.replace(':', " "), escapes);
    } else {
        encode_text(out, name, escapes);
    }
    out.push(b':');
    encode_text(out, value, escapes);
    out.push(b'\n');
}

/// Appends content-length, the empty line, the body and the NUL.
pub fn encode_end(out: &mut Vec<u8>, body: &[u8]) {
    if !body.is_empty() {
        out.extend_from_slice(b"content-length:");
        push_decimal(out, body.len() as u64);
        out.push(b'\n');
    }
    out.push(b'\n');
    out.extend_from_slice(body);
    out.push(0);
}

/// Whether a text is written the same in every version.
#[must_use]
pub fn is_plain(text: &str) -> bool {
    !text.bytes().any(|byte| matches!(byte, 0 | b'\n' | b'\r' | b':' | b'\\'))
}

/// Appends a number in decimal.
pub fn push_decimal(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0_u8; 20];
    let mut rest = number;
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        used += 1;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(20 - used..).unwrap_or_default());
}

/// 1.1 escapes LF, colon and backslash ("Value Encoding"), 1.2 CR too. 1.0 has no escapes: what
/// would end the line is written as a space, since nothing may become a header of its own. NUL
/// has no escape in any version and would end the frame.
fn encode_text(out: &mut Vec<u8>, text: &str, version: Version) {
    if is_plain(text) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    for byte in text.bytes() {
        match (byte, version) {
            (0, _) | (b'\n' | b'\r', Version::V10) | (b'\r', Version::V11) => out.push(b' '),
            (b'\n', _) => out.extend_from_slice(b"\\n"),
            (b'\r', Version::V12) => out.extend_from_slice(b"\\r"),
            (b':', Version::V11 | Version::V12) => out.extend_from_slice(b"\\c"),
            (b'\\', Version::V11 | Version::V12) => out.extend_from_slice(b"\\\\"),
            _ => out.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn escapes_by_version() {
        let cases = [
            (Version::V10, "MESSAGE\na:x:\\ y z \n\n\0"),
            (Version::V11, "MESSAGE\na:x\\c\\\\\\ny z \n\n\0"),
            (Version::V12, "MESSAGE\na:x\\c\\\\\\ny\\rz \n\n\0"),
        ];
        for (version, expected) in cases {
            let mut out = Vec::new();
            encode(&mut out, &Frame::new(Command::Message).with("a", "x:\\\ny\rz\0"), version);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn a_colon_in_a_name_never_ends_it() {
        for (version, expected) in [
            (Version::V10, "MESSAGE\nx-user me:1\n\n\0"),
            (Version::V11, "MESSAGE\nx-user\\cme:1\n\n\0"),
        ] {
            let mut out = Vec::new();
            encode(&mut out, &Frame::new(Command::Message).with("x-user:me", "1"), version);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn connected_is_not_escaped_and_a_body_has_its_length() {
        let mut out = Vec::new();
        encode(&mut out, &Frame::new(Command::Connected).with("a", "b:c"), Version::V12);
        assert_eq!(out, b"CONNECTED\na:b:c\n\n\0");
        out.clear();
        let body = Bytes::from_static(b"x\0y");
        encode(&mut out, &Frame { body, ..Frame::new(Command::Message) }, Version::V12);
        assert_eq!(out, b"MESSAGE\ncontent-length:3\n\nx\0y\0");
    }

    #[test]
    fn decimal() {
        for number in [0, 7, 10, 4096, u64::MAX] {
            let mut out = Vec::new();
            push_decimal(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }
}
