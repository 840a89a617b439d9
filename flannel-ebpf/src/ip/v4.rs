//! IPv4 (RFC 791).

use flannel_common::address::V4;
use flannel_common::checksum;
use flannel_common::outcome::Outcome;
use network_types::eth::EtherType;
use network_types::ip::{IpProto, Ipv4Hdr};
use network_types::udp::UdpHdr;

use super::{Ip, Mutable, UDP};
use crate::packet::Header as _;
use crate::stage::ecn;

/// Version 4 and a header of 5 words, which has no options.
const PLAIN: u8 = 0x45;
/// More-fragments flag and fragment offset (RFC 791 section 3.1), wire order.
const FRAGMENT: [u8; 2] = [0x3f, 0xff];

impl Ip for Ipv4Hdr {
    type Address = V4;

    const ADDRESS_FAMILY: u8 = 2;
    const ETHER_TYPE: u16 = EtherType::Ipv4 as u16;
    const ICMP: u8 = IpProto::Icmp as u8;
    const WRAPPED_BY_DEVICE: bool = false;
    const HAS_CHECKSUM: bool = true;
    const HOP: usize = 8;

    #[inline(always)]
    fn is_of_version(&self) -> bool {
        self.vihl >> 4 == 4
    }

    #[inline(always)]
    fn header_len(&self) -> usize {
        usize::from(self.vihl & 0x0f) * 4
    }

    #[inline(always)]
    fn packet_len(&self) -> u32 {
        u16::from_be_bytes(self.tot_len).into()
    }

    #[inline(always)]
    fn traffic_class(&self) -> u8 {
        self.tos
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        self.proto
    }

    #[inline(always)]
    fn source(&self) -> V4 {
        self.src_addr
    }

    #[inline(always)]
    fn destination(&self) -> V4 {
        self.dst_addr
    }

    #[inline(always)]
    fn is_plain(&self) -> bool {
        self.vihl == PLAIN && !is_fragment(self)
    }

    #[inline(always)]
    fn carries_udp(&self) -> Result<(), Outcome> {
        if self.proto != UDP {
            return Err(Outcome::NotVxlan);
        }
        if self.vihl != PLAIN {
            return Err(Outcome::OuterOptions);
        }
        if is_fragment(self) { Err(Outcome::OuterFragment) } else { Ok(()) }
    }

    #[inline(always)]
    fn are_checksums_plain(&self, udp: &UdpHdr) -> bool {
        udp.check == [0; 2] && checksum::of(self.bytes()) == 0
    }

    /// The time to live is the first byte, and the checksum the last two.
    #[inline(always)]
    fn hop(words: Mutable) -> Option<Mutable> {
        let Mutable { hop, .. } = Self::with_changed_addresses(words, checksum::change(1, 0));
        (words.hop & 0xff > 1).then_some(Mutable { hop: hop.wrapping_sub(1), ..words })
    }

    #[inline(always)]
    fn after_hops(&self, hops: u8) -> [u8; 12] {
        let Self { vihl, tos, tot_len: [a, b], id: [c, d], frags: [e, f], ttl, proto, .. } = *self;
        [vihl, tos, a, b, c, d, e, f, ttl.wrapping_sub(hops), proto, 0, 0]
    }

    #[inline(always)]
    fn with_changed_addresses(words: Mutable, change: u32) -> Mutable {
        let checksum = checksum::changed((words.hop >> 16) as u16, change);
        Mutable { hop: words.hop & 0xffff | u32::from(checksum) << 16, ..words }
    }

    /// The type of service is the second byte. The checksum stays right, or wrong.
    #[inline(always)]
    fn with_ecn(words: Mutable, code_point: u8) -> Mutable {
        let first = ecn::with_code_point(words.first, 8, code_point);
        if first == words.first {
            return words;
        }
        let change = checksum::change(words.first as u16, first as u16);
        Self::with_changed_addresses(Mutable { first, ..words }, change)
    }

    /// Changes of the header and of its own checksum add up to nothing.
    #[inline(always)]
    fn checksum_change(_: Mutable, _: Mutable) -> u32 {
        0
    }

    /// Linux forwards 169.254.0.0/16 like other addresses, unlike RFC 3927 section 7.
    #[inline(always)]
    fn stays_on_link(_: &V4) -> bool {
        false
    }
}

#[inline(always)]
fn is_fragment(ip: &Ipv4Hdr) -> bool {
    ip.frags[0] & FRAGMENT[0] != 0 || ip.frags[1] & FRAGMENT[1] != 0
}

/// Returns whether the packet is a fragment other than the first.
#[inline(always)]
pub(crate) fn is_later_fragment(ip: &Ipv4Hdr) -> bool {
    /// The offset without the flags.
    const OFFSET: [u8; 2] = [0x1f, 0xff];
    ip.frags[0] & OFFSET[0] != 0 || ip.frags[1] & OFFSET[1] != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ip::tests::changed;
    use crate::packet::Aligned;

    fn ip(ttl: u8, id: u16) -> Ipv4Hdr {
        let mut ip = Ipv4Hdr {
            vihl: 0x45,
            tos: 0,
            tot_len: 100u16.to_be_bytes(),
            id: id.to_be_bytes(),
            frags: [0; 2],
            ttl,
            proto: 17,
            check: [0; 2],
            src_addr: [10, 1, 90, 2],
            dst_addr: [10, 1, 15, 7],
        };
        ip.check = checksum::of(ip.bytes()).to_be_bytes();
        ip
    }

    #[test]
    fn the_checksum_stays_right_at_every_time_to_live() {
        for id in 0..=u16::MAX {
            let ip = ip((id % 254) as u8 + 2, id);
            let routed = changed(ip, |words| Ipv4Hdr::hop(words).unwrap());
            assert_eq!((checksum::of(routed.bytes()), routed.ttl), (0, ip.ttl - 1), "identification {id}");
            assert_eq!(Ipv4Hdr { ttl: ip.ttl, check: ip.check, ..routed }.bytes(), ip.bytes());
        }
    }

    #[test]
    fn the_checksum_stays_right_with_other_addresses() {
        for id in 0..=u16::MAX {
            let [a, b] = id.to_be_bytes();
            let (from, source, destination) = (ip(64, id), [10, a, 255, b], [b, 0, 255, a]);
            let change = checksum::change_of(&from.src_addr, &source)
                + checksum::change_of(&from.dst_addr, &destination);
            let ip = changed(from, |words| Ipv4Hdr::with_changed_addresses(words, change));
            let moved = Ipv4Hdr { src_addr: source, dst_addr: destination, ..ip };
            assert_eq!(checksum::of(moved.bytes()), 0, "identification {id}");
        }
    }

    #[test]
    fn an_expired_packet_is_not_forwarded() {
        for ttl in [0, 1] {
            assert!(Ipv4Hdr::hop(Mutable::of(&Aligned(ip(ttl, 1)))).is_none(), "TTL {ttl}");
        }
    }
}
