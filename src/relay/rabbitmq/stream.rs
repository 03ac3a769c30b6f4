//! How far a stream was read. Pure.

use std::collections::BTreeMap;

/// How far a stream was read and settled, by our tags. A stream does not forget what was settled,
/// so a new consumer has to say where it begins.
#[derive(Debug, Default)]
pub(super) struct StreamPosition {
    /// Delivered by the consumer that there is, and not settled.
    out: BTreeMap<u64, u64>,
    /// What this consumer delivers next, where that is known.
    reached: Option<u64>,
    /// After the last one that any consumer delivered.
    seen: Option<u64>,
}

impl StreamPosition {
    /// Whether the reader had it before, from a consumer that is gone. RabbitMQ does not say so.
    pub(super) fn delivered(&mut self, tag: u64, offset: u64) -> bool {
        self.out.insert(tag, offset);
        self.reached = Some(offset + 1);
        let is_again = self.seen.is_some_and(|seen| offset < seen);
        self.seen = self.seen.max(self.reached);
        is_again
    }

    pub(super) fn settled(&mut self, tag: u64) {
        self.out.remove(&tag);
    }

    /// Where another consumer begins: with the first that is not settled. `None` where nothing was
    /// delivered yet.
    pub(super) fn restart(&mut self) -> Option<u64> {
        self.reached = self.out.values().next().copied().or(self.reached);
        self.out.clear();
        self.reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_goes_on_where_it_was_settled() {
        let mut stream = StreamPosition::default();
        assert_eq!(stream.restart(), None);
        for (tag, offset) in [(1, 100), (2, 101), (3, 105)] {
            assert!(!stream.delivered(tag, offset));
        }
        stream.settled(2);
        assert_eq!(stream.restart(), Some(100));
        // Lost before anything came.
        assert_eq!(stream.restart(), Some(100));
        // Tags from before mean nothing any more.
        stream.settled(1);
        for (tag, offset) in [(4, 100), (5, 101), (6, 105)] {
            assert!(stream.delivered(tag, offset));
        }
        assert!(!stream.delivered(7, 106));
        for tag in 4..=6 {
            stream.settled(tag);
        }
        assert_eq!(stream.restart(), Some(106));
        assert!(stream.delivered(8, 106));
        stream.settled(8);
        assert_eq!(stream.restart(), Some(107));
    }
}
