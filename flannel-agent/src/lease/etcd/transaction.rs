//! Changes leases by compare-and-set.

use anyhow::{Result, bail};
use tokio::time::Instant;

use super::store::{Expect, GrantedLease, Revision, Store};
use crate::lease::SubnetKey;
use crate::lease::policy::{self, StoredLease, Upkeep};
use crate::lease::transaction::{Transaction, Written};

/// See [`Transaction`].
pub(super) struct EtcdTransaction<'a> {
    store: &'a Store,
    /// The datastore's revision when all entries were last read.
    listed_at: i64,
    /// An etcd lease that no key uses yet.
    unused: Option<GrantedLease>,
}

impl<'a> EtcdTransaction<'a> {
    pub(super) fn new(store: &'a Store) -> Self {
        Self { store, listed_at: 0, unused: None }
    }

    /// Prolongs the etcd lease of a key if that makes it a full one. Returns a new one otherwise.
    async fn prolonged(&mut self, id: i64) -> Result<GrantedLease> {
        let kept = self.store.keep_alive(id).await?;
        match kept.filter(|lease| policy::is_long(lease.ends.saturating_duration_since(Instant::now()))) {
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
        expect: Expect,
    ) -> Result<Written> {
        let id = lease.map(|lease| lease.id);
        if !self.store.put(subnet, value, id, expect).await? {
            return Ok(Written::Conflict);
        }
        self.unused = self.unused.filter(|unused| Some(unused.id) != id);
        Ok(Written::Done(lease.map(|lease| lease.ends)))
    }
}

impl Transaction for EtcdTransaction<'_> {
    type Version = Revision;

    fn place(&self) -> String {
        format!("etcd's {}/subnets", self.store.prefix)
    }

    async fn entries(&mut self) -> Result<Vec<StoredLease<Revision>>> {
        let listed = self.store.entries().await?;
        self.listed_at = listed.revision;
        Ok(listed.entries)
    }

    async fn entry(&mut self, subnet: SubnetKey) -> Result<Option<StoredLease<Revision>>> {
        self.store.entry_of(subnet).await
    }

    async fn create(&mut self, subnet: SubnetKey, value: &str) -> Result<Written> {
        let lease = self.grant().await?;
        // Two dual-stack keys can differ and yet overlap: then no other key may be new either.
        let unchanged_since = subnet.v6.and(subnet.v4).map(|_| self.listed_at);
        self.put(subnet, value, Some(lease), Expect::Absent { unchanged_since }).await
    }

    async fn keep(
        &mut self,
        subnet: SubnetKey,
        upkeep: &Upkeep<'_, Revision>,
        value: &str,
    ) -> Result<Written> {
        let Revision { modified, lease: id } = upkeep.entry.version;
        let lease = match id.filter(|_| upkeep.prolong) {
            Some(id) => Some(self.prolonged(id).await?),
            None => None,
        };
        if upkeep.write || lease.map(|lease| lease.id) != id {
            return self.put(subnet, value, lease, Expect::At(modified)).await;
        }
        Ok(Written::Done(lease.map(|lease| lease.ends)))
    }

    async fn remove(&mut self, subnet: SubnetKey, entry: &StoredLease<Revision>) -> Result<()> {
        if !self.store.delete(subnet, entry.version.modified).await? {
            bail!("another client changed the lease {subnet} at the same time");
        }
        Ok(())
    }

    /// Gives an unused etcd lease back: it would stay in etcd for a day.
    async fn finish(self) {
        if let Some(unused) = self.unused {
            self.store.revoke(unused).await;
        }
    }
}
