//! Egress of a pod's bridge port: packets to the pod. All go on; those that passed the stack unchanged prove their flow.

use etherparse::EtherType;
use flannel_common::flow::{Flow, Port};
use flannel_common::outcome::{Hook, Outcome};

use super::Programs;
use super::flow::sample::{GATEWAY_MAC, POD_MAC, PodSide, controls, elsewhere, no_flows};
use super::flow::{
    FRESH, LOST, NEVER, NOW, PROVEN, Row, STALE, UNKNOWN, changed, check, check_off, flow, moved, none,
    of_tcp, of_udp, row, sampled,
};
use crate::packets::{Ipv4, frame};

const HOOK: Hook = Hook::PodIngress;

fn received(packet: &Ipv4) -> Vec<u8> {
    frame(POD_MAC, GATEWAY_MAC, EtherType::IPV4, &packet.bytes())
}

fn datagram() -> Vec<u8> {
    received(&PodSide::Ingress.udp(b"payload"))
}

fn check_all(table: Vec<Row>) {
    check(&mut Programs::with_flow_cache(), HOOK, table, |_, _| unreachable!("this program carries nothing"));
}

#[test]
fn a_packet_that_entered_just_before_proves_its_flow() {
    let nowhere = |flow| moved(flow, |port| *port = Port::default());
    let proof = |description, before, after: Flow| {
        row(description, datagram(), of_udp(before), Outcome::FlowProven, of_udp(after))
    };
    let entered = flow(UNKNOWN, [FRESH, NEVER]);
    let segment = received(&PodSide::Ingress.tcp(|_| {}, b"payload"));
    check_all(vec![
        proof("the first one", nowhere(entered), flow(UNKNOWN, [FRESH, NOW])),
        proof("at a port that is known", entered, flow(UNKNOWN, [FRESH, NOW])),
        proof("once more", flow(PROVEN, PROVEN), flow(PROVEN, [FRESH, NOW])),
        proof("after a long time", flow(PROVEN, [FRESH, STALE]), flow(PROVEN, [FRESH, NOW])),
        row("TCP", segment, of_tcp(entered), Outcome::FlowProven, of_tcp(flow(UNKNOWN, [FRESH, NOW]))),
    ]);
}

#[test]
fn any_other_packet_proves_nothing() {
    let same = |description, flow| row(description, datagram(), of_udp(flow), Outcome::NoFlow, of_udp(flow));
    check_all(vec![
        row("an unknown flow", datagram(), none(), Outcome::NoFlow, none()),
        same("no packet has entered in this direction", flow(PROVEN, UNKNOWN)),
        same("the last one entered too long ago", flow(PROVEN, [LOST, FRESH])),
    ]);
}

#[test]
fn a_packet_that_the_stack_changed_or_made_ends_the_proof() {
    let left = |times, is_changed| changed(flow(PROVEN, times), [false, is_changed]);
    let one = |description, before, outcome, after| {
        row(description, datagram(), of_udp(before), outcome, of_udp(after))
    };
    let ended = |description, before| one(description, before, Outcome::NoFlow, left([FRESH, NOW], true));
    let same = |description, flow| one(description, flow, Outcome::NoFlow, flow);
    let another = 0x1234;
    check_all(vec![
        ended("another packet entered", flow(PROVEN, PROVEN)).token(another),
        ended("and the flow was not proven yet", flow(PROVEN, [FRESH, NEVER])).token(another),
        ended("a proxy made it", flow(PROVEN, PROVEN)).token(0),
        same("made here, and none has entered", flow(PROVEN, UNKNOWN)).token(0),
        same("it entered without a fingerprint", flow(PROVEN, PROVEN)).token(1),
        row(
            "a segment of an aggregate that entered",
            datagram(),
            of_udp(flow(PROVEN, PROVEN)),
            Outcome::NoFlow,
            of_udp(flow(PROVEN, PROVEN)),
        )
        .token(0x8000 | another),
        one("it is not the sample", sampled(flow(PROVEN, PROVEN), 1), Outcome::NoFlow, flow(PROVEN, PROVEN)),
        same("another was changed not long ago", left([FRESH, FRESH], true)),
        one(
            "others were changed, long ago",
            left([FRESH, STALE], true),
            Outcome::FlowProven,
            left([FRESH, NOW], false),
        ),
    ]);
}

#[test]
fn a_packet_that_begins_or_ends_a_connection_proves_nothing() {
    let known = || of_tcp(flow(PROVEN, PROVEN));
    let rows = controls(PodSide::Ingress)
        .map(|(description, packet)| row(description, received(&packet), known(), Outcome::NoFlow, known()));
    check_all(rows.into());
}

#[test]
fn a_flow_that_is_seen_at_another_port_is_removed() {
    let rows = elsewhere()
        .map(|(description, known)| row(description, datagram(), of_udp(known), Outcome::NoFlow, none()));
    check_all(rows.into());
}

#[test]
fn a_packet_without_a_flow_is_passed_on() {
    check_all(no_flows(PodSide::Ingress, |ether_type, payload| {
        frame(POD_MAC, GATEWAY_MAC, ether_type, payload)
    }));
}

#[test]
fn nothing_is_noted_without_flow_cache_or_configuration() {
    check_off(HOOK, &datagram());
}
