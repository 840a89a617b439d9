//! Takes a subnet: looks, decides and writes under the lock.

use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use tokio::time::Instant;

use super::entry::Entry;
use super::store::Store;
use crate::config::NetworkConfig;
use crate::lease::pick::{self, Decision, PublicIps, Taken};
use crate::lease::{LeaseAttrs, OwnLease, SubnetKey, TTL};
use crate::random;

/// See [`SubnetManager::acquire`](crate::lease::SubnetManager::acquire).
pub(super) async fn acquire(
    store: &Store,
    config: &NetworkConfig,
    attrs: &LeaseAttrs,
    previous: Option<SubnetKey>,
) -> Result<OwnLease> {
    let value = serde_json::to_vec(attrs).context("writing our lease as JSON")?;
    let us = PublicIps::from(attrs);
    let _lock = store.lock().await?;
    let entries = without_ended(store, store.entries()?, us);
    let taken: Vec<Taken> = entries.iter().filter_map(|entry| Taken::of(&entry.lease)).collect();
    let own = |subnet, term| OwnLease { subnet, attrs: attrs.clone(), term };
    let full = Some(Instant::now() + TTL);
    let lease = match pick::decide(config, &taken, us, previous, random::number()?) {
        Decision::Reuse(subnet) => {
            let reservation = reuse(store, &entries, subnet, &value)?;
            own(subnet, full.filter(|_| !reservation))
        }
        Decision::Previous(subnet) | Decision::Free(subnet) => {
            store.create(subnet, &value)?;
            tracing::info!(lease = %subnet, "took a subnet");
            own(subnet, full)
        }
        Decision::None => bail!(
            "no subnet is free: there are {} leases in {}; enlarge the network config or delete leases of nodes that \
             are gone",
            entries.len(),
            store.subnets()?.display()
        ),
    };
    remove_outdated(store, &entries, pick::outdated(config, &taken, us));
    Ok(lease)
}

/// Removes the leases that have ended. Our own stays ours as long as nobody has removed it.
fn without_ended(store: &Store, mut entries: Vec<Entry>, us: PublicIps) -> Vec<Entry> {
    let now = SystemTime::now();
    entries.retain(|entry| {
        let ended = entry.has_ended(now) && !us.same_node(&PublicIps::of_holder(&entry.lease));
        // A file whose name is no subnet is nobody's lease, whatever its mode.
        !(ended && entry.lease.key.parse().is_ok_and(|subnet| is_removed(store, subnet)))
    });
    entries
}

fn is_removed(store: &Store, subnet: SubnetKey) -> bool {
    match store.remove(subnet) {
        Ok(()) => tracing::info!(lease = %subnet, "removed a lease that has ended"),
        Err(error) => tracing::warn!(lease = %subnet, "a lease that has ended stays: {error:#}"),
    }
    store.entry_of(subnet).is_ok_and(|entry| entry.is_none())
}

/// Takes our own lease over: its value is written only where it differs, a reservation stays one. Returns whether
/// it is a reservation.
fn reuse(store: &Store, entries: &[Entry], subnet: SubnetKey, value: &[u8]) -> Result<bool> {
    let entry = find(entries, subnet).with_context(|| format!("the lease {subnet} is gone"))?;
    let reservation = entry.ends.is_none();
    if entry.lease.value != value {
        store.replace(subnet, value, entry.mode())?;
    } else if !reservation {
        store.touch(subnet)?;
    }
    tracing::info!(lease = %subnet, reservation, "reusing the lease that has our public IP");
    Ok(reservation)
}

/// Our own leases that no longer fit the network config. Reservations are the administrator's and stay.
fn remove_outdated(store: &Store, entries: &[Entry], outdated: impl Iterator<Item = SubnetKey>) {
    for subnet in outdated {
        if find(entries, subnet).is_some_and(|entry| entry.ends.is_none()) {
            tracing::warn!(lease = %subnet, "our reservation does not fit the network config; delete or correct it");
            continue;
        }
        match store.remove(subnet) {
            Ok(()) => {
                tracing::info!(lease = %subnet, "removed our lease that no longer fits the network config");
            }
            Err(error) => {
                tracing::warn!(lease = %subnet, "our outdated lease stays until it ends: {error:#}");
            }
        }
    }
}

fn find(entries: &[Entry], subnet: SubnetKey) -> Option<&Entry> {
    let name = subnet.to_string();
    entries.iter().find(|entry| entry.lease.key == name)
}
