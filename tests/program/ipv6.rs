//! IPv6 over IPv6: tables for what differs from IPv4.

mod overlay;
mod pod;
pub(super) mod sample;
mod sender;
pub(super) mod underlay;
mod underlay_xdp;

use flannel_common::address::V6;
use flannel_common::lease::{self, Lease};

use super::{OUR_IP6, OUR_MAC6, v6};

/// The peer that leases [`PEER_SUBNET`].
pub(super) const PEER_IP: V6 = v6([0xfd00, 0x192, 0x168, 0x40, 0, 0, 0, 2]);
pub(super) const PEER_MAC: [u8; 6] = [0xc6, 0xd2, 0x32, 0x6f, 0x8f, 0x62];
pub(super) const PEER_SUBNET: V6 = v6([0xfd44, 0, 0, 0x15, 0, 0, 0, 0]);
pub(super) const OUR_SUBNET: V6 = v6([0xfd44, 0, 0, 0x90, 0, 0, 0, 0]);
/// A lease of the peer that has just ended.
pub(super) const ENDED_SUBNET: V6 = v6([0xfd44, 0, 0, 0x16, 0, 0, 0, 0]);
/// Node on the uplink's link, and its lease.
pub(super) const DIRECT_IP: V6 = v6([0xfd00, 0x192, 0x168, 0x40, 0, 0, 0, 3]);
pub(super) const DIRECT_SUBNET: V6 = v6([0xfd44, 0, 0, 0x17, 0, 0, 0, 0]);

/// Makes the frame of a datagram from the peer's pod to a pod of this node.
pub(super) fn framed_back() -> Vec<u8> {
    underlay::framed(&sample::udp_back(b"payload"))
}

/// Returns the content of `LEASES6`: length, prefix, lease.
pub(super) fn leases() -> [(u32, V6, Lease<V6>); 6] {
    let peer = |flags| Lease { public_ip: PEER_IP, vtep_mac: PEER_MAC, flags, route_mtu: 0 };
    let not_leased =
        Lease { public_ip: V6::default(), vtep_mac: [0; 6], flags: lease::NETWORK, route_mtu: 0 };
    [
        (48, v6([0xfd44, 0, 0, 0, 0, 0, 0, 0]), not_leased),
        (64, PEER_SUBNET, peer(0)),
        (128, PEER_IP, peer(lease::NODE)),
        (64, ENDED_SUBNET, peer(lease::ENDED)),
        (
            64,
            DIRECT_SUBNET,
            Lease { public_ip: DIRECT_IP, vtep_mac: [6; 6], flags: lease::DIRECT, route_mtu: 0 },
        ),
        (64, OUR_SUBNET, Lease { public_ip: OUR_IP6, vtep_mac: OUR_MAC6, flags: lease::OWN, route_mtu: 0 }),
    ]
}
