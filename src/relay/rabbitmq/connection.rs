//! Connections to RabbitMQ: back-off, and a supervisor for each.
//!
//! A channel that RabbitMQ closed spoils its number on that connection of lapin for good, so
//! channels are asked for again, and a connection is replaced long before its numbers run out.
//! Recovery by lapin itself is off, since only this relay knows what may be done twice.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::{Stream, StreamExt};
use lapin::types::ShortString;
use lapin::{Channel, ChannelStatus, Connection, ConnectionStatus, Event};
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;
use ulid::Ulid;

use super::counters::Counters;
use super::dialer::{DialError, Dialer, Failure};
use super::recovery::Recovery;
use super::refusal::Fault;
use super::state::{Condition, Place, State};

const CLOSE_TIME: Duration = Duration::from_secs(2);
/// A connection that held for so long was no flicker.
const STABLE: Duration = Duration::from_secs(10);
/// RabbitMQ takes 2,047 channels on a connection. After so many another one is dialled, and after
/// so many this one is not used any more.
const WORN: u32 = 500;
const SPENT: u32 = 1_500;
const CHANNEL_TRIES: u32 = 16;

/// What all parts share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) dialer: Dialer,
    pub(super) state: State,
    pub(super) recovery: Recovery,
    pub(super) counters: Counters,
    pub(super) confirm_time: Histogram,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
    pub(super) runtime: tokio::runtime::Handle,
    /// A connection is up, so that the others need not pause any longer.
    pub(super) connected: Notify,
}

impl Shared {
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        // Detached on purpose: tasks end by the stop token, the tracker waits for them.
        drop(self.tasks.spawn_on(task, &self.runtime));
    }
}

/// One connection, until it is lost.
pub(super) struct Link {
    connection: Connection,
    closed_channels: AtomicU32,
    /// When it was opened.
    pub(super) since: Instant,
    lost: CancellationToken,
    reason: Arc<Mutex<String>>,
    /// Why RabbitMQ takes no messages here, while it takes none.
    blocked: watch::Receiver<Option<String>>,
    channels: Mutex<Vec<ChannelStatus>>,
}

impl Link {
    pub(super) fn new(connection: Connection, address: String) -> Arc<Self> {
        let lost = CancellationToken::new();
        let reason = Arc::new(Mutex::new(String::new()));
        let events = Box::pin(connection.events_listener());
        let (block, blocked) = watch::channel(None);
        let watch = watch(events, connection.status().clone(), address, reason.clone(), block);
        let gone = lost.clone();
        // Ends with the connection: shutdown need not wait for it.
        drop(tokio::spawn(async move {
            watch.await;
            gone.cancel();
        }));
        let closed_channels = AtomicU32::new(0);
        let channels = Mutex::default();
        let since = Instant::now();
        Arc::new(Self { connection, closed_channels, since, lost, reason, blocked, channels })
    }

    /// Waits for an answer, and not for ever where the connection is lost: lapin does not end
    /// every request then. Only with the connection may a request be dropped half-way.
    pub(super) async fn answer<T>(
        &self,
        request: impl Future<Output = lapin::Result<T>>,
    ) -> lapin::Result<T> {
        const GRACE: Duration = Duration::from_secs(1);
        let lost = async {
            self.lost().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            biased;
            result = request => result,
            () = lost => Err(lapin::ErrorKind::MissingHeartbeatError.into()),
        }
    }

    /// A new channel.
    pub(super) async fn open_channel(&self) -> lapin::Result<Channel> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.answer(self.connection.create_channel()).await {
                Err(_) if tries < CHANNEL_TRIES && self.is_alive() => {}
                Ok(channel) => {
                    let mut channels = self.lock_channels();
                    channels.retain(ChannelStatus::connected);
                    channels.push(channel.status().clone());
                    return Ok(channel);
                }
                // What lapin says then is what a channel of that number was once closed for.
                Err(_) => return Err(lapin::ErrorKind::MissingHeartbeatError.into()),
            }
        }
    }

    /// Channels that are open.
    pub(super) fn channels(&self) -> usize {
        self.lock_channels().iter().filter(|channel| channel.connected()).count()
    }

    fn lock_channels(&self) -> MutexGuard<'_, Vec<ChannelStatus>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_alive(&self) -> bool {
        !self.lost.is_cancelled() && self.connection.status().connected()
    }

    /// So many channels were closed by RabbitMQ that nobody should open more here.
    pub(super) fn is_spent(&self) -> bool {
        self.closed_channels.load(Ordering::Relaxed) >= SPENT
    }

    /// Whether RabbitMQ takes no messages here for now.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.borrow().is_some()
    }

    /// Waits until it takes messages again.
    pub(super) async fn unblocked(&self) {
        // A sender that is gone has gone with the connection, which says so itself.
        drop(self.blocked.clone().wait_for(Option::is_none).await);
    }

    /// Waits for the connection's end.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }

    fn reason(&self) -> String {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) async fn close(&self) {
        let close = self.connection.close(200, ShortString::from("shutdown"));
        // What was confirmed is confirmed; a close that fails closes too.
        drop(tokio::time::timeout(CLOSE_TIME, close).await);
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("lost", &self.lost.is_cancelled()).finish_non_exhaustive()
    }
}

