//! What is learned of translated flows where their packets leave the stack.

use etherparse::IpNumber;
use flannel_common::address::{V4, V6};
use flannel_common::flow::{Direction, FlowKey};
use flannel_common::lease::{DIRECT, Lease};
use flannel_common::outcome::{Hook, Outcome};

use super::super::flow::{
    FlowNames, Flows, LOST, NOW, OLD, PROVEN, Row, UNKNOWN, changed, check, flow, moved, none, row,
};
use super::super::overlay_egress::unwrapped;
use super::super::{PEER_IP, PEER_MAC, Programs};
use super::sample::{Service, name, packet, to_service};
use super::{TO_LINK, TO_POD, kinds, to_peer};

const ANOTHER: u32 = 0x1234;

/// Returns how a packet ends that leaves the stack in the vxlan device.
fn wrapped<A: Service>() -> Outcome {
    if A::IS_IPV4 { Outcome::Encapsulated } else { Outcome::InnerIpv6 }
}

/// Makes the row of a packet from the pod that has entered the stack with one name and leaves it with the other.
fn sent<A: Service>(
    description: &'static str,
    names: FlowNames<A>,
    before: Flows<A>,
    after: Flows<A>,
) -> Row<A> {
    let frame = packet(to_peer::<A>(), names.network, Direction::Egress, 63, b"payload");
    row(description, frame, before, wrapped::<A>(), after).entered(move |record| record.key = names.pod)
}

/// Makes the row of a packet to the pod.
fn received<A: Service>(
    description: &'static str,
    names: FlowNames<A>,
    before: Flows<A>,
    outcome: Outcome,
    after: Flows<A>,
) -> Row<A> {
    let frame = packet(TO_POD, names.pod, Direction::Ingress, 63, b"payload");
    row(description, frame, before, outcome, after).entered(move |record| record.key = names.network)
}

fn check_sent<A: Service>(table: Vec<Row<A>>) {
    check(&mut Programs::with_flow_cache(), Hook::OverlayEgress, table, |run, sent| {
        assert_eq!(unwrapped(&run.packet, PEER_IP, 0), sent);
    });
}

fn check_received<A: Service>(table: Vec<Row<A>>) {
    check(&mut Programs::with_flow_cache(), Hook::PodIngress, table, |_, _| {
        unreachable!("this program carries nothing")
    });
}

fn a_flow_is_known_under_both_names<A: Service>() {
    let (egress, ingress) = ([true, false], [false, true]);
    let (mut out, mut back) = (Vec::new(), Vec::new());
    for (kind, names) in kinds::<A>() {
        let known = |left, arrived| names.entries(flow(left, arrived));
        let spoilt = |left, arrived, which| names.entries(changed(flow(left, arrived), which));
        out.extend([
            sent(kind, names, none(), known(NOW, UNKNOWN)),
            sent(kind, names, known(UNKNOWN, PROVEN), known(NOW, PROVEN)),
            sent(kind, names, known(OLD, OLD), known(NOW, OLD)),
            sent(kind, names, known(PROVEN, PROVEN), spoilt(NOW, PROVEN, egress)).token(ANOTHER),
            sent(kind, names, none(), spoilt(NOW, UNKNOWN, egress)).token(ANOTHER),
            sent(kind, names, spoilt(PROVEN, OLD, egress), spoilt(PROVEN, OLD, egress)),
            sent(kind, names, spoilt(OLD, OLD, egress), known(NOW, OLD)),
            sent(kind, names, known(PROVEN, PROVEN), spoilt(NOW, PROVEN, egress)).token(0).not_noted(),
        ]);
        let proof = |before, after| received(kind, names, before, Outcome::FlowProven, after);
        let none_of = |before, after| received(kind, names, before, Outcome::NoFlow, after);
        back.extend([
            proof(none(), known(UNKNOWN, NOW)),
            proof(known(PROVEN, UNKNOWN), known(PROVEN, NOW)),
            proof(known(OLD, OLD), known(OLD, NOW)),
            none_of(known(PROVEN, PROVEN), spoilt(PROVEN, NOW, ingress)).token(ANOTHER),
            none_of(spoilt(OLD, PROVEN, ingress), spoilt(OLD, PROVEN, ingress)),
            proof(spoilt(OLD, OLD, ingress), known(OLD, NOW)),
            none_of(known(PROVEN, PROVEN), spoilt(PROVEN, NOW, ingress)).token(0).not_noted(),
        ]);
    }
    check_sent(out);
    check_received(back);
}

