//! What the programs need to know of the node, and where they are attached.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use flannel_common::abi;
use flannel_common::address::Address;
use flannel_common::node::{
    NodeConfig, OverlayEnd, SOURCE_CHECK_OFF, SOURCE_CHECK_PODS, SOURCE_CHECK_STRICT,
};

use super::{Carrier, FlowCache, Settings};
use crate::config::{SourceCheck, SubnetRange};
use crate::dataplane::bpf::place::Place;
use crate::dataplane::kernel::conntrack::{Proofs, TimeoutSettings};
use crate::dataplane::kernel::default_ttl;

/// Returns the node for the map `CONFIG`.
pub(super) fn facts(settings: &Settings, carriers: &[Carrier<'_>]) -> Result<NodeConfig> {
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
        vni: settings.pins.vni(),
        ..NodeConfig::default()
    };
    for carrier in carriers {
        if let Some(device) = &carrier.device {
            node.group_policy = device.spec.gbp.into();
            node.port = device.spec.port.to_be_bytes();
        }
        node.uplink_mac = carrier.uplink.mac.unwrap_or_default().0;
        let of_family = |range: &&SubnetRange| range.min.is_ipv4() == carrier.local.is_ipv4();
        let range = settings.ranges.iter().find(of_family).context("an address without a network")?;
        match (carrier.local, range.subnet_mask()) {
            (IpAddr::V4(ip), IpAddr::V4(mask)) => {
                node.v4 = end(settings, carrier, range, ip.octets(), mask.octets());
            }
            (IpAddr::V6(ip), IpAddr::V6(mask)) => {
                node.v6 = end(settings, carrier, range, ip.octets(), mask.octets());
            }
            _ => {}
        }
    }
    Ok(node)
}

fn end<A: Address>(
    settings: &Settings,
    Carrier { uplink, device, .. }: &Carrier<'_>,
    range: &SubnetRange,
    local_ip: A,
    subnet_mask: A,
) -> OverlayEnd<A> {
    OverlayEnd {
        overlay_ifindex: device.map_or(0, |device| device.actual.index),
        uplink_ifindex: uplink.index,
        uplink_mtu: uplink.mtu,
        source_check: match settings.source_check {
            SourceCheck::Pods => SOURCE_CHECK_PODS,
            SourceCheck::Strict => SOURCE_CHECK_STRICT,
            SourceCheck::Off => SOURCE_CHECK_OFF,
        },
        local_ip,
        vtep_mac: device.map_or([0; 6], |device| device.actual.mac.0),
        network_len: range.network.prefix_len(),
        subnet_len: range.subnet_len,
        subnet_mask,
    }
}

/// Returns where the programs are attached. Each overlay has hooks of its own. An uplink of both has its hooks once.
pub(super) fn places(carriers: &[Carrier<'_>], direct: bool) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    for Carrier { local, uplink, device } in carriers {
        let overlay = device.as_ref().map(|device| device.spec.name.as_str());
        for place in Place::of(overlay, &uplink.name, local.is_ipv6(), direct) {
            if places.iter().all(|other| !other.is_same_hook(&place)) {
                places.push(place);
            }
        }
    }
    places
}
