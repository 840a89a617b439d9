//! Rules for what may happen to a packet, independent of the programs' code.

mod expected;
mod sender;

use flannel_agent::trace::outer::OuterHeaders;
use flannel_common::node::{FLOOR_UNWRAPS, FLOOR_WRAPS, SOURCE_CHECK_OFF};
use flannel_common::outcome::{Hook, Outcome, Verdict};
use proptest::prelude::*;

use super::frame::{ETHERNET, Ip, UDP_AND_VXLAN, flow, has_right_checksum, ip, is_from_pod, with_name, word};
use super::{Case, Noted, proven_flows};
use crate::packets::PORT;
use crate::program::flow::sample::{GATEWAY_MAC, POD_MAC};
use crate::program::flow::{FlowNames, Flows, NEIGHBOUR_MAC, POD_MTU};
use crate::program::overlay_egress::unwrapped;
use crate::program::translation::sample::Service;
use crate::program::{
    OUR_IP, OUR_IP6, OUR_MAC, OUR_MAC6, RunResult, TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC, VNI,
};
use expected::{group_of, mark_in, marked, merged, routed, unchanged};
use sender::{Holder, PeerPath, holder, is_accepted, is_direct, is_forged};

const UPLINK_MTU: usize = 1500;
/// Smallest MTU of an IPv6 link. The namespace of the runs has no route to the peer.
const ANY_LINK: usize = 1280;

type Checked<T = ()> = Result<T, TestCaseError>;

/// Checks what came out. Packets that are passed on must be unchanged.
pub(super) fn check_packet(case: &Case, run: &RunResult) -> Checked {
    let expected = match run.outcome.verdict() {
        Verdict::Carried => TC_ACT_REDIRECT,
        Verdict::Floor | Verdict::Foreign => TC_ACT_UNSPEC,
        Verdict::Dropped => TC_ACT_SHOT,
    };
    prop_assert_eq!(run.action, expected);
    check_floor(case, case.hook, run.outcome)?;
    let is_unchecked = case.meta.unchecked
        && case.source_check != SOURCE_CHECK_OFF
        && matches!(word(&case.frame, 12), Some(0x0800 | 0x86dd));
    let refused = match case.hook {
        Hook::UnderlayIngress => is_forged(&case.frame, case.source_check),
        Hook::OverlayIngress => is_unchecked,
        _ => false,
    };
    let is_congested = run.outcome == Outcome::NotEcnCapable;
    prop_assert_eq!(
        run.outcome.verdict() == Verdict::Dropped && !is_congested,
        refused,
        "{}",
        run.outcome.name()
    );
    let mark = match run.outcome {
        Outcome::NotEcnCapable => congested(case)?,
        Outcome::Encapsulated => encapsulated(case, run)?,
        Outcome::Forwarded => forwarded(case, run)?,
        Outcome::OnLink => on_link(case, run)?,
        Outcome::Decapsulated => decapsulated(case, run)?,
        Outcome::Delivered => delivered(case, run)?,
        outcome => {
            if outcome == Outcome::FlowProven {
                prop_assert!(case.unchanged, "a changed packet proves its flow");
                let is_noted = matches!(case.noted, Noted::Same | Noted::Translated);
                prop_assert!(is_noted, "a packet that has not entered proves its flow");
            }
            prop_assert!(outcome.verdict() != Verdict::Carried, "{}", outcome.name());
            prop_assert_eq!(&run.packet, &case.frame);
            case.meta.mark
        }
    };
    prop_assert_eq!(run.mark, mark, "{}", run.outcome.name());
    check_note(case, run)
}

/// Checks that exactly those packets have the note of a checked sender that the vxlan device may unwrap or receive.
fn check_note(case: &Case, run: &RunResult) -> Checked {
    let passed = !matches!(run.outcome, Outcome::Delivered) && run.outcome.verdict() != Verdict::Dropped;
    let expected = match case.hook {
        Hook::UnderlayIngress | Hook::SideIngress => {
            is_accepted(&case.frame, case.source_check) || run.outcome == Outcome::Decapsulated
        }
        _ => false,
    };
    // A packet that skips the stack or is dropped needs no note, and may have one.
    prop_assert!(!passed || run.checked == expected, "{}: {}", run.outcome.name(), run.checked);
    Ok(())
}

