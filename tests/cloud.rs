//! Backends whose packets the cloud's own routing carries. The underlay's router is programmed from the cloud's routing table, so
//! that pods reach each other only if that is right.

mod ali_vpc;
mod aws_vpc;
mod gce;
mod seeds;
mod shortcut;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::cloud::{self, Cloud};
use flannel_tests::{Agent, AgentBuilder, Cluster, Etcd, Node, Pod, Topology, eventually};

use crate::overlay::ping_all_pairs;

/// Time for a change to be in the cloud, with re-checks every second.
const FOLLOW: Duration = Duration::from_secs(20);
/// Some re-checks.
const WHILE: Duration = Duration::from_secs(4);

/// Nodes on a segment each, with the cloud's router between them. Fields are in the order of their drops.
struct Bed {
    pods: Vec<Pod>,
    agents: Vec<Agent>,
    etcd: Etcd,
}

impl Bed {
    /// Starts etcd with this configuration, an agent for each node that re-checks every second, and a pod on each.
    fn start(cluster: &Cluster, config: &str, cloud: &dyn Cloud) -> Result<Self> {
        Self::start_with(cluster, config, cloud, |agent| agent)
    }

    /// As [`Self::start`], with agents that differ from the usual.
    fn start_with(
        cluster: &Cluster,
        config: &str,
        cloud: &dyn Cloud,
        change: impl Fn(AgentBuilder) -> AgentBuilder,
    ) -> Result<Self> {
        let etcd = cluster.start_etcd()?;
        etcd.configure(config)?;
        let agents = cluster.start_agents_with(&etcd, |agent| change(inside(agent, cloud)))?;
        let pods = cluster.one_pod_each()?;
        Ok(Self { pods, agents, etcd })
    }

    /// Waits until the cloud's routes, by which it programs the router, let all pods reach each other.
    fn ensure_all_reach_all(&self, cluster: &Cluster, cloud: &dyn Cloud) -> Result<()> {
        eventually("all pods reach each other", FOLLOW, || {
            cloud::program(cluster, cloud)?;
            ping_all_pairs(&self.pods)
        })
    }

    /// Returns the errors and warnings in the agents' logs.
    fn complaints(&self) -> Vec<String> {
        let logs = self.agents.iter().map(Agent::log);
        logs.flat_map(|log| {
            let lines = log.lines().filter(|line| line.contains("ERROR") || line.contains("WARN"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
    }
}

/// Makes an agent one of this cloud, which re-checks every second.
fn inside(agent: AgentBuilder, cloud: &dyn Cloud) -> AgentBuilder {
    let (name, url) = cloud.environment();
    agent.env(&name, &url).arg("--cloud-resync=1")
}

/// Starts the agent of one node, and waits until it is ready.
fn start_alone(node: &Node, etcd: &Etcd, cloud: &dyn Cloud) -> Result<Agent> {
    let mut agent = inside(Agent::builder(node).etcd(etcd), cloud).start()?;
    agent.wait_ready()?;
    Ok(agent)
}

/// Builds a node on each segment.
fn nodes(count: usize) -> Result<Cluster> {
    Cluster::build(Topology::routed(&vec![1; count]))
}

/// Reserves the subnet 10.5.`number`.0/24 for a node.
fn reserve(etcd: &Etcd, node: &Node, number: u8) -> Result<()> {
    let key = format!("{}/subnets/10.5.{number}.0-24", flannel_tests::etcd::PREFIX);
    etcd.put(&key, &format!(r#"{{"PublicIP":"{}","PublicIPv6":null}}"#, node.ip()))
}

/// Returns a node's subnet.
fn subnet(node: &Node) -> Result<String> {
    let net = node.subnet_env()?.subnet.context("no subnet")?;
    let [a, b, c, _] = net.addr.octets();
    Ok(format!("{a}.{b}.{c}.0/24"))
}

/// Fails unless a node has what it needs for a backend of a cloud, and nothing else: a lease without a backend's data, the uplink's MTU, and
/// no route to other nodes' pods.
fn ensure_nothing_local(bed: &Bed, node: &Node) -> Result<()> {
    let own = subnet(node)?;
    let key = format!("{}/subnets/{}", flannel_tests::etcd::PREFIX, own.replace('/', "-"));
    let value = format!(r#"{{"PublicIP":"{}","PublicIPv6":null}}"#, node.ip());
    ensure!(bed.etcd.get(&key)?.as_deref() == Some(&*value), "{key}: {:?}", bed.etcd.get(&key)?);
    ensure!(node.subnet_env()?.mtu == 1500, "{:?}", node.subnet_env()?);
    let routes = node.exec("ip route show root 10.5.0.0/16")?;
    ensure!(routes.lines().count() == 1 && routes.contains("dev cni0"), "{routes}");
    let links = node.exec("ip -br link show")?;
    ensure!(!links.contains("flannel"), "{links}");
    Ok(())
}

/// Waits until a log has these words.
fn ensure_said(agent: &Agent, words: &str) -> Result<()> {
    eventually("the agent says it", FOLLOW, || {
        ensure!(agent.log().contains(words), "no {words:?} in {}", agent.log());
        Ok(())
    })
}
