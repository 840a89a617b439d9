//! Ingress of the vxlan device: unwrapped packets. Those of proven flows go to their pod; others enter the stack.

use etherparse::EtherType;
use flannel_common::outcome::{Hook, Outcome};

use super::flow::sample::{GATEWAY_MAC, POD_MAC, PodSide, controls, hop, no_flows};
use super::flow::{
    Flows, OLD, POD_MTU, PROVEN, Row, UNKNOWN, changed, check, check_off, flow, moved, none, of_tcp, of_udp,
    row,
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

fn segment() -> Vec<u8> {
    received(&PodSide::Ingress.tcp(|_| {}, b"payload"))
}

fn check_all(table: Vec<Row>) {
    check(&mut Programs::with_flow_cache(), HOOK, table, |run, sent| {
        assert_eq!(run.packet, hop(sent, POD_MAC, GATEWAY_MAC));
    });
}

#[test]
fn a_datagram_goes_to_its_pod_while_its_direction_is_proven() {
    let known = |egress, ingress| of_udp(flow(egress, ingress));
    let one =
        |description, flows: Flows, outcome| row(description, datagram(), flows.clone(), outcome, flows);
    check_all(vec![
        one("the first one", none(), Outcome::FlowNew).noted(),
        one("not seen to leave", known(PROVEN, UNKNOWN), Outcome::FlowNew).noted(),
        one("proven", known(UNKNOWN, PROVEN), Outcome::Delivered),
        one("proven both ways", known(PROVEN, PROVEN), Outcome::Delivered),
        one("proven, the other way too long ago", known(OLD, PROVEN), Outcome::Delivered),
        one("proven too long ago", known(PROVEN, OLD), Outcome::FlowStale).noted(),
    ]);
}

#[test]
fn a_segment_goes_to_its_pod_while_both_directions_are_known() {
    let known = |egress, ingress| of_tcp(flow(egress, ingress));
    let one = |description, flows: Flows, outcome| row(description, segment(), flows.clone(), outcome, flows);
    check_all(vec![
        one("the first one", none(), Outcome::FlowNew).noted(),
        one("no answer yet", known(UNKNOWN, PROVEN), Outcome::FlowNew).noted(),
        one("proven both ways", known(PROVEN, PROVEN), Outcome::Delivered),
        one("no answer for long", known(OLD, PROVEN), Outcome::Delivered),
        one("proven too long ago", known(PROVEN, OLD), Outcome::FlowStale).noted(),
    ]);
}

#[test]
fn a_flow_whose_packets_the_stack_changes_stays_there() {
    let one = |description, packet, flows: Flows, outcome| {
        row(description, packet, flows.clone(), outcome, flows).noted()
    };
    let (this, other) = ([false, true], [true, false]);
    let now = changed(flow(PROVEN, PROVEN), this);
    let answers = changed(flow(PROVEN, PROVEN), other);
    check_all(vec![
        one("not long ago", datagram(), of_udp(now), Outcome::FlowChanged),
        one("long ago", datagram(), of_udp(changed(flow(PROVEN, OLD), this)), Outcome::FlowNew),
        one("TCP, the answers", segment(), of_tcp(answers), Outcome::FlowChanged),
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
    let proven = flow(PROVEN, PROVEN);
    let gone = of_udp(moved(proven, |port| port.ifindex = 99));
    let refused = |description, packet: Ipv4, outcome| {
        row(description, received(&packet), of_udp(proven), outcome, of_udp(proven)).noted()
    };
    let delivered = |description, packet: Ipv4| {
        row(description, received(&packet), of_udp(proven), Outcome::Delivered, of_udp(proven))
    };
    check_all(vec![
        delivered("TTL 2", PodSide::Ingress.udp(b"x").ttl(2)),
        refused("TTL 1", PodSide::Ingress.udp(b"x").ttl(1), Outcome::TtlExpired),
        refused("TTL 0", PodSide::Ingress.udp(b"x").ttl(0), Outcome::TtlExpired),
        delivered("as long as the pod's MTU", PodSide::Ingress.udp(&[1; POD_MTU - 28])),
        row("a port that is gone", datagram(), gone.clone(), Outcome::FlowNew, gone).noted(),
        refused("one byte longer", PodSide::Ingress.udp(&[1; POD_MTU - 28 + 1]), Outcome::TooBig),
    ]);
}

#[test]
fn an_aggregate_is_delivered_whole_if_its_segments_fit() {
    let tcp = |description, outcome| {
        let (packet, known) = (PodSide::Ingress.tcp(|_| {}, &[0x50; 3000]), of_tcp(flow(PROVEN, PROVEN)));
        row(description, received(&packet), known.clone(), outcome, known)
    };
    let udp = |description, outcome| {
        let (packet, known) = (PodSide::Ingress.udp(&[0x50; 3000]), of_udp(flow(PROVEN, PROVEN)));
        row(description, received(&packet), known.clone(), outcome, known)
    };
    check_all(vec![
        tcp("TCP", Outcome::Delivered).gso(POD_MTU - 40),
        tcp("TCP, too long", Outcome::TooBig).gso(POD_MTU - 40 + 1).noted(),
        udp("UDP", Outcome::Delivered).gso(POD_MTU - 28),
        udp("UDP, too long", Outcome::TooBig).gso(POD_MTU - 28 + 1).noted(),
    ]);
}

#[test]
fn nothing_is_noted_without_flow_cache_or_configuration() {
    check_off(HOOK, &datagram());
}