#[test]
fn an_ipv4_flow_is_known_under_both_names() {
    a_flow_is_known_under_both_names::<V4>();
}

#[test]
fn an_ipv6_flow_is_known_under_both_names() {
    a_flow_is_known_under_both_names::<V6>();
}

fn only_the_packets_own_record_proves_its_flow<A: Service>() {
    let names = to_service::<A>(IpNumber::UDP);
    let proven = || names.entries(flow(PROVEN, PROVEN));
    let same =
        |description, known: Flows<A>| received(description, names, known.clone(), Outcome::NoFlow, known);
    let network = names.network;
    check_received(vec![
        same("between two pods of this node", none())
            .entered(move |record| (record.key, record.from_pod) = (network, 1)),
        same("between two pods of this node, changed", proven())
            .entered(move |record| (record.key, record.from_pod) = (network, 1))
            .token(ANOTHER),
        same("it entered too long ago", none())
            .entered(move |record| (record.key, record.at) = (network, LOST)),
        same("two packets have written the record", none()).torn(move |record| record.key = network),
        same("it was not noted", proven()).not_noted(),
    ]);
    let from_pod = |description, known: Flows<A>| sent(description, names, known.clone(), known);
    let pod = names.pod;
    check_sent(vec![
        from_pod("it entered towards the pod", none())
            .entered(move |record| (record.key, record.from_pod) = (pod, 0)),
        from_pod("two packets have written the record", none()).torn(move |record| record.key = pod),
        from_pod("it was not noted", proven()).not_noted(),
    ]);
}

#[test]
fn only_the_own_record_of_an_ipv4_packet_proves_its_flow() {
    only_the_packets_own_record_proves_its_flow::<V4>();
}

#[test]
fn only_the_own_record_of_an_ipv6_packet_proves_its_flow() {
    only_the_packets_own_record_proves_its_flow::<V6>();
}

/// A pod may talk to the service and, from the same port, to the pod behind it. What is known later replaces what was known.
fn one_name_has_one_flow<A: Service>() {
    let names = to_service::<A>(IpNumber::UDP);
    let direct = FlowNames::same(names.network);
    let other_backend = FlowNames { network: FlowKey { remote_port: [9, 9], ..names.network }, ..names };
    let other_service = FlowNames { pod: FlowKey { remote_port: [9, 9], ..names.pod }, ..names };
    let proven = |names: FlowNames<A>| names.entries(flow(PROVEN, PROVEN));
    let left = |names: FlowNames<A>| names.entries(flow(NOW, UNKNOWN));
    let arrived = |names: FlowNames<A>| names.entries(flow(UNKNOWN, NOW));
    let elsewhere = names.entries(moved(flow(PROVEN, PROVEN), |port| port.ifindex = 99));
    let tcp = || proven(to_service(IpNumber::TCP));
    check_sent(vec![
        sent("the service after its backend", names, proven(direct), left(names)),
        sent("the backend after the service", direct, proven(names), left(direct)),
        sent("another backend", other_backend, proven(names), left(other_backend)),
        sent("another service with this backend", other_service, proven(names), left(other_service)),
        sent("a pod at another port", names, elsewhere.clone(), left(names)),
        sent(
            "another flow stays",
            other_backend,
            both(tcp(), proven(names)),
            both(tcp(), left(other_backend)),
        ),
    ]);
    let proof =
        |description, names, before, after| received(description, names, before, Outcome::FlowProven, after);
    let pods = FlowNames::same(names.pod);
    check_received(vec![
        proof("the service after its backend", names, proven(direct), arrived(names)),
        proof("the backend after the service", direct, proven(names), arrived(direct)),
        proof("another backend", other_backend, proven(names), arrived(other_backend)),
        proof("another service with this backend", other_service, proven(names), arrived(other_service)),
        proof("an untranslated flow with the pod's name", pods, proven(names), arrived(pods)),
        proof("a pod at another port", names, elsewhere, arrived(names)),
    ]);
}

