//! Servers in this process, under a clock that stands still while nobody waits.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy does not take the helpers of a test file for tests"
)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use conformance_tests::{Filter, Outcome, Profile, Report, Runner, Target, Verdict, parse};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::sleep;
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;

const CONNECTED: &str = "CONNECTED\nversion:1.2\nheart-beat:10000,10000\n\n\0";

/// What the server says at each NUL that comes: a pause before it, and the bytes.
type Answers = Vec<(Duration, &'static str)>;

const NOW: Duration = Duration::ZERO;

async fn serve(mut stream: DuplexStream, answers: Answers) {
    let mut answers = answers.into_iter();
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        for _ in buffer[..count].iter().filter(|byte| **byte == 0) {
            if let Some((pause, answer)) = answers.next() {
                sleep(pause).await;
                stream.write_all(answer.as_bytes()).await.unwrap_or_default();
            }
        }
    }
}

async fn play(target: &Target, steps: &str) -> Outcome {
    let head = "# A case\n@id case\n@versions 1.2\n@transports tcp ws-text\n@level must\n";
    let cases = parse("f", &format!("{head}@section none\n@why because\n{steps}")).unwrap();
    let report: Report = Runner::default().run(target, &Filter::default(), cases).await;
    let [outcome] = report.outcomes.as_slice() else { panic!("{report}") };
    outcome.clone()
}

async fn play_to(answers: Answers, profile: Profile, steps: &str) -> Outcome {
    let open = move || {
        let (client, server) = duplex(1 << 16);
        tokio::spawn(serve(server, answers.clone()));
        client
    };
    play(&Target::in_process(open, "user", "s3cret", profile), steps).await
}

fn text(outcome: &Outcome) -> &str {
    match &outcome.verdict {
        Verdict::Passed => "",
        Verdict::Failed(failure) => &failure.text,
        other => panic!("{other:?}"),
    }
}

const SECOND: Duration = Duration::from_secs(1);
const BARRIER: (Duration, &str) = (NOW, "RECEIPT\nreceipt-id:barrier-1\n\n\0");

/// Waiting costs nothing: a minute of heart-beats is played at once.
#[tokio::test(start_paused = true)]
async fn all_waiting_is_by_the_clock_that_a_test_may_pause() {
    let start = Instant::now();
    let connect = "@connect heart-beat:10000,10000\n";
    let cases: [(Answers, String, &str); 5] = [
        (
            vec![(NOW, CONNECTED)],
            format!("{connect}<beat\n"),
            "expected a heart-beat, nothing came in 25s",
        ),
        (
            vec![(NOW, CONNECTED)],
            format!("{connect}<beats 2\n"),
            "expected a heart-beat, nothing came in 16s",
        ),
        (vec![(NOW, CONNECTED), (NOW, ""), BARRIER], format!("{connect}<no-beat 30\n"), ""),
        (
            vec![(NOW, CONNECTED)],
            format!("{connect}<silence\n"),
            "the client was silent for 50s, and the connection is open",
        ),
        (vec![(6 * SECOND, CONNECTED)], connect.into(), "expected CONNECTED, nothing came in 5s"),
    ];
    for (answers, steps, expected) in cases {
        let outcome = play_to(answers, Profile::spec(), &steps).await;
        assert_eq!(text(&outcome), expected, "{outcome}");
    }
    let real = start.elapsed();
    assert!(real < 10 * SECOND, "{real:?} went by outside");
}

#[tokio::test(start_paused = true)]
async fn a_server_without_receipts_is_left_alone_for_a_while() {
    let subscribe = "@connect\n@subscribe id:s1 destination:/q\n";
    let message = "< MESSAGE\n< ...\n<\n< x^@\n";
    let connected = (NOW, CONNECTED);
    let delivered = (NOW, "MESSAGE\nsubscription:s1\n\nx\0");
    let spring = || Profile::spring().unwrap();
    let cases: [(Answers, Profile, String, &str); 6] = [
        // No receipt is asked for, and what comes at once is for the steps that follow.
        (vec![connected], spring(), subscribe.into(), ""),
        (vec![connected, delivered], spring(), format!("{subscribe}{message}"), ""),
        (
            vec![connected, delivered],
            spring(),
            subscribe.into(),
            "at the end: expected no frame, got MESSAGE",
        ),
        (vec![connected], spring(), format!("{subscribe}<nothing\n"), ""),
        (
            vec![connected],
            spring(),
            format!("{subscribe}{message}"),
            "expected MESSAGE, nothing came in 5s",
        ),
        (
            vec![connected],
            Profile::spec(),
            subscribe.into(),
            "expected RECEIPT, nothing came in 5s",
        ),
    ];
    for (answers, profile, steps, expected) in cases {
        let outcome = play_to(answers, profile, &steps).await;
        assert_eq!(text(&outcome), expected, "{steps}\n{outcome}");
    }
}

/// What comes on one connection while another is waited for is in the trace when it came.
#[tokio::test(start_paused = true)]
async fn all_connections_are_read_at_any_time() {
    let count = AtomicUsize::new(0);
    let open = move || {
        let (client, server) = duplex(1 << 16);
        let second = match count.fetch_add(1, Ordering::Relaxed) {
            0 => (3 * SECOND, "RECEIPT\n\n\0"),
            _ => (SECOND, "MESSAGE\n\n\0"),
        };
        tokio::spawn(serve(server, vec![(NOW, CONNECTED), second]));
        client
    };
    let target = Target::in_process(open, "user", "s3cret", Profile::spec());
    let steps = "@connect a\n@connect b\nb> SEND\nb>\nb> ^@\na> SEND\na>\na> ^@\na< X\na<\na< ^@\n";
    let outcome = play(&target, steps).await;
    let Verdict::Failed(failure) = &outcome.verdict else { panic!("{outcome}") };
    let last: Vec<String> = failure.trace.iter().skip(6).map(ToString::to_string).collect();
    let expected = ["  1000 ms  b< \"MESSAGE\\n\\n\\0\"", "  3000 ms  a< \"RECEIPT\\n\\n\\0\""];
    assert_eq!(last, expected, "{outcome}");
}

#[tokio::test(start_paused = true)]
async fn a_web_socket_in_this_process() {
    let open = || {
        let (client, server) = duplex(1 << 16);
        tokio::spawn(async move {
            let Ok(mut socket) = accept_async(server).await else { return };
            while let Some(Ok(message)) = socket.next().await {
                if message.is_text() {
                    socket.send(Message::text(CONNECTED)).await.unwrap_or_default();
                }
            }
        });
        client
    };
    let target = Target::in_process(open, "user", "s3cret", Profile::spec()).over_web_socket();
    let outcome = play(&target, "@connect\n<as binary\n").await;
    assert_eq!(outcome.name, "case/1.2/ws-text");
    assert_eq!(text(&outcome), "expected a binary message, got a text one");
}
