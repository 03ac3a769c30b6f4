//! Patterns of destinations, for rules.
//!
//! A pattern is words, as [`Destination::words`] gives them: the kind, for a user destination
//! the user's name, then the words of the name. `*` is one word, `**` any number of words,
//! `{user}` the name of the user the question is about. Words are compared as they are, byte for
//! byte: nothing in a user's name or in a destination can act as a wildcard.
//!
//! `/user/queue/x` is short for `/user/{user}/queue/x`.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use crate::destination::{self, Destination, Topic};

/// Positions in a pattern are bits of one `u64`.
const MAX_WORDS: usize = 63;
/// How many states one question may look at before the answer is "not contained".
const MAX_STATES: usize = 4096;
/// What a destination can begin with.
const KINDS: [&str; 6] = ["queue", "topic", "exchange", "reply-queue", "user", "app"];
/// What comes after the name in a user destination.
const TARGETS: [&str; 3] = ["queue", "topic", "exchange"];

/// A set of destinations.
#[derive(Clone, PartialEq, Eq)]
pub struct Pattern {
    text: Arc<str>,
    words: Vec<Word>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    Literal(String),
    /// `*`
    One,
    /// `**`
    Many,
    /// `{user}`
    User,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(String);

impl Pattern {
    /// Reads a pattern: `/topic/room.*`, `/user/{user}/queue/**`, `/**`.
    ///
    /// # Errors
    /// Where the text is no pattern, or one that could never match.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let error = |what: String| PatternError(format!("'{}' {what}", text.escape_default()));
        let path = text.strip_prefix('/').ok_or_else(|| error("does not begin with /".into()))?;
        if text.len() > destination::MAX_BYTES {
            return Err(error(format!("has more than {} bytes", destination::MAX_BYTES)));
        }
        if text.chars().any(char::is_control) {
            return Err(error("has a control character".into()));
        }
        let (kind, rest) = path.split_once('/').map_or((path, None), |(k, r)| (k, Some(r)));
        let first = word(kind).map_err(error)?;
        if let Word::Literal(kind) = &first
            && !KINDS.contains(&kind.as_str())
        {
            return Err(error(format!("begins with none of /{}/", KINDS.join("/, /"))));
        }
        let is_many = first == Word::Many;
        let mut words = vec![first];
        match rest {
            Some(rest) if kind == "user" => user_words(&mut words, rest),
            Some(rest) if kind == "exchange" => exchange_words(&mut words, rest),
            Some(rest) if kind == "reply-queue" => one_word(&mut words, rest),
            Some(rest) => name_words(&mut words, rest, kind == "queue"),
            None if is_many => Ok(()),
            None => Err("ends after its kind; everything of a kind is /KIND/**".into()),
        }
        .map_err(error)?;
        if words.len() > MAX_WORDS {
            return Err(error(format!("has more than {MAX_WORDS} words")));
        }
        Ok(Self { text: Arc::from(text), words })
    }

    /// The text it was read from.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the destination is in the set; a wildcard one: whether all of it is.
    #[must_use]
    pub fn matches(&self, destination: &Destination, user: &str) -> bool {
        match destination {
            Destination::Topic(topic) if topic.is_wildcard() => self.contains_topics(topic, user),
            _ => {
                let words = destination.words();
                let end = words
                    .iter()
                    .fold(self.start(), |at, word| self.step(at, Symbol::Word(word), user));
                self.accepts(end)
            }
        }
    }

    /// Whether every destination that a SUBSCRIBE of `destination` can match is in the set.
    #[must_use]
    pub fn contains(&self, destination: &Destination, user: &str) -> bool {
        self.matches(destination, user)
    }

    /// Whether some destination that a SUBSCRIBE of `destination` can match is in the set.
    #[must_use]
    pub fn overlaps(&self, destination: &Destination, user: &str) -> bool {
        match destination {
            Destination::Topic(topic) if topic.is_wildcard() => self.overlaps_topics(topic, user),
            _ => self.matches(destination, user),
        }
    }

