//! A table of keys and patterns of words, and what lies at each.
//!
//! Exact keys lie in a sharded map, so that those who look up different keys do not meet;
//! patterns lie in a trie of words that lookups only read. A lookup costs what it finds.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::destination::Topic;

const SHARDS: usize = 16;

/// What lies at a key or pattern; empty ones are taken out.
pub(super) trait Bucket: Default {
    fn is_empty(&self) -> bool;
}

/// The table.
#[derive(Debug)]
pub(super) struct Words<B> {
    hasher: RandomState,
    exact: Vec<RwLock<HashMap<Arc<str>, B>>>,
    patterns: RwLock<Node<B>>,
    /// Whether there are patterns: where there are none, nobody meets at their lock.
    has_patterns: AtomicBool,
}

/// A node of the trie: one word of a pattern leads to the next.
#[derive(Debug)]
struct Node<B> {
    words: HashMap<Box<str>, Self>,
    /// `*`
    one: Option<Box<Self>>,
    /// `#`
    any: Option<Box<Self>>,
    bucket: B,
}

impl<B: Bucket> Default for Node<B> {
    fn default() -> Self {
        Self { words: HashMap::new(), one: None, any: None, bucket: B::default() }
    }
}

impl<B: Bucket> Words<B> {
    pub(super) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            exact: (0..SHARDS).map(|_| RwLock::default()).collect(),
            patterns: RwLock::default(),
            has_patterns: AtomicBool::new(false),
        }
    }

    /// Changes what lies at that key or pattern, made where it is missing.
    pub(super) fn change(&self, topic: &Topic, change: impl FnOnce(&mut B)) {
        if topic.is_wildcard() {
            let mut root = self.patterns.write().unwrap_or_else(PoisonError::into_inner);
            let words: Vec<&str> = topic.key().split('.').collect();
            root.change(&words, change);
            // Who was told that the pattern is there looks for it from then on.
            self.has_patterns.store(!root.is_empty(), Ordering::Release);
        } else if let Some(shard) = self.shard(topic.key()) {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            let bucket = shard.entry(topic.key().clone()).or_default();
            change(bucket);
            if bucket.is_empty() {
                shard.remove(topic.key());
            }
        }
    }

    /// Shows what lies at that key, and at each pattern that matches it, once. Whoever looks
    /// holds the table's lock meanwhile.
    pub(super) fn look_up(&self, key: &str, mut found: impl FnMut(&B)) {
        if let Some(shard) = self.shard(key) {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(bucket) = shard.get(key) {
                found(bucket);
            }
        }
        if !self.has_patterns.load(Ordering::Acquire) {
            return;
        }
        let root = self.patterns.read().unwrap_or_else(PoisonError::into_inner);
        let words: Vec<&str> = key.split('.').collect();
        let mut search = Search { found: Vec::new(), entered: HashSet::new() };
        search.visit(&root, &words);
        search.found.into_iter().for_each(found);
    }

    fn shard(&self, key: &str) -> Option<&RwLock<HashMap<Arc<str>, B>>> {
        let hash = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        self.exact.get(hash)
    }
}

impl<B: Bucket> Node<B> {
    fn is_empty(&self) -> bool {
        self.words.is_empty() && self.one.is_none() && self.any.is_none() && self.bucket.is_empty()
    }

    /// Changes the bucket at the end of the words; nodes that are empty then go.
    fn change(&mut self, words: &[&str], change: impl FnOnce(&mut B)) {
        let Some((word, rest)) = words.split_first() else { return change(&mut self.bucket) };
        match *word {
            "*" => {
                let child = self.one.get_or_insert_default();
                child.change(rest, change);
                if child.is_empty() {
                    self.one = None;
                }
            }
            "#" => {
                let child = self.any.get_or_insert_default();
                child.change(rest, change);
                if child.is_empty() {
                    self.any = None;
                }
            }
            word => {
                let child = self.words.entry(word.into()).or_default();
                child.change(rest, change);
                if child.is_empty() {
                    self.words.remove(word);
                }
            }
        }
    }
}

/// A walk through the trie. A `#` is entered once for each number of words left, whichever way
/// leads there, so that a pattern of many `#` costs words times nodes and not their power.
struct Search<'a, B> {
    found: Vec<&'a B>,
    entered: HashSet<(usize, usize)>,
}

impl<'a, B: Bucket> Search<'a, B> {
    fn visit(&mut self, node: &'a Node<B>, words: &[&str]) {
        if let Some(any) = &node.any {
            // `#` stands for none, one or more words.
            for skipped in 0..=words.len() {
                let rest = words.get(skipped..).unwrap_or_default();
                if self.entered.insert((std::ptr::from_ref(&**any).addr(), rest.len())) {
                    self.visit(any, rest);
                }
            }
        }
        let Some((word, rest)) = words.split_first() else {
            if !node.bucket.is_empty() {
                self.found.push(&node.bucket);
            }
            return;
        };
        if let Some(one) = &node.one {
            self.visit(one, rest);
        }
        if let Some(next) = node.words.get(*word) {
            self.visit(next, rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Bucket for Vec<u32> {
        fn is_empty(&self) -> bool {
            Self::is_empty(self)
        }
    }

    fn found(table: &Words<Vec<u32>>, key: &str) -> Vec<u32> {
        let mut all = Vec::new();
        table.look_up(key, |bucket| all.extend(bucket));
        all.sort_unstable();
        all
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
            let table = Words::new();
            let topic = Topic::from_key(pattern);
            table.change(&topic, |bucket: &mut Vec<u32>| bucket.push(1));
            assert_eq!(!found(&table, key).is_empty(), expected, "{pattern} {key}");
            table.change(&topic, Vec::clear);
            assert!(found(&table, key).is_empty(), "{pattern} {key}");
            assert!(table.patterns.read().unwrap().is_empty());
        }
    }

    #[test]
    fn many_wildcards_cost_little_and_match_once() {
        let table = Words::new();
        let patterns = [vec!["#.a"; 60].join("."), vec!["#"; 100].join(".")];
        for (number, pattern) in (1..).zip(patterns) {
            table.change(&Topic::from_key(&pattern), |bucket: &mut Vec<u32>| bucket.push(number));
        }
        assert_eq!(found(&table, &vec!["a"; 120].join(".")), [1, 2]);
    }

    #[test]
    fn a_literal_key_has_no_wildcards() {
        let table = Words::new();
        let star = Topic::literal(&Arc::from("a.*"));
        table.change(&star, |bucket: &mut Vec<u32>| bucket.push(1));
        assert!(found(&table, "a.b").is_empty());
        assert_eq!(found(&table, "a.*"), [1]);
    }
}
