//! Tells others where we are now, on the subnet that we hold.

use anyhow::{Context as _, Result};
use tokio::time::Instant;

use super::store::Store;
use crate::lease::pick::PublicIps;
use crate::lease::{LeaseAttrs, OwnLease, TTL};

/// See [`SubnetManager::readdress`](crate::lease::SubnetManager::readdress).
pub(super) async fn readdress(
    store: &Store,
    lease: &OwnLease,
    attrs: &LeaseAttrs,
) -> Result<Option<OwnLease>> {
    let value = serde_json::to_vec(attrs).context("writing our lease as JSON")?;
    let _lock = store.lock().await?;
    let Some(entry) = store.entry_of(lease.subnet)? else { return Ok(None) };
    // An earlier try may have written the new one.
    let holder = PublicIps::of_holder(&entry.lease);
    if ![&lease.attrs, attrs].iter().any(|us| PublicIps::from(*us).same_node(&holder)) {
        return Ok(None);
    }
    let term = entry.ends.map(|_| Instant::now() + TTL);
    store.replace(lease.subnet, &value, entry.mode())?;
    tracing::info!(lease = %lease.subnet, "our lease has our new address");
    Ok(Some(OwnLease { subnet: lease.subnet, attrs: attrs.clone(), term }))
}
