//! Packets of translated flows that need the stack.

use etherparse::IpNumber;
use flannel_common::address::{V4, V6};
use flannel_common::flow::{Direction, FlowKey, TRANSLATED_NS};
use flannel_common::node::{FLOOR_UNWRAPS, FLOOR_WRAPS};
use flannel_common::outcome::{Hook, Outcome};

use super::super::Programs;
use super::super::flow::{
    FlowNames, Flows, OLD, POD_MTU, PROVEN, Row, UNKNOWN, changed, check, flow, grouped, moved, row,
};
use super::super::underlay_ingress::carrying;
use super::sample::{Service, packet, to_service};
use super::{FROM_POD, TO_POD, from_peer};

/// Age of a proof that has just expired.
const EXPIRED: u64 = TRANSLATED_NS + PROVEN;
/// The same, of answers that no packet from the pod has preceded through the stack.
const EXPIRED_TWICE: u64 = 2 * TRANSLATED_NS + PROVEN;

/// Makes the row of a packet from the pod, which changes no flow.
fn sent<A: Service>(
    description: &'static str,
    name: FlowKey<A>,
    known: Flows<A>,
    outcome: Outcome,
) -> Row<A> {
    let frame = packet(FROM_POD, name, Direction::Egress, 64, b"payload");
    row(description, frame, known.clone(), outcome, known)
}

/// Makes the row of an unwrapped packet to the pod, which changes no flow.
fn received<A: Service>(
    description: &'static str,
    name: FlowKey<A>,
    known: Flows<A>,
    outcome: Outcome,
) -> Row<A> {
    let frame = packet(from_peer::<A>(), name, Direction::Ingress, 64, b"payload");
    row(description, frame, known.clone(), outcome, known)
}

fn check_sent<A: Service>(programs: &mut Programs, table: Vec<Row<A>>) {
    check(programs, Hook::PodEgress, table, |run, sent| assert_ne!(run.packet, sent));
}

fn check_received<A: Service>(programs: &mut Programs, table: Vec<Row<A>>) {
    check(programs, Hook::OverlayIngress, table, |run, sent| assert_ne!(run.packet, sent));
}

fn a_proof_must_be_fresh_and_for_this_direction<A: Service>() {
    let (udp, tcp) = (to_service::<A>(IpNumber::UDP), to_service::<A>(IpNumber::TCP));
    let same = |names: FlowNames<A>| FlowNames::same(names.pod);
    let sends = if A::IS_IPV4 { Outcome::Encapsulated } else { Outcome::Forwarded };
    let unknown = Outcome::NoLease;
    let one =
        |what, names: FlowNames<A>, known, outcome| sent(what, names.pod, names.entries(known), outcome);
    let moved_away = moved(flow(PROVEN, PROVEN), |port| port.ifindex = 99);
    let spoilt = |which| changed(flow(PROVEN, PROVEN), which);
    check_sent(
        &mut Programs::with_flow_cache(),
        vec![
            one("UDP, this direction", udp, flow(PROVEN, UNKNOWN), sends),
            one("UDP, only the other direction", udp, flow(UNKNOWN, PROVEN), unknown).noted(),
            one("UDP, expired", udp, flow(EXPIRED, PROVEN), Outcome::FlowStale).noted(),
            one("UDP, changed", udp, spoilt([true, false]), Outcome::FlowChanged).noted(),
            one("TCP, both", tcp, flow(PROVEN, PROVEN), sends),
            one("TCP, the answers long ago", tcp, flow(PROVEN, OLD), sends),
            one("TCP, no answer yet", tcp, flow(PROVEN, UNKNOWN), unknown).noted(),
            one("TCP, expired", tcp, flow(EXPIRED, PROVEN), Outcome::FlowStale).noted(),
            one("TCP, changed answers", tcp, spoilt([false, true]), Outcome::FlowChanged).noted(),
            one("at another port", udp, moved_away, unknown).noted(),
            sent("with the network's name", udp.network, udp.entries(flow(PROVEN, PROVEN)), Outcome::FlowNew)
                .noted(),
        ],
    );
    let one = |what, names: FlowNames<A>, known, outcome| {
        received(what, names.network, names.entries(known), outcome)
    };
    check_received(
        &mut Programs::with_flow_cache(),
        vec![
            one("UDP, this direction", udp, flow(UNKNOWN, PROVEN), Outcome::Delivered),
            one("UDP, only the other direction", udp, flow(PROVEN, UNKNOWN), Outcome::FlowNew).noted(),
            one("UDP, expired", udp, flow(PROVEN, EXPIRED), Outcome::FlowStale).noted(),
            one(
                "UDP, not yet shown to the stack after a question",
                udp,
                flow(OLD, EXPIRED),
                Outcome::Delivered,
            ),
            one("UDP, long after the last question", udp, flow(OLD, EXPIRED_TWICE), Outcome::FlowStale)
                .noted(),
            one("UDP, changed", udp, spoilt([false, true]), Outcome::FlowChanged).noted(),
            one("TCP, both", tcp, flow(PROVEN, PROVEN), Outcome::Delivered),
            one("TCP, no answer yet", tcp, flow(UNKNOWN, PROVEN), Outcome::FlowNew).noted(),
            one("TCP, expired", tcp, flow(PROVEN, EXPIRED), Outcome::FlowStale).noted(),
            one("TCP, changed answers", tcp, spoilt([true, false]), Outcome::FlowChanged).noted(),
            received("with the pod's name", udp.pod, udp.entries(flow(PROVEN, PROVEN)), Outcome::FlowNew)
                .noted(),
            received(
                "an untranslated flow holds for long",
                udp.pod,
                same(udp).entries(flow(UNKNOWN, EXPIRED)),
                Outcome::Delivered,
            ),
        ],
    );
}

