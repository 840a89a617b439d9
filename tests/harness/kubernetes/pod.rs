//! Pods of a Kubernetes cluster: their network namespaces can be entered.

use std::fs;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::node::KubeNode;
use crate::netns::NetNs;
use crate::traffic::Host;

/// A running pod.
#[derive(Debug)]
pub struct KubePod {
    name: String,
    node: String,
    ip: IpAddr,
    netns: NetNs,
    /// The pid of its first process, as seen on its node.
    pid: u32,
}

impl KubePod {
    /// Finds the processes of a pod, which must run, from its object in Kubernetes.
    pub(super) fn open(object: &Value, nodes: &[KubeNode]) -> Result<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let name = text(&object["metadata"]["name"]).context("a pod without a name")?;
        Self::find(&name, object, nodes).with_context(|| format!("pod {name}"))
    }

    fn find(name: &str, object: &Value, nodes: &[KubeNode]) -> Result<Self> {
        let status = &object["status"];
        let node = object["spec"]["nodeName"].as_str().context("is on no node")?;
        let node = nodes.iter().find(|known| known.name() == node).context("is on an unknown node")?;
        let ip = status["podIP"].as_str().context("has no address")?.parse()?;
        let container = status["containerStatuses"][0]["containerID"].as_str().context("has no container")?;
        let id = container.strip_prefix("containerd://").context("is not of containerd")?;
        let file = format!("/run/containerd/io.containerd.runtime.v2.task/k8s.io/{id}/init.pid");
        let pid = fs::read_to_string(node.path(&file)).context("its container does not run")?;
        // The pid is one of the node's. So is /proc there.
        let netns = NetNs::borrow(node.netns().name(), &node.path(&format!("/proc/{}/ns/net", pid.trim())))?;
        Ok(Self { name: name.to_owned(), node: node.name().to_owned(), ip, netns, pid: pid.trim().parse()? })
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the pid of its first process on its node.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns the name of its node.
    pub fn node(&self) -> &str {
        &self.node
    }
}

impl Host for KubePod {
    fn netns(&self) -> &NetNs {
        &self.netns
    }

    fn ip(&self) -> IpAddr {
        self.ip
    }
}
