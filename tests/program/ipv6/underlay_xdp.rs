//! XDP of the uplink: VXLAN over IPv6.

use etherparse::IpNumber;
use flannel_common::node::XDP_GENERIC;
use flannel_common::outcome::Outcome;

use super::super::underlay_xdp::{
    ExpectedMetadata, all_passed_on, configured, from, handed_over, native, run,
};
use super::super::{VNI, untouched};
use super::sample::{POD, REMOTE, back, tcp_back, udp_back};
use super::underlay::{arrives, carried_frames, carrying, framed, from_peer, other_traffic, outer, unusual};
use super::{DIRECT_IP, PEER_IP};
use crate::packets::{tcp, udp_over_ipv6, vxlan};

#[test]
fn a_packet_from_a_peer_is_unwrapped_and_gets_metadata() {
    let mut programs = native();
    for (description, sent) in carried_frames() {
        for traffic_class in 0..4 {
            let packet = from_peer(&vxlan(8, VNI, &sent)).traffic_class(0x28 | traffic_class);
            let expected = ExpectedMetadata { tos: 0x28 | traffic_class, ..from(&PEER_IP) };
            handed_over(&run(&mut programs, &arrives(&packet)), &expected, &sent, description);
        }
    }
}

#[test]
fn the_sender_is_in_the_metadata_and_not_checked() {
    let inner = framed(&udp_back(b"payload"));
    let sent = arrives(&outer(DIRECT_IP.into(), &vxlan(8, VNI, &inner)));
    handed_over(&run(&mut native(), &sent), &from(&DIRECT_IP), &inner, "another node");
}

#[test]
fn unusual_packets_and_other_traffic_are_passed_on() {
    all_passed_on(&mut native(), unusual());
    all_passed_on(&mut native(), other_traffic());
}

/// Without the sender check TC unwraps it. With the check the kernel does, and the switch may change in between.
#[test]
fn a_link_local_packet_is_left_to_tc_also_without_the_sender_check() {
    let mut packet = back(IpNumber::IPV6_ICMP, vec![135; 24]);
    packet.header.source = "fe80::2".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let table = vec![untouched("neighbour discovery", carrying(&framed(&packet)), Outcome::LinkLocal)];
    all_passed_on(&mut configured(|node| node.v6.source_check = 0), table);
}

#[test]
fn in_generic_mode_a_packet_that_may_be_an_aggregate_is_passed_on() {
    let mut programs = configured(|node| node.xdp = XDP_GENERIC);
    let datagram = |payload: &[u8]| udp_over_ipv6(REMOTE, POD, 53, 40000, payload);
    for (description, packet) in [
        ("an acknowledgement", back(IpNumber::TCP, tcp(53, 40000, |_| {}, &[]))),
        ("an empty datagram", back(IpNumber::UDP, datagram(&[]))),
        ("a ping", back(IpNumber::IPV6_ICMP, vec![128, 0, 0, 0, 0, 1, 0, 1])),
    ] {
        let expected = ExpectedMetadata { late: 1, ..from(&PEER_IP) };
        handed_over(
            &run(&mut programs, &carrying(&framed(&packet))),
            &expected,
            &framed(&packet),
            description,
        );
    }
    let doubtful =
        |description, packet| untouched(description, carrying(&framed(&packet)), Outcome::MaybeAggregate);
    let table = vec![
        doubtful("TCP", tcp_back(b"x")),
        doubtful("UDP", udp_back(b"x")),
        doubtful("ICMP of IPv4", back(IpNumber::ICMP, vec![8, 0, 0, 0, 0, 1, 0, 1])),
    ];
    all_passed_on(&mut programs, table);
}
