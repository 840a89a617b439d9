//! Direct routes as flanneld writes them: `10.1.15.0/24 via 192.168.64.3 dev eth0`, proto boot, main table.
//!
//! Nothing in the kernel says which program owns such a route. The agent takes for its own what leads through the
//! uplink by a gateway, with `proto boot` and no metric, to a node's subnet. A route that an administrator wants to
//! keep needs another protocol (`proto static`) or a metric.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::route::{RouteFlags, RouteMessage};
use rtnetlink::{Error, Handle};

use super::route;
use crate::dataplane::entry::Via;

/// Returns the route to a peer's subnet by way of the peer's address.
#[must_use]
pub fn message(uplink: u32, subnet: IpNet, via: Via) -> RouteMessage {
    let mut message = route::message(uplink, subnet, via);
    message.header.flags = RouteFlags::empty();
    message
}

/// Lists such routes through this interface, if they lead to a subnet that `is_node_subnet` accepts.
pub(super) async fn dump(
    handle: &Handle,
    interface: u32,
    is_node_subnet: impl Fn(IpNet) -> bool,
) -> Result<BTreeMap<IpNet, IpAddr>, Error> {
    let routes = route::dump(handle, interface, RouteFlags::empty()).await?;
    let direct = routes.into_iter().filter(|(subnet, _)| is_node_subnet(*subnet));
    Ok(direct.map(|(subnet, via)| (subnet, via.gateway())).collect())
}
