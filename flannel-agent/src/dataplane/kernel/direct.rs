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
use crate::config::SubnetRange;
use crate::dataplane::desired::Via;

/// The route to a peer's subnet by way of the peer's address.
#[must_use]
pub fn message(uplink: u32, subnet: IpNet, via: Via) -> RouteMessage {
    let mut message = route::message(uplink, subnet, via);
    message.header.flags = RouteFlags::empty();
    message
}

/// Every such route through the uplink to a subnet of these networks.
pub(super) async fn dump(
    handle: &Handle,
    uplink: u32,
    ranges: &[SubnetRange],
) -> Result<BTreeMap<IpNet, IpAddr>, Error> {
    let routes = route::dump(handle, uplink, RouteFlags::empty()).await?;
    let ours = routes.into_iter().filter(|(subnet, _)| ranges.iter().any(|range| is_nodes(*subnet, range)));
    Ok(ours.map(|(subnet, via)| (subnet, via.gateway())).collect())
}

/// Whether a node can hold the subnet. Reservations may lie outside `SubnetMin` and `SubnetMax`.
fn is_nodes(subnet: IpNet, range: &SubnetRange) -> bool {
    subnet.prefix_len() == range.subnet_len && range.network.contains(&subnet)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NetworkConfig;

    #[test]
    fn subnets_that_nodes_can_hold_are_recognised() {
        let config = r#"{"Network": "10.5.0.0/16", "SubnetMax": "10.5.63.0", "EnableIPv6": true,
            "IPv6Network": "fd44::/48"}"#;
        let config = NetworkConfig::parse(config).unwrap();
        for (subnet, expected) in [
            ("10.5.1.0/24", true),
            ("10.5.77.0/24", true),
            ("10.5.1.0/25", false),
            ("10.5.0.0/16", false),
            ("10.6.1.0/24", false),
            ("fd44:0:0:4b::/64", true),
            ("fd44:0:0:4b::/80", false),
            ("fd45:0:0:4b::/64", false),
        ] {
            let ranges = [config.ipv4.unwrap(), config.ipv6.unwrap()];
            let ours = ranges.iter().any(|range| is_nodes(subnet.parse().unwrap(), range));
            assert_eq!(ours, expected, "{subnet}");
        }
    }
}
