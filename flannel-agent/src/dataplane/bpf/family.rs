//! The maps of each address family, by the type of its addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::Pod;
use flannel_common::abi;
use flannel_common::address::{Address, V4, V6};
use flannel_common::node::{NodeConfig, OverlayEnd};

/// An address family, by its addresses in maps.
pub(super) trait MapFamily: Address + Pod {
    /// Name of the map of leases.
    const LEASES: &'static str;
    /// Name of the exact-match index over the leases.
    const SUBNETS: &'static str;
    /// Name of the map of flows.
    const FLOWS: &'static str;
    /// Name of the map of packets in the host stack.
    const ENTERED: &'static str;

    /// Converts an address to the map's wire-order bytes, if it is of this family.
    fn of(ip: IpAddr) -> Option<Self>;

    /// Converts the map's wire-order bytes to an `IpAddr`.
    fn ip(self) -> IpAddr;

    /// Returns the node's end of the overlay of this family.
    fn ours(node: &NodeConfig) -> &OverlayEnd<Self>;
}

impl MapFamily for V4 {
    const LEASES: &'static str = abi::LEASES;
    const SUBNETS: &'static str = abi::SUBNETS;
    const FLOWS: &'static str = abi::FLOWS;
    const ENTERED: &'static str = abi::ENTERED;

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

impl MapFamily for V6 {
    const LEASES: &'static str = abi::LEASES6;
    const SUBNETS: &'static str = abi::SUBNETS6;
    const FLOWS: &'static str = abi::FLOWS6;
    const ENTERED: &'static str = abi::ENTERED6;

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