/// Checks that a program leaves to the floor what it was told to, and nothing else for that reason.
pub(super) fn check_floor(case: &Case, hook: Hook, outcome: Outcome) -> Checked {
    let wraps = outcome == Outcome::Encapsulated;
    let is_received = matches!(hook, Hook::UnderlayIngress | Hook::UnderlayXdp);
    let unwraps = is_received && outcome.verdict() == Verdict::Carried;
    prop_assert!(case.floor & FLOOR_WRAPS == 0 || !wraps);
    prop_assert!(case.floor & FLOOR_UNWRAPS == 0 || !unwraps);
    let bit = if is_received { FLOOR_UNWRAPS } else { FLOOR_WRAPS };
    prop_assert!(outcome != Outcome::Obstructed || case.floor & bit != 0);
    Ok(())
}

/// Checks a packet from a congested router whose inner packet does not support ECN.
fn congested(case: &Case) -> Checked<u32> {
    let (outer, inner, _) = plain_vxlan(case)?;
    prop_assert_eq!(merged(&outer, &inner), None);
    Ok(case.meta.mark)
}

/// Checks a wrapped packet: it goes to the node that holds the destination, and is one hop further if it came from a pod.
fn encapsulated(case: &Case, run: &RunResult) -> Checked<u32> {
    // A packet that the stack routes into the tunnel goes there, even if its peer is on the link.
    let paths: &[_] = if case.hook == Hook::OverlayEgress {
        &[PeerPath::Tunnel, PeerPath::Link]
    } else {
        &[PeerPath::Tunnel]
    };
    let sent = if case.hook == Hook::PodEgress { proven(case, 0)? } else { case.frame.clone() };
    let (ip, node, vtep) = receiver(&sent, paths)?;
    let node: [u8; 4] = node.try_into().unwrap();
    let after = if case.hook == Hook::PodEgress { proven_mark(case)? } else { case.meta.mark };
    let (outer, same) =
        OuterHeaders::read(&run.packet).map_err(|error| TestCaseError::fail(error.to_string()))?;
    let mut plain = run.packet.clone();
    let flags: Vec<_> = plain.splice(42..46, group_of(0)).collect();
    prop_assert_eq!(&flags[..], group_of(if case.group_policy { after } else { 0 }));
    let inner = unwrapped(&plain, node, ip.ecn);
    prop_assert!(case.meta.gso_size != 0 || run.packet.len() - ETHERNET <= UPLINK_MTU);
    prop_assert_eq!((outer.source.octets(), outer.destination.octets()), (OUR_IP, node));
    prop_assert_eq!((outer.vni, outer.destination_port, outer.ecn), (VNI, PORT, ip.ecn));
    prop_assert_eq!(same, &inner[..]);
    match case.hook {
        Hook::OverlayEgress => prop_assert_eq!(&inner, &case.frame),
        Hook::PodEgress => {
            unchanged(&routed(&sent, vtep, OUR_MAC)?, &case.frame, &inner)?;
        }
        hook => prop_assert!(false, "{} must not wrap packets", hook.program()),
    }
    Ok(after)
}

/// Checks a packet over IPv6: it is as the host stack would have sent it to the vxlan device.
fn forwarded(case: &Case, run: &RunResult) -> Checked<u32> {
    prop_assert_eq!(case.hook, Hook::PodEgress);
    let sent = proven(case, 0)?;
    let (ip, _, vtep) = receiver(&sent, &[PeerPath::Tunnel])?;
    prop_assert!(ip.v6);
    let wrapped = case.frame.len() + ip.header + UDP_AND_VXLAN;
    prop_assert!(case.meta.gso_size != 0 || wrapped <= ANY_LINK, "{wrapped} bytes");
    unchanged(&routed(&sent, vtep, OUR_MAC6)?, &case.frame, &run.packet)?;
    proven_mark(case)
}

