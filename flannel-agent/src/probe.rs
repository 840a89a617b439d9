//! Echo requests to many nodes at once, and their answers.

mod echo;
mod rounds;
mod socket;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

pub use echo::small;
pub use rounds::{Prober, Request, Sent};

/// Returns the address of another node that its pods' subnet implies: that of its device for the tunnel, which is the subnet's base
/// address, or else that of its pods' gateway, which a node without pods may not have.
#[must_use]
pub fn address_in(subnet: IpNet, has_device: bool) -> IpAddr {
    if has_device { subnet.network() } else { gateway(subnet) }
}

/// Returns the address of the pods' gateway, the first after the subnet's base address.
#[must_use]
pub fn gateway(subnet: IpNet) -> IpAddr {
    match subnet.network() {
        IpAddr::V4(base) => IpAddr::from(Ipv4Addr::from_bits(base.to_bits() | 1)),
        IpAddr::V6(base) => IpAddr::from(Ipv6Addr::from_bits(base.to_bits() | 1)),
    }
}
