//! flannel's backends in all their address families: reachability, kernel entries, and what a restart keeps.

mod alloc;
mod changed;
mod direct_routing;
mod dual_stack;
mod host_gw;
mod routed;
mod udp;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::{Agent, Cluster, Etcd, Node, Pod, Topology, eventually};

use crate::inspect;
use crate::overlay::ping_all_pairs;

/// Time limit for all nodes to follow a change.
const FOLLOW: Duration = Duration::from_secs(5);
/// Time for which a node without its agent is checked.
const AWAY: Duration = Duration::from_millis(300);

/// Nodes with an agent and a pod each. Fields are in the order of their drops.
struct Bed {
    pods: Vec<Pod>,
    agents: Vec<Agent>,
    etcd: Etcd,
    cluster: Cluster,
}

impl Bed {
    fn start(topology: Topology, config: &str) -> Result<Self> {
        let cluster = Cluster::build(topology)?;
        let etcd = cluster.start_etcd()?;
        etcd.configure(config)?;
        let agents = cluster.start_agents(&etcd)?;
        let pods = cluster.one_pod_each()?;
        Ok(Self { pods, agents, etcd, cluster })
    }

    fn nodes(&self) -> &[Node] {
        self.cluster.nodes()
    }

    /// Waits until every pod reaches every other at each of its addresses.
    fn ensure_all_reach_all(&self) -> Result<()> {
        eventually("all pods reach each other", FOLLOW, || self.pings())
    }

    fn pings(&self) -> Result<()> {
        ping_all_pairs(&self.pods)
    }

    /// Returns keys and values of all leases.
    fn leases(&self) -> Result<Vec<(String, String)>> {
        Ok(self.etcd.subnets()?.into_iter().map(|entry| (entry.key, entry.value)).collect())
    }

    /// Finds a node's lease by its public IP. Returns the last part of the key, and the value.
    fn lease(&self, node: &Node) -> Result<(String, serde_json::Value)> {
        let (v4, v6) = (node.ip().to_string(), node.ip6().to_string());
        for (key, value) in self.leases()? {
            let value: serde_json::Value = serde_json::from_str(&value)?;
            if value["PublicIP"] == v4.as_str() || value["PublicIPv6"] == v6.as_str() {
                return Ok((key.rsplit('/').next().unwrap_or_default().to_owned(), value));
            }
        }
        anyhow::bail!("{} has no lease", node.name())
    }

    /// Kills and restarts every agent in turn, and checks that leases and files stay as they are.
    fn ensure_restarts_change_nothing(&mut self) -> Result<()> {
        let files = |bed: &Self| bed.nodes().iter().map(Node::subnet_env).collect::<Result<Vec<_>>>();
        let before = (self.leases()?, files(self)?);
        for agent in &mut self.agents {
            agent.restart()?;
        }
        self.ensure_all_reach_all()?;
        ensure!((self.leases()?, files(self)?) == before, "leases or files are not as before");
        Ok(())
    }
}

/// Returns the trimmed lines that a command prints on a node.
fn lines(node: &Node, command: &str) -> Result<Vec<String>> {
    Ok(node.exec(command)?.lines().map(|line| line.trim().to_owned()).collect())
}

/// Returns the base address of a node's IPv4 subnet.
fn base(node: &Node) -> Result<Ipv4Addr> {
    let subnet = node.subnet_env()?.subnet.context("no IPv4 subnet")?;
    Ok(Ipv4Addr::from_bits(subnet.addr.to_bits() & !1))
}

/// Returns the base address of a node's IPv6 subnet.
fn base_v6(node: &Node) -> Result<Ipv6Addr> {
    let subnet = node.subnet_env()?.ipv6_subnet.context("no IPv6 subnet")?;
    Ok(Ipv6Addr::from_bits(subnet.addr.to_bits() & !1))
}

/// Returns the MTU of an interface.
fn mtu(node: &Node, interface: &str) -> Result<u64> {
    let links = node.netns().exec_json(&format!("ip -j link show dev {interface}"))?;
    links[0]["mtu"].as_u64().context("no MTU")
}

/// Returns the MAC of an interface.
fn mac(node: &Node, interface: &str) -> Result<String> {
    inspect::link(node, interface).map(|link| link.mac)
}
