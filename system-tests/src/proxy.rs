//! A TCP proxy that breaks on demand: it stands between the relay and RabbitMQ.
//!
//! Each direction of a connection is a reader and a writer with a short line between them, so
//! that bytes that are delayed or held back wait there, in order. What is held back goes on later
//! as it does where a network comes back before TCP has given up.

#![allow(clippy::unwrap_used, clippy::panic, reason = "in tests a panic is how to fail")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::{PATIENCE, ports};

/// Read at a time; also what is written at a time where it is throttled.
const CHUNK: usize = 16 * 1024;
/// Chunks on the way of one direction. Beyond them nothing is read, and the sender's TCP waits.
const LINE: usize = 256;

/// How one direction is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    #[default]
    Open,
    /// Nothing gets through, nor is anything said about it.
    Held,
    /// Everything comes so much later, and not faster than so many bytes a second.
    Slow { delay: Duration, rate: usize },
}

/// What the connections look at.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    to_server: Way,
    to_client: Way,
    /// Connections that were made before the last cut are reset.
    cuts: u64,
    /// The direction to the client has ended, for those made before the last one.
    half_closes: u64,
}

/// A running proxy; its connections end when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    target: SocketAddr,
    state: watch::Sender<State>,
    open: Arc<AtomicUsize>,
    listener: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens on a free loopback port and passes all on to `port`.
    ///
    /// # Panics
    /// Where there is no port.
    pub async fn start(port: u16) -> Self {
        let [free] = ports::free();
        let listener = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, free))).await;
        let mut proxy = Self {
            address: listener.local_addr().unwrap(),
            target: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            state: watch::Sender::new(State::default()),
            open: Arc::default(),
            listener: None,
        };
        proxy.accept(listener);
        proxy
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// How both directions are from now on, also for connections that are there.
    pub fn set(&self, to_server: Way, to_client: Way) {
        self.state.send_modify(|state| {
            state.to_server = to_server;
            state.to_client = to_client;
        });
    }

    /// All goes through at once.
    pub fn pass(&self) {
        self.set(Way::Open, Way::Open);
    }

    /// Nothing goes through, neither way.
    pub fn hold(&self) {
        self.set(Way::Held, Way::Held);
    }

    /// Resets all connections, both ends of them. New ones are taken.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Ends the direction to the client, as a server does that has nothing to say any more. What
    /// the client says still gets through.
    pub fn half_close(&self) {
        self.state.send_modify(|state| state.half_closes += 1);
    }

    /// Nobody listens from now on. Connections that are there stay.
    pub async fn refuse(&mut self) {
        if let Some(listener) = self.listener.take() {
            listener.abort();
            // It is over once the task is, and the port is free.
            listener.await.ok();
        }
    }

    /// Listens again, on the port it had.
    ///
    /// # Panics
    /// Where somebody else has it.
    pub async fn listen(&mut self) {
        self.refuse().await;
        let listener = bind(self.address).await;
        self.accept(listener);
    }

    fn accept(&mut self, listener: TcpListener) {
        let (target, state, open) = (self.target, self.state.clone(), self.open.clone());
        self.listener = Some(tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                drop(tokio::spawn(connection(client, target, state.subscribe(), open.clone())));
            }
        }));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(listener) = &self.listener {
            listener.abort();
        }
    }
}

