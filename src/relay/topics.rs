//! Who subscribes which topic in this process.
//!
//! Subscriptions to one exact key lie in a sharded map, so that publishers of different topics
//! do not meet; patterns lie in a trie of words that publishers only read. A publish costs what
//! its matching subscribers cost. Lock order: this table, then a mailbox; never the other way.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, PoisonError, RwLock};

use super::mailbox::{Entry, Mailbox, SubscriptionNumber};
use crate::destination::Topic;
use crate::message::Message;

const SHARDS: usize = 16;

/// The table. All calls are synchronous and short.
#[derive(Debug)]
pub struct Topics {
    hasher: RandomState,
    exact: Vec<RwLock<HashMap<Arc<str>, Group>>>,
    patterns: RwLock<Node>,
}

/// The subscribers of one key or pattern.
#[derive(Debug, Default)]
struct Group {
    members: Vec<Member>,
    places: HashMap<(u64, SubscriptionNumber), usize>,
}

#[derive(Debug)]
struct Member {
    mailbox: Arc<Mailbox>,
    subscription: SubscriptionNumber,
}

/// A node of the trie: one word of a pattern leads to the next.
#[derive(Debug, Default)]
struct Node {
    words: HashMap<Box<str>, Self>,
    /// `*`
    one: Option<Box<Self>>,
    /// `#`
    any: Option<Box<Self>>,
    group: Group,
}

impl Default for Topics {
    fn default() -> Self {
        Self::new()
    }
}

impl Topics {
    #[must_use]
    pub fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            exact: (0..SHARDS).map(|_| RwLock::default()).collect(),
            patterns: RwLock::default(),
        }
    }

    /// Adds a subscription; a session's subscription numbers are its own to keep apart.
    pub fn subscribe(&self, topic: &Topic, to: &Arc<Mailbox>, subscription: SubscriptionNumber) {
        let member = Member { mailbox: to.clone(), subscription };
        if topic.is_wildcard() {
            let mut root = self.patterns.write().unwrap_or_else(PoisonError::into_inner);
            root.at(topic.key()).group.add(member);
        } else if let Some(shard) = self.shard(topic.key()) {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            shard.entry(topic.key().clone()).or_default().add(member);
        }
    }

    /// Takes a subscription out; one that is not there is fine.
    pub fn unsubscribe(&self, topic: &Topic, session: u64, subscription: SubscriptionNumber) {
        if topic.is_wildcard() {
            let mut root = self.patterns.write().unwrap_or_else(PoisonError::into_inner);
            let words: Vec<&str> = topic.key().split('.').collect();
            root.remove(&words, session, subscription);
        } else if let Some(shard) = self.shard(topic.key()) {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(group) = shard.get_mut(topic.key()) {
                group.remove(session, subscription);
                if group.members.is_empty() {
                    shard.remove(topic.key());
                }
            }
        }
    }

    /// Puts the message into the mailbox of each subscriber of that key. Returns how many took it.
    pub fn publish(&self, key: &str, message: &Arc<Message>) -> usize {
        let mut receivers = 0;
        if let Some(shard) = self.shard(key) {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(group) = shard.get(key) {
                receivers += group.push(message);
            }
        }
        let root = self.patterns.read().unwrap_or_else(PoisonError::into_inner);
        if !root.is_empty() {
            let words: Vec<&str> = key.split('.').collect();
            receivers += root.publish(&words, message);
        }
        receivers
    }

    fn shard(&self, key: &str) -> Option<&RwLock<HashMap<Arc<str>, Group>>> {
        let hash = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        self.exact.get(hash)
    }
}

impl Group {
    fn add(&mut self, member: Member) {
        let key = (member.mailbox.session(), member.subscription);
        self.places.insert(key, self.members.len());
        self.members.push(member);
    }

