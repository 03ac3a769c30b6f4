//! The shared store: each operation is one Lua script, and all keys of a user are in one slot.
//!
//! `unread.lua` is the operation. A user's keys are `stomp-relay:u:{CODE}:NAME`, CODE being the
//! name in base64url, so that no name can be part of another key. Presence is one entry per target
//! and node while a session of that node is present there; this process counts its sessions.
//! Entries of a dead node go when an append for that user and target meets them.
//!
//! `unread_total_bytes` cannot be held inside a user's slot: the sums over all users are brought
//! up to date after each batch (`account.lua`), and users whose messages are oldest lose some
//! where the sum is too big. So a batch may exceed the cap for a moment, a crash in between
//! leaves a user uncounted until its next operation, and `Appended.truncated` has only what the
//! user's own caps made go.

mod lease;
mod link;
mod reply;
mod totals;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use redis::{Cmd, Pipeline, Value};
use tokio::sync::mpsc;

use super::presence::{Place, Presence};
use super::store::Request;
use super::{Caps, Keep, Op, Outcome, PAGE_BYTES, StoreError, UnreadId, Which, record};
use lease::Lease;
use link::{Link, Scripts};
use reply::Sums;

/// In the order in which `unread.lua` takes them.
const USER_KEYS: [&str; 10] =
    ["meta", "order", "target", "age", "info", "data", "xid", "gone", "drops", "here"];
/// Ids and counts that Lua's numbers hold exactly.
const MAX_EXACT: u64 = 1 << 53;
/// A pipeline takes at most so many commands, and so many pages among them.
const PIPELINE: usize = 512;
const PIPELINE_PAGES: usize = 16;
/// Ticks between two sweeps.
const SWEEP_TICKS: u32 = 6;

/// Connects and starts the task.
///
/// # Errors
/// One line why the store cannot be used.
pub(super) async fn start(
    url: &str,
    caps: Caps,
    node: &str,
    requests: mpsc::Receiver<Request>,
) -> Result<(), StoreError> {
    let mut worker = Worker::new(Link::new(url)?, caps, node);
    worker.check_settings().await?;
    worker.settle(0).await?;
    tracing::info!(
        node,
        incarnation = worker.lease.incarnation,
        address = worker.link.address(),
        "unread messages are kept in Redis"
    );
    tokio::spawn(worker.work(requests));
    Ok(())
}

/// Owns the connection.
struct Worker {
    link: Link,
    scripts: Scripts,
    caps: Caps,
    /// What the other nodes know this one by.
    node: Arc<str>,
    lease: Lease,
    /// The sessions of this process.
    presence: Presence,
    /// Where Redis may know otherwise than `presence`.
    dirty: HashSet<Place>,
    /// Users whose sums are to be accounted for.
    changed: HashMap<Arc<str>, Sums>,
    ticks: u32,
}

/// A batch on its way: answers are filled in as replies come.
struct Batch<'a> {
    ops: &'a [Op],
    outcomes: Vec<Option<Outcome>>,
    /// Commands not sent yet, and for which operation each is.
    commands: Vec<Cmd>,
    indices: Vec<usize>,
    pages: usize,
    /// Where a question on its way may register a session.
    asked: HashSet<Place>,
}

impl Worker {
    fn new(link: Link, caps: Caps, node: &str) -> Self {
        Self {
            link,
            scripts: Scripts::new(),
            caps,
            node: Arc::from(node),
            lease: Lease::default(),
            presence: Presence::default(),
            dirty: HashSet::new(),
            changed: HashMap::new(),
            ticks: 0,
        }
    }

    async fn work(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut closing = None;
        while let Some(request) = requests.recv().await {
            // An answer that nobody waits for is dropped: the effect stands all the same.
            match request {
                Request::Apply { now, ops, answer } => {
                    drop(answer.send(self.apply(now, &ops).await));
                    self.account(now).await;
                }
                Request::Sweep { now, answer } => {
                    drop(answer.send(self.sweep(now).await));
                    self.account(now).await;
                }
                Request::Tick { now } => self.tick(now).await,
                Request::Ready { answer } => {
                    let pong = self.send([redis::cmd("PING")]).await;
                    answer.send(pong.is_ok()).ok();
                }
                Request::Close { answer } => {
                    requests.close();
                    closing = Some(answer);
                }
            }
        }
        self.lease.give_up(&mut self.link, &self.scripts).await;
        drop(self.link);
        if let Some(answer) = closing {
            answer.send(()).ok();
        }
    }

