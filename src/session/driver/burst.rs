//! SENDs to one topic that were read together, published together: each subscriber's mailbox is
//! locked once and its session woken once, however many there are.

use std::sync::Arc;

use crate::destination::Destination;
use crate::message::Message;
use crate::relay::mailbox::{Level, Token};
use crate::relay::origin::Declaration;

use super::{Driver, Turn};

/// More of them wait for nobody.
const MOST: usize = 512;
/// After so many the others go first: who is sent something should take it before more comes.
const MANY: usize = 16;

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
        if self.services.broker.publish_together(&burst) {
            for (token, _) in burst.drain(..) {
                self.session.done(token, Ok(Level::Memory), &mut turn.actions);
            }
        } else {
            let services = self.services.clone();
            for (token, message) in burst.drain(..) {
                let submit = services.broker.publish(&self.mailbox, token, message, None);
                self.submitted(token, submit, turn);
            }
        }
        if turn.burst.is_empty() {
            // The room it has is for the next one.
            turn.burst = burst;
        }
    }
}
