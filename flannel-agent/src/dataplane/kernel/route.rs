//! Routes as flanneld writes them: `10.1.15.0/24 via 10.1.15.0 dev flannel.1 onlink`, proto boot, main table.

use std::net::IpAddr;

use futures::{TryStreamExt, future};
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::{Error, Handle};

use super::nexthop;
use crate::dataplane::entry::Via;
use crate::dataplane::table::Table;
use crate::netlink;
use crate::netlink::route::{destination_of, ip_of};

/// The metric of an IPv6 route that is written without one (`IP6_RT_PRIO_USER`).
const DEFAULT_METRIC_V6: u32 = 1024;

/// Returns the route to a peer's subnet through the device with this index.
pub(super) fn message(device: u32, subnet: IpNet, via: Via) -> RouteMessage {
    let mut message = netlink::route::message(subnet, RouteType::Unicast);
    match via {
        Via::Gateway(gateway) => {
            message.header.flags = RouteFlags::Onlink;
            message.attributes.push(RouteAttribute::Gateway(gateway.into()));
            message.attributes.push(RouteAttribute::Oif(device));
        }
        // The nexthop object has gateway and device.
        Via::Nexthop(gateway) => message.attributes.push(RouteAttribute::NhId(nexthop::id(gateway))),
    }
    message
}

/// Returns the route to a peer's subnet by way of the peer's address on the uplink's link, without a tunnel.
#[must_use]
pub fn direct_message(uplink: u32, subnet: IpNet, via: Via) -> RouteMessage {
    let mut message = message(uplink, subnet, via);
    message.header.flags = RouteFlags::empty();
    message
}

/// Lists such routes through the device: those with `onlink` if `flags` has it, else those without.
pub(super) async fn dump(
    handle: &Handle,
    device: u32,
    flags: RouteFlags,
) -> Result<Table<IpNet, Via>, Error> {
    let mut routes = dump_family(handle, device, AddressFamily::Inet, flags).await?;
    routes.extend(dump_family(handle, device, AddressFamily::Inet6, flags).await?);
    Ok(routes.into_iter().collect())
}

async fn dump_family(
    handle: &Handle,
    device: u32,
    family: AddressFamily,
    flags: RouteFlags,
) -> Result<Vec<(IpNet, Via)>, Error> {
    let routes = netlink::route::list(handle, family, Some(device));
    routes.try_filter_map(|route| future::ok(read(&route, device, flags))).try_collect().await
}

/// Returns subnet and next hop if the route leads through this device and flannel writes such routes.
fn read(route: &RouteMessage, device: u32, flags: RouteFlags) -> Option<(IpNet, Via)> {
    let (subnet, hop) = reported(route, flags)?;
    hop.filter(|(through, _)| *through == device).map(|(_, via)| (subnet, via))
}

/// Returns the subnet of a route that takes the place of one of flannel's: same table, same metric. Device
/// and next hop are there if flannel writes such routes, with `onlink` if `flags` has it.
pub(super) fn reported(route: &RouteMessage, flags: RouteFlags) -> Option<(IpNet, Option<(u32, Via)>)> {
    let (mut gateway, mut object, mut metric, mut through) = (None, None, 0, 0);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Gateway(via) => gateway = ip_of(via),
            RouteAttribute::Oif(index) => through = *index,
            RouteAttribute::NhId(id) => object = Some(*id),
            RouteAttribute::Priority(value) => metric = *value,
            _ => {}
        }
    }
    let subnet = destination_of(route)?;
    let default_metric = if subnet.addr().is_ipv4() { 0 } else { DEFAULT_METRIC_V6 };
    if route.header.table != RouteHeader::RT_TABLE_MAIN || metric != default_metric {
        return None;
    }
    let via = match (gateway, object) {
        (Some(gateway), None) => Some(Via::Gateway(gateway)),
        (Some(IpAddr::V4(gateway)), Some(id)) if id == nexthop::id(gateway) => Some(Via::Nexthop(gateway)),
        _ => None,
    };
    Some((subnet, via.filter(|_| is_flannel_style(&route.header, flags)).map(|via| (through, via))))
}

/// Returns the subnet of a route that takes the place of a direct one, by table and metric. Device and next hop are there
/// if it is a direct route.
#[must_use]
pub fn reported_direct(route: &RouteMessage) -> Option<(IpNet, Option<(u32, Via)>)> {
    reported(route, RouteFlags::empty())
}

fn is_flannel_style(header: &RouteHeader, flags: RouteFlags) -> bool {
    header.protocol == RouteProtocol::Boot
        && header.kind == RouteType::Unicast
        && header.flags.contains(RouteFlags::Onlink) == flags.contains(RouteFlags::Onlink)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Changes a route of flannel's.
    type Change = fn(&mut RouteMessage);

    #[test]
    fn only_flannel_style_routes_are_read() {
        let cases: [(&str, Change, bool); 9] = [
            ("as written", |_| {}, true),
            ("another table", |route| route.header.table = 100, false),
            ("added by the kernel", |route| route.header.protocol = RouteProtocol::Kernel, false),
            ("blackhole", |route| route.header.kind = RouteType::BlackHole, false),
            ("not onlink", |route| route.header.flags = RouteFlags::empty(), false),
            ("with a metric", |route| route.attributes.push(RouteAttribute::Priority(50)), false),
            ("no gateway", |route| drop(route.attributes.remove(1)), false),
            ("by another nexthop object", |route| route.attributes.push(RouteAttribute::NhId(1)), false),
            ("another device", |route| route.attributes[2] = RouteAttribute::Oif(8), false),
        ];
        let (subnet, via) = ("10.1.15.0/24".parse().unwrap(), Via::Gateway("10.1.15.0".parse().unwrap()));
        for (name, change, is_read) in cases {
            let mut route = message(7, subnet, via);
            change(&mut route);
            assert_eq!(read(&route, 7, RouteFlags::Onlink), is_read.then_some((subnet, via)), "{name}");
        }
    }

    #[test]
    fn a_route_by_a_nexthop_object_is_read_with_gateway_and_device() {
        let gateway = "10.1.15.0".parse().unwrap();
        let (subnet, via) = ("10.1.15.0/24".parse().unwrap(), Via::Nexthop(gateway));
        let mut route = message(7, subnet, via);
        assert_eq!(read(&route, 7, RouteFlags::Onlink), None);
        route.header.flags = RouteFlags::Onlink;
        route.attributes.extend([RouteAttribute::Gateway(gateway.into()), RouteAttribute::Oif(7)]);
        assert_eq!(read(&route, 7, RouteFlags::Onlink), Some((subnet, via)));
    }

    #[test]
    fn ipv6_routes_are_read_with_the_default_metric() {
        let (subnet, via) =
            ("fd44:0:0:4b::/64".parse().unwrap(), Via::Gateway("fd44:0:0:4b::".parse().unwrap()));
        let mut route = message(7, subnet, via);
        assert_eq!(read(&route, 7, RouteFlags::Onlink), None);
        route.attributes.push(RouteAttribute::Priority(DEFAULT_METRIC_V6));
        assert_eq!(read(&route, 7, RouteFlags::Onlink), Some((subnet, via)));
    }
}
