//! The maps of one address family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use aya::maps::{HashMap, MapData};
use aya::{Ebpf, Pod};
use flannel_common::abi;
use flannel_common::address::{Address, V4, V6};
use flannel_common::flow::{Flow, FlowKey};
use flannel_common::node::{NodeConfig, OverlayEnd};
use ipnet::IpNet;

use super::leases::{Leases, Prefix};
use super::take;

/// A family by its addresses in maps.
pub(super) trait Family: Address + Pod {
    /// Name of its map of leases.
    const LEASES: &'static str;
    /// Name of its map of leases by subnet.
    const SUBNETS: &'static str;
    /// Name of its map of flows.
    const FLOWS: &'static str;

    /// The address as maps have it, if it is of this family.
    fn of(ip: IpAddr) -> Option<Self>;

    /// The address as others have it.
    fn ip(self) -> IpAddr;

    /// Our end of its overlay.
    fn ours(node: &NodeConfig) -> &OverlayEnd<Self>;
}

impl Family for V4 {
    const LEASES: &'static str = abi::LEASES;
    const SUBNETS: &'static str = abi::SUBNETS;
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

    fn ours(node: &NodeConfig) -> &OverlayEnd<Self> {
        &node.v4
    }
}

impl Family for V6 {
    const LEASES: &'static str = abi::LEASES6;
    const SUBNETS: &'static str = abi::SUBNETS6;
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

    fn ours(node: &NodeConfig) -> &OverlayEnd<Self> {
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
    pub(super) fn open(ebpf: &mut Ebpf, node: &NodeConfig) -> Result<Self> {
        let leases = Leases::open(ebpf, A::ours(node).subnet_len)?;
        Ok(Self { leases, flows: HashMap::try_from(take(ebpf, A::FLOWS)?)? })
    }

    /// This is our own subnet from now on, if it is of this family.
    pub(super) fn serve(&mut self, subnet: IpNet, node: &NodeConfig) {
        let OverlayEnd { local_ip, vtep_mac, network_len, .. } = *A::ours(node);
        let network = IpNet::new(subnet.network(), network_len).ok().and_then(Prefix::of);
        if let (Some(subnet), Some(network)) = (Prefix::of(subnet), network) {
            self.leases.set_own(subnet, network, local_ip, vtep_mac);
        }
    }
}

/// The maps that take their memory when they are made, and how many entries such a node needs in them.
pub(super) fn rooms(node: &NodeConfig) -> [(&'static str, u32); 4] {
    let [v4, v6] = [rooms_of::<V4>(node), rooms_of::<V6>(node)];
    [v4[0], v4[1], v6[0], v6[1]]
}

/// One entry is the least that the kernel makes a map for.
fn rooms_of<A: Family>(node: &NodeConfig) -> [(&'static str, u32); 2] {
    let ours = A::ours(node);
    let subnets =
        1_usize.checked_shl(ours.subnet_len.saturating_sub(ours.network_len).into()).unwrap_or(usize::MAX);
    let subnets = u32::try_from(subnets.min(abi::MAX_LEASES)).unwrap_or(u32::MAX);
    let flows = if ours.is_configured() { abi::MAX_FLOWS as u32 } else { 1 };
    [(A::SUBNETS, subnets), (A::FLOWS, flows)]
}

/// Those of them whose size changes from one node to the other.
pub(super) fn resized(before: &NodeConfig, after: &NodeConfig) -> impl Iterator<Item = &'static str> {
    let pairs = rooms(before).into_iter().zip(rooms(after));
    pairs.filter(|(before, after)| before != after).map(|((name, _), _)| name)
}
