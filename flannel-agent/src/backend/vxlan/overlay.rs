//! One vxlan device and what the kernel holds for it.

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use tracing::debug;

use crate::dataplane::desired::{Floor, FloorChanges};
use crate::dataplane::entry::{LinkState, Miss};
use crate::dataplane::kernel::events::KernelEvent;
use crate::dataplane::kernel::{Device, DeviceSpec, Kernel};
use crate::lease::SubnetKey;
use crate::peer::Peer;

/// The floor of one address family.
pub(super) struct Overlay {
    spec: DeviceSpec,
    device: Device,
    /// What the kernel holds, as far as we know.
    floor: Floor,
    nexthops: bool,
    own: Option<SubnetKey>,
}

impl Overlay {
    /// Makes or adopts the device, with what it carries.
    pub(super) async fn start(kernel: &Kernel, spec: DeviceSpec) -> Result<Self> {
        let device = kernel.ensure_device(&spec).await?;
        let floor = kernel.actual(&device).await?;
        let nexthops = kernel.has_nexthops().await;
        Ok(Self { spec, device, floor, nexthops, own: None })
    }

    pub(super) const fn spec(&self) -> &DeviceSpec {
        &self.spec
    }

    pub(super) const fn device(&self) -> &Device {
        &self.device
    }

    /// Whether it is IPv6 that the device carries, over IPv6.
    pub(super) const fn is_v6(&self) -> bool {
        self.spec.local.is_ipv6()
    }

    /// Gives the device the base address of our subnet, as source of what the host itself sends.
    pub(super) async fn serve(&mut self, kernel: &Kernel, own: SubnetKey) -> Result<()> {
        self.own = Some(own);
        let subnet =
            self.base().with_context(|| format!("the lease {own} has no subnet for {}", self.spec.name))?;
        kernel.ensure_address(self.device.index, IpNet::from(subnet.network())).await
    }

    /// Makes the kernel hold exactly those of the peers that are of this family.
    pub(super) async fn apply(&mut self, kernel: &Kernel, peers: &[Peer]) -> Vec<anyhow::Error> {
        let ours = peers.iter().filter(|peer| self.carries(peer.subnet));
        let desired = Floor::of(ours, self.nexthops);
        let changes = self.floor.changes_to(&desired);
        self.floor = desired;
        self.write(kernel, changes).await
    }

    /// Adds those of these peers that are of this family; `None` if it is not done with adding.
    pub(super) async fn add_peers(&mut self, kernel: &Kernel, joined: &[Peer]) -> Option<Vec<anyhow::Error>> {
        let v6 = self.is_v6();
        let ours = joined.iter().filter(|peer| v6 == peer.subnet.addr().is_ipv6());
        let changes = self.floor.add_peers(ours, self.nexthops)?;
        Some(self.write(kernel, changes).await)
    }

    async fn write(&self, kernel: &Kernel, changes: FloorChanges) -> Vec<anyhow::Error> {
        if changes.is_empty() {
            return Vec::new();
        }
        let errors = kernel.apply(&self.device, changes).await;
        debug!(routes = self.floor.routes.len(), errors = errors.len(), "kernel entries brought up to date");
        errors
    }

    /// Makes the device what it should be, again too, and reads what the kernel really holds for it. Returns whether
    /// it is another device than before.
    pub(super) async fn heal(&mut self, kernel: &Kernel) -> Result<bool> {
        let before = self.device.index;
        self.spec.mac = Some(self.device.mac);
        self.device = kernel.ensure_device(&self.spec).await?;
        if let Some(own) = self.own {
            self.serve(kernel, own).await?;
        }
        self.floor = kernel.actual(&self.device).await?;
        Ok(self.device.index != before)
    }

    /// Whether the news is that something of ours is no longer as we left it.
    pub(super) fn is_hurt_by(&self, news: &KernelEvent) -> bool {
        match news {
            KernelEvent::Link(index, state) => {
                *index == self.device.index && *state != Some(self.link_state())
            }
            KernelEvent::AddressGone(index, address) => {
                *index == self.device.index && self.base().is_some_and(|base| base.network() == *address)
            }
            KernelEvent::Entry(entry) => self.floor.is_contradicted_by(self.device.index, entry),
            KernelEvent::Lost => true,
            KernelEvent::Miss(..) => false,
        }
    }

    /// The device as it should be.
    const fn link_state(&self) -> LinkState {
        LinkState { up: true, mtu: self.device.mtu, mac: Some(self.device.mac) }
    }

    /// Our subnet of this family, once there is one.
    fn base(&self) -> Option<IpNet> {
        self.own?.nets().find(|subnet| self.carries(*subnet))
    }

    /// Answers a question of the kernel's, if a peer is the answer.
    pub(super) async fn answer(&self, kernel: &Kernel, miss: &Miss) -> Option<Result<()>> {
        let answer = self.floor.answer(miss)?;
        Some(kernel.answer(&self.device, answer, &self.floor).await)
    }

    fn carries(&self, subnet: IpNet) -> bool {
        self.is_v6() == subnet.addr().is_ipv6()
    }
}
