//! The sender check over IPv6, and across families.

use std::net::Ipv6Addr;

use etherparse::{EtherType, IpNumber};
use flannel_common::node::OverlayEnd;
use flannel_common::outcome::{Hook, Outcome};

use super::super::{OUR_IP, OUR_MAC6, Programs, TC_ACT_SHOT, VNI, all_untouched, carried, untouched};
use super::sample::{POD, REMOTE};
use super::underlay::{arrives, outer};
use super::{DIRECT_IP, PEER_IP, PEER_MAC};
use crate::packets::{Ipv6, PORT, frame, ipv4, ipv6, udp, udp_over_ipv6, vxlan};

const HOOK: Hook = Hook::UnderlayIngress;
const UNKNOWN_NODE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x192, 0x168, 0x40, 0, 0, 0, 0x66);

fn inner(source: Ipv6Addr) -> Vec<u8> {
    let packet = ipv6(source, POD, IpNumber::UDP, udp_over_ipv6(source, POD, 53, 40000, b"payload"));
    frame(OUR_MAC6, PEER_MAC, EtherType::IPV6, &packet.bytes())
}

fn subnet(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd44, 0, 0, number, 0, 0, 0, 7)
}

/// Outer source, inner source, and the outcome.
fn forgeries() -> [(Ipv6Addr, Ipv6Addr, Outcome); 6] {
    [
        (UNKNOWN_NODE, REMOTE, Outcome::ForgedSender),
        (DIRECT_IP.into(), REMOTE, Outcome::ForgedSender),
        (UNKNOWN_NODE, subnet(0x16), Outcome::ForgedSender),
        (UNKNOWN_NODE, UNKNOWN_NODE, Outcome::UnknownSender),
        (PEER_IP.into(), subnet(0x77), Outcome::UnknownSender),
        (PEER_IP.into(), subnet(0x90), Outcome::LoopedSender),
    ]
}

/// Makes packets that only the kernel's vxlan device can unwrap, and their outcomes.
fn unusual(sender: Ipv6Addr, source: Ipv6Addr) -> Vec<(&'static str, Vec<u8>, u32, Outcome)> {
    let plain = || outer(sender, &vxlan(8, VNI, &inner(source)));
    let options = |packet: Ipv6, number: u8, length: u8| {
        packet.extended(number, [&[0, length - 1][..], &vec![0; usize::from(length) * 8 - 2]].concat())
    };
    let many = |n| (0..n).fold(plain(), |packet, number| options(packet, 60, number % 3 + 1));
    let unchecked =
        ipv6(sender, super::OUR_IP6.into(), IpNumber::UDP, udp(41000, PORT, &vxlan(8, VNI, &inner(source))));
    vec![
        ("group policy", arrives(&outer(sender, &vxlan(0x88, VNI, &inner(source)))), 0, Outcome::VxlanFlags),
        ("hop-by-hop options", arrives(&options(plain(), 0, 1)), 0, Outcome::OuterOptions),
        ("a long routing header", arrives(&options(plain(), 43, 9)), 0, Outcome::OuterOptions),
        ("seven extension headers", arrives(&many(7)), 0, Outcome::OuterOptions),
        (
            "first fragment",
            arrives(&plain().extended(44, vec![0, 0, 0, 1, 0, 0, 0, 1])),
            0,
            Outcome::OuterFragment,
        ),
        ("no outer checksum", arrives(&unchecked), 0, Outcome::OuterChecksum),
        ("trailing bytes", [arrives(&plain()), vec![0; 4]].concat(), 0, Outcome::OuterLength),
        ("aggregate", arrives(&plain()), 20, Outcome::GsoAggregate),
    ]
}