    /// Whether the pattern is about that kind of destination, among others perhaps.
    #[must_use]
    pub fn is_about(&self, kind: &str) -> bool {
        match self.words.first() {
            Some(Word::Literal(word)) => word == kind,
            _ => true,
        }
    }

    /// Walks all pairs of a place in the subscription and the set of places in the pattern that
    /// the same words lead to. A topic that ends the former and not the latter is the proof that
    /// it is not contained. Words the pattern does not name all behave alike, so that one stands
    /// for them.
    fn contains_topics(&self, topic: &Topic, user: &str) -> bool {
        let tokens = tokens(topic);
        let mut alphabet: Vec<Symbol<'_>> =
            self.words.iter().filter_map(|word| literal(word, user)).map(Symbol::Word).collect();
        alphabet.push(Symbol::Other);
        let start = (0_usize, self.step(self.start(), Symbol::Word("topic"), user), false);
        let mut seen = HashSet::from([start]);
        let mut open = vec![start];
        while let Some((at, places, begun)) = open.pop() {
            let Some(token) = tokens.get(at) else {
                // No topic is empty, so that an empty one proves nothing.
                if begun && !self.accepts(places) {
                    return false;
                }
                continue;
            };
            let mut next = |state| {
                if seen.insert(state) {
                    open.push(state);
                }
            };
            match token {
                Token::Word(word) => {
                    next((at + 1, self.step(places, Symbol::Word(word), user), true));
                }
                Token::One => {
                    for &symbol in &alphabet {
                        next((at + 1, self.step(places, symbol, user), true));
                    }
                }
                Token::Many => {
                    next((at + 1, places, begun));
                    for &symbol in &alphabet {
                        next((at, self.step(places, symbol, user), true));
                    }
                }
            }
            if seen.len() > MAX_STATES {
                return false;
            }
        }
        true
    }

    /// Walks all pairs of places that the same words lead to. Where both sets have the empty
    /// topic, which is none, they have all others too.
    fn overlaps_topics(&self, topic: &Topic, user: &str) -> bool {
        let tokens = tokens(topic);
        let mut seen = HashSet::new();
        let mut open = Vec::new();
        let after_kind = self.step(self.start(), Symbol::Word("topic"), user);
        for place in (0..=self.words.len()).filter(|place| after_kind & (1 << place) != 0) {
            open.push((0_usize, place));
        }
        while let Some((at, place)) = open.pop() {
            if !seen.insert((at, place)) {
                continue;
            }
            let (token, word) = (tokens.get(at), self.words.get(place));
            if token.is_none() && word.is_none() {
                return true;
            }
            if token == Some(&Token::Many) {
                open.push((at + 1, place));
            }
            if word == Some(&Word::Many) {
                open.push((at, place + 1));
            }
            let (Some(token), Some(word)) = (token, word) else { continue };
            let alike = match (token, literal(word, user)) {
                (Token::Word(own), Some(other)) => *own == other,
                _ => true,
            };
            if alike {
                let at = if *token == Token::Many { at } else { at + 1 };
                let place = if *word == Word::Many { place } else { place + 1 };
                open.push((at, place));
            }
        }
        false
    }

    fn start(&self) -> u64 {
        self.close(1)
    }

    fn accepts(&self, places: u64) -> bool {
        places & (1 << self.words.len()) != 0
    }

    /// Where one word leads from a set of places.
    fn step(&self, places: u64, symbol: Symbol<'_>, user: &str) -> u64 {
        let mut next = 0;
        for (place, word) in self.words.iter().enumerate() {
            if places & (1 << place) == 0 {
                continue;
            }
            next |= match (word, symbol) {
                (Word::Many, _) => 1 << place,
                (Word::One, _) => 2 << place,
                (Word::Literal(own), Symbol::Word(other)) if own == other => 2 << place,
                (Word::User, Symbol::Word(other)) if user == other => 2 << place,
                (Word::Literal(_) | Word::User, _) => 0,
            };
        }
        self.close(next)
    }

