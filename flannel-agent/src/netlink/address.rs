//! Addresses of interfaces.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};

/// Returns the interface's own address: `IFA_LOCAL`, or `IFA_ADDRESS` where that is absent.
///
/// IPv6 leaves `IFA_LOCAL` out unless there is a point-to-point peer, whose address is then `IFA_ADDRESS`.
#[must_use]
pub fn ip_of(message: &AddressMessage) -> Option<IpAddr> {
    let mut own = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => return Some(*address),
            AddressAttribute::Address(address) => own = Some(*address),
            _ => {}
        }
    }
    own
}

/// Returns the interface's own address with its prefix length.
#[must_use]
pub fn net_of(message: &AddressMessage) -> Option<IpNet> {
    IpNet::new(ip_of(message)?, message.header.prefix_len).ok()
}

/// Returns the address as IPv6, in wire order; IPv4 is mapped (RFC 4291 section 2.5.5.2).
#[must_use]
pub const fn mapped(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Whether the address is valid on its link alone (RFC 3927, RFC 4291 section 2.5.6).
#[must_use]
pub const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