/// A process that is being started beside this has all that was open, for a moment: a port that
/// was given up may not be free at once.
async fn bind(address: SocketAddr) -> TcpListener {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn connection(
    mut client: TcpStream,
    target: SocketAddr,
    mut state: watch::Receiver<State>,
    open: Arc<AtomicUsize>,
) {
    let began = *state.borrow_and_update();
    // Held back, a new connection gets no further than one that is there.
    let reachable =
        state.wait_for(|state| state.cuts != began.cuts || state.to_server != Way::Held);
    if reachable.await.is_err() {
        return;
    }
    // Where nobody is there, the client finds its connection closed.
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
        // What is closed is reset; a direction that ends in peace was shut down before.
        SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
    open.fetch_add(1, Ordering::SeqCst);
    // Borrowed halves: owned ones would say good-bye when they are dropped.
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let there = direction(from_client, to_server, state.clone(), |state| state.to_server, None);
    let back = direction(
        from_server,
        to_client,
        state.clone(),
        |state| state.to_client,
        Some(began.half_closes),
    );
    tokio::select! {
        _ = async { tokio::join!(there, back) } => {}
        // Also at the proxy's own end.
        _ = state.wait_for(|state| state.cuts != began.cuts) => {}
    }
    open.fetch_sub(1, Ordering::SeqCst);
}

/// One direction, until it ends: by the sender, by a half-close, or by an error.
async fn direction(
    from: ReadHalf<'_>,
    to: WriteHalf<'_>,
    state: watch::Receiver<State>,
    way: fn(&State) -> Way,
    half_closes: Option<u64>,
) {
    let (line, waiting) = mpsc::channel(LINE);
    let mut closing = state.clone();
    let half_closed = async {
        match half_closes {
            // Where the proxy is gone, its connections are about to be.
            Some(before) => drop(closing.wait_for(|state| state.half_closes != before).await),
            None => std::future::pending().await,
        }
    };
    let reader = async {
        tokio::select! {
            () = read(from, line) => {}
            () = half_closed => {}
        }
    };
    tokio::join!(reader, write(to, waiting, state, way));
}

async fn read(mut from: ReadHalf<'_>, line: mpsc::Sender<(Instant, Vec<u8>)>) {
    loop {
        let mut chunk = vec![0; CHUNK];
        match from.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(read) => chunk.truncate(read),
        }
        if line.send((Instant::now(), chunk)).await.is_err() {
            return;
        }
    }
}

