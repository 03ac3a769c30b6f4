//! What a session asked for and has no answer to yet.

use std::collections::VecDeque;

use crate::relay::mailbox::{SubscriptionNumber, Token};

use super::machine::Context;

/// What a token stands for.
#[derive(Debug)]
pub(super) enum Waiting {
    Send {
        context: Context,
        commit: Option<Token>,
    },
    Subscribe {
        context: Context,
        subscription: SubscriptionNumber,
    },
    Unsubscribe {
        receipt: String,
    },
    /// A COMMIT whose sends are under way.
    Commit {
        context: Context,
        left: usize,
    },
}

/// Requests by their tokens. Tokens grow and answers come in about that order, so that a line is
/// enough: what is asked for is nearly always its front.
#[derive(Debug, Default)]
pub(super) struct Requests {
    line: VecDeque<(Token, Waiting)>,
    next: Token,
}

impl Requests {
    /// Puts one at the end; its token.
    pub(super) fn add(&mut self, waiting: Waiting) -> Token {
        let token = self.next;
        self.next += 1;
        self.line.push_back((token, waiting));
        token
    }

    pub(super) fn remove(&mut self, token: Token) -> Option<Waiting> {
        let place = self.place(token)?;
        self.line.remove(place).map(|(_, waiting)| waiting)
    }

    pub(super) fn get_mut(&mut self, token: Token) -> Option<&mut Waiting> {
        let place = self.place(token)?;
        self.line.get_mut(place).map(|(_, waiting)| waiting)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Token, &Waiting)> {
        self.line.iter().map(|(token, waiting)| (*token, waiting))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// An empty line keeps no memory.
    pub(super) fn give_back(&mut self) {
        if self.line.is_empty() {
            self.line = VecDeque::new();
        }
    }

    fn place(&self, token: Token) -> Option<usize> {
        match self.line.front() {
            Some((first, _)) if *first == token => Some(0),
            _ => self.line.binary_search_by_key(&token, |(token, _)| *token).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_find_their_requests_in_any_order() {
        let mut requests = Requests::default();
        let mut add = |text: &str| requests.add(Waiting::Unsubscribe { receipt: text.into() });
        let tokens = [add("a"), add("b"), add("c"), add("d")];
        let mut remove = |token| match requests.remove(token) {
            Some(Waiting::Unsubscribe { receipt }) => Some(receipt),
            _ => None,
        };
        let order = [tokens[1], tokens[0], tokens[0], 99, tokens[3], tokens[2]];
        let found: Vec<_> = order.into_iter().map(&mut remove).collect();
        let found: Vec<_> = found.iter().map(|text| text.as_deref().unwrap_or("-")).collect();
        assert_eq!(found, ["b", "a", "-", "-", "d", "c"]);
        assert!(requests.is_empty());
        assert_eq!(requests.add(Waiting::Unsubscribe { receipt: String::new() }), 4);
    }
}
