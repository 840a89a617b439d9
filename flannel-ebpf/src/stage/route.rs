//! Routing by one hop: new MACs, and a decremented TTL or hop limit.

use flannel_common::outcome::Outcome;
use network_types::eth::EthHdr;

use crate::ip::Ip;
use crate::packet::{Aligned, Packet};
use crate::stage::parse::Inner;

/// Headers that a hop changes.
#[derive(Clone, Copy)]
pub struct Routed<H> {
    /// Ethernet header.
    pub frame: Aligned<EthHdr>,
    /// IP header. Options follow unchanged.
    pub ip: Aligned<H>,
}

impl<H: Ip> Routed<H> {
    /// Returns the packet's headers as they are.
    #[inline(always)]
    pub const fn unchanged(inner: &Inner<H>) -> Self {
        Self { frame: inner.frame, ip: inner.ip }
    }

    /// Writes the headers at the start of a frame, which begins at `offset`.
    ///
    /// # Errors
    /// [`Outcome::WriteFailed`]
    #[inline(always)]
    pub fn write(&self, packet: &Packet<'_>, offset: usize) -> Result<(), Outcome> {
        packet.write(offset, &self.frame)?;
        packet.write(offset + EthHdr::LEN, &self.ip)
    }

    /// Returns the same headers with this ECN code point.
    #[inline(always)]
    #[must_use]
    pub fn with_ecn(self, code_point: u8) -> Self {
        Self { ip: Aligned(self.ip.with_ecn(code_point)), ..self }
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
    Ok(Routed { frame: Aligned(frame), ip: Aligned(ip) })
}
