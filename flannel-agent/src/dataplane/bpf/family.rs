//! The maps of one address family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use aya::maps::{HashMap, MapData};
use aya::{Ebpf, Pod};
use flannel_common::abi;
use flannel_common::address::{Address, V4, V6};
use flannel_common::flow::{Flow, FlowKey};
use flannel_common::node::{Node, Overlay};
use ipnet::IpNet;

use super::leases::{Leases, Prefix};
use super::take;

/// A family by its addresses in maps.
pub(super) trait Family: Address + Pod {
    /// Name of its map of leases.
    const LEASES: &'static str;
    /// Name of its map of flows.
    const FLOWS: &'static str;

    /// The address as maps have it, if it is of this family.
    fn of(ip: IpAddr) -> Option<Self>;

    /// The address as others have it.
    fn ip(self) -> IpAddr;

    /// Our end of its overlay.
    fn ours(node: &Node) -> &Overlay<Self>;
}

impl Family for V4 {
    const LEASES: &'static str = abi::LEASES;
    const FLOWS: &'static str = abi::FLOWS;

    fn of(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(ip) => Some(ip.octets()),
            IpAddr::V6(_) => None,
        }
    }

    fn ip(self) -> IpAddr {
        Ipv4Addr::from(self).into()
    }

    fn ours(node: &Node) -> &Overlay<Self> {
        &node.v4
    }
}

impl Family for V6 {
    const LEASES: &'static str = abi::LEASES6;
    const FLOWS: &'static str = abi::FLOWS6;

    fn of(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V6(ip) => Some(ip.octets()),
            IpAddr::V4(_) => None,
        }
    }

    fn ip(self) -> IpAddr {
        Ipv6Addr::from(self).into()
    }

    fn ours(node: &Node) -> &Overlay<Self> {
        &node.v6
    }
}

/// The maps, open.
pub(super) struct Maps<A: Family> {
    pub(super) leases: Leases<A>,
    pub(super) flows: HashMap<MapData, FlowKey<A>, Flow>,
}

impl<A: Family> Maps<A> {
    /// Takes them over with what an earlier agent left in them.
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self> {
        let leases = Leases::open(take(ebpf, A::LEASES)?)?;
        Ok(Self { leases, flows: HashMap::try_from(take(ebpf, A::FLOWS)?)? })
    }

    /// This is our own subnet from now on, if it is of this family.
    pub(super) fn serve(&mut self, subnet: IpNet, node: &Node) {
        if let Some(subnet) = Prefix::of(subnet) {
            let Overlay { local_ip, vtep_mac, .. } = *A::ours(node);
            self.leases.set_own(subnet, local_ip, vtep_mac);
        }
    }
}

/// The maps of flows, and whether the node has their family.
const fn flows(node: &Node) -> [(&'static str, bool); 2] {
    [(V4::FLOWS, node.v4.is_there()), (V6::FLOWS, node.v6.is_there())]
}

/// The maps of flows that such a node needs no room in.
pub(super) fn idle_flows(node: &Node) -> impl Iterator<Item = &'static str> {
    flows(node).into_iter().filter(|(_, used)| !used).map(|(name, _)| name)
}

/// The maps of flows whose size changes from one node to the other.
pub(super) fn resized_flows(before: &Node, after: &Node) -> impl Iterator<Item = &'static str> {
    flows(before)
        .into_iter()
        .zip(flows(after))
        .filter(|(before, after)| before != after)
        .map(|((name, _), _)| name)
}
