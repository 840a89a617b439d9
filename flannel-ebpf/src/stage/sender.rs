//! The sender check: a VXLAN packet is accepted only from a node that may send from its inner source. Any host that reaches
//! the underlay can send VXLAN, and flannel accepts it all.
//!
//! The kernel's socket listens on every address of every interface. So programs check packets wherever they come in, and
//! note on a packet that its sender is accepted. `overlay_ingress` drops IP packets without the note. A packet to the
//! uplink's address is dropped where it is checked. Others may only pass through this node, to a network of others.
//!
//! The check reads only inner IP packets. Of a fragmented outer packet it reads the first fragment, whose note the
//! reassembled packet gets.

use flannel_common::address::{Address as _, V6};
use flannel_common::lease::{NETWORK, NODE, OWN};
use flannel_common::node::{FEATURE_TUNNEL, SOURCE_CHECK_OFF, SOURCE_CHECK_STRICT};
use flannel_common::outcome::Outcome;
use network_types::eth::EthHdr;
use network_types::ip::{IpProto, Ipv4Hdr, Ipv6Hdr};
use network_types::udp::UdpHdr;
use network_types::vxlan::VxlanHdr;

use crate::features::has;
use crate::ip::Ip as _;
use crate::maps::{self, IpFamily, NodeRef};
use crate::packet::{Context, Header, Packet, PacketAccess as _};
use crate::stage::find_udp::FindUdp;
use crate::stage::parse::{self, HAS_VNI, by_family, with_inner};
use crate::stage::report;

/// Bytes of a frame that are searched for the inner header. Longer chains of extension headers are not followed.
const SEARCHED: u32 = 256;
/// IP protocol numbers of IPsec: encapsulating security payload and authentication header (RFC 4303, RFC 4302).
const IPSEC: [u8; 2] = [IpProto::Esp as u8, IpProto::Ah as u8];
/// UDP port of IPsec behind NAT (RFC 3948), wire order.
const IPSEC_PORT: [u8; 2] = 4500u16.to_be_bytes();

/// Why a sender is refused.
const REFUSALS: [Outcome; 3] = [Outcome::UnknownSender, Outcome::ForgedSender, Outcome::LoopedSender];

/// Checks that the node at `outer` may send a packet from `inner`, over a tunnel of family `O`. In a tunnel of the other
/// family no node may, since no lease has an address of that family.
///
/// # Errors
/// [`Outcome::UnknownSender`], [`Outcome::ForgedSender`], [`Outcome::LoopedSender`]; [`Outcome::LinkLocal`] for packets
/// that are not forwarded beyond the vxlan device, whatever their sender.
#[inline(always)]
pub fn check<O: IpFamily, H: IpFamily>(
    node: NodeRef,
    outer: O::Address,
    inner: H::Address,
) -> Result<(), Outcome> {
    let mode = H::overlay_end(node).source_check();
    if mode == SOURCE_CHECK_OFF {
        return Ok(());
    }
    if H::stays_on_link(&inner) {
        return Err(Outcome::LinkLocal);
    }
    match maps::lease::<H>(node, inner) {
        Some(lease) if lease.flags & NETWORK != 0 => Err(Outcome::UnknownSender),
        Some(lease) if lease.flags & OWN != 0 => Err(Outcome::LoopedSender),
        Some(lease) if lease.public_ip.mapped() == outer.mapped() => Ok(()),
        Some(_) => Err(Outcome::ForgedSender),
        None if mode != SOURCE_CHECK_STRICT
            && O::ETHER_TYPE == H::ETHER_TYPE
            && is_peer::<O>(node, outer) =>
        {
            Ok(())
        }
        None => Err(Outcome::UnknownSender),
    }
}

/// Returns whether this is the address of another node.
#[inline(always)]
fn is_peer<O: IpFamily>(node: NodeRef, address: O::Address) -> bool {
    maps::lease::<O>(node, address).is_some_and(|lease| lease.flags & (NODE | OWN) == NODE)
}

/// Checks the sender of a packet to the uplink's address that goes to the floor for this reason, and returns its outcome.
#[inline(always)]
pub fn check_for_floor<O: IpFamily + FindUdp>(packet: &Packet<'_>, reason: Outcome) -> Outcome {
    match judge::<O, true>(packet.context()) {
        Some(refused) if refused != Outcome::OtherAddress => refused,
        _ => reason,
    }
}

/// Returns false for most other traffic, which is neither VXLAN nor IPsec as far as its first headers say. They are read in
/// place.
#[inline(always)]
pub fn may_be_tunnel<O: IpFamily>(packet: &Packet<'_>) -> bool {
    if !has(FEATURE_TUNNEL) {
        return false;
    }
    let Ok(outer) = packet.header::<O>(EthHdr::LEN) else { return true };
    match outer.carries_udp() {
        Err(Outcome::NotVxlan) => IPSEC.contains(&outer.protocol()),
        Err(_) => true,
        Ok(()) => packet.header::<UdpHdr>(EthHdr::LEN + size_of::<O>()).map_or(true, |udp| {
            udp.dst == IPSEC_PORT || maps::overlay_port().is_some_and(|port| udp.dst == port)
        }),
    }
}

