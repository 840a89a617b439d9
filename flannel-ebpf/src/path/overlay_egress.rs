//! Egress of `flannel.<VNI>`: the host routed a packet into the overlay; wrap it and send it to its node.

use flannel_common::outcome::Outcome;

use crate::maps;
use crate::packet::Packet;
use crate::stage::flow::{Direction, Step};
use crate::stage::{deliver, encap, fit, parse};
use crate::verdict::Carried;

/// One packet from the host stack to the peer.
#[inline(always)]
pub fn run(packet: &Packet<'_>) -> Result<Carried, Outcome> {
    let node = maps::node()?;
    let inner = parse::inner_at(packet, 0)?;
    let lease = maps::peer(inner.ip.dst_addr)?;
    if inner.frame.dst_addr != lease.vtep_mac {
        // Somebody's own neighbour entry: the FDB knows where it leads, we do not.
        return Err(Outcome::ForeignVtep);
    }
    let mark = parse::mark(packet, node);
    if node.flow_cache != 0
        && let Ok(step) = Step::of(packet, &inner, Direction::Egress, mark)
    {
        step.leaves(None);
    }
    fit::uplink(packet, &inner, node)?;
    encap::push(packet, *inner.frame, inner.ip.tos, node, lease, mark)?;
    Ok(deliver::to_uplink(node))
}