/// Checks a packet to a peer on the link: it is one hop further, with the MACs of its way.
fn on_link(case: &Case, run: &RunResult) -> Checked<u32> {
    prop_assert_eq!(case.hook, Hook::PodEgress);
    let sent = proven(case, 0)?;
    receiver(&sent, &[PeerPath::Link])?;
    prop_assert!(case.meta.gso_size != 0 || case.frame.len() - ETHERNET <= UPLINK_MTU);
    unchanged(&routed(&sent, NEIGHBOUR_MAC, [0; 6])?, &case.frame, &run.packet)?;
    proven_mark(case)
}

/// Returns the mark of a packet that skips the stack, which is the mark of the proof.
fn proven_mark(case: &Case) -> Checked<u32> {
    prop_assert!(!case.group_policy || case.meta.mark == 0, "it was marked before the stack");
    Ok(if case.group_policy { case.group } else { case.meta.mark })
}

/// Returns the header of a packet that goes to a peer by one of these paths, the node's address, and its VTEP's MAC.
fn receiver<'a>(frame: &'a [u8], paths: &[PeerPath]) -> Checked<(Ip<'a>, &'static [u8], [u8; 6])> {
    let ip = ip_of(frame, ETHERNET)?;
    match holder(ip.destination) {
        Some(Holder::Peer { node, vtep, by }) if by.is_some_and(|by| paths.contains(&by)) => {
            Ok((ip, node, vtep))
        }
        _ => Err(TestCaseError::fail("sent to an address without a lease")),
    }
}

/// Checks an unwrapped packet: it was plain VXLAN to this node, and only its ECN may have changed.
fn decapsulated(case: &Case, run: &RunResult) -> Checked<u32> {
    let (outer, inner, at) = plain_vxlan(case)?;
    let before = &case.frame[at..];
    unchanged(&marked(before, code_point(&outer, &inner)?), before, &run.packet)?;
    let group = mark_in(&case.frame, at).filter(|_| case.group_policy);
    Ok(group.unwrap_or(case.meta.mark))
}

/// Checks a packet that was sent to its pod: its flow is proven.
fn delivered(case: &Case, run: &RunResult) -> Checked<u32> {
    let (at, code_point, group) = match case.hook {
        Hook::UnderlayIngress if !case.has_direct_flows() || !is_direct(&case.frame) => {
            let (outer, inner, at) = plain_vxlan(case)?;
            (at, code_point(&outer, &inner)?, mark_in(&case.frame, at).unwrap_or(case.meta.mark))
        }
        Hook::UnderlayIngress | Hook::OverlayIngress => {
            (0, ip_of(&case.frame, ETHERNET)?.ecn, case.meta.mark)
        }
        hook => return Err(TestCaseError::fail(format!("{} must not deliver packets", hook.program()))),
    };
    let before = &case.frame[at..];
    prop_assert!(case.meta.gso_size != 0 || before.len() - ETHERNET <= POD_MTU, "{} bytes", before.len());
    let sent = proven(case, at)?;
    // The proof is for one group. Without group policy there are none.
    prop_assert_eq!(if case.group_policy { group } else { 0 }, case.group);
    unchanged(&routed(&marked(&sent, code_point), POD_MAC, GATEWAY_MAC)?, before, &run.packet)?;
    let is_wiped = at == 0 && case.group_policy;
    Ok(if is_wiped { 0 } else { case.meta.mark })
}

fn code_point(outer: &Ip<'_>, inner: &Ip<'_>) -> Checked<u8> {
    merged(outer, inner).ok_or_else(|| {
        TestCaseError::fail("a packet is passed on that a congested router would have dropped")
    })
}

