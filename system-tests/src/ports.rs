//! Free loopback ports below those that the kernel gives to outgoing connections: a server that is
//! restarted finds its port as it left it.

#![allow(clippy::unwrap_used, reason = "in tests a panic is how to fail")]

use std::net::{Ipv4Addr, TcpListener};

const FIRST: u16 = 12_000;
const COUNT: u16 = 20_000;

/// So many different ports that nobody listens on.
///
/// # Panics
/// Where there are no more.
#[must_use]
pub fn free<const N: usize>() -> [u16; N] {
    let mut ports = [0; N];
    let mut listeners = Vec::new();
    for port in &mut ports {
        let listener = (0..1_000).find_map(|_| {
            let random = u16::try_from(ulid::Ulid::generate().random() % u128::from(COUNT));
            TcpListener::bind((Ipv4Addr::LOCALHOST, FIRST + random.unwrap())).ok()
        });
        let listener = listener.unwrap();
        *port = listener.local_addr().unwrap().port();
        listeners.push(listener);
    }
    ports
}
