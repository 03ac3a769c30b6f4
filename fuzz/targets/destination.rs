//! Destinations and patterns of rules. An input is lines of text: a destination, a destination of
//! a SUBSCRIBE, a pattern, a user's name.

use stomp_relay::destination::{Destination, DestinationError};
use stomp_relay::pattern::Pattern;

/// Checks one input of the fuzzer.
pub(crate) fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut lines = text.split('\n');
    let mut line = || lines.next().unwrap_or_default();
    let (sent, subscribed, pattern, user) = (line(), line(), line(), line());
    let sent = Destination::for_send(sent);
    let subscribed = Destination::for_subscribe(subscribed, user);
    for result in [&sent, &subscribed] {
        match result {
            Ok(destination) => check_shown(destination),
            Err(error) => check_error(error),
        }
    }
    if let Ok(pattern) = Pattern::parse(pattern) {
        assert_eq!(Pattern::parse(pattern.text()), Ok(pattern.clone()), "read again");
        check_sets(&pattern, user, sent.ok().as_ref(), subscribed.ok().as_ref());
    }
}

/// What a destination is shown as is that destination, or a longer text than one may have.
fn check_shown(destination: &Destination) {
    let shown = destination.to_string();
    assert!(!shown.contains(char::is_control), "{shown:?}");
    let again = match destination {
        Destination::User(user) => Destination::for_subscribe(&shown, &user.user),
        Destination::Topic(topic) if topic.is_wildcard() => Destination::for_subscribe(&shown, ""),
        _ => Destination::for_send(&shown),
    };
    match (again, destination) {
        (Err(DestinationError::TooLong { .. }), _) => return,
        // Both are shown as the queue that they are; answers have names that are reserved.
        (Ok(Destination::Queue(name)), Destination::AmqQueue(other)) => assert_eq!(name, *other),
        (Err(DestinationError::Reserved { .. }), Destination::ReplyQueue(_)) => return,
        (again, _) => assert_eq!(again.as_ref(), Ok(destination), "{shown:?}"),
    }
    // As a rule it is about itself, where it has nothing that means something to a rule.
    let user = match destination {
        Destination::User(user) => &*user.user,
        _ => "",
    };
    if !shown.contains(['*', '#', '{', '}'])
        && let Ok(pattern) = Pattern::parse(&shown)
    {
        assert!(pattern.matches(destination, user), "{pattern} does not match itself");
    }
}

fn check_error(error: &DestinationError) {
    let (message, body) = error.text();
    assert!(!message.contains(char::is_control), "{message:?}");
    assert!(body.ends_with('\n') && body.len() <= 600, "{body:?}");
    assert!(!body.contains(|c: char| c.is_control() && c != '\n'), "{body:?}");
}

/// A pattern and a subscription are sets of destinations, and one that was sent is in them or not.
fn check_sets(
    pattern: &Pattern,
    user: &str,
    sent: Option<&Destination>,
    subscribed: Option<&Destination>,
) {
    let Some(subscribed) = subscribed else { return };
    let (contains, overlaps) =
        (pattern.contains(subscribed, user), pattern.overlaps(subscribed, user));
    // No subscription is empty.
    assert!(overlaps || !contains, "{pattern} has all of {subscribed} and nothing of it");
    let Some(sent) = sent.filter(|sent| takes(subscribed, sent)) else { return };
    let matches = pattern.matches(sent, user);
    assert!(matches || !contains, "{pattern} has all of {subscribed} and not {sent}");
    assert!(overlaps || !matches, "{pattern} has {sent} and nothing of {subscribed}");
}

/// Whether a subscription gets what is sent there.
fn takes(subscribed: &Destination, sent: &Destination) -> bool {
    match (subscribed, sent) {
        (Destination::Topic(subscribed), Destination::Topic(sent)) => {
            let pattern: Vec<&str> = subscribed.key().split('.').collect();
            let words: Vec<&str> = sent.key().split('.').collect();
            is_in(&pattern, &words)
        }
        _ => subscribed == sent,
    }
}

/// By a table of which beginnings match which, so that many `#` cost no more than their number.
fn is_in(pattern: &[&str], words: &[&str]) -> bool {
    let mut row: Vec<bool> = vec![false; words.len() + 1];
    row[0] = true;
    for own in pattern {
        let mut next = vec![false; words.len() + 1];
        next[0] = *own == "#" && row[0];
        for (at, word) in words.iter().enumerate() {
            next[at + 1] = match *own {
                "#" => row[at + 1] || next[at],
                "*" => row[at],
                own => row[at] && own == *word,
            };
        }
        row = next;
    }
    row[words.len()]
}
