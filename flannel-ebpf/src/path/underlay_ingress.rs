//! Ingress of the uplink: unwraps packets of peers, drops forged ones, and passes all others. With DirectRouting, packets
//! without a tunnel from peers on the link may skip the host stack as well.

use flannel_common::address::Address;
use flannel_common::flow::Direction;
use flannel_common::lease::{DIRECT, OWN};
use flannel_common::node::{FEATURE_XDP, FLOOR_UNWRAPS};
use flannel_common::outcome::{Outcome, Verdict};

use crate::features::{has, has_family};
use crate::group;
use crate::ip::Ip;
use crate::maps::{self, IpFamily, NodeRef};
use crate::packet::{Context, Packet, PacketAccess as _};
use crate::stage::decap::OuterHeaders;
use crate::stage::find_udp::FindUdp;
use crate::stage::flow::{Shortcut, ToPod};
use crate::stage::parse::{self, Inner, OuterFields, by_family};
use crate::stage::route::Routed;
use crate::stage::way::{self, Route};
use crate::stage::{decap, deliver, ecn, handover, report, sender};
use crate::verdict::Carried;

/// Handles one packet from the underlay: to its pod if its flow is proven, else into the host stack, as received on the
/// vxlan device.
#[inline(always)]
pub fn run(packet: &Packet<'_>) -> Result<Carried, Outcome> {
    sender::refuse_note(packet);
    by_family!(packet, H => receive::<H>(packet), else Err(Outcome::NotVxlan))
}

/// Handles a packet of one family. What [`receive_usual`] has not finished is judged by [`sender`] before it goes on.
#[inline(always)]
fn receive<H: IpFamily + FindUdp + Route>(packet: &Packet<'_>) -> Result<Carried, Outcome> {
    let received = if has(FEATURE_XDP) && packet.has_metadata() {
        receive_usual::<H, true>(packet.context())
    } else {
        receive_usual::<H, false>(packet.context())
    };
    received.map_err(|outcome| match outcome {
        Outcome::NotVxlan if handover::is_lost::<H>(packet) => Outcome::HandoverLost,
        Outcome::NotVxlan if sender::may_be_tunnel::<H>(packet) => sender::note_stray::<H>(packet),
        Outcome::NotVxlan => {
            way::note_too_big::<H>(packet);
            Outcome::NotVxlan
        }
        Outcome::UnknownSender | Outcome::ForgedSender | Outcome::LoopedSender => {
            report_again::<H>(packet.context(), outcome)
        }
        _ if outcome.verdict() == Verdict::Floor => sender::check_for_floor::<H>(packet, outcome),
        _ => outcome,
    })
}

/// Handles VXLAN that programs can unwrap, and packets without a tunnel.
///
/// `STRIPPED`: XDP may have removed the outer headers. (Where it has not, all offsets in the packet are constants.)
///
/// Not inlined: each family, and the check of the other packets, needs the program's 512 bytes of stack for itself. What it
/// takes and returns fits into registers.
#[inline(never)]
fn receive_usual<H: IpFamily, const STRIPPED: bool>(context: Context) -> Result<Carried, Outcome> {
    let context = context.into();
    let packet = &Packet::behind_xdp(&context);
    let node = maps::node_config()?;
    if !has_family::<H::Address>() {
        return Err(Outcome::NotVxlan);
    }
    match read::<H, STRIPPED>(packet, node) {
        Ok(arrival) => receive_tunnelled(packet, node, arrival),
        Err(Outcome::NotVxlan) if node.direct_routing() != 0 => {
            receive_direct::<H>(packet, node).or_else(pass)
        }
        Err(outcome) => Err(outcome),
    }
}

/// Lets a packet pass whose sender is checked or needs no check, unless its outcome drops it, or it is other traffic.
#[inline(always)]
fn pass(outcome: Outcome) -> Result<Carried, Outcome> {
    match outcome {
        Outcome::NotVxlan | Outcome::NotEcnCapable | Outcome::WriteFailed => Err(outcome),
        _ => Ok(Carried { outcome, action: Packet::PASS }),
    }
}

/// Reads a packet again whose sender is refused, and reports it: an event would not fit onto the first reader's stack.
/// Returns the outcome.
#[inline(never)]
fn report_again<H: IpFamily>(context: Context, refused: Outcome) -> Outcome {
    let context = context.into();
    let packet = &Packet::new(&context);
    if let Ok(node) = maps::node_config()
        && let Ok((fields, _, inner)) = read::<H, true>(packet, node)
    {
        report::refused(refused, inner.ip.source(), fields.sender);
    }
    refused
}

