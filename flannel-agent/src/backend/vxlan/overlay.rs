//! One vxlan device and what the kernel holds for it.

use anyhow::Result;
use ipnet::IpNet;
use tracing::debug;

use crate::dataplane::desired::{Floor, Peer};
use crate::dataplane::kernel::{Device, DeviceSpec, Kernel};

/// The floor of one address family.
pub(super) struct Overlay {
    device: Device,
    /// What the kernel holds, as far as we know.
    floor: Floor,
    nexthops: bool,
}

impl Overlay {
    /// Makes or adopts the device, with what it carries.
    pub(super) async fn start(kernel: &Kernel, spec: &DeviceSpec) -> Result<Self> {
        let device = kernel.ensure_device(spec).await?;
        let floor = kernel.actual(&device).await?;
        let nexthops = kernel.has_nexthops().await;
        Ok(Self { device, floor, nexthops })
    }

    pub(super) const fn device(&self) -> &Device {
        &self.device
    }

    /// Gives the device the base address of the subnet.
    pub(super) async fn serve(&self, kernel: &Kernel, subnet: IpNet) -> Result<()> {
        kernel.ensure_address(&self.device, IpNet::from(subnet.network())).await
    }

    /// Makes the kernel hold exactly these peers.
    pub(super) async fn apply(&mut self, kernel: &Kernel, peers: &[Peer]) -> Vec<anyhow::Error> {
        let desired = Floor::of(peers, self.nexthops);
        let changes = self.floor.changes_to(&desired);
        let mut errors = Vec::new();
        if !changes.is_empty() {
            errors = kernel.apply(&self.device, changes).await;
            debug!(routes = desired.routes.len(), errors = errors.len(), "kernel entries brought up to date");
        }
        self.floor = desired;
        errors
    }

    /// Reads what the kernel really holds.
    pub(super) async fn read(&mut self, kernel: &Kernel) -> Result<()> {
        self.floor = kernel.actual(&self.device).await?;
        Ok(())
    }
}
