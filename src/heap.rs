//! Memory given back to the system once a burst is over.
//!
//! What sessions free lies in the allocator's pages, and glibc keeps pages that lie below one in
//! use. So it is asked to give them back when a busy time has ended. While it lasts they would be
//! needed again.

use std::time::Duration;

use crate::telemetry::Metrics;

/// How often it is looked whether a burst is over.
const LOOK: Duration = Duration::from_millis(400);
/// So many bytes on the wire between two looks are a burst, and so few are its end.
const BUSY: u64 = 1 << 20;
const QUIET: u64 = 64 << 10;

/// Looks again and again.
pub async fn run(metrics: &Metrics) {
    let mut interval = tokio::time::interval(LOOK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let total = || metrics.bytes_sent.get() + metrics.bytes_received.get();
    let (mut before, mut is_due) = (total(), false);
    loop {
        interval.tick().await;
        let now = total();
        let moved = now.wrapping_sub(before);
        before = now;
        if moved >= BUSY {
            is_due = true;
        } else if is_due && moved <= QUIET {
            is_due = false;
            // It takes a millisecond or more, which no session should wait for. That it did not
            // run would be no harm.
            let _ = tokio::task::spawn_blocking(give_back).await;
        }
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "no crate wraps this call")]
fn give_back() {
    // SAFETY: it takes no pointer, and may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other allocators do it by themselves or cannot.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_back() {}
