//! The sender check: a VXLAN packet is accepted only from the node that holds its inner source, by lease or as its own
//! address. Any host that reaches the underlay can send VXLAN, and flannel accepts it all.
//!
//! The check reads only inner IP packets. Of a fragmented outer packet it reads the first fragment; without that one the
//! others are never reassembled.

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
use crate::stage::parse::HAS_VNI;
use crate::stage::report;

/// Checks that the node at `outer` may send a packet from `inner`. In a tunnel of the other family no node may, since no
/// lease has an address of that family.
///
/// # Errors
/// [`Outcome::UnknownSender`], [`Outcome::ForgedSender`], [`Outcome::LoopedSender`]; [`Outcome::LinkLocal`] for packets
/// that are not forwarded beyond the vxlan device, whatever their sender.
#[inline(always)]
pub fn check<H: IpFamily>(node: &NodeConfig, outer: impl Address, inner: H::Address) -> Result<(), Outcome> {
    if H::overlay_end(node).source_check == 0 {
        return Ok(());
    }
    if H::stays_on_link(&inner) {
        return Err(Outcome::LinkLocal);
    }
    holds::<H>(node, outer, inner).inspect_err(|refused| report::refused(*refused, inner, outer))
}

#[inline(always)]
fn holds<H: IpFamily>(node: &NodeConfig, outer: impl Address, inner: H::Address) -> Result<(), Outcome> {
    let lease = maps::lease::<H>(node, inner).filter(|lease| lease.flags & NETWORK == 0);
    let lease = lease.ok_or(Outcome::UnknownSender)?;
    if lease.flags & OWN != 0 {
        return Err(Outcome::LoopedSender);
    }
    if lease.public_ip.as_ref() == outer.as_ref() { Ok(()) } else { Err(Outcome::ForgedSender) }
}

/// Checks the sender of a packet that goes to the floor for this reason, and returns its outcome. The kernel's vxlan device
/// unwraps such packets, and must not be a way around the check.
#[inline(always)]
pub fn check_for_floor<H: IpFamily + FindUdp>(
    packet: &Packet<'_>,
    node: &NodeConfig,
    reason: Outcome,
) -> Outcome {
    if H::overlay_end(node).source_check == 0 || reason.verdict() != Verdict::Floor {
        return reason;
    }
    match check_any::<H>(packet, node) {
        Some(Err(refused)) if refused.verdict() == Verdict::Dropped => refused,
        _ => reason,
    }
}

/// The headers between an outer and an inner IP header.
#[repr(C)]
struct VxlanHeaders {
    udp: UdpHdr,
    vxlan: VxlanHdr,
    frame: EthHdr,
}

// SAFETY: headers in a row without padding (asserted below), aligned to 2 at most.
unsafe impl Header for VxlanHeaders {}
const _: () = assert!(size_of::<VxlanHeaders>() == UdpHdr::LEN + VxlanHdr::LEN + EthHdr::LEN);

/// Checks the sender of any packet. Returns `None` if the kernel's vxlan device will not unwrap it as IP either.
#[inline(always)]
fn check_any<H: IpFamily + FindUdp>(packet: &Packet<'_>, node: &NodeConfig) -> Option<Result<(), Outcome>> {
    let outer: H = packet.copy(EthHdr::LEN).ok()?;
    let udp_at = outer.udp_at(packet)?;
    let VxlanHeaders { udp, vxlan, frame } = packet.copy(udp_at).ok()?;
    if udp.dst != node.port || vxlan.flags & HAS_VNI == 0 || vxlan.vni() != node.vni {
        return None;
    }
    let ip_at = udp_at + size_of::<VxlanHeaders>();
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
