//! What `underlay_xdp` tells `underlay_ingress` of a packet whose outer headers it has taken off: the metadata in front
//! of the frame, which the kernel carries from the driver to TC.
//!
//! A peer has no part in metadata. Still, other programs may leave some, and ours may stay with a packet that goes on
//! to another device or namespace: so it is signed with a key that only programs on the same maps know.

use crate::abi::LAYOUT;
use crate::node::Node;

/// Begins every [`Handover`]; its last byte rises with the layout of the maps, and of this.
const MAGIC: [u8; 4] = [b'f', b'l', b'x', LAYOUT as u8];

/// The metadata of a packet that arrives without its outer headers. Bytes, since it may stand at any address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handover {
    magic: [u8; 4],
    key: [u8; 4],
    /// Outer source address.
    pub source: [u8; 4],
    /// Not 0: it was taken off by the stack (generic mode), which may keep a checksum over all that the NIC received.
    pub late: [u8; 4],
}

impl Handover {
    /// Signed by this node.
    #[inline(always)]
    #[must_use]
    pub const fn new(node: &Node, source: [u8; 4], late: bool) -> Self {
        Self { magic: MAGIC, key: node.handover_key, source, late: [late as u8, 0, 0, 0] }
    }

    /// Whether it is this node's own word.
    #[inline(always)]
    #[must_use]
    pub fn is_signed_by(&self, node: &Node) -> bool {
        self.magic == MAGIC && self.key == node.handover_key
    }
}

/// The kernel takes metadata of a multiple of 4 bytes, up to 32 (Linux 4.15).
const _: () = assert!(size_of::<Handover>() == 16 && align_of::<Handover>() == 1);
const _: () = assert!(LAYOUT <= u8::MAX as u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_on_the_same_maps_are_believed() {
        let node = Node { handover_key: [1, 2, 3, 4], ..Node::default() };
        let word = Handover::new(&node, [192, 168, 64, 2], false);
        assert!(word.is_signed_by(&node));
        assert!(!word.is_signed_by(&Node { handover_key: [1, 2, 3, 5], ..node }));
        assert!(!Handover { magic: [b'f', b'l', b'x', 0], ..word }.is_signed_by(&node), "another version");
    }
}
