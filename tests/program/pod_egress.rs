//! Ingress of a pod's bridge port: packets from the pod. Proven flows leave from here; others enter the stack.

use etherparse::{EtherType, IpNumber};
use flannel_common::outcome::{Hook, Outcome};

use super::flow::sample::{GATEWAY_MAC, POD, POD_MAC, PodSide, controls, elsewhere, hop, no_flows};
use super::flow::{
    Flows, OLD, PROVEN, Row, UNKNOWN, changed, check, check_off, flow, none, of_generation, of_tcp, of_udp,
    row,
};
use super::overlay_egress::unwrapped;
use super::{GENERATION, OUR_MAC, PEER_IP, PEER_MAC, Programs};
use crate::packets::{Ipv4, frame, ipv4, tcp, udp};

const HOOK: Hook = Hook::PodEgress;

fn sent(packet: &Ipv4) -> Vec<u8> {
    frame(GATEWAY_MAC, POD_MAC, EtherType::IPV4, &packet.bytes())
}

fn datagram() -> Vec<u8> {
    sent(&PodSide::Egress.udp(b"payload"))
}

fn segment() -> Vec<u8> {
    sent(&PodSide::Egress.tcp(|_| {}, b"payload"))
}

fn check_all(table: Vec<Row>) {
    check(&mut Programs::with_flow_cache(), HOOK, table, |run, sent| {
        assert_eq!(unwrapped(&run.packet, PEER_IP, 0), hop(sent, PEER_MAC, OUR_MAC));
    });
}

#[test]
fn a_datagram_skips_the_stack_while_its_direction_is_proven() {
    let one =
        |description, flows: Flows, outcome| row(description, datagram(), flows.clone(), outcome, flows);
    let known = |egress, ingress| of_udp(flow(egress, ingress));
    check_all(vec![
        one("the first one", none(), Outcome::FlowNew).noted(),
        one("only the answers are proven", known(UNKNOWN, PROVEN), Outcome::FlowNew).noted(),
        one("proven", known(PROVEN, UNKNOWN), Outcome::Encapsulated),
        one("proven both ways", known(PROVEN, PROVEN), Outcome::Encapsulated),
        one("proven, the answers too long ago", known(PROVEN, OLD), Outcome::Encapsulated),
        one("proven too long ago", known(OLD, PROVEN), Outcome::FlowStale).noted(),
    ]);
}

#[test]
fn a_segment_skips_the_stack_while_both_directions_are_known() {
    let known = |egress, ingress| of_tcp(flow(egress, ingress));
    let one = |description, flows: Flows, outcome| row(description, segment(), flows.clone(), outcome, flows);
    check_all(vec![
        one("the first one", none(), Outcome::FlowNew).noted(),
        one("no answer yet", known(PROVEN, UNKNOWN), Outcome::FlowNew).noted(),
        one("answers alone", known(UNKNOWN, PROVEN), Outcome::FlowNew).noted(),
        one("proven both ways", known(PROVEN, PROVEN), Outcome::Encapsulated),
        one("no answer for long", known(PROVEN, OLD), Outcome::Encapsulated),
        one("proven too long ago", known(OLD, PROVEN), Outcome::FlowStale).noted(),
    ]);
}

#[test]
fn a_proof_of_another_generation_does_not_hold() {
    let one = |description, packet, known: Flows, outcome| {
        row(description, packet, known.clone(), outcome, known).noted()
    };
    let of = |generation| of_generation(flow(PROVEN, PROVEN), generation);
    check_all(vec![
        one("an older one", datagram(), of_udp(of(GENERATION - 1)), Outcome::FlowStale),
        one("a newer one", datagram(), of_udp(of(GENERATION + 1)), Outcome::FlowStale),
        one("TCP", segment(), of_tcp(of(GENERATION - 1)), Outcome::FlowStale),
    ]);
}

#[test]
fn a_proof_holds_as_long_as_the_node_says() {
    let (udp, tcp) = (of_udp(flow(PROVEN, PROVEN)), of_tcp(flow(PROVEN, PROVEN)));
    for (shorter, expected) in
        [([0, 10_000], [false, true]), ([10_000, 0], [true, false]), ([10_000; 2], [true; 2])]
    {
        let mut programs = Programs::configured(|node| {
            node.flow_cache = 1;
            [node.udp_proof, node.tcp_proof] = shorter;
        });
        let rows = [("UDP", datagram(), &udp), ("TCP", segment(), &tcp)].into_iter().zip(expected);
        let rows = rows.map(|((name, packet, known), holds)| {
            let outcome = if holds { Outcome::Encapsulated } else { Outcome::FlowStale };
            let row = row(name, packet, known.clone(), outcome, known.clone());
            if holds { row } else { row.noted() }
        });
        check(&mut programs, HOOK, rows.collect(), |_, _| {});
    }
}

