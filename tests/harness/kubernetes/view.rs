//! A running cluster, as those see it who did not start it.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::control_plane;
use super::kubectl::{self, Kubectl};
use super::node::{self, KubeNode};
use super::pod::KubePod;
use crate::failure;
use crate::netns::NetNs;
use crate::traffic::At;
use crate::wait::eventually;

/// The variable with the folder of the cluster that tests use, for [`KubeCluster::attach`].
pub const CLUSTER: &str = "FLANNEL_KUBE_CLUSTER";
/// Describes the cluster, in its folder.
const RECORD: &str = "cluster.json";
/// Limit until something that Kubernetes does is done.
const PATIENCE: Duration = Duration::from_secs(150);

/// What another process needs to know about a cluster.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) control_plane: String,
    pub(super) nodes: Vec<node::Record>,
}

/// What is shown after a failed test.
const STATE: [&str; 3] = [
    "get nodes,pods --all-namespaces --output wide",
    "get events --all-namespaces --field-selector type=Warning --sort-by .lastTimestamp",
    "logs --namespace kube-flannel --selector app=flannel --prefix --tail 10",
];
/// Lines of each.
const SHOWN: usize = 30;

/// A running cluster. Dropping it changes nothing; after a failed test, it prints the cluster's state.
#[derive(Debug)]
pub struct KubeCluster {
    folder: PathBuf,
    kubectl: Kubectl,
    nodes: Vec<KubeNode>,
}

impl KubeCluster {
    /// Opens the cluster that `cargo xtask test` has started for the suite.
    pub fn attach() -> Result<Self> {
        failure::forget();
        let folder = env::var_os(CLUSTER);
        let folder = folder.with_context(|| {
            format!("{CLUSTER} is not set: run this test by `cargo xtask test`, which starts a Kubernetes cluster for it")
        })?;
        Self::open(Path::new(&folder))
    }

    /// Returns the state of nodes, pods and agents.
    fn state(&self) -> String {
        let parts = STATE.iter().map(|line| {
            let output = self.kubectl.run(line).unwrap_or_else(|error| format!("{error:#}"));
            let lines: Vec<_> = output.lines().collect();
            format!("--- kubectl {line}\n{}", lines[lines.len().saturating_sub(SHOWN)..].join("\n"))
        });
        parts.collect::<Vec<_>>().join("\n")
    }

    /// Opens the cluster in this folder.
    pub fn open(folder: &Path) -> Result<Self> {
        let file = folder.join(RECORD);
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let record: Record =
            serde_json::from_str(&text).with_context(|| format!("parse {}", file.display()))?;
        let netns = NetNs::borrow_named(&record.control_plane)?;
        let nodes = record.nodes.iter().map(|node| KubeNode::open(folder, node)).collect::<Result<_>>()?;
        Ok(Self { kubectl: Kubectl::new(folder, netns), folder: folder.to_owned(), nodes })
    }

    /// Writes down what others need to know, and a script that runs kubectl from anywhere on this machine.
    pub(super) fn write(folder: &Path, record: &Record) -> Result<()> {
        let file = folder.join(RECORD);
        fs::write(&file, serde_json::to_vec_pretty(record)?)
            .with_context(|| format!("write {}", file.display()))?;
        kubectl::write_script(folder, &record.control_plane)
    }

    /// Returns the folder with its kubeconfig, logs and files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns kubectl for it.
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// Returns its nodes in order.
    pub fn nodes(&self) -> &[KubeNode] {
        &self.nodes
    }

    /// Returns the network namespace of the control plane, which is on the nodes' underlay.
    pub fn control_plane(&self) -> &NetNs {
        self.kubectl.netns()
    }

    /// Returns the machine of the control plane, which runs no pods: a client from outside.
    pub fn outside(&self) -> Result<At<'_>> {
        let server = self.kubectl.json("get endpoints kubernetes")?;
        let ip =
            server["subsets"][0]["addresses"][0]["ip"].as_str().context("the API server has no address")?;
        Ok(At { netns: self.control_plane(), ip: ip.parse()? })
    }

    /// Returns the pods with these labels, which must all run. Leaves out those that are being deleted.
    pub fn pods(&self, labels: &str) -> Result<Vec<KubePod>> {
        let found = self.kubectl.json(&format!("get pods --all-namespaces --selector {labels}"))?;
        let found = found["items"].as_array().map_or(&[][..], Vec::as_slice);
        let staying = found.iter().filter(|object| object["metadata"]["deletionTimestamp"].is_null());
        staying.map(|object| KubePod::open(object, &self.nodes)).collect()
    }

    /// Waits until a deployment or daemonset runs as it is written: `daemonset/NAME --namespace NAMESPACE`.
    pub fn wait_rolled_out(&self, what: &str) -> Result<()> {
        let seconds = crate::wait::scaled(PATIENCE).as_secs();
        self.kubectl.run(&format!("rollout status --timeout {seconds}s {what}")).map(drop)
    }

    /// Waits until all nodes are Ready.
    pub fn wait_nodes_ready(&self) -> Result<()> {
        let seconds = crate::wait::scaled(PATIENCE).as_secs();
        self.kubectl.run(&format!("wait --for condition=Ready --timeout {seconds}s node --all")).map(drop)
    }

    /// Waits until every node is registered and has a pod subnet.
    pub(super) fn wait_nodes_registered(&self) -> Result<()> {
        eventually("every node is registered, with a podCIDR", PATIENCE, || {
            self.ensure_running()?;
            let nodes = self.kubectl.json("get nodes")?;
            let cidrs = nodes["items"].as_array().into_iter().flatten();
            let cidrs = cidrs.filter(|node| node["spec"]["podCIDR"] != Value::Null).count();
            ensure!(cidrs == self.nodes.len(), "{cidrs} of {} nodes have one", self.nodes.len());
            Ok(())
        })
    }

    /// Fails, with the end of its log, if a process of the cluster has ended.
    pub fn ensure_running(&self) -> Result<()> {
        control_plane::ensure_running(&self.folder)?;
        self.nodes.iter().try_for_each(KubeNode::ensure_running)
    }

    /// Kills the API server. It stays away until [`KubeCluster::start_api_server`].
    pub fn stop_api_server(&self) -> Result<()> {
        control_plane::stop_api_server(&self.folder)
    }

    /// Starts the API server again and waits until it answers.
    pub fn start_api_server(&self) -> Result<()> {
        control_plane::start_api_server(&self.folder, self.control_plane())?;
        control_plane::wait_ready(&self.folder, &self.kubectl)
    }
}

impl Drop for KubeCluster {
    fn drop(&mut self) {
        if failure::declared() {
            eprintln!("{}", self.state());
        }
    }
}
