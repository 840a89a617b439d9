//! Ingress of a vxlan device: a packet out of its tunnel, unwrapped by a program or by the kernel. One whose sender no program
//! has accepted ends here. Aggregates, which the kernel unwraps, skip the host stack from here.

use flannel_common::outcome::Outcome;

use crate::features::has_family;
use crate::maps::{self, IpFamily, NodeRef};
use crate::packet::Packet;
use crate::stage::parse::{self, Inner, with_inner};
use crate::stage::{deliver, sender};
use crate::verdict::Carried;

/// Handles one packet from a peer: to its pod if its flow is proven, else into the host stack.
#[inline(always)]
pub fn run(packet: &Packet<'_>) -> Result<Carried, Outcome> {
    let node = maps::node_config()?;
    sender::ensure_checked(packet, node)?;
    if node.flow_cache() == 0 {
        return Err(Outcome::FlowCacheOff);
    }
    with_inner!(parse::frame_at(packet, 0)?, inner => to_pod(packet, &inner, node))
}

#[inline(always)]
fn to_pod<H: IpFamily>(packet: &Packet<'_>, inner: &Inner<H>, node: NodeRef) -> Result<Carried, Outcome> {
    if !has_family::<H::Address>() {
        return Err(Outcome::OtherFamily);
    }
    deliver::past_stack(packet, inner, node)
}
