//! Clusters whose agents keep their leases in Kubernetes.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use flannel_tests::kubernetes::KubeStore;
use flannel_tests::traffic::ping;
use flannel_tests::{Agent, Cluster, Datastore as _, Node, Pod, eventually};

use crate::inspect::{self, Peer};
use crate::overlay::{Streams, lines_of};

/// Network of these tests. The podCIDR of node `n` is 10.5.`n`.0/24.
pub(crate) const NETWORK: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#;
pub(crate) const NETLINK: &str = "--dataplane=netlink";
pub(crate) const BPF: &str = "--dataplane=bpf";
/// Time limit for a change in the API server to be in the dataplane, and for an agent to go on after a failure.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Nodes with an agent and a pod each. The fields are in the order in which they have to be dropped.
pub(crate) struct Bed {
    pub(crate) pods: Vec<Pod>,
    pub(crate) agents: Vec<Agent>,
    pub(crate) store: KubeStore,
    pub(crate) cluster: Cluster,
}

impl Bed {
    /// Starts `n` nodes with this flag on one segment, and waits until they know each other.
    pub(crate) fn start(n: usize, flag: &str) -> Result<Self> {
        let cluster = Cluster::segment(n)?;
        let store = cluster.kube_store()?;
        Self::start_in(cluster, store, flag)
    }

    /// [`Bed::start`] with these nodes and this datastore.
    pub(crate) fn start_in(cluster: Cluster, store: KubeStore, flag: &str) -> Result<Self> {
        store.configure(NETWORK)?;
        for (number, node) in (1..).zip(cluster.nodes()) {
            store.add_node(node.name(), &[&format!("10.5.{number}.0/24")])?;
        }
        let agents = cluster.start_agents_with(&store, |agent| agent.arg(flag))?;
        let pods = cluster.one_pod_each()?;
        let bed = Self { pods, agents, store, cluster };
        bed.wait_joined(&[])?;
        Ok(bed)
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        self.cluster.nodes()
    }

    /// Waits until every node knows every other one and these, and nobody else.
    pub(crate) fn wait_joined(&self, others: &[Peer]) -> Result<()> {
        eventually("all nodes know each other", SOON, || {
            let peers = self.nodes().iter().map(Peer::of).collect::<Result<Vec<_>>>()?;
            for (index, node) in self.nodes().iter().enumerate() {
                let remote = peers.iter().enumerate().filter(|(other, _)| *other != index);
                let known: Vec<_> = remote.map(|(_, peer)| peer).chain(others).cloned().collect();
                inspect::ensure_knows(node, &known)?;
            }
            Ok(())
        })
    }

    /// Registers a node, and waits until all nodes know it and forget it after it was removed.
    pub(crate) fn ensure_follows(&self) -> Result<()> {
        let late = Peer::fictional(90);
        register(&self.store, "late", &late)?;
        self.wait_joined(std::slice::from_ref(&late))?;
        self.store.delete_node("late")?;
        self.wait_joined(&[])
    }

    /// Starts a stream in each direction between the pods of the first two nodes.
    pub(crate) fn streams(&self) -> Result<Streams> {
        let [one, other, ..] = &self.pods[..] else { bail!("fewer than two pods") };
        eventually("pods reach each other", SOON, || ping(one, other.ip()).and(ping(other, one.ip())))?;
        Streams::between(one, other)
    }
}

/// Registers a node with the annotations that flanneld writes.
pub(crate) fn register(store: &KubeStore, name: &str, peer: &Peer) -> Result<()> {
    let data = format!(r#"{{"VNI":1,"VtepMAC":"{}"}}"#, peer.mac);
    store.add_annotated_node(
        name,
        &[&format!("{}/24", peer.base)],
        &as_flanneld(&data, &peer.public_ip.to_string()),
    )
}

/// Returns the annotations of a flanneld with vxlan.
pub(crate) fn as_flanneld<'a>(data: &'a str, public_ip: &'a str) -> [(&'static str, &'a str); 4] {
    [
        ("backend-data", data),
        ("backend-type", "vxlan"),
        ("kube-subnet-manager", "true"),
        ("public-ip", public_ip),
    ]
}

/// Fails if the agent has logged a line of this level with this part.
pub(crate) fn ensure_not_logged(agent: &Agent, level: &str, part: &str) -> Result<()> {
    let lines = lines_of(&agent.log(), level);
    ensure!(!lines.iter().any(|line| line.contains(part)), "{part:?} is in {lines:#?}");
    Ok(())
}
