//! Ingress of the uplink: VXLAN over IPv6, and other traffic.

use std::net::Ipv6Addr;

use etherparse::{EtherType, IpNumber};
use flannel_common::node::OverlayEnd;
use flannel_common::outcome::{Hook, Outcome};

use super::super::ecn::combinations;
use super::super::flow::sample::{GATEWAY_MAC, POD_MAC};
use super::super::flow::{OLD, POD_MTU, PROVEN, UNKNOWN, check, flow, moved, none, row};
use super::super::{
    OUR_IP6, OUR_MAC6, Programs, TC_ACT_SHOT, Untouched, VNI, all_untouched, carried, untouched,
};
use super::sample::{back, hop, no_flows, of_tcp, of_udp, tcp_back, udp_back};
use super::{PEER_IP, PEER_MAC};
use crate::packets::{Ipv6, PORT, frame, ipv6, udp, udp_over_ipv6, vxlan};

const HOOK: Hook = Hook::UnderlayIngress;
/// MAC of the interface that test runs receive on, which is loopback.
pub(super) const HOST_MAC: [u8; 6] = [0; 6];
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// Length of Ethernet, IPv6, UDP and VXLAN headers.
const OUTER: usize = 14 + 40 + 8 + 8;

/// Makes the inner frame, for this node's vxlan device.
pub(super) fn framed(packet: &Ipv6) -> Vec<u8> {
    frame(OUR_MAC6, PEER_MAC, EtherType::IPV6, &packet.bytes())
}

pub(in crate::program) fn outer(sender: Ipv6Addr, payload: &[u8]) -> Ipv6 {
    let ours = OUR_IP6.into();
    ipv6(sender, ours, IpNumber::UDP, udp_over_ipv6(sender, ours, 41000, PORT, payload))
}

pub(in crate::program) fn arrives(packet: &Ipv6) -> Vec<u8> {
    frame(HOST_MAC, ROUTER_MAC, EtherType::IPV6, &packet.bytes())
}

pub(super) fn from_peer(payload: &[u8]) -> Ipv6 {
    outer(PEER_IP.into(), payload)
}

pub(in crate::program) fn carrying(inner: &[u8]) -> Vec<u8> {
    arrives(&from_peer(&vxlan(8, VNI, inner)))
}