/// Waits until the connection is gone, and notes why.
async fn watch(
    mut events: impl Stream<Item = Event> + Unpin,
    status: ConnectionStatus,
    address: String,
    reason: Arc<Mutex<String>>,
    block: watch::Sender<Option<String>>,
) {
    // Events of channels come here too. The status is asked from time to time because an event
    // from before this task would be missed.
    const POLL: Duration = Duration::from_secs(1);
    let mut text = "the connection was closed".to_owned();
    while status.connected() {
        match tokio::time::timeout(POLL, events.next()).await {
            Ok(Some(Event::Error(error))) => {
                if let lapin::ErrorKind::ParsingError(_) = error.kind() {
                    // It comes again with the same delivery, so somebody has to look.
                    error!("RabbitMQ at {address} delivered what lapin cannot read: {error}");
                }
                text = error.to_string();
            }
            Ok(Some(Event::ConnectionBlocked(why))) => {
                block.send_replace(Some(format!("{address}: {why}")));
            }
            Ok(Some(Event::ConnectionUnblocked)) => {
                block.send_replace(None);
            }
            Ok(None) => break,
            Ok(Some(_)) | Err(_) => {}
        }
    }
    *reason.lock().unwrap_or_else(PoisonError::into_inner) = format!("{address}: {text}");
}

/// Keeps one connection up for as long as it lives.
#[derive(Debug)]
pub(super) struct Keeper {
    shared: Arc<Shared>,
    current: watch::Receiver<Option<Arc<Link>>>,
    worn: Arc<Notify>,
    stop: CancellationToken,
}

impl Keeper {
    pub(super) fn spawn(
        shared: &Arc<Shared>,
        name: &'static str,
        first: Option<Arc<Link>>,
    ) -> Self {
        let (sender, current) = watch::channel(None);
        let worn = Arc::new(Notify::new());
        let stop = shared.stop.child_token();
        let task = keep(shared.clone(), name, first, sender, worn.clone(), stop.clone());
        shared.spawn(task);
        Self { shared: shared.clone(), current, worn, stop }
    }

    /// The connection, waiting until it is there and fit for new channels. `None` at the end.
    pub(super) async fn link(&self) -> Option<Arc<Link>> {
        let mut current = self.current.clone();
        let fit = |link: &Link| link.is_alive() && !link.is_spent();
        let alive = |link: &Option<Arc<Link>>| link.as_deref().is_some_and(fit);
        tokio::select! {
            () = self.stop.cancelled() => None,
            link = current.wait_for(alive) => link.ok().and_then(|link| link.clone()),
        }
    }

    /// Whether there is another one by now.
    pub(super) fn has_another(&self, link: &Link) -> bool {
        let current = self.current.borrow();
        current.as_ref().is_some_and(|current| !std::ptr::eq(&raw const **current, link))
    }

    /// RabbitMQ closed a channel of that connection.
    pub(super) fn closed_channel(&self, link: &Link) {
        self.shared.counters.closed_channels.add(1);
        let before = link.closed_channels.fetch_add(1, Ordering::Relaxed);
        if before + 1 == WORN {
            self.worn.notify_one();
        }
    }
}

/// One connection after the other, for somebody who has channels of its own on it.
#[derive(Debug)]
pub(super) struct Turns {
    keeper: Arc<Keeper>,
    backoff: Backoff,
    last: Option<(Arc<Link>, Instant)>,
}

impl Turns {
    pub(super) fn new(keeper: Arc<Keeper>) -> Self {
        Self { keeper, backoff: Backoff::default(), last: None }
    }

    /// The next one; after a pause, where it is the last one. `None` at the end of the relay.
    pub(super) async fn next(&mut self) -> Option<Arc<Link>> {
        const LONGEST_PAUSE: Duration = Duration::from_secs(30);
        if let Some((link, since)) = self.last.take() {
            if since.elapsed() > STABLE {
                self.backoff = Backoff::default();
            }
            if link.is_alive() && !self.keeper.has_another(&link) {
                pause(self.backoff.next(LONGEST_PAUSE), &self.keeper.stop).await.ok()?;
            }
        }
        let link = self.keeper.link().await?;
        self.last = Some((link.clone(), Instant::now()));
        Some(link)
    }

