//! Group policy: marks become groups in VXLAN headers, and groups become marks.

use etherparse::{EtherType, IpNumber};
use flannel_common::outcome::{Hook, Outcome};

use super::flow::sample::{GATEWAY_MAC, POD_MAC, PodSide, hop};
use super::flow::{Flows, NOW, PROVEN, Row, UNKNOWN, changed, check, flow, grouped, none, of_udp, row};
use super::{OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, Programs, SkbMeta, VNI, all_untouched, carried, untouched};
use crate::packets::{PORT, frame, ipv4, udp, vxlan};

const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// Place of the VXLAN header in a frame.
const VXLAN: std::ops::Range<usize> = 42..50;
/// A mark of kube-proxy, which would be a group with group policy.
const FOREIGN: u32 = 0x4000;

fn programs() -> Programs {
    Programs::configured(|node| node.group_policy = 1)
}

fn with_flow_cache() -> Programs {
    Programs::configured(|node| (node.group_policy, node.flow_cache) = (1, 1))
}

/// The flow's datagram, which the host stack has routed into the overlay.
fn routed() -> Vec<u8> {
    frame(PEER_MAC, OUR_MAC, EtherType::IPV4, &PodSide::Egress.udp(b"payload").bytes())
}

/// The same datagram from the pod's port.
fn sent() -> Vec<u8> {
    frame(GATEWAY_MAC, POD_MAC, EtherType::IPV4, &PodSide::Egress.udp(b"payload").bytes())
}

/// The answer, unwrapped.
fn received() -> Vec<u8> {
    frame(OUR_MAC, PEER_MAC, EtherType::IPV4, &PodSide::Ingress.udp(b"payload").bytes())
}

/// The answer on the uplink, with the first four bytes of the VXLAN header.
fn arrives(flags: [u8; 4]) -> Vec<u8> {
    let mut header = vxlan(flags[0], VNI, &received());
    header[..4].copy_from_slice(&flags);
    let packet = ipv4(PEER_IP.into(), OUR_IP.into(), IpNumber::UDP, udp(41000, PORT, &header));
    frame([0; 6], ROUTER_MAC, EtherType::IPV4, &packet.bytes())
}

/// Returns the VXLAN header that begins with these bytes.
fn header(flags: [u8; 4]) -> [u8; 8] {
    let [a, b, c, d] = flags;
    [a, b, c, d, 0, 0, VNI as u8, 0]
}

#[test]
fn the_mark_goes_into_the_header() {
    let table = [
        (0, [0x08, 0, 0, 0]),
        (42, [0x88, 0, 0, 42]),
        (0xabcd, [0x88, 0, 0xab, 0xcd]),
        (0x0048_0001, [0x88, 0x48, 0, 1]),
        (u32::MAX, [0x88, 0x48, 0xff, 0xff]),
        (0x1ff0_0000, [0x88, 0x40, 0, 0]),
        (0x8000_0000, [0x88, 0, 0, 0]),
    ];
    let mut programs = programs();
    for (mark, flags) in table {
        let run = programs.run_with(Hook::OverlayEgress, &routed(), SkbMeta { mark, ..SkbMeta::default() });
        carried(&run, Outcome::Encapsulated, "marked");
        assert_eq!((&run.packet[VXLAN], run.mark), (&header(flags)[..], mark), "mark {mark:#x}");
        assert_eq!(run.packet[VXLAN.end..], routed(), "mark {mark:#x}");
    }
}

#[test]
fn the_header_gives_the_mark() {
    let table = [
        ([0x88, 0, 0, 42], 0, 42),
        ([0x88, 0, 0xab, 0xcd], 7, 0xabcd),
        ([0x88, 0x48, 0, 1], 0, 0x0048_0001),
        ([0x88, 0xff, 0, 1], 0, 0x0048_0001),
        ([0x88, 0, 0, 0], 7, 0),
        // A packet without a group keeps its mark.
        ([0x08, 0, 0, 0], 0, 0),
        ([0x08, 0, 0, 0], 7, 7),
    ];
    let mut programs = programs();
    for (flags, before, after) in table {
        let run = programs.run_with(
            Hook::UnderlayIngress,
            &arrives(flags),
            SkbMeta { mark: before, ..SkbMeta::default() },
        );
        carried(&run, Outcome::Decapsulated, "with a group");
        assert_eq!((run.packet, run.mark), (received(), after), "{flags:02x?}, marked {before}");
    }
}

