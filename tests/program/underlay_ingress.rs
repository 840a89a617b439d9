//! Ingress of the uplink: VXLAN from peers, and other traffic.

use std::net::Ipv4Addr;

use etherparse::{EtherType, IpNumber};
use flannel_common::node::XDP_NATIVE;
use flannel_common::outcome::{Hook, Outcome};

use super::flow::sample::{GATEWAY_MAC, POD_MAC, PodSide, controls, hop};
use super::flow::{Flows, OLD, POD_MTU, PROVEN, Row, UNKNOWN, check, flow, moved, none, of_tcp, of_udp, row};
use super::{
    OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, Programs, Untouched, VNI, all_untouched, carried, untouched,
};
use crate::packets::{Ipv4, PORT, frame, ipv4, udp, vxlan};

/// MAC of the interface that test runs receive on, which is loopback.
pub(super) const HOST_MAC: [u8; 6] = [0; 6];
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// Makes the frame of a packet from the peer's pod to a pod of this node.
pub(super) fn inner() -> Vec<u8> {
    let packet =
        ipv4([10, 1, 15, 7].into(), [10, 1, 90, 2].into(), IpNumber::UDP, udp(53, 40000, b"payload"));
    frame(OUR_MAC, PEER_MAC, EtherType::IPV4, &packet.bytes())
}

/// Makes the peer's packet with this UDP payload.
pub(super) fn outer(payload: &[u8]) -> Ipv4 {
    ipv4(PEER_IP.into(), OUR_IP.into(), IpNumber::UDP, udp(41000, PORT, payload))
}

/// Makes the frame in which the uplink receives an outer packet.
pub(super) fn arrives(packet: &Ipv4) -> Vec<u8> {
    frame(HOST_MAC, ROUTER_MAC, EtherType::IPV4, &packet.bytes())
}

/// Makes the peer's packet with this frame inside.
pub(super) fn carrying(inner: &[u8]) -> Vec<u8> {
    arrives(&outer(&vxlan(8, VNI, inner)))
}

