//! What the machine tells its driver to do.

use std::sync::Arc;

use bytes::Bytes;

use crate::destination::UserDestination;
use crate::message::Message;
use crate::persistence::{UnreadId, Which};
use crate::relay::mailbox::{SubscriptionNumber, Token};
use crate::relay::origin::{Declaration, Place};
use crate::relay::{Settlement, SubscribeRequest};
use crate::stomp::{Frame, Headers};

/// One thing to do. Actions are performed in order.
#[derive(Debug)]
pub enum Action {
    /// A frame of the server's own.
    Send(Frame),
    /// A message that was stored, with what only this delivery has.
    Deliver {
        head: Vec<u8>,
        message: Arc<Message>,
        own_id: bool,
        after: After,
    },
    /// A frame that is encoded already.
    Written(Vec<u8>),
    /// Decide who a CONNECT comes from; `Session::authenticated` is the answer.
    Authenticate(Headers),
    /// The session is connected: the wider limits hold now.
    Connected,
    /// To a queue, a topic or an exchange; `Session::done` is the answer.
    Publish {
        token: Token,
        message: Arc<Message>,
        /// What its queue is, where it is missing and the SEND says so.
        declare: Option<Box<Declaration>>,
    },
    /// To a user; `Session::done` is the answer. `never`: it is not to be kept.
    SendToUser {
        token: Token,
        message: Arc<Message>,
        never: bool,
    },
    /// `Session::done` is the answer.
    Subscribe {
        token: Token,
        request: SubscribeRequest,
    },
    /// `Session::event` with `Event::ReplyQueue` is the answer.
    OpenReplyQueue {
        subscription: SubscriptionNumber,
    },
    /// With a token where the client waits for the end of it.
    Unsubscribe {
        token: Option<Token>,
        subscription: SubscriptionNumber,
        place: Place,
        /// The queue goes too, where it was the subscription's own.
        delete: bool,
    },
    Settle {
        subscription: SubscriptionNumber,
        queue: Arc<str>,
        tags: Vec<u64>,
        settlement: Settlement,
    },
    /// `Session::done` is the answer.
    SubscribeUser {
        token: Token,
        subscription: SubscriptionNumber,
        to: UserDestination,
    },
    UnsubscribeUser {
        subscription: SubscriptionNumber,
        to: UserDestination,
    },
    /// The next stored messages, or presence; once everything before it is written.
    Replay {
        subscription: SubscriptionNumber,
        to: UserDestination,
        after: UnreadId,
        limit: u32,
    },
    /// One page of all stored messages.
    Page {
        subscription: SubscriptionNumber,
        after: UnreadId,
        limit: u32,
    },
    /// Forget stored messages; where there is a token `Session::done` is the answer.
    MarkRead {
        which: Which,
        request: Bytes,
        token: Option<Token>,
    },
    /// Keep messages of the user that a subscription did not acknowledge.
    Restore(Vec<Arc<Message>>),
    /// A line end between frames.
    HeartBeat,
    /// A WebSocket PING.
    Ping,
    /// The connection is over; nothing follows.
    Close {
        code: u16,
        reason: &'static str,
    },
}

impl Action {
    /// Whether it writes something; nothing is written after the end.
    #[must_use]
    pub const fn is_output(&self) -> bool {
        matches!(
            self,
            Self::Send(_) | Self::Written(_) | Self::Deliver { .. } | Self::HeartBeat | Self::Ping
        )
    }
}

/// A MESSAGE about to be written: the head that the machine wrote, then the message's tail.
#[derive(Debug)]
pub struct Outgoing {
    pub message: Arc<Message>,
    /// The head has a message-id of its own.
    pub own_id: bool,
    pub after: After,
}

/// What follows once the message is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum After {
    Nothing,
    /// The kernel took it: `Session::written`.
    Settle {
        subscription: SubscriptionNumber,
        queue: Arc<str>,
        tag: u64,
    },
    /// The other side proved to have it: `Session::proven`; else it is kept as unread, unless it
    /// is kept already.
    Prove {
        unread_id: Option<UnreadId>,
    },
}