/// Handles a packet without a tunnel, if it is from a pod of a peer on the link to a pod of this node.
#[inline(always)]
fn receive_direct<H: IpFamily>(packet: &Packet<'_>, node: NodeRef) -> Result<Carried, Outcome> {
    let inner: Inner<H> = parse::inner_at(packet, 0).map_err(|_| Outcome::NotVxlan)?;
    let is = |address, flags| maps::lease::<H>(node, address).is_some_and(|lease| lease.flags == flags);
    if !packet.is_for_host(node) || !is(inner.ip.destination(), OWN) || !is(inner.ip.source(), DIRECT) {
        return Err(Outcome::NotVxlan);
    }
    if node.floor() & FLOOR_UNWRAPS != 0 {
        return Err(Outcome::Obstructed);
    }
    deliver::past_stack(packet, &inner, node)
}

/// Handles a VXLAN packet to this node, if its sender is accepted.
#[inline(always)]
fn receive_tunnelled<H: IpFamily>(
    packet: &Packet<'_>,
    node: NodeRef,
    arrival: Arrival<H>,
) -> Result<Carried, Outcome> {
    let (fields, _, inner) = &arrival;
    let known = known(packet, node, &arrival);
    if !known.is_some_and(|known| known.is_from(fields.sender, node)) {
        sender::check::<H, H>(node, fields.sender, inner.ip.source())?;
    }
    receive_accepted(packet, node, arrival, known).or_else(|outcome| {
        packet.note_checked_for_device(node);
        pass(outcome)
    })
}

/// Returns what is known of a packet's flow, if the packet may skip the host stack.
#[inline(always)]
fn known<H: IpFamily>(
    packet: &Packet<'_>,
    node: NodeRef,
    arrival: &Arrival<H>,
) -> Option<Shortcut<H::Address>> {
    let (fields, _, inner) = arrival;
    if node.flow_cache() == 0 {
        return None;
    }
    ToPod::read(packet, inner, mark(packet, node, fields)).ok()?.shortcut(node, None).ok()
}

/// Returns the mark that stands for a packet's group.
#[inline(always)]
fn mark<A: Address>(packet: &Packet<'_>, node: NodeRef, fields: &OuterFields<A>) -> u32 {
    group::mark(fields.group).unwrap_or_else(|| parse::mark(packet, node))
}

/// Handles a VXLAN packet to this node, whose sender is accepted.
#[inline(always)]
fn receive_accepted<H: IpFamily>(
    packet: &Packet<'_>,
    node: NodeRef,
    arrival: Arrival<H>,
    known: Option<Shortcut<H::Address>>,
) -> Result<Carried, Outcome> {
    let (fields, outer, inner) = arrival;
    let local = H::overlay_end(node);
    if matches!(outer, OuterHeaders::Present) {
        if node.floor() & FLOOR_UNWRAPS != 0 {
            return Err(Outcome::Obstructed);
        }
        if packet.gso_size() != 0 {
            // Before Linux 7.x, a GSO packet that is decapsulated here is segmented wrongly later.
            return Err(Outcome::GsoAggregate);
        }
    }
    if inner.frame.destination() != local.vtep_mac() {
        return Err(Outcome::ForeignVtep);
    }
    let code_point = ecn::decapsulated(fields.tos, inner.ip.traffic_class())?;
    if let Some(known) = known
        && let Ok(front) = deliver::front(packet, &inner, &known)
    {
        unwrap(packet, outer, &inner, front.headers.with_ecn(code_point))?;
        front.complete(packet, &inner, 0, Direction::Ingress)?;
        return Ok(deliver::to_pod(known.flow));
    }
    // `overlay_ingress` sees the packet next, and counts why it takes no shortcut.
    unwrap(packet, outer, &inner, Routed::unchanged(&inner).with_ecn(code_point))?;
    packet.note_checked(node);
    if node.group_policy() != 0 {
        packet.set_mark(mark(packet, node, &fields));
    }
    Ok(deliver::to_overlay_device(local))
}

/// Removes the outer headers, and lets the inner frame begin with these headers.
#[inline(always)]
fn unwrap<H: IpFamily>(
    packet: &Packet<'_>,
    outer: OuterHeaders,
    inner: &Inner<H>,
    front: Routed<H>,
) -> Result<(), Outcome> {
    decap::pop(packet, outer, &front)?;
    packet.update_checksum(front.checksum_change(inner));
    Ok(())
}

/// A packet from a peer: its outer fields, whether the outer headers are there, and the inner frame.
type Arrival<H> = (OuterFields<<H as Ip>::Address>, OuterHeaders, Inner<H>);

/// Reads a plain VXLAN packet, or one that XDP has unwrapped (`STRIPPED`: if that may be).
#[inline(always)]
fn read<H: IpFamily, const STRIPPED: bool>(
    packet: &Packet<'_>,
    node: NodeRef,
) -> Result<Arrival<H>, Outcome> {
    let handed_over = if STRIPPED { handover::take::<H>(packet, node) } else { None };
    let (fields, outer) = match handed_over {
        Some(handed_over) => handed_over,
        None => (parse::outer::<H>(packet, node, H::overlay_end(node))?, OuterHeaders::Present),
    };
    let inner: Inner<H> = parse::inner_at(packet, outer.inner_offset::<H>())?;
    Ok((fields, outer, inner))
}
