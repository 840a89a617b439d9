//! The route `unreachable 10.5.0.0/16` behind all other routes of a network. The kernel answers packets to a
//! subnet that no node leases; with flanneld they leave by the default route.

use ipnet::IpNet;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteType};

use crate::netlink::route;

/// Nearly the lowest priority there is. It also tells the agent's route from others.
const METRIC: u32 = u32::MAX - 1;

/// Returns the route.
#[must_use]
pub fn message(network: IpNet) -> RouteMessage {
    let mut message = route::message(network, RouteType::Unreachable);
    message.attributes.push(RouteAttribute::Priority(METRIC));
    message
}

/// Whether a route was written by an agent.
#[must_use]
pub fn is_own(route: &RouteMessage) -> bool {
    route.header.kind == RouteType::Unreachable
        && route.header.protocol == RouteProtocol::Boot
        && route.attributes.contains(&RouteAttribute::Priority(METRIC))
}
