//! Does it fit where it is to go? What does not is the kernel's, which cuts it or answers with ICMP.

use flannel_common::node::OverlayEnd;
use flannel_common::outcome::Outcome;
use network_types::eth::EthHdr;
use network_types::udp::UdpHdr;

use crate::ip::{Ip, TCP, UDP};
use crate::packet::{Packet, PacketAccess};
use crate::stage::parse::Inner;

/// Whether the packet, or each segment of an aggregate, fits the uplink with the outer headers on; bytes of the longest.
///
/// # Errors
/// [`Outcome::TooBig`], [`Outcome::GsoUnknown`], [`Outcome::Truncated`].
#[inline(always)]
pub fn uplink<H: Ip>(
    packet: &Packet<'_>,
    inner: &Inner<'_, H>,
    local: &OverlayEnd<H::Address>,
) -> Result<u32, Outcome> {
    // The outer lengths are 16 bits wide: an aggregate beyond them (BIG TCP) is the kernel's to cut.
    let whole = packet.frame_len() + H::OUTER_LEN as u32;
    let longest = largest_frame(packet, inner)? + H::OUTER_LEN as u32;
    if longest > local.uplink_mtu || whole > u16::MAX.into() { Err(Outcome::TooBig) } else { Ok(longest) }
}

/// Whether an interface with this MTU in bytes takes the packet.
///
/// # Errors
/// As of [`uplink`].
#[inline(always)]
pub fn mtu<H: Ip>(packet: &Packet<'_>, inner: &Inner<'_, H>, mtu: u32) -> Result<(), Outcome> {
    if largest_frame(packet, inner)? > mtu + EthHdr::LEN as u32 { Err(Outcome::TooBig) } else { Ok(()) }
}

/// Bytes of the inner frame, or of the largest that an aggregate will be cut into.
#[inline(always)]
fn largest_frame<H: Ip>(packet: &Packet<'_>, inner: &Inner<'_, H>) -> Result<u32, Outcome> {
    match packet.gso_size() {
        0 => Ok(packet.frame_len() - inner.offset as u32),
        payload => Ok(headers_of_segment(packet, inner)? + payload),
    }
}

/// Bytes of Ethernet, IP and transport header that every segment of an aggregate repeats.
///
/// # Errors
/// [`Outcome::GsoUnknown`], [`Outcome::Truncated`].
#[inline(always)]
pub fn headers_of_segment<H: Ip>(packet: &impl PacketAccess, inner: &Inner<'_, H>) -> Result<u32, Outcome> {
    /// Where TCP keeps its header length, in 32-bit words in the upper nibble.
    const DATA_OFFSET: usize = 12;
    let transport = EthHdr::LEN + inner.ip.header_len();
    let header = match inner.ip.protocol() {
        TCP => usize::from(*packet.header::<u8>(inner.offset + transport + DATA_OFFSET)? >> 4) * 4,
        UDP => UdpHdr::LEN,
        _ => return Err(Outcome::GsoUnknown),
    };
    Ok((transport + header) as u32)
}
