//! What the programs have to know of an IP header, whichever family it is of. Pure; tested on the host.
//!
//! The header's type stands for its family everywhere: code for both is generic over [`Ip`].

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
    /// Its addresses.
    type Address: Address;

    /// Its number in <sys/socket.h>.
    const ADDRESS_FAMILY: u8;
    /// The EtherType before it, as [`network_types::eth::EthHdr`] holds it.
    const ETHER_TYPE: u16;
    /// Bytes of outer headers between the outer Ethernet header and the inner frame.
    const OUTER_LEN: usize = size_of::<Self>() + UdpHdr::LEN + VxlanHdr::LEN;
    /// Whether the kernel's vxlan device wraps what leaves, since BPF cannot: in IPv6 the outer UDP checksum, which
    /// covers the payload, is needed (RFC 8200 section 8.1), and flannel's peers drop what comes without.
    const WRAPPED_BY_DEVICE: bool;

    /// Whether the version field is that of this header.
    fn is_of_version(&self) -> bool;

    /// Bytes before the transport header, options included, if that follows at once.
    fn header_len(&self) -> usize;

    /// Bytes of the packet, this header included.
    fn packet_len(&self) -> u32;

    /// DSCP and ECN (RFC 2474, RFC 3168).
    fn traffic_class(&self) -> u8;

    /// Protocol of what follows.
    fn protocol(&self) -> u8;

    /// Who has sent it.
    fn source(&self) -> Self::Address;

    /// Who is to get it.
    fn destination(&self) -> Self::Address;

    /// Whether the transport header follows at once: neither options or extension headers, nor a fragment.
    fn is_plain(&self) -> bool;

    /// Whether UDP follows an outer header at once.
    ///
    /// # Errors
    /// [`Outcome::NotVxlan`], [`Outcome::OuterOptions`], [`Outcome::OuterFragment`].
    fn carries_udp(&self) -> Result<(), Outcome>;

    /// Whether an outer header's checksums leave nothing to verify for the receiver of the outer packet, if the inner one
    /// verifies those of its own.
    fn are_checksums_plain(&self, udp: &UdpHdr) -> bool;

    /// The header behind one router; None if it gets no further.
    #[must_use]
    fn hop(&self) -> Option<Self>;

    /// The header with this ECN code point.
    #[must_use]
    fn marked(&self, code_point: u8) -> Self;

    /// By how much the Internet checksum over the header changes where [`Ip::hop`] and [`Ip::marked`] have made `after` of
    /// it, in the machine's order, as `bpf_csum_update` takes it.
    fn sum_to(&self, after: &Self) -> u32;

    /// Whether no router forwards what has this source, whoever holds it.
    fn stays_on_link(source: &Self::Address) -> bool;
}
