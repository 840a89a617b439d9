//! Changes leases under the folder's lock.

use std::fs::File;

use anyhow::Result;
use tokio::time::Instant;

use super::store::Store;
use crate::lease::policy::{StoredLease, Upkeep};
use crate::lease::transaction::{Transaction, Written};
use crate::lease::{SubnetKey, TTL};

/// See [`Transaction`].
pub(super) struct LocalTransaction<'a> {
    store: &'a Store,
    _lock: File,
}

impl<'a> LocalTransaction<'a> {
    /// Waits for the lock.
    pub(super) async fn begin(store: &'a Store) -> Result<Self> {
        Ok(Self { store, _lock: store.lock().await? })
    }
}

impl Transaction for LocalTransaction<'_> {
    /// The lock keeps other agents out.
    type Version = ();

    fn place(&self) -> String {
        self.store.subnets_path().display().to_string()
    }

    async fn entries(&mut self) -> Result<Vec<StoredLease<()>>> {
        self.store.entries()
    }

    async fn entry(&mut self, subnet: SubnetKey) -> Result<Option<StoredLease<()>>> {
        self.store.entry_of(subnet)
    }

    async fn create(&mut self, subnet: SubnetKey, value: &str) -> Result<Written> {
        let ends = Instant::now() + TTL;
        self.store.create(subnet, value)?;
        Ok(Written::Done(Some(ends)))
    }

    async fn keep(&mut self, subnet: SubnetKey, upkeep: &Upkeep<'_, ()>, value: &str) -> Result<Written> {
        let ends = upkeep.prolong.then(|| Instant::now() + TTL);
        if upkeep.write {
            self.store.replace(subnet, value, upkeep.entry.lifetime)?;
        } else if upkeep.prolong {
            self.store.touch(subnet)?;
        }
        Ok(Written::Done(ends))
    }

    async fn remove(&mut self, subnet: SubnetKey, _: &StoredLease<()>) -> Result<()> {
        self.store.remove(subnet)
    }

    async fn finish(self) {}
}
