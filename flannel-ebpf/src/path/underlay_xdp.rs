//! XDP of the uplink: take the outer headers off before the kernel makes aggregates, and leave the rest to
//! `underlay_ingress`.

use flannel_common::handover::Handover;
use flannel_common::node::XDP_GENERIC;
use flannel_common::outcome::Outcome;
use network_types::eth::EthHdr;

use crate::packet::{DriverPacket, PacketAccess as _};
use crate::stage::parse::{self, ICMP, Inner};
use crate::stage::{fit, handover};
use crate::verdict::Carried;
use crate::{maps, outer};

/// One packet from the underlay. What `underlay_ingress` would unwrap arrives there unwrapped, sender unchecked; all else
/// as it was.
#[inline(always)]
pub fn run(packet: &DriverPacket<'_>) -> Result<Carried, Outcome> {
    let node = maps::node()?;
    let source = parse::outer(packet, node)?;
    let inner = parse::inner_at(packet, EthHdr::LEN + outer::LEN)?;
    if inner.frame.dst_addr != node.vtep_mac {
        return Err(Outcome::ForeignVtep);
    }
    let late = node.xdp == XDP_GENERIC;
    if late && !is_single(packet, &inner) {
        return Err(Outcome::MaybeAggregate);
    }
    handover::give(packet, inner.offset, Handover::new(node, source, late))?;
    Ok(Carried { outcome: Outcome::HandedOver, action: DriverPacket::PASS })
}

/// Generic mode comes behind GRO, and cannot see what is an aggregate. Whatever is one has a payload to be cut.
#[inline(always)]
fn is_single(packet: &DriverPacket<'_>, inner: &Inner<'_>) -> bool {
    match fit::headers_of_segment(packet, inner) {
        Ok(headers) => headers + inner.offset as u32 == packet.frame_len(),
        Err(_) => inner.ip.proto == ICMP,
    }
}
