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
    let mut version = escapes(frame, version);
    if faults.has(Fault::NoEscape) {
        version = Version::V10;
    }
    if faults.has(Fault::EscapesIn10Written) && version == Version::V10 {
        version = Version::V12;
    }
    let mut out = frame.command.clone().into_bytes();
    if faults.has(Fault::CommandLowerCase) {
        out.make_ascii_lowercase();
    }
    out.push(b'\n');
    for (name, value) in &frame.headers {
        let escaped_name = if faults.has(Fault::NamesNotEscaped) { Version::V10 } else { version };
        escape(&mut out, name, escaped_name, faults);
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

/// Where a version has no escape for a byte that would end the line, a space stands for it.
fn escape(out: &mut Vec<u8>, text: &str, version: Version, faults: Faults) {
    for byte in text.bytes() {
        match (byte, version) {
            (b'\\', Version::V11 | Version::V12) if faults.has(Fault::BackslashNotEscaped) => {
                out.push(byte);
            }
            (b':', Version::V11 | Version::V12) if faults.has(Fault::ColonNotEscaped) => {
                out.push(byte);
            }
            (b'\r', Version::V12) if faults.has(Fault::CarriageReturnNotEscaped) => out.push(byte),
            (b'\n' | b'\r', Version::V10) if faults.has(Fault::NoEscape) => out.push(byte),
            (b'\n', Version::V11 | Version::V12) => out.extend_from_slice(b"\\n"),
            (b':', Version::V11 | Version::V12) => out.extend_from_slice(b"\\c"),
            (b'\\', Version::V11 | Version::V12) => out.extend_from_slice(b"\\\\"),
            (b'\r', Version::V12) => out.extend_from_slice(b"\\r"),
            (b'\n' | b'\r', Version::V10) | (b'\r', Version::V11) | (0, _) => out.push(b' '),
            _ => out.push(byte),
        }
    }
}
