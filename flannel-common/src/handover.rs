//! What `underlay_xdp` tells `underlay_ingress` of a packet whose outer headers it has taken off: the metadata in front
//! of the frame, which the kernel carries from the driver to TC.
//!
//! A peer has no part in metadata. Still, other programs may leave some, and ours may stay with a packet that goes on
//! to another device or namespace: so it is signed with a key that only programs on the same maps know.

use crate::abi::LAYOUT;
use crate::address::{Address, V4, V6};
use crate::node::NodeConfig;

/// The metadata of a packet that arrives without its outer headers of one family. Bytes, since it may stand at any address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handover<A: Address> {
    magic: [u8; 4],
    key: [u8; 4],
    /// Outer source address.
    pub sender: A,
    /// First four bytes of the VXLAN header, which say what group the packet is of; zeroes without group policy.
    pub group: [u8; 4],
    /// Outer type of service or traffic class.
    pub tos: u8,
    /// Not 0: they were taken off by the stack (generic mode), which may keep a checksum over all that the NIC received.
    pub late: u8,
    /// 0.
    reserved: [u8; 2],
}

impl<A: Address> Handover<A> {
    /// Begins every one of this family; the last byte rises with the layout of the maps, and of this.
    const MAGIC: [u8; 4] = [b'f', b'l', A::BITS as u8, LAYOUT as u8];

    /// Signed by this node.
    #[inline(always)]
    #[must_use]
    pub const fn new(node: &NodeConfig, sender: A, tos: u8, group: [u8; 4], late: bool) -> Self {
        let (magic, key) = (Self::MAGIC, node.handover_key);
        Self { magic, key, sender, group, tos, late: late as u8, reserved: [0; 2] }
    }

    /// Whether it is this node's own word.
    #[inline(always)]
    #[must_use]
    pub fn is_signed_by(&self, node: &NodeConfig) -> bool {
        self.magic == Self::MAGIC && self.key == node.handover_key
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
    fn only_programs_on_the_same_maps_are_believed() {
        let node = NodeConfig { handover_key: [1, 2, 3, 4], ..NodeConfig::default() };
        let word = Handover::new(&node, [192, 168, 64, 2], 0, [0; 4], false);
        assert!(word.is_signed_by(&node));
        assert!(!word.is_signed_by(&NodeConfig { handover_key: [1, 2, 3, 5], ..node }));
        assert!(!Handover { magic: [b'f', b'l', 32, 0], ..word }.is_signed_by(&node), "another version");
        assert!(!Handover { magic: [b'f', b'l', 128, LAYOUT as u8], ..word }.is_signed_by(&node), "IPv6");
    }
}
