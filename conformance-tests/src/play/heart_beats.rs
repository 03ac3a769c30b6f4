//! Heart-beats in time, of both sides (1.2, "Heart-beating").

use std::time::Duration;

use tokio::time::Instant;

use super::Play;
use crate::connection::Event;
use crate::transcript::Cut;
use crate::wrong::Wrong;

/// How long a heart-beat may take: twice and a half the 10 s that servers commonly offer.
const BEAT_LIMIT: Duration = Duration::from_secs(25);
/// How late a heart-beat may be: "because of timing inaccuracies, the receiver SHOULD be tolerant".
const BEAT_TOLERANCE: Duration = Duration::from_secs(1);
/// After so many intervals of silence a client is taken for gone; with time for the good-bye.
const SILENT_INTERVALS: u32 = 4;
const GOOD_BYE: Duration = Duration::from_secs(10);

/// What CONNECT and CONNECTED agreed on, each way; none where either side said 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Agreed {
    of_server: Option<Duration>,
    of_client: Option<Duration>,
}

impl Agreed {
    /// Headers of CONNECT and CONNECTED, both `<can>,<wants>` in milliseconds.
    pub(super) fn new(client: &str, server: &str) -> Self {
        let numbers = |text: &str| {
            let (can, wants) = text.split_once(',')?;
            Some((can.trim().parse::<u64>().ok()?, wants.trim().parse::<u64>().ok()?))
        };
        let (client, server) =
            (numbers(client).unwrap_or((0, 0)), numbers(server).unwrap_or((0, 0)));
        let interval = |can: u64, wants: u64| {
            (can > 0 && wants > 0).then(|| Duration::from_millis(can.max(wants)))
        };
        Self { of_server: interval(server.0, client.1), of_client: interval(client.0, server.1) }
    }
}

impl Play<'_> {
    pub(super) async fn any_beat(&mut self, name: &str) -> Result<(), Wrong> {
        self.beat(name, BEAT_LIMIT).await
    }

    async fn beat(&mut self, name: &str, limit: Duration) -> Result<(), Wrong> {
        match self.next(name, Instant::now() + limit).await? {
            Event::Beat => Ok(()),
            other => Err(Wrong::instead("a heart-beat", other, limit)),
        }
    }

    /// There is new data at least every `MAX(<sx>,<cy>)` milliseconds. A server that said that it
    /// cannot send any sends none.
    pub(super) async fn beats(&mut self, name: &str, intervals: u32) -> Result<(), Wrong> {
        let Some(interval) = self.peer(name)?.beats.of_server else {
            return self.no_beat(name, intervals).await;
        };
        let end = Instant::now() + interval * intervals;
        while Instant::now() < end {
            self.beat(name, interval + interval / 2 + BEAT_TOLERANCE).await?;
        }
        Ok(())
    }

    pub(super) async fn no_beat(&mut self, name: &str, seconds: u32) -> Result<(), Wrong> {
        let limit = Duration::from_secs(seconds.into());
        match self.next(name, Instant::now() + limit).await? {
            Event::Silence => Ok(()),
            other => Err(Wrong::instead("nothing", other, limit)),
        }
    }

    pub(super) async fn silence(&mut self, name: &str) -> Result<(), Wrong> {
        let peer = self.peer(name)?;
        // A server that wants no heart-beats has no reason to end the connection.
        let Some(interval) = peer.beats.of_client else { return Ok(()) };
        let limit = interval * SILENT_INTERVALS + GOOD_BYE;
        if peer.connection.wait_in_silence(Instant::now() + limit).await {
            return Ok(());
        }
        Err(format!("the client was silent for {limit:?}, and the connection is open").into())
    }

    pub(super) async fn keep_alive(&mut self, name: &str, intervals: u32) -> Result<(), Wrong> {
        let Some(interval) = self.peer(name)?.beats.of_client else { return Ok(()) };
        for _ in 0..2 * intervals {
            self.let_pass(Instant::now() + interval / 2).await;
            self.send(name, b"\n", Cut::Whole).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_agreed_on() {
        let ms = Duration::from_millis;
        let cases = [
            ("1000,2000", "3000,500", Some(ms(3000)), Some(ms(1000))),
            ("1000,2000", "100,5000", Some(ms(2000)), Some(ms(5000))),
            ("0,2000", "3000,500", Some(ms(3000)), None),
            ("1000,0", "3000,500", None, Some(ms(1000))),
            ("1000,2000", "0,0", None, None),
            ("1000,2000", "", None, None),
            ("", "3000,3000", None, None),
            ("1000, 2000", "x,1", None, None),
        ];
        for (client, server, of_server, of_client) in cases {
            let expected = Agreed { of_server, of_client };
            assert_eq!(Agreed::new(client, server), expected, "{client} {server}");
        }
    }
}