/// Joins contents of `FLOWS`.
fn both<A: Service>(mut some: Flows<A>, more: Flows<A>) -> Flows<A> {
    some.extend(more);
    some
}

#[test]
fn one_name_has_one_ipv4_flow() {
    one_name_has_one_flow::<V4>();
}

#[test]
fn one_name_has_one_ipv6_flow() {
    one_name_has_one_flow::<V6>();
}

/// Makes a segment with one more flag.
fn with_flag<A: Service>(mut frame: Vec<u8>, flag: u8) -> Vec<u8> {
    let flags = if A::IS_IPV4 { 14 + 20 + 13 } else { 14 + 40 + 13 };
    frame[flags] |= flag;
    frame
}

fn a_connection_that_begins_or_ends_is_removed<A: Service>() {
    const FLAGS: [(&str, u8); 3] = [("FIN", 1), ("SYN", 2), ("RST", 4)];
    let names = to_service::<A>(IpNumber::TCP);
    let proven = || names.entries(flow(PROVEN, PROVEN));
    let at = |hook: Hook, macs, name, direction, outcome: Outcome| {
        let rows = FLAGS.map(|(description, flag)| {
            let frame = with_flag::<A>(packet(macs, name, direction, 63, b""), flag);
            row(description, frame, proven(), outcome, none())
        });
        check(&mut Programs::with_flow_cache(), hook, rows.into(), |run, sent| {
            assert_eq!(unwrapped(&run.packet, PEER_IP, 0), sent);
        });
    };
    // To a service's address no lease leads.
    at(Hook::PodEgress, super::FROM_POD, names.pod, Direction::Egress, Outcome::NoLease);
    at(Hook::OverlayEgress, to_peer::<A>(), names.network, Direction::Egress, wrapped::<A>());
    at(Hook::OverlayIngress, super::from_peer::<A>(), names.network, Direction::Ingress, Outcome::TcpControl);
    at(Hook::PodIngress, TO_POD, names.pod, Direction::Ingress, Outcome::NoFlow);
}

#[test]
fn an_ipv4_connection_that_begins_or_ends_is_removed() {
    a_connection_that_begins_or_ends_is_removed::<V4>();
}

#[test]
fn an_ipv6_connection_that_begins_or_ends_is_removed() {
    a_connection_that_begins_or_ends_is_removed::<V6>();
}

#[test]
fn a_flow_to_a_peer_on_the_link_is_known_under_both_names() {
    let mut programs = Programs::configured(|node| (node.flow_cache, node.direct_routing) = (1, 1));
    let on_link = Lease { public_ip: PEER_IP, vtep_mac: PEER_MAC, flags: DIRECT, route_mtu: 0 };
    programs.lease(24, [10, 1, 15, 0], on_link);
    let rows = kinds::<V4>().map(|(kind, names)| {
        let frame = packet(TO_LINK, names.network, Direction::Egress, 63, b"payload");
        let after = names.entries(flow(NOW, UNKNOWN));
        row(kind, frame, none(), Outcome::FlowProven, after).entered(move |record| record.key = names.pod)
    });
    check(&mut programs, Hook::UnderlayEgress, rows.into(), |_, _| {
        unreachable!("this program carries nothing")
    });
}

#[test]
fn a_packet_to_the_stack_is_noted_with_the_name_that_it_has() {
    let pod = name(IpNumber::UDP, (V4::POD, 40001), (V4::SERVICE, 80));
    let frame = packet(super::FROM_POD, pod, Direction::Egress, 64, b"payload");
    let rows = vec![row("to a service", frame, none::<V4>(), Outcome::NoLease, none()).noted()];
    check(&mut Programs::with_flow_cache(), Hook::PodEgress, rows, |_, _| unreachable!("nothing is carried"));
}
