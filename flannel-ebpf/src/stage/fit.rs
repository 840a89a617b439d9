//! Compares packets with MTUs. Packets that are too long go to the kernel, which fragments them or answers with ICMP.

use flannel_common::outcome::Outcome;
use network_types::eth::EthHdr;
use network_types::udp::UdpHdr;

use crate::ip::{Ip, TCP, UDP};
use crate::packet::{Packet, PacketAccess};
use crate::stage::parse::Inner;

/// Checks that the packet, or each segment of an aggregate, fits this MTU in bytes with its outer headers. Returns the length of
/// the longest outer packet in bytes.
///
/// # Errors
/// [`Outcome::TooBig`], [`Outcome::GsoUnknown`], [`Outcome::Truncated`].
#[inline(always)]
pub fn outer<H: Ip>(packet: &Packet<'_>, inner: &Inner<H>, mtu: u32) -> Result<u32, Outcome> {
    // The outer lengths have 16 bits. The kernel segments aggregates beyond that (BIG TCP).
    let whole = packet.frame_len() + H::OUTER_LEN as u32;
    let longest = largest_frame(packet, inner)? + H::OUTER_LEN as u32;
    if longest > mtu || whole > u16::MAX.into() { Err(Outcome::TooBig) } else { Ok(longest) }
}

/// Checks that the packet fits an interface with this MTU in bytes.
///
/// # Errors
/// As for [`outer`].
#[inline(always)]
pub fn mtu<H: Ip>(packet: &Packet<'_>, inner: &Inner<H>, mtu: u32) -> Result<(), Outcome> {
    if largest_frame(packet, inner)? > mtu + EthHdr::LEN as u32 { Err(Outcome::TooBig) } else { Ok(()) }
}

/// Returns the length of the inner frame in bytes, or of the longest frame that an aggregate makes.
#[inline(always)]
fn largest_frame<H: Ip>(packet: &Packet<'_>, inner: &Inner<H>) -> Result<u32, Outcome> {
    match packet.gso_size() {
        0 => Ok(packet.frame_len() - inner.offset as u32),
        payload => Ok(headers_of_segment(packet, inner)? + payload),
    }
}

/// Returns the bytes of Ethernet, IP and transport header that every segment of an aggregate repeats.
///
/// # Errors
/// [`Outcome::GsoUnknown`], [`Outcome::Truncated`].
#[inline(always)]
pub fn headers_of_segment<H: Ip>(packet: &impl PacketAccess, inner: &Inner<H>) -> Result<u32, Outcome> {
    /// Offset of TCP's header length, which is in the upper four bits, in words of 32 bits.
    const DATA_OFFSET: usize = 12;
    let transport = EthHdr::LEN + inner.ip.header_len();
    let header = match inner.ip.protocol() {
        TCP => usize::from(*packet.header::<u8>(inner.offset + transport + DATA_OFFSET)? >> 4) * 4,
        UDP => UdpHdr::LEN,
        _ => return Err(Outcome::GsoUnknown),
    };
    Ok((transport + header) as u32)
}