#[test]
fn a_proof_must_be_fresh_and_for_this_direction_of_ipv4() {
    a_proof_must_be_fresh_and_for_this_direction::<V4>();
}

#[test]
fn a_proof_must_be_fresh_and_for_this_direction_of_ipv6() {
    a_proof_must_be_fresh_and_for_this_direction::<V6>();
}

#[test]
fn a_packet_that_needs_an_answer_from_the_stack_goes_there_as_it_is() {
    let names = to_service::<V4>(IpNumber::UDP);
    let known = || names.entries(flow(PROVEN, PROVEN));
    let out = |what, ttl, length: usize, outcome| {
        let frame = packet(FROM_POD, names.pod, Direction::Egress, ttl, &vec![1; length]);
        row(what, frame, known(), outcome, known())
    };
    // Outer headers of 36 bytes, and Ethernet, IPv4 and UDP inside.
    let longest = 1500 - 36 - 14 - 20 - 8;
    check_sent(
        &mut Programs::with_flow_cache(),
        vec![
            out("TTL 1", 1, 7, Outcome::TtlExpired),
            out("the longest that fits", 64, longest, Outcome::Encapsulated),
            out("one byte too long", 64, longest + 1, Outcome::TooBig),
        ],
    );
    let back = |what, ttl, length: usize, outcome| {
        let frame = packet(from_peer::<V4>(), names.network, Direction::Ingress, ttl, &vec![1; length]);
        row(what, frame, known(), outcome, known())
    };
    check_received(
        &mut Programs::with_flow_cache(),
        vec![
            back("TTL 1", 1, 7, Outcome::TtlExpired).noted(),
            back("as long as the pod's MTU", 64, POD_MTU - 28, Outcome::Delivered),
            back("one byte longer", 64, POD_MTU - 27, Outcome::TooBig).noted(),
        ],
    );
}

#[test]
fn a_flow_without_a_way_to_its_backend_goes_to_the_stack() {
    let service = to_service::<V4>(IpNumber::UDP);
    // Nobody leases it.
    let names = FlowNames { network: FlowKey { remote: [10, 1, 99, 1], ..service.network }, ..service };
    let known = names.entries(flow(PROVEN, PROVEN));
    let rows = vec![sent("to a service", service.pod, known, Outcome::NoLease).noted()];
    check_sent(&mut Programs::with_flow_cache(), rows);
}

