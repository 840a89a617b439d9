//! Prolongs our lease, if it still is ours.

use super::store::Store;
use crate::lease::OwnLease;
use crate::lease::pick::PublicIps;

/// See [`SubnetManager::renew`](crate::lease::SubnetManager::renew).
pub(super) async fn renew(store: &Store, lease: &OwnLease) -> anyhow::Result<Option<OwnLease>> {
    let Some(entry) = store.entry_of(lease.subnet).await? else { return Ok(None) };
    if !PublicIps::from(&lease.attrs).same_node(&PublicIps::of_holder(&entry.lease)) {
        return Ok(None);
    }
    // The key may hang on another etcd lease than ours by now, or on none since it was made a reservation.
    let renewed = |term| OwnLease { term, ..lease.clone() };
    match entry.term {
        None => Ok(Some(renewed(None))),
        Some(id) => Ok(store.keep_alive(id).await?.map(|term| renewed(Some(term.ends)))),
    }
}
