//! Sizes of the maps that take their memory when they are made.

use flannel_common::abi;
use flannel_common::address::{V4, V6};
use flannel_common::fingerprint::Token;
use flannel_common::node::NodeConfig;

use super::family::MapFamily;

/// Returns such maps, and how many entries this node needs in them. `max_flows`: for flows of one family.
pub(super) fn sizes(node: &NodeConfig, max_flows: u32) -> impl Iterator<Item = (&'static str, u32)> {
    sizes_of::<V4>(node, max_flows).into_iter().chain(sizes_of::<V6>(node, max_flows))
}

/// The kernel makes no map for less than one entry.
fn sizes_of<A: MapFamily>(node: &NodeConfig, max_flows: u32) -> [(&'static str, u32); 3] {
    let ours = A::ours(node);
    let subnets =
        1_usize.checked_shl(ours.subnet_len.saturating_sub(ours.network_len).into()).unwrap_or(usize::MAX);
    let subnets = u32::try_from(subnets.min(abi::MAX_LEASES)).unwrap_or(u32::MAX);
    let (flows, entered) = if ours.is_configured() { (max_flows, Token::SLOTS as u32) } else { (1, 1) };
    [(A::SUBNETS, subnets), (A::FLOWS, flows), (A::ENTERED, entered)]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_family_that_the_node_does_not_have_takes_no_memory() {
        let mut node = NodeConfig::default();
        (node.v4.uplink_ifindex, node.v4.network_len, node.v4.subnet_len) = (5, 16, 24);
        let sizes: BTreeMap<_, _> = sizes(&node, 1000).collect();
        for (map, expected) in [
            (abi::SUBNETS, 256),
            (abi::FLOWS, 1000),
            (abi::ENTERED, Token::SLOTS as u32),
            (abi::SUBNETS6, 1),
            (abi::FLOWS6, 1),
            (abi::ENTERED6, 1),
        ] {
            assert_eq!(sizes[map], expected, "{map}");
        }
    }
}
