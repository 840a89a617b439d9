//! Running overlays: a cluster, its etcd, and an agent and pods on every node.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::traffic::{At, Steady, StreamReport, ping};
use flannel_tests::wait::patiently;
use flannel_tests::{Agent, AgentBuilder, Cluster, Etcd, Host, Node, Pod, Topology};

use crate::inspect;

/// Network of these tests. Subnets from 10.5.64.0 on are for leases that a test writes itself.
pub(crate) const NETWORK: &str =
    r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.63.0","Backend":{"Type":"vxlan"}}"#;

/// Returns the configuration of a vxlan network with these keys in `Backend`.
pub(crate) fn with_backend_keys(network: &str, keys: &str) -> String {
    network.replace(r#""Type":"vxlan""#, &format!(r#""Type":"vxlan",{keys}"#))
}

/// Sets `Backend.XDP` in the configuration of a vxlan network.
pub(crate) fn with_xdp(network: &str, xdp: &str) -> String {
    with_backend_keys(network, &format!(r#""XDP":"{xdp}""#))
}

/// Longest time until all nodes know each other.
const JOINING: Duration = Duration::from_secs(10);
/// Time limit for an agent to end with an error.
const REFUSING: Duration = Duration::from_secs(10);
/// Time limit for an agent to log what happens.
const LOGGING: Duration = Duration::from_secs(10);
/// Time between two datagrams of a stream.
const PACE: Duration = Duration::from_millis(2);

/// A running overlay. Its fields are in the order in which they have to be dropped.
pub(crate) struct Overlay {
    pub(crate) pods: Vec<Vec<Pod>>,
    pub(crate) agents: Vec<Agent>,
    pub(crate) etcd: Etcd,
    pub(crate) cluster: Cluster,
}

impl Overlay {
    /// Starts an agent with its own flag (such as `--dataplane=bpf`), and this number of pods, on each node.
    pub(crate) fn start(topology: Topology, flags: &[&str], pods: usize) -> Result<Self> {
        Self::start_with(topology, flags, pods, |agent| agent)
    }

    /// [`Overlay::start`] with changed flags or environment of each agent.
    pub(crate) fn start_with(
        topology: Topology,
        flags: &[&str],
        pods: usize,
        change: impl Fn(AgentBuilder) -> AgentBuilder,
    ) -> Result<Self> {
        Self::start_in(NETWORK, topology, flags, pods, change)
    }

    /// [`Overlay::start_with`] in another network.
    pub(crate) fn start_in(
        network: &str,
        topology: Topology,
        flags: &[&str],
        pods: usize,
        change: impl Fn(AgentBuilder) -> AgentBuilder,
    ) -> Result<Self> {
        let overlay = Self::launch(network, topology, flags, pods, change)?;
        overlay.wait_joined()?;
        Ok(overlay)
    }

    /// [`Overlay::start_in`] without waiting until the nodes know each other.
    pub(crate) fn launch(
        network: &str,
        topology: Topology,
        flags: &[&str],
        pods: usize,
        change: impl Fn(AgentBuilder) -> AgentBuilder,
    ) -> Result<Self> {
        Self::launch_on(network, Cluster::build(topology)?, flags, pods, change)
    }

    /// [`Overlay::launch`] on a cluster that exists.
    pub(crate) fn launch_on(
        network: &str,
        cluster: Cluster,
        flags: &[&str],
        pods: usize,
        change: impl Fn(AgentBuilder) -> AgentBuilder,
    ) -> Result<Self> {
        let etcd = cluster.start_etcd()?;
        etcd.configure(network)?;
        let start = |(node, flag): (_, &&str)| change(Agent::builder(node).etcd(&etcd).arg(*flag)).start();
        ensure!(flags.len() == cluster.nodes().len(), "one flag for each node");
        let mut agents = cluster.nodes().iter().zip(flags).map(start).collect::<Result<Vec<_>>>()?;
        agents.iter_mut().try_for_each(|agent| agent.wait_ready().map(drop))?;
        let pods = cluster.pods_each(pods)?;
        Ok(Self { pods, agents, etcd, cluster })
    }

    /// Starts `n` nodes on one segment, each with BPF and one pod.
    pub(crate) fn bpf(n: usize) -> Result<Self> {
        Self::start(Topology::segment(n), &vec!["--dataplane=bpf"; n], 1)
    }

    /// Starts two nodes on one segment: the first with BPF, the second without.
    pub(crate) fn mixed() -> Result<Self> {
        Self::start(Topology::segment(2), &["--dataplane=bpf", "--dataplane=netlink"], 1)
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        self.cluster.nodes()
    }

    /// Returns the first pod of the first and of the second node.
    pub(crate) fn two_pods(&self) -> (&Pod, &Pod) {
        (&self.pods[0][0], &self.pods[1][0])
    }

    /// Returns the base address of a node's subnet, which its vxlan device has.
    pub(crate) fn base(&self, node: usize) -> Result<std::net::Ipv4Addr> {
        Ok(self.peer(node)?.base)
    }

    /// Waits until every node has its entries for every other one, in the kernel and, with BPF, in `LEASES`.
    pub(crate) fn wait_joined(&self) -> Result<()> {
        patiently("all nodes know each other", JOINING, || {
            (0..self.nodes().len()).try_for_each(|node| self.ensure_knows_others(node, &[]))
        })
    }

    /// Fails unless a node knows exactly the other ones, and these, which exist only in the datastore.
    pub(crate) fn ensure_knows_others(&self, node: usize, more: &[inspect::Peer]) -> Result<()> {
        let others = (0..self.nodes().len()).filter(|other| *other != node);
        let mut peers = others.map(|other| self.peer(other)).collect::<Result<Vec<_>>>()?;
        peers.extend_from_slice(more);
        inspect::ensure_knows(&self.nodes()[node], &peers)
    }

    /// Returns a node as the other nodes have to know it.
    pub(crate) fn peer(&self, node: usize) -> Result<inspect::Peer> {
        inspect::Peer::of(&self.nodes()[node])
    }

    /// Waits until the ports of all pods have their programs, which come after READY.
    pub(crate) fn wait_plugged(&self) -> Result<()> {
        let places = self.nodes().iter().zip(&self.pods);
        places
            .flat_map(|(node, pods)| pods.iter().map(move |pod| (node, pod)))
            .try_for_each(|(node, pod)| inspect::wait_plugged(node, pod))
    }

    /// Starts a stream in each direction between pods of the first two nodes, once they reach each other. Before, a lost
    /// ARP request would delay the first datagrams by a second.
    pub(crate) fn streams(&self) -> Result<Streams> {
        let (one, other) = self.two_pods();
        patiently("pods reach each other", JOINING, || ping(one, other.ip()).and(ping(other, one.ip())))?;
        Streams::between(one, other)
    }
}

/// Pings every pod from every pod, itself included, at each of its addresses.
pub(crate) fn ping_all_pairs<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> Result<()> {
    let pods: Vec<_> = pods.into_iter().collect();
    for (from, to) in pods.iter().flat_map(|from| pods.iter().map(move |to| (from, to))) {
        for (source, destination) in from.addresses().iter().zip(to.addresses()) {
            ping(&At { netns: from.netns(), ip: *source }, *destination)?;
        }
    }
    Ok(())
}

/// Two streams that must not be interrupted.
pub(crate) struct Streams {
    pub(crate) there: Steady,
    pub(crate) back: Steady,
}

impl Streams {
    /// Starts one in each direction.
    pub(crate) fn between(one: &dyn Host, other: &dyn Host) -> Result<Self> {
        Ok(Self { there: Steady::start(one, other, PACE)?, back: Steady::start(other, one, PACE)? })
    }

    /// Ends both. Fails unless both are whole.
    pub(crate) fn ensure_whole(self) -> Result<()> {
        let (there, back) = (self.there.stop()?, self.back.stop()?);
        ensure_whole(&there).context("from the first to the second")?;
        ensure_whole(&back).context("from the second to the first")
    }
}

/// Fails unless datagrams were sent and each arrived exactly once.
pub(crate) fn ensure_whole(report: &StreamReport) -> Result<()> {
    ensure!(report.sent > 0 && report.lost.is_empty(), "datagrams were lost: {report:?}");
    ensure!(report.duplicates == 0, "datagrams arrived twice: {report:?}");
    Ok(())
}

/// Starts an agent that has to end with status 1, and returns the only ERROR line of its log.
pub(crate) fn refusal(node: &Node, change: impl FnOnce(AgentBuilder) -> AgentBuilder) -> Result<String> {
    // Without the lines of an earlier agent on this node.
    std::fs::write(node.dir().join("agent.log"), "")?;
    let mut agent = change(Agent::builder(node)).start()?;
    let code = agent.wait_exit(REFUSING)?.code();
    ensure!(code == Some(1), "the agent ended with status {code:?}");
    let errors = lines_of(&agent.log(), "ERROR");
    let [error] = &errors[..] else { bail!("not one error: {errors:#?}") };
    Ok(error.clone())
}

/// What an agent warns of that has to wait for the firewall's tools, as on any busy machine.
const SLOW: &str = "the firewall rules are not written after";

/// Returns the lines of a log that have this level, without the warning that the machine is slow.
pub(crate) fn lines_of(log: &str, level: &str) -> Vec<String> {
    let has_level = |line: &&str| line.split_whitespace().nth(1) == Some(level) && !line.contains(SLOW);
    log.lines().filter(has_level).map(str::to_owned).collect()
}

/// Waits until the agent's log has a line of this level with all these parts, and returns the line.
pub(crate) fn wait_logged(agent: &Agent, level: &str, parts: &[&str]) -> Result<String> {
    patiently(&format!("the agent logs {parts:?}"), LOGGING, || {
        let lines = lines_of(&agent.log(), level);
        let found = lines.iter().find(|line| parts.iter().all(|part| line.contains(part)));
        found.cloned().with_context(|| format!("its lines: {lines:#?}"))
    })
}

/// Fails unless the two sets are equal, and lists the differences.
pub(crate) fn ensure_same(what: &str, actual: &BTreeSet<String>, expected: &BTreeSet<String>) -> Result<()> {
    let surplus: Vec<_> = actual.difference(expected).collect();
    let missing: Vec<_> = expected.difference(actual).collect();
    ensure!(surplus.is_empty() && missing.is_empty(), "{what}: surplus {surplus:?}, missing {missing:?}");
    Ok(())
}

/// Counts the packets that a node sent and received past its host stack, without a tunnel.
pub(crate) fn past_stack(node: &Node) -> Result<[u64; 2]> {
    Ok([
        inspect::packets(node, Hook::PodEgress, Outcome::OnLink)?,
        inspect::packets(node, Hook::UnderlayIngress, Outcome::Delivered)?,
    ])
}
