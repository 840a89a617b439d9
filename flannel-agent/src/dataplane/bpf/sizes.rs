//! Sizes of the maps that take their memory when they are made.

use flannel_common::abi;
use flannel_common::address::{V4, V6};
use flannel_common::node::NodeConfig;

use super::family::MapFamily;

/// Returns such maps, and how many entries this node needs in them.
pub(super) fn sizes(node: &NodeConfig) -> [(&'static str, u32); 4] {
    let [v4, v6] = [sizes_of::<V4>(node), sizes_of::<V6>(node)];
    [v4[0], v4[1], v6[0], v6[1]]
}

/// The kernel makes no map for less than one entry.
fn sizes_of<A: MapFamily>(node: &NodeConfig) -> [(&'static str, u32); 2] {
    let ours = A::ours(node);
    let subnets =
        1_usize.checked_shl(ours.subnet_len.saturating_sub(ours.network_len).into()).unwrap_or(usize::MAX);
    let subnets = u32::try_from(subnets.min(abi::MAX_LEASES)).unwrap_or(u32::MAX);
    let flows = if ours.is_configured() { abi::MAX_FLOWS as u32 } else { 1 };
    [(A::SUBNETS, subnets), (A::FLOWS, flows)]
}

/// Returns the maps whose size differs between the two nodes.
pub(super) fn resized(before: &NodeConfig, after: &NodeConfig) -> impl Iterator<Item = &'static str> {
    let pairs = sizes(before).into_iter().zip(sizes(after));
    pairs.filter(|(before, after)| before != after).map(|((name, _), _)| name)
}