    /// Refuses a Redis that drops keys at will, warns of one that may lose what was acknowledged.
    async fn check_settings(&mut self) -> Result<(), StoreError> {
        let names = ["maxmemory-policy", "appendfsync", "appendonly"];
        let commands: Vec<Cmd> =
            names.iter().map(|name| redis::cmd("CONFIG").arg("GET").arg(name).to_owned()).collect();
        self.send([redis::cmd("PING")]).await?;
        let replies = match self.send(commands).await {
            Ok(replies) => replies,
            Err(error) => {
                tracing::warn!(%error, "cannot read Redis' settings; maxmemory-policy must be noeviction");
                return Ok(());
            }
        };
        let address = self.link.address();
        for (name, reply) in names.iter().zip(replies) {
            let pair = match reply {
                Value::Array(pair) => pair,
                Value::Map(pairs) => pairs.into_iter().flat_map(|(a, b)| [a, b]).collect(),
                _ => return Err(reply::unexpected()),
            };
            let value = pair.get(1).and_then(reply::text).unwrap_or_default();
            match (*name, value) {
                ("maxmemory-policy", "noeviction") | ("appendfsync", "always") | (_, "yes") => {}
                ("maxmemory-policy", other) => {
                    return Err(StoreError::Broken(format!(
                        "store: Redis at {address} has maxmemory-policy {other} and would drop \
                         unread messages; set it to noeviction"
                    )));
                }
                (name, other) => tracing::warn!(
                    "Redis at {address} has {name} {other}: a crash of it can lose messages that \
                     were acknowledged; set appendonly yes and appendfsync always"
                ),
            }
        }
        Ok(())
    }

    async fn apply(&mut self, now: i64, ops: &[Op]) -> Result<Vec<Outcome>, StoreError> {
        let result = self.try_apply(now, ops).await;
        if result.is_ok() {
            self.presence.keep();
        } else {
            self.presence.undo();
            self.dirty.extend(ops.iter().filter_map(place));
        }
        result
    }

    async fn try_apply(&mut self, now: i64, ops: &[Op]) -> Result<Vec<Outcome>, StoreError> {
        self.settle(now).await?;
        let mut batch = Batch {
            ops,
            outcomes: ops.iter().map(|_| None).collect(),
            commands: Vec::new(),
            indices: Vec::new(),
            pages: 0,
            asked: HashSet::new(),
        };
        for (index, op) in ops.iter().enumerate() {
            let waits = match op {
                Op::Register { user, target, .. } | Op::Unregister { user, target, .. } => {
                    batch.asked.contains(&(user.clone(), target.clone()))
                }
                Op::Append { .. } | Op::PageOrRegister { .. } => false,
                Op::Page { .. } | Op::MarkRead { .. } => false,
            };
            if waits || batch.pages >= PIPELINE_PAGES || batch.commands.len() >= PIPELINE {
                self.flush(&mut batch).await?;
            }
            self.prepare(now, index, op, &mut batch)?;
        }
        self.flush(&mut batch).await?;
        batch.outcomes.into_iter().collect::<Option<_>>().ok_or_else(reply::unexpected)
    }

