//! The transcripts of `conformance-tests` played to decoder, session machine and embedded broker
//! alone: no socket, no driver, no server. What differs here and not there is the driver's.
//!
//! Left out are the cases tagged `slow`, which wait for heart-beats: nobody tells this machine
//! the time. WebSocket is the driver's and the frame layer's; the system tests play that.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in tests a panic is how to fail")]

mod harness;

use std::convert::identity;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use conformance_tests::{Filter, Profile, Runner, Target, all_cases};
use harness::{ACCOUNT, Connection, Shared};
use stomp_relay::session::Wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// The pipe holds more than any case sends, so that nobody waits for the other side to read.
const PIPE_BYTES: usize = 16 << 20;

async fn run(mut connection: Connection, mut stream: DuplexStream) {
    let mut buffer = BytesMut::new();
    while !connection.is_over {
        tokio::select! {
            read = stream.read_buf(&mut buffer) => match read {
                Ok(count) if count > 0 => {
                    let bytes = buffer.split().freeze();
                    connection.take_bytes(bytes, Instant::now(), &mut identity);
                }
                _ => break,
            },
            () = poll_fn(|cx| connection.poll_mail(cx, Instant::now())) => {}
        }
        // The client may be gone: then the next read says so.
        stream.write_all(&std::mem::take(&mut connection.out)).await.ok();
    }
    connection.end();
}

#[tokio::test]
async fn the_session_machine_answers_as_the_transcripts_say() {
    let shared = Arc::new(Shared::new());
    let open = move || {
        let (client, server) = tokio::io::duplex(PIPE_BYTES);
        let connection = Connection::new(shared.clone(), Wire::Tcp, None, Instant::now());
        tokio::spawn(run(connection, server));
        client
    };
    let profile = Profile::stomp_relay().unwrap();
    let target = Target::in_process(open, ACCOUNT, ACCOUNT, profile);
    let filter = Filter { skip_tags: vec!["slow".into()], ..Filter::default() };
    let report = Runner::default().run(&target, &filter, all_cases().unwrap()).await;
    assert!(report.is_success(), "{report}");
    // Enough ran to mean something.
    assert!(report.outcomes.len() > 400, "{report}");
}
