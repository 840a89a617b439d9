//! Where the agents of the cluster keep their leases.

use anyhow::Result;
use flannel_tests::tools::Part;
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

/// Finds or installs the tools of these parts, without etcd's if the user wants files. Without a wish it is etcd, or files if
/// etcd cannot be installed.
pub(crate) fn choose(wanted: Option<Store>, parts: &[Part]) -> Result<Store> {
    let without_etcd: Vec<_> = parts.iter().copied().filter(|part| *part != Part::Etcd).collect();
    match wanted {
        Some(Store::Etcd) => setup::ensure(parts).map(|()| Store::Etcd),
        Some(Store::Local) => setup::ensure(&without_etcd).map(|()| Store::Local),
        None => setup::ensure(parts)
            .map(|()| Store::Etcd)
            .or_else(|cause| setup::ensure(&without_etcd).map(|()| instead_of_etcd(&cause))),
    }
}

fn instead_of_etcd(cause: &anyhow::Error) -> Store {
    let cause = format!("{cause:#}");
    // The list of what is missing follows the first line.
    let cause = cause.lines().next().unwrap_or_default().trim_end_matches(" Missing:");
    phase::note(&format!(
        "etcd cannot be installed, leases are kept in files (as with --store local): {cause}"
    ));
    Store::Local
}

impl Store {
    /// Starts an empty one for the cluster.
    pub(crate) fn start(self, cluster: &Cluster) -> Result<Box<dyn Datastore>> {
        Ok(match self {
            Self::Etcd => Box::new(cluster.start_etcd()?),
            Self::Local => Box::new(cluster.local_store("leases")?),
        })
    }
}
