//! A session over many requests, without requests.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

fn pipe() -> Arc<Pipe> {
    let config = PipeConfig { disconnect_delay: Duration::from_secs(5), messages_ahead: 3 };
    Pipe::new(config, PayloadLimits { bytes: 100, messages: 10 }, Instant::now())
}

fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn messages(text: &str) -> Poll<Outbound> {
    Poll::Ready(Outbound::Messages(text.into()))
}

#[test]
fn what_is_written_waits_for_a_receiver() {
    let pipe = pipe();
    assert_eq!(pipe.write(b"\"a\"\n\"b\"\n").unwrap(), 8);
    // The third is the last one there is room for.
    assert_eq!(pipe.write(b"\"c\"\n\"d\"\n").unwrap(), 4);
    assert!(pipe.poll_writable(&mut context()).is_pending());
    let number = pipe.attach().unwrap();
    assert_eq!(pipe.attach(), Err(Busy));
    assert_eq!(pipe.poll_outbound(number, &mut context()), Poll::Ready(Outbound::Open));
    assert_eq!(pipe.poll_outbound(number, &mut context()), messages(r#"a["a","b","c"]"#));
    assert!(pipe.poll_outbound(number, &mut context()).is_pending());
    assert!(pipe.poll_writable(&mut context()).is_ready());
}

#[test]
fn the_next_receiver_proves_what_the_last_one_took() {
    let pipe = pipe();
    let first = pipe.attach().unwrap();
    assert_eq!(pipe.write(b"\"a\"\n").unwrap(), 4);
    assert_eq!(pipe.poll_outbound(first, &mut context()), Poll::Ready(Outbound::Open));
    assert_eq!(pipe.poll_outbound(first, &mut context()), messages(r#"a["a"]"#));
    pipe.detach(first, Instant::now());
    assert_eq!(pipe.unproven(), 4);
    assert!(pipe.deadline().is_some());
    pipe.attach().unwrap();
    assert_eq!((pipe.unproven(), pipe.deadline()), (0, None));
}

#[test]
fn a_request_that_sends_proves_what_is_some_time_ago() {
    let pipe = pipe();
    let number = pipe.attach().unwrap();
    let start = Instant::now();
    assert_eq!(pipe.write(b"\"a\"\n").unwrap(), 4);
    let _open = pipe.poll_outbound(number, &mut context());
    let _messages = pipe.poll_outbound(number, &mut context());
    for (seconds, unproven) in [(0, 4), (1, 4), (2, 0)] {
        pipe.lock().prove_by_sending(start + Duration::from_secs(seconds));
        assert_eq!(pipe.unproven(), unproven, "{seconds}");
    }
}

#[test]
fn a_closed_session_says_so_again_and_again() {
    let pipe = pipe();
    pipe.close(b"\"a\"\n", 1008, "no \"way\"");
    for round in 0..3 {
        let number = pipe.attach().unwrap();
        if round == 0 {
            assert_eq!(pipe.poll_outbound(number, &mut context()), Poll::Ready(Outbound::Open));
            assert_eq!(pipe.poll_outbound(number, &mut context()), messages(r#"a["a"]"#));
        }
        let close = Outbound::Close(br#"c[1008,"no \"way\""]"#.to_vec());
        assert_eq!(pipe.poll_outbound(number, &mut context()), Poll::Ready(close));
        pipe.detach(number, Instant::now());
    }
}

#[test]
fn long_frames_end_at_a_line() {
    let config = PipeConfig { disconnect_delay: Duration::from_secs(5), messages_ahead: 100 };
    let pipe = Pipe::new(config, PayloadLimits { bytes: 100, messages: 10 }, Instant::now());
    let line = format!("\"{}\"\n", "x".repeat(FRAME_BYTES / 2));
    for _ in 0..3 {
        assert_eq!(pipe.write(line.as_bytes()).unwrap(), line.len());
    }
    let number = pipe.attach().unwrap();
    let _open = pipe.poll_outbound(number, &mut context());
    for count in [2, 1] {
        let Poll::Ready(Outbound::Messages(frame)) = pipe.poll_outbound(number, &mut context())
        else {
            panic!("no frame")
        };
        let texts: Vec<String> = serde_json::from_slice(frame.get(1..).unwrap()).unwrap();
        assert_eq!(texts.len(), count);
    }
    assert!(pipe.poll_outbound(number, &mut context()).is_pending());
}

#[test]
fn the_driver_is_told_of_what_moves_its_deadlines() {
    let pipe = pipe();
    assert!(pipe.poll_read(&mut context()).is_pending());
    let number = pipe.attach().unwrap();
    assert!(matches!(pipe.poll_read(&mut context()), Poll::Ready(Ok(true))));
    assert!(pipe.poll_read(&mut context()).is_pending());
    pipe.detach(number, Instant::now());
    assert!(matches!(pipe.poll_read(&mut context()), Poll::Ready(Ok(true))));
    pipe.give_up();
    assert!(matches!(pipe.poll_read(&mut context()), Poll::Ready(Ok(false))));
}

proptest! {
    /// Whatever comes when: every line comes once and in order, and proven is what the receivers
    /// before the last one took, and no more.
    #[test]
    fn lines_come_once_and_in_order(steps in vec(0..5_u8, 0..80)) {
        let pipe = pipe();
        let (mut written, mut got, mut bytes) = (0, Vec::new(), 0);
        let (mut receiver, mut taken, mut proven) = (None, 0, 0);
        for step in steps {
            match step {
                0 | 1 => {
                    let line = format!("\"{written}\"\n");
                    let length = pipe.write(line.as_bytes()).unwrap();
                    prop_assert!(length == 0 || length == line.len());
                    written += usize::from(length > 0);
                    bytes += length as u64;
                }
                2 => match pipe.attach() {
                    Ok(number) => {
                        prop_assert_eq!(receiver.replace(number), None);
                        proven = taken;
                    }
                    Err(Busy) => prop_assert!(receiver.is_some()),
                },
                3 => {
                    let Some(number) = receiver else { continue };
                    if let Poll::Ready(Outbound::Messages(frame)) =
                        pipe.poll_outbound(number, &mut context())
                    {
                        let texts: Vec<String> =
                            serde_json::from_slice(frame.get(1..).unwrap()).unwrap();
                        taken = bytes;
                        got.extend(texts);
                    }
                }
                _ => {
                    if let Some(number) = receiver.take() {
                        pipe.detach(number, Instant::now());
                    }
                }
            }
            prop_assert_eq!(pipe.unproven(), bytes - proven);
            prop_assert_eq!(pipe.deadline().is_none(), receiver.is_some());
        }
        let wanted: Vec<String> = (0..got.len()).map(|n| n.to_string()).collect();
        prop_assert_eq!(&got, &wanted);
        prop_assert!(written - got.len() <= 3);
    }
}
