//! The flow cache's part in the agent: pods come and go, and the host has to bear that flows skip its stack.

use anyhow::Result;
use ipnet::IpNet;
use tracing::warn;

use super::bpf::Bpf;
use super::kernel::{Kernel, LinkWatch};

/// Keeps the programs on the ports of the pods that are there.
pub(super) struct Shortcut {
    watch: LinkWatch,
    subnets: Vec<IpNet>,
    /// Why nothing takes the shortcut, as it was told last.
    obstacle: Option<String>,
}

impl Shortcut {
    /// Listens for pods that come and go.
    pub(super) fn open() -> Result<Self> {
        Ok(Self { watch: LinkWatch::open()?, subnets: Vec::new(), obstacle: None })
    }

    /// Looks for pods in these subnets from now on.
    pub(super) fn set_subnets(&mut self, subnets: &[IpNet]) {
        self.subnets = subnets.to_vec();
    }

    /// Waits until pods may have come or gone.
    pub(super) async fn pods_changed(&mut self) {
        self.watch.changed().await;
    }

    /// Lets the pods that are there now take the shortcut.
    pub(super) async fn follow_pods(&mut self, kernel: &Kernel, bpf: &mut Bpf) -> Vec<anyhow::Error> {
        if self.subnets.is_empty() || !self.is_open(kernel) {
            return bpf.follow(&[]);
        }
        match kernel.pod_ports(&self.subnets).await {
            Ok(ports) => bpf.follow(&ports),
            Err(error) => vec![error],
        }
    }

    /// Whether the host lets flows skip its stack without harm; if not, says so once.
    fn is_open(&mut self, kernel: &Kernel) -> bool {
        let obstacle = kernel.let_flows_skip_conntrack().err().map(|error| format!("{error:#}"));
        if let Some(obstacle) = &obstacle
            && self.obstacle.as_ref() != Some(obstacle)
        {
            warn!("all packets go through the host stack, since connection tracking is strict: {obstacle}");
        }
        self.obstacle = obstacle;
        self.obstacle.is_none()
    }
}
