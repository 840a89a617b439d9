//! Routing by one hop: new MACs, and a decremented TTL or hop limit.

use core::marker::PhantomData;

use flannel_common::outcome::Outcome;
use network_types::eth::EthHdr;

use crate::ip::{Ip, Mutable};
use crate::packet::{Aligned, Ethernet, FirstBytes, Packet};
use crate::stage::parse::Inner;

/// What a hop changes of a packet with header `H`.
#[derive(Clone, Copy)]
pub struct Routed<H> {
    /// Ethernet header.
    pub frame: Ethernet,
    /// Words of the IP header.
    pub ip: Mutable,
    header: PhantomData<H>,
}

impl<H: Ip> Routed<H> {
    /// Returns the packet's headers as they are.
    #[inline(always)]
    pub fn unchanged(inner: &Inner<H>) -> Self {
        Self { frame: inner.frame, ip: Mutable::of(&inner.ip), header: PhantomData }
    }

    /// Writes the headers at the start of a frame.
    ///
    /// # Errors
    /// [`Outcome::WriteFailed`]
    #[inline(always)]
    pub fn write(&self, packet: &Packet<'_>) -> Result<(), Outcome> {
        let bytes = packet.first_bytes(EthHdr::LEN + size_of::<H>())?;
        bytes.write_ethernet(0, &self.frame)?;
        self.write_ip(&bytes, EthHdr::LEN)
    }

    /// Writes the words of the IP header, which begins at `offset`.
    ///
    /// # Errors
    /// [`Outcome::WriteFailed`]
    #[inline(always)]
    pub fn write_ip(&self, bytes: &FirstBytes<'_>, offset: usize) -> Result<(), Outcome> {
        bytes.write(offset, &Aligned(self.ip.first.to_le()))?;
        bytes.write(offset + H::HOP, &Aligned(self.ip.hop.to_le()))
    }

    /// Returns the same headers with this ECN code point.
    #[inline(always)]
    #[must_use]
    pub fn with_ecn(self, code_point: u8) -> Self {
        Self { ip: H::with_ecn(self.ip, code_point), ..self }
    }

    /// Returns the same headers for addresses that have changed by so much ([`Ip::with_changed_addresses`]).
    #[inline(always)]
    #[must_use]
    pub fn with_changed_addresses(self, change: u32) -> Self {
        Self { ip: H::with_changed_addresses(self.ip, change), ..self }
    }

    /// Returns by how much the headers change the sum over the packet ([`Ip::checksum_change`]).
    #[inline(always)]
    pub fn checksum_change(&self, inner: &Inner<H>) -> u32 {
        H::checksum_change(Mutable::of(&inner.ip), self.ip)
    }
}

/// Returns the packet's headers after a hop with this Ethernet header.
///
/// # Errors
/// [`Outcome::TtlExpired`]
#[inline(always)]
pub fn hop<H: Ip>(inner: &Inner<H>, frame: Ethernet) -> Result<Routed<H>, Outcome> {
    let ip = H::hop(Mutable::of(&inner.ip)).ok_or(Outcome::TtlExpired)?;
    Ok(Routed { frame, ip, header: PhantomData })
}
