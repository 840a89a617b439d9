//! Tells others where we are now, on the subnet that we hold.

use anyhow::{Context as _, bail};

use super::renew::renew;
use super::store::{Expect, Store};
use crate::lease::pick::PublicIps;
use crate::lease::{LeaseAttrs, OwnLease};

/// See [`SubnetManager::readdress`](crate::lease::SubnetManager::readdress).
pub(super) async fn readdress(
    store: &Store,
    lease: &OwnLease,
    attrs: &LeaseAttrs,
) -> anyhow::Result<Option<OwnLease>> {
    let Some(entry) = store.entry_of(lease.subnet).await? else { return Ok(None) };
    // An earlier try may have been written without our seeing the answer.
    let ours = [&lease.attrs, attrs].map(PublicIps::from);
    if !ours.iter().any(|us| us.same_node(&PublicIps::of_holder(&entry.lease))) {
        return Ok(None);
    }
    let value = serde_json::to_string(attrs).context("writing our lease as JSON")?;
    if !store.put(lease.subnet, &value, entry.term, &Expect::At(entry.mod_revision)).await? {
        bail!("the lease {} was changed by somebody else meanwhile", lease.subnet);
    }
    tracing::info!(lease = %lease.subnet, "our lease has our new address");
    renew(store, &OwnLease { attrs: attrs.clone(), ..lease.clone() }).await
}
