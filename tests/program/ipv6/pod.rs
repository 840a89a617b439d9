//! The pods' bridge ports: packets from pods and to them.

use etherparse::{EtherType, IpNumber};
use flannel_common::address::V6;
use flannel_common::flow::Port;
use flannel_common::lease::{DIRECT, Lease};
use flannel_common::outcome::{Hook, Outcome};

use super::super::flow::sample::{GATEWAY_MAC, POD_MAC};
use super::super::flow::{
    FRESH, Flows, NEVER, NOW, OLD, PROVEN, Row, STALE, UNKNOWN, check, flow, moved, none, row,
};
use super::super::{OUR_MAC6, Programs};
use super::sample::{POD, back, hop, no_flows, of_tcp, of_udp, out, tcp_out, udp_back, udp_out};
use super::{DIRECT_IP, OUR_SUBNET, PEER_MAC, PEER_SUBNET};
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
    let (proven, entered) = (flow(PROVEN, PROVEN), flow([NOW, NEVER], UNKNOWN));
    let ping = out(IpNumber::IPV6_ICMP, vec![128, 0, 0, 0, 0, 1, 0, 1]);
    let same = |description, packet, known: Flows<V6>, outcome| {
        one(description, packet, known.clone(), outcome, known)
    };
    let mut table = vec![
        one("the first one", udp_out(b"x"), none(), Outcome::FlowNew, of_udp(entered)),
        same("proven", udp_out(b"x"), of_udp(flow(PROVEN, UNKNOWN)), Outcome::Forwarded),
        one(
            "proven too long ago",
            udp_out(b"x"),
            of_udp(flow(OLD, PROVEN)),
            Outcome::FlowStale,
            of_udp(flow([NOW, STALE], PROVEN)),
        ),
        one(
            "TCP, no answer yet",
            tcp_out(b"x"),
            of_tcp(flow(PROVEN, UNKNOWN)),
            Outcome::FlowNew,
            of_tcp(flow([NOW, FRESH], UNKNOWN)),
        ),
        same("TCP", tcp_out(b"x"), of_tcp(proven), Outcome::Forwarded),
        same("TTL 2", udp_out(b"x").hop_limit(2), of_udp(proven), Outcome::Forwarded),
        same("TTL 1", udp_out(b"x").hop_limit(1), of_udp(proven), Outcome::TtlExpired),
        one(
            "another port",
            udp_out(b"x"),
            of_udp(moved(proven, |port| port.ifindex = 99)),
            Outcome::FlowNew,
            of_udp(entered),
        ),
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
        same("one byte more", 1280 - outer - inner + 1, Outcome::NoPath),
        same("as long as the MTU of the uplink", 1500 - outer - inner, Outcome::NoPath),
        same("one byte too long", 1500 - outer - inner + 1, Outcome::TooBig),
        tcp("an aggregate of segments of this length", 1280 - outer - 60, Outcome::Forwarded),
        tcp("an aggregate of segments that are too long", 1500 - outer - 60 + 1, Outcome::TooBig),
    ]);
}

#[test]
fn a_packet_to_no_peer_is_passed_on() {
    let to = |mut address: V6| {
        address[15] |= 1;
        ipv6(POD, address.into(), IpNumber::UDP, vec![0; 8])
    };
    let multicast = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    check_sent(vec![
        one("a pod of this node", to(OUR_SUBNET), none(), Outcome::NoLease, none()),
        one("neighbour discovery", to(multicast), none(), Outcome::NoLease, none()),
    ]);
}

#[test]
fn a_proven_flow_to_a_peer_on_the_link_leaves_without_a_tunnel() {
    let mut programs = Programs::with_flow_cache();
    let on_link = Lease { public_ip: DIRECT_IP, vtep_mac: PEER_MAC, flags: DIRECT, route_mtu: 0 };
    programs.lease(64, PEER_SUBNET, on_link);
    let (known, entered) = (of_udp(flow(PROVEN, UNKNOWN)), of_udp(flow([NOW, NEVER], UNKNOWN)));
    let table = vec![
        one("the first one", udp_out(b"x"), none(), Outcome::FlowNew, entered),
        one("proven", udp_out(b"x"), known.clone(), Outcome::OnLink, known),
    ];
    check(&mut programs, Hook::PodEgress, table, |run, sent| {
        assert_eq!(run.packet, hop(sent, PEER_MAC, OUR_MAC6));
    });
}

#[test]
fn a_packet_that_reaches_a_pod_proves_its_flow() {
    let received = |packet: &Ipv6| frame(POD_MAC, GATEWAY_MAC, EtherType::IPV6, &packet.bytes());
    let ping = back(IpNumber::IPV6_ICMP, vec![128, 0, 0, 0, 0, 1, 0, 1]);
    let nowhere = |flow| moved(flow, |port| *port = Port::default());
    let one = |description, packet: Ipv6, before, outcome, after| {
        row(description, received(&packet), before, outcome, after)
    };
    let (entered, left) = (flow(UNKNOWN, [FRESH, NEVER]), flow(UNKNOWN, [FRESH, NOW]));
    let known = || of_udp(flow(PROVEN, PROVEN));
    let mut table = vec![
        one("the first one", udp_back(b"x"), of_udp(nowhere(entered)), Outcome::FlowProven, of_udp(left)),
        one("an unknown flow", udp_back(b"x"), none(), Outcome::NoFlow, none()),
        one(
            "no packet has entered in this direction",
            udp_back(b"x"),
            of_udp(flow(PROVEN, UNKNOWN)),
            Outcome::NoFlow,
            of_udp(flow(PROVEN, UNKNOWN)),
        ),
    ];
    table.extend(
        no_flows(udp_back(b"x"), ping)
            .map(|(what, packet)| one(what, packet, known(), Outcome::NotCacheable, known())),
    );
    check(&mut Programs::with_flow_cache(), Hook::PodIngress, table, |_, _| {
        unreachable!("this program carries nothing")
    });
}
