//! Ingress of the uplink: unwrap what a peer sent, drop what is forged, let the rest pass.

use flannel_common::node::Node;
use flannel_common::outcome::Outcome;
use network_types::eth::EthHdr;

use crate::packet::Packet;
use crate::stage::flow::{Direction, Step};
use crate::stage::{decap, deliver, handover, parse, sender};
use crate::verdict::Carried;
use crate::{maps, outer};

/// One packet from the underlay: past the host stack to its pod if its flow is proven, else to the host stack as
/// if `flannel.<VNI>` had received it.
#[inline(always)]
pub fn run(packet: &Packet<'_>) -> Result<Carried, Outcome> {
    let node = maps::node()?;
    let (sender, offset) = match handover::take(packet, node)? {
        Some(sender) => (sender, 0),
        None => (unstripped(packet, node)?, EthHdr::LEN + outer::LEN),
    };
    let inner = parse::inner_at(packet, offset)?;
    sender::check(node, sender, inner.ip.src_addr)?;
    if inner.frame.dst_addr != node.vtep_mac {
        return Err(Outcome::ForeignVtep);
    }
    if node.flow_cache != 0
        && let Ok(step) = Step::of(packet, &inner, Direction::Ingress)
        && let Ok((routed, port)) = deliver::shortcut(packet, &inner, &step)
    {
        decap::pop(packet, offset, routed)?;
        return Ok(deliver::to_pod(port));
    }
    // Why it takes no shortcut is counted behind the vxlan device, where it turns up next.
    decap::pop(packet, offset, *inner.frame)?;
    Ok(deliver::to_overlay_device(node))
}

/// The outer source of a packet with its outer headers on.
#[inline(always)]
fn unstripped(packet: &Packet<'_>, node: &Node) -> Result<[u8; 4], Outcome> {
    parse::outer(packet, node).map_err(|oddity| sender::check_odd(packet, node, oddity))
}
