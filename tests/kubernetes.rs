//! A real Kubernetes cluster of three nodes, whose network is the agent's DaemonSet and nothing else.
//!
//! `cargo xtask test` starts it before these tests and ends it after them. They run one at a time, and each leaves the cluster
//! as it was.

mod changes;
mod migration;
mod nodes;
mod overlays;
mod policy;
mod seeds;
mod services;
mod updates;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::eventually;
use flannel_tests::kubernetes::{KubeCluster, KubeNode, KubePod, web};

/// The agent's DaemonSet, for kubectl.
const AGENT: &str = "daemonset/kube-flannel-ds --namespace kube-flannel";
/// Limit until all nodes have changed agents. Kubelet takes its time for each.
const ROLLOUT: Duration = Duration::from_secs(300);
/// The VNI of the network: the default.
const VNI: u32 = 1;
/// The agent's pods.
const AGENT_PODS: &str = "app=flannel";

/// Returns the web servers of all nodes, in the nodes' order. The first call starts them; they stay for other tests.
fn web_pods(cluster: &KubeCluster) -> Result<Vec<KubePod>> {
    cluster.kubectl().apply(web::WEB)?;
    cluster.wait_rolled_out("daemonset/web")?;
    let mut pods = cluster.pods("app=web")?;
    ensure!(pods.len() == cluster.nodes().len(), "{} web servers run", pods.len());
    pods.sort_by(|a, b| a.node().cmp(b.node()));
    Ok(pods)
}

/// Deletes the agents of all nodes, and waits for those of the DaemonSet as it was changed before. One node after another
/// would take three times as long, and is the subject of tests of its own.
fn replace_agents(cluster: &KubeCluster) -> Result<()> {
    let kubectl = cluster.kubectl();
    kubectl.run(&format!("delete pods --namespace kube-flannel --selector {AGENT_PODS} --wait=false"))?;
    eventually("the agents are rolled out", ROLLOUT, || cluster.wait_rolled_out(AGENT))
}

/// Returns how many packets the node's programs have delivered to pods past the host stack.
fn delivered(node: &KubeNode) -> Result<u64> {
    let metrics = node.metrics(VNI)?;
    Ok(metrics.iter().filter(|metric| metric.outcome == "Delivered").map(|metric| metric.packets).sum())
}

/// Returns the node of a pod.
fn node_of<'a>(cluster: &'a KubeCluster, pod: &KubePod) -> Result<&'a KubeNode> {
    let node = cluster.nodes().iter().find(|node| node.name() == pod.node());
    node.with_context(|| format!("{} is on no node of the cluster", pod.name()))
}

/// Returns the podCIDR of a node.
fn pod_cidr(cluster: &KubeCluster, node: &KubeNode) -> Result<String> {
    let object = cluster.kubectl().json(&format!("get node {}", node.name()))?;
    object["spec"]["podCIDR"]
        .as_str()
        .map(str::to_owned)
        .with_context(|| format!("{} has no podCIDR", node.name()))
}
