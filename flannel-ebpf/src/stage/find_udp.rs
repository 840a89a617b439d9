//! Finds UDP in outer packets with options, extension headers or fragmentation.

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::ip::{Ip, UDP, v4, v6};
use crate::packet::{Header, Packet};

/// Largest number of extension headers that are read: as many as RFC 8200 section 4.1 lists.
const EXTENSIONS: usize = 7;

/// Finds UDP after options and extension headers.
pub trait FindUdp: Ip {
    /// Returns where the UDP header begins after the start of this outer header, if it is in this packet.
    fn udp_at(&self, packet: &Packet<'_>) -> Option<usize>;
}

impl FindUdp for Ipv4Hdr {
    #[inline(always)]
    fn udp_at(&self, _: &Packet<'_>) -> Option<usize> {
        (self.proto == UDP && !v4::is_later_fragment(self)).then(|| self.header_len())
    }
}

/// Start of an extension header. The fragment header has 8 bytes, and its offset in the last field.
#[repr(C)]
#[derive(Clone, Copy)]
struct Extension {
    next: u8,
    /// In units of 8 bytes, without the first 8.
    len: u8,
    /// Fragment offset in units of 8 bytes, in the upper 13 bits.
    offset: [u8; 2],
}

// SAFETY: bytes.
unsafe impl Header for Extension {}

impl FindUdp for Ipv6Hdr {
    #[inline(always)]
    fn udp_at(&self, packet: &Packet<'_>) -> Option<usize> {
        let (mut protocol, mut at) = (self.next_hdr, Self::LEN);
        for _ in 0..EXTENSIONS {
            if protocol == UDP {
                return Some(at);
            }
            (protocol, at) = next_header(packet, protocol, at)?;
        }
        (protocol == UDP).then_some(at)
    }
}

/// Returns which header follows the extension header at `at`, and its offset.
#[inline(always)]
fn next_header(packet: &Packet<'_>, protocol: u8, at: usize) -> Option<(u8, usize)> {
    let Extension { next, len, offset } = packet.copy_after_link(at).ok()?;
    match protocol {
        v6::HOP_BY_HOP | v6::ROUTING | v6::DESTINATION => Some((next, at + (usize::from(len) + 1) * 8)),
        v6::FRAGMENT if u16::from_be_bytes(offset) >> 3 == 0 => Some((next, at + 8)),
        _ => None,
    }
}
