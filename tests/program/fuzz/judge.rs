//! What may become of a packet, told without the programs' code.

use flannel_agent::trace::outer::Outer;
use flannel_common::flow::FlowKey;
use flannel_common::outcome::{Hook, Outcome, Verdict};
use proptest::prelude::*;

use super::Case;
use super::frame::{INNER_IPV4_AT, IPV4_AT, Ipv4, VXLAN, flow, has_right_checksum, ipv4, word};
use crate::packets::PORT;
use crate::program::flow::sample::{GATEWAY_MAC, POD_MAC, key};
use crate::program::flow::{Flows, POD_MTU};
use crate::program::overlay_egress::unwrapped;
use crate::program::{
    ENDED_SUBNET, INNER_PEER_IP, OUR_IP, OUR_MAC, OUR_SUBNET, PEER_IP, PEER_MAC, Run, TC_ACT_REDIRECT,
    TC_ACT_SHOT, TC_ACT_UNSPEC, VNI,
};

const UPLINK_MTU: usize = 1500;

/// Who holds an address, in the tests' leases: our own, or a peer with this address; and whether the lease goes on.
enum Holder {
    Ours,
    Peer { node: [u8; 4], receives: bool },
}

fn holder(address: [u8; 4]) -> Option<Holder> {
    let peer = |node, receives| Some(Holder::Peer { node, receives });
    match address {
        PEER_IP => peer(PEER_IP, false),
        [10, 1, 15, 128..=255] => peer(INNER_PEER_IP, true),
        [10, 1, 15, _] => peer(PEER_IP, true),
        [a, b, c, _] if [a, b, c, 0] == ENDED_SUBNET => peer(PEER_IP, false),
        [a, b, c, _] if [a, b, c, 0] == OUR_SUBNET => Some(Holder::Ours),
        _ => None,
    }
}

/// What came out is right, and what was passed on is what went in.
pub(super) fn fate(case: &Case, run: &Run) -> Result<(), TestCaseError> {
    let expected = match run.outcome.verdict() {
        Verdict::Carried => TC_ACT_REDIRECT,
        Verdict::Floor | Verdict::Foreign => TC_ACT_UNSPEC,
        Verdict::Dropped => TC_ACT_SHOT,
    };
    prop_assert_eq!(run.action, expected);
    let refused = case.hook == Hook::UnderlayIngress && case.source_check && is_forged(&case.frame);
    let is_congested = run.outcome == Outcome::NotEcnCapable;
    prop_assert_eq!(
        run.outcome.verdict() == Verdict::Dropped && !is_congested,
        refused,
        "{}",
        run.outcome.name()
    );
    match run.outcome {
        Outcome::NotEcnCapable => {
            good_outer(&case.frame)?;
            prop_assert_eq!(merged(&case.frame), None);
            Ok(())
        }
        Outcome::Encapsulated => encapsulated(case, run),
        Outcome::Decapsulated => decapsulated(case, run),
        Outcome::Delivered => delivered(case, run),
        outcome => {
            prop_assert!(outcome.verdict() != Verdict::Carried, "{}", outcome.name());
            prop_assert_eq!(&run.packet, &case.frame);
            Ok(())
        }
    }
}

/// Wrapped for the node that holds the destination, and inside is what came, one hop further if it came from a pod.
fn encapsulated(case: &Case, run: &Run) -> Result<(), TestCaseError> {
    let ip = ipv4_of(&case.frame, IPV4_AT)?;
    let Some(Holder::Peer { node, receives: true }) = holder(ip.destination) else {
        return Err(TestCaseError::fail("wrapped for nobody"));
    };
    let inner = unwrapped(&run.packet, node, ip.ecn);
    prop_assert!(run.packet.len() - 14 <= UPLINK_MTU, "{} bytes", run.packet.len());
    let (outer, same) = Outer::read(&run.packet).map_err(|error| TestCaseError::fail(error.to_string()))?;
    prop_assert_eq!((outer.source.octets(), outer.destination.octets()), (OUR_IP, node));
    prop_assert_eq!((outer.vni, outer.destination_port, outer.ecn), (VNI, PORT, ip.ecn));
    prop_assert_eq!(same, &inner[..]);
    match case.hook {
        Hook::OverlayEgress => prop_assert_eq!(inner, case.frame.clone()),
        Hook::PodEgress => {
            proven(case, IPV4_AT)?;
            unchanged(&routed(&case.frame, vtep(node), OUR_MAC)?, &case.frame, &inner)?;
        }
        hook => prop_assert!(false, "{} wraps nothing", hook.program()),
    }
    Ok(())
}

/// Out of VXLAN for us that has nothing odd about it, and not changed but for what the underlay says of congestion.
fn decapsulated(case: &Case, run: &Run) -> Result<(), TestCaseError> {
    prop_assert_eq!(case.hook, Hook::UnderlayIngress);
    good_outer(&case.frame)?;
    let inner = &case.frame[VXLAN..];
    unchanged(&marked(inner, code_point(case)?), inner, &run.packet)
}

/// To the pod of a flow that is proven.
fn delivered(case: &Case, run: &Run) -> Result<(), TestCaseError> {
    let (inner, code_point) = match case.hook {
        Hook::UnderlayIngress => {
            good_outer(&case.frame)?;
            (&case.frame[VXLAN..], code_point(case)?)
        }
        Hook::OverlayIngress => (&case.frame[..], case.frame[15] & 3),
        hook => return Err(TestCaseError::fail(format!("{} delivers nothing", hook.program()))),
    };
    prop_assert!(case.gso_size != 0 || inner.len() - 14 <= POD_MTU, "{} bytes", inner.len());
    proven(case, if case.hook == Hook::UnderlayIngress { INNER_IPV4_AT } else { IPV4_AT })?;
    let expected = routed(&marked(inner, code_point), POD_MAC, GATEWAY_MAC)?;
    unchanged(&expected, inner, &run.packet)
}

