//! XDP of the uplink: take the outer headers off before the kernel makes aggregates, and leave the rest to
//! `underlay_ingress`.

use flannel_common::handover::Handover;
use flannel_common::node::{NodeConfig, XDP_GENERIC};
use flannel_common::outcome::Outcome;
use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::maps::{self, IpFamily};
use crate::packet::{DriverPacket, PacketAccess as _};
use crate::stage::parse::{self, Inner, Underlay};
use crate::stage::{fit, handover};
use crate::verdict::Carried;

/// One packet from the underlay. What `underlay_ingress` would unwrap arrives there unwrapped, sender unchecked; all else
/// as it was.
#[inline(always)]
pub fn run(packet: &DriverPacket<'_>) -> Result<Carried, Outcome> {
    let node = &maps::node_config()?;
    match parse::underlay(packet)? {
        Underlay::V4 => strip::<Ipv4Hdr>(packet, node),
        Underlay::V6 => strip::<Ipv6Hdr>(packet, node),
    }
}

#[inline(always)]
fn strip<H: IpFamily>(packet: &DriverPacket<'_>, node: &NodeConfig) -> Result<Carried, Outcome> {
    let local = H::overlay_end(node);
    let envelope = parse::outer::<H>(packet, node, local)?;
    let inner: Inner<'_, H> = parse::inner_at(packet, EthHdr::LEN + H::OUTER_LEN)?;
    if inner.frame.dst_addr != local.vtep_mac {
        return Err(Outcome::ForeignVtep);
    }
    if H::stays_on_link(&inner.ip.source()) {
        // The floor's, by the sender check, and there is no floor behind this point.
        return Err(Outcome::LinkLocal);
    }
    let late = node.xdp == XDP_GENERIC;
    if late && !is_single(packet, &inner) {
        return Err(Outcome::MaybeAggregate);
    }
    let word = Handover::new(node, envelope.sender, envelope.tos, envelope.group, late);
    handover::give::<H>(packet, inner.offset, word)?;
    Ok(Carried { outcome: Outcome::HandedOver, action: DriverPacket::PASS })
}

/// Generic mode comes behind GRO, and cannot see what is an aggregate. Whatever is one has a payload to be cut.
#[inline(always)]
fn is_single<H: IpFamily>(packet: &DriverPacket<'_>, inner: &Inner<'_, H>) -> bool {
    match fit::headers_of_segment(packet, inner) {
        Ok(headers) => headers + inner.offset as u32 == packet.frame_len(),
        Err(_) => inner.ip.protocol() == H::ICMP,
    }
}