#[test]
fn a_flow_whose_packets_the_stack_changes_stays_there() {
    let one = |description, packet, flows: Flows, outcome| {
        row(description, packet, flows.clone(), outcome, flows).noted()
    };
    let (this, other) = ([true, false], [false, true]);
    let now = changed(flow(PROVEN, PROVEN), this);
    let answers = changed(flow(PROVEN, PROVEN), other);
    check_all(vec![
        one("not long ago", datagram(), of_udp(now), Outcome::FlowChanged),
        one("long ago", datagram(), of_udp(changed(flow(OLD, PROVEN), this)), Outcome::FlowNew),
        one("TCP, the answers", segment(), of_tcp(answers), Outcome::FlowChanged),
    ]);
}

#[test]
fn a_connection_that_begins_or_ends_is_removed() {
    let proven = of_tcp(flow(PROVEN, PROVEN));
    let rows = controls(PodSide::Egress).into_iter().flat_map(|(description, packet)| {
        [&proven, &none()]
            .map(|before| row(description, sent(&packet), before.clone(), Outcome::TcpControl, none()))
    });
    check_all(rows.collect());
}

#[test]
fn a_flow_belongs_to_the_port_that_it_was_proven_at() {
    let rows = elsewhere().map(|(description, known)| {
        row(description, datagram(), of_udp(known), Outcome::FlowNew, of_udp(known)).noted()
    });
    check_all(rows.into());
}

#[test]
fn a_packet_without_a_flow_is_passed_on() {
    check_all(no_flows(PodSide::Egress, |ether_type, payload| {
        frame(GATEWAY_MAC, POD_MAC, ether_type, payload)
    }));
}

#[test]
fn a_packet_to_no_peer_is_passed_on_and_may_be_to_a_service() {
    let table = [
        ("a pod of this node", [10, 1, 90, 9], Outcome::NoLease),
        ("a pod that is not leased", [10, 1, 99, 9], Outcome::Unleased),
        ("an address outside the network", [203, 0, 113, 1], Outcome::NoLease),
        ("multicast", [224, 0, 0, 251], Outcome::NoLease),
        ("broadcast", [255, 255, 255, 255], Outcome::NoLease),
    ];
    let rows = table.map(|(description, address, outcome): (_, [u8; 4], _)| {
        let packet = ipv4(POD, address.into(), IpNumber::UDP, udp(40000, 53, b"x"));
        row(description, sent(&packet), none(), outcome, none()).noted()
    });
    check_all(rows.into());
}

#[test]
fn a_packet_to_no_peer_is_counted_as_such_whatever_its_flow_lacks() {
    let to = |protocol, payload| sent(&ipv4(POD, [203, 0, 113, 1].into(), protocol, payload));
    let one = |description, packet| row(description, packet, none(), Outcome::NoLease, none());
    let syn = tcp(40000, 53, |tcp| (tcp.syn, tcp.ack) = (true, false), b"");
    check_all(vec![
        one("the begin of a connection", to(IpNumber::TCP, syn)),
        one("a ping", to(IpNumber::ICMP, vec![8, 0, 0, 0, 0, 1, 0, 1])),
    ]);
}

#[test]
fn a_packet_that_needs_an_answer_from_the_stack_goes_there() {
    let proven = of_udp(flow(PROVEN, PROVEN));
    let aggregate = |gso_size, outcome| {
        let packet = sent(&PodSide::Egress.tcp(|_| {}, &[0x50; 3000]));
        let known = of_tcp(flow(PROVEN, PROVEN));
        row("an aggregate", packet, known.clone(), outcome, known).gso(gso_size)
    };
    let same = |description, packet: Ipv4, outcome| {
        row(description, sent(&packet), proven.clone(), outcome, proven.clone())
    };
    // Outer headers of 36 bytes, and Ethernet, IPv4 and UDP or TCP inside.
    let longest = 1500 - 36 - 14 - 20 - 8;
    let segment = 1500 - 36 - 14 - 20 - 20;
    let last_hop = sent(&PodSide::Egress.udp(b"x").ttl(1));
    check_all(vec![
        same("TTL 2", PodSide::Egress.udp(b"x").ttl(2), Outcome::Encapsulated),
        same("TTL 1", PodSide::Egress.udp(b"x").ttl(1), Outcome::TtlExpired),
        same("TTL 0", PodSide::Egress.udp(b"x").ttl(0), Outcome::TtlExpired),
        row("TTL 1, a new flow", last_hop, none(), Outcome::FlowNew, none()).noted(),
        same("the longest that fits", PodSide::Egress.udp(&vec![1; longest]), Outcome::Encapsulated),
        same("one byte too long", PodSide::Egress.udp(&vec![1; longest + 1]), Outcome::TooBig),
        aggregate(segment + 1, Outcome::TooBig),
        // A test run cannot give the aggregate's type, and the kernel grows none without.
        aggregate(segment, Outcome::NoRoom),
    ]);
}

#[test]
fn nothing_is_noted_without_flow_cache_or_configuration() {
    check_off(HOOK, &datagram());
}
