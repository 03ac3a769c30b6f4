//! Accounts in a file: `name:argon2id-hash[:role,role]`, `#` begins a comment.
//!
//! A password costs tens of milliseconds and megabytes to verify. So at most as many are
//! verified at once as leave one core free, so many wait, the same guess is verified once
//! however many ask, and one that was right is remembered for a minute.

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::{constant_time, hmac};
use tokio::sync::{Semaphore, watch};

use super::failures::Failures;
use super::{AuthError, Principal, UsersConfig};
use crate::destination;

/// How often the file is looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const REMEMBER: Duration = Duration::from_secs(60);
const MAX_REMEMBERED: usize = 10_000;
/// Verifications that wait for their turn.
const MAX_WAITING: usize = 256;
const MAX_PASSWORD_BYTES: usize = 1024;
/// A hash in the file may ask for at most this much: 256 MiB, 20 passes, 16 lanes.
const MAX_COST: (u32, u32, u32) = (256 * 1024, 20, 16);
/// The accounts of `--dev`; their passwords are their names.
pub const DEV_USERS: [&str; 5] = ["alice", "bob", "carol", "admin", "guest"];

/// A line of the users file that is wrong, or the file itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsersMistake {
    pub line: Option<usize>,
    pub text: String,
}

impl std::fmt::Display for UsersMistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "users file, line {line}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// All accounts of a file.
#[derive(Debug)]
pub struct Table {
    accounts: HashMap<String, Account>,
    /// What a password of nobody is compared with.
    nobody: Arc<PasswordHash>,
}

#[derive(Debug)]
struct Account {
    hash: Arc<PasswordHash>,
    text: String,
    roles: Vec<String>,
}

/// Reads a users file.
///
/// # Errors
/// With every broken line.
pub fn load(path: &Path) -> Result<Table, Vec<UsersMistake>> {
    let text = fs::read_to_string(path).map_err(|error| {
        vec![UsersMistake {
            line: None,
            text: format!("{}: cannot be read: {error}", path.display()),
        }]
    })?;
    parse(&text)
}

/// Reads the text of a users file. No mistake repeats a hash.
///
/// # Errors
/// With every broken line.
pub fn parse(text: &str) -> Result<Table, Vec<UsersMistake>> {
    let mut accounts: HashMap<String, Account> = HashMap::new();
    let mut mistakes = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_end();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match account(line) {
            Ok((name, _)) if accounts.contains_key(&name) => {
                let text = format!("{name:?} is there twice");
                mistakes.push(UsersMistake { line: Some(index + 1), text });
            }
            Ok((name, account)) => {
                accounts.insert(name, account);
            }
            Err(text) => mistakes.push(UsersMistake { line: Some(index + 1), text }),
        }
    }
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    // As costly as a real one, so that time does not tell which names exist.
    let dearest = accounts.values().filter_map(|account| Params::try_from(&*account.hash).ok());
    let params =
        dearest.max_by_key(|params| u64::from(params.m_cost()) * u64::from(params.t_cost()));
    match hash_with(params.unwrap_or_default(), "") {
        Ok(nobody) => Ok(Table { accounts, nobody: Arc::new(nobody) }),
        Err(text) => Err(vec![UsersMistake { line: None, text }]),
    }
}

fn account(line: &str) -> Result<(String, Account), String> {
    let mut parts = line.splitn(3, ':');
    let (name, hash) = (parts.next().unwrap_or_default(), parts.next());
    if !destination::is_user_name(name) {
        return Err("has no user name of 1 to 128 bytes without control characters".into());
    }
    if name != name.trim() {
        return Err("has white space around the user name".into());
    }
    let text = hash.ok_or("has no colon: write name:hash, or name:hash:role,role")?;
    let hash = PasswordHash::new(text)
        .ok()
        .filter(|hash| hash.algorithm.as_str() == "argon2id" && hash.hash.is_some())
        .filter(|hash| hash.salt.is_some())
        .ok_or("has no argon2id hash after the name; stomp-relay hash-password makes one")?;
    let params = Params::try_from(&hash).map_err(|_| "has parameters argon2id does not take")?;
    let (memory, passes, lanes) = MAX_COST;
    if params.m_cost() > memory || params.t_cost() > passes || params.p_cost() > lanes {
        return Err(format!("has a hash that costs more than m={memory},t={passes},p={lanes}"));
    }
    let mut roles = Vec::new();
    for role in parts.next().map(|roles| roles.split(',')).into_iter().flatten() {
        let role = role.trim();
        if role.is_empty() || role.chars().any(char::is_control) {
            return Err("has an empty role".into());
        }
        roles.push(role.to_owned());
    }
    Ok((name.to_owned(), Account { hash: Arc::new(hash), text: text.to_owned(), roles }))
}

