//! Datastores full of leases, for the agent that is measured.

mod etcd;
mod kubernetes;

use anyhow::Result;
use flannel_tests::kubernetes::{Binaries, Forwarder};
use flannel_tests::{Cluster, Datastore};
use serde::Serialize;

use crate::bench::crowd::{Backend, Lease, NETWORK};
use crate::kube::{self, Kubernetes};
use crate::setup;

/// A datastore of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
pub(in crate::bench) enum Store {
    /// etcd
    Etcd,
    /// Nodes of a real kube-apiserver
    Kubernetes,
}

/// A running datastore with the leases of nodes that do not exist.
pub(super) trait Crowd: Sync {
    /// Returns the datastore for the agent's flags.
    fn datastore(&self) -> &dyn Datastore;

    /// Makes a node ready to join. The agent has nothing to do for it yet.
    fn prepare(&self, lease: &Lease) -> Result<()>;

    /// Writes a prepared node's lease.
    fn join(&self, lease: &Lease) -> Result<()>;

    /// Removes a node's lease.
    fn leave(&self, lease: &Lease) -> Result<()>;

    /// Returns the way of the datastore's events to the agent, if it can be watched.
    fn events(&self) -> Option<&Forwarder>;
}

impl Store {
    /// Numbers of leases that are measured unless others are asked for.
    pub(super) const fn counts(self) -> &'static [u32] {
        match self {
            Self::Etcd => &[0, 250, 1000, 5000, 10_000, 50_000],
            // The largest cluster that Kubernetes supports.
            Self::Kubernetes => &[0, 1000, 5000],
        }
    }

    /// Makes ready what its servers are started from.
    pub(super) fn programs(self) -> Result<Programs> {
        Ok(match self {
            Self::Etcd => Programs::Etcd,
            Self::Kubernetes => {
                setup::ensure(&kube::NEEDS)?;
                Programs::Kubernetes(Kubernetes::get()?.build()?)
            }
        })
    }
}

/// The programs of a datastore's servers.
pub(super) enum Programs {
    Etcd,
    Kubernetes(Binaries),
}

impl Programs {
    /// Starts a datastore for the cluster's only node, with this many leases.
    pub(super) fn start(&self, cluster: &Cluster, backend: Backend, leases: u32) -> Result<Box<dyn Crowd>> {
        Ok(match self {
            Self::Etcd => Box::new(etcd::start(cluster, backend, leases)?),
            Self::Kubernetes(binaries) => {
                Box::new(kubernetes::Nodes::start(cluster, binaries, backend, leases)?)
            }
        })
    }
}

/// Returns the network's configuration.
fn network(backend: Backend) -> String {
    format!(r#"{{"Network":"{NETWORK}","Backend":{{"Type":"{}"}}}}"#, backend.name())
}