#[test]
fn a_packet_with_other_flags_goes_to_the_kernel_device() {
    let unusual = |description, flags| untouched(description, arrives(flags), Outcome::VxlanFlags);
    let table = vec![
        unusual("a group without a VNI", [0x80, 0, 0, 42]),
        unusual("generic protocol extension", [0x0c, 0, 0, 3]),
        unusual("a group and more", [0x8c, 0, 0, 42]),
    ];
    all_untouched(&mut programs(), Hook::UnderlayIngress, table);
}

#[test]
fn without_group_policy_marks_are_not_read_or_written() {
    let mut off = Programs::load();
    let run = off.run_with(Hook::OverlayEgress, &routed(), SkbMeta { mark: FOREIGN, ..SkbMeta::default() });
    carried(&run, Outcome::Encapsulated, "marked");
    assert_eq!((&run.packet[VXLAN], run.mark), (&header([8, 0, 0, 0])[..], FOREIGN));
    let run = off.run_with(
        Hook::UnderlayIngress,
        &arrives([8, 0, 0, 0]),
        SkbMeta { mark: FOREIGN, ..SkbMeta::default() },
    );
    carried(&run, Outcome::Decapsulated, "marked");
    assert_eq!(run.mark, FOREIGN);
    let group = vec![untouched("a group", arrives([0x88, 0, 0, 42]), Outcome::VxlanFlags)];
    all_untouched(&mut off, Hook::UnderlayIngress, group);
    let known = || of_udp(flow(PROVEN, PROVEN));
    for (hook, frame, outcome) in [
        (Hook::PodEgress, sent(), Outcome::Encapsulated),
        (Hook::OverlayEgress, routed(), Outcome::Encapsulated),
        (Hook::UnderlayIngress, arrives([8, 0, 0, 0]), Outcome::Delivered),
        (Hook::OverlayIngress, received(), Outcome::Delivered),
    ] {
        let mut after = known();
        if hook == Hook::OverlayEgress {
            after = of_udp(flow(NOW, PROVEN));
        }
        let row = row("marked", frame, known(), outcome, after).marked(FOREIGN);
        check(&mut Programs::with_flow_cache(), hook, vec![row], |run, _| assert_eq!(run.mark, FOREIGN));
    }
}

#[test]
fn without_group_policy_marks_in_the_flow_cache_do_not_count() {
    let proven = || known(PROVEN, PROVEN, [42, 42]);
    let row = |hook, frame, outcome, after| (hook, row("a group", frame, proven(), outcome, after));
    let (hook, new) = row(Hook::OverlayIngress, received(), Outcome::FlowNew, proven());
    for (hook, row) in [
        row(Hook::PodEgress, sent(), Outcome::Encapsulated, proven()),
        row(Hook::OverlayEgress, routed(), Outcome::Encapsulated, known(NOW, PROVEN, [0, 42])),
        row(Hook::UnderlayIngress, arrives([8, 0, 0, 0]), Outcome::Decapsulated, proven()),
        (hook, new.noted()),
    ] {
        check(&mut Programs::with_flow_cache(), hook, vec![row], |run, _| {
            assert_eq!(run.mark, 0);
            if run.outcome == Outcome::Encapsulated {
                assert_eq!(run.packet[VXLAN], header([8, 0, 0, 0]));
            }
        });
    }
}

/// Makes a flow in these groups, from the pod and to it.
fn known(egress: u64, ingress: u64, groups: [u32; 2]) -> Flows {
    of_udp(grouped(flow(egress, ingress), groups))
}

#[test]
fn a_proof_has_the_mark_that_the_stack_gave() {
    let marked = |description, before, mark, after| {
        row(description, routed(), before, Outcome::Encapsulated, after).marked(mark)
    };
    let table = vec![
        marked("the first", none(), 42, known(NOW, UNKNOWN, [42, 0])),
        marked("another group now", known(PROVEN, PROVEN, [42, 7]), 43, known(NOW, PROVEN, [43, 7])),
        marked("no group any more", known(PROVEN, PROVEN, [42, 7]), 0, known(NOW, PROVEN, [0, 7])),
    ];
    check(&mut with_flow_cache(), Hook::OverlayEgress, table, |run, _| {
        assert_eq!(run.packet[VXLAN.end..], routed());
    });
}