    fn remove(&mut self, session: u64, subscription: SubscriptionNumber) {
        let Some(place) = self.places.remove(&(session, subscription)) else { return };
        self.members.swap_remove(place);
        if let Some(moved) = self.members.get(place) {
            self.places.insert((moved.mailbox.session(), moved.subscription), place);
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

impl Node {
    fn is_empty(&self) -> bool {
        self.words.is_empty()
            && self.one.is_none()
            && self.any.is_none()
            && self.group.members.is_empty()
    }

    /// The node of a pattern, made where it is missing.
    fn at(&mut self, pattern: &str) -> &mut Self {
        pattern.split('.').fold(self, |node, word| match word {
            "*" => node.one.get_or_insert_default(),
            "#" => node.any.get_or_insert_default(),
            _ => node.words.entry(word.into()).or_default(),
        })
    }

    /// Removes a subscription and the nodes that nobody needs any more.
    fn remove(&mut self, words: &[&str], session: u64, subscription: SubscriptionNumber) {
        let Some((word, rest)) = words.split_first() else {
            self.group.remove(session, subscription);
            return;
        };
        let prune = |child: &mut Self| {
            child.remove(rest, session, subscription);
            child.is_empty()
        };
        match *word {
            "*" => {
                if self.one.as_deref_mut().is_some_and(prune) {
                    self.one = None;
                }
            }
            "#" => {
                if self.any.as_deref_mut().is_some_and(prune) {
                    self.any = None;
                }
            }
            word => {
                if self.words.get_mut(word).is_some_and(prune) {
                    self.words.remove(word);
                }
            }
        }
    }

    /// Every pattern that matches gets the message once, however many ways it matches.
    fn publish(&self, words: &[&str], message: &Arc<Message>) -> usize {
        let mut found = Vec::new();
        self.collect(words, &mut found);
        found.sort_unstable_by_key(|group| std::ptr::from_ref(*group));
        found.dedup_by_key(|group| std::ptr::from_ref(*group));
        found.into_iter().map(|group| group.push(message)).sum()
    }

    fn collect<'a>(&'a self, words: &[&str], found: &mut Vec<&'a Group>) {
        if let Some(any) = &self.any {
            // `#` stands for none, one or more words.
            for skipped in 0..=words.len() {
                any.collect(words.get(skipped..).unwrap_or_default(), found);
            }
        }
        let Some((word, rest)) = words.split_first() else {
            if !self.group.members.is_empty() {
                found.push(&self.group);
            }
            return;
        };
        if let Some(one) = &self.one {
            one.collect(rest, found);
        }
        if let Some(next) = self.words.get(*word) {
            next.collect(rest, found);
        }
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
        Arc::new(Message::new(destination, String::new(), Headers::default(), Bytes::new()))
    }

    #[test]
    fn matching() {
        let cases = [
            ("a.b", "a.b", true),
            ("a.b", "a.c", false),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("a.#", "a", true),
            ("a.#", "a.b.c", true),
            ("#", "a.b", true),
            ("#.c", "a.b.c", true),
            ("#.b", "a.b.c", false),
            ("*.*", "a.b", true),
            ("#.#.#", "a.b.c", true),
            ("a.#.c.#", "a.c.c.c", true),
        ];
        for (pattern, key, expected) in cases {
            let topics = Topics::new();
            let to = mailbox(1);
            let topic = Topic::from_key(pattern);
            topics.subscribe(&topic, &to, 1);
            assert_eq!(topics.publish(key, &message()), usize::from(expected), "{pattern} {key}");
            topics.unsubscribe(&topic, 1, 1);
            assert_eq!(topics.publish(key, &message()), 0, "{pattern} {key}");
            assert!(topics.patterns.read().unwrap().is_empty());
        }
    }

    #[test]
    fn removing_one_leaves_the_others() {
        for pattern in ["a.b", "a.*"] {
            let topics = Topics::new();
            let topic = Topic::from_key(pattern);
            let boxes: Vec<_> = (0..5).map(mailbox).collect();
            for to in &boxes {
                topics.subscribe(&topic, to, 1);
                topics.subscribe(&topic, to, 2);
            }
            topics.unsubscribe(&topic, 0, 1);
            topics.unsubscribe(&topic, 3, 2);
            topics.unsubscribe(&topic, 9, 9);
            assert_eq!(topics.publish("a.b", &message()), 8);
            let depths: Vec<usize> = boxes.iter().map(|to| to.depth().0).collect();
            assert_eq!(depths, [1, 2, 2, 1, 2]);
        }
    }
}
