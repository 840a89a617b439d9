//! IP headers of both families. Pure; tested on the host.
//!
//! The header's type stands for its family: code for both is generic over [`Ip`].

pub(crate) mod v4;
pub(crate) mod v6;

use flannel_common::address::Address;
use flannel_common::outcome::Outcome;
use network_types::ip::IpProto;
use network_types::udp::UdpHdr;
use network_types::vxlan::VxlanHdr;

use crate::packet::{Aligned, Header};

/// IP protocol number of TCP.
pub const TCP: u8 = IpProto::Tcp as u8;
/// IP protocol number of UDP.
pub const UDP: u8 = IpProto::Udp as u8;

/// The words of a header that routers change. A packet's other words stay as they are.
///
/// Each is of four bytes as they are on the wire, the first of them in the lowest bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mutable {
    /// The first one, which has DSCP and ECN.
    pub first: u32,
    /// The one that has the time to live or hop limit, and for IPv4 the checksum.
    pub hop: u32,
}

impl Mutable {
    /// Reads them out of a header.
    #[inline(always)]
    #[must_use]
    pub fn of<H: Ip>(header: &Aligned<H>) -> Self {
        Self { first: header.word(0), hop: header.word(H::HOP) }
    }
}

/// The header of one IP version, without options and extension headers, in wire order.
pub trait Ip: Header + Copy + 'static {
    /// Type of its addresses.
    type Address: Address;

    /// Number of the family in `<sys/socket.h>`.
    const ADDRESS_FAMILY: u8;
    /// EtherType in front of it, as [`network_types::eth::EthHdr`] holds it.
    const ETHER_TYPE: u16;
    /// Protocol number of its control messages, which are never aggregated.
    const ICMP: u8;
    /// Bytes of outer headers between the outer Ethernet header and the inner frame.
    const OUTER_LEN: usize = size_of::<Self>() + UdpHdr::LEN + VxlanHdr::LEN;
    /// True if the kernel's vxlan device wraps packets, since BPF cannot. IPv6 needs the outer UDP checksum (RFC 8200
    /// section 8.1), which covers the payload, and flannel's peers drop packets without it.
    const WRAPPED_BY_DEVICE: bool;

    /// Whether the header has a checksum of its own.
    const HAS_CHECKSUM: bool;

    /// Offset of [`Mutable::hop`] in the header.
    const HOP: usize;

    /// Returns whether the version field is right.
    fn is_of_version(&self) -> bool;

    /// Returns the bytes before the transport header, options included, if that is the next one.
    fn header_len(&self) -> usize;

    /// Returns the length in bytes of the packet, this header included.
    fn packet_len(&self) -> u32;

    /// Returns DSCP and ECN (RFC 2474, RFC 3168).
    fn traffic_class(&self) -> u8;

    /// Returns the protocol of the next header.
    fn protocol(&self) -> u8;

    /// Returns the source address.
    fn source(&self) -> Self::Address;

    /// Returns the destination address.
    fn destination(&self) -> Self::Address;

    /// Returns whether the transport header is the next one: no options, no extension headers, no fragment.
    fn is_plain(&self) -> bool;

    /// Checks that UDP is the next header of an outer packet.
    ///
    /// # Errors
    /// [`Outcome::NotVxlan`], [`Outcome::OuterOptions`], [`Outcome::OuterFragment`].
    fn carries_udp(&self) -> Result<(), Outcome>;

    /// Returns whether the outer checksums need no check by the host stack, provided that the receiver of the inner packet
    /// checks the inner ones.
    fn are_checksums_plain(&self, udp: &UdpHdr) -> bool;

    /// Returns the words after one router, or `None` if the packet gets no further.
    #[must_use]
    fn hop(words: Mutable) -> Option<Mutable>;

    /// Returns the bytes without the addresses as they are after this number of routers. A checksum over the header is not
    /// among them, nor are options.
    #[must_use]
    fn after_hops(&self, hops: u8) -> [u8; 12];

    /// Returns the words with the checksum that the header has when its addresses have changed by so much
    /// ([`flannel_common::checksum::change_of`]).
    #[must_use]
    fn with_changed_addresses(words: Mutable, change: u32) -> Mutable;

    /// Returns the words with this ECN code point.
    #[must_use]
    fn with_ecn(words: Mutable, code_point: u8) -> Mutable;

    /// Returns by how much the Internet checksum over the header changes when its words become `after`: in the machine's order, as
    /// `bpf_csum_update` takes it.
    fn checksum_change(before: Mutable, after: Mutable) -> u32;

    /// Returns whether no router forwards packets from this address.
    fn stays_on_link(source: &Self::Address) -> bool;
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Returns a header whose words have been changed.
    pub(crate) fn changed<H: Ip>(header: H, change: impl FnOnce(Mutable) -> Mutable) -> H {
        let mut header = Aligned(header);
        let Mutable { first, hop } = change(Mutable::of(&header));
        for (at, word) in [(0, first), (H::HOP, hop)] {
            // SAFETY: within the header, which consists of bytes.
            unsafe { (&raw mut header).cast::<u8>().add(at).cast::<[u8; 4]>().write(word.to_le_bytes()) };
        }
        header.0
    }
}
