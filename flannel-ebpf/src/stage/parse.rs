//! Reads headers: what kind of packet it is, and whether it is for this node.

use flannel_common::fingerprint::Digest;
use flannel_common::node::FEATURE_TUNNEL;
use flannel_common::outcome::Outcome;
use network_types::eth::{EthHdr, EtherType};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};
use network_types::udp::UdpHdr;
use network_types::vxlan::VxlanHdr;

use crate::features::has;
use crate::group;
use crate::ip::{Ip, TCP, UDP};
use crate::maps::{EndRef, NodeRef};
use crate::packet::{Aligned, Ethernet, Packet, PacketAccess};

const IPV4: u16 = EtherType::Ipv4 as u16;
const IPV6: u16 = EtherType::Ipv6 as u16;
/// VXLAN flag: the header has a VNI (RFC 7348 section 5).
pub const HAS_VNI: u8 = 0x08;

/// Bytes of a transport header that are read: those of TCP without options.
const TRANSPORT: usize = 20;
/// Offset of TCP's flags, and the flags that begin or end a connection (RFC 9293 section 3.1).
const TCP_FLAGS: usize = 13;
const FIN_SYN_RST: u8 = 0b111;

/// An inner frame and its IP header.
pub struct Inner<H> {
    /// Where the frame begins in the packet.
    pub offset: usize,
    /// Ethernet header.
    pub frame: Ethernet,
    /// IP header.
    pub ip: Aligned<H>,
}

/// An inner frame of either family.
pub enum InnerFrame {
    /// IPv4.
    V4(Inner<Ipv4Hdr>),
    /// IPv6.
    V6(Inner<Ipv6Hdr>),
}

/// Evaluates the same expression for an [`InnerFrame`] of either family: `with_inner!(frame, inner => send(&inner))`.
macro_rules! with_inner {
    ($frame:expr, $inner:ident => $expression:expr) => {
        match $frame {
            $crate::stage::parse::InnerFrame::V4($inner) => $expression,
            $crate::stage::parse::InnerFrame::V6($inner) => $expression,
        }
    };
}
pub(crate) use with_inner;

/// Evaluates the same expression for the header of either family, as the kernel says of a packet, and another one for other packets:
/// `by_family!(packet, H => wrap::<H>(packet), else Err(Outcome::NotIp))`.
macro_rules! by_family {
    ($packet:expr, $header:ident => $expression:expr, else $other:expr) => {
        match $packet.protocol() {
            <network_types::ip::Ipv4Hdr as $crate::ip::Ip>::ETHER_TYPE => {
                type $header = network_types::ip::Ipv4Hdr;
                $expression
            }
            <network_types::ip::Ipv6Hdr as $crate::ip::Ip>::ETHER_TYPE => {
                type $header = network_types::ip::Ipv6Hdr;
                $expression
            }
            _ => $other,
        }
    };
}
pub(crate) use by_family;

/// Reads the inner frame of either family that begins at `offset`.
///
/// # Errors
/// [`Outcome::Truncated`], [`Outcome::NotIp`].
#[inline(always)]
pub fn frame_at(packet: &impl PacketAccess, offset: usize) -> Result<InnerFrame, Outcome> {
    match inner_at(packet, offset) {
        Err(Outcome::OtherFamily) => inner_at(packet, offset).map(InnerFrame::V6),
        ipv4 => ipv4.map(InnerFrame::V4),
    }
}

/// Reads the inner frame of one family that begins at `offset`.
///
/// # Errors
/// [`Outcome::Truncated`], [`Outcome::OtherFamily`], [`Outcome::NotIp`].
#[inline(always)]
pub fn inner_at<H: Ip>(packet: &impl PacketAccess, offset: usize) -> Result<Inner<H>, Outcome> {
    packet.pull((offset + EthHdr::LEN + size_of::<H>() + TRANSPORT) as u32);
    let frame = packet.ethernet(offset)?;
    match frame.ether_type {
        own if own == H::ETHER_TYPE && packet.is_untagged() => {}
        IPV4 | IPV6 if packet.is_untagged() => return Err(Outcome::OtherFamily),
        _ => return Err(Outcome::NotIp),
    }
    let ip = packet.header::<H>(offset + EthHdr::LEN)?;
    if ip.is_of_version() { Ok(Inner { offset, frame, ip }) } else { Err(Outcome::NotIp) }
}

/// Returns the packet's mark, which makes its group; 0 without group policy.
#[inline(always)]
pub fn mark(packet: &Packet<'_>, node: NodeRef) -> u32 {
    if node.group_policy() != 0 { packet.mark() } else { 0 }
}

/// What the transport header says of a flow.
pub struct Transport {
    /// Source port, wire order.
    pub source: [u8; 2],
    /// Destination port, wire order.
    pub destination: [u8; 2],
    /// Whether the packet begins or ends a TCP connection.
    pub control: bool,
}

/// Reads ports and TCP flags.
///
/// # Errors
/// [`Outcome::NotCacheable`], [`Outcome::Truncated`].
#[inline(always)]
pub fn transport<H: Ip>(packet: &impl PacketAccess, inner: &Inner<H>) -> Result<Transport, Outcome> {
    let Inner { offset, ip, .. } = inner;
    if !ip.is_plain() || !matches!(ip.protocol(), TCP | UDP) {
        return Err(Outcome::NotCacheable);
    }
    let offset = offset + EthHdr::LEN + size_of::<H>();
    // TCP has its ports where UDP has them.
    let ports = packet.header::<UdpHdr>(offset)?;
    // The whole header: translation writes the checksum, behind the flags.
    let control =
        ip.protocol() == TCP && packet.header::<[u8; TRANSPORT]>(offset)?[TCP_FLAGS] & FIN_SYN_RST != 0;
    Ok(Transport { source: ports.src, destination: ports.dst, control })
}

