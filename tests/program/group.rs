//! Group policy: what marks make of VXLAN headers, and VXLAN headers of marks.

use etherparse::{EtherType, IpNumber};
use flannel_common::flow::Flow;
use flannel_common::outcome::{Hook, Outcome};

use super::flow::sample::{GATEWAY_MAC, POD_MAC, Way, hop};
use super::flow::{FRESH, Flows, NEVER, NOW, PROVEN, Row, UNKNOWN, check, flow, grouped, none, of_udp, row};
use super::{Meta, OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, Programs, VNI, all_untouched, carried, untouched};
use crate::packets::{PORT, frame, ipv4, udp, vxlan};

const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// Where the VXLAN header of a frame is.
const VXLAN: std::ops::Range<usize> = 42..50;
/// A mark that would be a group, did the network have groups: kube-proxy's.
const FOREIGN: u32 = 0x4000;

fn programs() -> Programs {
    Programs::configured(|node| node.group_policy = 1)
}

fn with_flow_cache() -> Programs {
    Programs::configured(|node| (node.group_policy, node.flow_cache) = (1, 1))
}

/// The flow's datagram where the host stack has routed it into the overlay.
fn routed() -> Vec<u8> {
    frame(PEER_MAC, OUR_MAC, EtherType::IPV4, &Way::Egress.udp(b"payload").bytes())
}

/// The same as the pod sent it.
fn sent() -> Vec<u8> {
    frame(GATEWAY_MAC, POD_MAC, EtherType::IPV4, &Way::Egress.udp(b"payload").bytes())
}

/// Its answer behind the vxlan device.
fn received() -> Vec<u8> {
    frame(OUR_MAC, PEER_MAC, EtherType::IPV4, &Way::Ingress.udp(b"payload").bytes())
}

/// The answer on the uplink, with the first four bytes of the VXLAN header.
fn arrives(flags: [u8; 4]) -> Vec<u8> {
    let mut header = vxlan(flags[0], VNI, &received());
    header[..4].copy_from_slice(&flags);
    let packet = ipv4(PEER_IP.into(), OUR_IP.into(), IpNumber::UDP, udp(41000, PORT, &header));
    frame([0; 6], ROUTER_MAC, EtherType::IPV4, &packet.bytes())
}

/// What a VXLAN header of ours says.
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
        let run = programs.run_with(Hook::OverlayEgress, &routed(), Meta { mark, ..Meta::default() });
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
        // Without a group, what the packet was marked with stays.
        ([0x08, 0, 0, 0], 0, 0),
        ([0x08, 0, 0, 0], 7, 7),
    ];
    let mut programs = programs();
    for (flags, before, after) in table {
        let run = programs.run_with(
            Hook::UnderlayIngress,
            &arrives(flags),
            Meta { mark: before, ..Meta::default() },
        );
        carried(&run, Outcome::Decapsulated, "with a group");
        assert_eq!((run.packet, run.mark), (received(), after), "{flags:02x?}, marked {before}");
    }
}

#[test]
fn other_flags_are_left_to_the_kernel_device() {
    let odd = |description, flags| untouched(description, arrives(flags), Outcome::VxlanFlags);
    let table = vec![
        odd("a group without a VNI", [0x80, 0, 0, 42]),
        odd("generic protocol extension", [0x0c, 0, 0, 3]),
        odd("a group and more", [0x8c, 0, 0, 42]),
    ];
    all_untouched(&mut programs(), Hook::UnderlayIngress, table);
}

