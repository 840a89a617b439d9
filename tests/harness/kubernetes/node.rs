//! Nodes: containers with containerd, kubelet and kube-proxy.

mod settings;

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::service::Service;
use crate::cgroup::{self, Cgroup};
use crate::cluster::Node;
use crate::container::{self, Container};
use crate::metrics::{self, Metric};
use crate::netns::NetNs;
use crate::subnet_env::SubnetEnv;
use crate::traffic::Host;
use crate::wait::eventually;

/// The node's first process.
const BOOT: &str = include_str!("node/boot.sh");
const BOOT_LIMIT: Duration = Duration::from_secs(20);
const START_LIMIT: Duration = Duration::from_secs(30);
const SOCKET: &str = "/run/containerd/containerd.sock";

/// What another process needs to know about a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) name: String,
    pub(super) netns: String,
    pub(super) ip: Ipv4Addr,
    /// The pid of its first process.
    pub(super) pid: u32,
}

/// Starts a node's container and containerd in it.
pub(super) fn boot(node: &Node) -> Result<(Container, Record)> {
    let folder = node.dir();
    let cgroup = Cgroup::everywhere(node.netns().name())?;
    let groups: Vec<_> = cgroup.folders().collect();
    let mounts = cgroup.mounts();
    let arguments = [&*folder.to_string_lossy(), node.name(), &*mounts];
    let is_ready = |pid| {
        let file = container::path_in(pid, "/run/node-is-up");
        ensure!(file.exists(), "{} does not exist yet", file.display());
        Ok(())
    };
    let name = format!("the first process of {}", node.name());
    let log = folder.join("boot.log");
    let container =
        Container::start(&name, node.netns(), cgroup, (BOOT, &arguments), &log, is_ready, BOOT_LIMIT)?;
    let pid = container.pid();
    let groups = if mounts.is_empty() { vec![delegated(&groups, &container)?] } else { groups };
    settings::write(folder, node, &groups, pid)?;
    let record =
        Record { name: node.name().to_owned(), netns: node.netns().name().to_owned(), ip: node.ip(), pid };
    Ok((container, record))
}

/// Moves the node's processes into a cgroup below its own: one of version 2 passes controllers on or has processes.
fn delegated(groups: &[PathBuf], container: &Container) -> Result<PathBuf> {
    let root = groups.first().context("the node has no cgroup")?;
    let first = root.join("first");
    fs::create_dir(&first).with_context(|| format!("create {}", first.display()))?;
    for pid in fs::read_to_string(root.join("cgroup.procs"))?.lines() {
        // A process that has ended meanwhile is not moved.
        let _ = fs::write(first.join("cgroup.procs"), pid);
    }
    ensure!(is_empty(root)?, "the processes of {} stay in {}", container.netns().name(), root.display());
    cgroup::delegate(root);
    Ok(first)
}

fn is_empty(cgroup: &Path) -> Result<bool> {
    Ok(fs::read_to_string(cgroup.join("cgroup.procs"))?.is_empty())
}

/// A node of a Kubernetes cluster.
#[derive(Debug)]
pub struct KubeNode {
    record: Record,
    folder: PathBuf,
    netns: NetNs,
}

impl KubeNode {
    pub(super) fn open(cluster: &Path, record: &Record) -> Result<Self> {
        let folder = cluster.join(&record.name);
        Ok(Self { netns: NetNs::borrow_named(&record.netns)?, folder, record: record.clone() })
    }

    /// Returns its name in Kubernetes.
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// Returns the folder of its files and logs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the pid of its first process.
    pub fn pid(&self) -> u32 {
        self.record.pid
    }

    /// Runs a command line, split at blanks, on the node, and gives its standard output.
    pub fn exec(&self, line: &str) -> Result<String> {
        container::enter(self.record.pid, line).with_context(|| format!("on {}", self.name()))
    }

    /// Returns a file of the node, seen from outside.
    pub fn path(&self, path: &str) -> PathBuf {
        container::path_in(self.record.pid, path)
    }

    /// Reads its `subnet.env`.
    pub fn subnet_env(&self) -> Result<SubnetEnv> {
        SubnetEnv::read(&self.path("/run/flannel/subnet.env"))
    }

    /// Reads the counters of its BPF programs for the overlay with this VNI.
    pub fn metrics(&self, vni: u32) -> Result<Vec<Metric>> {
        metrics::read(&self.path("/sys/fs/bpf"), vni)
    }

    /// Starts containerd and waits until it answers.
    pub(super) fn start_containerd(&self) -> Result<()> {
        let service = self.service("containerd");
        service.start(&self.netns)?;
        let socket = self.path(SOCKET);
        eventually("containerd answers", START_LIMIT, || {
            UnixStream::connect(&socket).map(drop).with_context(|| service.tail())
        })
    }

    /// Imports an image from a file. All nodes see this machine's files.
    pub fn import(&self, archive: &Path) -> Result<()> {
        self.exec(&format!("ctr --namespace k8s.io images import {}", archive.display())).map(drop)
    }

    /// Starts kubelet and kube-proxy.
    pub(super) fn start_kubernetes(&self) -> Result<()> {
        self.service("kubelet").start(&self.netns)?;
        self.service("kube-proxy").start(&self.netns)
    }

    /// Fails, with the end of its log, if one of the node's services has ended.
    pub(super) fn ensure_running(&self) -> Result<()> {
        ["containerd", "kubelet", "kube-proxy"]
            .iter()
            .try_for_each(|name| self.service(name).ensure_running())
    }

    /// Kills kubelet and starts it again. It registers its node if that does not exist.
    pub fn restart_kubelet(&self) -> Result<()> {
        let kubelet = self.service("kubelet");
        kubelet.stop()?;
        kubelet.start(&self.netns)
    }

    fn service(&self, name: &str) -> Service {
        Service::find(&self.folder, name, true)
    }
}

impl Host for KubeNode {
    fn netns(&self) -> &NetNs {
        &self.netns
    }

    fn ip(&self) -> IpAddr {
        IpAddr::V4(self.record.ip)
    }
}