/// Makes a good packet with one byte changed, and corrects the outer IP checksum.
fn with(at: usize, byte: u8) -> Vec<u8> {
    let mut packet = carrying(&inner());
    packet[at] = byte;
    let (header, _) = etherparse::Ipv4Header::from_slice(&packet[14..]).unwrap();
    packet[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    packet
}

/// Makes inner frames of all kinds that are unwrapped.
pub(super) fn carried_frames() -> [(&'static str, Vec<u8>); 4] {
    let smallest = frame(
        OUR_MAC,
        PEER_MAC,
        EtherType::IPV4,
        &ipv4([10, 1, 15, 7].into(), [10, 1, 90, 2].into(), IpNumber(253), vec![]).bytes(),
    );
    let longest = {
        let packet = ipv4([10, 1, 15, 7].into(), [10, 1, 90, 2].into(), IpNumber::UDP, udp(1, 2, &[7; 1422]));
        frame(OUR_MAC, PEER_MAC, EtherType::IPV4, &packet.bytes())
    };
    let fragment = {
        let packet =
            ipv4([10, 1, 15, 7].into(), [10, 1, 90, 2].into(), IpNumber::UDP, vec![3; 32]).fragment(10, true);
        frame(OUR_MAC, PEER_MAC, EtherType::IPV4, &packet.bytes())
    };
    [
        ("UDP", inner()),
        ("an IPv4 header and nothing else", smallest),
        ("the longest of a 1500-byte underlay", longest),
        ("an inner fragment", fragment),
    ]
}

#[test]
fn a_packet_from_a_peer_is_unwrapped() {
    let mut programs = Programs::load();
    for (description, sent) in carried_frames() {
        let run = programs.run(Hook::UnderlayIngress, &carrying(&sent), 0);
        carried(&run, Outcome::Decapsulated, description);
        assert_eq!(run.packet, sent, "{description}");
    }
}

/// Makes packets that are not for the overlay.
pub(super) fn other_traffic() -> Vec<Untouched> {
    let other = Ipv4Addr::new(192, 168, 64, 77);
    let to_other = ipv4(PEER_IP.into(), other, IpNumber::UDP, udp(41000, PORT, &vxlan(8, VNI, &inner())));
    let good = outer(&vxlan(8, VNI, &inner()));
    let tcp = ipv4(PEER_IP.into(), OUR_IP.into(), IpNumber::TCP, vec![0x21; 40]);
    vec![
        untouched("ARP", frame(HOST_MAC, ROUTER_MAC, EtherType::ARP, &[0; 28]), Outcome::NotVxlan),
        untouched("IPv6", frame(HOST_MAC, ROUTER_MAC, EtherType::IPV6, &[0x60; 60]), Outcome::NotVxlan),
        untouched(
            "VLAN tag",
            frame(HOST_MAC, ROUTER_MAC, EtherType::VLAN_TAGGED_FRAME, &[0; 80]),
            Outcome::NotVxlan,
        ),
        untouched("TCP", arrives(&tcp), Outcome::NotVxlan),
        untouched("another UDP port", with(37, 0x19), Outcome::NotVxlan),
        untouched("VXLAN to another address", arrives(&to_other), Outcome::OtherAddress),
        untouched(
            "a frame for another host",
            frame(ROUTER_MAC, OUR_MAC, EtherType::IPV4, &good.bytes()),
            Outcome::OtherAddress,
        ),
    ]
}

#[test]
fn other_traffic_is_passed_on() {
    all_untouched(&mut Programs::load(), Hook::UnderlayIngress, other_traffic());
}

#[test]
fn packets_whose_metadata_is_lost_are_counted() {
    let table = || vec![untouched("to the vxlan device", inner(), Outcome::HandoverLost)];
    all_untouched(&mut Programs::configured(|node| node.xdp = XDP_NATIVE), Hook::UnderlayIngress, table());
    let table = vec![untouched("where no XDP may be", inner(), Outcome::NotVxlan)];
    all_untouched(&mut Programs::load(), Hook::UnderlayIngress, table);
}

/// Makes single packets that only the kernel's vxlan device can handle.
pub(super) fn unusual() -> Vec<Untouched> {
    let good = carrying(&inner());
    let outer_good = outer(&vxlan(8, VNI, &inner()));
    let mut wrong_checksum = good.clone();
    wrong_checksum[24] ^= 1;
    let to_mac = |mac| carrying(&frame(mac, PEER_MAC, EtherType::IPV4, &inner()[14..]));
    let of_type = |ether_type, payload: &[u8]| carrying(&frame(OUR_MAC, PEER_MAC, ether_type, payload));
    let short = |payload: &[u8]| arrives(&outer(payload));
    vec![
        untouched("another network", arrives(&outer(&vxlan(8, 2, &inner()))), Outcome::ForeignVni),
        untouched(
            "a VNI that differs in its upper byte",
            arrives(&outer(&vxlan(8, 0x10001, &inner()))),
            Outcome::ForeignVni,
        ),
        untouched("no VNI flag", arrives(&outer(&vxlan(0, VNI, &inner()))), Outcome::VxlanFlags),
        untouched("group policy", arrives(&outer(&vxlan(0x88, VNI, &inner()))), Outcome::VxlanFlags),
        untouched("outer options", arrives(&outer_good.clone().options([1, 1, 1, 0])), Outcome::OuterOptions),
        untouched(
            "first outer fragment",
            arrives(&outer_good.clone().fragment(0, true)),
            Outcome::OuterFragment,
        ),
        untouched(
            "later outer fragment",
            arrives(&outer_good.clone().fragment(185, false)),
            Outcome::OuterFragment,
        ),
        untouched("outer UDP checksum", with(41, 1), Outcome::OuterChecksum),
        untouched("wrong outer IP checksum", wrong_checksum, Outcome::OuterChecksum),
        untouched("trailing bytes", [good.as_slice(), &[0; 4]].concat(), Outcome::OuterLength),
        untouched("frame cut short", good[..good.len() - 1].to_vec(), Outcome::OuterLength),
        untouched("UDP shorter than IP", with(39, good[39] - 1), Outcome::OuterLength),
        untouched("no VXLAN header", short(&[8, 0, 0]), Outcome::Truncated),
        untouched(
            "no UDP header",
            arrives(&ipv4(PEER_IP.into(), OUR_IP.into(), IpNumber::UDP, vec![0; 4])),
            Outcome::Truncated,
        ),
        untouched("no inner frame", short(&vxlan(8, VNI, &[])), Outcome::Truncated),
        untouched("half an inner IP header", short(&vxlan(8, VNI, &inner()[..14 + 10])), Outcome::Truncated),
        untouched("another inner destination MAC", to_mac(ROUTER_MAC), Outcome::ForeignVtep),
        untouched("broadcast inside", to_mac([0xff; 6]), Outcome::ForeignVtep),
        untouched("ARP inside", of_type(EtherType::ARP, &[0; 28]), Outcome::NotIp),
        untouched("VLAN tag inside", of_type(EtherType::VLAN_TAGGED_FRAME, &[0; 60]), Outcome::NotIp),
        untouched("IP version 7 inside", of_type(EtherType::IPV4, &[0x75; 40]), Outcome::NotIp),
    ]
}

#[test]
fn unusual_packets_go_to_the_kernel_device() {
    let aggregate = Untouched {
        description: "aggregate",
        frame: carrying(&inner()),
        gso_size: 20,
        outcome: Outcome::GsoAggregate,
    };
    let table = unusual().into_iter().chain([aggregate]).collect();
    all_untouched(&mut Programs::load(), Hook::UnderlayIngress, table);
}

#[test]
fn packets_are_passed_on_before_the_agent_has_written_its_configuration() {
    let table = vec![untouched("a good packet", carrying(&inner()), Outcome::NoConfig)];
    all_untouched(&mut Programs::unconfigured(), Hook::UnderlayIngress, table);
}

/// Runs a table. Unwrapped packets must come out as they were inside, and delivered ones one hop further.
pub(super) fn check_unwrapped(programs: &mut Programs, table: Vec<Row>) {
    check(programs, Hook::UnderlayIngress, table, |run, sent| {
        let inner = &sent[50..];
        match run.outcome {
            Outcome::Delivered => assert_eq!(run.packet, hop(inner, POD_MAC, GATEWAY_MAC)),
            _ => assert_eq!(run.packet, inner),
        }
    });
}

/// Makes a row of a packet from the peer, which changes no flow: `overlay_ingress` notes that it enters the stack.
pub(super) fn from_peer(description: &'static str, packet: &Ipv4, known: Flows, outcome: Outcome) -> Row {
    let sent = carrying(&frame(OUR_MAC, PEER_MAC, EtherType::IPV4, &packet.bytes()));
    row(description, sent, known.clone(), outcome, known)
}

#[test]
fn a_proven_flow_goes_to_its_pod() {
    let (datagram, segment) = (PodSide::Ingress.udp(b"payload"), PodSide::Ingress.tcp(|_| {}, b"payload"));
    let udp = |description, egress, ingress, outcome| {
        from_peer(description, &datagram, of_udp(flow(egress, ingress)), outcome)
    };
    let tcp = |description, egress, ingress, outcome| {
        from_peer(description, &segment, of_tcp(flow(egress, ingress)), outcome)
    };
    let table = vec![
        from_peer("an unknown flow", &datagram, none(), Outcome::Decapsulated),
        udp("only the other direction is proven", PROVEN, UNKNOWN, Outcome::Decapsulated),
        udp("proven too long ago", PROVEN, OLD, Outcome::Decapsulated),
        udp("proven", UNKNOWN, PROVEN, Outcome::Delivered),
        udp("proven both ways", PROVEN, PROVEN, Outcome::Delivered),
        tcp("TCP, proven in this direction", UNKNOWN, PROVEN, Outcome::Decapsulated),
        tcp("TCP, proven both ways", PROVEN, PROVEN, Outcome::Delivered),
        tcp("TCP, the other direction proven long ago", OLD, PROVEN, Outcome::Delivered),
        tcp("TCP, proven too long ago", PROVEN, OLD, Outcome::Decapsulated),
    ];
    check_unwrapped(&mut Programs::with_flow_cache(), table);
}

#[test]
fn some_packets_of_a_proven_flow_need_the_stack() {
    let (udp, tcp) = (|| of_udp(flow(PROVEN, PROVEN)), || of_tcp(flow(PROVEN, PROVEN)));
    let ping = PodSide::Ingress.packet(IpNumber::ICMP, vec![8, 0, 0, 0, 0, 1, 0, 1]);
    let good = || PodSide::Ingress.udp(b"x");
    let table = [
        ("TTL 2", good().ttl(2), Outcome::Delivered),
        ("TTL 1", good().ttl(1), Outcome::Decapsulated),
        ("TTL 0", good().ttl(0), Outcome::Decapsulated),
        ("as long as the pod's MTU", PodSide::Ingress.udp(&[1; POD_MTU - 28]), Outcome::Delivered),
        ("one byte longer", PodSide::Ingress.udp(&[1; POD_MTU - 28 + 1]), Outcome::Decapsulated),
        ("a fragment", good().fragment(0, true), Outcome::Decapsulated),
        ("IP options", good().options([0x94, 4, 0, 0]), Outcome::Decapsulated),
        ("a ping", ping, Outcome::Decapsulated),
    ];
    let gone = of_udp(moved(flow(PROVEN, PROVEN), |port| port.ifindex = 99));
    let gone = from_peer("a port that is gone", &good(), gone, Outcome::Decapsulated);
    let rows = table.map(|(description, packet, outcome)| from_peer(description, &packet, udp(), outcome));
    let controls = controls(PodSide::Ingress)
        .map(|(description, packet)| from_peer(description, &packet, tcp(), Outcome::Decapsulated));
    check_unwrapped(
        &mut Programs::with_flow_cache(),
        rows.into_iter().chain(controls).chain([gone]).collect(),
    );
}

#[test]
fn nothing_skips_the_stack_without_the_flow_cache() {
    let proven = of_udp(flow(PROVEN, PROVEN));
    let table = vec![from_peer("proven", &PodSide::Ingress.udp(b"x"), proven, Outcome::Decapsulated)];
    check_unwrapped(&mut Programs::load(), table);
}
