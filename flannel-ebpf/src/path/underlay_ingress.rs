//! Ingress of the uplink: unwrap what a peer sent, drop what is forged, let the rest pass.

use flannel_common::outcome::Outcome;
use network_types::eth::EthHdr;

use crate::packet::Packet;
use crate::stage::flow::{Direction, Step};
use crate::stage::route::Routed;
use crate::stage::{decap, deliver, ecn, parse, sender};
use crate::verdict::Carried;
use crate::{maps, outer};

/// One packet from the underlay: past the host stack to its pod if its flow is proven, else to the host stack as
/// if `flannel.<VNI>` had received it.
#[inline(always)]
pub fn run(packet: &Packet<'_>) -> Result<Carried, Outcome> {
    let node = maps::node()?;
    let envelope = parse::outer(packet, node).map_err(|oddity| sender::check_odd(packet, node, oddity))?;
    let inner = parse::inner_at(packet, EthHdr::LEN + outer::LEN)?;
    sender::check(node, envelope.sender, inner.ip.src_addr)?;
    if inner.frame.dst_addr != node.vtep_mac {
        return Err(Outcome::ForeignVtep);
    }
    let code_point = ecn::decapsulated(envelope.tos, inner.ip.tos)?;
    if node.flow_cache != 0
        && let Ok(step) = Step::of(packet, &inner, Direction::Ingress, envelope.mark)
        && let Ok((routed, port)) = deliver::shortcut(packet, &inner, &step)
    {
        decap::pop(packet, routed.marked(code_point))?;
        return Ok(deliver::to_pod(port));
    }
    // Why it takes no shortcut is counted behind the vxlan device, where it turns up next.
    decap::pop(packet, Routed::unchanged(&inner).marked(code_point))?;
    if node.group_policy != 0 {
        packet.set_mark(envelope.mark);
    }
    Ok(deliver::to_overlay_device(node))
}