    /// Turns an operation into a command, or answers it at once where Redis need not know.
    fn prepare(
        &mut self,
        now: i64,
        index: usize,
        op: &Op,
        batch: &mut Batch<'_>,
    ) -> Result<(), StoreError> {
        let command = match op {
            Op::Append { message, keep } => {
                let destination = record::place(message)?;
                let keep = match keep {
                    Keep::Always => "always",
                    Keep::IfAbsent => "absent",
                    Keep::Never => "never",
                };
                let mut command = self.looking_script(&destination.user, "append", now);
                command.arg(&*destination.target).arg(keep);
                command.arg(message.x_id.map(|id| id.to_string()).unwrap_or_default());
                command.arg(message.size()).arg(message.body.len());
                command.arg(exact(self.caps.messages)).arg(exact(self.caps.bytes));
                // What is never kept is not sent.
                let record = match keep {
                    "never" => Vec::new(),
                    _ => record::to_bytes(message, &destination.target, now),
                };
                command.arg(record);
                command
            }
            Op::PageOrRegister { user, target, after, limit, session: _ } => {
                batch.pages += 1;
                batch.asked.insert((user.clone(), target.clone()));
                let mut command = self.script(user, "page-or-here", now);
                command.arg("").arg("").arg("1").arg(&**target);
                command.arg(exact(*after)).arg(*limit.max(&1)).arg(PAGE_BYTES);
                command.arg(self.entry());
                command
            }
            Op::Register { user, target, session } => {
                let place = (user.clone(), target.clone());
                let first = self.presence.add(place.clone(), *session);
                if !first {
                    set(batch, index, Outcome::Registered);
                    return Ok(());
                }
                self.presence_command(&place, true, now)
            }
            Op::Unregister { user, target, session } => {
                let place = (user.clone(), target.clone());
                if !self.presence.remove(place.clone(), *session) {
                    set(batch, index, Outcome::Unregistered);
                    return Ok(());
                }
                self.presence_command(&place, false, now)
            }
            Op::Page { user, target, after, limit } => {
                batch.pages += 1;
                let mut command = self.script(user, "page", now);
                command.arg("").arg("").arg(u8::from(target.is_some()));
                command.arg(target.as_deref().unwrap_or_default());
                command.arg(exact(*after)).arg(*limit).arg(PAGE_BYTES);
                command
            }
            Op::MarkRead { user, which } => self.read_command(user, which, now),
        };
        batch.commands.push(command);
        batch.indices.push(index);
        Ok(())
    }

    fn read_command(&self, user: &str, which: &Which, now: i64) -> Cmd {
        match which {
            Which::Ids(ids) => {
                let ids: Vec<String> =
                    ids.iter().filter(|id| **id < MAX_EXACT).map(u64::to_string).collect();
                let mut command = self.looking_script(user, "read-ids", now);
                command.arg(ids.join(","));
                command
            }
            Which::UpTo { id, target } => {
                let mut command = self.looking_script(user, "read-up-to", now);
                command.arg(exact(*id)).arg(u8::from(target.is_some()));
                command.arg(target.as_deref().unwrap_or_default());
                command
            }
            Which::All => self.looking_script(user, "read-all", now),
        }
    }

    fn presence_command(&self, (user, target): &Place, here: bool, now: i64) -> Cmd {
        let mut command = self.script(user, if here { "here" } else { "away" }, now);
        command.arg(&**target).arg(self.entry());
        command
    }

    /// This node as it stands in presence.
    fn entry(&self) -> String {
        format!("{}:{}", self.lease.incarnation, self.node)
    }

    /// Sends what is prepared and takes the replies.
    async fn flush(&mut self, batch: &mut Batch<'_>) -> Result<(), StoreError> {
        let replies = self.send(std::mem::take(&mut batch.commands)).await?;
        batch.pages = 0;
        batch.asked.clear();
        for (index, reply) in std::mem::take(&mut batch.indices).into_iter().zip(replies) {
            let Some(op) = batch.ops.get(index) else { continue };
            let (outcome, sums) = self.outcome(op, reply)?;
            if let (Some(sums), Some(user)) = (sums, user(op)) {
                self.changed.insert(user.clone(), sums);
            }
            set(batch, index, outcome);
        }
        Ok(())
    }

    fn outcome(&mut self, op: &Op, reply: Value) -> Result<(Outcome, Option<Sums>), StoreError> {
        match op {
            Op::Append { .. } => reply::appended(reply, &self.node),
            Op::MarkRead { .. } => reply::read(reply, &self.node),
            Op::Page { user, .. } => {
                let page = reply::page(user, reply)?.ok_or_else(reply::unexpected)?;
                Ok((Outcome::Page(page), None))
            }
            Op::PageOrRegister { user, target, session, .. } => {
                Ok(match reply::page(user, reply)? {
                    Some(page) => (Outcome::Page(page), None),
                    None => {
                        self.presence.add((user.clone(), target.clone()), *session);
                        (Outcome::Registered, None)
                    }
                })
            }
            Op::Register { .. } => Ok((Outcome::Registered, None)),
            Op::Unregister { .. } => Ok((Outcome::Unregistered, None)),
        }
    }

