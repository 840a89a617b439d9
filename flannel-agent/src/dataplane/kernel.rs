//! The floor: the kernel entries that flanneld would make, so that the kernel alone carries pod traffic.
//!
//! Routes, neighbours and FDB entries are read ([`Kernel::actual`]), compared with the desired ones
//! ([`Floor::changes_to`]), and only the difference is written ([`Kernel::apply`]).

mod address;
mod ask;
mod batch;
mod classifier;
pub mod conntrack;
pub mod device;
mod direct;
pub mod driver;
pub mod events;
mod fdb;
mod forwarding;
pub mod headroom;
mod ipv6;
mod job;
pub mod lookup;
mod neighbour;
mod nexthop;
mod pods;
mod route;
mod route_mtu;
mod setting;
mod sides;
mod solicit;
#[cfg(test)]
mod tests;
mod ttl;
mod underlay;
pub mod unreachable;
mod watch;

use std::io;

use anyhow::{Context, Result};
use ipnet::IpNet;
use rtnetlink::packet_core::NetlinkDeserializable;
use rtnetlink::packet_route::route::{RouteAttribute, RouteFlags, RouteType};
use rtnetlink::{Handle, LinkUnspec, MulticastGroup};
use tokio::sync::Mutex;

use self::batch::BatchSocket;
pub use self::device::{Device, DeviceSpec};
use self::events::KernelEvents;
pub use self::forwarding::ForwardingChanges;
use self::job::{Job, KernelEntry};
pub use self::nexthop::removed as removed_nexthop;
pub use self::pods::bridge_of;
pub use self::route::{direct_message, reported_direct};
pub use self::sides::Side;
pub use self::ttl::default_ttl;
pub use self::watch::LinkWatch;
use super::desired::{Answer, Floor, FloorChanges};
use super::entry::Via;
use super::obstacle::{Interface, Role};
use crate::config::SubnetRange;
use crate::metrics::METRICS;
use crate::netlink;
use crate::netlink::filter::Omit;
use crate::netlink::notifications::Notifications;

/// The kernel of the network namespace that it was opened in.
#[derive(Debug)]
pub struct Kernel {
    handle: Handle,
    batch: BatchSocket,
    /// Held during a dump: the kernel refuses a second one on the same socket with EBUSY.
    dumping: Mutex<()>,
}

