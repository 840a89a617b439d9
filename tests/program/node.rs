//! The configuration of the node whose programs are tested.

use std::net::Ipv6Addr;

use flannel_common::abi;
use flannel_common::address::{Address, V6};
use flannel_common::flow::{PROOF_NS, TRANSLATED_NS};
use flannel_common::node::{NodeConfig, OverlayEnd, SOURCE_CHECK_STRICT, XDP_OFF};

use super::{GENERATION, OUR_IP, OUR_IP6, OUR_MAC, OUR_MAC6, UPLINK_MTU, VNI};

pub(super) const fn v6([a, b, c, d, e, f, g, h]: [u16; 8]) -> V6 {
    Ipv6Addr::new(a, b, c, d, e, f, g, h).octets()
}

/// A network's prefix length, that of its subnets, and their mask.
type NetworkLengths<A> = (u8, u8, A);

/// Makes this node's end of an overlay.
fn overlay<A: Address>(
    overlay_ifindex: u32,
    local_ip: A,
    vtep_mac: [u8; 6],
    lengths: NetworkLengths<A>,
) -> OverlayEnd<A> {
    let (network_len, subnet_len, subnet_mask) = lengths;
    let (uplink_ifindex, uplink_mtu) = (2, UPLINK_MTU);
    let source_check = SOURCE_CHECK_STRICT;
    OverlayEnd {
        overlay_ifindex,
        uplink_ifindex,
        uplink_mtu,
        source_check,
        local_ip,
        vtep_mac,
        network_len,
        subnet_len,
        subnet_mask,
    }
}

/// Returns the configuration, changed.
pub(super) fn node(change: impl FnOnce(&mut NodeConfig)) -> NodeConfig {
    let mut node = NodeConfig {
        layout: abi::LAYOUT,
        vni: VNI,
        flow_cache: 0,
        ttl: 64,
        group_policy: 0,
        direct_routing: 0,
        port: crate::packets::PORT.to_be_bytes(),
        uplink_mac: [0; 6],
        xdp: XDP_OFF,
        floor: 0,
        handover_key: [0; 4],
        only_checked: 1,
        generation: GENERATION,
        tcp_proof: (PROOF_NS / 1_000_000) as u32,
        udp_proof: (PROOF_NS / 1_000_000) as u32,
        translated_proof: (TRANSLATED_NS / 1_000_000) as u32,
        v4: overlay(7, OUR_IP, OUR_MAC, (16, 24, [255, 255, 255, 0])),
        v6: overlay(8, OUR_IP6, OUR_MAC6, (48, 64, v6([!0, !0, !0, !0, 0, 0, 0, 0]))),
    };
    change(&mut node);
    node
}
