//! Lookup of leases: `SUBNETS` is tried first, with the network's one prefix length for subnets. `LEASES` has the rest.

use etherparse::{EtherType, IpNumber};
use flannel_common::lease::Lease;
use flannel_common::outcome::{Hook, Outcome};

use super::{OUR_MAC, PEER_MAC, Programs, v6};
use crate::packets::{frame, ipv4, ipv6, udp};

const POD: [u8; 4] = [10, 1, 90, 2];

/// Returns the outcome of a packet from the host to this address, with the peer's MAC.
fn outcome(programs: &mut Programs, destination: [u8; 4]) -> Outcome {
    let packet = ipv4(POD.into(), destination.into(), IpNumber::UDP, udp(40000, 53, b"payload"));
    programs.run(Hook::OverlayEgress, &frame(PEER_MAC, OUR_MAC, EtherType::IPV4, &packet.bytes()), 0).outcome
}

#[test]
fn a_subnet_is_found_by_exact_match() {
    let mut programs = Programs::load();
    programs.subnet(
        24,
        [10, 1, 40, 0],
        Lease { public_ip: [192, 168, 64, 4], vtep_mac: PEER_MAC, flags: 0, route_mtu: 0 },
    );
    // The network has subnets of 24 bits. Other lengths are not tried here.
    programs.subnet(
        25,
        [10, 1, 41, 0],
        Lease { public_ip: [192, 168, 64, 4], vtep_mac: PEER_MAC, flags: 0, route_mtu: 0 },
    );
    for (destination, expected) in [
        ([10, 1, 40, 0], Outcome::Encapsulated),
        ([10, 1, 40, 255], Outcome::Encapsulated),
        ([10, 1, 39, 255], Outcome::Unleased),
        ([10, 1, 41, 0], Outcome::Unleased),
        ([10, 1, 15, 7], Outcome::Encapsulated),
        ([10, 1, 15, 130], Outcome::ForeignVtep),
    ] {
        assert_eq!(outcome(&mut programs, destination), expected, "{destination:?}");
    }
}

#[test]
fn an_ipv6_subnet_is_found_by_exact_match() {
    let mut programs = Programs::load();
    let (pod, node) = (v6([0xfd44, 0, 0, 0x90, 0, 0, 0, 2]), v6([0xfd00, 0, 0, 0, 0, 0, 0, 4]));
    let lease = Lease { public_ip: node, vtep_mac: PEER_MAC, flags: 0, route_mtu: 0 };
    programs.subnet(64, v6([0xfd44, 0, 0, 0x40, 0, 0, 0, 0]), lease);
    for (destination, expected) in [
        (v6([0xfd44, 0, 0, 0x40, 1, 2, 3, 4]), Outcome::InnerIpv6),
        (v6([0xfd44, 0, 0, 0x41, 0, 0, 0, 0]), Outcome::Unleased),
    ] {
        let packet = ipv6(pod.into(), destination.into(), IpNumber::UDP, udp(40000, 53, b"payload")).bytes();
        let frame = frame(PEER_MAC, OUR_MAC, EtherType::IPV6, &packet);
        assert_eq!(programs.run(Hook::OverlayEgress, &frame, 0).outcome, expected, "{destination:?}");
    }
}
