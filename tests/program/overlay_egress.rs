//! Egress of the vxlan device: packets that the host has routed into the overlay.

use std::net::Ipv4Addr;

use etherparse::{EtherType, IpNumber, Ipv4Header, SlicedPacket};
use flannel_common::lease::Lease;
use flannel_common::outcome::{Hook, Outcome};

use super::flow::sample::{PodSide, controls};
use super::flow::{Flows, LOST, NOW, OLD, PROVEN, UNKNOWN, changed, check, flow, none, of_tcp, of_udp, row};
use super::{
    INNER_PEER_IP, INNER_PEER_MAC, OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, Programs, Untouched, VNI,
    all_untouched, carried, untouched,
};
use crate::packets::{Ipv4, PORT, frame, ipv4, udp};

const POD: Ipv4Addr = Ipv4Addr::new(10, 1, 90, 2);
const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 1, 15, 7);

fn to_remote(payload: &[u8]) -> Ipv4 {
    ipv4(POD, REMOTE, IpNumber::UDP, udp(40000, 53, payload))
}

pub(super) fn to_peer(packet: &Ipv4) -> Vec<u8> {
    frame(PEER_MAC, OUR_MAC, EtherType::IPV4, &packet.bytes())
}

/// A frame of this length, Ethernet header included.
fn of_length(length: usize) -> Vec<u8> {
    to_peer(&to_remote(&vec![0xab; length - 14 - 20 - 8]))
}

/// Checks the outer headers with etherparse, and returns the inner frame.
pub(super) fn unwrapped(packet: &[u8], peer: [u8; 4], ecn: u8) -> Vec<u8> {
    let sliced = SlicedPacket::from_ethernet(packet).unwrap();
    let Some(etherparse::NetSlice::Ipv4(ip)) = &sliced.net else { panic!("the outer packet is not IPv4") };
    let header = ip.header();
    assert_eq!((header.source(), header.destination()), (OUR_IP, peer));
    assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
    assert_eq!(usize::from(header.total_len()), packet.len() - 14);
    assert_eq!((header.ttl(), header.dont_fragment(), header.is_fragmenting_payload()), (64, false, false));
    assert_eq!((header.dcp().value(), header.ecn().value()), (0, ecn));
    let Some(etherparse::TransportSlice::Udp(udp)) = &sliced.transport else { panic!("it is not UDP") };
    assert_eq!((udp.destination_port(), udp.checksum()), (PORT, 0));
    assert!((32768..=60999).contains(&udp.source_port()), "source port {}", udp.source_port());
    assert_eq!(usize::from(udp.length()), packet.len() - 14 - 20);
    let (vxlan, inner) = udp.payload().split_at(8);
    assert_eq!(vxlan, [8, 0, 0, 0, 0, 0, VNI as u8, 0]);
    inner.to_vec()
}

#[test]
fn any_ip_packet_to_a_leased_subnet_is_wrapped() {
    let icmp = ipv4(POD, REMOTE, IpNumber::ICMP, vec![8, 0, 0, 0, 0, 1, 0, 1]);
    let empty = Ipv4 {
        header: Ipv4Header::new(0, 1, IpNumber(253), POD.octets(), REMOTE.octets()).unwrap(),
        payload: vec![],
    };
    let table = [
        ("UDP", to_peer(&to_remote(b"payload"))),
        ("ICMP", to_peer(&icmp)),
        ("an IPv4 header and nothing else, TTL 1", to_peer(&empty)),
        ("IP options", to_peer(&to_remote(b"x").options([0x94, 4, 0, 0]))),
        ("first fragment", to_peer(&to_remote(&[1; 64]).fragment(0, true))),
        ("later fragment", to_peer(&to_remote(&[1; 64]).fragment(185, false))),
        ("the longest that fits: 1500 - 36 bytes", of_length(1464)),
        ("trailing bytes", [to_peer(&to_remote(b"x")).as_slice(), &[0; 9]].concat()),
    ];
    let mut programs = Programs::load();
    for (description, sent) in table {
        let run = programs.run(Hook::OverlayEgress, &sent, 0);
        carried(&run, Outcome::Encapsulated, description);
        assert_eq!(unwrapped(&run.packet, PEER_IP, 0), sent, "{description}");
    }
}

