//! The parts of the message path, each on its own and in one thread.

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use stomp_relay::destination::{Destination, Topic};
use stomp_relay::message::Message;
use stomp_relay::relay::mailbox::{Entry, Level, Mailbox, MailboxLimits};
use stomp_relay::relay::topics::Topics;
use stomp_relay::session::Action;
use stomp_relay::stomp::{Command, Decoder, Frame, Headers, Limits, Version, encode};
use stomp_relay::transport::websocket::frame::{FrameLimits, FrameReader, Opcode, write_head};

use crate::session::session;

/// What is done again and again, so that what it costs to begin does not count.
const TIMES: usize = 100;
const BODY: usize = 100;
/// As much as a session takes in a turn.
const TURN_BYTES: usize = 64 * 1024;

/// One case. The work leaves everything as it found it.
#[expect(missing_debug_implementations, reason = "a function to call")]
pub struct Case {
    pub name: &'static str,
    /// How many of what the name says are done.
    pub items: usize,
    pub prepare: fn() -> Box<dyn FnMut()>,
}

/// All of them.
pub const CASES: [Case; 20] = [
    Case { name: "decode a SEND", items: TIMES, prepare: || decode(&[send(3, BODY)]) },
    Case {
        name: "decode a SEND with 20 headers",
        items: TIMES,
        prepare: || decode(&[send(20, BODY)]),
    },
    Case {
        name: "decode a SEND of 10,000 bytes",
        items: TIMES,
        prepare: || decode(&[send(3, 10_000)]),
    },
    Case {
        name: "decode a SEND in three pieces",
        items: TIMES,
        prepare: || decode(&in_three(&send(3, BODY))),
    },
    Case { name: "decode an ACK", items: TIMES, prepare: || decode(&[ack()]) },
    Case { name: "encode a MESSAGE's tail", items: TIMES, prepare: encode_tail },
    Case { name: "encode a RECEIPT", items: TIMES, prepare: encode_receipt },
    Case {
        name: "WebSocket: read a frame of 180 bytes",
        items: TIMES,
        prepare: || read_frames(180),
    },
    Case {
        name: "WebSocket: read a frame of 10,000 bytes",
        items: TIMES,
        prepare: || read_frames(10_000),
    },
    Case { name: "WebSocket: write a head", items: TIMES, prepare: write_heads },
    Case { name: "mailbox: push and drain, one by one", items: TIMES, prepare: || mailbox(1) },
    Case { name: "mailbox: push and drain, in hundreds", items: TIMES, prepare: || mailbox(TIMES) },
    Case { name: "fan-out to 1 mailbox, a delivery", items: TIMES, prepare: || fan_out(1, 0) },
    Case {
        name: "fan-out to 1,000 mailboxes, a delivery",
        items: 1_000 * TIMES,
        prepare: || fan_out(1_000, 0),
    },
    Case {
        name: "fan-out of a burst to 1,000, a delivery",
        items: 1_000 * TIMES,
        prepare: fan_out_together,
    },
    Case {
        name: "fan-out to 1 of 10,000 topics, a delivery",
        items: TIMES,
        prepare: || fan_out(1, 10_000),
    },
    Case { name: "match 3 of 1,000 patterns", items: TIMES, prepare: match_patterns },
    Case { name: "subscribe and unsubscribe", items: TIMES, prepare: subscribe },
    Case { name: "session: take a SEND", items: TIMES, prepare: take_sends },
    Case { name: "session: write a MESSAGE", items: TIMES, prepare: write_messages },
];

const LIMITS: Limits = Limits {
    frame_bytes: 256 * 1024,
    headers: 64,
    header_name_bytes: 255,
    header_value_bytes: 8 * 1024,
};

/// A SEND as clients write it.
fn send(headers: usize, body: usize) -> Vec<u8> {
    let mut frame = format!("SEND\ndestination:/topic/a.b.c\ncontent-length:{body}\n");
    for number in 2..headers {
        frame.push_str(&format!("header-{number}:value {number}\n"));
    }
    let mut frame = frame.into_bytes();
    frame.push(b'\n');
    frame.resize(frame.len() + body, b'x');
    frame.push(0);
    frame
}

fn ack() -> Vec<u8> {
    b"ACK\nid:3f2504e0-17\n\n\0".to_vec()
}

fn in_three(frame: &[u8]) -> Vec<Vec<u8>> {
    frame.chunks(frame.len().div_ceil(3)).map(<[u8]>::to_vec).collect()
}

