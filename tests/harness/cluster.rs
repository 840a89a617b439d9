//! Clusters: nodes as namespaces, joined by an underlay, with a management network beside it.

mod cards;
mod node;
mod topology;
mod wiring;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;

use crate::agent::{Agent, AgentBuilder};
use crate::etcd::{Etcd, EtcdBuilder};
use crate::failure;
use crate::netns::NetNs;
use crate::owner::new_tag;
use crate::parallel::in_parallel;
use crate::pod::Pod;
use crate::require::{require_commands, require_root};
use crate::store::{Datastore, LocalStore};
use crate::workdir::Workdir;
pub use node::{Counters, Node};
pub use topology::Topology;
use wiring::Wiring;

/// Address of the management namespace, where etcd runs.
pub const MGMT: Ipv4Addr = Ipv4Addr::new(169, 254, 77, 1);

/// Nodes and the underlay between them. Dropping it removes everything it made.
#[derive(Debug)]
pub struct Cluster {
    tag: String,
    nodes: Vec<Node>,
    fabric: Option<NetNs>,
    mgmt: Arc<NetNs>,
    workdir: Arc<Workdir>,
}

impl Cluster {
    /// Two nodes with one cable between them and nothing else: for measuring.
    pub fn two_nodes() -> Result<Self> {
        Self::build(Topology::two_nodes())
    }

    /// `n` nodes on one L2 segment.
    pub fn segment(n: usize) -> Result<Self> {
        Self::build(Topology::segment(n))
    }

    /// Two nodes on different segments, with a router between.
    pub fn two_nodes_routed() -> Result<Self> {
        Self::build(Topology::two_nodes_routed())
    }

    /// Any topology.
    pub fn build(topology: Topology) -> Result<Self> {
        failure::forget();
        require_root()?;
        require_commands(&["ip", "bridge"])?;
        let tag = new_tag()?;
        let workdir = Arc::new(Workdir::create(&tag)?);
        let Wiring { nodes, fabric, mgmt } = wiring::wire(&tag, &topology)?;
        let nodes = nodes.into_iter().map(|wired| Node::new(wired, &workdir)).collect::<Result<_>>()?;
        Ok(Self { tag, nodes, fabric, mgmt: Arc::new(mgmt), workdir })
    }

    /// The cluster's name, which begins the names of all its namespaces and is its folder's.
    pub fn name(&self) -> &str {
        &self.tag
    }

    /// The folder that holds all its files.
    pub fn dir(&self) -> &Path {
        self.workdir.path()
    }

    /// The nodes in order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The namespace that is the underlay's switch and router; two nodes on a cable have none.
    pub fn fabric(&self) -> Option<&NetNs> {
        self.fabric.as_ref()
    }

    /// The management namespace: servers that listen there on [`MGMT`] are reached by all nodes.
    pub fn mgmt(&self) -> &Arc<NetNs> {
        &self.mgmt
    }

    /// Starts an etcd server that all nodes reach through their `mgmt0`.
    pub fn start_etcd(&self) -> Result<Etcd> {
        self.start_etcd_with(Etcd::builder())
    }

    /// [`Cluster::start_etcd`] with flags of its own.
    pub fn start_etcd_with(&self, etcd: EtcdBuilder) -> Result<Etcd> {
        etcd.start_in(&self.mgmt, IpAddr::V4(MGMT), &self.workdir)
    }

    /// Starts an etcd cluster of so many members that all nodes reach through their `mgmt0`.
    pub fn start_etcd_members(&self, n: u16) -> Result<Vec<Etcd>> {
        EtcdBuilder::start_members(&self.mgmt, IpAddr::V4(MGMT), &self.workdir, n)
    }

    /// A folder in which agents can keep their leases; it is empty if the name is new.
    pub fn local_store(&self, name: &str) -> Result<LocalStore> {
        LocalStore::create(name, &self.workdir)
    }

    /// Starts an agent on every node and waits until all are ready.
    pub fn start_agents(&self, store: &dyn Datastore) -> Result<Vec<Agent>> {
        self.start_agents_with(store, |agent| agent)
    }

    /// [`Cluster::start_agents`] with a change to each agent's flags or environment.
    pub fn start_agents_with(
        &self,
        store: &dyn Datastore,
        change: impl Fn(AgentBuilder) -> AgentBuilder,
    ) -> Result<Vec<Agent>> {
        let start = |node| change(Agent::builder(node).store(store)).start();
        let mut agents = self.nodes.iter().map(start).collect::<Result<Vec<_>>>()?;
        for agent in &mut agents {
            agent.wait_ready()?;
        }
        Ok(agents)
    }

    /// One more pod on each node, in the nodes' order.
    pub fn one_pod_each(&self) -> Result<Vec<Pod>> {
        Ok(self.pods_each(1)?.into_iter().flatten().collect())
    }

    /// `n` more pods on each node: the first index is the node's.
    pub fn pods_each(&self, n: usize) -> Result<Vec<Vec<Pod>>> {
        in_parallel(self.nodes.iter().collect(), |node| (0..n).map(|_| node.add_pod()).collect())
    }
}
