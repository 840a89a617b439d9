//! What the programs are to know of the node, and where they go.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use flannel_common::abi;
use flannel_common::address::Address;
use flannel_common::node::{NodeConfig, OverlayEnd};

use super::{AcceleratedDevice, Settings};
use crate::config::SubnetRange;
use crate::dataplane::bpf::place::Place;
use crate::dataplane::kernel::default_ttl;

/// The node as the programs are to know it.
pub(super) fn facts(settings: &Settings, overlays: &[AcceleratedDevice<'_>]) -> Result<NodeConfig> {
    let mut node = NodeConfig {
        layout: abi::LAYOUT,
        flow_cache: settings.flow_cache.into(),
        ttl: default_ttl()?.into(),
        direct_routing: (settings.direct_routing && settings.flow_cache).into(),
        ..NodeConfig::default()
    };
    for overlay in overlays {
        node.group_policy = overlay.spec.gbp.into();
        node.vni = overlay.spec.vni;
        node.port = overlay.spec.port.to_be_bytes();
        node.uplink_mac = overlay.uplink.mac.unwrap_or_default().0;
        let of_family = |range: &&SubnetRange| range.min.is_ipv4() == overlay.local_ip.is_ipv4();
        let range = settings.ranges.iter().find(of_family).context("an overlay without a network")?;
        match (overlay.local_ip, range.subnet_mask()) {
            (IpAddr::V4(ip), IpAddr::V4(mask)) => {
                node.v4 = end(settings, overlay, range, ip.octets(), mask.octets());
            }
            (IpAddr::V6(ip), IpAddr::V6(mask)) => {
                node.v6 = end(settings, overlay, range, ip.octets(), mask.octets());
            }
            _ => {}
        }
    }
    Ok(node)
}

fn end<A: Address>(
    settings: &Settings,
    overlay: &AcceleratedDevice<'_>,
    range: &SubnetRange,
    local_ip: A,
    subnet_mask: A,
) -> OverlayEnd<A> {
    OverlayEnd {
        overlay_ifindex: overlay.device.index,
        uplink_ifindex: overlay.uplink.index,
        uplink_mtu: overlay.uplink.mtu,
        source_check: settings.source_check.into(),
        local_ip,
        vtep_mac: overlay.device.mac.0,
        network_len: range.network.prefix_len(),
        subnet_len: range.subnet_len,
        subnet_mask,
    }
}

/// Where the programs go: the families' overlays have hooks of their own, their uplinks one each.
pub(super) fn places(overlays: &[AcceleratedDevice<'_>], direct: bool) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    for AcceleratedDevice { spec, uplink, local_ip, .. } in overlays {
        for place in Place::of(&spec.name, &uplink.name, local_ip.is_ipv6(), direct) {
            if places.iter().all(|other| !other.is_same_hook(&place)) {
                places.push(place);
            }
        }
    }
    places
}
