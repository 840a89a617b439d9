//! Ingress of the uplink: unwrap what a peer sent, drop what is forged, let the rest pass. With DirectRouting, packets
//! without a tunnel from peers on the link may skip the host stack, too.

use flannel_common::lease::{DIRECT, OWN};
use flannel_common::node::Node;
use flannel_common::outcome::Outcome;
use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::maps::{self, Family};
use crate::packet::Packet;
use crate::stage::find_udp::FindUdp;
use crate::stage::flow::{Direction, Step};
use crate::stage::parse::{self, Envelope, Inner, Underlay};
use crate::stage::route::Routed;
use crate::stage::{decap, deliver, ecn, sender};
use crate::verdict::Carried;

/// One packet from the underlay: past the host stack to its pod if its flow is proven, else to the host stack as
/// if the vxlan device had received it.
#[inline(always)]
pub fn run(packet: &Packet<'_>) -> Result<Carried, Outcome> {
    let node = maps::node()?;
    match parse::underlay(packet)? {
        Underlay::V4 => receive::<Ipv4Hdr>(packet, node),
        Underlay::V6 => receive::<Ipv6Hdr>(packet, node),
    }
}

#[inline(always)]
fn receive<H: Family + FindUdp>(packet: &Packet<'_>, node: &Node) -> Result<Carried, Outcome> {
    match tunnelled::<H>(packet, node) {
        Err(Outcome::NotVxlan) if node.direct_routing != 0 => plain::<H>(packet, node),
        end => end,
    }
}

/// A packet without a tunnel, if a pod behind a peer on the link has sent it to one of ours.
#[inline(always)]
fn plain<H: Family>(packet: &Packet<'_>, node: &Node) -> Result<Carried, Outcome> {
    let inner: Inner<'_, H> = parse::inner_at(packet, 0).map_err(|_| Outcome::NotVxlan)?;
    let is = |address, flags| maps::lease::<H>(node, address).is_some_and(|lease| lease.flags == flags);
    if !is(inner.ip.destination(), OWN) || !is(inner.ip.source(), DIRECT) {
        return Err(Outcome::NotVxlan);
    }
    deliver::past_stack(packet, &inner, node)
}

/// A VXLAN packet for us.
#[inline(always)]
fn tunnelled<H: Family + FindUdp>(packet: &Packet<'_>, node: &Node) -> Result<Carried, Outcome> {
    let ours = H::ours(node);
    let (envelope, inner) =
        genuine::<H>(packet, node).map_err(|oddity| sender::check_odd::<H>(packet, node, oddity))?;
    if inner.frame.dst_addr != ours.vtep_mac {
        return Err(Outcome::ForeignVtep);
    }
    let code_point = ecn::decapsulated(envelope.tos, inner.ip.traffic_class())?;
    if node.flow_cache != 0
        && let Ok(step) = Step::of(packet, &inner, Direction::Ingress, envelope.mark)
        && let Ok((routed, port)) = deliver::shortcut(packet, &inner, &step)
    {
        strip(packet, &inner, routed.marked(code_point))?;
        return Ok(deliver::to_pod(port));
    }
    // Why it takes no shortcut is counted behind the vxlan device, where it turns up next.
    strip(packet, &inner, Routed::unchanged(&inner).marked(code_point))?;
    if node.group_policy != 0 {
        packet.set_mark(envelope.mark);
    }
    Ok(deliver::to_overlay_device(ours))
}

/// Leaves the inner frame with these headers.
#[inline(always)]
fn strip<H: Family>(packet: &Packet<'_>, inner: &Inner<'_, H>, front: Routed<H>) -> Result<(), Outcome> {
    let sum = inner.ip.sum_to(&front.ip);
    decap::pop::<H, _>(packet, front)?;
    packet.add_to_sum(sum);
    Ok(())
}

/// The frame in a plain VXLAN packet, and what the outer headers say, if its sender may send it.
#[inline(always)]
fn genuine<'a, H: Family>(
    packet: &'a Packet<'_>,
    node: &Node,
) -> Result<(Envelope<H::Address>, Inner<'a, H>), Outcome> {
    let envelope = parse::outer::<H>(packet, node, H::ours(node))?;
    let inner: Inner<'_, H> = parse::inner_at(packet, EthHdr::LEN + H::OUTER_LEN)?;
    sender::check::<H>(node, envelope.sender, inner.ip.source())?;
    Ok((envelope, inner))
}