#[test]
fn a_packet_that_skips_the_stack_gets_the_mark_of_the_proof() {
    for (group, flags) in [(0, [0x08, 0, 0, 0]), (42, [0x88, 0, 0, 42]), (0x0040_0001, [0x88, 0x40, 0, 1])] {
        let proven = known(PROVEN, PROVEN, [group, 7]);
        let table = vec![row("proven", sent(), proven.clone(), Outcome::Encapsulated, proven)];
        check(&mut with_flow_cache(), Hook::PodEgress, table, |run, sent| {
            assert_eq!((&run.packet[VXLAN], run.mark), (&header(flags)[..], group));
            assert_eq!(run.packet[VXLAN.end..], hop(sent, PEER_MAC, OUR_MAC));
        });
    }
}

#[test]
fn a_packet_marked_before_the_stack_goes_through_it() {
    let same = |flows: Flows| row("marked", sent(), flows.clone(), Outcome::NotCacheable, flows).marked(42);
    let table = vec![same(none()), same(known(PROVEN, PROVEN, [42, 42]))];
    check(&mut with_flow_cache(), Hook::PodEgress, table, |_, _| unreachable!("nothing is carried"));
}

#[test]
fn only_the_proven_group_skips_the_stack() {
    let proven = || known(PROVEN, PROVEN, [7, 42]);
    let on_uplink = |flags, outcome| row("on the uplink", arrives(flags), proven(), outcome, proven());
    let table = vec![
        on_uplink([0x88, 0, 0, 42], Outcome::Delivered),
        on_uplink([0x88, 0, 0, 43], Outcome::Decapsulated),
        on_uplink([0x88, 0x40, 0, 42], Outcome::Decapsulated),
        on_uplink([0x08, 0, 0, 0], Outcome::Decapsulated),
    ];
    check(&mut with_flow_cache(), Hook::UnderlayIngress, table, |run, sent| {
        let expected = match run.outcome {
            Outcome::Delivered => (hop(&sent[VXLAN.end..], POD_MAC, GATEWAY_MAC), 0),
            _ => (received(), u32::from(sent[VXLAN.start + 3]) | u32::from(sent[VXLAN.start + 1]) << 16),
        };
        assert_eq!((&run.packet, run.mark), (&expected.0, expected.1));
    });
    check_unwrapped(vec![
        row("the group", received(), proven(), Outcome::Delivered, proven()).marked(42),
        row("another", received(), proven(), Outcome::FlowNew, proven()).marked(43).noted_with(43),
        row("none", received(), proven(), Outcome::FlowNew, proven()).noted_with(0),
        row("a new flow", received(), none(), Outcome::FlowNew, none()).marked(42).noted_with(42),
    ]);
}

#[test]
fn a_proof_of_a_packet_to_the_pod_has_the_mark_with_which_it_entered() {
    let delivered = frame(POD_MAC, GATEWAY_MAC, EtherType::IPV4, &PodSide::Ingress.udp(b"payload").bytes());
    let entered = |description, before, outcome, after| {
        row(description, delivered.clone(), before, outcome, after)
            .marked(9)
            .entered(|record| record.mark = 42)
    };
    let is_changed = |flows: Flows| {
        flows.into_iter().map(|(key, flow)| (key, changed(flow, [false, true]))).collect::<Flows>()
    };
    let table = vec![
        entered("the first", none(), Outcome::FlowProven, known(UNKNOWN, NOW, [0, 42])),
        entered(
            "another group before",
            known(PROVEN, PROVEN, [7, 43]),
            Outcome::FlowProven,
            known(PROVEN, NOW, [7, 42]),
        ),
        entered(
            "changed",
            known(PROVEN, PROVEN, [7, 43]),
            Outcome::NoFlow,
            is_changed(known(PROVEN, NOW, [7, 43])),
        )
        .token(0x1234),
        entered("a mark that two packets have written", none(), Outcome::NoFlow, none())
            .torn(|record| record.mark = 42),
    ];
    check(&mut with_flow_cache(), Hook::PodIngress, table, |_, _| {
        unreachable!("this program carries nothing")
    });
}

/// Runs a table of packets that the kernel's vxlan device has unwrapped and marked.
fn check_unwrapped(table: Vec<Row>) {
    check(&mut with_flow_cache(), Hook::OverlayIngress, table, |run, sent| {
        // As through the veth, the pod gets it without a mark.
        assert_eq!((&run.packet, run.mark), (&hop(sent, POD_MAC, GATEWAY_MAC), 0));
    });
}
