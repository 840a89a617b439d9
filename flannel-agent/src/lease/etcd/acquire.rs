//! Takes a subnet: compare-and-set, again and again until it holds or nothing is free.

use std::time::Duration;

use anyhow::bail;

use super::claim::Claim;
use super::store::{Entries, Entry, Store};
use crate::config::NetworkConfig;
use crate::lease::backoff::Backoff;
use crate::lease::pick::{self, Decision, PublicIps, Taken};
use crate::lease::{LeaseAttrs, OwnLease, SubnetKey};
use crate::random;

/// Pause after a lost race, at first and at most.
const RACE_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// See [`SubnetManager::acquire`](crate::lease::SubnetManager::acquire).
pub(super) async fn acquire(
    store: &Store,
    config: &NetworkConfig,
    attrs: &LeaseAttrs,
    previous: Option<SubnetKey>,
) -> anyhow::Result<OwnLease> {
    let mut claim = Claim::new(store, attrs)?;
    let taken = take(store, &mut claim, config, PublicIps::from(attrs), previous).await;
    claim.end(taken.as_ref().ok()).await;
    taken
}

async fn take(
    store: &Store,
    claim: &mut Claim<'_>,
    config: &NetworkConfig,
    us: PublicIps,
    previous: Option<SubnetKey>,
) -> anyhow::Result<OwnLease> {
    let mut pause = Backoff::new(RACE_PAUSE.0, RACE_PAUSE.1);
    loop {
        let leases = store.entries().await?;
        let taken: Vec<Taken> = leases.entries.iter().filter_map(|entry| Taken::of(&entry.lease)).collect();
        let won = match pick::decide(config, &taken, us, previous, random::number()?) {
            Decision::Reuse(key) => reuse(claim, &leases, key).await?,
            Decision::Previous(key) | Decision::Free(key) => claim.create(key, leases.revision).await?,
            Decision::None => bail!(
                "no subnet is free: etcd holds {} leases in {}/subnets; enlarge the network config or delete leases \
                 of nodes that are gone",
                leases.entries.len(),
                store.prefix
            ),
        };
        if let Some(lease) = won {
            remove_outdated(store, &leases, pick::outdated(config, &taken, us)).await;
            return Ok(lease);
        }
        tracing::debug!("another node was faster, picking again");
        pause.wait().await;
    }
}

async fn reuse(
    claim: &mut Claim<'_>,
    leases: &Entries,
    subnet: SubnetKey,
) -> anyhow::Result<Option<OwnLease>> {
    let Some(entry) = find(leases, subnet) else { return Ok(None) };
    let kept = claim.keep(subnet, entry).await?;
    if kept.is_some() {
        let reservation = entry.term.is_none();
        tracing::info!(lease = %subnet, reservation, "reusing the lease that has our public IP");
    }
    Ok(kept)
}

/// Our own leases that no longer fit the network config. Reservations are the administrator's and stay.
async fn remove_outdated(store: &Store, leases: &Entries, outdated: impl Iterator<Item = SubnetKey>) {
    for subnet in outdated {
        let Some(entry) = find(leases, subnet) else { continue };
        if entry.term.is_none() {
            tracing::warn!(lease = %subnet, "our reservation does not fit the network config; delete or correct it");
            continue;
        }
        match store.delete(subnet, entry.mod_revision).await {
            Ok(_) => {
                tracing::info!(lease = %subnet, "removed our lease that no longer fits the network config");
            }
            Err(error) => {
                tracing::warn!(lease = %subnet, "our outdated lease stays until it ends: {error:#}");
            }
        }
    }
}

fn find(leases: &Entries, subnet: SubnetKey) -> Option<&Entry> {
    let name = subnet.to_string();
    leases.entries.iter().find(|entry| entry.lease.key == name)
}
