//! The `heart-beat` header and what both sides make of it (1.1 and 1.2, "Heart-beating").

use std::time::Duration;

/// One side's `heart-beat:x,y`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeartBeat {
    /// The least time in which it can promise to send something; zero: it cannot.
    pub sends: Duration,
    /// How often it would like to hear something; zero: it does not want to.
    pub wants: Duration,
}

/// What holds for a session; None: no heart-beats that way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreement {
    /// We send something at least this often.
    pub send_every: Option<Duration>,
    /// The peer promised to send something at least this often.
    pub expect_every: Option<Duration>,
}

/// The header's value is not two numbers of 1 to 10 digits with a comma between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadHeartBeat;

impl HeartBeat {
    /// Reads the header's value, both numbers in milliseconds. Without the header it is `0,0`.
    ///
    /// # Errors
    /// [`BadHeartBeat`] where the value is malformed; a sign or a space is.
    pub fn parse(value: Option<&str>) -> Result<Self, BadHeartBeat> {
        let Some(value) = value else {
            return Ok(Self::default());
        };
        let (sends, wants) = value.split_once(',').ok_or(BadHeartBeat)?;
        Ok(Self { sends: milliseconds(sends)?, wants: milliseconds(wants)? })
    }

    /// The header's value.
    #[must_use]
    pub fn value(self) -> String {
        format!("{},{}", self.sends.as_millis(), self.wants.as_millis())
    }

    /// What follows from our offer and the peer's header. The slower of two wishes holds, so
    /// that an offer is also the fastest a peer can ask for.
    #[must_use]
    pub fn negotiate(self, peer: Self) -> Agreement {
        Agreement {
            send_every: slower(self.sends, peer.wants),
            expect_every: slower(peer.sends, self.wants),
        }
    }
}

fn milliseconds(digits: &str) -> Result<Duration, BadHeartBeat> {
    let strict = (1..=10).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    if !strict {
        return Err(BadHeartBeat);
    }
    digits.parse().map(Duration::from_millis).map_err(|_| BadHeartBeat)
}

/// Zero on either side is no heart-beats.
fn slower(can: Duration, wants: Duration) -> Option<Duration> {
    (!can.is_zero() && !wants.is_zero()).then(|| can.max(wants))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let cases = [
            (None, Some((0, 0))),
            (Some("0,0"), Some((0, 0))),
            (Some("10000,20000"), Some((10_000, 20_000))),
            (Some("0000000001,9999999999"), Some((1, 9_999_999_999))),
            (Some(""), None),
            (Some(","), None),
            (Some("1"), None),
            (Some("1,"), None),
            (Some(",1"), None),
            (Some("1,2,3"), None),
            (Some("1, 2"), None),
            (Some("+1,2"), None),
            (Some("-1,2"), None),
            (Some("1.5,2"), None),
            (Some("1e3,2"), None),
            (Some("10000000000,1"), None),
            (Some("\u{661},1"), None),
        ];
        for (value, expected) in cases {
            let expected = expected.map(|(sends, wants)| HeartBeat {
                sends: Duration::from_millis(sends),
                wants: Duration::from_millis(wants),
            });
            assert_eq!(HeartBeat::parse(value).ok(), expected, "{value:?}");
        }
        assert_eq!(HeartBeat::parse(Some("007,0")).unwrap().value(), "7,0");
    }

    #[test]
    fn negotiation() {
        // Our offer, the peer's header, how often we send, how often we expect.
        let cases = [
            ("10000,10000", "0,0", None, None),
            ("10000,10000", "5000,0", None, Some(10_000)),
            ("10000,10000", "0,5000", Some(10_000), None),
            ("10000,10000", "1,1", Some(10_000), Some(10_000)),
            ("10000,10000", "20000,30000", Some(30_000), Some(20_000)),
            ("0,10000", "20000,30000", None, Some(20_000)),
            ("10000,0", "20000,30000", Some(30_000), None),
        ];
        for (ours, peer, send, expect) in cases {
            let ours = HeartBeat::parse(Some(ours)).unwrap();
            let agreed = ours.negotiate(HeartBeat::parse(Some(peer)).unwrap());
            let expected = Agreement {
                send_every: send.map(Duration::from_millis),
                expect_every: expect.map(Duration::from_millis),
            };
            assert_eq!(agreed, expected, "{peer}");
        }
    }
}