/// One frame in these pieces, again and again.
fn decode(pieces: &[Vec<u8>]) -> Box<dyn FnMut()> {
    let pieces: Vec<Bytes> = pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect();
    let mut decoder = Decoder::new(LIMITS);
    decoder.set_version(Version::V12);
    Box::new(move || {
        let mut frames = 0;
        for _ in 0..TIMES {
            for piece in &pieces {
                let mut input = piece.clone();
                while let Some(event) = decoder.decode(&mut input).expect("the frame is sound") {
                    std::hint::black_box(event);
                    frames += 1;
                }
            }
        }
        assert_eq!(frames, TIMES);
    })
}

fn message() -> Message {
    let destination = Destination::for_send("/topic/a.b.c").expect("the destination is sound");
    let headers: Headers =
        [("content-type", "application/json"), ("priority", "4")].into_iter().collect();
    let body = Bytes::from_static(&[b'x'; BODY]);
    Message::new(destination, "/topic/a.b.c".into(), headers, body)
}

fn encode_tail() -> Box<dyn FnMut()> {
    Box::new(|| {
        for _ in 0..TIMES {
            let message = message();
            std::hint::black_box(message.is_text());
            std::hint::black_box(message.tail(Version::V12).with_id());
        }
    })
}

fn encode_receipt() -> Box<dyn FnMut()> {
    let frame = Frame::new(Command::Receipt)
        .with("receipt-id", "message-12345")
        .with("x-receipt-level", "memory");
    let mut out = Vec::with_capacity(TURN_BYTES);
    Box::new(move || {
        out.clear();
        for _ in 0..TIMES {
            encode::encode(&mut out, &frame, Version::V12);
        }
    })
}

/// Masked text frames, as a browser sends them.
fn read_frames(size: usize) -> Box<dyn FnMut()> {
    let mut all = Vec::new();
    for _ in 0..TIMES {
        write_head(&mut all, Opcode::Text, size);
        let head = if size < 126 { 2 } else { 4 };
        let at = all.len() - head + 1;
        if let Some(second) = all.get_mut(at) {
            *second |= 0x80;
        }
        let mask = [0x12, 0x34, 0x56, 0x78];
        all.extend_from_slice(&mask);
        all.extend(mask.iter().cycle().take(size).map(|mask| b'x' ^ mask));
    }
    Box::new(move || {
        let limits = FrameLimits { message_bytes: 256 * 1024, fragments: 1_024 };
        let mut reader = FrameReader::new(limits);
        // Copied since it is unmasked in place; a copy is what a read from a socket is too.
        let mut input = BytesMut::from(&*all);
        let mut events = 0;
        while let Some(event) = reader.next(&mut input).expect("the frames are sound") {
            std::hint::black_box(event);
            events += 1;
        }
        assert_eq!(events, TIMES);
    })
}

fn write_heads() -> Box<dyn FnMut()> {
    let mut out = Vec::with_capacity(TURN_BYTES);
    Box::new(move || {
        out.clear();
        for _ in 0..TIMES {
            write_head(&mut out, Opcode::Text, std::hint::black_box(250));
        }
    })
}

fn new_mailbox(session: u64) -> Arc<Mailbox> {
    Mailbox::new(session, MailboxLimits { frames: 4_096, bytes: 1 << 20 })
}

/// Takes all there is, as a session does in its turns.
fn drain(mailbox: &Mailbox) -> usize {
    let mut cx = Context::from_waker(Waker::noop());
    let mut count = 0;
    loop {
        let mut entries = Vec::new();
        if mailbox.poll_take(&mut cx, TURN_BYTES, Some(&mut entries)).is_pending() {
            return count;
        }
        count += entries.len();
    }
}

fn mailbox(burst: usize) -> Box<dyn FnMut()> {
    let mailbox = new_mailbox(1);
    let message = Arc::new(message());
    Box::new(move || {
        for _ in 0..TIMES / burst {
            for _ in 0..burst {
                let entry = Entry::Shared { message: message.clone(), subscription: 1 };
                mailbox.push(entry).expect("there is room");
            }
            assert_eq!(drain(&mailbox), burst);
        }
    })
}

