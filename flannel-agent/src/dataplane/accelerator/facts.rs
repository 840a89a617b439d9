//! What the programs need to know of the node, and where they are attached.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use flannel_common::abi;
use flannel_common::address::Address;
use flannel_common::node::{
    NodeConfig, OverlayEnd, SOURCE_CHECK_OFF, SOURCE_CHECK_PODS, SOURCE_CHECK_STRICT,
};

use super::{AcceleratedDevice, FlowCache, Settings};
use crate::config::{SourceCheck, SubnetRange};
use crate::dataplane::bpf::place::Place;
use crate::dataplane::kernel::conntrack::{Proofs, TimeoutSettings};
use crate::dataplane::kernel::default_ttl;

/// Returns the node for the map `CONFIG`.
pub(super) fn facts(settings: &Settings, devices: &[AcceleratedDevice<'_>]) -> Result<NodeConfig> {
    let proofs = Proofs::within(&TimeoutSettings::default().read());
    let has_flow_cache = settings.flow_cache != FlowCache::Off;
    let mut node = NodeConfig {
        layout: abi::LAYOUT,
        flow_cache: has_flow_cache.into(),
        ttl: default_ttl()?.into(),
        generation: 1,
        tcp_proof: proofs.tcp,
        udp_proof: proofs.udp,
        translated_proof: proofs.translated,
        direct_routing: (settings.direct_routing && has_flow_cache).into(),
        ..NodeConfig::default()
    };
    for device in devices {
        node.group_policy = device.spec.gbp.into();
        node.vni = device.spec.vni;
        node.port = device.spec.port.to_be_bytes();
        node.uplink_mac = device.uplink.mac.unwrap_or_default().0;
        let of_family = |range: &&SubnetRange| range.min.is_ipv4() == device.spec.local.is_ipv4();
        let range = settings.ranges.iter().find(of_family).context("an overlay without a network")?;
        match (device.spec.local, range.subnet_mask()) {
            (IpAddr::V4(ip), IpAddr::V4(mask)) => {
                node.v4 = end(settings, device, range, ip.octets(), mask.octets());
            }
            (IpAddr::V6(ip), IpAddr::V6(mask)) => {
                node.v6 = end(settings, device, range, ip.octets(), mask.octets());
            }
            _ => {}
        }
    }
    Ok(node)
}

fn end<A: Address>(
    settings: &Settings,
    device: &AcceleratedDevice<'_>,
    range: &SubnetRange,
    local_ip: A,
    subnet_mask: A,
) -> OverlayEnd<A> {
    OverlayEnd {
        overlay_ifindex: device.actual.index,
        uplink_ifindex: device.uplink.index,
        uplink_mtu: device.uplink.mtu,
        source_check: match settings.source_check {
            SourceCheck::Pods => SOURCE_CHECK_PODS,
            SourceCheck::Strict => SOURCE_CHECK_STRICT,
            SourceCheck::Off => SOURCE_CHECK_OFF,
        },
        local_ip,
        vtep_mac: device.actual.mac.0,
        network_len: range.network.prefix_len(),
        subnet_len: range.subnet_len,
        subnet_mask,
    }
}

/// Returns where the programs are attached. Each overlay has hooks of its own. An uplink of both has its hooks once.
pub(super) fn places(devices: &[AcceleratedDevice<'_>], direct: bool) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    for AcceleratedDevice { spec, uplink, .. } in devices {
        for place in Place::of(&spec.name, &uplink.name, spec.local.is_ipv6(), direct) {
            if places.iter().all(|other| !other.is_same_hook(&place)) {
                places.push(place);
            }
        }
    }
    places
}