/// The hash of a password, for the users file.
///
/// # Errors
/// Where the password is too long, or the system has no random numbers.
pub fn hash(password: &str) -> Result<String, String> {
    if password.len() > MAX_PASSWORD_BYTES {
        return Err(format!("a password has at most {MAX_PASSWORD_BYTES} bytes"));
    }
    hash_with(Params::default(), password).map(|hash| hash.to_string())
}

fn hash_with(params: Params, password: &str) -> Result<PasswordHash, String> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password(password.as_bytes())
        .map_err(|error| format!("cannot hash: {error}"))
}

/// The accounts, and what is known of those who log in.
pub struct Users {
    source: UsersConfig,
    key: hmac::Key,
    failures: Failures,
    /// Who may wait, and whose turn it is.
    waiting: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    state: Mutex<State>,
}

struct State {
    table: Arc<Table>,
    stamp: Option<Stamp>,
    looked: Instant,
    /// Per user the one right password, until when.
    remembered: HashMap<String, (Tag, Instant)>,
    /// Guesses under way, and where their outcome will be.
    flights: HashMap<Tag, watch::Receiver<Option<bool>>>,
}

/// What stands for user, password and hash without telling them.
type Tag = [u8; 32];
/// What changes when a file does.
type Stamp = (SystemTime, u64);

