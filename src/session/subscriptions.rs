//! The subscriptions of one session.

use std::sync::Arc;

use crate::destination::UserDestination;
use crate::persistence::UnreadId;
use crate::relay::AckMode;
use crate::relay::mailbox::SubscriptionNumber;
use crate::relay::origin::Place;
use crate::stomp::encode::encode_header;
use crate::stomp::{Command, Version};

/// What a subscription is fed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Feed {
    /// The broker: a queue, a topic or an exchange.
    Broker(Place),
    /// Answers to this session; with the queue's name once it has one.
    Answers(Option<Arc<str>>),
    /// The user's messages. `after` while stored ones come first.
    User { to: UserDestination, replay: Option<Replaying> },
    /// This session's own refusals.
    Errors,
    /// One page of everything unread; `left` shrinks as it is written.
    Page,
}

/// Where a replay stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Replaying {
    pub(super) after: UnreadId,
    /// The SUBSCRIBE's, answered when the last stored message is out.
    pub(super) receipt: Option<String>,
}

#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) number: SubscriptionNumber,
    /// The client's name for it; 1.0 may have none.
    pub(super) id: Option<String>,
    /// The destination as the client wrote it, by which 1.0 may UNSUBSCRIBE.
    pub(super) text: String,
    pub(super) feed: Feed,
    pub(super) ack: AckMode,
    /// The `subscription` line, encoded.
    pub(super) line: Box<[u8]>,
}

/// In the order in which they were made, which is the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    list: Vec<Subscription>,
    next: SubscriptionNumber,
}

impl Subscriptions {
    pub(super) fn add(
        &mut self,
        id: Option<&str>,
        text: &str,
        feed: Feed,
        ack: AckMode,
        version: Version,
    ) -> &mut Subscription {
        let number = self.next;
        // Numbers are not used again: what lies in the mailbox for an old one must not reach a
        // new one.
        self.next += 1;
        let mut line = Vec::new();
        if let Some(id) = id {
            encode_header(&mut line, "subscription", id, Command::Message, version);
        }
        let place = self.list.len();
        self.list.push(Subscription {
            number,
            id: id.map(str::to_owned),
            text: text.to_owned(),
            feed,
            ack,
            line: line.into_boxed_slice(),
        });
        &mut self.list[place]
    }

    pub(super) fn get(&self, number: SubscriptionNumber) -> Option<&Subscription> {
        self.place(number).and_then(|place| self.list.get(place))
    }

    pub(super) fn get_mut(&mut self, number: SubscriptionNumber) -> Option<&mut Subscription> {
        self.place(number).and_then(|place| self.list.get_mut(place))
    }

    pub(super) fn by_id(&self, id: &str) -> Option<&Subscription> {
        self.list.iter().find(|subscription| subscription.id.as_deref() == Some(id))
    }

    /// The one without an id for a destination (1.0).
    pub(super) fn by_text(&self, text: &str) -> Option<&Subscription> {
        self.list.iter().find(|sub| sub.id.is_none() && sub.text == text)
    }

    pub(super) fn errors(&self) -> Option<&Subscription> {
        self.list.iter().find(|subscription| subscription.feed == Feed::Errors)
    }

    pub(super) fn remove(&mut self, number: SubscriptionNumber) -> Option<Subscription> {
        self.place(number).map(|place| self.list.remove(place))
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Empties the list.
    pub(super) fn take(&mut self) -> Vec<Subscription> {
        std::mem::take(&mut self.list)
    }

    fn place(&self, number: SubscriptionNumber) -> Option<usize> {
        self.list.binary_search_by_key(&number, |subscription| subscription.number).ok()
    }
}
