//! Users files, good and bad, and passwords.

use std::path::PathBuf;

use tempfile::TempDir;

use super::*;

const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// As cheap as argon2id can be.
fn cheap(password: &str) -> String {
    hash_with(Params::new(64, 1, 1, None).unwrap(), password).unwrap().to_string()
}

/// So costly that others come while it is verified.
fn costly(password: &str) -> String {
    hash_with(Params::new(4096, 3, 1, None).unwrap(), password).unwrap().to_string()
}

struct Fixture {
    dir: TempDir,
    users: Users,
}

impl Fixture {
    fn new(text: &str, failures: u32) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("users.txt");
        fs::write(&path, text).unwrap();
        let users = Users::new(UsersConfig::File(path), NonZeroU32::new(failures)).unwrap();
        Self { dir, users }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("users.txt")
    }

    async fn verify(&self, user: &str, password: &str) -> Result<Principal, AuthError> {
        self.users.verify(user, password, PEER).await
    }

    /// Writes the file anew and makes the next login look at it.
    fn rewrite(&self, text: &str) {
        fs::write(self.path(), text).unwrap();
        let mut state = self.users.state();
        state.looked = Instant::now().checked_sub(LOOK_EVERY).unwrap();
        // Two writes may fall into one tick of the file system's clock.
        state.stamp = None;
    }
}

fn lines(text: &str) -> Vec<(usize, String)> {
    let mistakes = parse(text).err().unwrap_or_default();
    mistakes.into_iter().map(|mistake| (mistake.line.unwrap(), mistake.text)).collect()
}

#[test]
fn every_broken_line_is_named() {
    let good = cheap("x");
    let text = format!(
        "# comment\n\nalice:{good}\nbob:{good}:a, b\nbob:{good}\nno-colon\n:{good}\nx:plain\n\
         x:{}\ny:{good}:\nz:{good}:a,,b\n w:{good}\nv:{}\nu:$2y$10$abcdefghijklmnopqrstuv\n{}:{good}\n",
        good.replace("argon2id", "argon2i"),
        good.replace("m=64", "m=1048576"),
        "n".repeat(129),
    );
    let expected = [
        (5, "\"bob\" is there twice"),
        (6, "has no colon"),
        (7, "has no user name"),
        (8, "has no argon2id hash"),
        (9, "has no argon2id hash"),
        (10, "has an empty role"),
        (11, "has an empty role"),
        (12, "has white space"),
        (13, "has a hash that costs more than"),
        (14, "has no argon2id hash"),
        (15, "has no user name"),
    ];
    let found = lines(&text);
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for ((line, text), (expected_line, expected)) in found.iter().zip(expected) {
        assert!(*line == expected_line && text.starts_with(expected), "{line} {text}");
        assert!(!text.contains("$argon2"), "{text}");
    }
    assert!(parse(&text.lines().take(4).collect::<Vec<_>>().join("\r\n")).is_ok());
    assert!(parse("").is_ok());
}

#[test]
fn a_printed_hash_is_taken() {
    let hash = hash("secret").unwrap();
    assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
    assert!(parse(&format!("alice:{hash}")).is_ok());
    assert!(super::hash(&"x".repeat(MAX_PASSWORD_BYTES + 1)).is_err());
}

#[tokio::test]
async fn names_and_passwords() {
    let text = format!("alice:{}:admin,ops\nbo.b/é:{}", cheap("s3cret: ü"), cheap(""));
    let fixture = Fixture::new(&text, 1000);
    let alice = fixture.verify("alice", "s3cret: ü").await.unwrap();
    assert_eq!((&*alice.name, alice.expires_at), ("alice", None));
    assert_eq!(alice.roles, ["admin", "ops"]);
    assert!(fixture.verify("bo.b/é", "").await.unwrap().roles.is_empty());
    let long = "x".repeat(MAX_PASSWORD_BYTES + 1);
    for (user, password) in [
        ("alice", ""),
        ("alice", "s3cret: u"),
        ("alice", "s3cret: ü\0"),
        ("alice", &long),
        ("Alice", "s3cret: ü"),
        ("alice ", "s3cret: ü"),
        ("bob", ""),
        ("", ""),
        ("a\nb", ""),
        (&long, ""),
    ] {
        let expected = AuthError::Refused { user: user.into() };
        assert_eq!(fixture.verify(user, password).await, Err(expected));
    }
}

/// What is right is remembered for that password and that hash only.
#[tokio::test]
async fn a_remembered_password_is_forgotten_with_its_hash() {
    let fixture = Fixture::new(&format!("alice:{}:old", cheap("one")), 1000);
    for _ in 0..2 {
        assert_eq!(fixture.verify("alice", "one").await.unwrap().roles, ["old"]);
    }
    assert_eq!(fixture.users.state().remembered.len(), 1);
    assert!(fixture.verify("alice", "two").await.is_err());
    fixture.rewrite(&format!("alice:{}:new", cheap("two")));
    assert!(fixture.verify("alice", "one").await.is_err());
    assert_eq!(fixture.verify("alice", "two").await.unwrap().roles, ["new"]);
    fixture.rewrite("# nobody");
    assert!(fixture.verify("alice", "two").await.is_err());
}

