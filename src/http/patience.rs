//! How long a client may take to ask: little from the first byte of a head to its last, longer
//! between two requests.
//!
//! hyper knows one time for both. Its clock is told here when the first byte came. A client that
//! sends something every ten seconds, as heart-beats do, would otherwise often send on a
//! connection that is being closed, and behind a proxy lose what it sent.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Between two requests. Longer than the 60 s after which nginx closes a connection that it
/// keeps, so that it is nginx that does.
const IDLE: Duration = Duration::from_secs(75);

/// A connection that remembers when it was heard.
#[derive(Debug)]
pub(super) struct Watched {
    stream: TcpStream,
    heard: Arc<Heard>,
}

/// The clock of that connection.
#[derive(Debug)]
pub(super) struct Clock {
    heard: Arc<Heard>,
    head_time: Duration,
}

#[derive(Debug, Default)]
struct Heard(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Since hyper began to wait.
    first_byte: Option<Instant>,
    has_waited: bool,
}

/// Waits for a head.
struct Waiting {
    heard: Arc<Heard>,
    head_time: Duration,
    /// When it is enough without a byte.
    until: Instant,
    sleep: Pin<Box<tokio::time::Sleep>>,
}

/// A connection and its clock. Who has just come is given `head_time` for the first byte too.
pub(super) fn watched(stream: TcpStream, head_time: Duration) -> (Watched, Clock) {
    let heard = Arc::new(Heard::default());
    (Watched { stream, heard: heard.clone() }, Clock { heard, head_time })
}

impl Watched {
    pub(super) fn into_inner(self) -> TcpStream {
        self.stream
    }
}

impl Heard {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Timer for Clock {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(self.wait(deadline))
    }
}

impl Clock {
    fn wait(&self, deadline: Instant) -> Waiting {
        let mut state = self.heard.lock();
        state.first_byte = None;
        let is_first = !std::mem::replace(&mut state.has_waited, true);
        drop(state);
        let until = if is_first { deadline } else { deadline.max(Instant::now() + IDLE) };
        let sleep = Box::pin(tokio::time::sleep_until(until.into()));
        Waiting { heard: self.heard.clone(), head_time: self.head_time, until, sleep }
    }
}

impl Waiting {
    fn due(&self) -> Instant {
        let first_byte = self.heard.lock().first_byte;
        first_byte.map_or(self.until, |at| at + self.head_time)
    }
}

impl Sleep for Waiting {}

impl Future for Waiting {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let due = this.due();
        if this.sleep.deadline() != due.into() {
            this.sleep.as_mut().reset(due.into());
        }
        this.sleep.as_mut().poll(cx)
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            this.heard.lock().first_byte.get_or_insert_with(Instant::now);
        }
        result
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn time_for_a_head_and_time_between_heads() {
        let head_time = Duration::from_secs(10);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let (mut watched, clock) = watched(server, head_time);
        let start = Instant::now();
        // Nothing at all, on a new connection.
        let deadline = start + head_time;
        assert_eq!(clock.wait(deadline).due(), deadline);
        // Nothing after a request; then part of a head.
        let waiting = clock.wait(deadline);
        assert!(waiting.due() >= start + IDLE);
        client.write_all(b"GE").await.unwrap();
        assert_eq!(watched.read_u8().await.unwrap(), b'G');
        let due = waiting.due();
        assert!((deadline..start + IDLE).contains(&due));
        // The rest of it does not move that.
        assert_eq!(watched.read_u8().await.unwrap(), b'E');
        assert_eq!(waiting.due(), due);
    }
}
