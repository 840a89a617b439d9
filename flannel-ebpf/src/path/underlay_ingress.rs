//! Ingress of the uplink: unwrap what a peer sent, let the rest pass.

use flannel_common::outcome::Outcome;
use network_types::eth::EthHdr;

use crate::packet::Packet;
use crate::stage::{decap, deliver, parse};
use crate::verdict::Carried;
use crate::{maps, outer};

/// One packet from the underlay to the host stack, as if `flannel.<VNI>` had received it.
#[inline(always)]
pub fn run(packet: &Packet<'_>) -> Result<Carried, Outcome> {
    let node = maps::node()?;
    parse::outer(packet, node)?;
    let inner = parse::inner_at(packet, EthHdr::LEN + outer::LEN)?;
    if inner.frame.dst_addr != node.vtep_mac {
        return Err(Outcome::ForeignVtep);
    }
    decap::pop(packet, inner.frame)?;
    Ok(deliver::to_overlay_device(node))
}
