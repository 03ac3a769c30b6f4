//! A wrong answer must make the runner fail: small servers that answer right, then wrong.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy does not take the helpers of a test file for tests"
)]

use std::time::Duration;

use conformance_tests::{
    Difference, Expected, Filter, Outcome, Profile, Runner, Target, Transport, Verdict, parse,
};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

const CONNECTED: &str = "CONNECTED\nversion:1.2\n\n\0";
/// Longer than any answer here takes, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(20);
/// For servers that never answer.
const SHORT: Duration = Duration::from_secs(1);

/// What the server does for each NUL that came: `None` closes.
type Answers = &'static [Option<&'static str>];

/// One case of `steps`, in 1.2.
fn case(steps: &str) -> String {
    format!("# A case\n@id case\n@versions 1.2\n@level must\n@section none\n@why because\n{steps}")
}

async fn serve_tcp(mut stream: TcpStream, answers: Answers) {
    let mut answers = answers.iter();
    let mut buffer = [0; 1024];
    while let Ok(count) = stream.read(&mut buffer).await {
        if count == 0 {
            return;
        }
        for _ in buffer[..count].iter().filter(|byte| **byte == 0) {
            match answers.next() {
                Some(Some(answer)) => stream.write_all(answer.as_bytes()).await.unwrap_or_default(),
                Some(None) => return,
                None => {}
            }
        }
    }
}

async fn play_tcp(text: &str, answers: Answers, limit: Duration, profile: Profile) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        serve_tcp(stream, answers).await;
    });
    let outcome = play(&url, text, limit, profile).await;
    server.await.unwrap();
    outcome
}

async fn play(url: &str, text: &str, limit: Duration, profile: Profile) -> Outcome {
    let target = Target::new(url, "user", "s3cret", profile).unwrap();
    let runner = Runner { limit, jobs: 1 };
    let report = runner.run(&target, &Filter::default(), parse("f", text).unwrap()).await;
    let [outcome] = report.outcomes.as_slice() else { panic!("{report}") };
    assert_eq!(
        report.is_success(),
        matches!(outcome.verdict, Verdict::Passed | Verdict::Differs { .. })
    );
    outcome.clone()
}

fn failure(outcome: &Outcome) -> &str {
    match &outcome.verdict {
        Verdict::Passed => "",
        Verdict::Failed(failure) => &failure.text,
        other => panic!("{other:?}"),
    }
}

const SEND: &str = "> SEND\n> destination:/queue/a\n> receipt:r\n>\n> x^@\n";
const RECEIPT: &str = "< RECEIPT\n< receipt-id:r\n<\n< ^@\n";
const MESSAGE: &str = "< MESSAGE\n< subscription:s1\n< ack:${ack=*}\n< !receipt\n< ...\n<\n< x^@\n";

#[tokio::test]
async fn right_answers_pass() {
    let cases: [(String, Answers); 10] = [
        (
            "@connect\n".into(),
            &[Some(CONNECTED), Some(""), Some("RECEIPT\nreceipt-id:barrier-1\n\n\0")],
        ),
        (format!("{SEND}{RECEIPT}"), &[Some("RECEIPT\nreceipt-id:r\n\n\0\n")]),
        (format!("{SEND}{MESSAGE}"), &[Some("MESSAGE\nack:7\nx:y\nsubscription:s1\n\nx\0")]),
        (
            format!("{SEND}{MESSAGE}> ACK\n> id:${{ack}}\n>\n> ^@\n<close\n"),
            &[Some("MESSAGE\nack:7\nsubscription:s1\ncontent-length:1\n\nx\0"), None],
        ),
        (
            format!("{SEND}@any-order\n{RECEIPT}{MESSAGE}@end\n"),
            &[Some("MESSAGE\nack:7\nsubscription:s1\n\nx\0RECEIPT\nreceipt-id:r\n\n\0")],
        ),
        (
            format!("{SEND}{SEND}<error 1002 Bad thing\n"),
            &[Some("ERROR\nmessage:Bad thing\n\nwhy\0"), None],
        ),
        (format!("{SEND}{SEND}<refused 1002\n"), &[None]),
        (format!("{SEND}<beat\n"), &[Some("\n")]),
        (
            format!("{SEND}{MESSAGE}@differ ${{ack}} 8\n"),
            &[Some("MESSAGE\nack:7\nsubscription:s1\n\nx\0")],
        ),
        (
            format!("{SEND}<nothing\n"),
            &[Some(""), Some(""), Some("RECEIPT\nreceipt-id:barrier-1\n\n\0")],
        ),
    ];
    for (steps, answers) in cases {
        let outcome = play_tcp(&case(&steps), answers, PATIENCE, Profile::spec()).await;
        assert_eq!(failure(&outcome), "", "{steps}\n{outcome}");
    }
}

