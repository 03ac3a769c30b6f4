//! A small, whole and correct STOMP server (1.0, 1.1, 1.2; TCP and WebSocket) with one switch for
//! each mistake that a server can make. It is made of nothing but the specifications, so that the
//! suite is judged by something that shares no code with what the suite judges.
//!
//! ```text
//! web_socket -> decoder -> session -> sending, subscribing, settling -> broker
//!      ^------------------ connection <- encoded frames <--------------- |
//! ```

mod broker;
mod connecting;
mod connection;
mod decoder;
mod destination;
mod fault;
mod frame;
pub(crate) mod matrix;
pub(crate) mod page;
mod pipe;
mod refusal;
mod sending;
mod session;
mod settling;
mod subscribing;
mod web_socket;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use conformance_tests::{Profile, Target};

pub(crate) use fault::{Fault, Faults};
use pipe::Pipe;
use session::State;

const LOGIN: &str = "user";
const PASSCODE: &str = "s3cret";
/// More than any case sends, so that nobody waits for the other side to read.
const PIPE_BYTES: usize = 4 << 20;

/// The server, with at most one fault.
pub(crate) struct Server {
    faults: Faults,
    state: Mutex<State>,
    /// A task panicked: a bug of this server, which must not be taken for its fault.
    crashed: AtomicBool,
}

impl Server {
    pub(crate) fn new(faults: Faults) -> Arc<Self> {
        let state = Mutex::new(State::new(faults));
        Arc::new(Self { faults, state, crashed: AtomicBool::new(false) })
    }

    pub(crate) fn has_crashed(&self) -> bool {
        self.crashed.load(Ordering::Relaxed)
    }

    /// The server as a target of the suite, everything compared.
    pub(crate) fn target(self: &Arc<Self>, over_web_socket: bool) -> Target {
        let server = Arc::clone(self);
        let open = move || server.open(over_web_socket);
        let target = Target::in_process(open, LOGIN, PASSCODE, Profile::everything());
        if over_web_socket { target.over_web_socket() } else { target }
    }

    fn open(self: &Arc<Self>, over_web_socket: bool) -> Pipe {
        let (client, stream) = tokio::io::duplex(PIPE_BYTES);
        let server = Arc::clone(self);
        tokio::spawn(async move {
            let _watch = Watch(Arc::clone(&server));
            connection::serve(server, stream, over_web_socket).await;
        });
        Pipe::new(client)
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Watch(Arc<Server>);

impl Drop for Watch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.crashed.store(true, Ordering::Relaxed);
        }
    }
}
