//! Direct routes as flanneld writes them: `10.1.15.0/24 via 192.168.64.3 dev eth0`, proto boot, main table.
//!
//! Nothing in the kernel says which program owns such a route. The agent takes for its own what leads through
//! the uplink by a gateway, with `proto boot` and no metric, to a node's subnet. A route that an
//! administrator wants to keep needs another protocol (`proto static`) or a metric.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use rtnetlink::packet_route::route::RouteFlags;

use super::job::{Job, KernelEntry};
use super::{Kernel, route};
use crate::dataplane::desired::NEXTHOPS_FROM;
use crate::dataplane::entry::Via;
use crate::netlink::route::{RouteAnswer, RouteQuery};

impl Kernel {
    /// Whether the address is on the link of this interface: no router is on the way there.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn is_on_link(&self, interface: u32, address: IpAddr) -> Result<bool> {
        let answer = self.route(RouteQuery { destination: address, forwarded: None }).await?;
        let RouteAnswer::Out(hop) = answer else { return Ok(false) };
        Ok(hop.interface == interface && hop.gateway.is_none())
    }

    /// Lists the direct routes through an interface to subnets that `is_node_subnet` accepts, with their
    /// gateways.
    ///
    /// # Errors
    /// A dump fails.
    pub async fn direct_routes(
        &self,
        interface: u32,
        is_node_subnet: impl Fn(IpNet) -> bool,
    ) -> Result<BTreeMap<IpNet, IpAddr>> {
        let _dumping = self.dumping.lock().await;
        let routes = route::dump(&self.handle, interface, RouteFlags::empty()).await;
        let routes = routes.context("listing direct routes")?;
        let direct = routes.into_iter().filter(|(subnet, _)| is_node_subnet(*subnet));
        Ok(direct.map(|(subnet, via)| (subnet, via.gateway())).collect())
    }

    /// Writes direct routes through the uplink. Returns what failed; a failure does not stop the rest. Very
    /// many routes at once use nexthop objects, as in the overlay.
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

    /// Removes direct routes through the uplink, whether they name their gateway or its nexthop object. Also
    /// removes the objects of gateways that no route in `staying` uses. Removing a route that does not exist
    /// is a success.
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
}

const fn ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}
