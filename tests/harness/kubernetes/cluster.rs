//! Starts clusters: a control plane and real nodes on one underlay.

use std::ops::Deref;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::binaries::Binaries;
use super::node::{self, KubeNode};
use super::view::{KubeCluster, Record};
use super::{control_plane, images};
use crate::cluster::{Cluster, Node};
use crate::container::Container;
use crate::etcd::Etcd;
use crate::parallel::in_parallel;
use crate::require::require_commands;

/// Programs of this machine that a cluster needs, besides those of every cluster of the test bed.
const COMMANDS: [&str; 5] = ["containerd", "ctr", "runc", "openssl", "busybox"];

/// What to start.
#[derive(Debug)]
pub struct Options<'a> {
    /// Kubernetes' programs.
    pub binaries: &'a Binaries,
    /// The number of nodes, without the machine of the control plane.
    pub nodes: usize,
    /// Images for all nodes, as archives of Docker or OCI, besides those of the test bed.
    pub images: &'a [PathBuf],
}

/// A running cluster. Dropping it ends its processes and removes all its files.
#[derive(Debug)]
pub struct RunningCluster {
    view: KubeCluster,
    _containers: Vec<Container>,
    _etcd: Etcd,
    _machines: Cluster,
}

impl RunningCluster {
    /// Starts it and waits until every node is registered and has a podCIDR. Nodes are not Ready without a network.
    pub fn start(options: &Options) -> Result<Self> {
        require_commands(&COMMANDS)?;
        // One more machine than nodes, for the control plane.
        let machines = Cluster::segment(options.nodes + 1)?;
        let folder = machines.dir().to_owned();
        let bin = folder.join("bin");
        symlink(options.binaries.folder(), &bin).with_context(|| format!("create {}", bin.display()))?;
        let (master, nodes) = machines.nodes().split_last().context("a cluster has a machine")?;
        let images: Vec<_> = images::test_bed(&folder, options.binaries)?;
        let images: Vec<_> = images.iter().chain(options.images).cloned().collect();
        let etcd = control_plane::start(&folder, master)?;
        let (containers, records) =
            in_parallel(nodes.iter().collect(), node::boot)?.into_iter().unzip::<_, _, Vec<_>, Vec<_>>();
        KubeCluster::write(
            &folder,
            &Record { control_plane: master.netns().name().to_owned(), nodes: records },
        )?;
        let view = KubeCluster::open(&folder)?;
        start_nodes(&view, &images, master)?;
        Ok(Self { view, _containers: containers, _etcd: etcd, _machines: machines })
    }
}

/// Starts the nodes' containerd beside the API server, then everything that needs both.
fn start_nodes(view: &KubeCluster, images: &[PathBuf], master: &Node) -> Result<()> {
    in_parallel(view.nodes().iter().collect(), |node| {
        node.start_containerd()?;
        images.iter().try_for_each(|image| node.import(image))
    })?;
    control_plane::wait_ready(view.folder(), view.kubectl())?;
    control_plane::start_controllers(view.folder(), master)?;
    in_parallel(view.nodes().iter().collect(), KubeNode::start_kubernetes)?;
    view.wait_nodes_registered()
}

impl Deref for RunningCluster {
    type Target = KubeCluster;

    fn deref(&self) -> &KubeCluster {
        &self.view
    }
}
