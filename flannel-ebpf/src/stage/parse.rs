//! Reading headers: what is this packet, and is it for us.

use flannel_common::node::Node;
use flannel_common::outcome::Outcome;
use network_types::eth::{EthHdr, EtherType};
use network_types::ip::{IpProto, Ipv4Hdr};
use network_types::udp::UdpHdr;
use network_types::vxlan::VxlanHdr;

use crate::outer;
use crate::packet::PacketAccess;

/// IP protocol number of TCP.
pub const TCP: u8 = IpProto::Tcp as u8;
/// IP protocol number of ICMP.
pub const ICMP: u8 = IpProto::Icmp as u8;
/// IP protocol number of UDP.
pub const UDP: u8 = IpProto::Udp as u8;

const IPV4: u16 = EtherType::Ipv4 as u16;
const IPV6: u16 = EtherType::Ipv6 as u16;
/// Version 4, header of 5 words: no options.
const PLAIN_IPV4: u8 = 0x45;
/// More-fragments flag and fragment offset (RFC 791 section 3.1), wire order.
const FRAGMENT: [u8; 2] = [0x3f, 0xff];
/// Only the VNI flag (RFC 7348 section 5).
const PLAIN_VXLAN: u8 = 0x08;

/// Bytes of a transport header that are read: ports, and TCP's flags.
const TRANSPORT: usize = 14;
/// Where TCP keeps its flags, and those that begin and end a connection (RFC 9293 section 3.1).
const TCP_FLAGS: usize = 13;
const FIN_SYN_RST: u8 = 0b111;

/// The frame that VXLAN carries, and its IP header.
pub struct Inner<'a> {
    /// Where it starts.
    pub offset: usize,
    /// Its Ethernet header.
    pub frame: &'a EthHdr,
    /// Its IPv4 header.
    pub ip: &'a Ipv4Hdr,
}

impl Inner<'_> {
    /// Length of the IPv4 header in bytes, options included.
    #[inline(always)]
    pub fn ip_header_len(&self) -> usize {
        usize::from(self.ip.vihl & 0x0f) * 4
    }
}

/// Reads the inner frame that starts at `offset`.
///
/// # Errors
/// [`Outcome::Truncated`], [`Outcome::InnerIpv6`], [`Outcome::NotIp`].
#[inline(always)]
pub fn inner_at<'a>(packet: &'a impl PacketAccess, offset: usize) -> Result<Inner<'a>, Outcome> {
    packet.pull((offset + EthHdr::LEN + Ipv4Hdr::LEN + TRANSPORT) as u32);
    let frame: &EthHdr = packet.header(offset)?;
    match frame.ether_type {
        IPV4 if packet.is_untagged() => {}
        IPV6 if packet.is_untagged() => return Err(Outcome::InnerIpv6),
        _ => return Err(Outcome::NotIp),
    }
    let ip: &Ipv4Hdr = packet.header(offset + EthHdr::LEN)?;
    if ip.vihl >> 4 != 4 {
        return Err(Outcome::NotIp);
    }
    Ok(Inner { offset, frame, ip })
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
pub fn transport(packet: &impl PacketAccess, inner: &Inner<'_>) -> Result<Transport, Outcome> {
    let Inner { offset, ip, .. } = inner;
    if ip.vihl != PLAIN_IPV4 || is_fragment(ip) || !matches!(ip.proto, TCP | UDP) {
        return Err(Outcome::NotCacheable);
    }
    let offset = offset + EthHdr::LEN + Ipv4Hdr::LEN;
    // TCP has its ports where UDP has them.
    let ports: &UdpHdr = packet.header(offset)?;
    let control = ip.proto == TCP && packet.header::<u8>(offset + TCP_FLAGS)? & FIN_SYN_RST != 0;
    Ok(Transport { source: ports.src, destination: ports.dst, control })
}

