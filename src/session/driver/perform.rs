//! What the machine says, done.

use std::time::{Duration, Instant};

use crate::auth::{AuthError, Principal};
use crate::relay::mailbox::{Event, Submit, Token};
use crate::session::{Action, Outgoing};
use crate::stomp::{Frame, Headers, encode};
use crate::transport::websocket::frame;

use super::{Driver, Services, Turn, expiry};

impl Driver {
    /// Performs actions until none is left; an answer that is there at once may add some.
    pub(super) fn perform(&mut self, turn: &mut Turn) {
        while !turn.actions.is_empty() {
            let room = std::mem::take(&mut turn.done);
            let mut actions = std::mem::replace(&mut turn.actions, room);
            for action in actions.drain(..) {
                self.act(action, turn);
            }
            turn.done = actions;
        }
    }

    fn act(&mut self, action: Action, turn: &mut Turn) {
        if !matches!(action, Action::Publish { .. }) {
            self.publish_burst(turn);
        }
        if self.over.is_some() && action.is_output() {
            return;
        }
        self.has_sent |= matches!(action, Action::Publish { .. } | Action::SendToUser { .. });
        match action {
            Action::Send(frame) => self.put_frame(&frame, turn),
            Action::Written(bytes) => self.put(&bytes, turn),
            Action::Deliver { head, message, own_id, after } => {
                self.put_message(&head, Outgoing { message, own_id, after }, turn);
            }
            Action::Authenticate(headers) => self.authenticate(headers),
            Action::Connected => self.connected(),
            Action::Publish { token, message, declare } => {
                self.publish(token, message, declare.as_deref(), turn);
            }
            Action::SendToUser { token, message, never } => {
                let submit = self.services.users.send(&self.mailbox, Some(token), message, never);
                self.submitted(token, submit, turn);
            }
            Action::Subscribe { token, request } => {
                let submit = self.services.broker.subscribe(&self.mailbox, token, request);
                self.submitted(token, submit, turn);
            }
            Action::OpenReplyQueue { subscription } => {
                self.services.broker.open_reply_queue(&self.mailbox, subscription);
            }
            Action::Unsubscribe { token, subscription, place, delete } => {
                let Services { broker, .. } = &*self.services;
                let of = &self.mailbox;
                let submit = broker.unsubscribe(of, token, subscription, &place, delete);
                if let Some(token) = token {
                    self.submitted(token, submit, turn);
                }
            }
            Action::Settle { subscription, queue, tags, settlement } => {
                let Services { broker, .. } = &*self.services;
                broker.settle(&self.mailbox, subscription, &queue, &tags, settlement);
            }
            Action::SubscribeUser { token, subscription, to } => {
                self.services.users.subscribe(&self.mailbox, subscription, &to, token);
            }
            Action::UnsubscribeUser { subscription, to } => {
                self.services.users.unsubscribe(&self.mailbox, subscription, &to);
            }
            action @ (Action::Replay { .. } | Action::Page { .. }) => {
                self.pulls.push_back(action);
            }
            Action::MarkRead { which, request, token } => {
                if let Some(user) = self.user() {
                    let answer = token.map(|token| (&self.mailbox, token));
                    self.services.users.mark_read(&user, which, request, answer);
                }
            }
            Action::Restore(messages) => self.restore(messages),
            Action::HeartBeat => self.put(b"\n", turn),
            Action::Ping => self.ping(turn),
            Action::Close { code, reason } => {
                self.over.get_or_insert((code, reason));
            }
        }
    }

    /// Asks the next question for stored messages, where none is under way.
    pub(super) fn pull(&mut self) {
        let users = &self.services.users;
        while !self.is_pulling
            && let Some(action) = self.pulls.pop_front()
        {
            match action {
                // One that was UNSUBSCRIBEd meanwhile must not become present.
                Action::Replay { subscription, to, after, limit }
                    if self.session.subscribes(subscription) =>
                {
                    users.replay(&self.mailbox, subscription, &to, after, limit);
                    self.is_pulling = true;
                }
                Action::Page { subscription, after, limit }
                    if self.session.subscribes(subscription) =>
                {
                    if let Some(user) = self.user() {
                        users.page(&self.mailbox, subscription, &user, after, limit);
                        self.is_pulling = true;
                    }
                }
                _ => {}
            }
        }
    }

    pub(super) fn submitted(&mut self, token: Token, submit: Submit, turn: &mut Turn) {
        match submit {
            Submit::Done(level) => self.session.done(token, Ok(level), &mut turn.actions),
            Submit::Refused(refusal) => {
                self.session.done(token, Err(refusal), &mut turn.actions);
            }
            Submit::Pending => {}
        }
    }

    pub(super) fn put_frame(&self, frame: &Frame, turn: &mut Turn) {
        let mut bytes = Vec::with_capacity(frame.headers.text_len() + frame.body.len() + 64);
        encode::encode(&mut bytes, frame, self.session.version());
        self.put(&bytes, turn);
    }

    /// Text of the server's own.
    fn put(&self, text: &[u8], turn: &mut Turn) {
        self.transport.put(&mut turn.scratch, true, text, b"");
        turn.speaks = true;
    }

    fn connected(&mut self) {
        let limits = &self.services.limits;
        self.decoder.set_limits(limits.wide);
        self.decoder.set_version(self.session.version());
        self.transport.set_limits(limits.wide_read);
    }

    /// Login takes its time elsewhere; the answer comes by the mailbox.
    fn authenticate(&self, headers: Headers) {
        let (services, mailbox) = (self.services.clone(), self.mailbox.clone());
        let address = self.place.address();
        tokio::spawn(async move {
            let result = services.authenticator.connect(&headers, address).await;
            mailbox.event(Event::Authenticated(result));
        });
    }

    pub(super) fn authenticated(
        &mut self,
        result: Result<Principal, AuthError>,
        now: Instant,
        turn: &mut Turn,
    ) {
        let result = result.and_then(|principal| {
            if self.place.take_user(&principal.name) {
                Ok(principal)
            } else {
                Err(AuthError::TooMany { retry_after: Duration::from_secs(60) })
            }
        });
        let expires = result.as_ref().ok().and_then(|principal| expiry(principal, now));
        self.session.authenticated(result, expires, now, &mut turn.actions);
    }

    pub(super) fn ping(&mut self, turn: &mut Turn) {
        if let Some(payload) = self.proofs.ping() {
            frame::write_ping(&mut turn.scratch, &payload);
        }
    }

    /// Messages of the user that the other side proved to have.
    pub(super) fn proven(&mut self, turn: &mut Turn) {
        let proven = self.proofs.take_proven();
        let read =
            proven.into_iter().filter_map(|(message, id)| Some((message.destination.clone(), id?)));
        self.session.proven(read, &mut turn.actions);
        self.perform(turn);
    }

    pub(super) fn ask_for_proof(&mut self, turn: &mut Turn) {
        if self.proofs.wants_asking()
            && let Some(open) = self.transport.unacknowledged()
        {
            self.proofs.acknowledged(u64::from(open));
            self.proven(turn);
        }
    }
}
