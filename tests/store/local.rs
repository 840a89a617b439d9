//! Leases as files (`--local-subnet-mgr`): on one machine, and distributed by other means.

mod asked;
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

/// A change is followed within this, by inotify: without it that would take twice as long.
const SOON: Duration = Duration::from_secs(5);

/// Agents on folders. Fields are in the order in which they have to go.
struct Bed {
    pods: Vec<Pod>,
    agents: Vec<Agent>,
    /// The folder of each node, or the one of all.
    stores: Vec<LocalStore>,
    cluster: Cluster,
}

impl Bed {
    /// `n` nodes with one folder.
    fn shared(n: usize) -> Result<Self> {
        let bed = Self::start(Cluster::segment(n)?, 1, |_, _| Ok(()))?;
        bed.ensure_known(&[])?;
        Ok(bed)
    }

    /// `n` nodes with a folder each, prepared in some way.
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

    /// Every node comes to know all others, these strangers, and nobody else.
    fn ensure_known(&self, strangers: &[Peer]) -> Result<()> {
        for node in 0..self.agents.len() {
            eventually("the leases are followed", SOON, || {
                let others = (0..self.agents.len()).filter(|other| *other != node);
                let others = others.map(|other| self.peer(other)).collect::<Result<Vec<_>>>()?;
                inspect::ensure_knows(self.node(node), &[&others, strangers].concat())
            })?;
        }
        Ok(())
    }
}

/// A node that is only in the datastore.
fn stranger(number: u8) -> Peer {
    Peer {
        base: [10, 5, number, 0].into(),
        public_ip: [192, 168, 64, number].into(),
        mac: format!("c6:d2:32:6f:8f:{number:02x}"),
    }
}

/// The permissions of a file.
fn mode(path: &Path) -> Result<u32> {
    Ok(std::fs::metadata(path)?.permissions().mode() & 0o7777)
}
