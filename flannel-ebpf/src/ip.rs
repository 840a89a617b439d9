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

use crate::packet::Header;

/// IP protocol number of TCP.
pub const TCP: u8 = IpProto::Tcp as u8;
/// IP protocol number of UDP.
pub const UDP: u8 = IpProto::Udp as u8;

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

    /// Returns the header after one router, or `None` if it gets no further.
    #[must_use]
    fn hop(&self) -> Option<Self>;

    /// Returns the bytes without the addresses as they are after this number of routers. A checksum over the header is not
    /// among them, nor are options.
    #[must_use]
    fn after_hops(&self, hops: u8) -> [u8; 12];

    /// Returns the header with the checksum that it has when its addresses have changed by so much
    /// ([`flannel_common::checksum::change_of`]).
    #[must_use]
    fn with_changed_addresses(&self, change: u32) -> Self;

    /// Returns the header with this ECN code point.
    #[must_use]
    fn with_ecn(&self, code_point: u8) -> Self;

    /// Returns by how much the Internet checksum over the header changes when [`Ip::hop`] or [`Ip::with_ecn`] have made it
    /// `after`: in the machine's order, as `bpf_csum_update` takes it.
    fn checksum_change(&self, after: &Self) -> u32;

    /// Returns whether no router forwards packets from this address.
    fn stays_on_link(source: &Self::Address) -> bool;
}