    /// Makes Redis know what this process knows of presence.
    async fn settle(&mut self, now: i64) -> Result<(), StoreError> {
        if self.lease.incarnation.is_empty() || self.link.unknown_outcome {
            self.renew_lease(false).await?;
        }
        let (here, away): (Vec<Place>, Vec<Place>) =
            self.dirty.iter().cloned().partition(|place| self.presence.is_present(place));
        // One that is away and counts as present would lose messages; so nothing goes on without.
        self.assert(&away, false, now).await?;
        match self.assert(&here, true, now).await {
            // One that is present and counts as away has them kept. A Redis without memory refuses
            // this for long, and what needs no memory goes on.
            Err(StoreError::Unavailable(_)) if !self.link.unknown_outcome => Ok(()),
            done => done,
        }
    }

    async fn assert(&mut self, places: &[Place], here: bool, now: i64) -> Result<(), StoreError> {
        for places in places.chunks(PIPELINE) {
            let commands: Vec<Cmd> =
                places.iter().map(|place| self.presence_command(place, here, now)).collect();
            self.send(commands).await?;
            for place in places {
                self.dirty.remove(place);
            }
        }
        Ok(())
    }

    async fn renew_lease(&mut self, renew: bool) -> Result<(), StoreError> {
        if self.lease.renew(renew, &mut self.link, &self.scripts).await? {
            self.link.unknown_outcome = false;
            self.dirty.extend(self.presence.places().cloned());
        }
        Ok(())
    }

    async fn tick(&mut self, now: i64) {
        let renewed = match self.renew_lease(!self.link.unknown_outcome).await {
            Ok(()) => self.settle(now).await,
            Err(error) => Err(error),
        };
        if let Err(error) = renewed {
            tracing::warn!(%error, "cannot renew this node's lease");
            return;
        }
        self.ticks = self.ticks.wrapping_add(1);
        if self.ticks.is_multiple_of(SWEEP_TICKS) {
            match self.sweep(now).await {
                Ok(0) => {}
                Ok(removed) => {
                    tracing::info!(removed, "unread messages past their age are removed");
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot remove unread messages past their age");
                }
            }
            self.account(now).await;
        }
    }

    async fn send(
        &mut self,
        commands: impl IntoIterator<Item = Cmd>,
    ) -> Result<Vec<Value>, StoreError> {
        let mut pipeline = Pipeline::new();
        for command in commands {
            pipeline.add_command(command);
        }
        self.link.send(&pipeline, &self.scripts).await
    }

    fn script(&self, user: &str, op: &str, now: i64) -> Cmd {
        self.script_by_code(&code(user), op, now)
    }

    /// A script that looks at who is present.
    fn looking_script(&self, user: &str, op: &str, now: i64) -> Cmd {
        let mut command = self.script(user, op, now);
        command.arg(&self.lease.newest).arg(&self.lease.alive);
        command
    }

    fn script_by_code(&self, code: &str, op: &str, now: i64) -> Cmd {
        let mut command = Cmd::new();
        command.arg("EVALSHA").arg(self.scripts.unread.get_hash()).arg(USER_KEYS.len());
        for name in USER_KEYS {
            command.arg(format!("stomp-relay:u:{{{code}}}:{name}"));
        }
        command.arg(op).arg(now).arg(horizon(now, &self.caps));
        command
    }
}

fn set(batch: &mut Batch<'_>, index: usize, outcome: Outcome) {
    if let Some(slot) = batch.outcomes.get_mut(index) {
        *slot = Some(outcome);
    }
}

/// Where an operation may change presence.
fn place(op: &Op) -> Option<Place> {
    match op {
        Op::PageOrRegister { user, target, .. }
        | Op::Register { user, target, .. }
        | Op::Unregister { user, target, .. } => Some((user.clone(), target.clone())),
        Op::Append { .. } | Op::Page { .. } | Op::MarkRead { .. } => None,
    }
}

fn user(op: &Op) -> Option<&Arc<str>> {
    match op {
        Op::Append { message, .. } => record::place(message).ok().map(|place| &place.user),
        Op::PageOrRegister { user, .. }
        | Op::Register { user, .. }
        | Op::Unregister { user, .. }
        | Op::Page { user, .. }
        | Op::MarkRead { user, .. } => Some(user),
    }
}

/// A user's name as it stands in keys.
fn code(user: &str) -> String {
    URL_SAFE_NO_PAD.encode(user)
}

fn exact(number: UnreadId) -> u64 {
    number.min(MAX_EXACT - 1)
}

/// What was kept before this moment is past its age.
fn horizon(now: i64, caps: &Caps) -> i64 {
    now.saturating_sub(i64::try_from(caps.age.as_millis()).unwrap_or(i64::MAX))
}
