//! What goes on while something breaks: senders with receipts, readers with and without acks, a
//! topic, and sessions that only listen.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use system_tests::PATIENCE;
use system_tests::checker::{Checker, Counts};
use system_tests::relay::Relay;
use system_tests::stomp_client::{Client, Frame, Wire};
use tokio::task::JoinHandle;

/// RECEIPTs that a sender waits for at a time, at most.
const WINDOW: usize = 20;
/// Between two looks at what came.
const LOOK: Duration = Duration::from_millis(10);
const ERRORS: &str = "/user/queue/errors";

/// How much goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) senders: usize,
    /// Between two messages of a sender.
    pub(crate) pace: Duration,
    /// Sessions that listen to a topic of their own, and nothing comes.
    pub(crate) idle: usize,
}

impl Default for Plan {
    fn default() -> Self {
        let pace = Duration::from_millis(100);
        Self { senders: 20, pace, idle: 2 }
    }
}

/// What all members look at and write to.
#[derive(Debug, Default)]
struct Board {
    messages: Checker,
    topics: Checker,
    /// Of each sender, RECEIPTs of messages to queues.
    receipts: Vec<AtomicUsize>,
    is_paused: AtomicBool,
    are_senders_done: AtomicBool,
    are_readers_done: AtomicBool,
    problems: Mutex<Vec<String>>,
}

impl Board {
    fn problem(&self, text: String) {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }
}

/// A running load.
#[derive(Debug)]
pub(crate) struct Load {
    board: Arc<Board>,
    senders: Vec<JoinHandle<Client>>,
    readers: Vec<JoinHandle<Client>>,
    idle: Vec<Client>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) messages: Counts,
    pub(crate) topics: Counts,
    pub(crate) sessions: usize,
    pub(crate) problems: Vec<String>,
}

impl Outcome {
    /// Why this is not good enough.
    pub(crate) fn complaint(&self) -> Option<String> {
        // A topic's messages may pass by. What comes has to be right all the same.
        let topics = Counts { lost: 0, ..self.topics };
        self.messages
            .complaint()
            .or_else(|| topics.complaint().map(|text| format!("topics: {text}")))
            .or_else(|| self.problems.first().cloned())
    }
}

impl Load {
    /// Connects everybody and waits until messages flow. Sessions spread over the relays; the
    /// reader of user messages is where most senders are.
    pub(crate) async fn start(row: &str, relays: &[&Relay], plan: Plan) -> Self {
        let receipts = (0..plan.senders).map(|_| AtomicUsize::new(0)).collect();
        let board = Arc::new(Board { receipts, ..Board::default() });
        let first = relays[0];
        let mut load = Self { board, senders: Vec::new(), readers: Vec::new(), idle: Vec::new() };
        let acked: &[(&str, &str)] = &[("ack", "client-individual")];
        let none: &[(&str, &str)] = &[];
        let subscriptions = [
            ("bob", format!("/queue/{row}.acked"), acked),
            ("bob", format!("/queue/{row}.auto"), none),
            ("bob", format!("/user/queue/{row}"), none),
            ("carol", format!("/topic/{row}.*"), none),
        ];
        for (number, (user, destination, headers)) in subscriptions.iter().enumerate() {
            let mut client = connect(first, number, user).await;
            client.subscribe("s", destination, headers).await;
            let is_topic = destination.starts_with("/topic/");
            let acks = destination.ends_with(".acked");
            load.readers.push(tokio::spawn(reader(client, load.board.clone(), is_topic, acks)));
        }
        for number in 0..plan.idle {
            let mut client = connect(relays[number % relays.len()], number, "carol").await;
            client.subscribe("t", &format!("/topic/{row}.idle"), &[]).await;
            client.subscribe("u", "/user/queue/idle", &[]).await;
            load.idle.push(client);
        }
        for number in 0..plan.senders {
            let mut client = connect(relays[number % relays.len()], number, "alice").await;
            client.subscribe("errors", ERRORS, &[]).await;
            let mut destinations =
                [".acked", ".auto"].map(|queue| format!("/queue/{row}{queue}")).to_vec();
            // User messages come by way of the reader's own relay.
            if number.is_multiple_of(relays.len()) {
                destinations.push(format!("/user/bob/queue/{row}"));
            }
            let sender = sender(client, load.board.clone(), Some(number), destinations, plan.pace);
            load.senders.push(tokio::spawn(sender));
        }
        let mut client = connect(first, 0, "alice").await;
        client.subscribe("errors", ERRORS, &[]).await;
        let topic = vec![format!("/topic/{row}.news")];
        load.senders.push(tokio::spawn(sender(client, load.board.clone(), None, topic, plan.pace)));
        load.flows().await;
        load
    }

    /// Waits until each sender has RECEIPTs more from RabbitMQ, and a topic's message has come;
    /// says how long that took.
    pub(crate) async fn flows(&self) -> Duration {
        const MORE: usize = 2;
        let began = Instant::now();
        let wanted: Vec<usize> =
            self.board.receipts.iter().map(|count| count.load(Ordering::SeqCst) + MORE).collect();
        let topics = self.board.topics.counts().delivered;
        let behind = || {
            let receipts = self.board.receipts.iter().zip(&wanted);
            let behind = receipts.filter(|(now, wanted)| now.load(Ordering::SeqCst) < **wanted);
            let no_topics = self.board.topics.counts().delivered == topics;
            (behind.count(), no_topics)
        };
        until("messages flow", || behind() == (0, false)).await;
        began.elapsed()
    }

