//! Prolongs our lease, if it still is ours.

use anyhow::Result;
use tokio::time::Instant;

use super::store::Store;
use crate::lease::pick::PublicIps;
use crate::lease::{OwnLease, TTL};

/// See [`SubnetManager::renew`](crate::lease::SubnetManager::renew).
pub(super) async fn renew(store: &Store, lease: &OwnLease) -> Result<Option<OwnLease>> {
    let _lock = store.lock().await?;
    let Some(entry) = store.entry_of(lease.subnet)? else { return Ok(None) };
    if !PublicIps::from(&lease.attrs).same_node(&PublicIps::of_holder(&entry.lease)) {
        return Ok(None);
    }
    // It may have been made a reservation, or a lease, since we took it.
    let renewed = |term| Ok(Some(OwnLease { term, ..lease.clone() }));
    if entry.ends.is_none() {
        return renewed(None);
    }
    let term = Instant::now() + TTL;
    store.touch(lease.subnet)?;
    renewed(Some(term))
}
