//! The end of a session: what it leaves behind, and the good-bye.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::relay::mailbox::{Delivery, Entry, Source};
use crate::session::proof::Settled;

use super::{Driver, Turn};

/// A closed connection waits so long for the other side to close too.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_TCP: Duration = Duration::from_secs(2);

impl Driver {
    /// The session ends: its places are given up, and what it did not prove to have is kept.
    pub(super) fn end(&mut self) {
        self.prove_tcp(&mut Turn::default());
        let left = self.mailbox.close();
        let mut ending = self.session.end();
        let mut unproven = self.proofs.unproven();
        for Settled { subscription, queue, .. } in self.proofs.unsettled() {
            ending.broker.push((subscription, queue));
        }
        for entry in left {
            let Entry::Own(delivery) = entry else { continue };
            let Delivery { message, subscription, source, .. } = *delivery;
            match source {
                Source::User { unread_id: None } => unproven.push(message),
                Source::User { unread_id: Some(_) } => {}
                Source::Queue { .. } => {
                    ending.broker.push((subscription, message.destination.clone()));
                }
            }
        }
        for (subscription, to) in ending.user {
            self.services.users.unsubscribe(&self.mailbox, subscription, &to);
        }
        self.services.broker.session_ended(&self.mailbox, &ending.broker);
        unproven.extend(ending.unacked);
        self.restore(unproven);
        self.place.leave();
        if let Some((code, reason)) = self.over {
            tracing::debug!(session = self.place.name(), code, reason, "session ended");
        }
    }

    /// Says good-bye and waits a little for the other side to do so too.
    pub(super) async fn linger(self) {
        let Self { transport, mut out, over, .. } = self;
        let Some((code, reason)) = over.filter(|(code, _)| *code != 1006) else { return };
        let is_websocket = transport.is_websocket();
        transport.put_close(&mut out, code, reason);
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
