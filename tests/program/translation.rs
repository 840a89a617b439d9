//! Flows that the stack translates, as those to services: each has a name for its pod and one for the network.

mod learning;
mod refused;
pub(super) mod sample;
mod shortcut;

use etherparse::IpNumber;

use super::flow::FlowNames;
use super::flow::sample::{GATEWAY_MAC, POD_MAC};
use super::{OUR_MAC, OUR_MAC6, PEER_MAC, ipv6};
use sample::{Macs, Service, masqueraded, to_service};

/// MACs of a packet from the pod, and to it.
const FROM_POD: Macs = (GATEWAY_MAC, POD_MAC);
const TO_POD: Macs = (POD_MAC, GATEWAY_MAC);
/// MACs of a packet on the uplink's link. (Loopback, on which test runs receive, has zeroes.)
const FROM_LINK: Macs = ([0; 6], [2, 0, 0, 0, 0, 9]);
const TO_LINK: Macs = ([2, 0, 0, 0, 0, 9], [0; 6]);

/// Returns the MACs of a packet to the peer's vxlan device.
fn to_peer<A: Service>() -> Macs {
    if A::IS_IPV4 { (PEER_MAC, OUR_MAC) } else { (ipv6::PEER_MAC, OUR_MAC6) }
}

/// Returns the MACs of a packet from the peer's vxlan device.
fn from_peer<A: Service>() -> Macs {
    let (peer, ours) = to_peer::<A>();
    (ours, peer)
}

/// Returns translated flows of all kinds.
fn kinds<A: Service>() -> [(&'static str, FlowNames<A>); 4] {
    let [udp, tcp] = [IpNumber::UDP, IpNumber::TCP];
    [
        ("UDP", to_service(udp)),
        ("TCP", to_service(tcp)),
        ("UDP, masqueraded", masqueraded(udp)),
        ("TCP, masqueraded", masqueraded(tcp)),
    ]
}
