//! Leases in etcd.

use anyhow::Result;
use flannel_tests::kubernetes::Forwarder;
use flannel_tests::{Cluster, Datastore, Etcd};

use super::{Crowd, network};
use crate::bench::crowd::{self, Backend, Lease};

/// Starts an etcd with this many leases.
pub(super) fn start(cluster: &Cluster, backend: Backend, leases: u32) -> Result<Etcd> {
    let etcd = cluster.start_etcd()?;
    etcd.configure(&network(backend))?;
    crowd::fill(&etcd, backend, leases)?;
    Ok(etcd)
}

impl Crowd for Etcd {
    fn datastore(&self) -> &dyn Datastore {
        self
    }

    fn prepare(&self, _: &Lease) -> Result<()> {
        Ok(())
    }

    fn join(&self, lease: &Lease) -> Result<()> {
        let (key, value) = lease.entry();
        self.put(&key, &value)
    }

    fn leave(&self, lease: &Lease) -> Result<()> {
        self.delete(&lease.entry().0)
    }

    fn events(&self) -> Option<&Forwarder> {
        None
    }
}
