//! Reading headers: what is this packet, and is it for us.

use flannel_common::node::{NodeConfig, OverlayEnd};
use flannel_common::outcome::Outcome;
use network_types::eth::{EthHdr, EtherType};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};
use network_types::udp::UdpHdr;
use network_types::vxlan::VxlanHdr;

use crate::group;
use crate::ip::{Ip, TCP, UDP};
use crate::packet::{Packet, PacketAccess};

const IPV4: u16 = EtherType::Ipv4 as u16;
const IPV6: u16 = EtherType::Ipv6 as u16;
/// Only the VNI flag (RFC 7348 section 5).
const PLAIN_VXLAN: u8 = 0x08;

/// Bytes of a transport header that are read: ports, and TCP's flags.
const TRANSPORT: usize = 14;
/// Where TCP keeps its flags, and those that begin and end a connection (RFC 9293 section 3.1).
const TCP_FLAGS: usize = 13;
const FIN_SYN_RST: u8 = 0b111;

/// The frame that VXLAN carries, and its IP header.
pub struct Inner<'a, H> {
    /// Where it starts.
    pub offset: usize,
    /// Its Ethernet header.
    pub frame: &'a EthHdr,
    /// Its IP header.
    pub ip: &'a H,
}

/// An inner frame of either family.
pub enum Frame<'a> {
    /// IPv4.
    V4(Inner<'a, Ipv4Hdr>),
    /// IPv6.
    V6(Inner<'a, Ipv6Hdr>),
}

/// Reads the inner frame of either family that starts at `offset`.
///
/// # Errors
/// [`Outcome::Truncated`], [`Outcome::NotIp`].
#[inline(always)]
pub fn frame_at<'a>(packet: &'a impl PacketAccess, offset: usize) -> Result<Frame<'a>, Outcome> {
    match inner_at(packet, offset) {
        Err(Outcome::OtherFamily) => inner_at(packet, offset).map(Frame::V6),
        ipv4 => ipv4.map(Frame::V4),
    }
}

/// Reads the inner frame of one family that starts at `offset`.
///
/// # Errors
/// [`Outcome::Truncated`], [`Outcome::OtherFamily`], [`Outcome::NotIp`].
#[inline(always)]
pub fn inner_at<'a, H: Ip>(packet: &'a impl PacketAccess, offset: usize) -> Result<Inner<'a, H>, Outcome> {
    packet.pull((offset + EthHdr::LEN + size_of::<H>() + TRANSPORT) as u32);
    let frame: &EthHdr = packet.header(offset)?;
    match frame.ether_type {
        own if own == H::ETHER_TYPE && packet.is_untagged() => {}
        IPV4 | IPV6 if packet.is_untagged() => return Err(Outcome::OtherFamily),
        _ => return Err(Outcome::NotIp),
    }
    let ip: &H = packet.header(offset + EthHdr::LEN)?;
    if ip.is_of_version() { Ok(Inner { offset, frame, ip }) } else { Err(Outcome::NotIp) }
}

/// The mark of a packet as far as it stands for a group; 0 without group policy, where marks are nobody's business here.
#[inline(always)]
pub fn mark(packet: &Packet<'_>, node: &NodeConfig) -> u32 {
    if node.group_policy != 0 { packet.mark() } else { 0 }
}

/// The transport layer's part in a flow.
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
pub fn transport<H: Ip>(packet: &impl PacketAccess, inner: &Inner<'_, H>) -> Result<Transport, Outcome> {
    let Inner { offset, ip, .. } = inner;
    if !ip.is_plain() || !matches!(ip.protocol(), TCP | UDP) {
        return Err(Outcome::NotCacheable);
    }
    let offset = offset + EthHdr::LEN + size_of::<H>();
    // TCP has its ports where UDP has them.
    let ports: &UdpHdr = packet.header(offset)?;
    let control = ip.protocol() == TCP && packet.header::<u8>(offset + TCP_FLAGS)? & FIN_SYN_RST != 0;
    Ok(Transport { source: ports.src, destination: ports.dst, control })
}

