//! The sender check: a VXLAN packet is taken only from the node that holds its inner source, by lease or as its own
//! address. Anybody who can reach the underlay can send VXLAN, and plain flannel takes it all.
//!
//! Only what the check can read is judged: IP inside, and of a fragmented outer packet the first fragment, without
//! which the others are nothing.

use flannel_common::address::Address;
use flannel_common::lease::{NETWORK, OWN};
use flannel_common::node::NodeConfig;
use flannel_common::outcome::{Outcome, Verdict};
use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};
use network_types::udp::UdpHdr;
use network_types::vxlan::VxlanHdr;

use crate::ip::Ip as _;
use crate::maps::{self, IpFamily};
use crate::packet::{Header, Packet};
use crate::stage::find_udp::FindUdp;
use crate::stage::tell;

/// VXLAN flag: there is a VNI (RFC 7348 section 5).
const VNI: u8 = 0x08;

/// Whether the node at `outer` may send a packet from `inner`. Nobody may in a tunnel of the other family: there, no
/// lease has that address.
///
/// # Errors
/// [`Outcome::UnknownSender`], [`Outcome::ForgedSender`], [`Outcome::LoopedSender`]; [`Outcome::LinkLocal`] for what
/// gets no further than our device, whoever sends it.
#[inline(always)]
pub fn check<H: IpFamily>(node: &NodeConfig, outer: impl Address, inner: H::Address) -> Result<(), Outcome> {
    if H::overlay_end(node).source_check == 0 {
        return Ok(());
    }
    if H::stays_on_link(&inner) {
        return Err(Outcome::LinkLocal);
    }
    judged::<H>(node, outer, inner).inspect_err(|refused| tell::refused(*refused, inner, outer))
}

#[inline(always)]
fn judged<H: IpFamily>(node: &NodeConfig, outer: impl Address, inner: H::Address) -> Result<(), Outcome> {
    let lease = maps::lease::<H>(node, inner).filter(|lease| lease.flags & NETWORK == 0);
    let lease = lease.ok_or(Outcome::UnknownSender)?;
    if lease.flags & OWN != 0 {
        return Err(Outcome::LoopedSender);
    }
    if lease.public_ip.as_ref() == outer.as_ref() { Ok(()) } else { Err(Outcome::ForgedSender) }
}

/// What becomes of a packet that the kernel device is to unwrap: the floor must not be the way around the check.
#[inline(always)]
pub fn check_odd<H: IpFamily + FindUdp>(packet: &Packet<'_>, node: &NodeConfig, oddity: Outcome) -> Outcome {
    if H::overlay_end(node).source_check == 0 || oddity.verdict() != Verdict::Floor {
        return oddity;
    }
    match checked::<H>(packet, node) {
        Some(Err(refused)) if refused.verdict() == Verdict::Dropped => refused,
        _ => oddity,
    }
}

/// What VXLAN puts before an IP packet.
#[repr(C)]
struct Wrapping {
    udp: UdpHdr,
    vxlan: VxlanHdr,
    frame: EthHdr,
}

// SAFETY: headers one behind the other, without padding (asserted below), aligned to 2 at most.
unsafe impl Header for Wrapping {}
const _: () = assert!(size_of::<Wrapping>() == UdpHdr::LEN + VxlanHdr::LEN + EthHdr::LEN);

/// Checks the sender, whatever else is odd; None if the kernel device will not unwrap it as IP either.
#[inline(always)]
fn checked<H: IpFamily + FindUdp>(packet: &Packet<'_>, node: &NodeConfig) -> Option<Result<(), Outcome>> {
    let outer: H = packet.copy(EthHdr::LEN).ok()?;
    let udp_at = outer.udp_at(packet)?;
    let Wrapping { udp, vxlan, frame } = packet.copy(udp_at).ok()?;
    if udp.dst != node.port || vxlan.flags & VNI == 0 || vxlan.vni() != node.vni {
        return None;
    }
    let ip_at = udp_at + size_of::<Wrapping>();
    let outer = outer.source();
    match frame.ether_type {
        Ipv4Hdr::ETHER_TYPE => check_inner::<Ipv4Hdr>(packet, node, outer, ip_at),
        Ipv6Hdr::ETHER_TYPE => check_inner::<Ipv6Hdr>(packet, node, outer, ip_at),
        _ => None,
    }
}

#[inline(always)]
fn check_inner<H: IpFamily>(
    packet: &Packet<'_>,
    node: &NodeConfig,
    outer: impl Address,
    at: usize,
) -> Option<Result<(), Outcome>> {
    let inner: H = packet.copy(at).ok()?;
    inner.is_of_version().then(|| check::<H>(node, outer, inner.source()))
}
