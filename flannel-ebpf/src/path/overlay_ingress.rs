//! Ingress of a vxlan device: a packet out of its tunnel, by whomever it was unwrapped. Aggregates, which the kernel
//! device unwraps, skip the host stack from here.

use flannel_common::node::Node;
use flannel_common::outcome::Outcome;

use crate::maps::{self, Family};
use crate::packet::Packet;
use crate::stage::deliver;
use crate::stage::flow::{Direction, Step};
use crate::stage::parse::{self, Frame, Inner};
use crate::verdict::Carried;

/// One packet from a peer: to its pod if its flow is proven, else into the host stack.
#[inline(always)]
pub fn run(packet: &Packet<'_>) -> Result<Carried, Outcome> {
    let node = maps::node()?;
    if node.flow_cache == 0 {
        return Err(Outcome::FlowCacheOff);
    }
    match parse::frame_at(packet, 0)? {
        Frame::V4(inner) => receive(packet, &inner, node),
        Frame::V6(inner) => receive(packet, &inner, node),
    }
}

#[inline(always)]
fn receive<H: Family>(packet: &Packet<'_>, inner: &Inner<'_, H>, node: &Node) -> Result<Carried, Outcome> {
    let step = Step::of(packet, inner, Direction::Ingress, parse::mark(packet, node))?;
    let (routed, port) = deliver::shortcut(packet, inner, &step).inspect_err(|_| step.enters(None))?;
    let sum = inner.ip.sum_to(&routed.ip);
    packet.write(0, &routed)?;
    packet.add_to_sum(sum);
    if node.group_policy != 0 {
        // The kernel device has set it; at the end of the veth's cable it would be gone.
        packet.set_mark(0);
    }
    Ok(deliver::to_pod(port))
}
