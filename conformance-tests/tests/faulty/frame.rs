//! Frames, and how they are written (1.2, "STOMP Frames", "Value Encoding").

use conformance_tests::Version;

use super::fault::{Fault, Faults};

#[derive(Clone, Debug, Default)]
pub(super) struct Frame {
    pub(super) command: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Frame {
    pub(super) fn new(command: &str) -> Self {
        Self { command: command.into(), ..Self::default() }
    }

    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The first of that name (1.2, "Repeated Header Entries").
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.headers.retain(|(n, _)| n != name);
        self.headers.push((name.into(), value.into()));
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.headers.retain(|(n, _)| n != name);
    }
}

/// 1.2, "Value Encoding": "C style string literal escapes ... applied to all frames except the
/// CONNECT and CONNECTED frames". 1.0 has none.
fn escapes(frame: &Frame, version: Version) -> Version {
    if matches!(frame.command.as_str(), "CONNECT" | "CONNECTED") { Version::V10 } else { version }
}

/// The frame with its NUL.
pub(super) fn encode(frame: &Frame, version: Version, faults: Faults) -> Vec<u8> {
    let version = escapes(frame, version);
    let mut out = frame.command.clone().into_bytes();
    if faults.has(Fault::CommandLowerCase) {
        out.make_ascii_lowercase();
    }
    out.push(b'\n');
    for (name, value) in &frame.headers {
        if is_plain(name) || !faults.has(Fault::NamesNotEscaped) {
            escape(&mut out, name, version, faults);
        } else {
            out.extend_from_slice(name.as_bytes());
        }
        out.push(b':');
        if faults.has(Fault::SpaceBehindColon) {
            out.push(b' ');
        }
        escape(&mut out, value, version, faults);
        out.push(b'\n');
    }
    out.push(b'\n');
    out.extend_from_slice(&frame.body);
    if !faults.has(Fault::NulMissing) {
        out.push(0);
    }
    out
}

/// Whether a text is the same with and without escapes.
fn is_plain(text: &str) -> bool {
    !text.contains(['\\', ':', '\n', '\r', '\0'])
}

/// Where a version has no escape for a byte that would end the line, a space stands for it.
fn escape(out: &mut Vec<u8>, text: &str, version: Version, faults: Faults) {
    if is_plain(text) || faults.has(Fault::NoEscape) {
        return out.extend_from_slice(text.as_bytes());
    }
    let version = match version {
        Version::V10 if faults.has(Fault::EscapesIn10Written) => Version::V12,
        version => version,
    };
    for byte in text.bytes() {
        match (byte, version) {
            (b'\\', Version::V11 | Version::V12) if faults.has(Fault::BackslashNotEscaped) => {
                out.push(byte);
            }
            (b':', Version::V11 | Version::V12) if faults.has(Fault::ColonNotEscaped) => {
                out.push(byte);
            }
            (b'\r', Version::V12) if faults.has(Fault::CarriageReturnNotEscaped) => out.push(byte),
            (b'\n', Version::V11 | Version::V12) => out.extend_from_slice(b"\\n"),
            (b':', Version::V11 | Version::V12) => out.extend_from_slice(b"\\c"),
            (b'\\', Version::V11 | Version::V12) => out.extend_from_slice(b"\\\\"),
            (b'\r', Version::V12) => out.extend_from_slice(b"\\r"),
            (b'\n' | b'\r', Version::V10) | (b'\r', Version::V11) | (0, _) => out.push(b' '),
            _ => out.push(byte),
        }
    }
}
