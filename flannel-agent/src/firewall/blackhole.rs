//! `--ip-blackhole-route`: the route `blackhole 10.5.52.0/24`, proto boot, as flanneld writes it. It drops packets to
//! addresses of the node's subnet that no pod has; without it they would leave by the default route.
//!
//! Where a bridge holds the subnet, the kernel's route to the bridge does the same. An older blackhole route would then
//! drop the packets to the pods, so it is removed.

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::Handle;
use rtnetlink::packet_route::route::{RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType};

use crate::netlink::route;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RouteChange {
    Add,
    Remove,
}

/// Adds the route if it is wanted, else removes it. Returns a line of text about the change, if there was one.
pub(super) async fn ensure(handle: &Handle, subnet: IpNet, wanted: bool) -> Result<Option<String>> {
    let request = blackhole(subnet);
    let exists_now = exists(handle, &request).await?;
    let bridged = wanted && exists(handle, &connected(subnet)).await?;
    let change = change(wanted, exists_now, bridged);
    match change {
        None => return Ok(None),
        Some(RouteChange::Add) => handle.route().add(request).execute().await,
        Some(RouteChange::Remove) => handle.route().del(request).execute().await,
    }
    .with_context(|| format!("changing the route blackhole {subnet}"))?;
    let verb = if change == Some(RouteChange::Add) { "added" } else { "removed" };
    Ok(Some(format!("{verb} route blackhole {subnet}")))
}

const fn change(wanted: bool, exists: bool, bridged: bool) -> Option<RouteChange> {
    match (wanted && !bridged, exists) {
        (true, false) => Some(RouteChange::Add),
        (false, true) => Some(RouteChange::Remove),
        _ => None,
    }
}

fn blackhole(subnet: IpNet) -> RouteMessage {
    route::message(subnet, RouteType::BlackHole)
}

/// Returns the route that the kernel adds together with an address of the subnet.
fn connected(subnet: IpNet) -> RouteMessage {
    let mut message = route::message(subnet, RouteType::Unicast);
    message.header.protocol = RouteProtocol::Kernel;
    message.header.scope = RouteScope::Link;
    message
}

/// Returns true if the main table has a route with this destination, type and protocol.
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

/// Compares destination, table, protocol and type. Needed because kernels before Linux 4.20, and sockets without strict
/// checks, list all routes.
fn is_same(route: &RouteMessage, wanted: &RouteMessage) -> bool {
    let header = |route: &RouteMessage| {
        let RouteHeader { destination_prefix_length, table, protocol, kind, .. } = route.header;
        (destination_prefix_length, table, protocol, kind)
    };
    header(route) == header(wanted) && route::destination_of(route) == route::destination_of(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_route_exists_where_it_is_wanted_and_no_bridge_holds_the_subnet() {
        for (wanted, exists, bridged, expected) in [
            (true, false, false, Some(RouteChange::Add)),
            (true, true, false, None),
            (true, false, true, None),
            (true, true, true, Some(RouteChange::Remove)),
            (false, true, false, Some(RouteChange::Remove)),
            (false, false, false, None),
        ] {
            assert_eq!(
                change(wanted, exists, bridged),
                expected,
                "wanted {wanted}, exists {exists}, bridged {bridged}"
            );
        }
    }

    #[test]
    fn similar_routes_are_not_taken_for_the_blackhole_route() {
        let subnet = "10.5.52.0/24".parse().unwrap();
        let expected = blackhole(subnet);
        assert!(is_same(&expected, &expected));
        for (name, other) in [
            ("another subnet", blackhole("10.5.53.0/24".parse().unwrap())),
            ("another length", blackhole("10.5.52.0/25".parse().unwrap())),
            ("the bridge's route", connected(subnet)),
        ] {
            assert!(!is_same(&other, &expected), "{name}");
        }
        let mut other = expected.clone();
        other.header.table = 100;
        assert!(!is_same(&other, &expected), "another table");
    }
}
