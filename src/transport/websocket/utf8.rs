//! UTF-8 that is checked as it arrives, in pieces cut anywhere.

/// A character's bytes that earlier pieces ended with: at most three.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Utf8Carry {
    bytes: [u8; 3],
    used: u8,
}

/// The bytes are not UTF-8, and nothing that may follow makes them so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotUtf8;

impl Utf8Carry {
    /// Whether the text ends at the end of a character.
    pub(super) fn is_complete(self) -> bool {
        self.used == 0
    }

    /// Checks the next piece, and fails at the first byte that cannot be.
    pub(super) fn check(&mut self, piece: &[u8]) -> Result<(), NotUtf8> {
        let piece = if self.is_complete() { piece } else { self.finish_character(piece)? };
        let (whole, tail) = piece.split_at(piece.len().saturating_sub(open_tail(piece)));
        simdutf8::basic::from_utf8(whole).map_err(|_| NotUtf8)?;
        if tail.is_empty() { Ok(()) } else { self.keep(tail) }
    }

    /// Completes the kept character with the front of the piece; returns the rest of it.
    fn finish_character<'a>(&mut self, piece: &'a [u8]) -> Result<&'a [u8], NotUtf8> {
        let used = usize::from(self.used);
        let [first, second, third] = self.bytes;
        let mut character = [first, second, third, 0];
        let missing = width(first).saturating_sub(used).min(piece.len());
        let (front, rest) = piece.split_at(missing);
        for (slot, byte) in character.iter_mut().skip(used).zip(front) {
            *slot = *byte;
        }
        let so_far = character.get(..used + missing).unwrap_or(&character);
        if so_far.len() < width(first) {
            return self.keep(so_far).map(|()| rest);
        }
        self.used = 0;
        std::str::from_utf8(so_far).map(|_| rest).map_err(|_| NotUtf8)
    }

    /// Keeps the beginning of a character if it can still become one.
    fn keep(&mut self, start: &[u8]) -> Result<(), NotUtf8> {
        match std::str::from_utf8(start) {
            Err(error) if error.valid_up_to() == 0 && error.error_len().is_none() => {}
            _ => return Err(NotUtf8),
        }
        for (slot, byte) in self.bytes.iter_mut().zip(start) {
            *slot = *byte;
        }
        self.used = u8::try_from(start.len()).map_err(|_| NotUtf8)?;
        Ok(())
    }
}

/// How many bytes at the end begin a character that is not complete.
fn open_tail(piece: &[u8]) -> usize {
    for (back, &byte) in piece.iter().rev().take(3).enumerate() {
        let length = back + 1;
        match width(byte) {
            0 => {}
            width if width > length => return length,
            _ => return 0,
        }
    }
    0
}

/// How many bytes the character that begins with this one has; 0 for a continuation byte. Bytes
/// that begin nothing count as 1, so that they are checked with what is complete.
fn width(byte: u8) -> usize {
    match byte {
        0x80..=0xBF => 0,
        0xC2..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF4 => 4,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(pieces: &[&[u8]]) -> Result<bool, NotUtf8> {
        let mut carry = Utf8Carry::default();
        for piece in pieces {
            carry.check(piece)?;
        }
        Ok(carry.is_complete())
    }

    #[test]
    fn fails_at_the_first_byte_that_cannot_be() {
        // The last byte of each is the first wrong one (Unicode, table 3-7).
        let cases: [&[u8]; 14] = [
            b"a\x80",
            b"\xc0",
            b"\xc1",
            b"\xf5",
            b"\xff",
            b"\xc2a",
            b"\xe0\x9f",
            b"\xed\xa0",
            b"\xe2\x82a",
            b"\xe2\x82\xc3",
            b"\xf0\x8f",
            b"\xf4\x90",
            b"\xf0\x90\x80a",
            b"\xf0\x90\xff",
        ];
        for case in cases {
            let (last, before) = case.split_last().unwrap();
            assert!(check(&[before]).is_ok(), "{before:x?}");
            assert_eq!(check(&[case]), Err(NotUtf8), "{case:x?}");
            assert_eq!(check(&[before, &[*last]]), Err(NotUtf8), "{case:x?}");
            let bytes: Vec<&[u8]> = case.chunks(1).collect();
            assert_eq!(check(&bytes), Err(NotUtf8), "{case:x?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn agrees_with_std_however_it_is_cut(
            text in "(\\PC|[\u{80}\u{7ff}\u{800}\u{10ffff}]){0,12}",
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
            cut in prop::collection::vec(1_usize..6, 1..12),
        ) {
            let mut bytes = text.into_bytes();
            for (at, byte) in flips {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
            }
            let expected = match std::str::from_utf8(&bytes) {
                Ok(_) => Ok(true),
                Err(error) if error.error_len().is_none() => Ok(false),
                Err(_) => Err(NotUtf8),
            };
            let mut pieces = Vec::new();
            let mut rest = bytes.as_slice();
            for size in cut {
                let (piece, after) = rest.split_at(size.min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            pieces.push(rest);
            prop_assert_eq!(check(&pieces), expected);
        }
    }
}