#[test]
fn the_lease_with_the_longest_prefix_counts() {
    let packet = ipv4(POD, Ipv4Addr::new(10, 1, 15, 200), IpNumber::UDP, udp(1, 2, b"x"));
    let sent = frame(INNER_PEER_MAC, OUR_MAC, EtherType::IPV4, &packet.bytes());
    let run = Programs::load().run(Hook::OverlayEgress, &sent, 0);
    carried(&run, Outcome::Encapsulated, "inside the /25");
    assert_eq!(unwrapped(&run.packet, INNER_PEER_IP, 0), sent);
}

#[test]
fn ecn_is_copied_and_dscp_is_not() {
    let mut programs = Programs::load();
    for ecn in 0..4 {
        let sent = to_peer(&to_remote(b"x").tos(46, ecn));
        let run = programs.run(Hook::OverlayEgress, &sent, 0);
        carried(&run, Outcome::Encapsulated, "ECN");
        assert_eq!(unwrapped(&run.packet, PEER_IP, ecn), sent);
    }
}

#[test]
fn other_packets_go_to_the_kernel_device() {
    let good = to_peer(&to_remote(b"payload"));
    let to = |address: [u8; 4]| to_peer(&ipv4(POD, address.into(), IpNumber::UDP, udp(1, 2, b"x")));
    let with = |at: usize, byte: u8| {
        let mut frame = good.clone();
        frame[at] = byte;
        frame
    };
    let aggregate = |description, protocol, gso_size, outcome| Untouched {
        description,
        frame: to_peer(&ipv4(POD, REMOTE, protocol, vec![0x50; 3000])),
        gso_size,
        outcome,
    };
    let table = vec![
        untouched("ARP", frame(PEER_MAC, OUR_MAC, EtherType::ARP, &[0; 28]), Outcome::NotIp),
        untouched(
            "VLAN tag",
            frame(PEER_MAC, OUR_MAC, EtherType::VLAN_TAGGED_FRAME, &good[10..]),
            Outcome::NotIp,
        ),
        untouched("IP version 6 under IPv4's EtherType", with(14, 0x65), Outcome::NotIp),
        untouched("a subnet that is not leased", to([10, 1, 99, 1]), Outcome::Unleased),
        untouched("an address outside the network", to([10, 2, 99, 1]), Outcome::NoLease),
        untouched("this node's own subnet", to([10, 1, 90, 9]), Outcome::NoLease),
        untouched("a lease that has just ended", to([10, 1, 16, 9]), Outcome::Unleased),
        untouched("a node's own address", to(PEER_IP), Outcome::NoLease),
        untouched("multicast", to([224, 0, 0, 1]), Outcome::NoLease),
        untouched("broadcast", to([255, 255, 255, 255]), Outcome::NoLease),
        untouched("another MAC than the lease's", with(5, 0x77), Outcome::ForeignVtep),
        untouched(
            "broadcast MAC",
            frame([0xff; 6], OUR_MAC, EtherType::IPV4, &good[14..]),
            Outcome::ForeignVtep,
        ),
        untouched("one byte too long", of_length(1465), Outcome::TooBig),
        aggregate(
            "UDP segments of one byte too many",
            IpNumber::UDP,
            1500 - 36 - 14 - 20 - 8 + 1,
            Outcome::TooBig,
        ),
        aggregate(
            "TCP segments of one byte too many",
            IpNumber::TCP,
            1500 - 36 - 14 - 20 - 20 + 1,
            Outcome::TooBig,
        ),
        // (The kernel runs no test frame that ends inside its IP header. tests/network sends such frames.)
        Untouched {
            description: "an aggregate that ends inside its TCP header",
            frame: to_peer(&ipv4(POD, REMOTE, IpNumber::TCP, vec![0; 12])),
            gso_size: 4,
            outcome: Outcome::Truncated,
        },
        aggregate("segments of ICMP", IpNumber::ICMP, 100, Outcome::GsoUnknown),
        // A test run cannot give the aggregate's type, and the kernel grows none without.
        aggregate("segments that fit", IpNumber::TCP, 1500 - 36 - 14 - 20 - 20, Outcome::NoRoom),
    ];
    all_untouched(&mut Programs::load(), Hook::OverlayEgress, table);
}

