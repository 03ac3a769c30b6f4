//! Counts what was sent and what came of it, and judges: nothing that had its RECEIPT may be lost,
//! nothing may come that nobody sent, and order is kept.
//!
//! A message is known by its body, which names its sender, its destination and its number there.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What became of all messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub attempted: u64,
    pub receipted: u64,
    /// Answered with an error instead. They may have been taken all the same.
    pub refused: u64,
    /// Messages that came, each counted once.
    pub delivered: u64,
    /// They had a RECEIPT and never came.
    pub lost: u64,
    /// Deliveries beyond the first.
    pub duplicated: u64,
    /// Of them, those that came as another message: with an `x-id` of their own.
    pub other_id: u64,
    /// Of them, those that did not say `redelivered:true`.
    pub unmarked: u64,
    /// Deliveries of what nobody sent.
    pub unexpected: u64,
    /// Deliveries after a later one of their sender to the same destination. One that says
    /// `redelivered:true` is none of them.
    pub disordered: u64,
}

impl Counts {
    /// Why this is not good enough, in one line. `None`: it is.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        let bad = [
            (self.lost, "lost"),
            (self.unexpected, "unexpected"),
            (self.disordered, "out of order"),
            (self.other_id, "duplicated with another x-id"),
            (self.unmarked, "duplicated without redelivered:true"),
            (u64::from(self.attempted != self.receipted + self.refused), "without any answer"),
            (u64::from(self.receipted == 0), "with nothing receipted"),
        ];
        let bad = bad.into_iter().find(|(count, _)| *count > 0);
        bad.map(|(count, what)| format!("{count} {what}: {self}"))
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "attempted {}, receipted {}, refused {}, delivered {}, lost {}, duplicated {} (with \
             another x-id {}, unmarked {}), unexpected {}, out of order {}",
            self.attempted,
            self.receipted,
            self.refused,
            self.delivered,
            self.lost,
            self.duplicated,
            self.other_id,
            self.unmarked,
            self.unexpected,
            self.disordered
        )
    }
}

/// One sender's messages to one destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Flow {
    sender: usize,
    destination: String,
}

#[derive(Debug, Default)]
struct Message {
    receipted: bool,
    refused: bool,
    /// The `x-id` it came with first.
    x_id: Option<String>,
}

#[derive(Debug, Default)]
struct Book {
    messages: Vec<Message>,
    /// One more than the highest number that came.
    seen: usize,
}

#[derive(Debug, Default)]
struct Books {
    flows: HashMap<Flow, Book>,
    counts: Counts,
}

/// Shared by all clients of a run.
#[derive(Debug, Default)]
pub struct Checker(Mutex<Books>);

impl Checker {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The body of `sender`'s next message to `destination`.
    pub fn attempt(&self, sender: usize, destination: &str) -> String {
        let mut books = self.books();
        books.counts.attempted += 1;
        let flow = Flow { sender, destination: destination.to_owned() };
        let messages = &mut books.flows.entry(flow).or_default().messages;
        messages.push(Message::default());
        format!("{sender} {} {destination}", messages.len() - 1)
    }

    /// Its RECEIPT came.
    pub fn receipted(&self, body: &str) {
        self.answered(body, false);
    }

    /// It was refused.
    pub fn refused(&self, body: &str) {
        self.answered(body, true);
    }

    fn answered(&self, body: &str, refused: bool) {
        let mut books = self.books();
        let Books { flows, counts } = &mut *books;
        let Some((flow, number)) = parse(body) else { return };
        let message = flows.get_mut(&flow).and_then(|book| book.messages.get_mut(number));
        let Some(message) = message else { return };
        if refused {
            message.refused = true;
            counts.refused += 1;
        } else {
            message.receipted = true;
            counts.receipted += 1;
        }
    }

    /// A message came.
    pub fn delivered(&self, body: &str, x_id: &str, redelivered: bool) {
        let mut books = self.books();
        let Books { flows, counts } = &mut *books;
        let found = parse(body).and_then(|(flow, number)| Some((flows.get_mut(&flow)?, number)));
        let Some((Book { messages, seen }, number)) = found else {
            counts.unexpected += 1;
            return;
        };
        let Some(message) = messages.get_mut(number) else {
            counts.unexpected += 1;
            return;
        };
        match &message.x_id {
            None => {
                counts.delivered += 1;
                message.x_id = Some(x_id.to_owned());
            }
            Some(first) => {
                counts.duplicated += 1;
                counts.other_id += u64::from(first != x_id);
                counts.unmarked += u64::from(!redelivered);
            }
        }
        if number >= *seen {
            *seen = number + 1;
        } else if !redelivered {
            counts.disordered += 1;
        }
    }

