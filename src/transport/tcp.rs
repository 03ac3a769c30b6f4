//! What the kernel is asked about a TCP connection.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Data that nobody acknowledges for so long ends the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// Sets up an accepted connection: no Nagle, and a peer that is gone is found out.
///
/// # Errors
/// Where the kernel refuses, which it does for a connection that is gone already.
pub fn configure(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)
}

/// Bytes that were written and that the peer's kernel has not acknowledged (`SIOCOUTQ`).
///
/// # Errors
/// Where the socket is no TCP socket any more.
#[allow(unsafe_code, reason = "no crate wraps this ioctl")]
pub fn unacknowledged(stream: &TcpStream) -> io::Result<u32> {
    let mut count: libc::c_int = 0;
    // SAFETY: the descriptor is open as long as `stream` lives, and TIOCOUTQ (the same number as
    // SIOCOUTQ) writes one c_int to the pointer, which is valid for the call.
    let result = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if result == 0 {
        Ok(u32::try_from(count).unwrap_or(0))
    } else {
        Err(io::Error::last_os_error())
    }
}
