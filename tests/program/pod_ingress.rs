//! Egress of a pod's bridge port: packets to the pod. All go on; those that passed the stack unchanged prove their flow.

use etherparse::EtherType;
use flannel_common::address::V4;
use flannel_common::flow::Flow;
use flannel_common::kept::KeptEnd;
use flannel_common::outcome::{Hook, Outcome};

use super::flow::sample::{GATEWAY_MAC, POD_MAC, PodSide, controls, elsewhere, no_flows};
use super::flow::{
    Flows, LOST, NOW, OLD, PROVEN, Row, UNKNOWN, changed, check, check_off, flow, moved, none, of_generation,
    of_tcp, of_udp, row,
};
use super::{GENERATION, Programs};
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
    let proof =
        |description, before, after| row(description, datagram(), before, Outcome::FlowProven, of_udp(after));
    let (new, known) = (flow(UNKNOWN, NOW), flow(PROVEN, NOW));
    let segment = received(&PodSide::Ingress.tcp(|_| {}, b"payload"));
    check_all(vec![
        proof("the first one", none(), new),
        proof("after answers", of_udp(flow(PROVEN, UNKNOWN)), known),
        proof("once more", of_udp(flow(PROVEN, PROVEN)), known),
        proof("after a long time", of_udp(flow(PROVEN, OLD)), known),
        row("TCP", segment, none(), Outcome::FlowProven, of_tcp(new)),
        // Routes may have changed while it was in the stack.
        row(
            "in an older generation",
            datagram(),
            none(),
            Outcome::FlowProven,
            of_udp(of_generation(new, GENERATION - 1)),
        )
        .entered(|record| record.generation = GENERATION - 1),
    ]);
}

#[test]
fn any_other_packet_proves_nothing() {
    let same =
        |description, flows: Flows| row(description, datagram(), flows.clone(), Outcome::NoFlow, flows);
    let proven = || of_udp(flow(PROVEN, PROVEN));
    check_all(vec![
        same("it was not noted", none()).not_noted(),
        same("it was not noted, of a proven flow", proven()).not_noted(),
        same("it entered too long ago", none()).entered(|record| record.at = LOST),
        same("it comes from a pod of this node", none()).entered(|record| record.from_pod = 1),
        same("a record that two packets have written", none()).torn(|record| record.key.remote[3] ^= 1),
        same("the record of another packet", none()).torn(|record| record.token ^= 2),
        same("the record of a packet with this token", proven()).torn(|record| record.fingerprint ^= 1),
    ]);
}

#[test]
fn a_packet_that_the_stack_changed_or_made_ends_the_proof() {
    const ANOTHER: u32 = 0x1234;
    let left = |age, is_changed| changed(flow(PROVEN, age), [false, is_changed]);
    let one = |description, before: Flow<V4>, outcome, after: Flow<V4>| {
        row(description, datagram(), of_udp(before), outcome, of_udp(after))
    };
    let ended = |description, before| one(description, before, Outcome::NoFlow, left(NOW, true));
    let same = |description, flow| one(description, flow, Outcome::NoFlow, flow);
    let (proven, new) = (flow(PROVEN, PROVEN), of_udp(changed(flow(UNKNOWN, NOW), [false, true])));
    check_all(vec![
        ended("another packet entered", proven).token(ANOTHER),
        ended("and the flow was not proven yet", flow(PROVEN, UNKNOWN)).token(ANOTHER),
        row("and the flow was not known yet", datagram(), none(), Outcome::NoFlow, new).token(ANOTHER),
        same("another packet entered, too long ago", proven)
            .token(ANOTHER)
            .entered(|record| record.at = LOST),
        same("another packet entered, from a pod", proven)
            .token(ANOTHER)
            .entered(|record| record.from_pod = 1),
        same("another packet entered, and then a third one", proven)
            .token(ANOTHER)
            .torn(|record| record.token ^= 2),
        same("another packet entered, which was not noted", proven).token(ANOTHER).not_noted(),
        ended("a proxy made it", proven).token(0).not_noted(),
        ended("a proxy made it, and none was proven", flow(PROVEN, UNKNOWN)).token(0).not_noted(),
        row("a proxy made it, of an unknown flow", datagram(), none(), Outcome::NoFlow, none())
            .token(0)
            .not_noted(),
        same("it entered without a digest", proven).token(1).not_noted(),
        same("a segment of an aggregate that entered", proven).token(0x8000 | ANOTHER),
        same("another was changed not long ago", left(PROVEN, true)),
        one("others were changed, long ago", left(OLD, true), Outcome::FlowProven, left(NOW, false)),
    ]);
}

#[test]
fn a_connection_that_begins_or_ends_is_removed() {
    let known = || of_tcp(flow(PROVEN, PROVEN));
    let rows = controls(PodSide::Ingress)
        .map(|(description, packet)| row(description, received(&packet), known(), Outcome::NoFlow, none()));
    check_all(rows.into());
}

#[test]
fn a_flow_that_is_seen_at_another_port_is_another_one() {
    let here = || of_udp(flow(UNKNOWN, NOW));
    let rows = elsewhere()
        .map(|(description, known)| row(description, datagram(), of_udp(known), Outcome::FlowProven, here()));
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

#[test]
fn a_flow_that_a_rule_looks_at_packet_by_packet_is_not_proven() {
    const DATAGRAMS: KeptEnd = KeptEnd { family: 4, protocol: 17, port: [0; 2], address: [0; 16] };
    let mut programs = Programs::with_flow_cache();
    programs.keep(KeptEnd::BITS_BEFORE_ADDRESS, DATAGRAMS);
    let segment = received(&PodSide::Ingress.tcp(|_| {}, b"payload"));
    let (known, new) = (of_udp(flow(PROVEN, OLD)), of_tcp(flow(UNKNOWN, NOW)));
    let table = vec![
        row("the first one", datagram(), none(), Outcome::FlowKept, none()),
        row("of a flow that was proven before", datagram(), known.clone(), Outcome::FlowKept, known),
        row("of another protocol", segment, none(), Outcome::FlowProven, new),
    ];
    check(&mut programs, HOOK, table, |_, _| unreachable!("this program carries nothing"));
}

#[test]
fn a_new_flow_is_not_proven_while_entries_are_spent() {
    const ANOTHER: u32 = 0x1234;
    let mut programs = Programs::with_flow_cache();
    programs.spend_entries();
    let moved = of_udp(moved(flow(PROVEN, PROVEN), |port| port.ifindex += 1));
    let table = vec![
        row("a new one", datagram(), none(), Outcome::FlowCrowded, none()),
        row("a new one that the stack changes", datagram(), none(), Outcome::NoFlow, none()).token(ANOTHER),
        row("one of a pod that has moved", datagram(), moved, Outcome::FlowCrowded, none()),
        row(
            "a known one",
            datagram(),
            of_udp(flow(PROVEN, OLD)),
            Outcome::FlowProven,
            of_udp(flow(PROVEN, NOW)),
        ),
    ];
    check(&mut programs, HOOK, table, |_, _| unreachable!("this program carries nothing"));
}

#[test]
fn a_copy_at_another_pods_port_proves_nothing_and_leaves_the_proof_to_the_pods_own() {
    let mut programs = Programs::with_flow_cache();
    programs.plug(1, GATEWAY_MAC);
    let known = || of_udp(flow(PROVEN, PROVEN));
    let table = vec![
        row("of a new flow", datagram(), none(), Outcome::NoFlow, none()),
        row("of a known one", datagram(), known(), Outcome::NoFlow, known()),
    ];
    check(&mut programs, HOOK, table, |_, _| unreachable!("this program carries nothing"));
}