/// Notes it if a packet that is not for the uplink's address has an accepted sender, and returns its outcome.
#[inline(always)]
pub fn note_stray<O: IpFamily + FindUdp>(packet: &Packet<'_>) -> Outcome {
    match judge::<O, false>(packet.context()) {
        Some(Outcome::OtherAddress) => Outcome::OtherAddress,
        _ => Outcome::NotVxlan,
    }
}

/// Removes the note from a packet that comes in: only a pod can have written it, since no program has checked its sender.
#[inline(always)]
pub fn refuse_note(packet: &Packet<'_>) {
    if packet.may_have_note() {
        remove_note(packet.context());
    }
}

/// Not inlined: the node's facts take a third of the stack.
#[inline(never)]
fn remove_note(context: Context) {
    let context = context.into();
    if let Ok(node) = maps::node_config() {
        Packet::new(&context).take_note(node);
    }
}

/// Checks that a program has accepted the sender of a packet that leaves its tunnel. Others than IP are not checked.
///
/// # Errors
/// [`Outcome::UncheckedSender`]
#[inline(always)]
pub fn ensure_checked(packet: &Packet<'_>, node: NodeRef) -> Result<(), Outcome> {
    let mode = by_family!(packet, H => H::overlay_end(node).source_check(), else SOURCE_CHECK_OFF);
    if packet.take_note(node) || mode == SOURCE_CHECK_OFF || node.only_checked() == 0 {
        return Ok(());
    }
    if let Ok(frame) = parse::frame_at(packet, 0) {
        with_inner!(frame, inner => report::refused(Outcome::UncheckedSender, inner.ip.source(), NO_NODE));
    }
    Err(Outcome::UncheckedSender)
}

/// Outer source of a packet that has left its tunnel, which is not known any more.
const NO_NODE: V6 = [0; 16];

/// The headers after an outer UDP header.
#[repr(C)]
#[derive(Clone, Copy)]
struct VxlanHeaders {
    vxlan: VxlanHdr,
    frame: EthHdr,
}

// SAFETY: headers in a row without padding (asserted below), aligned to 2 at most.
unsafe impl Header for VxlanHeaders {}
const _: () = assert!(size_of::<VxlanHeaders>() == VxlanHdr::LEN + EthHdr::LEN);

/// Checks the sender of any packet. Notes it and returns [`Outcome::OtherAddress`] if it is accepted, and else why it is not.
/// `REPORT`: reports one that is not. Returns `None` if the packet is neither VXLAN of this network with IP in it, nor IPsec.
///
/// IPsec is accepted: the kernel drops what it cannot decrypt, and nobody else knows what it holds.
#[inline(never)]
fn judge<O: IpFamily + FindUdp, const REPORT: bool>(context: Context) -> Option<Outcome> {
    let context = context.into();
    let packet = &Packet::new(&context);
    // Other traffic passes here as well. To pull more of it than this header would copy memory.
    packet.pull((EthHdr::LEN + size_of::<O>()) as u32);
    let outer: O = packet.copy_after_link(0).ok().filter(O::is_of_version)?;
    let is_ipsec = IPSEC.contains(&outer.protocol());
    if !is_ipsec && outer.carries_udp() == Err(Outcome::NotVxlan) {
        return None;
    }
    packet.pull(SEARCHED);
    let node = maps::node_config().ok()?;
    let refused = if is_ipsec { None } else { refusal::<O, REPORT>(packet, node, &outer)? };
    if refused.is_none() {
        packet.note_checked_for_device(node);
    }
    Some(refused.unwrap_or(Outcome::OtherAddress))
}

/// Returns why the sender of a packet is not accepted; `Some(None)` if it is.
#[inline(always)]
fn refusal<O: IpFamily + FindUdp, const REPORT: bool>(
    packet: &Packet<'_>,
    node: NodeRef,
    outer: &O,
) -> Option<Option<Outcome>> {
    let udp_at = outer.udp_at(packet)?;
    let udp: UdpHdr = packet.copy_after_link(udp_at).ok()?;
    if udp.dst != node.port() || !O::overlay_end(node).is_configured() {
        return (udp.dst == IPSEC_PORT).then_some(None);
    }
    let VxlanHeaders { vxlan, frame } = packet.copy_after_link(udp_at + UdpHdr::LEN).ok()?;
    if vxlan.flags & HAS_VNI == 0 || vxlan.vni() != node.vni() {
        return None;
    }
    let ip_at = udp_at + UdpHdr::LEN + size_of::<VxlanHeaders>();
    let checked = match frame.ether_type {
        Ipv4Hdr::ETHER_TYPE => check_inner::<O, Ipv4Hdr, REPORT>(packet, node, outer.source(), ip_at)?,
        Ipv6Hdr::ETHER_TYPE => check_inner::<O, Ipv6Hdr, REPORT>(packet, node, outer.source(), ip_at)?,
        _ => return None,
    };
    Some(checked.err().filter(|refused| REFUSALS.contains(refused)))
}

#[inline(always)]
fn check_inner<O: IpFamily, H: IpFamily, const REPORT: bool>(
    packet: &Packet<'_>,
    node: NodeRef,
    outer: O::Address,
    at: usize,
) -> Option<Result<(), Outcome>> {
    let inner: H = packet.copy_after_link(at).ok()?;
    inner.is_of_version().then(|| {
        let checked = check::<O, H>(node, outer, inner.source());
        if REPORT
            && let Err(refused) = checked
            && REFUSALS.contains(&refused)
        {
            report::refused(refused, inner.source(), outer);
        }
        checked
    })
}
