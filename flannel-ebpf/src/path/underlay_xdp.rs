//! XDP of the uplink: removes outer headers before the kernel makes aggregates, and leaves the rest to `underlay_ingress`.

use flannel_common::handover::Handover;
use flannel_common::node::{FLOOR_UNWRAPS, XDP_GENERIC};
use flannel_common::outcome::Outcome;
use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::maps::{self, IpFamily, NodeRef};
use crate::packet::{DriverPacket, PacketAccess as _};
use crate::stage::parse::{self, Inner, Underlay};
use crate::stage::{fit, handover};
use crate::verdict::Carried;

/// Handles one packet from the underlay. If `underlay_ingress` would unwrap it, it arrives there unwrapped, its sender
/// unchecked. Others arrive unchanged.
#[inline(always)]
pub fn run(packet: &DriverPacket<'_>) -> Result<Carried, Outcome> {
    let node = maps::node_config()?;
    match parse::underlay(packet)? {
        Underlay::V4 => unwrap::<Ipv4Hdr>(packet, node),
        Underlay::V6 => unwrap::<Ipv6Hdr>(packet, node),
    }
}

#[inline(always)]
fn unwrap<H: IpFamily>(packet: &DriverPacket<'_>, node: NodeRef) -> Result<Carried, Outcome> {
    let local = H::overlay_end(node);
    let outer = parse::outer::<H>(packet, node, local)?;
    let inner: Inner<H> = parse::inner_at(packet, EthHdr::LEN + H::OUTER_LEN)?;
    if inner.frame.destination() != local.vtep_mac() {
        return Err(Outcome::ForeignVtep);
    }
    if node.floor() & FLOOR_UNWRAPS != 0 {
        return Err(Outcome::Obstructed);
    }
    if H::stays_on_link(&inner.ip.source()) {
        // The sender check leaves it to the floor, and the floor does not accept unwrapped packets.
        return Err(Outcome::LinkLocal);
    }
    let late = node.xdp() == XDP_GENERIC;
    if late && !is_single(packet, &inner) {
        return Err(Outcome::MaybeAggregate);
    }
    let metadata = Handover::new(node.handover_key(), outer.sender, outer.tos, outer.group, late);
    handover::give::<H>(packet, inner.offset, metadata)?;
    Ok(Carried { outcome: Outcome::HandedOver, action: DriverPacket::PASS })
}

/// Returns true only if the packet is no aggregate. Generic mode runs after GRO and cannot see which packets are; but
/// aggregates have a payload.
#[inline(always)]
fn is_single<H: IpFamily>(packet: &DriverPacket<'_>, inner: &Inner<H>) -> bool {
    match fit::headers_of_segment(packet, inner) {
        Ok(headers) => headers + inner.offset as u32 == packet.frame_len(),
        Err(_) => inner.ip.protocol() == H::ICMP,
    }
}
