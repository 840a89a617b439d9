//! Where the agents of the cluster keep their leases.

use anyhow::Result;
use flannel_tests::tools::Part;
use flannel_tests::{Cluster, Datastore};

use crate::{phase, setup};

/// The parts of the work whose tools it needs with etcd.
pub(crate) const NEEDS: [Part; 4] = [Part::Build, Part::Cluster, Part::Run, Part::Etcd];
/// The same with leases as files.
const NEEDS_WITHOUT_ETCD: [Part; 3] = [Part::Build, Part::Cluster, Part::Run];

/// A kind of datastore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Store {
    /// A real etcd server
    Etcd,
    /// Files in one folder that all nodes share
    Local,
}

/// Finds or installs the tools for the datastore that the user wants. Without a wish it is etcd, or files if etcd
/// cannot be installed.
pub(crate) fn choose(wanted: Option<Store>) -> Result<Store> {
    match wanted {
        Some(Store::Etcd) => setup::ensure(&NEEDS).map(|()| Store::Etcd),
        Some(Store::Local) => setup::ensure(&NEEDS_WITHOUT_ETCD).map(|()| Store::Local),
        None => setup::ensure(&NEEDS).map(|()| Store::Etcd).or_else(instead_of_etcd),
    }
}

fn instead_of_etcd(cause: anyhow::Error) -> Result<Store> {
    setup::ensure(&NEEDS_WITHOUT_ETCD)?;
    let cause = format!("{cause:#}");
    // The list of what is missing follows the first line.
    let cause = cause.lines().next().unwrap_or_default().trim_end_matches(" Missing:");
    phase::note(&format!(
        "etcd cannot be installed, leases are kept in files (as with --store local): {cause}"
    ));
    Ok(Store::Local)
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