impl Kernel {
    /// Opens the netlink sockets and hands them to the runtime.
    ///
    /// # Errors
    /// A socket cannot be opened, or the kernel is older than Linux 4.20.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new() -> Result<Self> {
        Ok(Self { handle: netlink::open()?, batch: BatchSocket::open()?, dumping: Mutex::default() })
    }

    /// Subscribes to changes that others make, and to the kernel's questions.
    ///
    /// # Errors
    /// The netlink socket cannot be opened.
    pub fn events(&self) -> Result<KernelEvents> {
        KernelEvents::open(self)
    }

    /// Subscribes to these groups, except for changes of entries by this agent: ten thousand at once take 10 MB.
    ///
    /// # Errors
    /// The netlink socket cannot be opened.
    pub fn changes_by_others<M: NetlinkDeserializable>(
        &self,
        groups: &[MulticastGroup],
    ) -> io::Result<Notifications<M>> {
        Notifications::subscribe_without(Some(Omit::RequestsFrom(self.batch.port())), groups)
    }

    /// Returns the handle for other requests than those below. Await one dump before the next: a second dump
    /// at the same time is refused with EBUSY.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Lists the interfaces by which outer packets may come in, except those with these indexes.
    ///
    /// # Errors
    /// The dump fails.
    pub async fn sides(&self, own: &[u32]) -> Result<Vec<Side>> {
        let _dumping = self.dumping.lock().await;
        let links = netlink::link::list(&self.handle).await.context("listing interfaces")?;
        Ok(sides::of(&links, own))
    }

    /// Makes sure that the vxlan device exists, is up, and has the properties in `spec`.
    ///
    /// A device of that name is adopted if it fits. Otherwise it is replaced by a new one with the same MAC.
    ///
    /// # Errors
    /// The kernel refuses: no permission, VNI and port used by another device, or port used by another program.
    pub async fn ensure_device(&self, spec: &DeviceSpec) -> Result<Device> {
        let _dumping = self.dumping.lock().await;
        device::ensure(&self.handle, spec).await
    }

    /// Gives the interface this address of global scope, and no other of its family except link-local ones.
    ///
    /// # Errors
    /// The kernel refuses to list, add or remove an address.
    pub async fn ensure_address(&self, interface: u32, address: IpNet) -> Result<()> {
        let _dumping = self.dumping.lock().await;
        address::ensure(&self.handle, interface, address).await
    }

    /// Sets an interface up, with this MTU in bytes.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn set_up(&self, interface: u32, mtu: u32) -> Result<()> {
        let change = LinkUnspec::new_with_index(interface).mtu(mtu).up().build();
        let changed = self.handle.link().change(change).execute().await;
        changed.with_context(|| format!("setting interface {interface} up with MTU {mtu}"))
    }

    /// Routes a prefix of pods through an interface: `10.5.0.0/16 dev flannel0`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn ensure_route(&self, interface: u32, prefix: IpNet) -> Result<()> {
        let mut route = netlink::route::message(prefix, RouteType::Unicast);
        route.attributes.push(RouteAttribute::Oif(interface));
        let added = self.handle.route().add(route).replace().execute().await;
        added.with_context(|| format!("setting the route to {prefix} by interface {interface}"))
    }

    /// Makes the kernel answer packets to unleased subnets of this range with "unreachable", instead of sending them by the
    /// default route. Removes the routes of that kind that an earlier range needed.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn ensure_unreachable(&self, range: &SubnetRange) -> Result<()> {
        let _dumping = self.dumping.lock().await;
        unreachable::ensure(&self.handle, range).await
    }

    /// Reads the device's entries of the kinds that flanneld writes. Others are left out.
    ///
    /// # Errors
    /// The device does not exist any more, or a dump fails.
    pub async fn actual(&self, device: &Device) -> Result<Floor> {
        let _dumping = self.dumping.lock().await;
        device::expect(&self.handle, device).await?;
        Ok(Floor {
            routes: route::dump(&self.handle, device.index, RouteFlags::Onlink)
                .await
                .context("listing routes")?,
            nexthops: nexthop::dump(self.batch.socket(), device.index).await.context("listing nexthops")?,
            neighbours: neighbour::dump(&self.handle, device.index).await.context("listing neighbours")?,
            fdb: fdb::dump(&self.handle, device.index).await.context("listing FDB entries")?,
        })
    }

    /// Writes the changes in an order that leaves no gap. Returns what failed; a failure does not stop the
    /// rest.
    ///
    /// Removing an entry that does not exist is a success.
    pub async fn apply(&self, device: &Device, mut changes: FloorChanges) -> Vec<anyhow::Error> {
        for (object, set, removed) in changes.counts() {
            METRICS.count_changes(object, set, removed);
        }
        self.make_nexthops(device, &mut changes).await;
        self.batch.run(device.index, &in_order(&changes)).await
    }

    /// Makes the nexthop objects. If a gateway cannot have one, because its number is taken, the route names
    /// the gateway itself.
    async fn make_nexthops(&self, device: &Device, FloorChanges { nexthops, routes, .. }: &mut FloorChanges) {
        let jobs: Vec<_> = nexthops.set.iter().map(|entry| Job::Set(KernelEntry::nexthop(entry))).collect();
        let refusals = self.batch.run(device.index, &jobs).await;
        if refusals.is_empty() {
            return;
        }
        tracing::debug!(?refusals, "routes without nexthop objects");
        let existing = nexthop::dump(self.batch.socket(), device.index).await.unwrap_or_default();
        for (_, via) in &mut routes.set {
            if let Via::Nexthop(gateway) = *via
                && !existing.contains_key(&gateway)
            {
                *via = Via::Gateway(gateway.into());
            }
        }
    }

    /// Answers a question of the kernel. The MAC of a gateway in `floor` is written as a permanent entry; any
    /// other address gets an entry that the kernel may forget.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn answer(&self, device: &Device, answer: Answer, floor: &Floor) -> Result<()> {
        let entry = match answer {
            Answer::Fdb(mac, destination) => KernelEntry::Fdb { mac, destination },
            Answer::Neighbour(gateway, mac) if floor.neighbours.contains_key(&gateway) => {
                KernelEntry::Neighbour { gateway, mac }
            }
            Answer::Neighbour(address, mac) => KernelEntry::Resolved { address, mac },
        };
        match self.batch.run(device.index, &[Job::Set(entry)]).await.pop() {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }

    /// Lists the interfaces of the pods in these subnets, and those in `own`, which are devices and uplinks by index, with
    /// what others have put there. Filters of the priority `ours` are the agent's. What tcx runs is left out.
    ///
    /// # Errors
    /// A dump fails.
    pub async fn survey(&self, subnets: &[IpNet], own: &[(u32, Role)], ours: u16) -> Result<Vec<Interface>> {
        let _dumping = self.dumping.lock().await;
        pods::survey(&self.handle, subnets, own, ours).await
    }

    /// Has the pods behind this bridge leave room for outer headers in front of their packets, [`headroom::ROOM`] bytes. For a moment
    /// the bridge has another port, which is down. `vni`: that of the network, for the names of devices.
    ///
    /// # Errors
    /// The kernel refuses. Packets are carried all the same.
    pub async fn make_headroom(&self, vni: u32, bridge: u32) -> Result<()> {
        headroom::make(&self.handle, vni, bridge).await
    }

    /// Whether an XDP program sees what the interface receives.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn has_xdp(&self, interface: u32) -> Result<bool> {
        let link = netlink::link::by_index(&self.handle, interface).await?;
        Ok(link.is_some_and(|link| link.xdp.is_some()))
    }

    /// Returns the ID of the XDP program on the interface with this index, if there is one.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn xdp_program(&self, interface: u32) -> Result<Option<u32>> {
        let link = netlink::link::by_index(&self.handle, interface).await?;
        Ok(link.and_then(|link| link.xdp_program))
    }

    /// Whether the kernel has nexthop objects: Linux 5.3 or newer.
    pub async fn has_nexthops(&self) -> bool {
        nexthop::are_supported(self.batch.socket()).await
    }
}

/// Orders the changes. New entries are complete before old ones are removed: neighbour and FDB entry, then
/// the route that uses them. Stale routes are removed before the entries that they use. New nexthop objects
/// exist already.
fn in_order(FloorChanges { routes, nexthops, neighbours, fdb }: &FloorChanges) -> Vec<Job> {
    let mut jobs = Vec::new();
    jobs.extend(neighbours.set.iter().map(|entry| Job::Set(KernelEntry::neighbour(entry))));
    jobs.extend(fdb.set.iter().map(|entry| Job::Set(KernelEntry::fdb(entry))));
    jobs.extend(routes.set.iter().map(|entry| Job::Set(KernelEntry::route(entry))));
    jobs.extend(routes.remove.iter().map(|entry| Job::Remove(KernelEntry::route(entry))));
    jobs.extend(nexthops.remove.iter().map(|entry| Job::Remove(KernelEntry::nexthop(entry))));
    jobs.extend(neighbours.remove.iter().map(|entry| Job::Remove(KernelEntry::neighbour(entry))));
    jobs.extend(fdb.remove.iter().map(|entry| Job::Remove(KernelEntry::fdb(entry))));
    jobs
}
