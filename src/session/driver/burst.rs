//! SENDs to one topic that were read together, published together: each subscriber's mailbox is
//! locked once and its session woken once, however many there are.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::destination::Destination;
use crate::message::Message;
use crate::relay::Together;
use crate::relay::mailbox::{Level, Mailbox, Token};
use crate::relay::origin::Declaration;

use super::{Driver, Turn};

/// More of them wait for nobody.
const MOST: usize = 512;
/// After so many the others go first: who is sent something should take it before more comes.
const MANY: usize = 16;
/// A sender waits so long for a receiver that is about to have too much. One that has not got on
/// by then is slow, and nobody waits for it.
const PATIENCE: Duration = Duration::from_millis(200);

impl Driver {
    /// Publishes a message; to a topic with those before it and after it that go there too.
    pub(super) fn publish(
        &mut self,
        token: Token,
        message: Arc<Message>,
        declare: Option<&Declaration>,
        turn: &mut Turn,
    ) {
        if !matches!(message.destination, Destination::Topic(_)) || declare.is_some() {
            self.publish_burst(turn);
            let submit = self.services.broker.publish(&self.mailbox, token, message, declare);
            return self.submitted(token, submit, turn);
        }
        let goes_elsewhere =
            |(_, last): &(Token, Arc<Message>)| last.destination != message.destination;
        if turn.burst.last().is_some_and(goes_elsewhere) || turn.burst.len() >= MOST {
            self.publish_burst(turn);
        }
        turn.burst.push((token, message));
    }

    /// Publishes what has gathered. Nothing else of this session happens before.
    pub(super) fn publish_burst(&mut self, turn: &mut Turn) {
        if turn.burst.is_empty() {
            return;
        }
        let mut burst = std::mem::take(&mut turn.burst);
        self.yields |= burst.len() >= MANY;
        match self.services.broker.publish_together(&burst) {
            Together::Published { crowded } => {
                for (token, _) in burst.drain(..) {
                    self.session.done(token, Ok(Level::Memory), &mut turn.actions);
                }
                if let Some(crowded) = crowded {
                    self.wait_for(crowded);
                }
            }
            Together::Refused => {
                let services = self.services.clone();
                for (token, message) in burst.drain(..) {
                    let submit = services.broker.publish(&self.mailbox, token, message, None);
                    self.submitted(token, submit, turn);
                }
            }
        }
        if turn.burst.is_empty() {
            // The room it has is for the next one.
            turn.burst = burst;
        }
    }

    /// Reads nothing more until that receiver has room again, or has shown that it is slow.
    fn wait_for(&mut self, crowded: Arc<Mailbox>) {
        if crowded.wait_for_room(&self.mailbox) {
            self.crowded = Some(Box::new((crowded, Instant::now() + PATIENCE)));
        }
    }

    /// When the wait for a receiver is over.
    pub(super) fn patience(&self) -> Option<Instant> {
        self.crowded.as_ref().map(|crowded| crowded.1)
    }

    pub(super) fn lose_patience(&mut self, now: Instant) {
        if let Some((crowded, _)) = self.crowded.take_if(|crowded| crowded.1 <= now).as_deref() {
            crowded.give_up();
        }
    }
}