    /// `**` may also stand for nothing.
    fn close(&self, mut places: u64) -> u64 {
        for (place, word) in self.words.iter().enumerate() {
            if *word == Word::Many && places & (1 << place) != 0 {
                places |= 2 << place;
            }
        }
        places
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.text)
    }
}

/// A word of some topic, as the pattern sees it.
#[derive(Clone, Copy)]
enum Symbol<'a> {
    Word(&'a str),
    /// Any word that the pattern does not name.
    Other,
}

/// A word of a subscription.
#[derive(PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    One,
    Many,
}

fn tokens(topic: &Topic) -> Vec<Token<'_>> {
    let token = |word| match word {
        "*" => Token::One,
        "#" => Token::Many,
        _ => Token::Word(word),
    };
    topic.key().split('.').map(token).collect()
}

fn literal<'a>(word: &'a Word, user: &'a str) -> Option<&'a str> {
    match word {
        Word::Literal(text) => Some(text),
        Word::User => Some(user),
        Word::One | Word::Many => None,
    }
}

fn word(text: &str) -> Result<Word, String> {
    match text {
        "*" => Ok(Word::One),
        "**" | "#" => Ok(Word::Many),
        "{user}" => Ok(Word::User),
        _ if text.contains('*') => Err("has a * that is not a whole word".into()),
        _ if text.contains(['{', '}']) => Err("has braces; only {user} may have them, \
             any one word is *"
            .into()),
        _ => Ok(Word::Literal(destination::unescape(text))),
    }
}

/// The words of a name. Only a queue may have empty ones, since its name is free.
fn name_words(words: &mut Vec<Word>, rest: &str, empty: bool) -> Result<(), String> {
    if rest.is_empty() {
        return Err("ends with /; everything of a kind is /KIND/**".into());
    }
    for text in rest.split(['/', '.']) {
        if text.is_empty() && !empty {
            return Err("has an empty word".into());
        }
        words.push(word(text)?);
    }
    Ok(())
}

/// A name that is one word whatever dots it has.
fn one_word(words: &mut Vec<Word>, name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("ends with /; everything of a kind is /KIND/**".into());
    }
    words.push(word(name)?);
    Ok(())
}

/// The exchange's name, and the words of the key where there is one.
fn exchange_words(words: &mut Vec<Word>, rest: &str) -> Result<(), String> {
    let (name, key) = rest.split_once('/').map_or((rest, None), |(n, k)| (n, Some(k)));
    one_word(words, name)?;
    key.map_or(Ok(()), |key| name_words(words, key, true))
}

