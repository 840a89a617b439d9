//! Where the agents of the cluster keep their leases.

use anyhow::Result;
use flannel_tests::{Cluster, Datastore};

use crate::{phase, setup};

/// A kind of datastore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Store {
    /// A real etcd server
    Etcd,
    /// Files in one folder that all nodes share
    Local,
}

/// Finds or installs the tools for the datastore that is wanted. Nobody who asks for none in particular is sent away
/// for want of etcd.
pub(crate) fn choose(wanted: Option<Store>) -> Result<Store> {
    match wanted {
        Some(Store::Etcd) => setup::ensure().map(|_| Store::Etcd),
        Some(Store::Local) => setup::ensure_without_etcd().map(|_| Store::Local),
        None => setup::ensure().map(|_| Store::Etcd).or_else(instead_of_etcd),
    }
}

fn instead_of_etcd(cause: anyhow::Error) -> Result<Store> {
    setup::ensure_without_etcd()?;
    let cause = format!("{cause:#}");
    // The list of what is missing follows.
    let cause = cause.lines().next().unwrap_or_default().trim_end_matches(" Missing:");
    phase::note(&format!("etcd cannot be had, leases are kept in files (as with --store local): {cause}"));
    Ok(Store::Local)
}

impl Store {
    /// One for the cluster, with nothing in it.
    pub(crate) fn start(self, cluster: &Cluster) -> Result<Box<dyn Datastore>> {
        Ok(match self {
            Self::Etcd => Box::new(cluster.start_etcd()?),
            Self::Local => Box::new(cluster.local_store("leases")?),
        })
    }
}
