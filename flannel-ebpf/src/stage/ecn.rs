//! Merges congestion marks of the underlay into inner packets (RFC 6040). Pure; tested on the host.

use flannel_common::outcome::Outcome;

/// The ECN field of the type-of-service byte (RFC 3168 section 5).
pub const FIELD: u8 = 0b11;

/// Code points (RFC 3168 section 5): not ECN-capable, ECN-capable (two of them), congestion experienced.
const NOT_ECT: u8 = 0b00;
const ECT_0: u8 = 0b10;
const ECT_1: u8 = 0b01;
const CE: u8 = 0b11;

/// Returns the code point of a decapsulated packet that arrived with these two type-of-service bytes.
///
/// The table is that of RFC 6040 section 4.2, as in the kernel's vxlan device (with ECT(1): Linux 5.8).
///
/// # Errors
/// [`Outcome::NotEcnCapable`]: a router was congested, and the packet cannot carry the mark.
#[inline(always)]
pub const fn decapsulated(outer: u8, inner: u8) -> Result<u8, Outcome> {
    match (outer & FIELD, inner & FIELD) {
        (CE, NOT_ECT) => Err(Outcome::NotEcnCapable),
        (CE, _) => Ok(CE),
        (ECT_1, ECT_0) => Ok(ECT_1),
        (_, inner) => Ok(inner),
    }
}

/// Returns a header's word with this code point, which begins at bit `shift`.
#[inline(always)]
#[must_use]
pub const fn with_code_point(word: u32, shift: u32, code_point: u8) -> u32 {
    word & !((FIELD as u32) << shift) | (code_point as u32) << shift
}

#[cfg(test)]
mod tests {
    use flannel_common::checksum;
    use network_types::ip::Ipv4Hdr;

    use super::*;
    use crate::ip::Ip as _;
    use crate::ip::tests::changed;
    use crate::packet::Header as _;

    #[test]
    fn code_points_are_merged_as_the_rfc_says() {
        const DROP: Result<u8, Outcome> = Err(Outcome::NotEcnCapable);
        // Columns: outer Not-ECT, ECT(0), ECT(1), CE.
        let table = [
            (NOT_ECT, [Ok(NOT_ECT), Ok(NOT_ECT), Ok(NOT_ECT), DROP]),
            (ECT_0, [Ok(ECT_0), Ok(ECT_0), Ok(ECT_1), Ok(CE)]),
            (ECT_1, [Ok(ECT_1), Ok(ECT_1), Ok(ECT_1), Ok(CE)]),
            (CE, [Ok(CE); 4]),
        ];
        for (inner, row) in table {
            for (outer, expected) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(row) {
                assert_eq!(decapsulated(outer, inner), expected, "outer {outer:02b}, inner {inner:02b}");
                assert_eq!(decapsulated(0xb8 | outer, 0x28 | inner), expected, "with DSCPs");
            }
        }
    }

    #[test]
    fn a_right_checksum_stays_right_and_a_wrong_one_wrong() {
        let mut ip = Ipv4Hdr {
            vihl: 0x45,
            tos: 0,
            tot_len: 100u16.to_be_bytes(),
            id: [0; 2],
            frags: [0; 2],
            ttl: 64,
            proto: 17,
            check: [0; 2],
            src_addr: [10, 1, 90, 2],
            dst_addr: [10, 1, 15, 7],
        };
        for id in 0..=u16::MAX {
            (ip.id, ip.tos, ip.check) = (id.to_be_bytes(), (id >> 3) as u8, [0; 2]);
            ip.check = checksum::of(ip.bytes()).to_be_bytes();
            let after = changed(ip, |words| Ipv4Hdr::with_ecn(words, (id & 3) as u8));
            assert_eq!(
                (checksum::of(after.bytes()), after.tos),
                (0, ip.tos & 0xfc | (id & 3) as u8),
                "identification {id}"
            );
            ip.check[1] ^= 1;
            let after = changed(ip, |words| Ipv4Hdr::with_ecn(words, CE));
            assert_ne!(checksum::of(after.bytes()), 0, "identification {id}");
        }
    }
}
