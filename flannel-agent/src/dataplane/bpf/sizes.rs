//! Sizes of the maps that take their memory when they are made.

use flannel_common::abi;
use flannel_common::address::{V4, V6};
use flannel_common::node::NodeConfig;

use super::family::MapFamily;

/// Returns such maps, and how many entries this node needs in them. `max_flows`: for flows of one family.
pub(super) fn sizes(node: &NodeConfig, max_flows: u32) -> [(&'static str, u32); 4] {
    let [v4, v6] = [sizes_of::<V4>(node, max_flows), sizes_of::<V6>(node, max_flows)];
    [v4[0], v4[1], v6[0], v6[1]]
}

/// The kernel makes no map for less than one entry.
fn sizes_of<A: MapFamily>(node: &NodeConfig, max_flows: u32) -> [(&'static str, u32); 2] {
    let ours = A::ours(node);
    let subnets =
        1_usize.checked_shl(ours.subnet_len.saturating_sub(ours.network_len).into()).unwrap_or(usize::MAX);
    let subnets = u32::try_from(subnets.min(abi::MAX_LEASES)).unwrap_or(u32::MAX);
    let flows = if ours.is_configured() { max_flows } else { 1 };
    [(A::SUBNETS, subnets), (A::FLOWS, flows)]
}
