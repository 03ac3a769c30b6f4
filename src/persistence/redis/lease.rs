//! Which relay nodes are alive, as a presence entry's validity depends on it.
//!
//! A node's presence entries carry its incarnation, a number that Redis gives. They count while
//! its lease runs: 15 s, renewed every 5 s. A node that may have lost entries (no answer, lease
//! over, keys gone) takes a new incarnation and registers everything again under that; whatever
//! the old one still has on the way is void then.

use redis::{Pipeline, Value};

use super::link::{Link, Scripts};
use super::reply;
use crate::persistence::StoreError;

const LEASE_MS: u32 = 15_000;
const LEASES: &str = "stomp-relay:nodes:{nodes}:leases";
const COUNTER: &str = "stomp-relay:nodes:{nodes}:newest";

/// What this node knows of itself and the others.
#[derive(Debug, Default)]
pub(super) struct Lease {
    /// Empty before the first answer.
    pub(super) incarnation: String,
    /// All living nodes, this one included, joined by commas.
    pub(super) alive: String,
    /// Younger ones than this are alive too: they came after `alive` was read.
    pub(super) newest: String,
}

impl Lease {
    /// Renews the lease, or takes a new incarnation where `renew` is not wished or not possible.
    /// Answers whether the incarnation is a new one.
    ///
    /// # Errors
    /// As [`Link::send`].
    pub(super) async fn renew(
        &mut self,
        renew: bool,
        link: &mut Link,
        scripts: &Scripts,
    ) -> Result<bool, StoreError> {
        let (kept, given_up) =
            if renew { (&*self.incarnation, "") } else { ("", &*self.incarnation) };
        let mut pipeline = Pipeline::new();
        pipeline.cmd("EVALSHA").arg(scripts.lease.get_hash()).arg(2).arg(LEASES).arg(COUNTER);
        pipeline.arg(kept).arg(given_up).arg(LEASE_MS);
        let replies = link.send(&pipeline, scripts).await?;
        let unexpected = || StoreError::Broken("store: Redis answers a lease otherwise".into());
        let Some(Value::Array(values)) = replies.first() else { return Err(unexpected()) };
        let names: Vec<&str> =
            values.iter().map(reply::text).collect::<Option<_>>().ok_or_else(unexpected)?;
        let [incarnation, newest, alive @ ..] = &names[..] else { return Err(unexpected()) };
        let is_new = **incarnation != *self.incarnation;
        self.alive = alive.join(",");
        self.newest = (*newest).to_owned();
        self.incarnation = (*incarnation).to_owned();
        Ok(is_new)
    }

    /// Gives the lease up, so that the others need not wait for its end.
    pub(super) async fn give_up(&self, link: &mut Link, scripts: &Scripts) {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("ZREM").arg(LEASES).arg(&self.incarnation);
        if let Err(error) = link.send(&pipeline, scripts).await {
            tracing::debug!(%error, "the lease ends by itself");
        }
    }
}
