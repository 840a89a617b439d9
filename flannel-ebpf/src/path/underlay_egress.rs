//! Egress of the uplink, where routes lead to peers without a tunnel: packets to their pods, after the host stack.

use flannel_common::lease::DIRECT;
use flannel_common::node::FEATURE_DIRECT_ROUTING;
use flannel_common::outcome::Outcome;

use crate::features::{has, has_family};
use crate::maps::{self, IpFamily};
use crate::packet::{Context, Packet};
use crate::stage::flow::{self, FromPod};
use crate::stage::parse::{self, by_family};
use crate::stage::way::{self, Route};

/// Handles one packet to the underlay. It always goes on; the proof that it gives is noted.
#[inline(always)]
pub fn run(packet: &Packet<'_>) -> Outcome {
    let noted = by_family!(packet, H => note_proof::<H>(packet.context()), else Err(Outcome::NotIp));
    noted.unwrap_or_else(|outcome| outcome)
}

/// Not inlined: each family needs the program's stack for itself.
#[inline(never)]
fn note_proof<H: IpFamily + Route>(context: Context) -> Result<Outcome, Outcome> {
    let context = context.into();
    let packet = &Packet::new(&context);
    let node = flow::node_config()?;
    if !has(FEATURE_DIRECT_ROUTING) || !has_family::<H::Address>() {
        return Err(Outcome::NotOnLink);
    }
    let inner = &parse::inner_at::<H>(packet, 0)?;
    let lease = maps::lease::<H>(node, inner.ip.destination()).filter(|lease| lease.flags == DIRECT);
    let lease = lease.ok_or(Outcome::NotOnLink)?;
    let flow = FromPod::read(packet, inner, parse::mark(packet, node))?;
    if flow.has_skipped_stack(packet) {
        return Err(Outcome::AfterShortcut);
    }
    let way = |flow| way::note_direct::<H>(packet.context(), node, &lease, flow);
    Ok(flow.note_exit(packet, inner, None, way))
}