    /// RECEIPTs for messages to queues, of all senders.
    pub(crate) fn receipts(&self) -> usize {
        self.board.receipts.iter().map(|count| count.load(Ordering::SeqCst)).sum()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.board.messages.counts()
    }

    /// Stops sending, and waits until all is answered and delivered.
    pub(crate) async fn pause(&self) {
        self.board.is_paused.store(true, Ordering::SeqCst);
        self.settled().await;
    }

    pub(crate) fn resume(&self) {
        self.board.is_paused.store(false, Ordering::SeqCst);
    }

    async fn settled(&self) {
        let Board { messages, .. } = &*self.board;
        until("all is answered", || messages.unanswered() == 0).await;
        let deadline = Instant::now() + PATIENCE;
        // What does not come is for the checker to name.
        while !messages.missing().is_empty() && Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends it: what is under way is waited for.
    pub(crate) async fn finish(self) -> Outcome {
        self.board.are_senders_done.store(true, Ordering::SeqCst);
        let sessions = self.senders.len() + self.readers.len() + self.idle.len();
        let mut clients = Vec::new();
        for sender in self.senders {
            let client = tokio::time::timeout(PATIENCE, sender).await;
            clients.push(client.expect("a sender waits for answers in vain").unwrap());
        }
        let deadline = Instant::now() + PATIENCE;
        while !self.board.messages.missing().is_empty() && Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
        self.board.are_readers_done.store(true, Ordering::SeqCst);
        for reader in self.readers {
            clients.push(reader.await.unwrap());
        }
        clients.extend(self.idle);
        let closed = clients.iter().filter(|client| client.is_closed()).count();
        if closed > 0 {
            self.board.problem(format!("{closed} of {sessions} sessions were closed"));
        }
        let problems = self.board.problems.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Outcome {
            messages: self.board.messages.counts(),
            topics: self.board.topics.counts(),
            sessions,
            problems,
        }
    }
}

async fn connect(relay: &Relay, number: usize, user: &str) -> Client {
    let (wire, address) = if number.is_multiple_of(2) {
        (Wire::WebSocket, relay.http_address())
    } else {
        (Wire::Tcp, relay.tcp_address())
    };
    Client::connect(wire, address, user).await
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// Sends to its destinations in turn until told to stop, then waits for all answers. `number`:
/// `None` for the one that sends to the topic.
async fn sender(
    mut client: Client,
    board: Arc<Board>,
    number: Option<usize>,
    destinations: Vec<String>,
    pace: Duration,
) -> Client {
    let checker = if number.is_some() { &board.messages } else { &board.topics };
    let mut open: HashMap<String, String> = HashMap::new();
    let mut turn = number.unwrap_or_default();
    let mut next = Instant::now();
    while !client.is_closed() {
        for receipt in client.take_receipts() {
            let Some(body) = open.remove(&receipt) else { continue };
            checker.receipted(&body);
            if let Some(number) = number
                && !body.contains("/user/")
            {
                board.receipts[number].fetch_add(1, Ordering::SeqCst);
            }
        }
        for frame in client.take_frames() {
            let refused = frame.get("receipt-id").and_then(|receipt| open.remove(receipt));
            match refused {
                Some(body) if frame.get("x-error") == Some("outage") => checker.refused(&body),
                _ => board.problem(format!("a sender got {frame:?}")),
            }
        }
        let is_done = board.are_senders_done.load(Ordering::SeqCst);
        if is_done && open.is_empty() {
            break;
        }
        let is_free = !is_done && !board.is_paused.load(Ordering::SeqCst) && open.len() < WINDOW;
        if is_free && Instant::now() >= next {
            next = Instant::now() + pace;
            let destination = &destinations[turn % destinations.len()];
            turn += 1;
            let body = checker.attempt(number.unwrap_or_default(), destination);
            let receipt = client.send_later(destination, &[("persistent", "true")], &body).await;
            open.insert(receipt, body);
        }
        tokio::time::sleep(LOOK).await;
    }
    client
}

/// Reads until told to stop. What it acknowledges it has seen.
async fn reader(mut client: Client, board: Arc<Board>, is_topic: bool, acks: bool) -> Client {
    let checker = if is_topic { &board.topics } else { &board.messages };
    while !client.is_closed() && !board.are_readers_done.load(Ordering::SeqCst) {
        for frame in client.take_frames() {
            if frame.command != "MESSAGE" {
                board.problem(format!("a reader got {frame:?}"));
                continue;
            }
            let redelivered = frame.get("redelivered") == Some("true");
            checker.delivered(frame.text(), frame.header("x-id"), redelivered);
            if acks {
                client.write(&Frame::new("ACK", &[("id", frame.header("ack"))], b"")).await;
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    client
}