/// Returns the frame that begins at this place with the addresses and ports that the stack gives it. Fails unless it is of a
/// proven flow.
fn proven(case: &Case, at: usize) -> Checked<Vec<u8>> {
    prop_assert!(case.flow_cache && case.proven, "no flow is proven");
    let (frame, (v4, v6)) = (&case.frame[at..], proven_flows());
    let sent = translated(frame, case.hook, &v4).or_else(|| translated(frame, case.hook, &v6));
    sent.ok_or_else(|| TestCaseError::fail("it is another flow"))
}

fn translated<A: Service>(frame: &[u8], hook: Hook, flows: &[FlowNames<A>]) -> Option<Vec<u8>> {
    let name = flow::<A>(frame, ETHERNET, hook)?;
    let in_order = |names: &FlowNames<A>| {
        if is_from_pod(hook) { (names.pod, names.network) } else { (names.network, names.pod) }
    };
    let (_, behind) = flows.iter().map(in_order).find(|(before, _)| *before == name)?;
    Some(with_name(frame, ETHERNET, hook, &behind))
}

/// Returns the outer and the inner header of a plain VXLAN packet to this node, and where its inner frame begins.
fn plain_vxlan(case: &Case) -> Checked<(Ip<'_>, Ip<'_>, usize)> {
    let frame = &case.frame;
    prop_assert_eq!((case.hook, case.meta.gso_size), (Hook::UnderlayIngress, 0));
    let outer = ip_of(frame, ETHERNET)?;
    let (address, mac): (&[u8], _) = if outer.v6 { (&OUR_IP6, OUR_MAC6) } else { (&OUR_IP, OUR_MAC) };
    prop_assert_eq!((outer.plain, outer.destination, outer.protocol), (true, address, 17));
    prop_assert_eq!(outer.length, frame.len() - ETHERNET);
    let udp = ETHERNET + outer.header;
    prop_assert_eq!(word(frame, udp + 2), Some(PORT));
    prop_assert_eq!(word(frame, udp + 4).map(usize::from), Some(frame.len() - udp));
    // IPv4 comes without a UDP checksum, IPv6 with one.
    prop_assert_eq!(word(frame, udp + 6) != Some(0), outer.v6);
    prop_assert!(outer.v6 || has_right_checksum(&frame[ETHERNET..udp]));
    let (vxlan, at) = (udp + 8, udp + UDP_AND_VXLAN);
    prop_assert!(frame[vxlan] == 0x08 || case.group_policy && frame[vxlan] == 0x88);
    prop_assert_eq!(&frame[vxlan + 4..vxlan + 7], &VNI.to_be_bytes()[1..]);
    prop_assert_eq!(&frame[at..at + 6], &mac);
    let inner = ip_of(frame, at + ETHERNET)?;
    prop_assert_eq!(inner.v6, outer.v6);
    Ok((outer, inner, at))
}

fn ip_of(frame: &[u8], at: usize) -> Checked<Ip<'_>> {
    ip(frame, at).ok_or_else(|| TestCaseError::fail("no whole IP header"))
}

/// Checks that at most the packet's own flow has changed, and none if the packet was counted before. A translated flow is known
/// under both of its names, or not at all.
pub(super) fn check_flows<A: Service>(
    case: &Case,
    run: &RunResult,
    before: &Flows<A>,
    after: &Flows<A>,
) -> Checked {
    let is_seen = case.hook != Hook::UnderlayIngress || case.has_direct_flows() && is_direct(&case.frame);
    let may_change = is_seen && run.outcome != Outcome::AfterShortcut;
    let own = flow(&case.frame, ETHERNET, case.hook).filter(|_| may_change);
    let mut names: Vec<_> = own.into_iter().chain(case.entered_name().filter(|_| may_change)).collect();
    names.extend(names.clone().iter().filter_map(|name| before.get(name)).map(|flow| flow.other));
    for key in before.keys().chain(after.keys()).filter(|key| !names.contains(key)) {
        prop_assert_eq!(before.get(key), after.get(key), "{:?}", key);
    }
    for (name, flow) in after {
        prop_assert_eq!(after.get(&flow.other).map(|flow| flow.other), Some(*name));
    }
    Ok(())
}