/// The frame with another ECN code point.
fn marked(frame: &[u8], code_point: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[15] = frame[15] & !3 | code_point;
    frame
}

fn code_point(case: &Case) -> Result<u8, TestCaseError> {
    merged(&case.frame).ok_or_else(|| TestCaseError::fail("the congested router's loss is passed on"))
}

/// The code point of what a VXLAN packet carries, by the table in RFC 6040 section 4.2.
const fn merged(frame: &[u8]) -> Option<u8> {
    match (frame[15] & 3, frame[VXLAN + 15] & 3) {
        (3, 0) => None,
        (3, _) => Some(3),
        (1, 2) => Some(1),
        (_, inner) => Some(inner),
    }
}

/// One router further: new addresses and one less to live.
fn routed(before: &[u8], to: [u8; 6], from: [u8; 6]) -> Result<Vec<u8>, TestCaseError> {
    prop_assert!(before[22] > 1, "its time to live was over");
    let mut after = before.to_vec();
    after[..6].copy_from_slice(&to);
    after[6..12].copy_from_slice(&from);
    after[22] -= 1;
    Ok(after)
}

/// What came out is what was expected of it, with a header checksum that is as right as it was before.
fn unchanged(expected: &[u8], before: &[u8], after: &[u8]) -> Result<(), TestCaseError> {
    prop_assert_eq!(after.len(), expected.len());
    prop_assert_eq!((&after[..24], &after[26..]), (&expected[..24], &expected[26..]));
    prop_assert_eq!(has_right_checksum(&after[14..34]), has_right_checksum(&before[14..34]));
    Ok(())
}

/// Fails unless the IPv4 packet at this place of the frame is of a flow that is proven.
fn proven(case: &Case, at: usize) -> Result<(), TestCaseError> {
    prop_assert!(case.flow_cache && case.proven, "no flow is proven");
    prop_assert!(is_proven(flow(&case.frame, at, case.hook)), "it is another flow");
    Ok(())
}

fn is_proven(flow: Option<FlowKey>) -> bool {
    use etherparse::IpNumber;
    flow.is_some_and(|flow| flow == key(IpNumber::UDP) || flow == key(IpNumber::TCP))
}

const fn vtep(node: [u8; 4]) -> [u8; 6] {
    if node[3] == PEER_IP[3] { PEER_MAC } else { crate::program::INNER_PEER_MAC }
}

/// Fails unless the outer headers are those of a VXLAN packet for us, whole and without oddities.
fn good_outer(frame: &[u8]) -> Result<(), TestCaseError> {
    let ip = ipv4_of(frame, IPV4_AT)?;
    prop_assert_eq!((ip.plain, ip.destination, ip.protocol), (true, OUR_IP, 17));
    prop_assert!(has_right_checksum(&frame[14..34]));
    prop_assert_eq!(ip.length, frame.len() - 14);
    let (port, length, check) = (word(frame, 36), word(frame, 38), word(frame, 40));
    prop_assert_eq!((port, check), (Some(PORT), Some(0)));
    prop_assert_eq!(length.map(usize::from), Some(frame.len() - 34));
    prop_assert_eq!((frame[42], &frame[46..49]), (8, &VNI.to_be_bytes()[1..]));
    prop_assert_eq!(&frame[VXLAN..VXLAN + 6], &OUR_MAC);
    ipv4_of(frame, INNER_IPV4_AT).map(drop)
}

fn ipv4_of(frame: &[u8], at: usize) -> Result<Ipv4, TestCaseError> {
    ipv4(frame, at).ok_or_else(|| TestCaseError::fail("no whole IPv4 header"))
}

/// Whether a packet is VXLAN for us, odd or not, from a node that does not hold the inner source.
fn is_forged(frame: &[u8]) -> bool {
    sources(frame).is_some_and(|(outer, inner)| match holder(inner) {
        Some(Holder::Peer { node, .. }) => node != outer,
        Some(Holder::Ours) | None => true,
    })
}

/// Outer and inner source of what the kernel's device would unwrap.
fn sources(frame: &[u8]) -> Option<([u8; 4], [u8; 4])> {
    let four = |at: usize| frame.get(at..at + 4)?.try_into().ok();
    let fragment = word(frame, 20)? & 0x1fff;
    let header = usize::from(frame[14] & 0xf) * 4;
    if frame[..6] != [0; 6]
        || frame[12..14] != [8, 0]
        || frame[23] != 17
        || four(30)? != OUR_IP
        || fragment != 0
    {
        return None;
    }
    let udp = 14 + header;
    let inner = udp + 16;
    let is_ours = word(frame, udp + 2)? == PORT
        && frame.get(udp + 8)? & 8 != 0
        && frame.get(udp + 12..udp + 15)? == &VNI.to_be_bytes()[1..]
        && word(frame, inner + 12)? == 0x0800
        && frame.get(inner + 14)? >> 4 == 4
        && frame.len() >= inner + 34;
    if is_ours { Some((four(26)?, four(inner + 26)?)) } else { None }
}

/// Nothing is remembered but of the packet's own flow, which all bytes that name it are there of.
pub(super) fn memory(case: &Case, before: &Flows, after: &Flows) -> Result<(), TestCaseError> {
    let own = flow(&case.frame, IPV4_AT, case.hook).filter(|_| case.hook != Hook::UnderlayIngress);
    for key in before.keys().chain(after.keys()).filter(|key| Some(**key) != own) {
        prop_assert_eq!(before.get(key), after.get(key), "{:?}", key);
    }
    Ok(())
}
