//! XDP of the uplink: VXLAN over IPv6.

use etherparse::IpNumber;
use flannel_common::node::XDP_GENERIC;
use flannel_common::outcome::Outcome;

use super::super::underlay_xdp::{Word, configured, from, handed_over, left_alone, native, run};
use super::super::{VNI, untouched};
use super::sample::{POD, REMOTE, back, tcp_back, udp_back};
use super::underlay::{arrives, carried_frames, carrying, framed, from_peer, hosts_own, odd, outer};
use super::{DIRECT_IP, PEER_IP};
use crate::packets::{tcp, udp_over_ipv6, vxlan};

#[test]
fn strips_what_a_peer_sent_and_leaves_word() {
    let mut programs = native();
    for (description, sent) in carried_frames() {
        for traffic_class in 0..4 {
            let packet = from_peer(&vxlan(8, VNI, &sent)).traffic_class(0x28 | traffic_class);
            let word = Word { tos: 0x28 | traffic_class, ..from(&PEER_IP) };
            handed_over(&run(&mut programs, &arrives(&packet)), &word, &sent, description);
        }
    }
}

#[test]
fn the_sender_is_told_and_not_judged() {
    let inner = framed(&udp_back(b"payload"));
    let sent = arrives(&outer(DIRECT_IP.into(), &vxlan(8, VNI, &inner)));
    handed_over(&run(&mut native(), &sent), &from(&DIRECT_IP), &inner, "another node's");
}

#[test]
fn leaves_the_odd_ones_and_the_host_s_own_as_they_are() {
    left_alone(&mut native(), odd());
    left_alone(&mut native(), hosts_own());
}

/// Without the sender check TC unwraps it; with, it is the kernel's, whatever the programs knew a moment ago.
#[test]
fn what_no_router_forwards_is_left_to_tc_without_the_check_too() {
    let mut packet = back(IpNumber::IPV6_ICMP, vec![135; 24]);
    packet.header.source = "fe80::2".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let table = vec![untouched("neighbour discovery", carrying(&framed(&packet)), Outcome::LinkLocal)];
    left_alone(&mut configured(|node| node.v6.source_check = 0), table);
}

#[test]
fn in_generic_mode_nothing_that_may_be_an_aggregate_is_stripped() {
    let mut programs = configured(|node| node.xdp = XDP_GENERIC);
    let datagram = |payload: &[u8]| udp_over_ipv6(REMOTE, POD, 53, 40000, payload);
    for (description, packet) in [
        ("an acknowledgement", back(IpNumber::TCP, tcp(53, 40000, |_| {}, &[]))),
        ("an empty datagram", back(IpNumber::UDP, datagram(&[]))),
        ("a ping", back(IpNumber::IPV6_ICMP, vec![128, 0, 0, 0, 0, 1, 0, 1])),
    ] {
        let word = Word { late: 1, ..from(&PEER_IP) };
        handed_over(&run(&mut programs, &carrying(&framed(&packet))), &word, &framed(&packet), description);
    }
    let doubtful =
        |description, packet| untouched(description, carrying(&framed(&packet)), Outcome::MaybeAggregate);
    let table = vec![
        doubtful("TCP", tcp_back(b"x")),
        doubtful("UDP", udp_back(b"x")),
        doubtful("ICMP of IPv4", back(IpNumber::ICMP, vec![8, 0, 0, 0, 0, 1, 0, 1])),
    ];
    left_alone(&mut programs, table);
}
