//! How far a stream was read. Pure.

use std::collections::BTreeMap;

/// How far a stream was read and settled, by our tags. A stream does not forget what was settled,
/// so a new consumer has to say where it begins.
#[derive(Debug, Default)]
pub(super) struct StreamPosition {
    out: BTreeMap<u64, u64>,
    after: Option<u64>,
}

impl StreamPosition {
    pub(super) fn delivered(&mut self, tag: u64, offset: u64) {
        self.out.insert(tag, offset);
        self.after = Some(offset + 1);
    }

    pub(super) fn settled(&mut self, tag: u64) {
        self.out.remove(&tag);
    }

    /// The first that is not settled; `None` where nothing was delivered yet.
    pub(super) fn next(&self) -> Option<u64> {
        self.out.values().next().copied().or(self.after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_goes_on_where_it_was_settled() {
        let mut stream = StreamPosition::default();
        assert_eq!(stream.next(), None);
        for (tag, offset) in [(1, 100), (2, 101), (3, 105)] {
            stream.delivered(tag, offset);
        }
        assert_eq!(stream.next(), Some(100));
        stream.settled(2);
        assert_eq!(stream.next(), Some(100));
        stream.settled(1);
        assert_eq!(stream.next(), Some(105));
        stream.settled(3);
        assert_eq!(stream.next(), Some(106));
    }
}