/// Returns the digest of what a stack must not change of this packet, as it is after this number of routers: type of service
/// or traffic class, lengths, identification, TTL; and of TCP the sequence and acknowledgement numbers, flags and window.
///
/// Not addresses and ports, which it may translate; and not the transport checksum: the kernel completes it on the way if the
/// sender is on the same machine, as a container or virtual machine may be (`CHECKSUM_PARTIAL`).
///
/// # Errors
/// [`Outcome::Truncated`]
#[inline(always)]
pub fn digest<H: Ip>(packet: &Packet<'_>, inner: &Inner<H>, hops: u8) -> Result<Digest, Outcome> {
    let digest = Digest::START.with_bytes(&inner.ip.after_hops(hops));
    if inner.ip.protocol() != TCP {
        return Ok(digest);
    }
    let after_ports = inner.offset + EthHdr::LEN + size_of::<H>() + 4;
    let [sequence, acknowledgement, flags_and_window] = *packet.header(after_ports)?;
    Ok(digest.with(sequence).with(acknowledgement).with(flags_and_window))
}

/// Family of a packet that the uplink received. Outer and inner packet are of the same family.
pub enum Underlay {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Reads the family of a frame that the uplink received.
///
/// # Errors
/// [`Outcome::NotVxlan`]
#[inline(always)]
pub fn underlay(packet: &impl PacketAccess) -> Result<Underlay, Outcome> {
    packet.pull((EthHdr::LEN + Ipv4Hdr::OUTER_LEN) as u32);
    let ethernet = packet.ethernet(0).map_err(|_| Outcome::NotVxlan)?;
    match ethernet.ether_type {
        IPV4 => Ok(Underlay::V4),
        IPV6 => Ok(Underlay::V6),
        _ => Err(Outcome::NotVxlan),
    }
}

/// Fields of the outer headers that are needed after they are removed.
#[derive(Clone, Copy)]
#[repr(C, align(4))]
pub struct OuterFields<A> {
    /// Outer source: address of the sending node, unless it is forged.
    pub sender: A,
    /// Bytes of the VXLAN header that hold the group ([`group::bytes`]); zeroes without group policy.
    pub group: [u8; 4],
    /// Outer type of service or traffic class, for its ECN field.
    pub tos: u8,
}

/// Reads the outer headers of a plain VXLAN packet to this node.
///
/// # Errors
/// [`Outcome::NotVxlan`] for other traffic, else the reason why only the kernel can handle the packet.
#[inline(always)]
pub fn outer<H: Ip>(
    packet: &impl PacketAccess,
    node: NodeRef,
    local: EndRef<H::Address>,
) -> Result<OuterFields<H::Address>, Outcome> {
    if !has(FEATURE_TUNNEL) {
        return Err(Outcome::NotVxlan);
    }
    packet.pull((EthHdr::LEN + H::OUTER_LEN) as u32);
    let ip = outer_ip::<H>(packet, node, local)?;
    let udp = packet.header::<UdpHdr>(EthHdr::LEN + size_of::<H>())?;
    if udp.dst != node.port() {
        return Err(Outcome::NotVxlan);
    }
    check_lengths(packet, &*ip, &udp)?;
    if !ip.are_checksums_plain(&udp) {
        return Err(Outcome::OuterChecksum);
    }
    let (sender, tos) = (ip.source(), ip.traffic_class());
    Ok(OuterFields { sender, tos, group: vxlan::<H>(packet, node)? })
}

#[inline(always)]
fn outer_ip<H: Ip>(
    packet: &impl PacketAccess,
    node: NodeRef,
    local: EndRef<H::Address>,
) -> Result<Aligned<H>, Outcome> {
    let ip = packet.header::<H>(EthHdr::LEN).map_err(|_| Outcome::NotVxlan)?;
    if !local.is_configured() || !packet.is_for_host(node) || ip.destination() != local.local_ip() {
        return Err(Outcome::NotVxlan);
    }
    ip.carries_udp().map(|()| ip)
}

/// Checks that frame, IP and UDP end at the same byte. (The kernel trims Ethernet trailers.)
#[inline(always)]
fn check_lengths<H: Ip>(packet: &impl PacketAccess, ip: &H, udp: &UdpHdr) -> Result<(), Outcome> {
    let udp_len = u32::from(u16::from_be_bytes(udp.len));
    if ip.packet_len() + EthHdr::LEN as u32 != packet.frame_len()
        || udp_len + size_of::<H>() as u32 != ip.packet_len()
    {
        return Err(Outcome::OuterLength);
    }
    Ok(())
}

/// Checks the VXLAN header, and returns the bytes that hold the group.
#[inline(always)]
fn vxlan<H: Ip>(packet: &impl PacketAccess, node: NodeRef) -> Result<[u8; 4], Outcome> {
    let vxlan = packet.header::<VxlanHdr>(EthHdr::LEN + size_of::<H>() + UdpHdr::LEN)?;
    let group = if node.group_policy() != 0 { group::bytes(&vxlan) } else { [0; 4] };
    if vxlan.flags != HAS_VNI | group[0] & group::PRESENT {
        return Err(Outcome::VxlanFlags);
    }
    if vxlan.vni() != node.vni() {
        return Err(Outcome::ForeignVni);
    }
    Ok(group)
}
