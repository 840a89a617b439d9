//! Metadata by which `underlay_xdp` hands a packet without its outer headers to `underlay_ingress`. It lies in front of the
//! frame, and the kernel carries it from the driver to TC.
//!
//! Peers cannot write metadata. But other programs may, and metadata may stay with a packet that goes on to another device
//! or namespace. So it has a key that only programs on the same maps know.

use crate::abi::LAYOUT;
use crate::address::{Address, V4, V6};

/// What the outer headers of one family said. Bytes, since metadata may have any alignment.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handover<A: Address> {
    magic: [u8; 4],
    key: [u8; 4],
    /// Outer source address.
    pub sender: A,
    /// First four bytes of the VXLAN header, which name the packet's group; zeroes without group policy.
    pub group: [u8; 4],
    /// Outer type of service or traffic class.
    pub tos: u8,
    /// Not 0: removed in generic mode, in the stack, which may have a checksum over the whole received frame.
    pub late: u8,
    /// 0.
    reserved: [u8; 2],
}

impl<A: Address> Handover<A> {
    /// First bytes for this family. The last one is the layout version.
    const MAGIC: [u8; 4] = [b'f', b'l', A::BITS as u8, LAYOUT as u8];

    /// Makes the metadata, with this node's key ([`crate::node::NodeConfig::handover_key`]).
    #[inline(always)]
    #[must_use]
    pub const fn new(key: [u8; 4], sender: A, tos: u8, group: [u8; 4], late: bool) -> Self {
        Self { magic: Self::MAGIC, key, sender, group, tos, late: late as u8, reserved: [0; 2] }
    }

    /// Returns whether a program of the node with this key has written it.
    #[inline(always)]
    #[must_use]
    pub fn is_signed_by(&self, key: [u8; 4]) -> bool {
        self.magic == Self::MAGIC && self.key == key
    }
}

/// The kernel takes metadata of a multiple of 4 bytes, up to 32 (Linux 4.15).
const _: () = assert!(size_of::<Handover<V4>>() == 20 && align_of::<Handover<V4>>() == 1);
const _: () = assert!(size_of::<Handover<V6>>() == 32 && align_of::<Handover<V6>>() == 1);
const _: () = assert!(LAYOUT <= u8::MAX as u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_metadata_with_this_node_s_key_is_accepted() {
        let key = [1, 2, 3, 4];
        let handover = Handover::new(key, [192, 168, 64, 2], 0, [0; 4], false);
        assert!(handover.is_signed_by(key));
        assert!(!handover.is_signed_by([1, 2, 3, 5]));
        assert!(!Handover { magic: [b'f', b'l', 32, 0], ..handover }.is_signed_by(key), "another version");
        assert!(!Handover { magic: [b'f', b'l', 128, LAYOUT as u8], ..handover }.is_signed_by(key), "IPv6");
    }
}
