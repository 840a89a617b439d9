//! Clusters: nodes are network namespaces, joined by an underlay and by a separate management network.

mod cards;
mod node;
mod topology;
mod wiring;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;

use crate::agent::{Agent, AgentBuilder};
use crate::backlog;
use crate::etcd::{Etcd, EtcdBuilder};
use crate::failure;
use crate::kubernetes::{ApiServer, KubeStore};
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

/// Address in the management namespace, where etcd runs.
pub const MGMT: Ipv4Addr = Ipv4Addr::new(169, 254, 77, 1);

/// Nodes and the underlay between them. Dropping it removes everything that was created for it.
#[derive(Debug)]
pub struct Cluster {
    tag: String,
    nodes: Vec<Node>,
    fabric: Option<NetNs>,
    mgmt: Arc<NetNs>,
    workdir: Arc<Workdir>,
}

impl Cluster {
    /// Builds two nodes with one veth pair between them and nothing else, for measurements.
    pub fn two_nodes() -> Result<Self> {
        Self::build(Topology::two_nodes())
    }

    /// Builds `n` nodes on one L2 segment.
    pub fn segment(n: usize) -> Result<Self> {
        Self::build(Topology::segment(n))
    }

    /// Builds two nodes on different segments with a router between them.
    pub fn two_nodes_routed() -> Result<Self> {
        Self::build(Topology::two_nodes_routed())
    }

    /// Builds a cluster of any topology.
    pub fn build(topology: Topology) -> Result<Self> {
        failure::forget();
        require_root()?;
        require_commands(&["ip", "bridge"])?;
        if topology.has_switch() {
            backlog::make_room()?;
        }
        let tag = new_tag()?;
        let workdir = Arc::new(Workdir::create(&tag)?);
        let Wiring { nodes, fabric, mgmt } = wiring::wire(&tag, &topology)?;
        let nodes = nodes.into_iter().map(|wired| Node::new(wired, &workdir)).collect::<Result<_>>()?;
        Ok(Self { tag, nodes, fabric, mgmt: Arc::new(mgmt), workdir })
    }

    /// Returns the cluster's name: the name of its folder, and the start of its namespaces' names.
    pub fn name(&self) -> &str {
        &self.tag
    }

    /// Returns the folder of all its files.
    pub fn dir(&self) -> &Path {
        self.workdir.path()
    }

    /// Returns the nodes in order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Returns the namespace that is the underlay's switch and router. Nodes joined by a veth pair have none.
    pub fn fabric(&self) -> Option<&NetNs> {
        self.fabric.as_ref()
    }

    /// Returns the management namespace. All nodes reach servers that listen there on [`MGMT`].
    pub fn mgmt(&self) -> &Arc<NetNs> {
        &self.mgmt
    }

    /// Starts an etcd server that all nodes reach through their `mgmt0`.
    pub fn start_etcd(&self) -> Result<Etcd> {
        self.start_etcd_with(Etcd::builder())
    }

    /// [`Cluster::start_etcd`] with more flags.
    pub fn start_etcd_with(&self, etcd: EtcdBuilder) -> Result<Etcd> {
        etcd.start_in(&self.mgmt, IpAddr::V4(MGMT), &self.workdir)
    }

    /// Starts an etcd cluster of `n` members that all nodes reach through their `mgmt0`.
    pub fn start_etcd_members(&self, n: u16) -> Result<Vec<Etcd>> {
        EtcdBuilder::start_members(&self.mgmt, IpAddr::V4(MGMT), &self.workdir, n)
    }

    /// Creates a folder for agents' leases, or returns the one that exists by this name.
    pub fn local_store(&self, name: &str) -> Result<LocalStore> {
        LocalStore::create(name, &self.workdir)
    }

    /// Returns a place for these nodes in the Kubernetes API that all tests share.
    pub fn kube_store(&self) -> Result<KubeStore> {
        self.kube_store_at(&ApiServer::shared()?)
    }

    /// [`Cluster::kube_store`] in a certain API server.
    pub fn kube_store_at(&self, server: &Arc<ApiServer>) -> Result<KubeStore> {
        KubeStore::new(&self.tag, &self.mgmt, &self.workdir, server)
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

    /// Adds one pod to each node, in the nodes' order.
    pub fn one_pod_each(&self) -> Result<Vec<Pod>> {
        Ok(self.pods_each(1)?.into_iter().flatten().collect())
    }

    /// Adds `n` pods to each node. The first index is the node's.
    pub fn pods_each(&self, n: usize) -> Result<Vec<Vec<Pod>>> {
        in_parallel(self.nodes.iter().collect(), |node| (0..n).map(|_| node.add_pod()).collect())
    }
}
