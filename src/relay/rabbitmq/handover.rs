//! Hands on what came from the node's queue, in bursts.
//!
//! Messages to one topic that came together are put into a mailbox together: it is locked and its
//! session woken once. Where a mailbox is more than half full nothing is taken from RabbitMQ until
//! it is emptier, or its session has shown that it does not get on: RabbitMQ is faster than many
//! sessions together, and nobody who reads is to be taken for slow.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use lapin::types::ShortString;
use tokio::time::{Instant, timeout_at};

use crate::message::Message;
use crate::relay::mailbox::{Mailbox, MailboxLimits};
use crate::relay::topics::Topics;

/// What is handed on at once. A mailbox that is not half full has room for more than that.
const FRAMES: usize = 32;
const BYTES: usize = 64 * 1024;
/// As long as a session that sends waits for a receiver that has too much.
const PATIENCE: Duration = Duration::from_millis(200);

/// What is about to be handed on.
#[derive(Debug)]
pub(super) struct Handover<'a> {
    topics: &'a Topics,
    /// The topic of those that are gathered.
    key: ShortString,
    messages: Vec<Arc<Message>>,
    bytes: usize,
    /// A receiver that has too much, and of what.
    crowded: Option<(ShortString, Arc<Mailbox>)>,
    /// Is told when it has not.
    waiter: Arc<Mailbox>,
}

impl<'a> Handover<'a> {
    pub(super) fn new(topics: &'a Topics) -> Self {
        // Nobody sends messages to it.
        let limits = MailboxLimits { frames: 0, bytes: 0 };
        Self {
            topics,
            key: ShortString::default(),
            messages: Vec::new(),
            bytes: 0,
            crowded: None,
            waiter: Mailbox::new(u64::MAX, limits),
        }
    }

    /// Adds a message. What goes elsewhere or does not fit is handed on first.
    pub(super) fn add(&mut self, key: ShortString, message: Message) {
        if self.key != key || self.messages.len() >= FRAMES || self.bytes >= BYTES {
            self.flush();
            self.key = key;
        }
        self.bytes += message.size();
        self.messages.push(Arc::new(message));
    }

    /// Hands on what is gathered.
    pub(super) fn flush(&mut self) {
        if self.messages.is_empty() {
            return;
        }
        let crowded = self.topics.publish_together(self.key.as_str(), &self.messages.iter());
        if self.crowded.is_none() {
            self.crowded = crowded.map(|crowded| (self.key.clone(), crowded));
        }
        self.messages.clear();
        self.bytes = 0;
    }

    /// Whether somebody has too much, so that there should be no more for now.
    pub(super) fn is_crowded(&self) -> bool {
        self.crowded.is_some()
    }

    /// Waits for all who have too much, but not for ever.
    pub(super) async fn wait(&mut self) {
        let Some((key, mut crowded)) = self.crowded.take() else { return };
        let deadline = Instant::now() + PATIENCE;
        loop {
            if crowded.wait_for_room(&self.waiter) {
                let room = poll_fn(|cx| self.waiter.poll_take(cx, 0, None));
                if timeout_at(deadline, room).await.is_err() {
                    crowded.give_up();
                }
            }
            // Nothing is published: it says who else has too much.
            let none = std::iter::empty::<&Arc<Message>>();
            let Some(next) = self.topics.publish_together(key.as_str(), &none) else { return };
            crowded = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::{Destination, Topic};
    use crate::relay::mailbox::Entry;
    use crate::stomp::Headers;
    use bytes::Bytes;
    use std::task::{Context, Waker};

    fn message(body: usize) -> Message {
        let destination = Destination::for_send("/topic/x").unwrap();
        Message::new(destination, "".into(), Headers::default(), Bytes::from(vec![0; body]))
    }

    fn subscriber(topics: &Topics, key: &str) -> Arc<Mailbox> {
        let mailbox = Mailbox::new(1, MailboxLimits { frames: 8, bytes: 1 << 20 });
        topics.subscribe(&Topic::from_key(key), &mailbox, 1);
        mailbox
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_all_together() {
        let topics = Topics::new();
        let mailboxes = [1, 2, 3].map(|_| subscriber(&topics, "a"));
        let mut handover = Handover::new(&topics);
        for _ in 0..5 {
            handover.add(ShortString::from("a"), message(1));
        }
        // Another topic, where nobody has too much.
        handover.add(ShortString::from("b"), message(1));
        handover.flush();
        let began = Instant::now();
        let mut wait = Box::pin(handover.wait());
        for mailbox in &mailboxes[..2] {
            assert!(tokio::time::timeout(PATIENCE / 4, &mut wait).await.is_err());
            assert_eq!(take(mailbox).len(), 5);
        }
        wait.await;
        assert_eq!(began.elapsed(), PATIENCE);
    }

    fn take(mailbox: &Mailbox) -> Vec<Entry> {
        let mut taken = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        let _signals = mailbox.poll_take(&mut cx, usize::MAX, Some(&mut taken));
        taken
    }

    #[test]
    fn gathers_what_goes_to_one_topic() {
        let topics = Topics::new();
        let (a, b) = (subscriber(&topics, "a"), subscriber(&topics, "b"));
        let mut handover = Handover::new(&topics);
        let mut depths = |key: &str, bytes| {
            handover.add(ShortString::from(key), message(bytes));
            (a.depth().0, b.depth().0)
        };
        assert_eq!(depths("a", 1), (0, 0));
        assert_eq!(depths("a", 1), (0, 0));
        assert_eq!(depths("b", BYTES), (2, 0));
        assert_eq!(depths("b", 1), (2, 1));
        assert_eq!(depths("a", 1), (2, 2));
        handover.flush();
        assert_eq!((a.depth().0, b.depth().0), (3, 2));
        assert!(!handover.is_crowded());
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_who_gets_on_and_not_for_ever_for_who_does_not() {
        let topics = Topics::new();
        let mailbox = subscriber(&topics, "a");
        let mut handover = Handover::new(&topics);
        let add = |handover: &mut Handover<'_>, count| {
            (0..count).for_each(|_| handover.add(ShortString::from("a"), message(1)));
            handover.flush();
        };
        add(&mut handover, 5);
        assert!(handover.is_crowded());
        let began = Instant::now();
        let mut wait = Box::pin(handover.wait());
        let early = tokio::time::timeout(PATIENCE / 2, &mut wait).await;
        assert!(early.is_err());
        assert_eq!(take(&mailbox).len(), 5);
        wait.await;
        assert_eq!(began.elapsed(), PATIENCE / 2);

        add(&mut handover, 5);
        handover.wait().await;
        assert_eq!(began.elapsed(), PATIENCE / 2 + PATIENCE);
        // It is slow, and nobody waits for it again before it has got on.
        add(&mut handover, 1);
        assert!(!handover.is_crowded());
        assert_eq!(take(&mailbox).len(), 6);
        add(&mut handover, 5);
        assert!(handover.is_crowded());
    }
}
