//! Routing by one hop: new MACs, and a decremented TTL or hop limit. Pure.

use flannel_common::outcome::Outcome;
use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::ip::Ip;
use crate::packet::Header;
use crate::stage::parse::Inner;

/// Headers that a hop changes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Routed<H> {
    /// Ethernet header.
    pub frame: EthHdr,
    /// IP header. Options follow unchanged.
    pub ip: H,
}

// SAFETY: headers in a row without padding (asserted below), aligned to 2 at most.
unsafe impl<H: Ip> Header for Routed<H> {}
const _: () = assert!(size_of::<Routed<Ipv4Hdr>>() == EthHdr::LEN + Ipv4Hdr::LEN);
const _: () = assert!(size_of::<Routed<Ipv6Hdr>>() == EthHdr::LEN + Ipv6Hdr::LEN);

impl<H: Ip> Routed<H> {
    /// Returns the packet's headers as they are.
    #[inline(always)]
    pub const fn unchanged(inner: &Inner<H>) -> Self {
        Self { frame: inner.frame, ip: inner.ip }
    }

    /// Returns the same headers with this ECN code point.
    #[inline(always)]
    #[must_use]
    pub fn with_ecn(self, code_point: u8) -> Self {
        Self { ip: self.ip.with_ecn(code_point), ..self }
    }
}

/// Returns the packet's headers after a hop with these MACs.
///
/// # Errors
/// [`Outcome::TtlExpired`]
#[inline(always)]
pub fn hop<H: Ip>(inner: &Inner<H>, source: [u8; 6], destination: [u8; 6]) -> Result<Routed<H>, Outcome> {
    let ip = inner.ip.hop().ok_or(Outcome::TtlExpired)?;
    let frame = EthHdr { dst_addr: destination, src_addr: source, ether_type: inner.frame.ether_type };
    Ok(Routed { frame, ip })
}
