//! Ingress of a vxlan device: a packet out of its tunnel, by whomever it was unwrapped. Aggregates, which the kernel
//! device unwraps, skip the host stack from here.

use flannel_common::outcome::Outcome;

use crate::maps;
use crate::packet::Packet;
use crate::stage::deliver;
use crate::stage::parse::{self, Frame};
use crate::verdict::Carried;

/// One packet from a peer: to its pod if its flow is proven, else into the host stack.
#[inline(always)]
pub fn run(packet: &Packet<'_>) -> Result<Carried, Outcome> {
    let node = &maps::node_config()?;
    if node.flow_cache == 0 {
        return Err(Outcome::FlowCacheOff);
    }
    match parse::frame_at(packet, 0)? {
        Frame::V4(inner) => deliver::past_stack(packet, &inner, node),
        Frame::V6(inner) => deliver::past_stack(packet, &inner, node),
    }
}