/// The user's name, which is one word whatever dots it has, and what follows.
fn user_words(words: &mut Vec<Word>, rest: &str) -> Result<(), String> {
    let (name, after) = rest.split_once('/').map_or((rest, None), |(n, a)| (n, Some(a)));
    if TARGETS.contains(&name) {
        words.push(Word::User);
        return name_words(words, rest, false);
    }
    let user = word(name)?;
    let is_many = user == Word::Many;
    if matches!(&user, Word::Literal(name) if !destination::is_user_name(name)) {
        return Err("names no possible user".into());
    }
    words.push(user);
    let Some(after) = after else {
        return if is_many { Ok(()) } else { Err("ends after the user's name".into()) };
    };
    let target = words.len();
    name_words(words, after, false)?;
    match words.get(target) {
        Some(Word::Literal(kind)) if !is_many && !TARGETS.contains(&kind.as_str()) => {
            Err(format!("has none of {}/ after the user's name", TARGETS.join("/, ")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn destination(text: &str) -> Destination {
        Destination::for_subscribe(text, "alice").or_else(|_| Destination::for_send(text)).unwrap()
    }

    #[test]
    fn matching() {
        let cases = [
            ("/**", "/queue/a", true),
            ("/*/a", "/queue/a", true),
            ("/queue/**", "/queue/a.b", true),
            ("/queue/**", "/topic/a", false),
            ("/queue/a", "/queue/a", true),
            ("/queue/a", "a", true),
            ("/queue/a", "/queue/A", false),
            ("/queue/a..b", "/queue/a..b", true),
            ("/queue/*", "/queue/a.b", false),
            ("/queue/a%2Fb", "/queue/a%2Fb", true),
            ("/queue/%2e", "/queue/%2e", true),
            ("/topic/room.*", "/topic/room/7", true),
            ("/topic/room/*", "/topic/room.7", true),
            ("/topic/room.*", "/topic/room", false),
            ("/topic/room.**", "/topic/room", true),
            ("/topic/**.end", "/topic/a.b.end", true),
            ("/topic/**.end", "/topic/a.b.end.c", false),
            ("/topic/#", "/topic/a.b", true),
            ("/app/unread/**", "/app/unread/read", true),
            ("/user/{user}/queue/**", "/user/queue/x", true),
            ("/user/queue/x", "/user/queue/x", true),
            ("/user/queue/x", "/user/bob/queue/x", false),
            ("/user/*/queue/x", "/user/bob/queue/x", true),
            ("/user/**", "/user/bob/topic/x", true),
            ("/user/b.c/queue/x", "/user/b.c/queue/x", true),
            ("/user/*/queue/x", "/user/b.c/queue/x", true),
            ("/topic/{user}.x", "/topic/alice.x", true),
            ("/topic/{user}.x", "/topic/bob.x", false),
            ("/queue/a", "/amq/queue/a", true),
            ("/queue/a", "/reply-queue/a", true),
            ("/queue/**", "/reply-queue/amq.gen-a", false),
            ("/reply-queue/**", "/reply-queue/amq.gen-a", true),
            ("/reply-queue/amq.gen-a", "/reply-queue/amq.gen-a", true),
            ("/exchange/e.f", "/exchange/e.f", true),
            ("/exchange/e.f", "/exchange/e.f/k", false),
            ("/exchange/e.f/**", "/exchange/e.f", true),
            ("/exchange/e.f/a.*", "/exchange/e.f/a.b", true),
            ("/exchange/*/k", "/exchange/e.f/k", true),
            ("/exchange/**", "/exchange/e/a.b", true),
        ];
        for (pattern, text, expected) in cases {
            let pattern = Pattern::parse(pattern).unwrap();
            assert_eq!(pattern.matches(&destination(text), "alice"), expected, "{pattern} {text}");
        }
    }

    /// User names that would mean something to a pattern or a regular expression.
    #[test]
    fn a_user_name_is_never_a_wildcard() {
        let own = Pattern::parse("/topic/users.{user}").unwrap();
        for user in [".*", "a|b", "[a-z", "-", "*", "#", "**", "{user}", "a.b", ">"] {
            for other in ["/topic/users.bob", "/topic/users.*", "/topic/users.#", "/topic/#"] {
                assert!(!own.contains(&destination(other), user), "{user} {other}");
            }
            let pattern = Pattern::parse("/user/{user}/queue/x").unwrap();
            let theirs = Destination::for_send("/user/bob/queue/x").unwrap();
            assert!(!pattern.matches(&theirs, user), "{user}");
            let own = Destination::for_subscribe("/user/queue/x", user).unwrap();
            assert!(pattern.matches(&own, user), "{user}");
        }
    }

    #[test]
    fn refused_texts() {
        let cases = [
            ("topic/a", "does not begin with /"),
            ("/foo/a", "begins with none of"),
            ("/", "begins with none of"),
            ("/topic", "ends after its kind"),
            ("/topic/", "ends with /"),
            ("/topic/a..b", "has an empty word"),
            ("/topic/room*", "not a whole word"),
            ("/topic/{id}", "only {user}"),
            ("/user/bob", "ends after the user's name"),
            ("/user/bob/x", "after the user's name"),
            ("/topic/a\nb", "control character"),
        ];
        for (text, expected) in cases {
            let error = Pattern::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(Pattern::parse(&format!("/topic/a{}", ".a".repeat(62))).is_err());
        assert!(Pattern::parse(&format!("/topic/a{}", ".a".repeat(61))).is_ok());
    }

    /// A subscription made to make the question expensive gets "no", soon.
    #[test]
    fn a_hard_question_ends() {
        let pattern = Pattern::parse(&format!("/topic/**.a{}", ".*".repeat(40))).unwrap();
        let hard = destination(&format!("/topic/#.a{}", ".*.a".repeat(20)));
        assert!(!pattern.contains(&hard, "alice"));
        let hard = destination(&format!("/topic/#{}", ".#".repeat(120)));
        assert!(!pattern.contains(&hard, "alice"));
        assert!(pattern.overlaps(&hard, "alice"));
    }

    /// The slow and obvious way, for the proof below.
    fn slowly(pattern: &[&str], words: &[&str]) -> bool {
        match (pattern.split_first(), words.split_first()) {
            (None, rest) => rest.is_none(),
            (Some((&"**" | &"#", after)), rest) => {
                slowly(after, words) || rest.is_some_and(|(_, rest)| slowly(pattern, rest))
            }
            (Some((own, after)), Some((word, rest))) => {
                (*own == "*" || own == word) && slowly(after, rest)
            }
            (Some(_), None) => false,
        }
    }

    /// All lists of 1 to `most` of the words.
    fn all_lists(words: &[&'static str], most: usize) -> Vec<Vec<&'static str>> {
        let mut all: Vec<Vec<&str>> = vec![vec![]];
        let mut last = 0;
        for _ in 0..most {
            let end = all.len();
            for index in last..end {
                for word in words {
                    let mut longer = all[index].clone();
                    longer.push(*word);
                    all.push(longer);
                }
            }
            last = end;
        }
        all.remove(0);
        all
    }

    /// Which of the topics, given as words with their kind, a pattern matches.
    fn matched(pattern: &[&str], topics: &[Vec<&str>]) -> Vec<bool> {
        topics.iter().map(|topic| slowly(pattern, topic)).collect()
    }

    fn check(head: &str, pattern: &[&str], asked: &[&str], own: &[bool], other: &[bool]) {
        let compiled = Pattern::parse(&format!("/{head}/{}", pattern.join("."))).unwrap();
        let destination = destination(&format!("/topic/{}", asked.join(".")));
        let mut both = own.iter().zip(other);
        let contains = both.clone().all(|(own, other)| *own || !*other);
        let overlaps = both.any(|(own, other)| *own && *other);
        assert_eq!(compiled.contains(&destination, "u"), contains, "{compiled} {asked:?}");
        assert_eq!(compiled.overlaps(&destination, "u"), overlaps, "{compiled} {asked:?}");
    }

    /// `z` stands for the words that no pattern names.
    fn topics(most: usize) -> Vec<Vec<&'static str>> {
        let topics = all_lists(&["a", "b", "z"], most);
        topics.into_iter().map(|topic| [vec!["topic"], topic].concat()).collect()
    }

    /// Every pattern and every subscription of up to three words.
    #[test]
    fn contains_and_overlaps_agree_with_trying_all_topics() {
        let topics = topics(5);
        let asked = all_lists(&["a", "b", "*", "#"], 3);
        let others: Vec<_> =
            asked.iter().map(|words| matched(&[&["topic"][..], words].concat(), &topics)).collect();
        for head in ["topic", "*", "**"] {
            for pattern in all_lists(&["a", "*", "**"], 3) {
                let own = matched(&[&[head][..], &pattern].concat(), &topics);
                for (asked, other) in asked.iter().zip(&others) {
                    check(head, &pattern, asked, &own, other);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        /// Some of four words each: a topic that tells two apart has at most seven words.
        #[test]
        fn contains_and_overlaps_of_longer_ones(
            pattern in proptest::collection::vec(
                prop_oneof![Just("a"), Just("b"), Just("*"), Just("**")], 1..=4),
            asked in proptest::collection::vec(
                prop_oneof![Just("a"), Just("b"), Just("*"), Just("#")], 1..=4),
        ) {
            let topics = topics(7);
            let own = matched(&[&["topic"][..], &pattern].concat(), &topics);
            let other = matched(&[&["topic"][..], &asked].concat(), &topics);
            check("topic", &pattern, &asked, &own, &other);
        }
    }
}
