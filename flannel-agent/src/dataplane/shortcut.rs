//! The shortcut: which pods' flows may skip the host stack.

use anyhow::Result;
use ipnet::IpNet;
use tracing::warn;

use super::bpf::Bpf;
use super::kernel::conntrack::LiberalTracker;
use super::kernel::{Kernel, LinkWatch};

/// Keeps the programs attached to the ports of the pods that are there.
pub(super) struct Shortcut {
    watch: LinkWatch,
    subnets: Vec<IpNet>,
    tracker: LiberalTracker,
    /// Why no flow takes the shortcut, as logged last.
    obstacle: Option<String>,
}

impl Shortcut {
    /// Begins to listen for pods that come and go.
    pub(super) fn open() -> Result<Self> {
        let (watch, tracker) = (LinkWatch::open()?, LiberalTracker::default());
        Ok(Self { watch, subnets: Vec::new(), tracker, obstacle: None })
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

    /// Sets the connection tracker again if another program has set it back, which the kernel does not report. Returns whether
    /// the ports are to be looked at, since flows may skip the host stack now, or no longer.
    pub(super) fn keep_tracker_liberal(&mut self) -> bool {
        self.tracker.keep()
    }

    /// Attaches the programs to the ports of the pods that are there.
    pub(super) async fn follow_pods(&mut self, kernel: &Kernel, bpf: &mut Bpf) -> Vec<anyhow::Error> {
        if self.subnets.is_empty() || !self.is_allowed() {
            return bpf.follow(&[]);
        }
        match kernel.pod_ports(&self.subnets).await {
            Ok(ports) => bpf.follow(&ports),
            Err(error) => vec![error],
        }
    }

    /// Returns whether the host allows flows to skip its stack. If not, logs the reason once.
    fn is_allowed(&mut self) -> bool {
        self.tracker.keep();
        let obstacle = self.tracker.strict().map(|why| {
            format!("all packets go through the host stack, since connection tracking is strict: {why}")
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
