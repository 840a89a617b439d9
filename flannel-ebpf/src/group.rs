//! Group policy: the group of a packet, in the VXLAN header (draft-smith-vxlan-group-policy-05 section 2.1) and in
//! `skb->mark`, as the kernel's `gbp` devices have it. Pure; tested on the host.
//!
//! Bits 0 to 15 of the mark are the group. Bits 19 and 22 are flags of the header's second byte.
//!
//! ```
//! use flannel_ebpf::group;
//!
//! let header = group::header(1, 0x1234);
//! assert_eq!(header.vni(), 1);
//! assert_eq!(group::mark(group::bytes(&header)), Some(0x1234));
//! assert_eq!(group::mark(group::bytes(&group::header(1, 0))), None, "mark 0 is no group");
//! ```

use network_types::vxlan::VxlanHdr;

/// VXLAN flag: the header has a group.
pub const PRESENT: u8 = 0x80;
/// Flags of the second byte: the receiver must not learn from the packet; policies have been applied already.
const DONT_LEARN: u8 = 0x40;
const POLICY_APPLIED: u8 = 0x08;

/// Makes the header of a packet with this mark. Any mark but 0 makes a group; it is 0 if only other bits are set.
#[inline(always)]
#[must_use]
pub fn header(vni: u32, mark: u32) -> VxlanHdr {
    let mut header = VxlanHdr::new(vni);
    if mark != 0 {
        let [_, flags, high, low] = mark.to_be_bytes();
        header.flags |= PRESENT;
        header._reserved1 = [flags & (DONT_LEARN | POLICY_APPLIED), high, low];
    }
    header
}

/// Returns the first four bytes of a header, which hold the group.
#[inline(always)]
#[must_use]
pub const fn bytes(header: &VxlanHdr) -> [u8; 4] {
    let [flags, high, low] = header._reserved1;
    [header.flags, flags, high, low]
}

/// Returns the mark for a header that begins with these bytes, if it has a group.
#[inline(always)]
#[must_use]
pub fn mark([present, flags, high, low]: [u8; 4]) -> Option<u32> {
    let mark = u32::from_be_bytes([0, flags & (DONT_LEARN | POLICY_APPLIED), high, low]);
    (present & PRESENT != 0).then_some(mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mark, the first bytes of its header, and the mark that arrives.
    const TABLE: [(u32, [u8; 4], Option<u32>); 7] = [
        (0, [0x08, 0, 0, 0], None),
        (1, [0x88, 0, 0, 1], Some(1)),
        (0xabcd, [0x88, 0, 0xab, 0xcd], Some(0xabcd)),
        (0x0040_0000, [0x88, 0x40, 0, 0], Some(0x0040_0000)),
        (0x0008_0007, [0x88, 0x08, 0, 7], Some(0x0008_0007)),
        (u32::MAX, [0x88, 0x48, 0xff, 0xff], Some(0x0048_ffff)),
        // A mark that is no group, such as kube-proxy's: the packet has a group, which is 0.
        (0x8000_0000, [0x88, 0, 0, 0], Some(0)),
    ];

    #[test]
    fn the_mark_has_its_bits_where_the_kernel_has_them() {
        for (sent, expected, arrived) in TABLE {
            let header = header(0x1234, sent);
            assert_eq!(
                (header.flags, header._reserved1),
                (expected[0], [expected[1], expected[2], expected[3]]),
                "{sent:#x}"
            );
            assert_eq!((header.vni(), header._reserved2), (0x1234, 0));
            assert_eq!(mark(bytes(&header)), arrived, "{sent:#x}");
        }
    }

    #[test]
    fn reserved_bits_are_not_read() {
        let mut header = header(1, 7);
        header._reserved1[0] = 0xff;
        assert_eq!(mark(bytes(&header)), Some(0x0048_0007));
        header.flags &= !PRESENT;
        assert_eq!(mark(bytes(&header)), None);
    }
}
