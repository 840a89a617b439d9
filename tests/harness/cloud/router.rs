//! The router of the underlay as the router of a cloud's network.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};

use super::Cloud;
use crate::cluster::Cluster;

/// Marks the routes that come from the cloud's table.
const PROTOCOL: &str = "97";

/// Gives the router of a cluster exactly the routes of the cloud.
pub fn program(cluster: &Cluster, cloud: &dyn Cloud) -> Result<()> {
    let routes = cloud.next_hops()?;
    let router = cluster.fabric().context("the topology has no router")?;
    let wanted: BTreeSet<_> = routes.iter().map(|(to, via)| (to.clone(), via.to_string())).collect();
    let mut existing = BTreeSet::new();
    for family in ["-4", "-6"] {
        let shown = router.exec_json(&format!("ip -j {family} route show proto {PROTOCOL}"))?;
        for route in shown.as_array().into_iter().flatten() {
            let text = |key: &str| route[key].as_str().unwrap_or_default().to_owned();
            existing.insert((text("dst"), text("gateway")));
        }
    }
    let removed =
        existing.difference(&wanted).map(|(to, via)| format!("route del {to} via {via} proto {PROTOCOL}"));
    let added = wanted
        .difference(&existing)
        .map(|(to, via)| format!("route replace {to} via {via} proto {PROTOCOL}"));
    let lines: Vec<_> = removed.chain(added).collect();
    if lines.is_empty() { Ok(()) } else { router.ip(&lines) }
}