/// The family of the packet that a frame of the uplink has in it; a peer's has the same in front and inside.
pub enum Underlay {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Which family's packet this frame of the uplink may be.
///
/// # Errors
/// [`Outcome::NotVxlan`]
#[inline(always)]
pub fn underlay(packet: &impl PacketAccess) -> Result<Underlay, Outcome> {
    packet.pull((EthHdr::LEN + Ipv4Hdr::OUTER_LEN) as u32);
    let ethernet: &EthHdr = packet.header(0).map_err(|_| Outcome::NotVxlan)?;
    match ethernet.ether_type {
        IPV4 => Ok(Underlay::V4),
        IPV6 => Ok(Underlay::V6),
        _ => Err(Outcome::NotVxlan),
    }
}

/// What the outer headers say of a VXLAN packet for us.
pub struct Envelope<A> {
    /// Outer source: the address of the node that sent it, if the sender check agrees.
    pub sender: A,
    /// Outer type of service or traffic class, of which the ECN field counts.
    pub tos: u8,
    /// What the VXLAN header says of groups ([`group::bytes`]); zeroes without group policy.
    pub group: [u8; 4],
}

/// Reads the outer headers, if it is a plain VXLAN packet for us.
///
/// # Errors
/// [`Outcome::NotVxlan`] for what is none of our business, else the oddity that only the kernel handles.
#[inline(always)]
pub fn outer<H: Ip>(
    packet: &impl PacketAccess,
    node: &NodeConfig,
    local: &OverlayEnd<H::Address>,
) -> Result<Envelope<H::Address>, Outcome> {
    packet.pull((EthHdr::LEN + H::OUTER_LEN) as u32);
    let ip = outer_ip::<H>(packet, node, local)?;
    let udp: &UdpHdr = packet.header(EthHdr::LEN + size_of::<H>())?;
    if udp.dst != node.port {
        return Err(Outcome::NotVxlan);
    }
    if packet.gso_size() != 0 {
        // Before Linux 7.x a GSO packet decapsulated here is re-segmented wrongly later.
        return Err(Outcome::GsoAggregate);
    }
    lengths(packet, ip, udp)?;
    if !ip.are_checksums_plain(udp) {
        return Err(Outcome::OuterChecksum);
    }
    let (sender, tos) = (ip.source(), ip.traffic_class());
    Ok(Envelope { sender, tos, group: vxlan::<H>(packet, node)? })
}

#[inline(always)]
fn outer_ip<'a, H: Ip>(
    packet: &'a impl PacketAccess,
    node: &NodeConfig,
    local: &OverlayEnd<H::Address>,
) -> Result<&'a H, Outcome> {
    let ip: &H = packet.header(EthHdr::LEN).map_err(|_| Outcome::NotVxlan)?;
    if !packet.is_for_host(node) || ip.destination() != local.local_ip || !local.is_configured() {
        return Err(Outcome::NotVxlan);
    }
    ip.carries_udp().map(|()| ip)
}

/// Frame, IP and UDP must agree on where the packet ends (an Ethernet trailer is the kernel's to trim).
#[inline(always)]
fn lengths<H: Ip>(packet: &impl PacketAccess, ip: &H, udp: &UdpHdr) -> Result<(), Outcome> {
    let udp_len = u32::from(u16::from_be_bytes(udp.len));
    if ip.packet_len() + EthHdr::LEN as u32 != packet.frame_len()
        || udp_len + size_of::<H>() as u32 != ip.packet_len()
    {
        return Err(Outcome::OuterLength);
    }
    Ok(())
}

/// What the VXLAN header says of groups, if it is as it should be.
#[inline(always)]
fn vxlan<H: Ip>(packet: &impl PacketAccess, node: &NodeConfig) -> Result<[u8; 4], Outcome> {
    let vxlan: &VxlanHdr = packet.header(EthHdr::LEN + size_of::<H>() + UdpHdr::LEN)?;
    let group = if node.group_policy != 0 { group::bytes(vxlan) } else { [0; 4] };
    if vxlan.flags != PLAIN_VXLAN | group[0] & group::PRESENT {
        return Err(Outcome::VxlanFlags);
    }
    if vxlan.vni() != node.vni {
        return Err(Outcome::ForeignVni);
    }
    Ok(group)
}
