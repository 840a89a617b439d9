//! Changes of the kernel's routes that can change the way to a peer.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::dataplane::kernel::{Kernel, removed_nexthop, reported_direct};
use crate::netlink::message::Message;
use crate::netlink::notifications::Notifications;
use crate::netlink::route::{destination_of, is_through};

/// An address comes and goes with its route. A link that goes down, and a nexthop object that is removed, remove IPv4
/// routes without a message for each.
const GROUPS: [MulticastGroup; 4] =
    [MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route, MulticastGroup::Link, MulticastGroup::Nexthop];

/// A subscription to changes of the kernel's routes by others.
pub(super) struct RouteWatch(Notifications<Message>);

/// Whether these addresses are on the link.
type Answers = BTreeMap<IpAddr, bool>;
/// Subnets and their gateways.
type Routes = BTreeMap<IpNet, IpAddr>;

impl RouteWatch {
    pub(super) fn open(kernel: &Kernel) -> Result<Self> {
        kernel.changes_by_others(&GROUPS).map(Self).context("subscribing to changes of routes")
    }

    /// Waits for a change that matters. All changes known by then count as one.
    pub(super) async fn changed(&mut self, uplink: u32, answers: &Answers, routes: &Routes) {
        while !matters(&self.0.next().await, uplink, answers, routes) {}
        self.0.discard();
    }
}

/// Returns whether a change can matter. What is not understood can, such as an overrun of the socket.
fn matters(change: &NetlinkPayload<Message>, uplink: u32, answers: &Answers, routes: &Routes) -> bool {
    let change = match change {
        NetlinkPayload::InnerMessage(Message::Route(change)) => change,
        NetlinkPayload::InnerMessage(object) => {
            let is_gateway = |gateway: Ipv4Addr| routes.values().any(|via| *via == IpAddr::V4(gateway));
            return removed_nexthop(object).is_some_and(is_gateway);
        }
        _ => return true,
    };
    match change {
        RouteNetlinkMessage::NewRoute(route) => {
            leads_to(route, answers) || replaces_direct(route, uplink, routes)
        }
        RouteNetlinkMessage::DelRoute(route) => {
            let is_direct = |to| routes.contains_key(&to) && is_through(route, uplink);
            leads_to(route, answers) || destination_of(route).is_some_and(is_direct)
        }
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
            link.header.index == uplink
        }
        _ => true,
    }
}

/// Returns whether the route has taken the place of one of the direct routes.
fn replaces_direct(route: &RouteMessage, uplink: u32, routes: &Routes) -> bool {
    let Some((to, hop)) = reported_direct(route) else { return false };
    let now = hop.map(|(through, via)| (through, via.gateway()));
    routes.get(&to).is_some_and(|gateway| now != Some((uplink, *gateway)))
}

/// Returns whether one of the addresses is in the route's destination.
fn leads_to(route: &RouteMessage, answers: &Answers) -> bool {
    let v4 = route.header.address_family == AddressFamily::Inet;
    match destination_of(route) {
        Some(to) => answers.keys().any(|address| to.contains(address)),
        None => answers.keys().any(|address| address.is_ipv4() == v4),
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::link::LinkMessage;

    use super::*;
    use crate::dataplane::entry::Via;
    use crate::dataplane::kernel::direct_message;

    const UPLINK: u32 = 2;

    fn route(to: &str) -> RouteMessage {
        let to: IpNet = to.parse().unwrap();
        let gateway = if to.addr().is_ipv4() { "192.168.64.9" } else { "fd00::9" };
        direct_message(UPLINK, to, Via::Gateway(gateway.parse().unwrap()))
    }

    fn link(index: u32) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link
    }

    #[test]
    fn a_change_matters_if_it_can_change_the_way_to_a_peer() {
        use RouteNetlinkMessage::{DelRoute, NewLink, NewRoute};
        let answers =
            ["192.168.64.9", "192.168.65.7", "fd00::9"].map(|ip| (ip.parse().unwrap(), true)).into();
        let routes = [("10.5.3.0/24".parse().unwrap(), "192.168.64.9".parse().unwrap())].into();
        let mut everywhere_v6 = route("::/0");
        everywhere_v6.attributes.remove(0);
        let another = Via::Gateway("192.168.64.7".parse().unwrap());
        let via_another_gateway = direct_message(UPLINK, "10.5.3.0/24".parse().unwrap(), another);
        for (change, expected) in [
            (NewRoute(route("192.168.65.0/24")), true),
            (DelRoute(route("192.168.65.0/24")), true),
            (NewRoute(route("192.168.65.7/32")), true),
            (NewRoute(route("0.0.0.0/0")), true),
            (NewRoute(everywhere_v6), true),
            (NewRoute(route("fd00::/64")), true),
            (NewRoute(route("fe80::/64")), false),
            (NewRoute(route("192.168.66.0/24")), false),
            (NewRoute(route("10.5.3.0/24")), false),
            (NewRoute(via_another_gateway), true),
            (DelRoute(route("10.5.3.0/24")), true),
            (
                DelRoute(direct_message(
                    7,
                    "10.5.3.0/24".parse().unwrap(),
                    Via::Gateway("10.5.3.0".parse().unwrap()),
                )),
                false,
            ),
            (DelRoute(route("10.5.4.0/24")), false),
            (NewLink(link(UPLINK)), true),
            (NewLink(link(7)), false),
        ] {
            let payload = NetlinkPayload::InnerMessage(Message::Route(change));
            assert_eq!(matters(&payload, UPLINK, &answers, &routes), expected, "{payload:?}");
        }
    }
}
