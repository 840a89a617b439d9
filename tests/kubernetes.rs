//! A real Kubernetes cluster of three nodes, whose network is the agent's DaemonSet and nothing else.
//!
//! `cargo xtask test` starts it before these tests and ends it after them. They run one at a time, and each leaves the cluster
//! as it was.

mod changes;
mod migration;
mod nodes;
mod policy;
mod seeds;
mod services;
mod updates;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::kubernetes::{KubeCluster, KubeNode, KubePod, web};

/// The agent's DaemonSet, for kubectl.
const AGENT: &str = "daemonset/kube-flannel-ds --namespace kube-flannel";
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