    /// Messages with a RECEIPT that have not come yet.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let books = self.books();
        let mut missing = Vec::new();
        for (Flow { sender, destination }, book) in &books.flows {
            let lost = |message: &Message| message.receipted && message.x_id.is_none();
            let lost = book.messages.iter().enumerate().filter(|(_, message)| lost(message));
            missing.extend(lost.map(|(number, _)| format!("{sender} {number} {destination}")));
        }
        missing
    }

    /// Messages without an answer.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        let books = self.books();
        let messages = books.flows.values().flat_map(|book| &book.messages);
        messages.filter(|message| !message.receipted && !message.refused).count()
    }

    /// All so far; what is missing now counts as lost.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let lost = self.missing().len() as u64;
        Counts { lost, ..self.books().counts }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse(body: &str) -> Option<(Flow, usize)> {
    let mut parts = body.splitn(3, ' ');
    let sender = parts.next()?.parse().ok()?;
    let number = parts.next()?.parse().ok()?;
    Some((Flow { sender, destination: parts.next()?.to_owned() }, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number, x-id, redelivered.
    type Deliveries = &'static [(&'static str, &'static str, bool)];

    /// Three messages of sender 1 to `/queue/a`, all with RECEIPTs, and what came of them.
    fn judged(deliveries: Deliveries) -> Counts {
        let checker = Checker::new();
        for _ in 0..3 {
            let body = checker.attempt(1, "/queue/a");
            checker.receipted(&body);
        }
        for (number, x_id, redelivered) in deliveries {
            checker.delivered(&format!("1 {number} /queue/a"), x_id, *redelivered);
        }
        checker.counts()
    }

    const FINE: Counts = Counts {
        attempted: 3,
        receipted: 3,
        refused: 0,
        delivered: 3,
        lost: 0,
        duplicated: 0,
        other_id: 0,
        unmarked: 0,
        unexpected: 0,
        disordered: 0,
    };

    #[test]
    fn deliveries() {
        const A: (&str, &str, bool) = ("0", "a", false);
        const B: (&str, &str, bool) = ("1", "b", false);
        const C: (&str, &str, bool) = ("2", "c", false);
        let cases: [(&str, Deliveries, Counts); 9] = [
            ("all is well", &[A, B, C], FINE),
            ("one is lost", &[A, C], Counts { delivered: 2, lost: 1, ..FINE }),
            ("the last is lost", &[A, B], Counts { delivered: 2, lost: 1, ..FINE }),
            ("again, and marked", &[A, B, ("0", "a", true), C], Counts { duplicated: 1, ..FINE }),
            (
                "again, not marked",
                &[A, B, C, C],
                Counts { duplicated: 1, unmarked: 1, disordered: 1, ..FINE },
            ),
            (
                "again, as another",
                &[A, B, C, ("2", "d", true)],
                Counts { duplicated: 1, other_id: 1, ..FINE },
            ),
            ("a later one first", &[A, C, B], Counts { disordered: 1, ..FINE }),
            ("the same, redelivered", &[A, C, ("1", "b", true)], FINE),
            (
                "out of nowhere",
                &[A, B, C, ("3", "e", false), ("x", "f", false)],
                Counts { unexpected: 2, ..FINE },
            ),
        ];
        for (what, deliveries, expected) in cases {
            let counts = judged(deliveries);
            assert_eq!(counts, expected, "{what}");
            let is_fine = counts == FINE || what == "again, and marked";
            assert_eq!(counts.complaint().is_none(), is_fine, "{what}: {:?}", counts.complaint());
        }
    }

    #[test]
    fn answers() {
        let checker = Checker::new();
        assert!(checker.counts().complaint().is_some(), "nothing was done");
        let bodies: Vec<_> = (0..3).map(|_| checker.attempt(7, "/user/bob")).collect();
        assert_eq!(bodies, ["7 0 /user/bob", "7 1 /user/bob", "7 2 /user/bob"]);
        assert_eq!((checker.unanswered(), checker.missing()), (3, vec![]));
        checker.receipted(&bodies[0]);
        checker.refused(&bodies[1]);
        assert_eq!(checker.unanswered(), 1);
        assert_eq!(checker.missing(), [bodies[0].clone()]);
        assert!(checker.counts().complaint().unwrap().contains("lost 1"));
        checker.delivered(&bodies[0], "a", false);
        // Refused and taken all the same: the client was told that nobody knows.
        checker.delivered(&bodies[1], "b", false);
        assert!(checker.counts().complaint().unwrap().contains("without any answer"));
        checker.receipted(&bodies[2]);
        checker.delivered(&bodies[2], "c", true);
        let counts = checker.counts();
        assert_eq!((counts.receipted, counts.refused, counts.delivered), (2, 1, 3));
        assert_eq!(counts.complaint(), None);
    }

    #[test]
    fn flows_do_not_know_of_each_other() {
        let checker = Checker::new();
        let flows = [(1, "/queue/a"), (2, "/queue/a"), (1, "/queue/b")];
        let first: Vec<_> = flows.iter().map(|(sender, to)| checker.attempt(*sender, to)).collect();
        let second: Vec<_> =
            flows.iter().map(|(sender, to)| checker.attempt(*sender, to)).collect();
        for body in first.iter().chain(&second) {
            checker.receipted(body);
        }
        for (number, body) in first.iter().chain(&second).enumerate() {
            checker.delivered(body, &number.to_string(), false);
        }
        assert_eq!(checker.counts().complaint(), None);
    }
}
