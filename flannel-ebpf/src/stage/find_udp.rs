//! Where UDP begins in an outer packet that is not plain.

use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::ip::{Ip, UDP, v4, v6};
use crate::packet::{Header, Packet};

/// Extension headers that are looked through: as many as RFC 8200 section 4.1 lists before the upper-layer header.
const EXTENSIONS: usize = 7;

/// Looking for UDP behind options and extension headers.
pub trait FindUdp: Ip {
    /// Where the UDP header behind this outer header begins, if it is in this packet.
    fn udp_at(&self, packet: &Packet<'_>) -> Option<usize>;
}

impl FindUdp for Ipv4Hdr {
    #[inline(always)]
    fn udp_at(&self, _: &Packet<'_>) -> Option<usize> {
        (!v4::is_later_fragment(self)).then(|| EthHdr::LEN + self.header_len())
    }
}

/// The beginning of an extension header; the fragment header has 8 bytes and its offset here.
#[repr(C)]
struct Extension {
    next: u8,
    /// In units of 8 bytes, beside the first.
    len: u8,
    /// Fragment offset in units of 8 bytes, in the upper 13 bits.
    offset: [u8; 2],
}

// SAFETY: bytes.
unsafe impl Header for Extension {}

impl FindUdp for Ipv6Hdr {
    #[inline(always)]
    fn udp_at(&self, packet: &Packet<'_>) -> Option<usize> {
        let (mut protocol, mut at) = (self.next_hdr, EthHdr::LEN + Self::LEN);
        for _ in 0..EXTENSIONS {
            if protocol == UDP {
                return Some(at);
            }
            (protocol, at) = behind(packet, protocol, at)?;
        }
        (protocol == UDP).then_some(at)
    }
}

/// What follows the extension header at `at`, and where.
#[inline(always)]
fn behind(packet: &Packet<'_>, protocol: u8, at: usize) -> Option<(u8, usize)> {
    let Extension { next, len, offset } = packet.copy(at).ok()?;
    match protocol {
        v6::HOP_BY_HOP | v6::ROUTING | v6::DESTINATION => Some((next, at + (usize::from(len) + 1) * 8)),
        v6::FRAGMENT if u16::from_be_bytes(offset) >> 3 == 0 => Some((next, at + 8)),
        _ => None,
    }
}
