//! Egress of the uplink, with DirectRouting: what the host stack has let through to peers on the link.

use flannel_common::flow::Direction;
use flannel_common::lease::DIRECT;
use flannel_common::node::NodeConfig;
use flannel_common::outcome::Outcome;

use crate::maps::{self, IpFamily};
use crate::packet::Packet;
use crate::stage::flow::FlowPacket;
use crate::stage::parse::{self, Frame, Inner};

/// One packet to the underlay. It always goes on; what it proves is noted.
#[inline(always)]
pub fn run(packet: &Packet<'_>) -> Outcome {
    note(packet).unwrap_or_else(|outcome| outcome)
}

#[inline(always)]
fn note(packet: &Packet<'_>) -> Result<Outcome, Outcome> {
    let node = &maps::node_config()?;
    if node.flow_cache == 0 {
        return Err(Outcome::FlowCacheOff);
    }
    match parse::frame_at(packet, 0)? {
        Frame::V4(inner) => proof_by(packet, &inner, node),
        Frame::V6(inner) => proof_by(packet, &inner, node),
    }
}

#[inline(always)]
fn proof_by<H: IpFamily>(
    packet: &Packet<'_>,
    inner: &Inner<'_, H>,
    node: &NodeConfig,
) -> Result<Outcome, Outcome> {
    let lease = maps::lease::<H>(node, inner.ip.destination());
    if lease.is_none_or(|lease| lease.flags != DIRECT) {
        return Err(Outcome::NotOnLink);
    }
    let step = FlowPacket::read(packet, inner, Direction::Egress, parse::mark(packet, node))?;
    if step.has_skipped_stack(packet) {
        return Err(Outcome::AfterShortcut);
    }
    Ok(if step.note_exit(None) { Outcome::FlowProven } else { Outcome::NoFlow })
}
