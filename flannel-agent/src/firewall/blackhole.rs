//! `--ip-blackhole-route`: what is sent to an address of ours that no pod has is dropped here instead of leaving by the
//! default route, where no bridge holds the subnet. `blackhole 10.5.52.0/24`, proto boot, as flanneld writes it.
//!
//! Where a bridge does hold it, the kernel's own route to the bridge does the same, and a blackhole that is older
//! than it would swallow what is for the pods: it goes.

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};

/// What to do about the route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Add,
    Remove,
}

/// Sees to it that the route is there, or not; returns what that changed, for people.
pub(super) async fn ensure(handle: &Handle, subnet: IpNet, wanted: bool) -> Result<Option<String>> {
    let there = exists(handle, &message(subnet)).await?;
    let step = step(wanted, there, wanted && exists(handle, &connected(subnet)).await?);
    let request = message(subnet);
    match step {
        None => return Ok(None),
        Some(Step::Add) => handle.route().add(request).execute().await,
        Some(Step::Remove) => handle.route().del(request).execute().await,
    }
    .with_context(|| format!("the route blackhole {subnet}"))?;
    let verb = if step == Some(Step::Add) { "added" } else { "removed" };
    Ok(Some(format!("{verb} route blackhole {subnet}")))
}

const fn step(wanted: bool, there: bool, bridged: bool) -> Option<Step> {
    match (wanted && !bridged, there) {
        (true, false) => Some(Step::Add),
        (false, true) => Some(Step::Remove),
        _ => None,
    }
}

fn message(subnet: IpNet) -> RouteMessage {
    route(subnet, RouteType::BlackHole, RouteProtocol::Boot, RouteScope::Universe)
}

/// What the kernel adds with an address of the subnet.
fn connected(subnet: IpNet) -> RouteMessage {
    route(subnet, RouteType::Unicast, RouteProtocol::Kernel, RouteScope::Link)
}

fn route(subnet: IpNet, kind: RouteType, protocol: RouteProtocol, scope: RouteScope) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: match subnet {
            IpNet::V4(_) => AddressFamily::Inet,
            IpNet::V6(_) => AddressFamily::Inet6,
        },
        destination_prefix_length: subnet.prefix_len(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol,
        scope,
        kind,
        ..RouteHeader::default()
    };
    message.attributes = vec![RouteAttribute::Destination(subnet.network().into())];
    message
}

/// Whether there is a route with this destination, type and protocol in the main table.
async fn exists(handle: &Handle, wanted: &RouteMessage) -> Result<bool> {
    let mut request = RouteMessage::default();
    request.header.address_family = wanted.header.address_family;
    request.header.table = wanted.header.table;
    request.header.protocol = wanted.header.protocol;
    request.header.kind = wanted.header.kind;
    let routes: Vec<_> =
        handle.route().get(request).execute().try_collect().await.context("listing routes")?;
    Ok(routes.iter().any(|route| is_same(route, wanted)))
}

/// Not all that is listed need be what was asked for: kernels before Linux 4.20 and handles without strict checks
/// list everything.
fn is_same(route: &RouteMessage, wanted: &RouteMessage) -> bool {
    let header = |route: &RouteMessage| {
        let RouteHeader { destination_prefix_length, table, protocol, kind, .. } = route.header;
        (destination_prefix_length, table, protocol, kind)
    };
    header(route) == header(wanted) && destination(route) == destination(wanted)
}

fn destination(route: &RouteMessage) -> Option<&RouteAddress> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => Some(address),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_route_is_where_it_is_wanted_and_no_bridge_has_one() {
        for (wanted, there, bridged, expected) in [
            (true, false, false, Some(Step::Add)),
            (true, true, false, None),
            (true, false, true, None),
            (true, true, true, Some(Step::Remove)),
            (false, true, false, Some(Step::Remove)),
            (false, false, false, None),
        ] {
            assert_eq!(step(wanted, there, bridged), expected, "{wanted} {there} {bridged}");
        }
    }

    #[test]
    fn only_the_very_route_is_ours() {
        let subnet = "10.5.52.0/24".parse().unwrap();
        let ours = message(subnet);
        assert!(is_same(&ours, &ours));
        for (name, other) in [
            ("another subnet", message("10.5.53.0/24".parse().unwrap())),
            ("another length", message("10.5.52.0/25".parse().unwrap())),
            ("the bridge's", connected(subnet)),
        ] {
            assert!(!is_same(&other, &ours), "{name}");
        }
        let mut other = ours.clone();
        other.header.table = 100;
        assert!(!is_same(&other, &ours), "another table");
    }
}
