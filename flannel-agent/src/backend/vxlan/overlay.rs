//! One vxlan device, and the kernel's entries for it.

use std::mem;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use tracing::debug;

use crate::dataplane::desired::{Floor, FloorChanges};
use crate::dataplane::entry::{LinkState, Miss};
use crate::dataplane::kernel::events::KernelEvent;
use crate::dataplane::kernel::{Device, DeviceSpec, Kernel};
use crate::lease::SubnetKey;
use crate::metrics::{FailureKind, Repaired};
use crate::peer::Peer;
use crate::problem::{Pace, Problem};
use crate::report::REPORT;

/// The floor of one address family.
pub(super) struct Overlay {
    spec: DeviceSpec,
    device: Device,
    /// What the kernel holds, by what was read and written last.
    floor: Floor,
    nexthops: bool,
    own: Option<SubnetKey>,
    /// Several nodes have one MAC.
    shared_macs: Problem,
}

impl Overlay {
    /// Makes or adopts the device, and reads what the kernel holds for it.
    pub(super) async fn start(kernel: &Kernel, spec: DeviceSpec) -> Result<Self> {
        let device = kernel.ensure_device(&spec).await?;
        let floor = kernel.actual(&device).await?;
        let nexthops = kernel.has_nexthops().await;
        let over = "each node has a VTEP MAC of its own again";
        let shared_macs = Problem::new(FailureKind::Dataplane, over, Pace::SLOWING);
        Ok(Self { spec, device, floor, nexthops, own: None, shared_macs })
    }

    pub(super) const fn spec(&self) -> &DeviceSpec {
        &self.spec
    }

    pub(super) const fn device(&self) -> &Device {
        &self.device
    }

    /// Returns whether the device carries IPv6, over IPv6.
    pub(super) const fn is_v6(&self) -> bool {
        self.spec.local.is_ipv6()
    }

    /// Gives the device the base address of the own subnet, as source of what the host itself sends.
    pub(super) async fn set_subnet(&mut self, kernel: &Kernel, own: SubnetKey) -> Result<()> {
        self.own = Some(own);
        let subnet =
            self.base().with_context(|| format!("the lease {own} has no subnet for {}", self.spec.name))?;
        kernel.ensure_address(self.device.index, IpNet::from(subnet.network())).await
    }

    /// Makes the kernel hold exactly the peers of this family.
    pub(super) async fn apply(&mut self, kernel: &Kernel, peers: &[Peer]) -> Vec<anyhow::Error> {
        let of_family = peers.iter().filter(|peer| self.carries(peer.subnet));
        let desired = Floor::of(of_family, self.nexthops);
        let changes = self.floor.changes_to(&desired);
        self.floor = desired;
        self.report_shared_macs();
        self.write(kernel, changes).await
    }

    /// Adds the peers of this family. Returns `None` if that is not possible, and all peers are to be applied.
    pub(super) async fn add_peers(&mut self, kernel: &Kernel, joined: &[Peer]) -> Option<Vec<anyhow::Error>> {
        let v6 = self.is_v6();
        let of_family = joined.iter().filter(|peer| v6 == peer.subnet.addr().is_ipv6());
        let changes = self.floor.add_peers(of_family, self.nexthops)?;
        self.report_shared_macs();
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

    /// Logs each MAC that several nodes have, once, and the end of it.
    fn report_shared_macs(&mut self) {
        let (own, device) = (self.device.mac, &self.spec.name);
        let shared = self.floor.shared_macs(own).into_iter().map(|(mac, gateways)| {
            let and_we = if mac == own { "this node and " } else { "" };
            format!(
                "{and_we}the nodes with the pod subnets at {gateways:?} have one VTEP MAC, {mac}, as cloned machines have: \
                 packets that the kernel wraps or unwraps are lost between them; on all but one of them, \
                 run `flannel-agent cleanup` (with flanneld: `ip link delete {device}`) and start flannel again"
            )
        });
        self.shared_macs.observed(shared.collect());
    }

    /// Repairs the device or makes it again, and reads what the kernel holds for it. Returns whether it was made again.
    pub(super) async fn repair(&mut self, kernel: &Kernel) -> Result<bool> {
        let before = self.device.index;
        self.spec.mac = Some(self.device.mac);
        self.device = kernel.ensure_device(&self.spec).await?;
        if let Some(own) = self.own {
            self.set_subnet(kernel, own).await?;
        }
        let floor = mem::replace(&mut self.floor, kernel.actual(&self.device).await?);
        let is_new = self.device.index != before;
        count_repairs(is_new, &self.floor.changes_to(&floor));
        Ok(is_new)
    }

    /// Returns whether the event is about a change of the device, its address or its entries.
    pub(super) fn is_broken_by(&self, event: &KernelEvent) -> bool {
        match event {
            KernelEvent::Link(index, state) => {
                *index == self.device.index && state.as_ref() != Some(&self.link_state())
            }
            KernelEvent::AddressGone(index, address) => {
                *index == self.device.index && self.base().is_some_and(|base| base.network() == *address)
            }
            KernelEvent::Entry(entry) => self.floor.is_contradicted_by(self.device.index, entry),
            KernelEvent::Lost => true,
            KernelEvent::Miss(..) => false,
        }
    }

    /// Returns the device's desired state.
    fn link_state(&self) -> LinkState {
        let Device { mtu, mac, .. } = self.device;
        LinkState { name: self.spec.name.clone(), up: true, mtu, mac: Some(mac) }
    }

    /// Returns the own subnet of this family, once there is one.
    fn base(&self) -> Option<IpNet> {
        self.own?.nets().find(|subnet| self.carries(*subnet))
    }

    /// Answers a question of the kernel, if a peer is the answer.
    pub(super) async fn answer(&self, kernel: &Kernel, miss: &Miss) -> Option<Result<()>> {
        let answer = self.floor.answer(miss)?;
        Some(kernel.answer(&self.device, answer, &self.floor).await)
    }

    fn carries(&self, subnet: IpNet) -> bool {
        self.is_v6() == subnet.addr().is_ipv6()
    }
}

/// Counts what others have changed: these changes lead back to what was written last.
fn count_repairs(device: bool, FloorChanges { routes, nexthops, neighbours, fdb }: &FloorChanges) {
    REPORT.repaired(Repaired::Device, device.into());
    REPORT.repaired(Repaired::Route, routes.count());
    REPORT.repaired(Repaired::Nexthop, nexthops.count());
    REPORT.repaired(Repaired::Neighbour, neighbours.count());
    REPORT.repaired(Repaired::Fdb, fdb.count());
}
