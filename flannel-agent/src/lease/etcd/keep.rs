//! Keeps the subnet that we hold: prolongs its lease, and has it say where we are.

use anyhow::Context as _;

use super::claim::Claim;
use super::store::Store;
use crate::lease::pick::PublicIps;
use crate::lease::{LeaseAttrs, OwnLease};

/// `None`: etcd no longer has our lease, or another node does.
pub(super) async fn keep(
    store: &Store,
    lease: &OwnLease,
    attrs: &LeaseAttrs,
) -> anyhow::Result<Option<OwnLease>> {
    let Some(entry) = store.entry_of(lease.subnet).await? else { return Ok(None) };
    // An earlier try may have been written without our seeing the answer. And a value that names no node has been
    // spoilt; it is ours to repair.
    let holder = PublicIps::of_holder(&entry.lease);
    let ours = [&lease.attrs, attrs].map(PublicIps::from);
    if holder != PublicIps::default() && !ours.iter().any(|us| us.same_node(&holder)) {
        return Ok(None);
    }
    let mut claim = Claim::new(store, attrs)?;
    let kept = claim.keep(lease.subnet, &entry).await?;
    claim.end(kept.as_ref()).await;
    kept.with_context(|| format!("the lease {} was changed by somebody else meanwhile", lease.subnet))
        .map(Some)
}
