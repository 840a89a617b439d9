//! Direct routes as flanneld writes them: `10.1.15.0/24 via 192.168.64.3 dev eth0`, proto boot, main table.
//!
//! Nothing in the kernel says whose such a route is. Ours are those through the uplink, by way of a router (which
//! is on the link, or the kernel would not have taken the route), proto boot, without a metric, to a subnet of
//! flannel's network with the length that nodes' subnets have. Whoever wants another route there and keep it
//! gives it another protocol (`proto static`) or a metric.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::route::{RouteAttribute, RouteFlags, RouteMessage};
use rtnetlink::{Error, Handle};

use super::route;
use crate::dataplane::entry::Via;

/// The route to a peer's subnet by way of the peer's address.
#[must_use]
pub fn message(uplink: u32, subnet: IpNet, via: Via) -> RouteMessage {
    let mut message = route::message(uplink, subnet, via);
    message.header.flags = RouteFlags::empty();
    message
}

/// Every such route through this interface to a subnet that a node can hold.
pub(super) async fn dump(
    handle: &Handle,
    interface: u32,
    is_nodes: impl Fn(IpNet) -> bool,
) -> Result<BTreeMap<IpNet, IpAddr>, Error> {
    let routes = route::dump(handle, interface, RouteFlags::empty()).await?;
    let ours = routes.into_iter().filter(|(subnet, _)| is_nodes(*subnet));
    Ok(ours.map(|(subnet, via)| (subnet, via.gateway())).collect())
}

/// Where a route leads to; `None` for a default route.
#[must_use]
pub fn destination_of(route: &RouteMessage) -> Option<IpNet> {
    let to = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(to) => route::ip(to),
        _ => None,
    })?;
    IpNet::new(to, route.header.destination_prefix_length).ok()
}

/// Whether a route leads through the interface with this index.
#[must_use]
pub fn is_through(route: &RouteMessage, index: u32) -> bool {
    route.attributes.contains(&RouteAttribute::Oif(index))
}
