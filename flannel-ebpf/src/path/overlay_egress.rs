//! Egress of a vxlan device: the host routed a packet into the overlay; wrap it and send it to its node.

use flannel_common::flow::Direction;
use flannel_common::node::NodeConfig;
use flannel_common::outcome::Outcome;

use crate::maps;
use crate::packet::Packet;
use crate::stage::depart::Depart;
use crate::stage::flow::FlowPacket;
use crate::stage::parse::{self, Frame, Inner};
use crate::stage::tell;
use crate::verdict::Carried;

/// One packet from the host stack to the peer.
#[inline(always)]
pub fn run(packet: &Packet<'_>) -> Result<Carried, Outcome> {
    let node = &maps::node_config()?;
    match parse::frame_at(packet, 0)? {
        Frame::V4(inner) => send(packet, &inner, node),
        Frame::V6(inner) => send(packet, &inner, node),
    }
}

#[inline(always)]
fn send<H: Depart>(packet: &Packet<'_>, inner: &Inner<'_, H>, node: &NodeConfig) -> Result<Carried, Outcome> {
    let lease = tell::peer_of(inner, node)?;
    if inner.frame.dst_addr != lease.vtep_mac {
        // Somebody's own neighbour entry: the FDB knows where it leads, we do not.
        return Err(Outcome::ForeignVtep);
    }
    let mark = parse::mark(packet, node);
    if node.flow_cache != 0
        && let Ok(step) = FlowPacket::read(packet, inner, Direction::Egress, mark)
    {
        if H::WRAPPED_BY_DEVICE && step.has_skipped_stack(packet) {
            return Err(Outcome::AfterShortcut);
        }
        step.note_exit(None);
    }
    H::depart(packet, inner, None, node, &lease, mark)
}
