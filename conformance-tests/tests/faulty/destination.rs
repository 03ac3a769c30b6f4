//! Destinations as RabbitMQ's STOMP plugin has them.

use super::fault::{Fault, Faults};
use super::refusal::Refusal;

/// No destination is longer: it becomes an AMQP short string.
const BYTES: usize = 255;
const KINDS: [&str; 4] = ["queue", "topic", "amq", "reply-queue"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// A queue that is made where there is none.
    Queue(String),
    /// A queue that must be there.
    Existing(String),
    /// Words joined by dots; `*` is one word, `#` any number.
    Topic(String),
}

impl Destination {
    pub(super) fn parse(text: &str, faults: Faults) -> Result<Self, Refusal> {
        let invalid = || Refusal::limit("Invalid destination");
        let unknown = || Refusal::limit("Unknown destination");
        if text.is_empty() && !faults.has(Fault::BlankDestinationTaken) {
            return Err(invalid());
        }
        if text.len() > BYTES && !faults.has(Fault::DestinationUnlimited) {
            return Err(Refusal::limit("Destination too long"));
        }
        if text.chars().any(char::is_control) && !faults.has(Fault::ControlInDestinationTaken) {
            return Err(invalid());
        }
        let Some(path) = text.strip_prefix('/') else {
            let refused = text.contains('/') || faults.has(Fault::BareNameUnknown);
            return if refused { Err(unknown()) } else { queue(text, faults) };
        };
        let (kind, rest) = path.split_once('/').ok_or_else(unknown)?;
        let mut kind = kind.to_owned();
        if kind.to_ascii_lowercase() != kind && faults.has(Fault::DestinationInAnyCase) {
            kind.make_ascii_lowercase();
        }
        match kind.as_str() {
            "queue" => {
                let slash = rest.contains('/') && !faults.has(Fault::QueueWithSlashTaken);
                let empty = rest.is_empty() && !faults.has(Fault::EmptyNameTaken);
                if slash || empty { Err(invalid()) } else { queue(rest, faults) }
            }
            "topic" => topic(rest, faults),
            "amq" if faults.has(Fault::AmqQueueUnknown) => Err(unknown()),
            "amq" => match rest.strip_prefix("queue/") {
                Some(name) if !name.is_empty() => Ok(Self::Existing(name.into())),
                _ => Err(unknown()),
            },
            "reply-queue" if !rest.is_empty() => Ok(Self::Existing(rest.into())),
            "temp-queue" if faults.has(Fault::TempQueueTaken) => queue(rest, faults),
            "temp-queue" => Err(invalid()),
            _ if faults.has(Fault::AnyDestinationTaken) && !KINDS.contains(&kind.as_str()) => {
                queue(&path.replace('/', "."), faults)
            }
            _ => Err(unknown()),
        }
    }
}

fn queue(name: &str, faults: Faults) -> Result<Destination, Refusal> {
    if name.starts_with("amq.") && !faults.has(Fault::ReservedNameTaken) {
        return Err(Refusal::limit("access_refused"));
    }
    Ok(Destination::Queue(unescape(name, faults)))
}

fn topic(rest: &str, faults: Faults) -> Result<Destination, Refusal> {
    let words: Vec<String> = match rest {
        _ if rest.contains('/') && faults.has(Fault::SlashesInTopicKept) => vec![rest.into()],
        _ => rest.split(['/', '.']).map(|word| unescape(word, faults)).collect(),
    };
    if words.iter().any(String::is_empty) && !faults.has(Fault::EmptyNameTaken) {
        return Err(Refusal::limit("Invalid destination"));
    }
    Ok(Destination::Topic(words.join(".")))
}

/// `%2F` is a slash, `%25` a percent sign, any other is itself.
fn unescape(text: &str, faults: Faults) -> String {
    if text.contains("%2F") && faults.has(Fault::PercentLost) {
        return text.replace("%2F", "");
    }
    let mut parts = text.split("%25");
    let first = parts.next().unwrap_or_default().replace("%2F", "/");
    parts.fold(first, |out, part| out + "%" + &part.replace("%2F", "/"))
}

/// The destination as a MESSAGE shows a queue's name.
pub(super) fn shown_queue(name: &str, faults: Faults) -> String {
    if name.contains(['/', '%']) && faults.has(Fault::PercentNotWritten) {
        return format!("/queue/{name}");
    }
    format!("/queue/{}", name.replace('%', "%25").replace('/', "%2F"))
}

pub(super) fn is_pattern(key: &str) -> bool {
    key.split('.').any(|word| matches!(word, "*" | "#"))
}

/// Whether a topic's key fits the pattern of a SUBSCRIBE.
pub(super) fn fits(pattern: &str, key: &str, faults: Faults) -> bool {
    if key.starts_with(pattern) && key != pattern && faults.has(Fault::TopicsByPrefix) {
        return true;
    }
    let pattern: Vec<&str> = pattern.split('.').collect();
    let key: Vec<&str> = key.split('.').collect();
    words_fit(&pattern, &key, faults)
}

fn words_fit(pattern: &[&str], key: &[&str], faults: Faults) -> bool {
    let Some((word, rest)) = pattern.split_first() else { return key.is_empty() };
    match *word {
        "#" if !rest.is_empty() && faults.has(Fault::HashOnlyAtEnd) => false,
        "#" => {
            let least = usize::from(faults.has(Fault::HashIsOneOrMore));
            let most =
                if faults.has(Fault::HashIsOneAtMost) { 1.min(key.len()) } else { key.len() };
            (least..=most).any(|n| words_fit(rest, key.get(n..).unwrap_or_default(), faults))
        }
        "*" if faults.has(Fault::StarIsAnyNumber) => {
            (0..=key.len()).any(|n| words_fit(rest, key.get(n..).unwrap_or_default(), faults))
        }
        "*" if faults.has(Fault::StarIsLiteral) => {
            key.first() == Some(&"*") && words_fit(rest, key.get(1..).unwrap_or_default(), faults)
        }
        word => key.split_first().is_some_and(|(first, key)| {
            (word == "*" || word == *first) && words_fit(rest, key, faults)
        }),
    }
}
