//! A TCP socket as transports use it: read and written without waiting, closed with patience.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

/// Read at once, into a buffer of the thread.
const READ_BYTES: usize = 64 * 1024;
/// Below this the thread's buffer is renewed.
const READ_AT_LEAST: usize = 8 * 1024;
/// A closed connection waits so long for the other side to close too.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_TCP: Duration = Duration::from_secs(2);

thread_local! {
    static READ_BUFFER: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// Reads what is there. `Ready(Ok(None))` is the end of the stream. A read that does not fill the
/// buffer has taken all, so that nobody asks the kernel a second time.
pub(super) fn poll_read(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Option<BytesMut>>> {
    READ_BUFFER.with_borrow_mut(|buffer| {
        if buffer.capacity() < READ_AT_LEAST {
            buffer.reserve(READ_BYTES);
        }
        let read = poll_read_buf(Pin::new(stream), cx, buffer);
        read.map_ok(|count| (count > 0).then(|| buffer.split()))
    })
}

/// Writes what the kernel takes at once.
///
/// # Errors
/// Where the connection is gone.
pub(super) fn write(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match stream.try_write(rest) {
            Ok(count) => written += count,
            Err(error) if would_block(&error) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

/// Writes the rest and waits a little for the other side to close too.
pub(super) async fn finish(mut stream: TcpStream, is_websocket: bool, out: &[u8]) {
    let time = if is_websocket { LINGER } else { LINGER_TCP };
    let farewell = async {
        stream.write_all(out).await?;
        stream.shutdown().await?;
        let mut sink = [0_u8; 1024];
        while stream.read(&mut sink).await? > 0 {}
        io::Result::Ok(())
    };
    // Whatever comes of it, the connection is over.
    let _ = tokio::time::timeout(time, farewell).await;
}

fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}