#[test]
fn packets_are_passed_on_before_the_agent_has_written_its_configuration() {
    let table = vec![untouched("a good packet", to_peer(&to_remote(b"x")), Outcome::NoConfig)];
    all_untouched(&mut Programs::unconfigured(), Hook::OverlayEgress, table);
}

#[test]
fn a_packet_that_entered_the_stack_just_before_proves_its_flow() {
    let datagram = || to_peer(&PodSide::Egress.udp(b"payload"));
    let segment = to_peer(&PodSide::Egress.tcp(|_| {}, b"payload"));
    let proof = |description, before, after| {
        row(description, datagram(), before, Outcome::Encapsulated, of_udp(after))
    };
    let same = |description, packet: &Ipv4, flows: Flows| {
        row(description, to_peer(packet), flows.clone(), Outcome::Encapsulated, flows)
    };
    let left = flow(NOW, UNKNOWN);
    let proven = || of_udp(flow(PROVEN, PROVEN));
    let mut table = vec![
        proof("the first one", none(), left),
        proof("after a long time", of_udp(flow(OLD, PROVEN)), flow(NOW, PROVEN)),
        row("TCP", segment, none(), Outcome::Encapsulated, of_tcp(left)),
        proof("a packet that the stack has changed", proven(), changed(flow(NOW, PROVEN), [true, false]))
            .token(0x1234),
        proof("a packet that the stack has made", proven(), changed(flow(NOW, PROVEN), [true, false]))
            .token(0)
            .not_noted(),
        // A packet that is too big for the uplink has left the stack unchanged as well.
        row(
            "too long",
            to_peer(&PodSide::Egress.udp(&[1; 1465 - 42])),
            none(),
            Outcome::TooBig,
            of_udp(left),
        ),
        same("it was not noted", &PodSide::Egress.udp(b"x"), none()).not_noted(),
        same("it was not noted, of a proven flow", &PodSide::Egress.udp(b"x"), proven()).not_noted(),
        same("it entered too long ago", &PodSide::Egress.udp(b"x"), none())
            .entered(|record| record.at = LOST),
        same("it entered towards the pod", &PodSide::Egress.udp(b"x"), none())
            .entered(|record| record.from_pod = 0),
        same("a fragment", &PodSide::Egress.udp(b"x").fragment(0, true), proven()),
        same("a ping", &PodSide::Egress.packet(IpNumber::ICMP, vec![8, 0, 0, 0, 0, 1, 0, 1]), proven()),
    ];
    table.extend(controls(PodSide::Egress).map(|(description, packet)| {
        row(description, to_peer(&packet), of_tcp(flow(PROVEN, PROVEN)), Outcome::Encapsulated, none())
    }));
    check(&mut Programs::with_flow_cache(), Hook::OverlayEgress, table, |run, sent| {
        assert_eq!(unwrapped(&run.packet, PEER_IP, 0), sent);
    });
}

#[test]
fn nothing_is_proven_without_the_flow_cache() {
    let (frame, known) = (to_peer(&PodSide::Egress.udp(b"payload")), of_udp(flow(PROVEN, PROVEN)));
    let table = vec![row("UDP", frame, known.clone(), Outcome::Encapsulated, known)];
    check(&mut Programs::load(), Hook::OverlayEgress, table, |run, sent| {
        assert_eq!(unwrapped(&run.packet, PEER_IP, 0), sent);
    });
}

#[test]
fn outer_packets_fit_the_route_to_the_peer() {
    let mut programs = Programs::load();
    for (route_mtu, longest) in [(0, 1464), (1400, 1364), (300, 264), (9000, 1464)] {
        let lease = Lease { public_ip: PEER_IP, vtep_mac: PEER_MAC, flags: 0, route_mtu };
        programs.lease(24, [10, 1, 15, 0], lease);
        for (length, expected) in [(longest, Outcome::Encapsulated), (longest + 1, Outcome::TooBig)] {
            let outcome = programs.run(Hook::OverlayEgress, &of_length(length), 0).outcome;
            assert_eq!(outcome, expected, "{length} bytes to a route with MTU {route_mtu}");
        }
    }
}
