//! Routes as flanneld writes them: `10.1.15.0/24 via 10.1.15.0 dev flannel.1 onlink`, proto boot, main table.

use std::collections::BTreeMap;
use std::net::IpAddr;

use futures::{TryStreamExt, future};
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Error, Handle};

use super::family_of;

/// What the kernel gives an IPv6 route that is written without a metric (IP6_RT_PRIO_USER).
const DEFAULT_METRIC_V6: u32 = 1024;

/// The route to a peer's subnet through the device with this index.
pub(super) fn message(device: u32, subnet: IpNet, gateway: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family_of(gateway),
        destination_prefix_length: subnet.prefix_len(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Boot,
        scope: RouteScope::Universe,
        kind: RouteType::Unicast,
        flags: RouteFlags::Onlink,
        ..RouteHeader::default()
    };
    message.attributes = vec![
        RouteAttribute::Destination(subnet.network().into()),
        RouteAttribute::Gateway(gateway.into()),
        RouteAttribute::Oif(device),
    ];
    message
}

/// Every such route through the device that is `onlink` if these flags are, and is not if they are not.
pub(super) async fn dump(
    handle: &Handle,
    device: u32,
    flags: RouteFlags,
) -> Result<BTreeMap<IpNet, IpAddr>, Error> {
    let mut routes = dump_family(handle, device, AddressFamily::Inet, flags).await?;
    routes.extend(dump_family(handle, device, AddressFamily::Inet6, flags).await?);
    Ok(routes)
}

async fn dump_family(
    handle: &Handle,
    device: u32,
    family: AddressFamily,
    flags: RouteFlags,
) -> Result<BTreeMap<IpNet, IpAddr>, Error> {
    let mut request = RouteMessage::default();
    request.header.address_family = family;
    request.header.table = RouteHeader::RT_TABLE_MAIN;
    request.attributes.push(RouteAttribute::Oif(device));
    let routes = handle.route().get(request).execute();
    routes.try_filter_map(|route| future::ok(read(&route, device, flags))).try_collect().await
}

/// The subnet and gateway of a route, if it is one of ours.
fn read(route: &RouteMessage, device: u32, flags: RouteFlags) -> Option<(IpNet, IpAddr)> {
    let (mut subnet, mut gateway, mut metric, mut through) = (None, None, 0, 0);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(to) => subnet = ip(to),
            RouteAttribute::Gateway(via) => gateway = ip(via),
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::Oif(index) => through = *index,
            _ => {}
        }
    }
    let subnet = IpNet::new(subnet?, route.header.destination_prefix_length).ok()?;
    let default_metric = if subnet.addr().is_ipv4() { 0 } else { DEFAULT_METRIC_V6 };
    let ours = is_ours(&route.header, flags) && through == device && metric == default_metric;
    ours.then_some((subnet, gateway?))
}

fn is_ours(header: &RouteHeader, flags: RouteFlags) -> bool {
    header.table == RouteHeader::RT_TABLE_MAIN
        && header.protocol == RouteProtocol::Boot
        && header.kind == RouteType::Unicast
        && header.flags.contains(RouteFlags::Onlink) == flags.contains(RouteFlags::Onlink)
}

pub(super) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How a test changes a route that is ours.
    type Change = fn(&mut RouteMessage);

    #[test]
    fn only_flannel_style_routes_are_read() {
        let cases: [(&str, Change, bool); 8] = [
            ("as written", |_| {}, true),
            ("another table", |route| route.header.table = 100, false),
            ("added by the kernel", |route| route.header.protocol = RouteProtocol::Kernel, false),
            ("blackhole", |route| route.header.kind = RouteType::BlackHole, false),
            ("not onlink", |route| route.header.flags = RouteFlags::empty(), false),
            ("with a metric", |route| route.attributes.push(RouteAttribute::Priority(50)), false),
            ("no gateway", |route| drop(route.attributes.remove(1)), false),
            ("another device", |route| route.attributes[2] = RouteAttribute::Oif(8), false),
        ];
        let (subnet, gateway) = ("10.1.15.0/24".parse().unwrap(), "10.1.15.0".parse().unwrap());
        for (name, change, ours) in cases {
            let mut route = message(7, subnet, gateway);
            change(&mut route);
            assert_eq!(read(&route, 7, RouteFlags::Onlink), ours.then_some((subnet, gateway)), "{name}");
        }
    }

    #[test]
    fn ipv6_routes_come_back_with_the_default_metric() {
        let (subnet, gateway) = ("fd44:0:0:4b::/64".parse().unwrap(), "fd44:0:0:4b::".parse().unwrap());
        let mut route = message(7, subnet, gateway);
        assert_eq!(read(&route, 7, RouteFlags::Onlink), None);
        route.attributes.push(RouteAttribute::Priority(DEFAULT_METRIC_V6));
        assert_eq!(read(&route, 7, RouteFlags::Onlink), Some((subnet, gateway)));
    }
}
