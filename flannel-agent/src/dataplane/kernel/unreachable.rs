//! The route `unreachable 10.5.0.0/16` behind all other routes, for each prefix that subnets are leased from. The kernel
//! answers packets to a subnet that no node leases; with flanneld they leave by the default route.

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::Handle;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteType};

use crate::config::SubnetRange;
use crate::netlink::{family_of, route};

/// Nearly the lowest priority there is. It also tells the agent's route from others.
const METRIC: u32 = u32::MAX - 1;

/// Adds the routes of this range that are missing, and removes those that forbid more than it, or part of it.
pub(super) async fn ensure(handle: &Handle, range: &SubnetRange) -> Result<()> {
    let present: Vec<_> =
        route::list(handle, family_of(range.min), None).try_collect().await.context("listing routes")?;
    let (own, others): (Vec<_>, Vec<_>) = present.into_iter().partition(is_own);
    let leading = others.iter().filter(|route| route.header.kind == RouteType::Unicast);
    let leasable = range.prefixes();
    let wanted = not_routed(&leasable, &leading.filter_map(route::destination_of).collect::<Vec<_>>());
    for prefix in &wanted {
        let added = handle.route().add(message(*prefix)).replace().execute().await;
        added.with_context(|| format!("setting route unreachable {prefix}"))?;
    }
    for route in own {
        let Some(prefix) = route::destination_of(&route) else { continue };
        if !wanted.contains(&prefix) && overlaps(prefix, &leasable) {
            let removed = handle.route().del(route).execute().await;
            removed.with_context(|| format!("removing route unreachable {prefix}"))?;
        }
    }
    Ok(())
}

/// Returns the prefixes to which no other route leads as a whole: the node is on such a network, or knows the way to it.
fn not_routed(prefixes: &[IpNet], routes: &[IpNet]) -> Vec<IpNet> {
    let is_routed = |prefix: &IpNet| routes.iter().any(|route| route.contains(prefix));
    prefixes.iter().copied().filter(|prefix| !is_routed(prefix)).collect()
}

/// Whether some addresses are in both. Routes to others are of another network of the node.
fn overlaps(prefix: IpNet, prefixes: &[IpNet]) -> bool {
    prefixes.iter().any(|other| other.contains(&prefix) || prefix.contains(other))
}

/// Returns the route.
fn message(prefix: IpNet) -> RouteMessage {
    let mut message = route::message(prefix, RouteType::Unreachable);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<const N: usize>(prefixes: [&str; N]) -> [IpNet; N] {
        prefixes.map(|prefix| prefix.parse().unwrap())
    }

    #[test]
    fn a_wider_route_of_others_has_priority() {
        let prefixes = parse(["10.10.0.0/15", "10.12.0.0/16", "fd44::/48"]);
        for (routes, expected) in [
            (&[][..], &prefixes[..]),
            (&parse(["10.11.0.0/16"]), &prefixes),
            (&parse(["10.10.0.0/15"]), &prefixes[1..]),
            (&parse(["10.0.0.0/8"]), &prefixes[2..]),
        ] {
            assert_eq!(not_routed(&prefixes, routes), expected, "{routes:?}");
        }
    }

    #[test]
    fn routes_of_an_earlier_range_overlap_and_those_of_other_networks_do_not() {
        let prefixes = parse(["10.10.0.0/15", "10.12.0.0/16"]);
        for (route, expected) in [
            ("10.0.0.0/8", true),
            ("10.11.0.0/16", true),
            ("10.12.0.0/15", true),
            ("10.200.0.0/16", false),
            ("fd44::/48", false),
        ] {
            assert_eq!(overlaps(route.parse().unwrap(), &prefixes), expected, "{route}");
        }
    }
}
