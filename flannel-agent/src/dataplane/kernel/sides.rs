//! Interfaces by which outer packets may come in beside the uplink.

use std::collections::BTreeSet;

use crate::netlink::link::{Link, LinkKind};

/// An interface that may receive outer packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
}

/// Returns the interfaces that may receive packets for this node, except those in `own`, which have the agent's programs.
///
/// What ports of a bridge receive for this node comes in by the bridge. On loopback only the node itself sends.
pub(super) fn of(links: &[Link], own: &[u32]) -> Vec<Side> {
    let bridges: BTreeSet<u32> =
        links.iter().filter(|link| link.kind == LinkKind::Bridge).map(|link| link.index).collect();
    let is_port = |link: &Link| link.controller.is_some_and(|bridge| bridges.contains(&bridge));
    links
        .iter()
        .filter(|link| !own.contains(&link.index) && !is_port(link) && link.name != "lo")
        .map(|Link { index, name, .. }| Side { index: *index, name: name.clone() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_all_interfaces_but_loopback_the_agent_s_own_and_ports_of_bridges() {
        let link = |index, name: &str, kind, controller| Link {
            index,
            name: name.to_owned(),
            kind,
            controller,
            ..Link::default()
        };
        let links = [
            link(1, "lo", LinkKind::Other, None),
            link(2, "eth0", LinkKind::Other, None),
            link(3, "eth1", LinkKind::Other, None),
            link(4, "cni0", LinkKind::Bridge, None),
            link(5, "veth1", LinkKind::Veth, Some(4)),
            link(6, "flannel.1", LinkKind::Vxlan(Default::default()), None),
            link(7, "bond0", LinkKind::Other, None),
            link(8, "eth2", LinkKind::Other, Some(7)),
            link(9, "veth2", LinkKind::Veth, None),
            link(10, "tun0", LinkKind::Tun, None),
        ];
        let names: Vec<_> = of(&links, &[2, 6]).into_iter().map(|side| side.name).collect();
        assert_eq!(names, ["eth1", "cni0", "bond0", "eth2", "veth2", "tun0"]);
    }
}