/// Publishes to one topic, and empties the mailboxes at the end of the burst.
fn fan_out(subscribers: u64, elsewhere: u32) -> Box<dyn FnMut()> {
    let topics = Topics::new();
    let mailboxes: Vec<_> = (0..subscribers).map(new_mailbox).collect();
    for mailbox in &mailboxes {
        topics.subscribe(&Topic::from_key("a.b.c"), mailbox, 1);
    }
    let stranger = new_mailbox(u64::MAX);
    for number in 0..elsewhere {
        topics.subscribe(&Topic::from_key(&format!("elsewhere.{number}")), &stranger, number);
    }
    let message = Arc::new(message());
    Box::new(move || {
        for _ in 0..TIMES {
            assert_eq!(topics.publish("a.b.c", &message), mailboxes.len());
        }
        for mailbox in &mailboxes {
            assert_eq!(drain(mailbox), TIMES);
        }
    })
}

/// A burst of one publisher: each mailbox is locked once for all of it.
fn fan_out_together() -> Box<dyn FnMut()> {
    let topics = Topics::new();
    let mailboxes: Vec<_> = (0..1_000).map(new_mailbox).collect();
    for mailbox in &mailboxes {
        topics.subscribe(&Topic::from_key("a.b.c"), mailbox, 1);
    }
    let burst: Vec<_> = (0..TIMES).map(|_| Arc::new(message())).collect();
    Box::new(move || {
        topics.publish_together("a.b.c", &burst.iter());
        for mailbox in &mailboxes {
            assert_eq!(drain(mailbox), TIMES);
        }
    })
}

/// The trie of patterns; what matches is pushed to one mailbox.
fn match_patterns() -> Box<dyn FnMut()> {
    let topics = Topics::new();
    let mailbox = new_mailbox(1);
    for number in 0..997 {
        topics.subscribe(&Topic::from_key(&format!("a.{number}.*.#")), &mailbox, number);
    }
    for (number, pattern) in (1_000..).zip(["a.*.c", "#.c", "*.b.#"]) {
        topics.subscribe(&Topic::from_key(pattern), &mailbox, number);
    }
    let message = Arc::new(message());
    Box::new(move || {
        for _ in 0..TIMES {
            assert_eq!(topics.publish("a.b.c", &message), 3);
        }
        assert_eq!(drain(&mailbox), 3 * TIMES);
    })
}

fn subscribe() -> Box<dyn FnMut()> {
    let topics = Topics::new();
    let (mailbox, other) = (new_mailbox(1), new_mailbox(2));
    let topic = Topic::from_key("a.b.c");
    topics.subscribe(&topic, &other, 1);
    Box::new(move || {
        for number in 0..100 {
            topics.subscribe(&topic, &mailbox, number);
        }
        for number in 0..100 {
            topics.unsubscribe(&topic, 1, number);
        }
    })
}

/// From the frame to the message that is published, and back to the answer.
fn take_sends() -> Box<dyn FnMut()> {
    let now = Instant::now();
    let (mut session, _) = session(now);
    let frame = Frame {
        body: Bytes::from_static(&[b'x'; BODY]),
        ..Frame::new(Command::Send).with("destination", "/topic/a.b.c").with("priority", "4")
    };
    let mut actions = Vec::new();
    Box::new(move || {
        for _ in 0..TIMES {
            session.frame(frame.clone(), now, &mut actions);
            let Some(Action::Publish { token, message, .. }) = actions.pop() else {
                unreachable!("a SEND to a topic is published")
            };
            std::hint::black_box(message);
            session.done(token, Ok(Level::Memory), &mut actions);
            actions.clear();
        }
    })
}

/// What each delivery of a fan-out costs a session: head, shared tail, WebSocket frame.
fn write_messages() -> Box<dyn FnMut()> {
    let now = Instant::now();
    let (mut session, subscription) = session(now);
    let message = Arc::new(message());
    let (mut head, mut out) = (Vec::new(), Vec::with_capacity(TURN_BYTES));
    let mut actions = Vec::new();
    Box::new(move || {
        out.clear();
        for _ in 0..TIMES {
            let entry = Entry::Shared { message: message.clone(), subscription };
            let outgoing = session.deliver(entry, now, &mut head, &mut actions);
            let outgoing = outgoing.expect("it is subscribed");
            let tail = outgoing.message.tail(session.version()).with_id();
            write_head(&mut out, Opcode::Text, head.len() + tail.len());
            out.extend_from_slice(&head);
            out.extend_from_slice(tail);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_can_be_done_again_and_again() {
        for case in CASES {
            let mut work = (case.prepare)();
            for _ in 0..3 {
                work();
            }
        }
    }
}
