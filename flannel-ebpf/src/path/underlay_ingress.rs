//! Ingress of the uplink: unwraps packets of peers, drops forged ones, and passes all others. With DirectRouting, packets
//! without a tunnel from peers on the link may skip the host stack as well.

use flannel_common::lease::{DIRECT, OWN};
use flannel_common::node::{FLOOR_UNWRAPS, NodeConfig};
use flannel_common::outcome::Outcome;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::group;
use crate::maps::{self, IpFamily};
use crate::packet::{Packet, PacketAccess as _};
use crate::stage::decap::OuterHeaders;
use crate::stage::find_udp::FindUdp;
use crate::stage::flow::ToPod;
use crate::stage::parse::{self, Inner, OuterFields, Underlay};
use crate::stage::route::Routed;
use crate::stage::{decap, deliver, ecn, handover, sender};
use crate::verdict::Carried;

/// Handles one packet from the underlay: to its pod if its flow is proven, else into the host stack, as received on the
/// vxlan device.
#[inline(always)]
pub fn run(packet: &Packet<'_>) -> Result<Carried, Outcome> {
    let node = &maps::node_config()?;
    match parse::underlay(packet)? {
        Underlay::V4 => receive::<Ipv4Hdr>(packet, node),
        Underlay::V6 => receive::<Ipv6Hdr>(packet, node),
    }
}

#[inline(always)]
fn receive<H: IpFamily + FindUdp>(packet: &Packet<'_>, node: &NodeConfig) -> Result<Carried, Outcome> {
    match receive_tunnelled::<H>(packet, node) {
        Err(Outcome::NotVxlan) if node.direct_routing != 0 => receive_direct::<H>(packet, node),
        result => result,
    }
}

/// Handles a packet without a tunnel, if it is from a pod of a peer on the link to a pod of this node.
#[inline(always)]
fn receive_direct<H: IpFamily>(packet: &Packet<'_>, node: &NodeConfig) -> Result<Carried, Outcome> {
    let inner: Inner<'_, H> = parse::inner_at(packet, 0).map_err(|_| Outcome::NotVxlan)?;
    let is = |address, flags| maps::lease::<H>(node, address).is_some_and(|lease| lease.flags == flags);
    if !packet.is_for_host(node) || !is(inner.ip.destination(), OWN) || !is(inner.ip.source(), DIRECT) {
        return Err(Outcome::NotVxlan);
    }
    if node.floor & FLOOR_UNWRAPS != 0 {
        return Err(Outcome::Obstructed);
    }
    deliver::past_stack(packet, &inner, node)
}

/// Handles a VXLAN packet to this node.
#[inline(always)]
fn receive_tunnelled<H: IpFamily + FindUdp>(
    packet: &Packet<'_>,
    node: &NodeConfig,
) -> Result<Carried, Outcome> {
    let local = H::overlay_end(node);
    let Arrival { fields, outer, inner } =
        read::<H>(packet, node).map_err(|reason| sender::check_for_floor::<H>(packet, node, reason))?;
    if node.floor & FLOOR_UNWRAPS != 0 && matches!(outer, OuterHeaders::Present) {
        return Err(Outcome::Obstructed);
    }
    if inner.frame.dst_addr != local.vtep_mac {
        return Err(Outcome::ForeignVtep);
    }
    let code_point = ecn::decapsulated(fields.tos, inner.ip.traffic_class())?;
    let mark = group::mark(fields.group).unwrap_or_else(|| parse::mark(packet, node));
    if node.flow_cache != 0
        && let Ok(flow) = ToPod::read(packet, &inner, mark)
        && let Ok((routed, port)) = deliver::shortcut(packet, &inner, &flow)
    {
        unwrap(packet, outer, &inner, routed.with_ecn(code_point))?;
        return Ok(deliver::to_pod(port));
    }
    // `overlay_ingress` sees the packet next, and counts why it takes no shortcut.
    unwrap(packet, outer, &inner, Routed::unchanged(&inner).with_ecn(code_point))?;
    if node.group_policy != 0 {
        packet.set_mark(mark);
    }
    Ok(deliver::to_overlay_device(local))
}

/// Removes the outer headers, and lets the inner frame begin with these headers.
#[inline(always)]
fn unwrap<H: IpFamily>(
    packet: &Packet<'_>,
    outer: OuterHeaders,
    inner: &Inner<'_, H>,
    front: Routed<H>,
) -> Result<(), Outcome> {
    let change = inner.ip.checksum_change(&front.ip);
    decap::pop::<H, _>(packet, outer, front)?;
    packet.update_checksum(change);
    Ok(())
}

/// A packet from a peer.
struct Arrival<'a, H: IpFamily> {
    fields: OuterFields<H::Address>,
    outer: OuterHeaders,
    inner: Inner<'a, H>,
}

/// Reads a plain VXLAN packet, or one that XDP has unwrapped, and checks its sender.
#[inline(always)]
fn read<'a, H: IpFamily>(packet: &'a Packet<'_>, node: &NodeConfig) -> Result<Arrival<'a, H>, Outcome> {
    let (fields, outer) = match handover::take::<H>(packet, node) {
        Some(handed_over) => handed_over,
        None => (parse::outer::<H>(packet, node, H::overlay_end(node))?, OuterHeaders::Present),
    };
    let inner: Inner<'_, H> = parse::inner_at(packet, outer.inner_offset::<H>())?;
    sender::check::<H>(node, fields.sender, inner.ip.source())?;
    Ok(Arrival { fields, outer, inner })
}
