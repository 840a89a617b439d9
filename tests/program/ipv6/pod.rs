//! The pods' bridge ports: packets from pods and to them.

use etherparse::{EtherType, IpNumber};
use flannel_common::address::V6;
use flannel_common::flow::Way;
use flannel_common::lease::{DIRECT, Lease};
use flannel_common::outcome::{Hook, Outcome};

use super::super::flow::sample::{GATEWAY_MAC, POD_MAC};
use super::super::flow::{
    Flows, LOST, NEIGHBOUR_MAC, NOW, OLD, PROVEN, Row, UNKNOWN, check, flow, moved, none, now, row,
};
use super::super::way::set_too_big;
use super::super::{OUR_MAC6, Programs};
use super::sample::{POD, back, hop, no_flows, of_tcp, of_udp, out, tcp_out, udp_back, udp_out};
use super::{DIRECT_IP, OUR_SUBNET, PEER_IP, PEER_MAC, PEER_SUBNET};
use crate::packets::{Ipv6, frame, ipv6};

fn sent(packet: &Ipv6) -> Vec<u8> {
    frame(GATEWAY_MAC, POD_MAC, EtherType::IPV6, &packet.bytes())
}

fn check_sent(table: Vec<Row<V6>>) {
    check(&mut Programs::with_flow_cache(), Hook::PodEgress, table, |run, sent| {
        assert_eq!(run.packet, hop(sent, PEER_MAC, OUR_MAC6));
    });
}

fn one(
    description: &'static str,
    packet: Ipv6,
    before: Flows<V6>,
    outcome: Outcome,
    after: Flows<V6>,
) -> Row<V6> {
    row(description, sent(&packet), before, outcome, after)
}

#[test]
fn a_proven_flow_skips_the_stack_to_the_vxlan_device() {
    let proven = flow(PROVEN, PROVEN);
    let elsewhere = moved(proven, |port| port.ifindex = 99);
    let ping = out(IpNumber::IPV6_ICMP, vec![128, 0, 0, 0, 0, 1, 0, 1]);
    let same = |description, packet, known: Flows<V6>, outcome| {
        one(description, packet, known.clone(), outcome, known)
    };
    let mut table = vec![
        same("the first one", udp_out(b"x"), none(), Outcome::FlowNew).noted(),
        same("proven", udp_out(b"x"), of_udp(flow(PROVEN, UNKNOWN)), Outcome::Forwarded),
        same("proven too long ago", udp_out(b"x"), of_udp(flow(OLD, PROVEN)), Outcome::FlowStale).noted(),
        same("TCP, no answer yet", tcp_out(b"x"), of_tcp(flow(PROVEN, UNKNOWN)), Outcome::FlowNew).noted(),
        same("TCP", tcp_out(b"x"), of_tcp(proven), Outcome::Forwarded),
        same("TTL 2", udp_out(b"x").hop_limit(2), of_udp(proven), Outcome::Forwarded),
        same("TTL 1", udp_out(b"x").hop_limit(1), of_udp(proven), Outcome::TtlExpired),
        same("another port", udp_out(b"x"), of_udp(elsewhere), Outcome::FlowNew).noted(),
    ];
    table.extend(
        no_flows(udp_out(b"x"), ping)
            .map(|(what, packet)| same(what, packet, of_udp(proven), Outcome::NotCacheable)),
    );
    check_sent(table);
}

#[test]
fn a_packet_that_may_be_too_long_for_the_path_goes_to_the_stack() {
    // Headers: inner IPv6 and UDP; Ethernet and what VXLAN puts before it.
    let (inner, outer) = (40 + 8, 14 + 8 + 8 + 40);
    let proven = of_udp(flow(PROVEN, PROVEN));
    let same = |description, length: usize, outcome| {
        one(description, udp_out(&vec![1; length]), proven.clone(), outcome, proven.clone())
    };
    let tcp = |description, segment, outcome| {
        let known = of_tcp(flow(PROVEN, PROVEN));
        one(description, tcp_out(&[1; 3000]), known.clone(), outcome, known).gso(segment)
    };
    check_sent(vec![
        same("the smallest MTU of a link", 1280 - outer - inner, Outcome::Forwarded),
        // The namespace of these runs has no route to the peer.
        same("one byte more", 1280 - outer - inner + 1, Outcome::TooBig),
        tcp("an aggregate of segments of this length", 1280 - outer - 60, Outcome::Forwarded),
        tcp("an aggregate of segments that are too long", 1500 - outer - 60 + 1, Outcome::TooBig),
    ]);
}

