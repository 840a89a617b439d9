//! MTUs of the routes that packets to peers take, which the programs cannot look up: see [`flannel_common::lease::Lease::route_mtu`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;

use crate::dataplane::kernel::Kernel;
use crate::netlink::family_of;
use crate::netlink::notifications::Notifications;
use crate::netlink::route::{destination_of, mtu_of};

/// The MTUs, as read last.
pub(super) struct RouteMtus {
    uplink: u32,
    watch: Notifications,
    addresses: BTreeSet<IpAddr>,
    mtus: BTreeMap<IpAddr, u32>,
}

impl RouteMtus {
    /// Begins to listen for changes of routes. The agent's own lead to pods, and have no MTU.
    pub(super) fn open(kernel: &Kernel, uplink: u32) -> Result<Self> {
        let watch = kernel.changes_by_others(&[MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route]);
        let watch = watch.context("subscribing to changes of routes")?;
        Ok(Self { uplink, watch, addresses: BTreeSet::new(), mtus: BTreeMap::new() })
    }

    /// Reads the MTU in bytes of the route to each of these addresses, where it has one of its own.
    pub(super) async fn read(
        &mut self,
        kernel: &Kernel,
        addresses: impl Iterator<Item = IpAddr>,
    ) -> Result<&BTreeMap<IpAddr, u32>> {
        self.watch.discard();
        self.addresses = addresses.collect();
        self.mtus = kernel.route_mtus(self.uplink, self.addresses.iter().copied()).await?;
        Ok(&self.mtus)
    }

    /// Adds addresses, whose routes have no MTU of their own as long as [`Self::is_empty`].
    pub(super) fn add(&mut self, addresses: impl Iterator<Item = IpAddr>) {
        self.addresses.extend(addresses);
    }

    /// Returns whether no route has an MTU of its own.
    pub(super) fn is_empty(&self) -> bool {
        self.mtus.is_empty()
    }

    /// Waits until the MTU of a route may have changed. [`Self::read`] is to be called then.
    pub(super) async fn changed(&mut self) {
        let Self { watch, addresses, mtus, .. } = self;
        while !matters(&watch.next().await, addresses, !mtus.is_empty()) {}
    }
}

/// Returns whether a change of a route can change the MTU to one of the addresses. `some_known`: one of them has an MTU.
fn matters(
    change: &NetlinkPayload<RouteNetlinkMessage>,
    addresses: &BTreeSet<IpAddr>,
    some_known: bool,
) -> bool {
    match change {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route),
        ) => {
            let family = route.header.address_family;
            let leads_to = |address: &IpAddr| match destination_of(route) {
                Some(to) => to.contains(address),
                None => family_of(*address) == family,
            };
            (some_known || mtu_of(route).is_some()) && addresses.iter().any(leads_to)
        }
        NetlinkPayload::InnerMessage(_) => false,
        // Some were lost.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use RouteNetlinkMessage::{DelRoute, NewRoute};
    use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteMetric, RouteType};

    use super::*;
    use crate::netlink::route;

    fn route(to: &str, mtu: Option<u32>) -> RouteMessage {
        let mut route = route::message(to.parse().unwrap(), RouteType::Unicast);
        route.attributes.extend(mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
        route
    }

    #[test]
    fn a_change_matters_if_the_route_leads_to_a_peer_and_an_mtu_comes_or_goes() {
        let peers = BTreeSet::from(["192.168.65.7".parse().unwrap()]);
        let everywhere = |route: &str| {
            let mut everywhere = self::route(route, Some(1400));
            everywhere.attributes.remove(0);
            everywhere
        };
        for (change, some_known, expected) in [
            (NewRoute(route("192.168.65.0/24", Some(1400))), false, true),
            (DelRoute(route("192.168.65.7/32", Some(1400))), true, true),
            (NewRoute(everywhere("0.0.0.0/0")), false, true),
            (NewRoute(everywhere("::/0")), false, false),
            (NewRoute(route("192.168.65.0/24", None)), false, false),
            (NewRoute(route("192.168.65.0/24", None)), true, true),
            (NewRoute(route("10.1.15.0/24", Some(1400))), true, false),
        ] {
            let change = NetlinkPayload::InnerMessage(change);
            assert_eq!(matters(&change, &peers, some_known), expected, "{some_known} {change:?}");
        }
        assert!(matters(&NetlinkPayload::Overrun(Vec::new()), &peers, false));
    }
}