#[test]
fn without_group_policy_marks_are_nobody_s_business() {
    let mut off = Programs::load();
    let run = off.run_with(Hook::OverlayEgress, &routed(), Meta { mark: FOREIGN, ..Meta::default() });
    carried(&run, Outcome::Encapsulated, "marked");
    assert_eq!((&run.packet[VXLAN], run.mark), (&header([8, 0, 0, 0])[..], FOREIGN));
    let run = off.run_with(
        Hook::UnderlayIngress,
        &arrives([8, 0, 0, 0]),
        Meta { mark: FOREIGN, ..Meta::default() },
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
            after = of_udp(flow([FRESH, NOW], PROVEN));
        }
        let row = row("marked", frame, known(), outcome, after).marked(FOREIGN);
        check(&mut Programs::with_flow_cache(), hook, vec![row], |run, _| assert_eq!(run.mark, FOREIGN));
    }
}

#[test]
fn without_group_policy_what_is_remembered_of_it_does_not_count() {
    let proven = || known(PROVEN, PROVEN, [42, 42]);
    let row = |hook, frame, outcome, after| (hook, row("a group", frame, proven(), outcome, after));
    let entered = known(PROVEN, [NOW, NEVER], [42, 0]);
    for (hook, row) in [
        row(Hook::PodEgress, sent(), Outcome::Encapsulated, proven()),
        row(Hook::OverlayEgress, routed(), Outcome::Encapsulated, known([FRESH, NOW], PROVEN, [0, 42])),
        row(Hook::UnderlayIngress, arrives([8, 0, 0, 0]), Outcome::Decapsulated, proven()),
        row(Hook::OverlayIngress, received(), Outcome::FlowNew, entered),
    ] {
        check(&mut Programs::with_flow_cache(), hook, vec![row], |run, _| {
            assert_eq!(run.mark, 0);
            if run.outcome == Outcome::Encapsulated {
                assert_eq!(run.packet[VXLAN], header([8, 0, 0, 0]));
            }
        });
    }
}

/// A flow in these groups, from the pod and to it.
fn known(egress: [u64; 2], ingress: [u64; 2], groups: [u32; 2]) -> Flows {
    of_udp(grouped(flow(egress, ingress), groups))
}

#[test]
fn the_stack_s_mark_is_remembered_with_its_consent() {
    let (left, entered) = ([FRESH, NOW], [FRESH, NEVER]);
    let marked = |description, before, mark, after| {
        row(description, routed(), before, Outcome::Encapsulated, after).marked(mark)
    };
    let table = vec![
        marked("the first", known(entered, UNKNOWN, [0, 0]), 42, known(left, UNKNOWN, [42, 0])),
        marked("another group now", known(PROVEN, PROVEN, [42, 7]), 43, known(left, PROVEN, [43, 7])),
        marked("none any more", known(PROVEN, PROVEN, [42, 7]), 0, known(left, PROVEN, [0, 7])),
    ];
    check(&mut with_flow_cache(), Hook::OverlayEgress, table, |run, _| {
        assert_eq!(run.packet[VXLAN.end..], routed());
    });
}

#[test]
fn what_skips_the_stack_leaves_in_the_group_that_the_stack_gave() {
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
fn only_the_group_that_was_let_through_skips_the_stack() {
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
        row("another", received(), proven(), Outcome::FlowNew, known(PROVEN, [NOW, NEVER], [7, 43]))
            .marked(43),
        row("none", received(), proven(), Outcome::FlowNew, known(PROVEN, [NOW, NEVER], [7, 0])),
        row("a new flow", received(), none(), Outcome::FlowNew, first(42)).marked(42),
    ]);
}

/// Of a flow whose first packet came from its peer, in this group.
fn first(group: u32) -> Flows {
    let entered = grouped(flow(UNKNOWN, [NOW, NEVER]), [0, group]);
    of_udp(Flow { port: Default::default(), ..entered })
}

/// Runs a table of what the kernel device has unwrapped, and marked.
fn check_unwrapped(table: Vec<Row>) {
    check(&mut with_flow_cache(), Hook::OverlayIngress, table, |run, sent| {
        // The pod gets it as off the end of its cable.
        assert_eq!((&run.packet, run.mark), (&hop(sent, POD_MAC, GATEWAY_MAC), 0));
    });
}