#[test]
fn what_is_left_to_the_floor_is_not_translated() {
    let names = to_service::<V4>(IpNumber::UDP);
    let known = || names.entries(flow(PROVEN, PROVEN));
    let mut programs = Programs::configured(|node| (node.floor, node.flow_cache) = (FLOOR_WRAPS, 1));
    check_sent(&mut programs, vec![sent("to a peer", names.pod, known(), Outcome::Obstructed)]);
    let mut programs = Programs::configured(|node| (node.floor, node.flow_cache) = (FLOOR_UNWRAPS, 1));
    let inner = packet(from_peer::<V4>(), names.network, Direction::Ingress, 64, b"payload");
    let rows = vec![row("from a peer", carrying(&inner), known(), Outcome::Obstructed, known())];
    check(&mut programs, Hook::UnderlayIngress, rows, |_, _| unreachable!("nothing is carried"));
}

#[test]
fn a_translated_flow_has_a_group() {
    let names = to_service::<V4>(IpNumber::UDP);
    let known = || names.entries(grouped(flow(PROVEN, PROVEN), [42, 7]));
    let programs = || Programs::configured(|node| (node.group_policy, node.flow_cache) = (1, 1));
    let rows = vec![sent("from the pod", names.pod, known(), Outcome::Encapsulated)];
    check(&mut programs(), Hook::PodEgress, rows, |run, _| {
        assert_eq!((run.mark, &run.packet[42..46]), (42, &[0x88, 0, 0, 42][..]));
    });
    check_received(
        &mut programs(),
        vec![
            received("its group", names.network, known(), Outcome::Delivered).marked(7),
            received("another", names.network, known(), Outcome::FlowNew).marked(8).noted_with(8),
        ],
    );
}

/// TCP's checksum is in bytes 16 and 17 of its header. What comes before them is enough to see the flow.
#[test]
fn a_segment_that_ends_before_its_checksum_goes_to_the_stack_as_it_is() {
    let names = to_service::<V4>(IpNumber::TCP);
    let known = || names.entries(flow(PROVEN, PROVEN));
    let cut = |frame: Vec<u8>, length: usize| frame[..14 + 20 + length].to_vec();
    for length in [14, 16, 17] {
        let out = cut(packet(FROM_POD, names.pod, Direction::Egress, 64, b""), length);
        let rows = vec![row("from the pod", out, known(), Outcome::NoLease, known())];
        check_sent(&mut Programs::with_flow_cache(), rows);
        let back = cut(packet(from_peer::<V4>(), names.network, Direction::Ingress, 64, b""), length);
        let rows = vec![row("to the pod", back, known(), Outcome::Truncated, known())];
        check_received(&mut Programs::with_flow_cache(), rows);
    }
}

/// A translation must not make good what was wrong.
#[test]
fn wrong_checksums_stay_wrong() {
    let names = to_service::<V4>(IpNumber::TCP);
    let known = || names.entries(flow(PROVEN, PROVEN));
    let (header, transport) = (14 + 10, 14 + 20 + 16);
    for at in [header, transport] {
        let mut frame = packet(from_peer::<V4>(), names.network, Direction::Ingress, 64, b"payload");
        frame[at] ^= 1;
        let right = packet(TO_POD, names.pod, Direction::Ingress, 63, b"payload");
        let rows = vec![row("a wrong checksum", frame, known(), Outcome::Delivered, known())];
        check(&mut Programs::with_flow_cache(), Hook::OverlayIngress, rows, |run, _| {
            let mut wrong = run.packet.clone();
            assert_ne!(wrong, right, "byte {at}");
            wrong[at..at + 2].copy_from_slice(&right[at..at + 2]);
            assert_eq!(wrong, right, "byte {at}: nothing else differs");
        });
    }
}
