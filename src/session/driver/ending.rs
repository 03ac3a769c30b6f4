//! The end of a session: what it leaves behind, and the good-bye.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::relay::mailbox::{Delivery, Entry, Source};
use crate::relay::origin::Place;
use crate::session::proof::Settled;

use super::{Driver, LOST, Turn};

/// A closed connection waits so long for the other side to close too.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_TCP: Duration = Duration::from_secs(2);

impl Driver {
    /// The session ends: its places are given up, and what it did not prove to have is kept.
    pub(super) fn end(&mut self) {
        self.prove_tcp(&mut Turn::default());
        let mut left = std::mem::take(&mut self.late);
        left.extend(self.mailbox.close());
        let mut ending = self.session.end();
        let mut unproven = self.proofs.unproven();
        for Settled { subscription, queue, .. } in self.proofs.unsettled() {
            ending.broker.push((subscription, Place::Queue(queue)));
        }
        for entry in left {
            let Entry::Own(delivery) = entry else { continue };
            let Delivery { message, subscription, source, .. } = *delivery;
            match source {
                Source::User { unread_id: None } => unproven.push(message),
                Source::User { unread_id: Some(_) } => {}
                Source::Queue { queue, .. } => {
                    ending.broker.push((subscription, Place::Queue(queue)));
                }
            }
        }
        self.services.broker.session_ended(&self.mailbox, &ending.broker);
        unproven.extend(ending.unacked);
        unproven.sort_by_key(|message| message.order());
        if let Some(user) = self.user() {
            self.services.metrics.unread_restored.inc_by(unproven.len() as u64);
            let (users, mailbox) = (&self.services.users, &self.mailbox);
            users.session_ended(&user, mailbox, &ending.user, unproven);
        }
        self.part();
        self.services.metrics.sessions.dec();
        // Last, since a server that stops waits for this and no longer.
        self.place.leave();
        if let Some((code, reason)) = self.over {
            tracing::debug!(session = self.place.name(), code, reason, "session ended");
        }
    }

    /// Writes the good-bye, as far as the kernel takes it at once.
    fn part(&mut self) {
        let Some((code, reason)) = self.over.filter(|(code, _)| *code != LOST) else { return };
        self.transport.put_close(&mut self.out, code, reason);
        // One that is gone meanwhile needs no good-bye.
        if let Ok(written) = self.transport.write(&self.out) {
            self.out.drain(..written);
        }
    }

    /// Writes the rest and waits a little for the other side to do so too.
    pub(super) async fn linger(self) {
        let Self { transport, out, over, .. } = self;
        if over.is_none_or(|(code, _)| code == LOST) {
            return;
        }
        let is_websocket = transport.is_websocket();
        let mut stream = transport.into_stream();
        let time = if is_websocket { LINGER } else { LINGER_TCP };
        let farewell = async {
            stream.write_all(&out).await?;
            stream.shutdown().await?;
            let mut sink = [0_u8; 1024];
            while stream.read(&mut sink).await? > 0 {}
            io::Result::Ok(())
        };
        // Whatever comes of it, the connection is over.
        let _ = tokio::time::timeout(time, farewell).await;
    }
}
