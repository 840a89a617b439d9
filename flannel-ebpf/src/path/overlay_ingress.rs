//! Ingress of a vxlan device: a packet out of its tunnel, by whomever it was unwrapped. Aggregates, which the kernel
//! device unwraps, skip the host stack from here.

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
        Frame::V4(inner) => receive(packet, &inner),
        Frame::V6(inner) => receive(packet, &inner),
    }
}

#[inline(always)]
fn receive<H: Family>(packet: &Packet<'_>, inner: &Inner<'_, H>) -> Result<Carried, Outcome> {
    let step = Step::of(packet, inner, Direction::Ingress)?;
    let (routed, port) = deliver::shortcut(packet, inner, &step).inspect_err(|_| step.enters(None))?;
    packet.write(0, &routed)?;
    packet.add_to_sum(H::SUM_OF_HOP);
    Ok(deliver::to_pod(port))
}
