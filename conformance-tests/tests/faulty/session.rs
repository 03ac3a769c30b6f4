//! What sessions have and are told. DISCONNECT, RECEIPT and ERROR are here; what else a frame does
//! is in `connecting`, `sending`, `subscribing` and `settling`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use conformance_tests::Version;
use tokio::sync::Notify;

use super::broker::{Broker, Consumer, Stored};
use super::fault::{Fault, Faults};
use super::frame::{Frame, encode};
use super::refusal::{Refusal, code};

/// Of ids, receipts and names of transactions.
const ID_BYTES: usize = 255;

/// What a connection is to do.
pub(super) enum Out {
    /// A frame's bytes.
    Bytes(Vec<u8>),
    Close(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Start,
    Connected,
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AckMode {
    Auto,
    Client,
    Individual,
}

pub(super) struct Subscription {
    pub(super) number: u64,
    pub(super) id: Option<String>,
    /// As the client wrote it.
    pub(super) destination: String,
    pub(super) queue: String,
    pub(super) ack: AckMode,
    pub(super) prefetch: usize,
}

/// A delivery that waits for ACK or NACK.
#[derive(Clone)]
pub(super) struct Unacked {
    pub(super) number: u64,
    pub(super) subscription: u64,
    pub(super) ack: AckMode,
    pub(super) queue: String,
    pub(super) stored: Stored,
}

/// What a COMMIT does.
pub(super) enum Step {
    Send(Frame),
    Settle(Frame),
}

#[derive(Clone, Copy, Default)]
pub(super) struct Beats {
    /// How often the server says something.
    pub(super) of_server: Option<Duration>,
    pub(super) of_client: Option<Duration>,
}

pub(super) struct Session {
    /// Nobody can guess it outside a test.
    pub(super) name: String,
    pub(super) version: Version,
    pub(super) phase: Phase,
    pub(super) out: VecDeque<Out>,
    pub(super) wake: Arc<Notify>,
    pub(super) beats: Beats,
    pub(super) subscriptions: Vec<Subscription>,
    pub(super) unacked: Vec<Unacked>,
    pub(super) transactions: BTreeMap<String, Vec<Step>>,
    /// How many there were, so that none is numbered twice.
    pub(super) subscribed: u64,
    pub(super) delivered: u64,
    /// Of these those that need an ACK.
    pub(super) given: BTreeSet<u64>,
    /// Frames are done although it is over.
    pub(super) goes_on: bool,
    /// Of the first SEND that asked for one.
    pub(super) first_receipt: Option<String>,
    /// All that were asked for.
    pub(super) receipts: BTreeSet<String>,
    pub(super) subprotocol: Option<Version>,
    /// A frame whose effect is late.
    pub(super) late: Option<Frame>,
}

/// All sessions and the broker.
pub(super) struct State {
    pub(super) faults: Faults,
    pub(super) broker: Broker,
    pub(super) sessions: Vec<Session>,
    /// Nobody is served any more.
    blocked: bool,
}

impl State {
    pub(super) fn new(faults: Faults) -> Self {
        Self { faults, broker: Broker::new(faults), sessions: Vec::new(), blocked: false }
    }

    pub(super) fn has(&self, fault: Fault) -> bool {
        self.faults.has(fault)
    }

    /// A new session, by its number.
    pub(super) fn open(&mut self, subprotocol: Option<&str>) -> usize {
        let me = self.sessions.len();
        self.sessions.push(Session {
            name: format!("session-{me}"),
            version: Version::V12,
            phase: Phase::Start,
            out: VecDeque::new(),
            wake: Arc::new(Notify::new()),
            beats: Beats::default(),
            subscriptions: Vec::new(),
            unacked: Vec::new(),
            transactions: BTreeMap::new(),
            subscribed: 0,
            delivered: 0,
            given: BTreeSet::new(),
            goes_on: false,
            first_receipt: None,
            receipts: BTreeSet::new(),
            subprotocol: subprotocol.and_then(|selected| {
                let number = selected.strip_prefix('v')?.strip_suffix(".stomp")?;
                Version::ALL.into_iter().find(|version| version.name().replace('.', "") == number)
            }),
            late: None,
        });
        me
    }

    pub(super) fn frame(&mut self, me: usize, frame: &Frame) {
        if self.blocked {
            return;
        }
        let mut late = self.sessions[me].late.take();
        if let Some(late) = late.take_if(|_| !self.faults.has(Fault::SubscribeOvertaken)) {
            self.late(me, &late);
        }
        let connects = matches!(frame.command.as_str(), "CONNECT" | "STOMP");
        let result = match self.sessions[me].phase {
            Phase::Start if connects => self.connect(me, frame),
            Phase::Start if self.before_connect(frame) => self.connected(me, frame),
            Phase::Start => Err(Refusal::syntax("Illegal command")),
            Phase::Connected => self.connected(me, frame),
            // Nothing is done after an ERROR or a DISCONNECT.
            Phase::Over => self.over(me, frame),
        };
        if let Err(refusal) = result {
            let receipt = refusal.receipt.or_else(|| frame.get("receipt").map(str::to_owned));
            self.fail(me, &Refusal { receipt, ..refusal });
        }
        if let Some(late) = late {
            self.late(me, &late);
        }
    }

    /// Whether a frame is taken although nobody has said who he is.
    fn before_connect(&self, frame: &Frame) -> bool {
        match frame.command.as_str() {
            "SEND" => self.has(Fault::SendBeforeConnectTaken),
            "SUBSCRIBE" => self.has(Fault::SubscribeBeforeConnectTaken),
            "UNSUBSCRIBE" => self.has(Fault::UnsubscribeBeforeConnectTaken),
            "BEGIN" => self.has(Fault::BeginBeforeConnectTaken),
            "COMMIT" => self.has(Fault::CommitBeforeConnectTaken),
            "ABORT" => self.has(Fault::AbortBeforeConnectTaken),
            "ACK" => self.has(Fault::AckBeforeConnectTaken),
            "NACK" => self.has(Fault::NackBeforeConnectTaken),
            "DISCONNECT" => self.has(Fault::DisconnectBeforeConnectTaken),
            "CONNECTED" => self.has(Fault::ConnectedBeforeConnectTaken),
            _ => false,
        }
    }

    fn connected(&mut self, me: usize, frame: &Frame) -> Result<(), Refusal> {
        for (name, fault) in [
            ("receipt", Fault::ReceiptUnlimited),
            ("id", Fault::IdUnlimited),
            ("transaction", Fault::TransactionNameUnlimited),
        ] {
            let too_long = frame.get(name).is_some_and(|value| value.len() > ID_BYTES);
            if too_long && !self.has(fault) {
                return Err(Refusal::limit("Header too long"));
            }
        }
        match frame.command.as_str() {
            "CONNECT" | "STOMP" => self.connect_again(me, frame),
            "SEND" => self.send(me, frame),
            "SUBSCRIBE" => self.subscribe(me, frame),
            "UNSUBSCRIBE" => self.unsubscribe(me, frame),
            "ACK" | "NACK" => self.ack(me, frame),
            "BEGIN" => self.begin(me, frame),
            "COMMIT" => self.commit(me, frame),
            "ABORT" => self.abort(me, frame),
            "DISCONNECT" => {
                self.disconnect(me, frame);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The broker's name for a queue.
    pub(super) fn queue(&self, me: usize, name: &str) -> String {
        if self.has(Fault::QueuesArePerSession) {
            return format!("{name} of {me}");
        }
        name.to_owned()
    }

    /// A frame behind the end.
    fn over(&mut self, me: usize, frame: &Frame) -> Result<(), Refusal> {
        let goes_on = self.sessions[me].goes_on || self.has(Fault::FramesAfterEndExecuted);
        if goes_on { self.connected(me, frame) } else { Ok(()) }
    }

    fn late(&mut self, me: usize, frame: &Frame) {
        let done = if frame.command == "SEND" {
            self.send_now(me, frame)
        } else {
            self.subscribe_now(me, frame)
        };
        // It was judged when it came.
        done.unwrap_or_default();
    }

    fn disconnect(&mut self, me: usize, frame: &Frame) {
        let open = !self.sessions[me].transactions.is_empty();
        if open && self.has(Fault::DisconnectCommits) {
            self.commit_open(me);
        }
        if self.has(Fault::DisconnectIgnored) {
            return self.receipt(me, frame);
        }
        if self.has(Fault::DisconnectReceiptAfterClose) {
            return self.close(me, code::NORMAL);
        }
        self.receipt(me, frame);
        self.close(me, if self.has(Fault::DisconnectCode) { code::PROTOCOL } else { code::NORMAL });
    }

    /// Answers a frame that asked for it, once it is done.
    pub(super) fn receipt(&mut self, me: usize, frame: &Frame) {
        let lost = match frame.command.as_str() {
            "SEND" | "ACK" if frame.get("transaction").is_some() => Fault::ReceiptInTransactionLost,
            "SEND" => Fault::ReceiptOfSendLost,
            "SUBSCRIBE" => Fault::ReceiptOfSubscribeLost,
            "UNSUBSCRIBE" => Fault::ReceiptOfUnsubscribeLost,
            "ACK" => Fault::ReceiptOfAckLost,
            "NACK" => Fault::ReceiptOfNackLost,
            "BEGIN" => Fault::ReceiptOfBeginLost,
            "COMMIT" => Fault::ReceiptOfCommitLost,
            "ABORT" => Fault::ReceiptOfAbortLost,
            _ => Fault::ReceiptOfDisconnectLost,
        };
        let Some(id) = frame.get("receipt").filter(|_| !self.has(lost)) else { return };
        let is_new = self.sessions[me].receipts.insert(id.to_owned());
        if !is_new && self.faults.has(Fault::ReceiptIdsOnce) {
            return;
        }
        let mut answer = Frame::new("RECEIPT").with("receipt-id", id);
        if self.has(Fault::ReceiptWithBody) {
            answer.body = b"done".to_vec();
        }
        if frame.command == "SEND" {
            let first = self.sessions[me].first_receipt.get_or_insert_with(|| id.to_owned());
            if first != id && self.faults.has(Fault::FirstReceiptRepeated) {
                answer.set("receipt-id", first);
            }
        }
        if id.len() > 64 && self.faults.has(Fault::ReceiptIdCut) {
            answer.set("receipt-id", &id.chars().take(64).collect::<String>());
        }
        if self.has(Fault::ReceiptIdWrong) {
            answer.set("receipt-id", "receipt-1");
        }
        self.say(me, &answer);
        if self.has(Fault::ReceiptTwice) {
            self.say(me, &answer);
        }
    }

    /// ERROR, then close (1.2, "ERROR": "it MUST then close the connection").
    pub(super) fn fail(&mut self, me: usize, refusal: &Refusal) {
        if self.sessions[me].phase == Phase::Over {
            return;
        }
        let mut error = Frame::new("ERROR").with("message", refusal.message);
        error = error.with("content-type", "text/plain").with("version", "1.0,1.1,1.2");
        if let Some(receipt) = &refusal.receipt {
            error = error.with("receipt-id", receipt);
        }
        for (fault, name) in [
            (Fault::ErrorWithoutMessage, "message"),
            (Fault::ErrorWithoutVersions, "version"),
            (Fault::ErrorWithoutReceiptId, "receipt-id"),
            (Fault::ErrorWithoutContentType, "content-type"),
        ] {
            if self.has(fault) {
                error.remove(name);
            }
        }
        error.body = refusal.message.as_bytes().to_vec();
        if self.has(Fault::ErrorWithoutClose) {
            return self.say(me, &error);
        }
        if self.sessions.len() > 1 && self.has(Fault::ErrorEndsAll) {
            for other in (0..self.sessions.len()).filter(|other| *other != me) {
                self.close(other, code::POLICY);
            }
        }
        let open = !self.sessions[me].transactions.is_empty();
        if open && self.has(Fault::ErrorCommits) {
            self.commit_open(me);
        }
        if !self.has(Fault::CloseWithoutError) {
            self.say(me, &error);
        }
        let code = match refusal.code {
            _ if self.has(Fault::ErrorCode) => code::NORMAL,
            code::POLICY if self.has(Fault::PolicyCode) => code::PROTOCOL,
            code::PROTOCOL if self.has(Fault::ProtocolCode) => code::POLICY,
            code::TOO_BIG if self.has(Fault::TooBigCode) => code::PROTOCOL,
            code => code,
        };
        self.close(me, code);
    }

    pub(super) fn say(&mut self, me: usize, frame: &Frame) {
        let session = &mut self.sessions[me];
        let mut frame = frame.clone();
        if !frame.body.is_empty() && frame.get("content-length").is_none() {
            let length = frame.body.len() + usize::from(self.faults.has(Fault::LengthWrittenWrong));
            frame = frame.with("content-length", &length.to_string());
        }
        if frame.command == "MESSAGE" && self.faults.has(Fault::LengthNotWritten)
            || frame.command == "ERROR" && self.faults.has(Fault::ErrorWithoutContentLength)
        {
            frame.remove("content-length");
        }
        session.out.push_back(Out::Bytes(encode(&frame, session.version, self.faults)));
        session.wake.notify_one();
    }

    pub(super) fn close(&mut self, me: usize, code: u16) {
        self.end(me);
        let session = &mut self.sessions[me];
        session.out.push_back(Out::Close(code));
        session.wake.notify_one();
    }

    /// Does what only a faulty server does with transactions that were not committed.
    fn commit_open(&mut self, me: usize) {
        let open = std::mem::take(&mut self.sessions[me].transactions);
        for step in open.into_values().flatten() {
            self.step(me, step);
        }
    }

    /// The connection of a session is gone.
    pub(super) fn lost(&mut self, me: usize) {
        let open = !self.sessions[me].transactions.is_empty();
        if open && self.has(Fault::LostSocketCommits) {
            self.commit_open(me);
        }
        self.end(me);
    }

    /// Gives back what a session had, however it ended.
    pub(super) fn end(&mut self, me: usize) {
        let session = &mut self.sessions[me];
        self.blocked |= session.phase == Phase::Start && self.faults.has(Fault::GoneClientBlocks);
        session.phase = Phase::Over;
        session.transactions.clear();
        let mut subscriptions = std::mem::take(&mut session.subscriptions);
        if !subscriptions.is_empty() && self.faults.has(Fault::EndedSessionsTakeMessages) {
            session.subscriptions.append(&mut subscriptions);
        }
        let unacked = std::mem::take(&mut session.unacked);
        for subscription in &subscriptions {
            let consumer = Consumer { session: me as u64, subscription: subscription.number };
            self.broker.cancel(&subscription.queue, consumer);
        }
        for Unacked { queue, stored, .. } in unacked {
            if !self.has(Fault::NoRedeliveryAfterEnd) {
                self.broker.put_back(&queue, stored);
                self.pump(&queue);
            }
        }
    }
}
