//! Egress of a vxlan device: wraps a packet that the host has routed into the overlay, and sends it to its node.

use flannel_common::outcome::Outcome;

use crate::features::has_family;
use crate::maps;
use crate::packet::{Context, Packet};
use crate::stage::flow::FromPod;
use crate::stage::outgoing::Outgoing;
use crate::stage::parse::{self, by_family};
use crate::stage::report;
use crate::stage::transmit::Transmit;
use crate::stage::way;
use crate::verdict::Carried;

/// Handles one packet from the host stack to a peer.
#[inline(always)]
pub fn run(packet: &Packet<'_>) -> Result<Carried, Outcome> {
    by_family!(packet, H => wrap::<H>(packet.context()), else Err(Outcome::NotIp))
}

/// Not inlined: each family needs the program's stack for itself.
#[inline(never)]
fn wrap<H: Transmit>(context: Context) -> Result<Carried, Outcome> {
    let context = context.into();
    let packet = &Packet::new(&context);
    let node = maps::node_config()?;
    if !has_family::<H::Address>() {
        return Err(Outcome::NoLease);
    }
    let inner = &parse::inner_at::<H>(packet, 0)?;
    let lease = report::peer_of(inner, node)?;
    if inner.frame.destination() != lease.vtep_mac.into() {
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
        let way = |flow| way::note::<H>(packet.context(), node, &lease, flow);
        flow.note_exit(packet, inner, None, way);
    }
    H::wrap(&Outgoing { packet, inner, node, peer: lease.public_ip, mark }, lease.route_mtu)
}