async fn write(
    mut to: WriteHalf<'_>,
    mut waiting: mpsc::Receiver<(Instant, Vec<u8>)>,
    mut state: watch::Receiver<State>,
    way: fn(&State) -> Way,
) {
    loop {
        let next = waiting.recv().await;
        let way = match state.wait_for(|state| way(state) != Way::Held).await {
            Ok(state) => way(&state),
            Err(_) => return,
        };
        let Some((came, chunk)) = next else { break };
        if let Way::Slow { delay, .. } = way {
            tokio::time::sleep_until(came + delay).await;
        }
        if to.write_all(&chunk).await.is_err() {
            return;
        }
        if let Way::Slow { rate, .. } = way {
            let share = f64::from(u32::try_from(chunk.len()).unwrap());
            let rate = f64::from(u32::try_from(rate.max(1)).unwrap());
            tokio::time::sleep(Duration::from_secs_f64(share / rate)).await;
        }
    }
    // The other side may have gone first.
    to.shutdown().await.ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_secs(10);
    /// What has not come by then is held back.
    const QUIET: Duration = Duration::from_millis(150);

    /// A client and the server's side of its connection.
    struct Pair {
        client: TcpStream,
        server: TcpStream,
    }

    struct Scene {
        proxy: Proxy,
        listener: TcpListener,
    }

    impl Scene {
        async fn new() -> Self {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let proxy = Proxy::start(listener.local_addr().unwrap().port()).await;
            Self { proxy, listener }
        }

        async fn pair(&self) -> Pair {
            let client = TcpStream::connect(self.proxy.address()).await.unwrap();
            let (server, _) = self.listener.accept().await.unwrap();
            Pair { client, server }
        }
    }

    async fn says(from: &mut TcpStream, to: &mut TcpStream, text: &str) {
        from.write_all(text.as_bytes()).await.unwrap();
        hears(to, text).await;
    }

    async fn hears(to: &mut TcpStream, text: &str) {
        let mut buffer = vec![0; text.len()];
        tokio::time::timeout(WITHIN, to.read_exact(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(buffer, text.as_bytes());
    }

    async fn hears_nothing(to: &mut TcpStream) {
        let mut buffer = [0];
        let read = tokio::time::timeout(QUIET, to.read(&mut buffer)).await;
        assert!(read.is_err(), "{read:?}");
    }

    async fn ends(stream: &mut TcpStream) -> std::io::Result<usize> {
        tokio::time::timeout(WITHIN, stream.read(&mut [0])).await.unwrap()
    }

    #[tokio::test]
    async fn passes_both_ways_and_a_close_in_peace() {
        let scene = Scene::new().await;
        let mut pair = scene.pair().await;
        says(&mut pair.client, &mut pair.server, "there").await;
        says(&mut pair.server, &mut pair.client, "back").await;
        assert_eq!(scene.proxy.open(), 1);
        pair.client.shutdown().await.unwrap();
        assert_eq!(ends(&mut pair.server).await.unwrap(), 0);
        says(&mut pair.server, &mut pair.client, "still").await;
    }

    #[tokio::test]
    async fn a_cut_resets_both_ends_and_new_connections_work() {
        let scene = Scene::new().await;
        let mut pair = scene.pair().await;
        says(&mut pair.client, &mut pair.server, "x").await;
        scene.proxy.cut();
        for end in [&mut pair.client, &mut pair.server] {
            let error = ends(end).await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
        let mut pair = scene.pair().await;
        says(&mut pair.client, &mut pair.server, "again").await;
    }

    #[tokio::test]
    async fn nobody_listens_and_then_somebody_does() {
        let mut scene = Scene::new().await;
        let mut pair = scene.pair().await;
        scene.proxy.refuse().await;
        let refused = TcpStream::connect(scene.proxy.address()).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        says(&mut pair.client, &mut pair.server, "stays").await;
        scene.proxy.listen().await;
        let mut pair = scene.pair().await;
        says(&mut pair.client, &mut pair.server, "again").await;
    }

    #[tokio::test]
    async fn what_is_held_back_goes_on_in_order() {
        for both in [true, false] {
            let scene = Scene::new().await;
            let mut pair = scene.pair().await;
            let to_server = if both { Way::Held } else { Way::Open };
            scene.proxy.set(to_server, Way::Held);
            pair.server.write_all(b"back").await.unwrap();
            hears_nothing(&mut pair.client).await;
            if both {
                pair.client.write_all(b"there").await.unwrap();
                hears_nothing(&mut pair.server).await;
            } else {
                says(&mut pair.client, &mut pair.server, "there").await;
            }
            pair.server.shutdown().await.unwrap();
            hears_nothing(&mut pair.client).await;
            scene.proxy.pass();
            hears(&mut pair.client, "back").await;
            assert_eq!(ends(&mut pair.client).await.unwrap(), 0);
            if both {
                hears(&mut pair.server, "there").await;
            }
        }
    }

    #[tokio::test]
    async fn late_and_slow() {
        let scene = Scene::new().await;
        let mut pair = scene.pair().await;
        let delay = Duration::from_millis(200);
        scene.proxy.set(Way::Slow { delay, rate: 100_000 }, Way::Open);
        let began = Instant::now();
        says(&mut pair.client, &mut pair.server, "x").await;
        assert!(began.elapsed() >= delay, "{:?}", began.elapsed());
        let began = Instant::now();
        let text = "y".repeat(50_000);
        says(&mut pair.client, &mut pair.server, &text).await;
        // The last chunk is there before its time is up.
        let least = delay + Duration::from_millis(300);
        assert!(began.elapsed() >= least, "{:?}", began.elapsed());
        let began = Instant::now();
        says(&mut pair.server, &mut pair.client, "x").await;
        assert!(began.elapsed() < delay, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn one_direction_ends_and_the_other_goes_on() {
        let scene = Scene::new().await;
        let mut pair = scene.pair().await;
        says(&mut pair.server, &mut pair.client, "x").await;
        scene.proxy.half_close();
        assert_eq!(ends(&mut pair.client).await.unwrap(), 0);
        says(&mut pair.client, &mut pair.server, "still").await;
    }
}
