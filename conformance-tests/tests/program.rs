//! The built program played against a server that passes some cases and fails others.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy does not take the helpers of a test file for tests"
)]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use support::broker::broker;
use support::{Ran, program, run, serve};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

/// What every run here needs: an answer takes no second, and heart-beats are not waited for.
const FAST: [&str; 6] = ["--timeout", "1", "--jobs", "64", "--skip-tag", "slow"];

/// A header that CONNECT must have, or must not.
type Wanted = (&'static str, Option<&'static str>);

async fn start(wanted: &[Wanted]) -> String {
    let wanted = Arc::new(wanted.to_vec());
    format!("tcp://{}", serve(move |stream| broker(stream, Arc::clone(&wanted))).await)
}

async fn play(url: &str, more: &[&str]) -> Ran {
    run([url].into_iter().chain(FAST).chain(more.iter().copied())).await
}

async fn json(url: &str, more: &[&str]) -> Value {
    let more = [&["--format", "json"], more].concat();
    let ran = play(url, &more).await;
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran}"))
}

fn outcomes(run: &Value) -> &[Value] {
    run["outcomes"].as_array().unwrap()
}

/// The names of cases of a level with that verdict.
fn names<'a>(run: &'a Value, level: &str, verdict: &str) -> Vec<&'a str> {
    outcomes(run)
        .iter()
        .filter(|outcome| outcome["level"] == level && outcome["verdict"] == verdict)
        .map(|outcome| outcome["name"].as_str().unwrap())
        .collect()
}

/// One case that passes and one that fails, of the levels must and should.
struct Known {
    must_passes: String,
    must_fails: String,
    should_fails: String,
}

