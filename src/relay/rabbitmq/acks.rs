//! Which AMQP acks a session's own come to. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// The AMQP acks for our tags, and whether each is for all before it too. One is enough where
/// everything up to the highest is acked.
pub(super) fn acks(out: &mut BTreeMap<u64, u64>, acked: &BTreeSet<u64>) -> Vec<(u64, bool)> {
    let known: Vec<(u64, u64)> =
        acked.iter().filter_map(|tag| Some((*tag, *out.get(tag)?))).collect();
    let Some((highest, amqp)) = known.last().copied() else { return Vec::new() };
    let all = out.range(..=highest).count() == known.len();
    for (tag, _) in &known {
        out.remove(tag);
    }
    if all && known.len() > 1 {
        return vec![(amqp, true)];
    }
    known.into_iter().map(|(_, amqp)| (amqp, false)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_ack_where_one_is_enough() {
        // Deliveries 1 to 5 are out; RabbitMQ's tags are ten times ours.
        type Case<'a> = (&'a [u64], &'a [(u64, bool)]);
        let cases: [Case<'_>; 8] = [
            (&[], &[]),
            (&[1], &[(10, false)]),
            (&[1, 2, 3], &[(30, true)]),
            (&[3, 1, 2], &[(30, true)]),
            (&[2, 3], &[(20, false), (30, false)]),
            (&[1, 3], &[(10, false), (30, false)]),
            (&[1, 2, 3, 4, 5, 99], &[(50, true)]),
            (&[0, 99], &[]),
        ];
        for (acked, expected) in cases {
            let mut out: BTreeMap<u64, u64> = (1..=5).map(|tag| (tag, tag * 10)).collect();
            let acked: BTreeSet<u64> = acked.iter().copied().collect();
            assert_eq!(acks(&mut out, &acked), expected, "{acked:?}");
            assert!(acked.iter().all(|tag| !out.contains_key(tag)));
            assert_eq!(out.len(), 5 - acked.iter().filter(|tag| (1..=5).contains(*tag)).count());
        }
    }
}
