//! What a packet must look like afterwards.

use proptest::prelude::*;

use super::super::frame::{ETHERNET, Ip, has_right_checksum, ip, transport_checksum, transport_sum, word};

/// Returns the frame with this ECN code point, and the old IPv4 header checksum.
pub(super) fn marked(frame: &[u8], code_point: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    // IPv6's traffic class is in two bytes.
    let shift = if is_ipv6(&frame) { 4 } else { 0 };
    frame[15] = frame[15] & !(3 << shift) | code_point << shift;
    frame
}

/// Returns the inner code point after decapsulation, by the table in RFC 6040 section 4.2.
pub(super) const fn merged(outer: &Ip<'_>, inner: &Ip<'_>) -> Option<u8> {
    match (outer.ecn, inner.ecn) {
        (3, 0) => None,
        (3, _) => Some(3),
        (1, 2) => Some(1),
        (_, inner) => Some(inner),
    }
}

/// Returns the frame after one router: new MACs and a decremented TTL.
pub(super) fn routed(before: &[u8], to: [u8; 6], from: [u8; 6]) -> Result<Vec<u8>, TestCaseError> {
    prop_assert!(ip(before, 14).is_some_and(|ip| ip.ttl > 1), "its TTL has expired");
    let mut after = before.to_vec();
    after[..6].copy_from_slice(&to);
    after[6..12].copy_from_slice(&from);
    after[if is_ipv6(before) { 21 } else { 22 }] -= 1;
    Ok(after)
}

/// Checks that a frame is as expected, and that its checksums are as right or wrong as before: of the IPv4 header, and, if
/// addresses or ports have changed, of TCP or UDP.
pub(super) fn unchanged(expected: &[u8], before: &[u8], after: &[u8]) -> Result<(), TestCaseError> {
    prop_assert_eq!(after.len(), expected.len());
    let mut expected = expected.to_vec();
    if !is_ipv6(before) {
        expected[24..26].copy_from_slice(&after[24..26]);
        prop_assert_eq!(has_right_checksum(&after[14..34]), has_right_checksum(&before[14..34]));
    }
    if is_translated(&expected, before) {
        let at = transport_checksum(before, ETHERNET).expect("it was translated");
        let is_udp_without = |frame| at.is_udp && word(frame, at.place) == Some(0);
        prop_assert_eq!(is_udp_without(after), is_udp_without(before));
        if !is_udp_without(before) {
            expected[at.place..at.place + 2].copy_from_slice(&after[at.place..at.place + 2]);
            prop_assert_eq!(transport_sum(after, ETHERNET), transport_sum(before, ETHERNET));
        }
    }
    prop_assert_eq!(after, &expected[..]);
    Ok(())
}

/// Returns whether the packets of two frames have other addresses or ports.
fn is_translated(a: &[u8], b: &[u8]) -> bool {
    let ends = |frame: &[u8]| {
        ip(frame, ETHERNET).map(|ip| {
            let transport = ETHERNET + ip.header;
            [ip.source, ip.destination, frame.get(transport..transport + 4).unwrap_or_default()].concat()
        })
    };
    ends(a) != ends(b)
}

fn is_ipv6(frame: &[u8]) -> bool {
    frame[12..14] == [0x86, 0xdd]
}

/// Returns flags and group in the VXLAN header for this mark (draft-smith-vxlan-group-policy-05 section 2.1).
pub(super) const fn group_of(mark: u32) -> [u8; 4] {
    match mark.to_be_bytes() {
        [0, 0, 0, 0] => [0x08, 0, 0, 0],
        [_, flags, high, low] => [0x88, flags & 0x48, high, low],
    }
}

/// Returns the mark for the VXLAN header before the inner frame, if it has a group.
pub(super) fn mark_in(frame: &[u8], inner_at: usize) -> Option<u32> {
    let vxlan = &frame[inner_at - 8..inner_at];
    let mark = u32::from_be_bytes([0, vxlan[1] & 0x48, vxlan[2], vxlan[3]]);
    (vxlan[0] & 0x80 != 0).then_some(mark)
}
