//! The floor: what flanneld would program, so that the kernel alone carries pod traffic.
//!
//! Routes, neighbours and FDB entries are read back ([`Kernel::actual`]), compared with what should be there
//! ([`Floor::changes_to`]) and only then written ([`Kernel::apply`]). Linux 4.20 or newer: dumps are filtered
//! per device by the kernel (`NETLINK_GET_STRICT_CHK`).

mod address;
mod batch;
pub mod classifier;
mod conntrack;
pub mod device;
mod direct;
pub mod driver;
mod entry;
pub mod events;
mod fdb;
pub mod lookup;
mod neighbour;
mod nexthop;
mod pods;
mod request;
mod route;
#[cfg(test)]
mod tests;
mod ttl;
pub mod unreachable;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv4Net};
use rtnetlink::packet_route::route::{RouteFlags, RouteProtocol, RouteScope};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use tokio::sync::Mutex;

use self::batch::Batch;
pub use self::device::{Device, DeviceSpec};
pub use self::direct::message as direct_message;
use self::entry::{Job, KernelEntry};
use self::events::KernelEvents;
pub use self::pods::PodPort;
pub use self::ttl::default_ttl;
pub use self::watch::LinkWatch;
use super::desired::{Answer, Floor, FloorChanges, NEXTHOPS_FROM};
use super::entry::Via;
use crate::metrics::METRICS;
use crate::netlink;
use crate::netlink::route::{RouteAnswer, RouteQuery};

/// The kernel of the network namespace that it was opened in.
#[derive(Debug)]
pub struct Kernel {
    handle: Handle,
    batch: Batch,
    /// The kernel runs one dump per socket and refuses a second one with EBUSY.
    dumping: Mutex<()>,
}

