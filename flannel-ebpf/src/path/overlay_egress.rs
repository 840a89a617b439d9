//! Egress of a vxlan device: wraps a packet that the host has routed into the overlay, and sends it to its node.

use flannel_common::outcome::Outcome;

use crate::maps::{self, NodeRef};
use crate::packet::Packet;
use crate::stage::flow::FromPod;
use crate::stage::outgoing::Outgoing;
use crate::stage::parse::{self, Inner, with_inner};
use crate::stage::report;
use crate::stage::transmit::Transmit;
use crate::verdict::Carried;

/// Handles one packet from the host stack to a peer.
#[inline(always)]
pub fn run(packet: &Packet<'_>) -> Result<Carried, Outcome> {
    let node = maps::node_config()?;
    with_inner!(parse::frame_at(packet, 0)?, inner => wrap(packet, &inner, node))
}

#[inline(always)]
fn wrap<H: Transmit>(packet: &Packet<'_>, inner: &Inner<H>, node: NodeRef) -> Result<Carried, Outcome> {
    let lease = report::peer_of(inner, node)?;
    if inner.frame.dst_addr != lease.vtep_mac {
        // A neighbour entry that the agent did not write. The kernel's FDB knows where it leads.
        return Err(Outcome::ForeignVtep);
    }
    let mark = parse::mark(packet, node);
    if node.flow_cache() != 0
        && let Ok(flow) = FromPod::read(packet, inner, mark)
    {
        if H::WRAPPED_BY_DEVICE && flow.has_skipped_stack(packet) {
            return Err(Outcome::AfterShortcut);
        }
        flow.note_exit(packet, inner, None);
    }
    H::transmit(&Outgoing { packet, inner, node, lease, mark }, None)
}
