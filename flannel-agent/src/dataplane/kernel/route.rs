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
use crate::netlink::route::ip_of;

/// What the kernel gives an IPv6 route that is written without a metric (IP6_RT_PRIO_USER).
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

/// Lists such routes through the device: those that are `onlink` if these flags are, else those that are not.
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

/// The subnet and gateway of a route, if it is one of ours through this device, `onlink` or not like these flags.
fn read(route: &RouteMessage, device: u32, flags: RouteFlags) -> Option<(IpNet, Via)> {
    let (subnet, way) = announced(route, flags)?;
    way.filter(|(through, _)| *through == device).map(|(_, via)| (subnet, via))
}

/// The subnet of a route that stands where one of ours would; device and gateway if it is like ours with these flags.
pub(super) fn announced(route: &RouteMessage, flags: RouteFlags) -> Option<(IpNet, Option<(u32, Via)>)> {
    let (mut subnet, mut gateway, mut object, mut metric, mut through) = (None, None, None, 0, 0);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(to) => subnet = ip_of(to),
            RouteAttribute::Gateway(via) => gateway = ip_of(via),
            RouteAttribute::Oif(index) => through = *index,
            RouteAttribute::NhId(id) => object = Some(*id),
            RouteAttribute::Priority(value) => metric = *value,
            _ => {}
        }
    }
    let subnet = IpNet::new(subnet?, route.header.destination_prefix_length).ok()?;
    let default_metric = if subnet.addr().is_ipv4() { 0 } else { DEFAULT_METRIC_V6 };
    if route.header.table != RouteHeader::RT_TABLE_MAIN || metric != default_metric {
        return None;
    }
    let via = match (gateway, object) {
        (Some(gateway), None) => Some(Via::Gateway(gateway)),
        (Some(IpAddr::V4(gateway)), Some(id)) if id == nexthop::id(gateway) => Some(Via::Nexthop(gateway)),
        _ => None,
    };
    Some((subnet, via.filter(|_| is_like_ours(&route.header, flags)).map(|via| (through, via))))
}

fn is_like_ours(header: &RouteHeader, flags: RouteFlags) -> bool {
    header.protocol == RouteProtocol::Boot
        && header.kind == RouteType::Unicast
        && header.flags.contains(RouteFlags::Onlink) == flags.contains(RouteFlags::Onlink)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How a test changes a route that is ours.
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
            ("by another's object", |route| route.attributes.push(RouteAttribute::NhId(1)), false),
            ("another device", |route| route.attributes[2] = RouteAttribute::Oif(8), false),
        ];
        let (subnet, via) = ("10.1.15.0/24".parse().unwrap(), Via::Gateway("10.1.15.0".parse().unwrap()));
        for (name, change, ours) in cases {
            let mut route = message(7, subnet, via);
            change(&mut route);
            assert_eq!(read(&route, 7, RouteFlags::Onlink), ours.then_some((subnet, via)), "{name}");
        }
    }

    #[test]
    fn a_route_by_its_gateways_object_comes_back_with_gateway_and_device() {
        let gateway = "10.1.15.0".parse().unwrap();
        let (subnet, via) = ("10.1.15.0/24".parse().unwrap(), Via::Nexthop(gateway));
        let mut route = message(7, subnet, via);
        assert_eq!(read(&route, 7, RouteFlags::Onlink), None);
        route.header.flags = RouteFlags::Onlink;
        route.attributes.extend([RouteAttribute::Gateway(gateway.into()), RouteAttribute::Oif(7)]);
        assert_eq!(read(&route, 7, RouteFlags::Onlink), Some((subnet, via)));
    }

    #[test]
    fn ipv6_routes_come_back_with_the_default_metric() {
        let (subnet, via) =
            ("fd44:0:0:4b::/64".parse().unwrap(), Via::Gateway("fd44:0:0:4b::".parse().unwrap()));
        let mut route = message(7, subnet, via);
        assert_eq!(read(&route, 7, RouteFlags::Onlink), None);
        route.attributes.push(RouteAttribute::Priority(DEFAULT_METRIC_V6));
        assert_eq!(read(&route, 7, RouteFlags::Onlink), Some((subnet, via)));
    }
}
