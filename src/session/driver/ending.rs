//! The end of a session: what it leaves behind, and the good-bye.

use crate::relay::mailbox::{Delivery, Entry, Source};
use crate::relay::origin::Place;
use crate::session::proof::Settled;

use super::{Driver, LOST, Turn};

impl Driver {
    /// The session ends: its places are given up, and what it did not prove to have is kept.
    pub(super) fn end(&mut self) {
        self.ask_for_proof(&mut Turn::default());
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
        if let Some((code, reason)) = self.over {
            tracing::debug!(session = self.place.name(), code, reason, "session ended");
        }
    }

    /// Writes the good-bye, as far as it is taken at once.
    fn part(&mut self) {
        if let Some((code, reason)) = self.over.filter(|(code, _)| *code != LOST) {
            self.transport.part(&mut self.out, code, reason);
        }
    }

    /// Writes the rest and waits a little for the other side to do so too.
    pub(super) async fn linger(self: Box<Self>) {
        let Self { transport, mut place, out, over, .. } = *self;
        let is_lost = over.is_none_or(|(code, _)| code == LOST);
        if !is_lost {
            transport.parted().await;
        }
        // As late as this, since a server that stops waits for it and no longer.
        place.leave();
        if !is_lost {
            transport.finish(out).await;
        }
    }
}
