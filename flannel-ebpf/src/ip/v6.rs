//! IPv6 (RFC 8200).

use flannel_common::address::V6;
use flannel_common::checksum;
use flannel_common::outcome::Outcome;
use network_types::eth::EtherType;
use network_types::ip::{IpProto, Ipv6Hdr};
use network_types::udp::UdpHdr;

use super::{Ip, Mutable, TCP, UDP};
use crate::stage::ecn;

/// Extension header: hop-by-hop options (RFC 8200 section 4.3).
pub(crate) const HOP_BY_HOP: u8 = IpProto::HopOpt as u8;
/// Extension header: routing (section 4.4).
pub(crate) const ROUTING: u8 = IpProto::Ipv6Route as u8;
/// Extension header: fragment (section 4.5).
pub(crate) const FRAGMENT: u8 = IpProto::Ipv6Frag as u8;
/// Extension header: destination options (section 4.6).
pub(crate) const DESTINATION: u8 = IpProto::Ipv6Opts as u8;

impl Ip for Ipv6Hdr {
    type Address = V6;

    const ADDRESS_FAMILY: u8 = 10;
    const ETHER_TYPE: u16 = EtherType::Ipv6 as u16;
    const ICMP: u8 = IpProto::Ipv6Icmp as u8;
    const WRAPPED_BY_DEVICE: bool = true;
    const HAS_CHECKSUM: bool = false;
    const HOP: usize = 4;

    #[inline(always)]
    fn is_of_version(&self) -> bool {
        self.vcf[0] >> 4 == 6
    }

    #[inline(always)]
    fn header_len(&self) -> usize {
        Self::LEN
    }

    #[inline(always)]
    fn packet_len(&self) -> u32 {
        u32::from(u16::from_be_bytes(self.payload_len)) + Self::LEN as u32
    }

    #[inline(always)]
    fn traffic_class(&self) -> u8 {
        self.vcf[0] << 4 | self.vcf[1] >> 4
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        self.next_hdr
    }

    #[inline(always)]
    fn source(&self) -> V6 {
        self.src_addr
    }

    #[inline(always)]
    fn destination(&self) -> V6 {
        self.dst_addr
    }

    #[inline(always)]
    fn is_plain(&self) -> bool {
        matches!(self.next_hdr, TCP | UDP)
    }

    #[inline(always)]
    fn carries_udp(&self) -> Result<(), Outcome> {
        match self.next_hdr {
            _ if !self.is_of_version() => Err(Outcome::NotVxlan),
            UDP => Ok(()),
            HOP_BY_HOP | ROUTING | DESTINATION => Err(Outcome::OuterOptions),
            FRAGMENT => Err(Outcome::OuterFragment),
            _ => Err(Outcome::NotVxlan),
        }
    }

    /// The kernel's socket drops packets without UDP checksum (`udp6zerocsumrx` is off).
    #[inline(always)]
    fn are_checksums_plain(&self, udp: &UdpHdr) -> bool {
        udp.check != [0; 2]
    }

    /// The hop limit is the last byte.
    #[inline(always)]
    fn hop(words: Mutable) -> Option<Mutable> {
        (words.hop >> 24 > 1).then(|| Mutable { hop: words.hop - (1 << 24), ..words })
    }

    #[inline(always)]
    fn after_hops(&self, hops: u8) -> [u8; 12] {
        let Self { vcf: [a, b, c, d], payload_len: [e, f], next_hdr, hop_limit, .. } = *self;
        [a, b, c, d, e, f, next_hdr, hop_limit.wrapping_sub(hops), 0, 0, 0, 0]
    }

    #[inline(always)]
    fn with_changed_addresses(words: Mutable, _: u32) -> Mutable {
        words
    }

    /// The traffic class ends in the upper half of the second byte.
    #[inline(always)]
    fn with_ecn(words: Mutable, code_point: u8) -> Mutable {
        Mutable { first: ecn::with_code_point(words.first, 12, code_point), ..words }
    }

    /// The header has no checksum of its own that would balance the change.
    #[inline(always)]
    fn checksum_change(before: Mutable, after: Mutable) -> u32 {
        let machine = |half: u32| u16::from_le(half as u16);
        checksum::change(machine(before.first), machine(after.first))
            + checksum::change(machine(before.hop >> 16), machine(after.hop >> 16))
    }

    /// Link-local (fe80::/10) and unspecified sources (RFC 4291 sections 2.5.2 and 2.5.6).
    #[inline(always)]
    fn stays_on_link(source: &V6) -> bool {
        (source[0] == 0xfe && source[1] & 0xc0 == 0x80) || *source == [0; 16]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ip::tests::changed;
    use crate::packet::{Aligned, Header as _};

    fn ip(next_hdr: u8, hop_limit: u8) -> Ipv6Hdr {
        Ipv6Hdr {
            vcf: [0x6a, 0xb0, 0, 7],
            payload_len: 100u16.to_be_bytes(),
            next_hdr,
            hop_limit,
            src_addr: [0xfd; 16],
            dst_addr: [0xfc; 16],
        }
    }

    /// Adds up the header as the kernel does: words in the machine's order, not inverted.
    fn sum(ip: &Ipv6Hdr) -> u32 {
        ip.bytes().chunks(2).map(|word| u32::from(u16::from_ne_bytes([word[0], word[1]]))).sum()
    }

    fn folded(sum: u64) -> u64 {
        (0..4).fold(sum, |sum, _| (sum & 0xffff) + (sum >> 16))
    }

    #[test]
    fn the_change_of_the_checksum_is_that_of_the_header() {
        for (next_hdr, hop_limit) in (0..=255).flat_map(|next| (2..=255).map(move |limit| (next, limit))) {
            let ip = ip(next_hdr, hop_limit);
            let before = Mutable::of(&Aligned(ip));
            let routed = Ipv6Hdr::hop(before).unwrap();
            for code_point in 0..=ecn::FIELD {
                let words = Ipv6Hdr::with_ecn(routed, code_point);
                let after = changed(ip, |_| words);
                assert_eq!((after.hop_limit, after.traffic_class()), (hop_limit - 1, 0xa8 | code_point));
                let change = Ipv6Hdr::checksum_change(before, words);
                let sums = [u64::from(sum(&ip)) + u64::from(change), sum(&after).into()];
                assert_eq!(folded(sums[0]), folded(sums[1]), "{next_hdr} {hop_limit}");
            }
        }
    }

    #[test]
    fn an_expired_packet_is_not_forwarded() {
        for limit in [0, 1] {
            assert!(Ipv6Hdr::hop(Mutable::of(&Aligned(ip(UDP, limit)))).is_none(), "hop limit {limit}");
        }
    }

    #[test]
    fn the_traffic_class_is_read_from_two_bytes() {
        assert_eq!((ip(UDP, 64).traffic_class(), ip(UDP, 64).packet_len()), (0xab, 140));
    }

    #[test]
    fn link_local_and_unspecified_sources_stay_on_the_link() {
        for (address, expected) in [
            ("::", true),
            ("fe80::1", true),
            ("febf::1", true),
            ("fec0::1", false),
            ("::1:0", false),
            ("fd00::1", false),
        ] {
            let source: core::net::Ipv6Addr = address.parse().unwrap();
            assert_eq!(Ipv6Hdr::stays_on_link(&source.octets()), expected, "{address}");
        }
    }
}
