//! Ingress of the uplink: unwrap what a peer sent, drop what is forged, let the rest pass. With DirectRouting, packets
//! without a tunnel from peers on the link may skip the host stack, too.

use flannel_common::flow::Direction;
use flannel_common::lease::{DIRECT, OWN};
use flannel_common::node::NodeConfig;
use flannel_common::outcome::Outcome;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::group;
use crate::maps::{self, IpFamily};
use crate::packet::{Packet, PacketAccess as _};
use crate::stage::decap::Wrapping;
use crate::stage::find_udp::FindUdp;
use crate::stage::flow::FlowPacket;
use crate::stage::parse::{self, Envelope, Inner, Underlay};
use crate::stage::route::Routed;
use crate::stage::{decap, deliver, ecn, handover, sender};
use crate::verdict::Carried;

/// One packet from the underlay: past the host stack to its pod if its flow is proven, else to the host stack as
/// if the vxlan device had received it.
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
    match tunnelled::<H>(packet, node) {
        Err(Outcome::NotVxlan) if node.direct_routing != 0 => plain::<H>(packet, node),
        end => end,
    }
}

/// A packet without a tunnel, if a pod behind a peer on the link has sent it to one of local.
#[inline(always)]
fn plain<H: IpFamily>(packet: &Packet<'_>, node: &NodeConfig) -> Result<Carried, Outcome> {
    let inner: Inner<'_, H> = parse::inner_at(packet, 0).map_err(|_| Outcome::NotVxlan)?;
    let is = |address, flags| maps::lease::<H>(node, address).is_some_and(|lease| lease.flags == flags);
    if !packet.is_for_host(node) || !is(inner.ip.destination(), OWN) || !is(inner.ip.source(), DIRECT) {
        return Err(Outcome::NotVxlan);
    }
    deliver::past_stack(packet, &inner, node)
}

/// A VXLAN packet for us.
#[inline(always)]
fn tunnelled<H: IpFamily + FindUdp>(packet: &Packet<'_>, node: &NodeConfig) -> Result<Carried, Outcome> {
    let local = H::overlay_end(node);
    let Arrival { envelope, wrapping, inner } =
        genuine::<H>(packet, node).map_err(|oddity| sender::check_odd::<H>(packet, node, oddity))?;
    if inner.frame.dst_addr != local.vtep_mac {
        return Err(Outcome::ForeignVtep);
    }
    let code_point = ecn::decapsulated(envelope.tos, inner.ip.traffic_class())?;
    let mark = group::mark(envelope.group).unwrap_or_else(|| parse::mark(packet, node));
    if node.flow_cache != 0
        && let Ok(step) = FlowPacket::read(packet, &inner, Direction::Ingress, mark)
        && let Ok((routed, port)) = deliver::shortcut(packet, &inner, &step)
    {
        strip(packet, wrapping, &inner, routed.marked(code_point))?;
        return Ok(deliver::to_pod(port));
    }
    // Why it takes no shortcut is counted behind the vxlan device, where it turns up next.
    strip(packet, wrapping, &inner, Routed::unchanged(&inner).marked(code_point))?;
    if node.group_policy != 0 {
        packet.set_mark(mark);
    }
    Ok(deliver::to_overlay_device(local))
}

/// Leaves the inner frame with these headers.
#[inline(always)]
fn strip<H: IpFamily>(
    packet: &Packet<'_>,
    wrapping: Wrapping,
    inner: &Inner<'_, H>,
    front: Routed<H>,
) -> Result<(), Outcome> {
    let sum = inner.ip.sum_to(&front.ip);
    decap::pop::<H, _>(packet, wrapping, front)?;
    packet.add_to_sum(sum);
    Ok(())
}

/// A packet of a peer: what the outer headers say or have said, whether they are there, and the frame inside.
struct Arrival<'a, H: IpFamily> {
    envelope: Envelope<H::Address>,
    wrapping: Wrapping,
    inner: Inner<'a, H>,
}

/// The frame of a plain VXLAN packet, or of one that XDP has stripped, if its sender may send it.
#[inline(always)]
fn genuine<'a, H: IpFamily>(packet: &'a Packet<'_>, node: &NodeConfig) -> Result<Arrival<'a, H>, Outcome> {
    let (envelope, wrapping) = match handover::take::<H>(packet, node) {
        Some(handed_over) => handed_over,
        None => (parse::outer::<H>(packet, node, H::overlay_end(node))?, Wrapping::Outer),
    };
    let inner: Inner<'_, H> = parse::inner_at(packet, wrapping.offset::<H>())?;
    sender::check::<H>(node, envelope.sender, inner.ip.source())?;
    Ok(Arrival { envelope, wrapping, inner })
}
