//! What is at the front of each body: when the message was due, and who sent it.
//!
//! Six bits to a printable character, so that a body is text for every server.

/// The bytes of a stamp.
pub const BYTES: usize = TIME + PUBLISHER;
const TIME: usize = 8;
const PUBLISHER: usize = 4;
const FIRST: u8 = b'0';

/// When a message was due, in nanoseconds since the program's start, and its publisher's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub due: u64,
    pub publisher: u32,
}

impl Stamp {
    /// Writes it to the front of a body.
    pub fn write(self, body: &mut [u8]) {
        let Some((time, rest)) = body.split_at_mut_checked(TIME) else { return };
        put(time, self.due);
        if let Some(publisher) = rest.get_mut(..PUBLISHER) {
            put(publisher, self.publisher.into());
        }
    }

    /// Reads it from the front of a body. What was not written by [`Self::write`] gives nonsense,
    /// or None.
    #[must_use]
    pub fn read(body: &[u8]) -> Option<Self> {
        let (time, rest) = body.split_at_checked(TIME)?;
        let publisher = u32::try_from(take(rest.get(..PUBLISHER)?)).ok()?;
        Some(Self { due: take(time), publisher })
    }
}

/// The bytes of a time in a header, where `:` and `\\` would have to be escaped: four bits to a
/// letter.
pub const HEADER_BYTES: usize = 12;

/// Writes when a message was due as the value of a header.
pub fn write_header(due: u64, value: &mut [u8]) {
    for (place, byte) in value.iter_mut().take(HEADER_BYTES).rev().enumerate() {
        *byte = b'a' + u8::try_from(due >> (4 * place) & 0xf).unwrap_or(0);
    }
}

/// Reads it from the value of a header.
#[must_use]
pub fn read_header(value: &[u8]) -> Option<u64> {
    let is_due =
        value.len() == HEADER_BYTES && value.iter().all(|byte| (b'a'..=b'p').contains(byte));
    is_due.then(|| value.iter().fold(0, |number, byte| number << 4 | u64::from(byte - b'a')))
}

fn put(into: &mut [u8], mut number: u64) {
    for byte in into.iter_mut().rev() {
        *byte = FIRST + u8::try_from(number & 0x3f).unwrap_or(0);
        number >>= 6;
    }
}

fn take(from: &[u8]) -> u64 {
    from.iter().fold(0, |number, byte| number << 6 | u64::from(byte.wrapping_sub(FIRST) & 0x3f))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_as_it_was_and_is_printable() {
        for due in [0, 1, 63, 64, 1_234_567_890_123, (1 << 48) - 1] {
            for publisher in [0, 7, 70_000] {
                let mut body = [b'x'; 20];
                let stamp = Stamp { due, publisher };
                stamp.write(&mut body);
                assert_eq!(Stamp::read(&body), Some(stamp));
                assert!(body.iter().all(u8::is_ascii_graphic), "{body:?}");
                assert_eq!(body[BYTES..], [b'x'; 8]);
            }
        }
        assert_eq!(Stamp::read(b"short"), None);
        for due in [0, 15, 16, 1_234_567_890_123, (1 << 48) - 1] {
            let mut value = [b'x'; HEADER_BYTES];
            write_header(due, &mut value);
            assert_eq!(read_header(&value), Some(due));
        }
        assert_eq!(read_header(b"sub"), None);
        assert_eq!(read_header(b"aaaaaaaaaaa:"), None);
    }
}