impl Kernel {
    /// Opens the netlink sockets and hands them to the runtime.
    ///
    /// # Errors
    /// If a socket cannot be opened, or the kernel is older than Linux 4.20.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new() -> Result<Self> {
        Ok(Self { handle: netlink::open()?, batch: Batch::open()?, dumping: Mutex::default() })
    }

    /// Listens to what others do from now on.
    ///
    /// # Errors
    /// The netlink socket cannot be opened.
    pub fn events(&self) -> Result<KernelEvents> {
        KernelEvents::open(self.batch.port())
    }

    /// For other requests than those below. Await one dump before the next: a second dump at the same time is
    /// refused with EBUSY.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Sees to it that the vxlan device is there, up, and as `spec` says.
    ///
    /// A device of that name is adopted when it fits, otherwise replaced by a new one with the same MAC.
    ///
    /// # Errors
    /// If the kernel refuses: no permission, VNI and port taken by another device, port taken by another program.
    pub async fn ensure_device(&self, spec: &DeviceSpec) -> Result<Device> {
        let _dumping = self.dumping.lock().await;
        device::ensure(&self.handle, spec).await
    }

    /// Gives the interface this address of global scope, and no other of its family except link-local ones.
    ///
    /// # Errors
    /// If the kernel refuses to list, add or remove an address.
    pub async fn ensure_address(&self, interface: u32, address: IpNet) -> Result<()> {
        let _dumping = self.dumping.lock().await;
        address::ensure(&self.handle, interface, address).await
    }

    /// Sets an interface up, with this MTU in bytes.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn set_up(&self, interface: u32, mtu: u32) -> Result<()> {
        let change = LinkUnspec::new_with_index(interface).mtu(mtu).up().build();
        let changed = self.handle.link().change(change).execute().await;
        changed.with_context(|| format!("setting interface {interface} up with MTU {mtu}"))
    }

    /// Has the whole network lie behind an interface: `10.5.0.0/16 dev flannel0`.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn ensure_network_route(&self, interface: u32, network: Ipv4Net) -> Result<()> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(network.network(), network.prefix_len())
            .output_interface(interface)
            .protocol(RouteProtocol::Boot)
            .scope(RouteScope::Universe)
            .build();
        let added = self.handle.route().add(route).replace().execute().await;
        added.with_context(|| format!("setting the route to {network} by interface {interface}"))
    }

    /// What the device carries now, of the kind that flanneld writes; anything else on it stays out of sight.
    ///
    /// # Errors
    /// If the device is gone, or a dump fails.
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

    /// The routes of ours that lead through an interface to subnets that nodes can hold, each by way of its node.
    ///
    /// # Errors
    /// If a dump fails.
    pub async fn direct_routes(
        &self,
        interface: u32,
        is_nodes: impl Fn(IpNet) -> bool,
    ) -> Result<BTreeMap<IpNet, IpAddr>> {
        let _dumping = self.dumping.lock().await;
        direct::dump(&self.handle, interface, is_nodes).await.context("listing direct routes")
    }

    /// Whether the address is on the link of this interface: no router is on the way there.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub async fn is_on_link(&self, interface: u32, address: IpAddr) -> Result<bool> {
        let answer = self.route(RouteQuery { destination: address, forwarded: None }).await?;
        let RouteAnswer::Out(hop) = answer else { return Ok(false) };
        Ok(hop.interface == interface && hop.gateway.is_none())
    }

    /// Writes routes through the uplink; what fails is reported and does not stop the rest. Very many at once have
    /// nexthop objects, as the overlay's have.
    pub async fn set_direct(&self, uplink: u32, routes: &[(IpNet, IpAddr)]) -> Vec<anyhow::Error> {
        let gateways: BTreeSet<_> = routes.iter().filter_map(|(_, gateway)| ipv4(*gateway)).collect();
        let objects: Vec<_> =
            gateways.iter().map(|gateway| Job::Set(KernelEntry::direct_nexthop(*gateway))).collect();
        let by_objects = routes.len() >= NEXTHOPS_FROM && self.batch.run(uplink, &objects).await.is_empty();
        let via = |gateway| match gateway {
            IpAddr::V4(gateway) if by_objects => Via::Nexthop(gateway),
            gateway => Via::Gateway(gateway),
        };
        let job = |(subnet, gateway): &(IpNet, IpAddr)| Job::Set(KernelEntry::direct(*subnet, via(*gateway)));
        self.batch.run(uplink, &routes.iter().map(job).collect::<Vec<_>>()).await
    }

    /// Removes routes through the uplink, however they name their gateway, and the objects of gateways that none of the
    /// routes that stay has. Removing what is not there is a success.
    pub async fn remove_direct(
        &self,
        uplink: u32,
        routes: &[(IpNet, IpAddr)],
        staying: &BTreeMap<IpNet, IpAddr>,
    ) -> Vec<anyhow::Error> {
        let in_use: BTreeSet<_> = staying.values().collect();
        let mut jobs = Vec::new();
        for (subnet, gateway) in routes {
            jobs.push(Job::Remove(KernelEntry::direct(*subnet, Via::Gateway(*gateway))));
            let Some(object) = ipv4(*gateway) else { continue };
            jobs.push(Job::Remove(KernelEntry::direct(*subnet, Via::Nexthop(object))));
            if !in_use.contains(gateway) {
                jobs.push(Job::Remove(KernelEntry::direct_nexthop(object)));
            }
        }
        self.batch.run(uplink, &jobs).await
    }

    /// Answers a question of the kernel's. A gateway's MAC is written as it was, for good; another address's is kept as
    /// long as the kernel likes.
    ///
    /// # Errors
    /// If the kernel refuses.
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

    /// Sees to it that what nobody leases of this network is answered unreachable, and does not leave by the default
    /// route.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn ensure_unreachable(&self, network: IpNet) -> Result<()> {
        let request = unreachable::message(network);
        let added = self.handle.route().add(request).replace().execute().await;
        added.with_context(|| format!("setting route unreachable {network}"))
    }

    /// The ports of the bridge that holds the gateway address of `subnet`.
    ///
    /// # Errors
    /// If a dump fails.
    pub async fn pod_ports(&self, subnets: &[IpNet]) -> Result<Vec<PodPort>> {
        let _dumping = self.dumping.lock().await;
        pods::dump(&self.handle, subnets).await
    }

    /// Makes the connection tracker, if there is one, bear that flows skip the host stack.
    ///
    /// # Errors
    /// If it does not say or do it.
    pub fn let_flows_skip_conntrack(&self) -> Result<()> {
        conntrack::be_liberal()
    }

    /// Whether the kernel has nexthop objects: Linux 5.3 or newer.
    pub async fn has_nexthops(&self) -> bool {
        nexthop::are_there(self.batch.socket()).await
    }

    /// Writes the changes, in an order that leaves no gap; what fails is reported and does not stop the rest.
    ///
    /// Removing what is not there is a success.
    pub async fn apply(&self, device: &Device, mut changes: FloorChanges) -> Vec<anyhow::Error> {
        for (object, set, removed) in changes.counts() {
            METRICS.count_changes(object, set, removed);
        }
        self.make_nexthops(device, &mut changes).await;
        self.batch.run(device.index, &in_order(&changes)).await
    }

    /// Makes the nexthop objects. A route whose gateway cannot have one, because another has its number, names the
    /// gateway itself.
    async fn make_nexthops(&self, device: &Device, FloorChanges { nexthops, routes, .. }: &mut FloorChanges) {
        let jobs: Vec<_> = nexthops.set.iter().map(|entry| Job::Set(KernelEntry::nexthop(entry))).collect();
        let refusals = self.batch.run(device.index, &jobs).await;
        if refusals.is_empty() {
            return;
        }
        tracing::debug!(?refusals, "routes without nexthop objects");
        let there = nexthop::dump(self.batch.socket(), device.index).await.unwrap_or_default();
        for (_, via) in &mut routes.set {
            if let Via::Nexthop(gateway) = *via
                && !there.contains_key(&gateway)
            {
                *via = Via::Gateway(gateway.into());
            }
        }
    }
}

/// New ways are complete before old ones go: neighbour and FDB entry, then the route that leads there. Stale
/// routes go before what they point to. Nexthop objects to set are there by now.
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

const fn ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}
