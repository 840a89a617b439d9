//! The last route of a network: `unreachable 10.5.0.0/16`, behind everybody else's routes by its metric. Packets to a
//! subnet that nobody leases are answered at once, where they would leave by the default route with flannel.

use ipnet::IpNet;
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};

use super::family_of;

/// The lowest priority that there is. It is also what tells the route as ours.
const METRIC: u32 = u32::MAX - 1;

/// The route.
#[must_use]
pub fn message(network: IpNet) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family_of(network.addr()),
        destination_prefix_length: network.prefix_len(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Boot,
        scope: RouteScope::Universe,
        kind: RouteType::Unreachable,
        ..RouteHeader::default()
    };
    message.attributes =
        vec![RouteAttribute::Destination(network.network().into()), RouteAttribute::Priority(METRIC)];
    message
}

/// Whether a route is one of these.
#[must_use]
pub fn is_ours(route: &RouteMessage) -> bool {
    route.header.kind == RouteType::Unreachable
        && route.header.protocol == RouteProtocol::Boot
        && route.attributes.contains(&RouteAttribute::Priority(METRIC))
}