    /// The channels are lost. Why RabbitMQ closed one, where it did.
    pub(super) fn over(&self, result: lapin::Result<()>) -> Option<lapin::Error> {
        let error = result.err()?;
        let Fault::Refused(_) = Fault::of(&error) else { return None };
        if let Some((link, _)) = &self.last {
            self.keeper.closed_channel(link);
        }
        Some(error)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn keep(
    shared: Arc<Shared>,
    name: &'static str,
    mut first: Option<Arc<Link>>,
    current: watch::Sender<Option<Arc<Link>>>,
    worn: Arc<Notify>,
    stop: CancellationToken,
) {
    let place = shared.state.enter(name);
    let mut was_lost = false;
    let mut backoff = Backoff::default();
    loop {
        let link = match first.take() {
            Some(link) => link,
            None => match dial_until_up(&shared, name, place, &mut backoff, &stop).await {
                Some(link) => link,
                None => break,
            },
        };
        let since = Instant::now();
        shared.connected.notify_waiters();
        shared.state.opened(place, &link);
        shared.counters.reconnects.add(u64::from(std::mem::take(&mut was_lost)));
        current.send_replace(Some(link.clone()));
        tokio::select! {
            () = stop.cancelled() => {
                link.close().await;
                break;
            }
            // Used until there is another one; then those who use it finish on it, and it closes
            // with the last of them.
            () = worn.notified() => {}
            () = watch_blocked(&shared, place, &link) => {
                current.send_replace(None);
                shared.counters.lost_connections.add(1);
                was_lost = true;
                if !stop.is_cancelled() {
                    shared.state.set(place, Condition::Away(link.reason()));
                }
            }
        }
        if since.elapsed() > STABLE || !was_lost {
            backoff = Backoff::default();
        } else if pause(backoff.next(Failure::Refused.longest_pause()), &stop).await.is_err() {
            // One that is lost at once, again and again, is not dialled without pause.
            break;
        }
    }
    shared.state.leave(place);
}

/// Tells whether the connection is blocked until it is lost.
async fn watch_blocked(shared: &Shared, place: Place, link: &Link) {
    let mut blocked = link.blocked.clone();
    loop {
        let reason = blocked.borrow_and_update().clone();
        shared.state.set(place, reason.map_or(Condition::Up, Condition::Blocked));
        tokio::select! {
            biased;
            () = link.lost() => return,
            changed = blocked.changed() => if changed.is_err() {
                return link.lost().await;
            },
        }
    }
}

async fn dial_until_up(
    shared: &Shared,
    name: &str,
    place: Place,
    backoff: &mut Backoff,
    stop: &CancellationToken,
) -> Option<Arc<Link>> {
    loop {
        if stop.is_cancelled() {
            return None;
        }
        let connected = shared.connected.notified();
        match shared.dialer.dial(name).await {
            Ok(link) => return Some(link),
            Err(DialError { text, kind }) => {
                let condition = match kind {
                    Failure::Refused => Condition::Refused(text),
                    Failure::Unready | Failure::Unreachable => Condition::Away(text),
                };
                shared.state.set(place, condition);
                tokio::select! {
                    () = connected, if kind != Failure::Refused => {}
                    paused = pause(backoff.next(kind.longest_pause()), stop) => paused.ok()?,
                }
            }
        }
    }
}

async fn pause(time: Duration, stop: &CancellationToken) -> Result<(), ()> {
    tokio::select! {
        () = stop.cancelled() => Err(()),
        () = tokio::time::sleep(time) => Ok(()),
    }
}

/// Pauses between tries: up to 0.5 s, then up to twice that each time ("full jitter").
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff {
    tries: u32,
}

impl Backoff {
    pub(super) fn next(&mut self, most: Duration) -> Duration {
        const FIRST: Duration = Duration::from_millis(500);
        const LEAST: u64 = 50;
        let cap = FIRST.saturating_mul(1 << self.tries.min(10)).min(most);
        self.tries += 1;
        let cap = u64::try_from(cap.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(LEAST + random(cap.saturating_sub(LEAST).max(1)))
    }
}

/// 22 characters that nobody else comes upon.
pub(super) fn random_name() -> String {
    let mut bytes = [0_u8; 16];
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        bytes = Ulid::generate().to_bytes();
    }
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A number below `below`.
pub(super) fn random(below: u64) -> u64 {
    u64::try_from(Ulid::generate().random() % u128::from(below.max(1))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_most() {
        let most = Duration::from_secs(30);
        for _ in 0..20 {
            let mut backoff = Backoff::default();
            for cap in [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000] {
                let pause = backoff.next(most);
                assert!((50..=cap).contains(&pause.as_millis()), "{pause:?} of {cap}");
            }
        }
    }
}