impl Users {
    /// Reads the accounts.
    ///
    /// # Errors
    /// With every broken line of the file.
    pub fn new(
        source: UsersConfig,
        failures_per_minute: Option<NonZeroU32>,
    ) -> Result<Self, Vec<UsersMistake>> {
        let (table, stamp) = match &source {
            // The stamp first: a change in between is seen at the next look.
            UsersConfig::File(path) => {
                let stamp = stamp(path);
                (load(path)?, stamp)
            }
            UsersConfig::Dev => (parse("")?, None),
        };
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &aws_lc_rs::rand::SystemRandom::new());
        let key = key.map_err(|_| {
            vec![UsersMistake { line: None, text: "the system has no random numbers".into() }]
        })?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let turns = cores.saturating_sub(1).max(1);
        Ok(Self {
            source,
            key,
            failures: Failures::new(failures_per_minute),
            waiting: Arc::new(Semaphore::new(MAX_WAITING + turns)),
            turns: Arc::new(Semaphore::new(turns)),
            state: Mutex::new(State {
                table: Arc::new(table),
                stamp,
                looked: Instant::now(),
                remembered: HashMap::new(),
                flights: HashMap::new(),
            }),
        })
    }

    /// Judges a name and a password from that address.
    ///
    /// # Errors
    /// `Refused`, or `TooMany` after too many wrong ones or while too many wait.
    pub async fn verify(
        &self,
        user: &str,
        password: &str,
        peer: IpAddr,
    ) -> Result<Principal, AuthError> {
        let refused = || AuthError::Refused { user: user.to_owned() };
        // Nobody can have such a name or password, so that refusing at once tells nothing.
        if !destination::is_user_name(user) || password.len() > MAX_PASSWORD_BYTES {
            return Err(refused());
        }
        self.may_try(user, peer)?;
        let roles = match &self.source {
            UsersConfig::Dev => dev(user, password),
            UsersConfig::File(path) => {
                let table = self.table(path).await;
                let right = self.is_right(&table, user, password, peer).await?;
                table.accounts.get(user).filter(|_| right).map(|account| account.roles.clone())
            }
        };
        let Some(roles) = roles else {
            self.failures.record(peer, user, Instant::now());
            return Err(refused());
        };
        Ok(Principal { name: Arc::from(user), roles, expires_at: None })
    }

    fn may_try(&self, user: &str, peer: IpAddr) -> Result<(), AuthError> {
        match self.failures.wait(peer, user, Instant::now()) {
            Some(retry_after) => Err(AuthError::TooMany { retry_after }),
            None => Ok(()),
        }
    }

    async fn is_right(
        &self,
        table: &Table,
        user: &str,
        password: &str,
        peer: IpAddr,
    ) -> Result<bool, AuthError> {
        let account = table.accounts.get(user);
        let tag = self.tag(user, password, account.map_or("", |account| &account.text));
        loop {
            if self.remembers(user, &tag) {
                return Ok(true);
            }
            // Others may ask the same at the same time: one verifies, all learn of it.
            let mut others = match self.join(tag) {
                Flight::Mine(flight) => {
                    let hash = account.map_or(&table.nobody, |account| &account.hash);
                    let right = self.compare(hash, user, password, peer).await?;
                    let right = right && account.is_some();
                    if right {
                        self.remember(user, tag);
                    }
                    flight.outcome.send_replace(Some(right));
                    return Ok(right);
                }
                Flight::Others(receiver) => receiver,
            };
            // Where whoever verified went away before it knew, somebody else does it.
            if let Ok(outcome) = others.wait_for(Option::is_some).await {
                return Ok(outcome.unwrap_or(false));
            }
        }
    }

    async fn compare(
        &self,
        hash: &Arc<PasswordHash>,
        user: &str,
        password: &str,
        peer: IpAddr,
    ) -> Result<bool, AuthError> {
        let crowded = |_| AuthError::TooMany { retry_after: Duration::from_secs(1) };
        let place = Arc::clone(&self.waiting).try_acquire_owned().map_err(crowded)?;
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        // Many guesses may have been wrong while this one waited.
        self.may_try(user, peer)?;
        let (hash, password) = (Arc::clone(hash), password.to_owned());
        let verified = tokio::task::spawn_blocking(move || {
            // Both go when the work is done, even where nobody waits for it any more.
            let _held = (place, turn);
            Argon2::default().verify_password(password.as_bytes(), &*hash).is_ok()
        });
        verified.await.map_err(|_| AuthError::Unavailable)
    }

    /// The accounts as they are now. The file is looked at every two seconds at most; one that is
    /// broken leaves the accounts as they were.
    async fn table(&self, path: &Path) -> Arc<Table> {
        let before = {
            let mut state = self.state();
            if state.looked.elapsed() < LOOK_EVERY {
                return Arc::clone(&state.table);
            }
            state.looked = Instant::now();
            state.stamp
        };
        let path = path.to_owned();
        let looked = tokio::task::spawn_blocking(move || {
            let now = stamp(&path);
            (now != before).then(|| (now, load(&path), path))
        });
        let mut changed = looked.await.ok().flatten();
        let mut state = self.state();
        if let Some((stamp, table, path)) = changed.take() {
            state.stamp = stamp;
            match table {
                Ok(table) => state.table = Arc::new(table),
                Err(mistakes) => {
                    let lines: Vec<_> =
                        mistakes.iter().filter_map(|mistake| mistake.line).collect();
                    tracing::error!(
                        file = %path.display(),
                        ?lines,
                        "the users file is broken; the accounts stay as they were"
                    );
                }
            }
        }
        Arc::clone(&state.table)
    }

    /// The account's hash is part of it, so that nothing is remembered of a changed one.
    fn tag(&self, user: &str, password: &str, hash: &str) -> Tag {
        let mut context = hmac::Context::with_key(&self.key);
        for text in [user, password, hash] {
            context.update(&(text.len() as u64).to_be_bytes());
            context.update(text.as_bytes());
        }
        let mut tag = [0; 32];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }

    fn remembers(&self, user: &str, tag: &Tag) -> bool {
        let state = self.state();
        state.remembered.get(user).is_some_and(|(own, until)| {
            *until > Instant::now() && constant_time::verify_slices_are_equal(own, tag).is_ok()
        })
    }

    fn remember(&self, user: &str, tag: Tag) {
        let (mut state, now) = (self.state(), Instant::now());
        if state.remembered.len() >= MAX_REMEMBERED {
            state.remembered.retain(|_, (_, until)| *until > now);
        }
        if state.remembered.len() < MAX_REMEMBERED {
            state.remembered.insert(user.to_owned(), (tag, now + REMEMBER));
        }
    }

    fn join(&self, tag: Tag) -> Flight<'_> {
        let mut state = self.state();
        if let Some(receiver) = state.flights.get(&tag) {
            return Flight::Others(receiver.clone());
        }
        let (outcome, receiver) = watch::channel(None);
        state.flights.insert(tag, receiver);
        Flight::Mine(OwnFlight { users: self, tag, outcome })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Users").field("source", &self.source).finish_non_exhaustive()
    }
}

/// Who verifies a guess.
enum Flight<'a> {
    Mine(OwnFlight<'a>),
    Others(watch::Receiver<Option<bool>>),
}

/// A guess that this login verifies. It ends when the login does.
struct OwnFlight<'a> {
    users: &'a Users,
    tag: Tag,
    outcome: watch::Sender<Option<bool>>,
}

impl Drop for OwnFlight<'_> {
    fn drop(&mut self) {
        self.users.state().flights.remove(&self.tag);
    }
}

fn dev(user: &str, password: &str) -> Option<Vec<String>> {
    let known = DEV_USERS.contains(&user)
        && constant_time::verify_slices_are_equal(user.as_bytes(), password.as_bytes()).is_ok();
    known.then(|| if user == "admin" { vec!["admin".to_owned()] } else { Vec::new() })
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

#[cfg(test)]
mod tests;