#[tokio::test]
async fn wrong_answers_fail() {
    let message = format!("{SEND}{MESSAGE}");
    let receipt = format!("{SEND}{RECEIPT}");
    let error = format!("{SEND}{SEND}<error 1002 Bad thing\n");
    let nothing = format!("{SEND}<nothing\n");
    let order = format!("{SEND}@any-order\n{RECEIPT}{MESSAGE}@end\n");
    let differ = format!("{SEND}{MESSAGE}@differ 6 ${{ack}} 7\n");
    let cases: [(&str, Answers, &str); 24] = [
        ("@connect\n", &[None], "expected CONNECTED, the connection was closed"),
        ("@connect\n", &[Some("CONNECTED\nversion:1.1\n\n\0")], r#"expected "1.2", got "1.1""#),
        ("@connect\n", &[Some("CONNECTED\n\n\0")], "header `version` is missing"),
        ("@connect\n", &[Some(CONNECTED), None], "at the end: expected no frame, the connection"),
        (
            "@connect\n",
            &[Some(CONNECTED), Some("MESSAGE\n\nlate\0")],
            "at the end: expected no frame, got MESSAGE",
        ),
        (&receipt, &[Some("RECEIPT\nreceipt-id:q\n\n\0")], r#"expected "r", got "q""#),
        (&receipt, &[Some("RECEIPT\n\n\0")], "header `receipt-id` is missing in RECEIPT"),
        (&receipt, &[Some("RECEIPT\nreceipt-id:r\nx:y\n\n\0")], r#"a further header "x": "y""#),
        (&receipt, &[Some("RECEIPT\nreceipt-id:r\n\nbody\0")], r#"body: expected "", got "body""#),
        (&receipt, &[Some("ERROR\nmessage:no\n\n\0")], r#"expected RECEIPT, got ERROR "no""#),
        (&receipt, &[Some("receipt\nreceipt-id:r\n\n\0")], "expected RECEIPT, got receipt"),
        (&receipt, &[Some("RECEIPT\nreceipt-id\n\n\0")], "header without a colon"),
        (&message, &[Some("MESSAGE\nsubscription:s1\n\nx\0")], "header `ack` is missing"),
        (
            &message,
            &[Some("MESSAGE\nsubscription:s2\nsubscription:s1\nack:1\n\nx\0")],
            r#"header `subscription`: expected "s1", got "s2""#,
        ),
        (
            &message,
            &[Some("MESSAGE\nsubscription:s1\nack:1\nreceipt:r\n\nx\0")],
            "header `receipt` must not be there",
        ),
        (
            &message,
            &[Some("MESSAGE\nsubscription:s1\nack:1\n\nxy\0")],
            r#"body: expected "x", got "xy""#,
        ),
        (
            &message,
            &[Some("MESSAGE\nsubscription:s1\nack:1\ncontent-length:2\n\nx\0\n")],
            "no NUL after the 2 bytes of content-length",
        ),
        (
            &differ,
            &[Some("MESSAGE\nsubscription:s1\nack:7\n\nx\0")],
            r#"expected different values, got "7" twice"#,
        ),
        (&error, &[Some("RECEIPT\nreceipt-id:r\n\n\0")], "expected ERROR, got RECEIPT"),
        (
            &error,
            &[Some("ERROR\nmessage:Bad thing\n\n\0"), Some("RECEIPT\n\n\0")],
            "expected a close, got RECEIPT",
        ),
        (&nothing, &[Some("MESSAGE\n\nx\0")], "expected no frame, got MESSAGE"),
        (&nothing, &[Some("RECEIPT\nreceipt-id:r\n\n\0")], r#"got RECEIPT of "r""#),
        (
            &order,
            &[Some("RECEIPT\nreceipt-id:r\n\n\0RECEIPT\nreceipt-id:r\n\n\0")],
            "expected MESSAGE, got RECEIPT",
        ),
        ("> A\n>\n> ^@\n<beat\n", &[Some("A\n\n\0")], "expected a heart-beat, got A"),
    ];
    for (steps, answers, expected) in cases {
        let outcome = play_tcp(&case(steps), answers, PATIENCE, Profile::spec()).await;
        assert!(failure(&outcome).contains(expected), "{expected}\n{steps}\n{outcome}");
    }
}

#[tokio::test]
async fn silence_fails() {
    for (steps, expected) in [
        (format!("{SEND}{RECEIPT}"), "expected RECEIPT, nothing came in 1s"),
        (format!("{SEND}<close\n"), "expected a close, nothing came in 1s"),
        (format!("{SEND}<error\n"), "expected ERROR, nothing came in 1s"),
        (format!("{SEND}<nothing\n"), "expected no frame, nothing came in 1s"),
    ] {
        let outcome = play_tcp(&case(&steps), &[], SHORT, Profile::spec()).await;
        assert_eq!(failure(&outcome), expected, "{outcome}");
    }
}

#[tokio::test]
async fn strict_profiles_compare_messages_and_want_an_error() {
    let steps = case(&format!("{SEND}{SEND}<error 1002 Bad thing\n"));
    let other: Answers = &[Some("ERROR\nmessage:Other\n\n\0"), None];
    let cases: [(Answers, Profile, &str); 4] = [
        (other, Profile::spec(), ""),
        (
            other,
            Profile::stomp_relay().unwrap(),
            r#"header `message`: expected "Bad thing", got "Other""#,
        ),
        (&[None], Profile::spec(), ""),
        (&[None], Profile::stomp_relay().unwrap(), "expected ERROR, the connection was closed"),
    ];
    for (answers, profile, expected) in cases {
        assert_eq!(failure(&play_tcp(&steps, answers, PATIENCE, profile).await), expected);
    }
}

#[tokio::test]
async fn a_listed_difference_must_be_the_one_listed() {
    let steps = case(&format!("{SEND}{RECEIPT}"));
    let right: Answers = &[Some("RECEIPT\nreceipt-id:r\n\n\0")];
    let wrong: Answers = &[Some("ERROR\nmessage:no\n\n\0")];
    let verdict = async |answers, fails_with: &str| {
        let difference = Difference {
            cases: vec!["case/*/tcp".into()],
            fails_with: fails_with.into(),
            reason: "known".into(),
        };
        let expected = Expected { differences: vec![difference], ..Expected::new() };
        let profile = Profile::spec().with_expected(expected);
        play_tcp(&steps, answers, PATIENCE, profile).await.verdict
    };
    assert!(matches!(verdict(wrong, "got ERROR").await, Verdict::Differs { .. }));
    assert!(matches!(verdict(wrong, "a close").await, Verdict::DiffersOtherwise { .. }));
    assert!(matches!(verdict(right, "got ERROR").await, Verdict::PassedUnexpectedly { .. }));
}

#[tokio::test]
async fn a_report_shows_all_bytes_but_the_passcode() {
    let text = case("@connect\n");
    let outcome = play_tcp(&text, &[Some("ERROR\nmessage:no\n\n\0")], PATIENCE, Profile::spec());
    let shown = outcome.await.to_string();
    for part in [
        "FAILED   case 1.2/tcp (f:7)",
        "A case [must: none]",
        r#"> "CONNECT\naccept-version:1.2\nhost:/\nlogin:user\npasscode:***\n\n\0""#,
        r#"< "ERROR\nmessage:no\n\n\0""#,
    ] {
        assert!(shown.contains(part), "{part}\n{shown}");
    }
    assert!(!shown.contains("s3cret"));
}

#[tokio::test]
async fn names_of_a_run_are_not_in_what_is_told_of_it() {
    let text = case(&format!("> SEND\n> destination:${{queue}}\n>\n> ^@\n{MESSAGE}"));
    let text = text.replace("subscription:s1", "destination:${queue}");
    let outcome = play_tcp(
        &text,
        &[Some("MESSAGE\ndestination:/q/1\nack:1\n\nx\0")],
        PATIENCE,
        Profile::spec(),
    );
    let expected = r#"header `destination`: expected "/queue/${unique}", got "/q/1""#;
    assert_eq!(failure(&outcome.await), expected);
}

/// Lets in two connections. Once a has spoken b gets a message, and once b has spoken a gets a
/// receipt.
async fn tell_each_other(listener: TcpListener) {
    let (mut a, _) = listener.accept().await.unwrap();
    a.write_all(CONNECTED.as_bytes()).await.unwrap();
    let (mut b, _) = listener.accept().await.unwrap();
    b.write_all(CONNECTED.as_bytes()).await.unwrap();
    let mut buffer = [0; 1024];
    let mut said = Vec::new();
    while !said.ends_with(b"go\0") {
        let count = a.read(&mut buffer).await.unwrap();
        said.extend_from_slice(&buffer[..count]);
    }
    b.write_all(b"MESSAGE\n\none\0").await.unwrap();
    while said.last() != Some(&b'!') {
        let count = b.read(&mut buffer).await.unwrap();
        said.extend_from_slice(&buffer[..count]);
    }
    a.write_all(b"RECEIPT\n\n\0").await.unwrap();
    while a.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
}

#[tokio::test]
async fn a_trace_has_all_connections_in_order_of_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(tell_each_other(listener));
    let steps = "@connect a\n@connect b\na> SEND\na>\na> go^@\nb< MESSAGE\nb<\nb< one^@\n\
                 b>|!\na< RECEIPT\na< x:y\na<\na< ^@\n";
    let outcome = play(&url, &case(steps), PATIENCE, Profile::spec()).await;
    server.await.unwrap();
    let Verdict::Failed(failed) = &outcome.verdict else { panic!("{outcome}") };
    let lines: Vec<String> =
        failed.trace.iter().map(|line| format!("{}{}", line.connection, line.text)).collect();
    let expected =
        [r#"a> "SEND\n\ngo\0""#, r#"b< "MESSAGE\n\none\0""#, r#"b> "!""#, r#"a< "RECEIPT\n\n\0""#];
    assert_eq!(lines[4..8], expected, "{outcome}");
    assert!(failed.trace.is_sorted_by_key(|line| line.milliseconds));
}

/// Answers the first message, then closes with `code`.
async fn play_web_socket(steps: &str, answer: Message, code: u16) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/ws", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
        socket.next().await;
        let close = CloseFrame { code: code.into(), reason: "".into() };
        let sent = socket.send(answer).await.is_ok() && socket.close(Some(close)).await.is_ok();
        while sent && matches!(socket.next().await, Some(Ok(_))) {}
    });
    let text = case(steps).replace("@level", "@transports ws-text\n@level");
    let outcome = play(&url, &text, PATIENCE, Profile::stomp_relay().unwrap()).await;
    server.await.unwrap();
    assert!(outcome.name.ends_with(Transport::WsText.name()));
    failure(&outcome).to_owned()
}

#[tokio::test]
async fn web_socket_faults() {
    let error = || Message::text("ERROR\nmessage:Bad thing\n\n\0");
    let steps = "> A\n>\n> ^@\n<error 1002 Bad thing\n";
    assert_eq!(play_web_socket(steps, error(), 1002).await, "");
    let wrong_code = play_web_socket(steps, error(), 1008).await;
    assert_eq!(wrong_code, "expected close 1002, got 1008");
    let kind = "> A\n>\n> ^@\n< B\n<\n< ^@\n<as text\n<close\n";
    assert_eq!(play_web_socket(kind, Message::text("B\n\n\0"), 1000).await, "");
    let wrong_kind = play_web_socket(kind, Message::binary(&b"B\n\n\0"[..]), 1000).await;
    assert_eq!(wrong_kind, "expected a text message, got a binary one");
    let half = play_web_socket(kind, Message::text("B\n\n"), 1000).await;
    assert!(half.contains(r#"closed within a frame: "B\n\n""#), "{half}");
    let offer = "@open offer=v12.stomp select=v12.stomp\n> A\n>\n> ^@\n<close\n";
    let refused = play_web_socket(offer, Message::text(""), 1000).await;
    assert_eq!(refused, "expected subprotocol v12.stomp, got none");
    let unknown = "@open offer=a select=none\n> A\n>\n> ^@\n<close\n";
    assert_eq!(play_web_socket(unknown, Message::text(""), 1000).await, "");
}

#[tokio::test]
async fn nothing_played_is_no_success() {
    let target = Target::new("tcp://127.0.0.1:1", "u", "p", Profile::spec()).unwrap();
    let filter = Filter { only: vec!["nothing".into()], ..Filter::default() };
    let cases = parse("f", &case("@connect\n")).unwrap();
    let report = Runner::default().run(&target, &filter, cases).await;
    assert!(report.outcomes.is_empty() && !report.is_success());
}
