//! Overlays that carry traffic: a cluster, its etcd, an agent and pods on every node.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use flannel_tests::traffic::{Steady, StreamReport};
use flannel_tests::{Agent, AgentBuilder, Cluster, Etcd, Host, Node, Pod, Topology, eventually};

use crate::inspect;

/// The network of these tests. Subnets from 10.5.64.0 on are left to those that a test writes by hand.
pub(crate) const NETWORK: &str =
    r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.63.0","Backend":{"Type":"vxlan"}}"#;
/// A network of vxlan whose nodes take outer headers off so (`Backend.XDP`).
pub(crate) fn with_xdp(network: &str, xdp: &str) -> String {
    network.replace(r#""Type":"vxlan""#, &format!(r#""Type":"vxlan","XDP":"{xdp}""#))
}

/// How long the nodes may take to know each other.
const JOINING: Duration = Duration::from_secs(10);
/// Between two datagrams of a stream that must not be interrupted.
const PACE: Duration = Duration::from_millis(2);

/// A working overlay. Fields are in the order in which they have to go.
pub(crate) struct Overlay {
    pub(crate) pods: Vec<Vec<Pod>>,
    pub(crate) agents: Vec<Agent>,
    pub(crate) etcd: Etcd,
    pub(crate) cluster: Cluster,
}

impl Overlay {
    /// An agent with its own flag (`--dataplane=bpf`) and a number of pods on each node.
    pub(crate) fn start(topology: Topology, flags: &[&str], pods: usize) -> Result<Self> {
        Self::start_with(topology, flags, pods, |agent| agent)
    }

    /// [`Overlay::start`] with a change to each agent's flags or environment.
    pub(crate) fn start_with(
        topology: Topology,
        flags: &[&str],
        pods: usize,
        change: impl Fn(AgentBuilder) -> AgentBuilder,
    ) -> Result<Self> {
        Self::start_in(NETWORK, topology, flags, pods, change)
    }

    /// [`Overlay::start_with`] in a network of another configuration.
    pub(crate) fn start_in(
        network: &str,
        topology: Topology,
        flags: &[&str],
        pods: usize,
        change: impl Fn(AgentBuilder) -> AgentBuilder,
    ) -> Result<Self> {
        let cluster = Cluster::build(topology)?;
        let etcd = cluster.start_etcd()?;
        etcd.configure(network)?;
        let start = |(node, flag): (_, &&str)| change(Agent::builder(node).etcd(&etcd).arg(*flag)).start();
        ensure!(flags.len() == cluster.nodes().len(), "one flag for each node");
        let mut agents = cluster.nodes().iter().zip(flags).map(start).collect::<Result<Vec<_>>>()?;
        agents.iter_mut().try_for_each(|agent| agent.wait_ready().map(drop))?;
        let pods = cluster.pods_each(pods)?;
        let overlay = Self { pods, agents, etcd, cluster };
        overlay.wait_joined()?;
        Ok(overlay)
    }

    /// `n` nodes of one segment, BPF and one pod on each.
    pub(crate) fn bpf(n: usize) -> Result<Self> {
        Self::start(Topology::segment(n), &vec!["--dataplane=bpf"; n], 1)
    }

    /// Two nodes of one segment: BPF on the first, the kernel's device alone on the second.
    pub(crate) fn mixed() -> Result<Self> {
        Self::start(Topology::segment(2), &["--dataplane=bpf", "--dataplane=netlink"], 1)
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        self.cluster.nodes()
    }

    /// The first pod of the first and of the second node.
    pub(crate) fn two_pods(&self) -> (&Pod, &Pod) {
        (&self.pods[0][0], &self.pods[1][0])
    }

    /// The base address of a node's subnet, which is that of its vxlan device.
    pub(crate) fn base(&self, node: usize) -> Result<std::net::Ipv4Addr> {
        Ok(self.peer(node)?.base)
    }

    /// Returns when every node has its entries for every other, in the kernel and, with BPF, in `LEASES`.
    pub(crate) fn wait_joined(&self) -> Result<()> {
        eventually("all nodes know each other", JOINING, || {
            (0..self.nodes().len()).try_for_each(|node| self.knows_the_others(node))
        })
    }

    fn knows_the_others(&self, node: usize) -> Result<()> {
        let others = (0..self.nodes().len()).filter(|other| *other != node);
        let peers = others.map(|other| self.peer(other)).collect::<Result<Vec<_>>>()?;
        inspect::ensure_knows(&self.nodes()[node], &peers)
    }

    /// A node as the others have to know it.
    pub(crate) fn peer(&self, node: usize) -> Result<inspect::Peer> {
        inspect::Peer::of(&self.nodes()[node])
    }

    /// Streams between the first two nodes' pods, one each way.
    pub(crate) fn streams(&self) -> Result<Streams> {
        let (one, other) = self.two_pods();
        Streams::between(one, other)
    }
}

/// Traffic that must not be interrupted.
pub(crate) struct Streams {
    pub(crate) there: Steady,
    pub(crate) back: Steady,
}

impl Streams {
    /// One each way.
    pub(crate) fn between(one: &dyn Host, other: &dyn Host) -> Result<Self> {
        Ok(Self { there: Steady::start(one, other, PACE)?, back: Steady::start(other, one, PACE)? })
    }

    /// Ends both; fails unless both are whole.
    pub(crate) fn ensure_whole(self) -> Result<()> {
        ensure_whole(&self.there.stop()?)?;
        ensure_whole(&self.back.stop()?)
    }
}

/// Fails if anything that was sent did not arrive once, or nothing was sent.
pub(crate) fn ensure_whole(report: &StreamReport) -> Result<()> {
    ensure!(report.sent > 0 && report.lost.is_empty(), "datagrams were lost: {report:?}");
    ensure!(report.duplicates == 0, "datagrams arrived twice: {report:?}");
    Ok(())
}

/// Lines of a log that say something of this level.
pub(crate) fn lines_of(log: &str, level: &str) -> Vec<String> {
    log.lines().filter(|line| line.split_whitespace().nth(1) == Some(level)).map(str::to_owned).collect()
}

/// Fails unless the two sets are the same, and says what is too much or missing.
pub(crate) fn ensure_same(what: &str, actual: &BTreeSet<String>, expected: &BTreeSet<String>) -> Result<()> {
    let surplus: Vec<_> = actual.difference(expected).collect();
    let missing: Vec<_> = expected.difference(actual).collect();
    ensure!(surplus.is_empty() && missing.is_empty(), "{what}: surplus {surplus:?}, missing {missing:?}");
    Ok(())
}
