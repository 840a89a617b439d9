//! Leases as files (`--local-subnet-mgr`): in a shared folder, and in folders that other programs synchronize.

mod asked;
mod changed_config;
mod distributed;
mod files;
mod folder;
mod join;
mod managers;
mod time;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use flannel_tests::{Agent, Cluster, Datastore as _, LocalStore, Node, Pod, eventually};

use crate::endpoint::with_endpoint;
use crate::inspect::{self, Peer};
use crate::overlay::{NETWORK, Streams};

/// Time limit to follow a change, by inotify. Without inotify it would take twice as long.
const SOON: Duration = Duration::from_secs(5);

/// Agents with folders. Fields are in the order of their drops.
struct Bed {
    pods: Vec<Pod>,
    agents: Vec<Agent>,
    /// The folder of each node, or the shared one.
    stores: Vec<LocalStore>,
    cluster: Cluster,
}

impl Bed {
    /// Starts `n` nodes with one shared folder.
    fn shared(n: usize) -> Result<Self> {
        let bed = Self::start(Cluster::segment(n)?, 1, |_, _| Ok(()))?;
        bed.ensure_known(&[])?;
        Ok(bed)
    }

    /// Starts `n` nodes with a folder each, which `prepare` fills.
    fn separate(n: usize, prepare: impl Fn(&LocalStore, &Cluster) -> Result<()>) -> Result<Self> {
        Self::start(Cluster::segment(n)?, n, prepare)
    }

    fn start(
        cluster: Cluster,
        stores: usize,
        prepare: impl Fn(&LocalStore, &Cluster) -> Result<()>,
    ) -> Result<Self> {
        let stores: Vec<_> =
            (0..stores).map(|n| cluster.local_store(&format!("leases{n}"))).collect::<Result<_>>()?;
        for store in &stores {
            store.configure(NETWORK)?;
            prepare(store, &cluster)?;
        }
        let start =
            |(node, store): (&Node, &LocalStore)| with_endpoint(Agent::builder(node).store(store)).start();
        let mut agents: Vec<_> =
            cluster.nodes().iter().zip(stores.iter().cycle()).map(start).collect::<Result<_>>()?;
        agents.iter_mut().try_for_each(|agent| agent.wait_ready().map(drop))?;
        let pods = cluster.one_pod_each()?;
        Ok(Self { pods, agents, stores, cluster })
    }

    fn store(&self) -> &LocalStore {
        &self.stores[0]
    }

    fn node(&self, node: usize) -> &Node {
        &self.cluster.nodes()[node]
    }

    fn peer(&self, node: usize) -> Result<Peer> {
        Peer::of(self.node(node))
    }

    fn streams(&self) -> Result<Streams> {
        Streams::between(&self.pods[0], &self.pods[1])
    }

    /// Waits until every node knows all others and these `more`, and no others.
    fn ensure_known(&self, more: &[Peer]) -> Result<()> {
        for node in 0..self.agents.len() {
            eventually("the leases are followed", SOON, || {
                let others = (0..self.agents.len()).filter(|other| *other != node);
                let others = others.map(|other| self.peer(other)).collect::<Result<Vec<_>>>()?;
                inspect::ensure_knows(self.node(node), &[&others, more].concat())
            })?;
        }
        Ok(())
    }
}

/// Returns the permissions of a file.
fn mode(path: &Path) -> Result<u32> {
    Ok(std::fs::metadata(path)?.permissions().mode() & 0o7777)
}
