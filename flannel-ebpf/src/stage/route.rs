//! One hop of a routed packet: new link-layer addresses, one less to live. Pure; tested on the host.

use flannel_common::outcome::Outcome;
use network_types::eth::EthHdr;
use network_types::ip::Ipv4Hdr;

use crate::packet::Header;
use crate::stage::ecn;
use crate::stage::parse::Inner;

/// The headers that a hop changes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Routed {
    /// Ethernet header.
    pub frame: EthHdr,
    /// IPv4 header; its options, if any, follow unchanged.
    pub ip: Ipv4Hdr,
}

// SAFETY: headers one behind the other, without padding (asserted below), aligned to 2 at most.
unsafe impl Header for Routed {}
const _: () = assert!(size_of::<Routed>() == EthHdr::LEN + Ipv4Hdr::LEN);

impl Routed {
    /// The packet's headers where it is not routed.
    #[inline(always)]
    pub const fn unchanged(inner: &Inner<'_>) -> Self {
        Self { frame: *inner.frame, ip: *inner.ip }
    }

    /// The same headers with another ECN code point.
    #[inline(always)]
    #[must_use]
    pub fn marked(self, code_point: u8) -> Self {
        Self { ip: ecn::marked(self.ip, code_point), ..self }
    }
}

/// The packet's headers behind the hop from `source` to `destination`.
///
/// # Errors
/// [`Outcome::TtlExpired`]
#[inline(always)]
pub fn hop(inner: &Inner<'_>, source: [u8; 6], destination: [u8; 6]) -> Result<Routed, Outcome> {
    if inner.ip.ttl <= 1 {
        return Err(Outcome::TtlExpired);
    }
    let mut routed = Routed { frame: *inner.frame, ip: *inner.ip };
    routed.frame.src_addr = source;
    routed.frame.dst_addr = destination;
    routed.ip.ttl -= 1;
    routed.ip.check = check_of_one_less(inner.ip.check);
    Ok(routed)
}

/// The header checksum when the time to live, the upper byte of a word, goes down by one (RFC 1141).
#[inline(always)]
fn check_of_one_less(check: [u8; 2]) -> [u8; 2] {
    let sum = u32::from(u16::from_be_bytes(check)) + 0x0100;
    ((sum + (sum >> 16)) as u16).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outer::checksum;

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
        ip.check = checksum(&ip).to_be_bytes();
        ip
    }

    #[test]
    fn the_checksum_stays_right_at_every_time_to_live() {
        let frame = EthHdr { dst_addr: [1; 6], src_addr: [2; 6], ether_type: 8 };
        for id in 0..=u16::MAX {
            let ip = ip((id % 254) as u8 + 2, id);
            let routed = hop(&Inner { offset: 0, frame: &frame, ip: &ip }, [3; 6], [4; 6]).unwrap();
            assert_eq!((checksum(&routed.ip), routed.ip.ttl), (0, ip.ttl - 1), "identification {id}");
            assert_eq!((routed.frame.src_addr, routed.frame.dst_addr), ([3; 6], [4; 6]));
        }
    }

    #[test]
    fn what_lives_no_longer_is_not_routed() {
        let frame = EthHdr { dst_addr: [1; 6], src_addr: [2; 6], ether_type: 8 };
        for ttl in [0, 1] {
            let inner = Inner { offset: 0, frame: &frame, ip: &ip(ttl, 1) };
            assert_eq!(hop(&inner, [3; 6], [4; 6]).err(), Some(Outcome::TtlExpired), "TTL {ttl}");
        }
    }
}
