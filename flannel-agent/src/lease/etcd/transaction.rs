//! Changes leases by compare-and-set.

use anyhow::{Result, bail};
use tokio::time::Instant;

use super::store::{EtcdStore, GrantedLease, KeyVersion, Precondition};
use crate::lease::key::SubnetKey;
use crate::lease::policy::{self, StoredLease, Upkeep};
use crate::lease::transaction::{Transaction, WriteResult};

/// See [`Transaction`].
pub(super) struct EtcdTransaction<'a> {
    store: &'a EtcdStore,
    /// etcd's revision when all entries were last read.
    listed_at: i64,
    /// An etcd lease that no key uses yet.
    unused: Option<GrantedLease>,
}

impl<'a> EtcdTransaction<'a> {
    pub(super) fn new(store: &'a EtcdStore) -> Self {
        Self { store, listed_at: 0, unused: None }
    }

    /// Renews the etcd lease of a key. Returns a new one if that has ended or is too short.
    async fn prolonged(&mut self, id: i64) -> Result<GrantedLease> {
        let kept = self.store.keep_alive(id).await?;
        match kept
            .filter(|lease| policy::lasts_long_enough(lease.ends.saturating_duration_since(Instant::now())))
        {
            Some(lease) => Ok(lease),
            None => self.grant().await,
        }
    }

    async fn grant(&mut self) -> Result<GrantedLease> {
        let lease = match self.unused {
            Some(lease) => lease,
            None => self.store.grant().await?,
        };
        Ok(*self.unused.insert(lease))
    }

    /// Writes a key, with a lease or as a reservation.
    async fn put(
        &mut self,
        subnet: SubnetKey,
        value: &str,
        lease: Option<GrantedLease>,
        expect: Precondition,
    ) -> Result<WriteResult> {
        let id = lease.map(|lease| lease.id);
        if !self.store.put(subnet, value, id, expect).await? {
            return Ok(WriteResult::Conflict);
        }
        self.unused = self.unused.filter(|unused| Some(unused.id) != id);
        Ok(WriteResult::Done(lease.map(|lease| lease.ends)))
    }
}

impl Transaction for EtcdTransaction<'_> {
    type Version = KeyVersion;

    fn place(&self) -> String {
        format!("etcd's {}/subnets", self.store.prefix)
    }

    async fn entries(&mut self) -> Result<Vec<StoredLease<KeyVersion>>> {
        let listing = self.store.list().await?;
        self.listed_at = listing.revision;
        Ok(listing.entries)
    }

    async fn entry(&mut self, subnet: SubnetKey) -> Result<Option<StoredLease<KeyVersion>>> {
        self.store.entry(subnet).await
    }

    async fn create(&mut self, subnet: SubnetKey, value: &str) -> Result<WriteResult> {
        let lease = self.grant().await?;
        // Different dual-stack keys can overlap in one family, so no other key may have been written either.
        let unchanged_since = subnet.v6.and(subnet.v4).map(|_| self.listed_at);
        self.put(subnet, value, Some(lease), Precondition::Absent { unchanged_since }).await
    }

    async fn keep(
        &mut self,
        subnet: SubnetKey,
        upkeep: &Upkeep<'_, KeyVersion>,
        value: &str,
    ) -> Result<WriteResult> {
        let KeyVersion { revision, lease: id } = upkeep.entry.version;
        let lease = match id.filter(|_| upkeep.prolong) {
            Some(id) => Some(self.prolonged(id).await?),
            None => None,
        };
        if upkeep.write || lease.map(|lease| lease.id) != id {
            return self.put(subnet, value, lease, Precondition::At(revision)).await;
        }
        Ok(WriteResult::Done(lease.map(|lease| lease.ends)))
    }

    async fn remove(&mut self, subnet: SubnetKey, entry: &StoredLease<KeyVersion>) -> Result<()> {
        if !self.store.delete(subnet, entry.version.revision).await? {
            bail!("another client changed the lease {subnet} at the same time");
        }
        Ok(())
    }

    /// Revokes an unused etcd lease, which would stay in etcd for a day.
    async fn finish(self) {
        if let Some(unused) = self.unused {
            self.store.revoke(unused).await;
        }
    }
}
