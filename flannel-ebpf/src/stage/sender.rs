//! The sender check: a VXLAN packet is taken only from the node that holds its inner source, by lease or as its own
//! address. Anybody who can reach the underlay can send VXLAN, and plain flannel takes it all.
//!
//! Only what the check can read is judged: IPv4 inside, and of a fragmented outer packet the first fragment, without
//! which the others are nothing.

use flannel_common::lease::OWN;
use flannel_common::node::Node;
use flannel_common::outcome::{Outcome, Verdict};
use network_types::eth::EthHdr;
use network_types::ip::Ipv4Hdr;
use network_types::udp::UdpHdr;
use network_types::vxlan::VxlanHdr;

use crate::maps;
use crate::packet::{Packet, PacketAccess as _};
use crate::stage::parse;

/// VXLAN flag: there is a VNI (RFC 7348 section 5).
const VNI: u8 = 0x08;

/// Whether the node at `outer` may send a packet from `inner`.
///
/// # Errors
/// [`Outcome::UnknownSender`], [`Outcome::ForgedSender`], [`Outcome::LoopedSender`].
#[inline(always)]
pub fn check(node: &Node, outer: [u8; 4], inner: [u8; 4]) -> Result<(), Outcome> {
    if node.source_check == 0 {
        return Ok(());
    }
    let lease = maps::lease(inner).ok_or(Outcome::UnknownSender)?;
    if lease.flags & OWN != 0 {
        return Err(Outcome::LoopedSender);
    }
    if lease.public_ip == outer { Ok(()) } else { Err(Outcome::ForgedSender) }
}

/// What becomes of a packet that the kernel device is to unwrap: the floor must not be the way around the check.
#[inline(always)]
pub fn check_odd(packet: &Packet<'_>, node: &Node, oddity: Outcome) -> Outcome {
    if node.source_check == 0 || oddity.verdict() != Verdict::Floor {
        return oddity;
    }
    match sources(packet, node).map(|(outer, inner)| check(node, outer, inner)) {
        Some(Err(refused)) => refused,
        _ => oddity,
    }
}

/// Outer and inner source, whatever else is odd; None if the kernel device will not unwrap it as IPv4 either.
#[inline(always)]
fn sources(packet: &Packet<'_>, node: &Node) -> Option<([u8; 4], [u8; 4])> {
    let ip: &Ipv4Hdr = packet.header(EthHdr::LEN).ok()?;
    let outer = ip.src_addr;
    let udp_at = EthHdr::LEN + usize::from(ip.vihl & 0x0f) * 4;
    if parse::is_later_fragment(ip) {
        return None;
    }
    packet.pull((udp_at + UdpHdr::LEN + VxlanHdr::LEN) as u32);
    let udp: &UdpHdr = packet.header(udp_at).ok()?;
    if udp.dst != node.port {
        return None;
    }
    let vxlan: &VxlanHdr = packet.header(udp_at + UdpHdr::LEN).ok()?;
    if vxlan.flags & VNI == 0 || vxlan.vni() != node.vni {
        return None;
    }
    let inner = parse::inner_at(packet, udp_at + UdpHdr::LEN + VxlanHdr::LEN).ok()?;
    Some((outer, inner.ip.src_addr))
}