impl Known {
    async fn of(url: &str) -> Self {
        let run = json(url, &[]).await;
        let first = |level, verdict| names(&run, level, verdict)[0].to_owned();
        Self {
            must_passes: first("must", "passed"),
            must_fails: first("must", "failed"),
            should_fails: first("should", "failed"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_code_is_of_the_level() {
    let url = start(&[]).await;
    let Known { must_passes, must_fails, should_fails } = &Known::of(&url).await;
    let rows: [(&[&str], i32, &str); 7] = [
        (&["--only", must_passes], 0, "PASSED: nothing beyond"),
        (&["--only", must_fails], 1, "FAILED: 1 must beyond"),
        (&["--only", must_passes, "--only", should_fails], 0, "PASSED: 1 should beyond"),
        (&["--only", should_fails, "--fail-on", "should"], 1, "FAILED: 1 should beyond"),
        (&["--only", should_fails, "--fail-on", "field"], 1, "FAILED: 1 should beyond"),
        (&["--only", should_fails, "--level", "must"], 2, ""),
        (&["--only", must_fails, "--format", "junit"], 1, "<failure message="),
    ];
    for (args, code, expected) in rows {
        let ran = play(&url, args).await;
        assert!(ran.code == code && ran.stdout.contains(expected), "{args:?} {ran}");
        assert!(ran.stderr.is_empty() || code == 2, "{ran}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_told_in_full() {
    let url = start(&[]).await;
    let Known { must_fails, .. } = &Known::of(&url).await;
    let run = json(&url, &["--only", must_fails]).await;
    let outcome = &outcomes(&run)[0];
    let text = play(&url, &["--only", must_fails]).await.stdout;
    for key in ["title", "why", "section", "level", "file"] {
        let part = outcome[key].as_str().unwrap();
        assert!(!part.is_empty() && text.contains(part), "{key}: {part}\n{text}");
    }
    let kind = outcome["failure"]["kind"].as_str().unwrap();
    assert!(text.contains(kind), "{text}");
    let trace = outcome["failure"]["trace"].as_array().unwrap();
    let said = |side: &str| trace.iter().any(|l| l["text"].as_str().unwrap().starts_with(side));
    assert!(said("> \"") && said("< \""), "{trace:?}");
    assert!(text.contains(r#"< "ERROR\nmessage:Few words\n\n\0""#), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_differences_is_written_and_kept() {
    let url = start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("expected.toml");
    let file = list.to_str().unwrap();
    let first = play(&url, &["--write-expected", file]).await;
    assert!(first.code == 1 && first.stdout.contains("FAILED  "), "{first}");
    let second = play(&url, &["--expected", file, "--fail-on", "field"]).await;
    assert!(second.code == 0 && !second.stdout.contains("FAILED  "), "{second}");
    // Written again from a run with it, it is the same.
    let before = std::fs::read_to_string(&list).unwrap();
    play(&url, &["--expected", file, "--write-expected", file]).await;
    assert_eq!(std::fs::read_to_string(&list).unwrap(), before);

    // What is listed and passes is a failure, whatever level counts.
    let Known { must_passes, must_fails, .. } = &Known::of(&url).await;
    let stale = folder.path().join("stale.toml");
    let text = format!("[[difference]]\nreason = 'gone'\ncases = ['{must_passes}']\n");
    std::fs::write(&stale, text).unwrap();
    let args = ["--only", must_passes, "--expected", stale.to_str().unwrap()];
    let ran = play(&url, &args).await;
    assert!(ran.code == 1 && ran.stdout.contains("is listed as different: gone"), "{ran}");
    assert!(ran.stdout.contains("FAILED: 1 listed as different that pass"), "{ran}");

    // What fails in another way than listed is one too.
    let text = format!(
        "[[difference]]\nreason = 'r'\nfails_with = 'otherwise'\ncases = ['{must_fails}']\n"
    );
    std::fs::write(&stale, text).unwrap();
    let args = ["--only", must_fails, "--expected", stale.to_str().unwrap()];
    let ran = play(&url, &args).await;
    assert!(
        ran.code == 1 && ran.stdout.contains("is listed to fail otherwise: otherwise"),
        "{ran}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn json_says_everything_but_secrets() {
    let url = start(&[]).await;
    let secrets = ["--passcode", "s3cret-one", "--connect-header", "token:s3cret-two"];
    let run = json(&url, &secrets).await;
    let about = &run["about"];
    assert_eq!(about["url"], url.as_str());
    assert_eq!(about["server"], "few/1");
    assert_eq!(about["label"], "few/1");
    assert_eq!(about["profile"], "spec");
    assert_eq!(about["complete"], true);
    let command = about["command"].as_str().unwrap();
    assert!(command.contains("--passcode '***' --connect-header 'token:***'"), "{command}");
    assert!(!run.to_string().contains("s3cret"));
    // The secrets were sent, or there would be nothing to hide.
    assert!(run.to_string().contains(r"passcode:***\\ntoken:***\\n"));

    let all = outcomes(&run);
    for level in ["must", "should", "may", "field"] {
        let count = |verdict| names(&run, level, verdict).len() as u64;
        assert_eq!(run["counts"][level]["passed"], count("passed"), "{level}");
        assert_eq!(run["counts"][level]["failed"], count("failed"), "{level}");
    }
    assert_eq!(run["counts"]["field"]["failed"], 0);
    assert!(names(&run, "must", "passed").len() > 5 && names(&run, "must", "failed").len() > 50);
    let sorted: Vec<&str> = all.iter().map(|o| o["name"].as_str().unwrap()).collect();
    assert!(sorted.is_sorted());
    let labelled = json(&url, &["--label", "mine", "--level", "must", "--stomp", "1.1"]).await;
    assert_eq!(labelled["about"]["label"], "mine");
    let own = outcomes(&labelled);
    assert!(own.iter().all(|o| o["version"] == "1.1" && o["level"] == "must"));
    assert!(own.len() > 10 && own.len() < all.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn junit_is_xml_with_every_case() {
    let url = start(&[]).await;
    let run = json(&url, &[]).await;
    let ran = play(&url, &["--format", "junit"]).await;
    let document = roxmltree::Document::parse(&ran.stdout).unwrap();
    let tests = |tag: &str| document.descendants().filter(|n| n.has_tag_name(tag)).count();
    assert_eq!(tests("testcase"), outcomes(&run).len());
    assert_eq!(tests("failure"), names(&run, "must", "failed").len());
    assert_eq!(ran.code, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_runs_make_the_same_page() {
    let url = start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let ran = play(&url, &["--format", "json", "--level", "must"]).await;
    std::fs::write(path("run.json"), &ran.stdout).unwrap();
    for page in ["one.md", "two.md"] {
        let ran = run(["table", "--out", &path(page), &path("run.json")]).await;
        assert!(ran.code == 0 && ran.stdout.is_empty() && ran.stderr.is_empty(), "{ran}");
    }
    let page = std::fs::read_to_string(path("one.md")).unwrap();
    assert_eq!(page, std::fs::read_to_string(path("two.md")).unwrap());
    assert_eq!(page, run(["table", &path("run.json")]).await.stdout);
    assert!(page.contains("| few/1 | tcp | spec |"), "{page}");
    assert!(page.contains("## Failures of few/1\n\n- "), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_account_is_sent_as_it_is_given() {
    let rows: [(&[Wanted], &[&str], bool); 7] = [
        (&[("login", Some("guest")), ("passcode", Some("guest"))], &[], true),
        (&[("login", Some("joe"))], &[], false),
        (
            &[("login", Some("joe")), ("passcode", Some("pw"))],
            &["--login", "joe", "--passcode", "pw"],
            true,
        ),
        (&[("login", None), ("passcode", None)], &["--login", ""], true),
        (&[("token", Some("a:b"))], &["--connect-header", "token: a:b"], true),
        (
            &[("token", Some("c")), ("login", None)],
            &["--connect-header", "token:c", "--login", ""],
            true,
        ),
        (&[("host", Some("tenant"))], &["--host", "tenant", "--stomp", "1.2"], true),
    ];
    for (wanted, args, expected) in rows {
        let url = start(wanted).await;
        if !expected {
            let ran = play(&url, args).await;
            assert!(ran.code == 2 && ran.stderr.contains("Wrong login"), "{ran}");
            continue;
        }
        let run = json(&url, args).await;
        // Transcripts write many a CONNECT themselves: those too are let in.
        let trace = |outcome: &Value| outcome["failure"]["trace"].to_string();
        let wrong = outcomes(&run).iter().filter(|o| trace(o).contains("message:Wrong"));
        let wrong: BTreeSet<&str> = wrong.map(|o| o["id"].as_str().unwrap()).collect();
        let passed = names(&run, "must", "passed").len();
        assert!(passed > 5, "{args:?}: {passed}");
        assert!(wrong.len() < 4, "{args:?}: {wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_passcode_comes_from_the_environment() {
    let url = start(&[("passcode", Some("from-env"))]).await;
    let args = [url.as_str(), "--format", "json", "--level", "must"].into_iter().chain(FAST);
    let output = program(args).env("STOMP_PASSCODE", "from-env").output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\"server\": \"few/1\"") && !text.contains("from-env"));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_begin_as_the_server_wants_them() {
    let url = start(&[]).await;
    let prefixes = "queue=jms.queue.,topic=jms.topic.";
    let run = json(&url, &["--destination-prefixes", prefixes]).await.to_string();
    assert!(
        run.contains("destination:jms.queue.conf-") && run.contains("destination:jms.topic.conf-")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_need_no_server() {
    let text = run(["--list"]).await;
    assert!(text.code == 0 && text.stdout.lines().count() > 100, "{text}");
    let json = run(["--list", "--format", "json", "--level", "must", "--stomp", "1.0"]).await;
    let cases: Value = serde_json::from_str(&json.stdout).unwrap();
    let cases = cases.as_array().unwrap();
    assert!(cases.len() > 20 && cases.len() < text.stdout.lines().count());
    for case in cases {
        assert!(case["level"] == "must" && case["versions"] == serde_json::json!(["1.0"]));
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("transcripts");
        assert!(file.join(case["file"].as_str().unwrap()).exists(), "{case}");
    }
    let one = run(["--list", "--only", cases[0]["id"].as_str().unwrap()]).await;
    assert_eq!(one.stdout.lines().count(), 1, "{one}");
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_told_where_it_is_wanted() {
    let url = start(&[]).await;
    let Known { must_passes, must_fails, .. } = &Known::of(&url).await;
    let only = ["--only", must_passes, "--only", must_fails];
    let silent = play(&url, &only).await;
    assert_eq!(silent.stderr, "");
    let told = play(&url, &[&only[..], &["--progress"]].concat()).await;
    let failure = format!("FAILED   {must_fails} [must]: ");
    assert!(told.stderr.contains("2/2  ") && told.stderr.contains(&failure), "{told}");
    assert!(!told.stderr.contains('\x1b'), "{told}");
}

/// Lets in where it should, and says nothing more; tells of each thing that came.
async fn hanging(lets_in: bool) -> (String, mpsc::Receiver<()>) {
    let (came, coming) = mpsc::channel(1);
    let address = serve(move |mut stream| {
        let came = came.clone();
        async move {
            let mut buffer = [0; 1024];
            let connected = b"CONNECTED\nversion:1.2\nserver:slow/1\n\n\0";
            while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                came.try_send(()).unwrap_or_default();
                if lets_in && (buffer.starts_with(b"CONNECT") || buffer.starts_with(b"STOMP")) {
                    stream.write_all(connected).await.unwrap_or_default();
                }
            }
        }
    });
    (format!("tcp://{}", address.await), coming)
}

/// What it printed after SIGINT, and its exit code.
#[cfg(unix)]
async fn interrupt(mut child: Child) -> (String, Option<i32>) {
    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
    let mut stdout = String::new();
    let ended = async {
        child.stdout.take().unwrap().read_to_string(&mut stdout).await.unwrap();
        child.wait().await.unwrap().code()
    };
    let code = tokio::time::timeout(Duration::from_secs(30), ended).await;
    (stdout, code.expect("it plays on"))
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_prints_what_there_is() {
    let (url, _coming) = hanging(true).await;
    for (format, expected) in [("text", "INTERRUPTED after"), ("json", "\"complete\": false")] {
        let args =
            [url.as_str(), "--timeout", "1", "--jobs", "1", "--progress", "--format", format];
        let mut command = program(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        // Once a failure is told, some has been played and much has not.
        while !lines.next_line().await.unwrap().unwrap().starts_with("FAILED") {}
        let (stdout, code) = interrupt(child).await;
        assert_eq!(code, Some(130), "{stdout}");
        assert!(stdout.contains(expected), "{stdout}");
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_the_first_connection_too() {
    let (url, mut coming) = hanging(false).await;
    let child = program([url.as_str(), "--timeout", "600"]).stdout(Stdio::piped()).spawn().unwrap();
    coming.recv().await.unwrap();
    assert_eq!(interrupt(child).await, (String::new(), Some(130)));
}
