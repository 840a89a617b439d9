//! Removes the routes that are not deleted together with a device.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;

use super::others::Others;
use super::{Results, links};
use crate::dataplane::kernel::{Kernel, unreachable};
use crate::netlink::route;

/// Removes the agent's `unreachable` route of each network that is not another one's.
pub(super) async fn remove_unreachable(kernel: &Kernel, others: &Others) -> Result<Results> {
    let mut results = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let routes: Vec<_> =
            route::list(kernel.handle(), family, None).try_collect().await.context("listing routes")?;
        for route in routes.into_iter().filter(unreachable::is_own) {
            let network =
                route::destination_of(&route).context("reading the destination of an unreachable route")?;
            if others.has(network) {
                continue;
            }
            let removed = kernel.handle().route().del(route).execute().await;
            results.push(
                removed
                    .map(|()| format!("removed route unreachable {network}"))
                    .with_context(|| format!("removing route unreachable {network}")),
            );
        }
    }
    Ok(results)
}

/// Removes the routes to other nodes' subnets through these nodes (host-gw, DirectRouting). Looks on all interfaces,
/// because the uplink may have changed. Node subnets have the prefix length of this node's, `own`.
pub(super) async fn remove_direct(kernel: &Kernel, networks: &[IpNet], own: &[IpNet]) -> Result<Results> {
    let is_node_subnet = |subnet: IpNet| {
        let network = networks.iter().find(|network| network.contains(&subnet));
        let own = network.and_then(|network| own.iter().find(|own| network.contains(*own)));
        own.is_some_and(|own| own.prefix_len() == subnet.prefix_len())
    };
    let mut results = Vec::new();
    for interface in links(kernel).await?.iter().map(|link| link.index) {
        let routes: Vec<_> = kernel.direct_routes(interface, is_node_subnet).await?.into_iter().collect();
        let problems = kernel.remove_direct(interface, &routes, &BTreeMap::new()).await;
        if problems.is_empty() && !routes.is_empty() {
            results.push(Ok(format!("removed direct routes to other nodes' subnets: {}", routes.len())));
        }
        results.extend(problems.into_iter().map(Err));
    }
    Ok(results)
}
