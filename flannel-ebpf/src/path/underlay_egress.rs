//! Egress of the uplink, with DirectRouting: packets to peers on the link, after the host stack.

use flannel_common::lease::DIRECT;
use flannel_common::outcome::Outcome;

use crate::maps::{self, IpFamily, NodeRef};
use crate::packet::Packet;
use crate::stage::flow::{self, FromPod};
use crate::stage::parse::{self, Inner, with_inner};

/// Handles one packet to the underlay. It always goes on; the proof that it gives is noted.
#[inline(always)]
pub fn run(packet: &Packet<'_>) -> Outcome {
    note(packet).unwrap_or_else(|outcome| outcome)
}

#[inline(always)]
fn note(packet: &Packet<'_>) -> Result<Outcome, Outcome> {
    let node = flow::node_config()?;
    with_inner!(parse::frame_at(packet, 0)?, inner => note_proof(packet, &inner, node))
}

#[inline(always)]
fn note_proof<H: IpFamily>(packet: &Packet<'_>, inner: &Inner<H>, node: NodeRef) -> Result<Outcome, Outcome> {
    let lease = maps::lease::<H>(node, inner.ip.destination());
    if lease.is_none_or(|lease| lease.flags != DIRECT) {
        return Err(Outcome::NotOnLink);
    }
    let flow = FromPod::read(packet, inner, parse::mark(packet, node))?;
    if flow.has_skipped_stack(packet) {
        return Err(Outcome::AfterShortcut);
    }
    Ok(if flow.note_exit(packet, inner, None) { Outcome::FlowProven } else { Outcome::NoFlow })
}
