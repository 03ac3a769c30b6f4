//! A sender that is faster than what it sends can be handed on: it is slowed, and nobody who
//! reads is taken for slow.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use system_tests::rabbitmq::RabbitMqServer;
use system_tests::relay::{Relay, Setup};

const SUBSCRIBERS: usize = 10;
/// Many times what a session's mailbox holds, and many more than come with one read; but less than
/// the kernel takes for a reader of this test that does not get its turn.
const MESSAGES: usize = 6_000;
const LIMITS: &str = "limits.outbound_frames = 256";
const PATIENCE: Duration = Duration::from_secs(60);

fn connect(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"CONNECT\naccept-version:1.2\nlogin:guest\npasscode:guest\n\n\0").unwrap();
    until(&mut stream, "CONNECTED");
    stream
}

/// Reads to the end of the first frame, which is of that command.
fn until(stream: &mut TcpStream, command: &str) {
    let mut frame = Vec::new();
    let mut byte = [0];
    while byte != [0] || frame.is_empty() {
        stream.read_exact(&mut byte).unwrap();
        frame.extend_from_slice(&byte);
    }
    let frame = String::from_utf8(frame).unwrap();
    assert!(frame.trim_start().starts_with(command), "{frame}");
}

/// The bodies of all MESSAGEs, up to the last one that was sent or to the end.
fn read_all(mut stream: TcpStream) -> Vec<usize> {
    let mut bodies = Vec::new();
    let mut frame = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    while bodies.len() < MESSAGES {
        let count = stream.read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        for part in buffer[..count].split_inclusive(|byte| *byte == 0) {
            frame.extend_from_slice(part);
            if frame.last() == Some(&0) {
                let text = std::str::from_utf8(&frame[..frame.len() - 1]).unwrap();
                let body = text.rsplit_once("\n\n").map_or(text, |(_, body)| body);
                bodies.push(body.parse().unwrap_or_else(|_| panic!("{text}")));
                frame.clear();
            }
        }
    }
    bodies
}

/// With one thread. A receiver that has too much for 200 ms is waited for no longer, and on a busy
/// machine a thread may well stand still for so long, with the sessions that it is about to run;
/// where there is another one, that runs the sender. With one, all stand still, and then each
/// receiver has its turn before the sender has the next.
fn setup() -> Setup {
    Setup::new().config(LIMITS).workers(1)
}

#[test]
fn a_fast_sender_is_slowed_and_nobody_is_closed() {
    check(&setup().start());
}

#[test]
fn rabbitmq_is_slowed_and_nobody_is_closed() {
    let rabbit = RabbitMqServer::shared().unwrap();
    check(&setup().broker(&rabbit.amqp_url).start());
}

fn check(relay: &Relay) {
    let address = relay.tcp_address();
    let readers: Vec<_> = (0..SUBSCRIBERS)
        .map(|_| {
            let mut stream = connect(address);
            stream.write_all(b"SUBSCRIBE\nid:1\ndestination:/topic/fast\nreceipt:r\n\n\0").unwrap();
            until(&mut stream, "RECEIPT");
            thread::spawn(move || read_all(stream))
        })
        .collect();
    let mut sender = connect(address);
    let frames: String = (0..MESSAGES)
        .map(|number| format!("SEND\ndestination:/topic/fast\n\n{number}\0"))
        .collect();
    sender.write_all(frames.as_bytes()).unwrap();
    for reader in readers {
        let bodies = reader.join().unwrap();
        assert_eq!(bodies.len(), MESSAGES, "one was closed");
        assert!(bodies.iter().copied().eq(0..MESSAGES), "out of order");
    }
}
