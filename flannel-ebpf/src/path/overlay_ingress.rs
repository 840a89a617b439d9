//! Ingress of `flannel.<VNI>`: a packet out of its tunnel, by whomever it was unwrapped. Aggregates, which the
//! kernel device unwraps, skip the host stack from here.

use flannel_common::outcome::Outcome;

use crate::maps;
use crate::packet::Packet;
use crate::stage::flow::{Direction, Step};
use crate::stage::{deliver, parse};
use crate::verdict::Carried;

/// One packet from a peer: to its pod if its flow is proven, else into the host stack.
#[inline(always)]
pub fn run(packet: &Packet<'_>) -> Result<Carried, Outcome> {
    let node = maps::node()?;
    if node.flow_cache == 0 {
        return Err(Outcome::FlowCacheOff);
    }
    let inner = parse::inner_at(packet, 0)?;
    let step = Step::of(packet, &inner, Direction::Ingress, parse::mark(packet, node))?;
    let (routed, port) = deliver::shortcut(packet, &inner, &step).inspect_err(|_| step.enters(None))?;
    packet.write(0, &routed)?;
    if node.group_policy != 0 {
        // The kernel device has set it; at the end of the veth's cable it would be gone.
        packet.set_mark(0);
    }
    Ok(deliver::to_pod(port))
}