#[tokio::test]
async fn a_broken_new_file_leaves_the_accounts() {
    let fixture = Fixture::new(&format!("alice:{}", cheap("one")), 1000);
    fixture.rewrite("alice");
    assert!(fixture.verify("alice", "one").await.is_ok());
    fs::remove_file(fixture.path()).unwrap();
    fixture.users.state().looked = Instant::now().checked_sub(LOOK_EVERY).unwrap();
    assert!(fixture.verify("alice", "one").await.is_ok());
    fixture.rewrite(&format!("bob:{}", cheap("two")));
    assert!(fixture.verify("alice", "one").await.is_err());
    assert!(fixture.verify("bob", "two").await.is_ok());
}

#[tokio::test]
async fn too_many_wrong_guesses() {
    let fixture = Fixture::new(&format!("alice:{0}\nbob:{0}", cheap("one")), 3);
    for _ in 0..3 {
        let refused = AuthError::Refused { user: "alice".into() };
        assert_eq!(fixture.verify("alice", "wrong").await, Err(refused));
    }
    // The right one too, else guessing would go on.
    for password in ["wrong", "one"] {
        let result = fixture.verify("alice", password).await;
        assert!(
            matches!(result, Err(AuthError::TooMany { retry_after }) if !retry_after.is_zero())
        );
    }
    assert!(fixture.verify("bob", "one").await.is_ok());
    let elsewhere = "10.0.0.1".parse().unwrap();
    assert!(fixture.users.verify("alice", "one", elsewhere).await.is_ok());
}

/// A storm of reconnects with one password costs one verification and fills no queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_guess_is_verified_once() {
    let fixture = Arc::new(Fixture::new(&format!("alice:{}", costly("one")), 10_000));
    let tasks: Vec<_> = (0..2 * MAX_WAITING)
        .map(|number| {
            let fixture = Arc::clone(&fixture);
            let password = if number % 2 == 0 { "one" } else { "two" };
            tokio::spawn(async move { (number, fixture.verify("alice", password).await) })
        })
        .collect();
    for task in tasks {
        let (number, result) = task.await.unwrap();
        match result {
            Ok(_) => assert_eq!(number % 2, 0),
            Err(error) => {
                assert_eq!(error, AuthError::Refused { user: "alice".into() });
                assert_eq!(number % 2, 1);
            }
        }
    }
    assert!(fixture.users.state().flights.is_empty());
}

/// Different guesses wait in a queue that ends; beyond it they are told to come back.
#[tokio::test]
async fn the_queue_ends() {
    let fixture = Fixture::new(&format!("alice:{}", cheap("one")), 10_000);
    let held = Arc::clone(&fixture.users.waiting);
    let all = u32::try_from(held.available_permits()).unwrap();
    let held = held.acquire_many_owned(all).await.unwrap();
    let result = fixture.verify("alice", "one").await;
    assert_eq!(result, Err(AuthError::TooMany { retry_after: Duration::from_secs(1) }));
    drop(held);
    assert!(fixture.verify("alice", "one").await.is_ok());
}

/// Whoever verifies may go away; those who wait for the outcome do it themselves then.
#[tokio::test]
async fn a_login_that_goes_away_takes_nobody_with_it() {
    let fixture = Fixture::new(&format!("alice:{}", cheap("one")), 1000);
    let turns = Arc::clone(&fixture.users.turns);
    let all = u32::try_from(turns.available_permits()).unwrap();
    let held = turns.acquire_many_owned(all).await.unwrap();
    let mut first = Box::pin(fixture.verify("alice", "one"));
    let mut second = Box::pin(fixture.verify("alice", "one"));
    assert!(futures_util::poll!(&mut first).is_pending());
    assert!(futures_util::poll!(&mut second).is_pending());
    assert_eq!(fixture.users.state().flights.len(), 1);
    drop(first);
    drop(held);
    assert!(second.await.is_ok());
}

/// An unknown name takes the way a known one takes, at the price of the dearest account.
#[tokio::test]
async fn a_name_that_nobody_has_costs_as_much() {
    let text = format!("alice:{}\nbob:{}", cheap("one"), costly("two"));
    let fixture = Fixture::new(&text, 1000);
    let nobody = Params::try_from(&*fixture.users.state().table.nobody).unwrap();
    assert_eq!((nobody.m_cost(), nobody.t_cost()), (4096, 3));
    let turns = Arc::clone(&fixture.users.turns);
    let all = u32::try_from(turns.available_permits()).unwrap();
    let held = turns.acquire_many_owned(all).await.unwrap();
    let mut unknown = Box::pin(fixture.verify("nobody", ""));
    assert!(futures_util::poll!(&mut unknown).is_pending());
    drop(held);
    assert!(unknown.await.is_err());
}