#[inline(always)]
fn is_fragment(ip: &Ipv4Hdr) -> bool {
    ip.frags[0] & FRAGMENT[0] != 0 || ip.frags[1] & FRAGMENT[1] != 0
}

/// Whether the packet is a fragment without the beginning.
#[inline(always)]
pub fn is_later_fragment(ip: &Ipv4Hdr) -> bool {
    /// The offset's part of [`FRAGMENT`].
    const OFFSET: [u8; 2] = [0x1f, 0xff];
    ip.frags[0] & OFFSET[0] != 0 || ip.frags[1] & OFFSET[1] != 0
}

/// Whether this frame of the uplink is a plain VXLAN packet for us; returns whose it is.
///
/// # Errors
/// [`Outcome::NotVxlan`] for what is none of our business, else the oddity that only the kernel handles.
#[inline(always)]
pub fn outer(packet: &impl PacketAccess, node: &Node) -> Result<[u8; 4], Outcome> {
    packet.pull((EthHdr::LEN + outer::LEN) as u32);
    let ip = outer_ipv4(packet, node)?;
    let udp: &UdpHdr = packet.header(EthHdr::LEN + Ipv4Hdr::LEN)?;
    if udp.dst != node.port {
        return Err(Outcome::NotVxlan);
    }
    if packet.gso_size() != 0 {
        // Before Linux 7.x a GSO packet decapsulated here is re-segmented wrongly later.
        return Err(Outcome::GsoAggregate);
    }
    lengths(packet, ip, udp)?;
    if udp.check != [0; 2] || outer::checksum(ip) != 0 {
        return Err(Outcome::OuterChecksum);
    }
    if ip.tos & outer::ECN == outer::CONGESTED {
        return Err(Outcome::OuterCongested);
    }
    let source = ip.src_addr;
    vxlan(packet, node)?;
    Ok(source)
}

#[inline(always)]
fn outer_ipv4<'a>(packet: &'a impl PacketAccess, node: &Node) -> Result<&'a Ipv4Hdr, Outcome> {
    let ethernet: &EthHdr = packet.header(0).map_err(|_| Outcome::NotVxlan)?;
    if ethernet.ether_type != IPV4 || !packet.is_for_host(node) {
        return Err(Outcome::NotVxlan);
    }
    let ip: &Ipv4Hdr = packet.header(EthHdr::LEN).map_err(|_| Outcome::NotVxlan)?;
    if ip.proto != UDP || ip.dst_addr != node.local_ip {
        return Err(Outcome::NotVxlan);
    }
    if ip.vihl != PLAIN_IPV4 {
        return Err(Outcome::OuterOptions);
    }
    if is_fragment(ip) {
        return Err(Outcome::OuterFragment);
    }
    Ok(ip)
}

/// Frame, IP and UDP must agree on where the packet ends (an Ethernet trailer is the kernel's to trim).
#[inline(always)]
fn lengths(packet: &impl PacketAccess, ip: &Ipv4Hdr, udp: &UdpHdr) -> Result<(), Outcome> {
    let ip_len = u32::from(u16::from_be_bytes(ip.tot_len));
    let udp_len = u32::from(u16::from_be_bytes(udp.len));
    if ip_len + EthHdr::LEN as u32 != packet.frame_len() || udp_len + Ipv4Hdr::LEN as u32 != ip_len {
        return Err(Outcome::OuterLength);
    }
    Ok(())
}

#[inline(always)]
fn vxlan(packet: &impl PacketAccess, node: &Node) -> Result<(), Outcome> {
    let vxlan: &VxlanHdr = packet.header(EthHdr::LEN + Ipv4Hdr::LEN + UdpHdr::LEN)?;
    if vxlan.flags != PLAIN_VXLAN {
        return Err(Outcome::VxlanFlags);
    }
    if vxlan.vni() != node.vni {
        return Err(Outcome::ForeignVni);
    }
    Ok(())
}
