//! Who subscribes which topic in this process.
//!
//! A publish costs what its matching subscribers cost. Lock order: this table, then a mailbox;
//! never the other way.

use std::collections::HashMap;
use std::sync::Arc;

use super::mailbox::{Entry, Mailbox, SubscriptionNumber};
use super::words::{Bucket, Words};
use crate::destination::Topic;
use crate::message::Message;

/// The table. All calls are synchronous and short.
#[derive(Debug)]
pub struct Topics {
    words: Words<Group>,
}

/// The subscribers of one key or pattern.
#[derive(Debug, Default)]
struct Group {
    members: Vec<Member>,
    /// Where each one is, once there are too many to look for it: most topics have few.
    places: Option<Box<Places>>,
}

type Places = HashMap<(u64, SubscriptionNumber), usize>;

/// So many members are looked through.
const FEW: usize = 16;

#[derive(Debug)]
struct Member {
    mailbox: Arc<Mailbox>,
    subscription: SubscriptionNumber,
}

impl Default for Topics {
    fn default() -> Self {
        Self::new()
    }
}

impl Topics {
    #[must_use]
    pub fn new() -> Self {
        Self { words: Words::new() }
    }

    /// Adds a subscription; a session's subscription numbers are its own to keep apart.
    pub fn subscribe(&self, topic: &Topic, to: &Arc<Mailbox>, subscription: SubscriptionNumber) {
        let member = Member { mailbox: to.clone(), subscription };
        self.words.change(topic, |group| group.add(member));
    }

    /// Takes a subscription out; one that is not there is fine.
    pub fn unsubscribe(&self, topic: &Topic, session: u64, subscription: SubscriptionNumber) {
        self.words.change(topic, |group| group.remove(session, subscription));
    }

    /// Puts the message into the mailbox of each subscriber of that key. Returns how many took it.
    pub fn publish(&self, key: &str, message: &Arc<Message>) -> usize {
        let mut receivers = 0;
        self.words.look_up(key, |group| receivers += group.push(message));
        receivers
    }

    /// The same for several messages: a mailbox is locked and its session woken once. Returns one
    /// that the sender should wait for, where there is one.
    pub fn publish_together<'a>(
        &self,
        key: &str,
        messages: &(impl Iterator<Item = &'a Arc<Message>> + Clone),
    ) -> Option<Arc<Mailbox>> {
        let mut crowded = None;
        self.words.look_up(key, |group| {
            for Member { mailbox, subscription } in &group.members {
                let entries = messages.clone().map(|message| Entry::Shared {
                    message: message.clone(),
                    subscription: *subscription,
                });
                // Where the session is gone or about to be, what is left goes nowhere.
                if mailbox.push_all(entries) == Ok(true) && crowded.is_none() {
                    crowded = Some(mailbox.clone());
                }
            }
        });
        crowded
    }
}

impl Bucket for Group {
    fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

impl Member {
    fn key(&self) -> (u64, SubscriptionNumber) {
        (self.mailbox.session(), self.subscription)
    }
}

impl Group {
    fn add(&mut self, member: Member) {
        if self.members.is_empty() {
            // One of its own is what most topics get.
            self.members.reserve_exact(1);
        }
        if let Some(places) = &mut self.places {
            places.insert(member.key(), self.members.len());
        } else if self.members.len() == FEW {
            let all = self.members.iter().chain([&member]).enumerate();
            let places = all.map(|(place, member)| (member.key(), place)).collect();
            self.places = Some(Box::new(places));
        }
        self.members.push(member);
    }

    fn remove(&mut self, session: u64, subscription: SubscriptionNumber) {
        let key = (session, subscription);
        let place = match &mut self.places {
            Some(places) => places.remove(&key),
            None => self.members.iter().position(|member| member.key() == key),
        };
        let Some(place) = place else { return };
        self.members.swap_remove(place);
        if let (Some(moved), Some(places)) = (self.members.get(place), &mut self.places) {
            places.insert(moved.key(), place);
        }
    }

    fn push(&self, message: &Arc<Message>) -> usize {
        let taken = self.members.iter().filter(|member| {
            let entry =
                Entry::Shared { message: message.clone(), subscription: member.subscription };
            member.mailbox.push(entry).is_ok()
        });
        taken.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::Destination;
    use crate::relay::mailbox::MailboxLimits;
    use crate::stomp::Headers;
    use bytes::Bytes;

    fn mailbox(session: u64) -> Arc<Mailbox> {
        Mailbox::new(session, MailboxLimits { frames: 1000, bytes: 1 << 20 })
    }

    fn message() -> Arc<Message> {
        let destination = Destination::for_send("/topic/x").unwrap();
        Arc::new(Message::new(destination, "".into(), Headers::default(), Bytes::new()))
    }

    #[test]
    fn a_subscription_gets_what_its_topic_gets() {
        let topics = Topics::new();
        let to = mailbox(1);
        for (number, pattern) in (1..).zip(["a.b", "a.*", "a.#", "a.c"]) {
            topics.subscribe(&Topic::from_key(pattern), &to, number);
        }
        assert_eq!(topics.publish("a.b", &message()), 3);
        assert_eq!(topics.publish("a.b.c", &message()), 1);
        topics.unsubscribe(&Topic::from_key("a.#"), 1, 3);
        assert_eq!(topics.publish("a.b.c", &message()), 0);
    }

    #[test]
    fn removing_one_leaves_the_others() {
        // Few are looked through, many are found by their places.
        for (pattern, count) in [("a.b", 5), ("a.*", 5), ("a.b", 40), ("a.*", 40)] {
            let topics = Topics::new();
            let topic = Topic::from_key(pattern);
            let boxes: Vec<_> = (0..count).map(mailbox).collect();
            for to in &boxes {
                topics.subscribe(&topic, to, 1);
                topics.subscribe(&topic, to, 2);
            }
            topics.unsubscribe(&topic, 0, 1);
            topics.unsubscribe(&topic, 3, 2);
            topics.unsubscribe(&topic, count - 1, 1);
            topics.unsubscribe(&topic, 99, 9);
            let all = usize::try_from(count).unwrap() * 2 - 3;
            assert_eq!(topics.publish("a.b", &message()), all);
            let depths: Vec<usize> = boxes.iter().map(|to| to.depth().0).collect();
            assert!(depths.starts_with(&[1, 2, 2, 1]) && depths.ends_with(&[1]), "{depths:?}");
            assert_eq!(depths.iter().sum::<usize>(), all);
        }
    }
}