/// Makes inner frames of all kinds that are unwrapped.
pub(super) fn carried_frames() -> [(&'static str, Vec<u8>); 4] {
    let longest = framed(&udp_back(&[7; 1430 - 48]));
    let fragment = framed(&udp_back(b"x").extended(44, vec![0, 0, 0, 1, 0, 0, 0, 1]));
    [
        ("UDP", framed(&udp_back(b"payload"))),
        ("an IPv6 header and nothing else", framed(&back(IpNumber(59), vec![]))),
        ("the longest of a 1500-byte underlay", longest),
        ("an inner fragment", fragment),
    ]
}

#[test]
fn a_packet_from_a_peer_is_unwrapped() {
    let mut programs = Programs::load();
    for (description, sent) in carried_frames() {
        for traffic_class in 0..3 {
            let packet = from_peer(&vxlan(8, VNI, &sent)).traffic_class(0x28 | traffic_class);
            let run = programs.run(HOOK, &arrives(&packet), 0);
            carried(&run, Outcome::Decapsulated, description);
            assert_eq!(run.packet, sent, "{description}");
        }
    }
}

/// Makes packets that are not for the overlay.
pub(super) fn other_traffic() -> Vec<Untouched> {
    let good = vxlan(8, VNI, &framed(&udp_back(b"x")));
    let other = Ipv6Addr::from(OUR_IP6.map(|byte| byte ^ 0x40));
    let to_other =
        ipv6(PEER_IP.into(), other, IpNumber::UDP, udp_over_ipv6(PEER_IP.into(), other, 1, PORT, &good));
    let mut of_version_4 = arrives(&from_peer(&good));
    of_version_4[14] = 0x40;
    let to_us =
        |protocol, payload: &[u8]| arrives(&ipv6(PEER_IP.into(), OUR_IP6.into(), protocol, payload.to_vec()));
    vec![
        untouched("neighbour discovery", to_us(IpNumber::IPV6_ICMP, &[135; 24]), Outcome::NotVxlan),
        untouched("TCP", to_us(IpNumber::TCP, &[0x21; 40]), Outcome::NotVxlan),
        untouched("another UDP port", to_us(IpNumber::UDP, &udp(1, 53, &good)), Outcome::NotVxlan),
        untouched("VXLAN to another address", arrives(&to_other), Outcome::OtherAddress),
        untouched("version 4 under IPv6's EtherType", of_version_4, Outcome::NotVxlan),
        untouched(
            "a frame for another host",
            frame(ROUTER_MAC, [4; 6], EtherType::IPV6, &from_peer(&good).bytes()),
            Outcome::OtherAddress,
        ),
    ]
}

#[test]
fn other_traffic_is_passed_on() {
    all_untouched(&mut Programs::load(), HOOK, other_traffic());
    let good = carrying(&framed(&udp_back(b"x")));
    let table = vec![untouched("without IPv6 in the network", good, Outcome::NotVxlan)];
    all_untouched(&mut Programs::configured(|node| node.v6 = OverlayEnd::default()), HOOK, table);
}

/// Makes single packets that only the kernel's vxlan device can handle.
pub(super) fn unusual() -> Vec<Untouched> {
    let inner = framed(&udp_back(b"payload"));
    let (good, outer_good) = (carrying(&inner), from_peer(&vxlan(8, VNI, &inner)));
    let with = |at: usize, byte: u8| {
        let mut packet = good.clone();
        packet[at] = byte;
        packet
    };
    let unchecked = ipv6(PEER_IP.into(), OUR_IP6.into(), IpNumber::UDP, udp(1, PORT, &vxlan(8, VNI, &inner)));
    let extended =
        |number, extension: [u8; 8]| arrives(&outer_good.clone().extended(number, extension.to_vec()));
    let to_mac = |mac| carrying(&frame(mac, PEER_MAC, EtherType::IPV6, &inner[14..]));
    let of_type = |ether_type| carrying(&frame(OUR_MAC6, PEER_MAC, ether_type, &inner[14..]));
    let link_local = back(IpNumber::IPV6_ICMP, vec![135; 24]);
    let from = |source: &str| {
        let source: Ipv6Addr = source.parse().unwrap();
        let mut packet = link_local.clone();
        packet.header.source = source.octets();
        carrying(&framed(&packet))
    };
    vec![
        untouched("another network", arrives(&from_peer(&vxlan(8, 2, &inner))), Outcome::ForeignVni),
        untouched("group policy", arrives(&from_peer(&vxlan(0x88, VNI, &inner))), Outcome::VxlanFlags),
        untouched("no outer checksum", arrives(&unchecked), Outcome::OuterChecksum),
        untouched("hop-by-hop options", extended(0, [0, 0, 1, 4, 0, 0, 0, 0]), Outcome::OuterOptions),
        untouched("a routing header", extended(43, [0, 0, 4, 0, 0, 0, 0, 0]), Outcome::OuterOptions),
        untouched("destination options", extended(60, [0, 0, 1, 4, 0, 0, 0, 0]), Outcome::OuterOptions),
        untouched("first fragment", extended(44, [0, 0, 0, 1, 0, 0, 0, 1]), Outcome::OuterFragment),
        untouched("later fragment", extended(44, [0, 0, 1, 0, 0, 0, 0, 1]), Outcome::OuterFragment),
        untouched("trailing bytes", [good.as_slice(), &[0; 4]].concat(), Outcome::OuterLength),
        untouched("frame cut short", good[..good.len() - 1].to_vec(), Outcome::OuterLength),
        untouched("UDP shorter than IP", with(59, good[59] - 1), Outcome::OuterLength),
        untouched("no VXLAN header", arrives(&from_peer(&[8, 0, 0])), Outcome::Truncated),
        untouched("no inner frame", arrives(&from_peer(&vxlan(8, VNI, &[]))), Outcome::Truncated),
        untouched("half an inner IP header", carrying(&inner[..14 + 30]), Outcome::Truncated),
        untouched("another inner destination MAC", to_mac(ROUTER_MAC), Outcome::ForeignVtep),
        untouched("multicast inside", to_mac([0x33, 0x33, 0, 0, 0, 1]), Outcome::ForeignVtep),
        untouched("ARP inside", of_type(EtherType::ARP), Outcome::NotIp),
        untouched("VLAN tag inside", of_type(EtherType::VLAN_TAGGED_FRAME), Outcome::NotIp),
        untouched("IP version 6 with IPv4's EtherType", of_type(EtherType::IPV4), Outcome::OtherFamily),
        untouched("neighbour discovery inside", from("fe80::2"), Outcome::LinkLocal),
        untouched("duplicate address detection inside", from("::"), Outcome::LinkLocal),
    ]
}

#[test]
fn unusual_packets_go_to_the_kernel_device() {
    let aggregate = Untouched {
        description: "aggregate",
        frame: carrying(&framed(&udp_back(b"payload"))),
        gso_size: 20,
        outcome: Outcome::GsoAggregate,
    };
    let table = unusual().into_iter().chain([aggregate]).collect();
    all_untouched(&mut Programs::load(), HOOK, table);
}

#[test]
fn outer_congestion_marks_the_inner_packet() {
    let mut programs = Programs::load();
    for (outer, inner, expected) in combinations() {
        let sent = |code_point| framed(&udp_back(b"payload").traffic_class(0xb8 | code_point));
        let arrived = arrives(&from_peer(&vxlan(8, VNI, &sent(inner))).traffic_class(outer));
        let run = programs.run(HOOK, &arrived, 0);
        let what = format!("outer {outer:02b}, inner {inner:02b}");
        match expected {
            Some(code_point) => {
                carried(&run, Outcome::Decapsulated, &what);
                assert_eq!(run.packet, sent(code_point), "{what}");
            }
            None => assert_eq!((run.outcome, run.action), (Outcome::NotEcnCapable, TC_ACT_SHOT), "{what}"),
        }
    }
}

#[test]
fn a_proven_flow_goes_to_its_pod() {
    let ping = back(IpNumber::IPV6_ICMP, vec![128, 0, 0, 0, 0, 1, 0, 1]);
    let proven = || flow(PROVEN, PROVEN);
    let mut table = vec![
        ("an unknown flow", udp_back(b"x"), none(), Outcome::Decapsulated),
        ("proven", udp_back(b"x"), of_udp(flow(UNKNOWN, PROVEN)), Outcome::Delivered),
        ("proven too long ago", udp_back(b"x"), of_udp(flow(PROVEN, OLD)), Outcome::Decapsulated),
        (
            "TCP, proven in this direction",
            tcp_back(b"x"),
            of_tcp(flow(UNKNOWN, PROVEN)),
            Outcome::Decapsulated,
        ),
        ("TCP, proven both ways", tcp_back(b"x"), of_tcp(proven()), Outcome::Delivered),
        ("TTL 2", udp_back(b"x").hop_limit(2), of_udp(proven()), Outcome::Delivered),
        ("TTL 1", udp_back(b"x").hop_limit(1), of_udp(proven()), Outcome::Decapsulated),
        ("as long as the pod's MTU", udp_back(&[1; POD_MTU - 48]), of_udp(proven()), Outcome::Delivered),
        ("one byte longer", udp_back(&[1; POD_MTU - 47]), of_udp(proven()), Outcome::Decapsulated),
        (
            "a port that is gone",
            udp_back(b"x"),
            of_udp(moved(proven(), |port| port.ifindex = 99)),
            Outcome::Decapsulated,
        ),
    ];
    table.extend(
        no_flows(udp_back(b"x"), ping)
            .map(|(description, packet)| (description, packet, of_udp(proven()), Outcome::Decapsulated)),
    );
    let rows = table.into_iter().map(|(description, packet, known, outcome)| {
        row(description, carrying(&framed(&packet)), known.clone(), outcome, known)
    });
    check(&mut Programs::with_flow_cache(), HOOK, rows.collect(), |run, sent| match run.outcome {
        Outcome::Delivered => assert_eq!(run.packet, hop(&sent[OUTER..], POD_MAC, GATEWAY_MAC)),
        _ => assert_eq!(run.packet, sent[OUTER..]),
    });
}
