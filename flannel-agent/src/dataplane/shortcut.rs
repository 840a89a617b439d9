//! The shortcut: which pods' flows may skip the host stack.

use anyhow::Result;
use ipnet::IpNet;
use tracing::warn;

use super::bpf::Bpf;
use super::kernel::{Kernel, LinkWatch};

/// Keeps the programs attached to the ports of the pods that are there.
pub(super) struct Shortcut {
    watch: LinkWatch,
    subnets: Vec<IpNet>,
    /// Why no flow takes the shortcut, as logged last.
    obstacle: Option<String>,
}

impl Shortcut {
    /// Begins to listen for pods that come and go.
    pub(super) fn open() -> Result<Self> {
        Ok(Self { watch: LinkWatch::open()?, subnets: Vec::new(), obstacle: None })
    }

    /// Returns why no flow takes the shortcut.
    pub(super) fn obstacle(&self) -> Option<&str> {
        self.obstacle.as_deref()
    }

    /// Sets the subnets of this node's pods.
    pub(super) fn set_subnets(&mut self, subnets: &[IpNet]) {
        self.subnets = subnets.to_vec();
    }

    /// Waits until pods may have come or gone.
    pub(super) async fn pods_changed(&mut self) {
        self.watch.changed().await;
    }

    /// Attaches the programs to the ports of the pods that are there.
    pub(super) async fn follow_pods(&mut self, kernel: &Kernel, bpf: &mut Bpf) -> Vec<anyhow::Error> {
        if self.subnets.is_empty() || !self.is_allowed(kernel) {
            return bpf.follow(&[]);
        }
        match kernel.pod_ports(&self.subnets).await {
            Ok(ports) => bpf.follow(&ports),
            Err(error) => vec![error],
        }
    }

    /// Returns whether the host allows flows to skip its stack. If not, logs the reason once.
    fn is_allowed(&mut self, kernel: &Kernel) -> bool {
        let obstacle = kernel.let_flows_skip_conntrack().err().map(|error| {
            format!("all packets go through the host stack, since connection tracking is strict: {error:#}")
        });
        if let Some(obstacle) = &obstacle
            && self.obstacle.as_ref() != Some(obstacle)
        {
            warn!("{obstacle}");
        }
        self.obstacle = obstacle;
        self.obstacle.is_none()
    }
}
