//! Changes leases under the folder's lock.

use std::fs::File;

use anyhow::Result;
use tokio::time::Instant;

use super::folder::LeaseFolder;
use crate::lease::entry::TTL;
use crate::lease::key::SubnetKey;
use crate::lease::policy::{StoredLease, Upkeep};
use crate::lease::transaction::{Transaction, WriteResult};
use crate::metrics::Request;

/// See [`Transaction`].
pub(super) struct LocalTransaction<'a> {
    folder: &'a LeaseFolder,
    _lock: File,
}

impl<'a> LocalTransaction<'a> {
    /// Waits for the lock.
    pub(super) async fn begin(folder: &'a LeaseFolder) -> Result<Self> {
        let request = Request::begin();
        let lock = folder.lock().await;
        request.end(lock.is_ok());
        Ok(Self { folder, _lock: lock? })
    }
}

impl Transaction for LocalTransaction<'_> {
    /// The lock keeps other agents out.
    type Version = ();

    fn place(&self) -> String {
        self.folder.subnets_path().display().to_string()
    }

    async fn entries(&mut self) -> Result<Vec<StoredLease<()>>> {
        Request::measure(|| self.folder.entries())
    }

    async fn entry(&mut self, subnet: SubnetKey) -> Result<Option<StoredLease<()>>> {
        Request::measure(|| self.folder.entry(subnet))
    }

    async fn create(&mut self, subnet: SubnetKey, value: &str) -> Result<WriteResult> {
        let ends = Instant::now() + TTL;
        Request::measure(|| self.folder.create(subnet, value))?;
        Ok(WriteResult::Done(Some(ends)))
    }

    async fn keep(&mut self, subnet: SubnetKey, upkeep: &Upkeep<'_, ()>, value: &str) -> Result<WriteResult> {
        let ends = upkeep.prolong.then(|| Instant::now() + TTL);
        if upkeep.write {
            Request::measure(|| self.folder.replace(subnet, value, upkeep.entry.lifetime))?;
        } else if upkeep.prolong {
            Request::measure(|| self.folder.touch(subnet))?;
        }
        Ok(WriteResult::Done(ends))
    }

    async fn remove(&mut self, subnet: SubnetKey, _: &StoredLease<()>) -> Result<()> {
        Request::measure(|| self.folder.remove(subnet))
    }

    async fn finish(self) {}
}