#[test]
fn a_forged_packet_is_dropped_and_counted() {
    let mut programs = Programs::load();
    for (sender, source, outcome) in forgeries() {
        let plain = arrives(&outer(sender, &vxlan(8, VNI, &inner(source))));
        let unusual =
            unusual(sender, source).into_iter().map(|(what, frame, gso_size, _)| (what, frame, gso_size));
        for (what, frame, gso_size) in unusual.chain([("plain", plain, 0)]) {
            let run = programs.run(HOOK, &frame, gso_size);
            assert_eq!((run.outcome, run.action), (outcome, TC_ACT_SHOT), "{what} from {sender}/{source}");
        }
    }
}

#[test]
fn the_holder_of_the_source_may_send_unusual_packets() {
    let mut programs = Programs::load();
    for source in [REMOTE, PEER_IP.into(), subnet(0x16)] {
        let plain = arrives(&outer(PEER_IP.into(), &vxlan(8, VNI, &inner(source))));
        carried(&programs.run(HOOK, &plain, 0), Outcome::Decapsulated, "plain");
        for (what, frame, gso_size, outcome) in unusual(PEER_IP.into(), source) {
            let run = programs.run(HOOK, &frame, gso_size);
            assert_eq!((run.outcome, run.packet), (outcome, frame), "{what}");
        }
    }
    let direct = arrives(&outer(DIRECT_IP.into(), &vxlan(8, VNI, &inner(subnet(0x17)))));
    carried(&programs.run(HOOK, &direct, 0), Outcome::Decapsulated, "a peer on the link");
}

#[test]
fn without_the_check_all_senders_are_accepted() {
    let mut programs = Programs::configured(|node| node.v6.source_check = 0);
    for (sender, source, _) in forgeries() {
        let plain = arrives(&outer(sender, &vxlan(8, VNI, &inner(source))));
        carried(&programs.run(HOOK, &plain, 0), Outcome::Decapsulated, "forged");
        for (what, frame, gso_size, outcome) in unusual(sender, source) {
            assert_eq!(programs.run(HOOK, &frame, gso_size).outcome, outcome, "{what}");
        }
    }
}

#[test]
fn no_node_may_send_in_a_tunnel_of_the_other_family() {
    let over_ipv4 = |source| {
        let payload = udp(41000, PORT, &vxlan(8, VNI, &inner(source)));
        let packet = ipv4(super::super::PEER_IP.into(), OUR_IP.into(), IpNumber::UDP, payload);
        frame([0; 6], [2; 6], EtherType::IPV4, &packet.bytes())
    };
    let inner4 = |source: [u8; 4]| {
        let packet = ipv4(source.into(), [10, 1, 90, 2].into(), IpNumber::UDP, udp(53, 40000, b"x"));
        frame(OUR_MAC6, PEER_MAC, EtherType::IPV4, &packet.bytes())
    };
    let over_ipv6 = |source| arrives(&outer(PEER_IP.into(), &vxlan(8, VNI, &inner4(source))));
    let mut programs = Programs::load();
    for (what, frame, outcome) in [
        ("a peer's pod", over_ipv4(REMOTE), Outcome::ForgedSender),
        ("not leased", over_ipv4(subnet(0x77)), Outcome::UnknownSender),
        ("a pod of this node", over_ipv4(POD), Outcome::LoopedSender),
        ("a peer's pod, IPv4", over_ipv6([10, 1, 15, 7]), Outcome::ForgedSender),
        ("a pod of this node, IPv4", over_ipv6([10, 1, 90, 7]), Outcome::LoopedSender),
    ] {
        let run = programs.run(HOOK, &frame, 0);
        assert_eq!((run.outcome, run.action), (outcome, TC_ACT_SHOT), "{what}");
    }
    let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
    let table = vec![untouched("a link-local source", over_ipv4(link_local), Outcome::OtherFamily)];
    all_untouched(&mut programs, HOOK, table);
    let table = vec![untouched("in a network without IPv6", over_ipv4(REMOTE), Outcome::OtherFamily)];
    all_untouched(&mut Programs::configured(|node| node.v6 = OverlayEnd::default()), HOOK, table);
}
