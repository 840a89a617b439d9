//! Ingress of the vxlan device: unwrapped packets. Those of proven flows go to their pod; others enter the stack.

use etherparse::EtherType;
use flannel_common::flow::Flow;
use flannel_common::outcome::{Hook, Outcome};

use super::flow::sample::{GATEWAY_MAC, POD_MAC, PodSide, controls, hop, no_flows};
use super::flow::{
    FRESH, Flows, NEVER, NOW, OLD, POD_MTU, PROVEN, Row, STALE, UNKNOWN, changed, check, check_off, flow,
    moved, none, of_tcp, of_udp, row,
};
use super::{OUR_MAC, PEER_MAC, Programs};
use crate::packets::{Ipv4, frame};

const HOOK: Hook = Hook::OverlayIngress;

fn received(packet: &Ipv4) -> Vec<u8> {
    frame(OUR_MAC, PEER_MAC, EtherType::IPV4, &packet.bytes())
}

fn datagram() -> Vec<u8> {
    received(&PodSide::Ingress.udp(b"payload"))
}

/// Makes a flow of which a packet has just entered the stack, and whose port is not known yet.
fn entered() -> Flow {
    moved(flow(UNKNOWN, [NOW, NEVER]), |port| *port = Default::default())
}

fn check_all(table: Vec<Row>) {
    check(&mut Programs::with_flow_cache(), HOOK, table, |run, sent| {
        assert_eq!(run.packet, hop(sent, POD_MAC, GATEWAY_MAC));
    });
}

#[test]
fn a_datagram_goes_to_its_pod_while_its_direction_is_proven() {
    let known = |egress, ingress| of_udp(flow(egress, ingress));
    let one = |description, before, outcome, after| row(description, datagram(), before, outcome, after);
    let delivered = |description, flows: Flows| one(description, flows.clone(), Outcome::Delivered, flows);
    check_all(vec![
        one("the first one", none(), Outcome::FlowNew, of_udp(entered())),
        one(
            "not seen to leave",
            known(PROVEN, [FRESH, NEVER]),
            Outcome::FlowNew,
            known(PROVEN, [NOW, NEVER]),
        ),
        delivered("proven", known(UNKNOWN, PROVEN)),
        delivered("proven both ways", known(PROVEN, PROVEN)),
        delivered("proven, the other way too long ago", known(OLD, PROVEN)),
        one("proven too long ago", known(PROVEN, OLD), Outcome::FlowStale, known(PROVEN, [NOW, STALE])),
    ]);
}

#[test]
fn a_segment_goes_to_its_pod_while_both_directions_are_known() {
    let segment = || received(&PodSide::Ingress.tcp(|_| {}, b"payload"));
    let known = |egress, ingress| of_tcp(flow(egress, ingress));
    let one = |description, before, outcome, after| row(description, segment(), before, outcome, after);
    check_all(vec![
        one("the first one", none(), Outcome::FlowNew, of_tcp(entered())),
        one("no answer yet", known(UNKNOWN, PROVEN), Outcome::FlowNew, known(UNKNOWN, [NOW, FRESH])),
        one("proven both ways", known(PROVEN, PROVEN), Outcome::Delivered, known(PROVEN, PROVEN)),
        one("no answer for long", known(OLD, PROVEN), Outcome::Delivered, known(OLD, PROVEN)),
        one("proven too long ago", known(PROVEN, OLD), Outcome::FlowStale, known(PROVEN, [NOW, STALE])),
    ]);
}

#[test]
fn a_flow_whose_packets_the_stack_changes_stays_there() {
    let one = |description, before, outcome, after| {
        row(description, datagram(), of_udp(before), outcome, of_udp(after))
    };
    let segment = received(&PodSide::Ingress.tcp(|_| {}, b"payload"));
    let tcp = |description, before, outcome, after| {
        row(description, segment.clone(), of_tcp(before), outcome, of_tcp(after))
    };
    let (this, other) = ([false, true], [true, false]);
    check_all(vec![
        one(
            "not long ago",
            changed(flow(PROVEN, PROVEN), this),
            Outcome::FlowChanged,
            changed(flow(PROVEN, [NOW, FRESH]), this),
        ),
        one(
            "long ago",
            changed(flow(PROVEN, OLD), this),
            Outcome::FlowNew,
            changed(flow(PROVEN, [NOW, STALE]), this),
        ),
        tcp(
            "TCP, the answers",
            changed(flow(PROVEN, PROVEN), other),
            Outcome::FlowChanged,
            changed(flow(PROVEN, [NOW, FRESH]), other),
        ),
    ]);
}

#[test]
fn a_connection_that_begins_or_ends_is_removed() {
    let proven = of_tcp(flow(PROVEN, PROVEN));
    let rows = controls(PodSide::Ingress).into_iter().flat_map(|(description, packet)| {
        [&proven, &none()]
            .map(|before| row(description, received(&packet), before.clone(), Outcome::TcpControl, none()))
    });
    check_all(rows.collect());
}

#[test]
fn a_packet_without_a_flow_is_passed_on() {
    check_all(no_flows(PodSide::Ingress, |ether_type, payload| {
        frame(OUR_MAC, PEER_MAC, ether_type, payload)
    }));
}

#[test]
fn a_packet_that_needs_an_answer_from_the_stack_enters_it() {
    let (proven, entered) = (flow(PROVEN, PROVEN), flow(PROVEN, [NOW, FRESH]));
    let gone = |flow| moved(flow, |port| port.ifindex = 99);
    let refused = |description, packet: Ipv4, outcome| {
        row(description, received(&packet), of_udp(proven), outcome, of_udp(entered))
    };
    let delivered = |description, packet: Ipv4| {
        row(description, received(&packet), of_udp(proven), Outcome::Delivered, of_udp(proven))
    };
    check_all(vec![
        delivered("TTL 2", PodSide::Ingress.udp(b"x").ttl(2)),
        refused("TTL 1", PodSide::Ingress.udp(b"x").ttl(1), Outcome::TtlExpired),
        refused("TTL 0", PodSide::Ingress.udp(b"x").ttl(0), Outcome::TtlExpired),
        delivered("as long as the pod's MTU", PodSide::Ingress.udp(&[1; POD_MTU - 28])),
        row("a port that is gone", datagram(), of_udp(gone(proven)), Outcome::FlowNew, of_udp(gone(entered))),
        refused("one byte longer", PodSide::Ingress.udp(&[1; POD_MTU - 28 + 1]), Outcome::TooBig),
    ]);
}

#[test]
fn an_aggregate_is_delivered_whole_if_its_segments_fit() {
    let (proven, entered) = (flow(PROVEN, PROVEN), flow(PROVEN, [NOW, FRESH]));
    let tcp = || received(&PodSide::Ingress.tcp(|_| {}, &[0x50; 3000]));
    let udp = || received(&PodSide::Ingress.udp(&[0x50; 3000]));
    check_all(vec![
        row("TCP", tcp(), of_tcp(proven), Outcome::Delivered, of_tcp(proven)).gso(POD_MTU - 40),
        row("TCP, too long", tcp(), of_tcp(proven), Outcome::TooBig, of_tcp(entered)).gso(POD_MTU - 40 + 1),
        row("UDP", udp(), of_udp(proven), Outcome::Delivered, of_udp(proven)).gso(POD_MTU - 28),
        row("UDP, too long", udp(), of_udp(proven), Outcome::TooBig, of_udp(entered)).gso(POD_MTU - 28 + 1),
    ]);
}

#[test]
fn nothing_is_noted_without_flow_cache_or_configuration() {
    check_off(HOOK, &datagram());
}
