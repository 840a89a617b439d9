//! Takes a subnet: compare-and-set, again and again until it holds or nothing is free.

use std::time::Duration;

use anyhow::{Context, bail};

use super::store::{Entries, Entry, Expect, Store, Term};
use crate::config::NetworkConfig;
use crate::lease::backoff::Backoff;
use crate::lease::pick::{self, Decision, PublicIps, Taken};
use crate::lease::{LeaseAttrs, OwnLease, SubnetKey, TTL};

/// Pause after a lost race, at first and at most.
const RACE_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// See [`SubnetManager::acquire`](crate::lease::SubnetManager::acquire).
pub(super) async fn acquire(
    store: &Store,
    config: &NetworkConfig,
    attrs: &LeaseAttrs,
    previous: Option<SubnetKey>,
) -> anyhow::Result<OwnLease> {
    let value = serde_json::to_string(attrs).context("writing our lease as JSON")?;
    let mut attempt = Attempt { store, attrs, value, granted: None };
    let mut pause = Backoff::new(RACE_PAUSE.0, RACE_PAUSE.1);
    loop {
        let leases = store.entries().await?;
        let taken: Vec<Taken> = leases.entries.iter().filter_map(|entry| Taken::of(&entry.lease)).collect();
        let us = PublicIps::from(attrs);
        let won = match pick::decide(config, &taken, us, previous, pick::random()) {
            Decision::Reuse(key) => attempt.reuse(&leases, key).await?,
            Decision::Previous(key) | Decision::Free(key) => attempt.create(&leases, key).await?,
            Decision::None => bail!(
                "no subnet is free: etcd holds {} leases in {}/subnets; enlarge the network config or delete leases \
                 of nodes that are gone",
                leases.entries.len(),
                store.prefix
            ),
        };
        if let Some(lease) = won {
            attempt.give_back_unused(&lease).await;
            remove_outdated(store, &leases, pick::outdated(config, &taken, us)).await;
            return Ok(lease);
        }
        pause.wait().await;
    }
}

/// What stays the same from try to try.
struct Attempt<'a> {
    store: &'a Store,
    attrs: &'a LeaseAttrs,
    value: String,
    /// The etcd lease for our key, asked for once.
    granted: Option<Term>,
}

impl Attempt<'_> {
    /// Takes our own lease over: its value is written only where it differs, a reservation stays one.
    async fn reuse(&mut self, leases: &Entries, subnet: SubnetKey) -> anyhow::Result<Option<OwnLease>> {
        let Some(entry) = find(leases, subnet) else { return Ok(None) };
        let term = match entry.term {
            None => None,
            Some(id) => Some(self.prolonged(id).await?),
        };
        let unchanged = entry.lease.value == self.value.as_bytes() && entry.term == term.map(|term| term.id);
        let expect = Expect::At(entry.mod_revision);
        if unchanged || self.put(subnet, term, &expect).await? {
            tracing::info!(lease = %subnet, reservation = term.is_none(), "reusing the lease that has our public IP");
            return Ok(Some(self.own(subnet, term)));
        }
        Ok(None)
    }

    async fn create(&mut self, leases: &Entries, subnet: SubnetKey) -> anyhow::Result<Option<OwnLease>> {
        let term = self.grant().await?;
        // Two dual-stack keys can differ and overlap all the same: then no other key may be new either.
        let unchanged_since = subnet.v6.and(subnet.v4).map(|_| leases.revision);
        if self.put(subnet, Some(term), &Expect::Absent { unchanged_since }).await? {
            tracing::info!(lease = %subnet, "took a subnet");
            return Ok(Some(self.own(subnet, Some(term))));
        }
        tracing::debug!(lease = %subnet, "another node was faster, picking again");
        Ok(None)
    }

    /// The etcd lease that our key hangs on if it is a full one, else a new one.
    async fn prolonged(&mut self, id: i64) -> anyhow::Result<Term> {
        let kept = self.store.keep_alive(id).await?;
        let full = kept.filter(|term| term.ends >= tokio::time::Instant::now() + TTL / 2);
        match full {
            Some(term) => Ok(term),
            None => self.grant().await,
        }
    }

    async fn grant(&mut self) -> anyhow::Result<Term> {
        let term = match self.granted {
            Some(term) => term,
            None => self.store.grant().await?,
        };
        Ok(*self.granted.insert(term))
    }

    async fn put(&self, subnet: SubnetKey, term: Option<Term>, expect: &Expect) -> anyhow::Result<bool> {
        self.store.put(subnet, &self.value, term.map(|term| term.id), expect).await
    }

    fn own(&self, subnet: SubnetKey, term: Option<Term>) -> OwnLease {
        OwnLease { subnet, attrs: self.attrs.clone(), term: term.map(|term| term.ends) }
    }

    async fn give_back_unused(&self, lease: &OwnLease) {
        if let Some(granted) = self.granted.filter(|granted| lease.term != Some(granted.ends)) {
            self.store.revoke(granted).await;
        }
    }
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