#[test]
fn the_kernel_is_asked_for_the_path_for_a_while_after_a_packet_was_too_big() {
    let mut flow = flow(PROVEN, PROVEN);
    flow.way = Way { public_ip: PEER_IP, vtep_mac: PEER_MAC, mtu: 1500, ..Way::default() };
    let known = of_udp(flow);
    for (ago, length, outcome) in [
        (None, 1300, Outcome::Forwarded),
        (Some(PROVEN), 1000, Outcome::Forwarded),
        // The namespace of these runs has no route to the peer.
        (Some(PROVEN), 1300, Outcome::NoPath),
        (Some(OLD), 1300, Outcome::Forwarded),
    ] {
        let mut programs = Programs::with_flow_cache();
        let time = ago.map_or(0, |ago| now() - ago);
        set_too_big(&mut programs, time);
        let row = one("a datagram", udp_out(&vec![1; length]), known.clone(), outcome, known.clone());
        check(&mut programs, Hook::PodEgress, vec![row], |_, _| {});
    }
}

#[test]
fn a_packet_to_no_peer_is_passed_on() {
    let to = |mut address: V6| {
        address[15] |= 1;
        ipv6(POD, address.into(), IpNumber::UDP, vec![0; 8])
    };
    let multicast = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    check_sent(vec![
        one("a pod of this node", to(OUR_SUBNET), none(), Outcome::NoLease, none()).noted(),
        one("multicast", to(multicast), none(), Outcome::NoLease, none()).noted(),
    ]);
}

#[test]
fn a_proven_flow_to_a_peer_on_the_link_leaves_without_a_tunnel() {
    let mut programs = Programs::with_flow_cache();
    let on_link = Lease { public_ip: DIRECT_IP, vtep_mac: PEER_MAC, flags: DIRECT, route_mtu: 0 };
    programs.lease(64, PEER_SUBNET, on_link);
    let known = of_udp(flow(PROVEN, UNKNOWN));
    let table = vec![
        one("the first one", udp_out(b"x"), none(), Outcome::FlowNew, none()).noted(),
        one("proven", udp_out(b"x"), known.clone(), Outcome::OnLink, known),
    ];
    check(&mut programs, Hook::PodEgress, table, |run, sent| {
        assert_eq!(run.packet, hop(sent, NEIGHBOUR_MAC, [0; 6]));
    });
}

#[test]
fn a_packet_that_reaches_a_pod_proves_its_flow() {
    let received = |packet: &Ipv6| frame(POD_MAC, GATEWAY_MAC, EtherType::IPV6, &packet.bytes());
    let ping = back(IpNumber::IPV6_ICMP, vec![128, 0, 0, 0, 0, 1, 0, 1]);
    let one = |description, packet: Ipv6, before, outcome, after| {
        row(description, received(&packet), before, outcome, after)
    };
    let left = flow(UNKNOWN, NOW);
    let known = || of_udp(flow(PROVEN, PROVEN));
    let mut table = vec![
        one("the first one", udp_back(b"x"), none(), Outcome::FlowProven, of_udp(left)),
        one("it was not noted", udp_back(b"x"), none(), Outcome::NoFlow, none()).not_noted(),
        one("it was not noted, of a proven flow", udp_back(b"x"), known(), Outcome::NoFlow, known())
            .not_noted(),
        one("it entered too long ago", udp_back(b"x"), none(), Outcome::NoFlow, none())
            .entered(|record| record.at = LOST),
        one("a record that two packets have written", udp_back(b"x"), none(), Outcome::NoFlow, none())
            .torn(|record| record.key.remote[15] ^= 1),
    ];
    table.extend(
        no_flows(udp_back(b"x"), ping)
            .map(|(what, packet)| one(what, packet, known(), Outcome::NotCacheable, known())),
    );
    check(&mut Programs::with_flow_cache(), Hook::PodIngress, table, |_, _| {
        unreachable!("this program carries nothing")
    });
}
