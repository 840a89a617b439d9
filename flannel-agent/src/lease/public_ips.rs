//! The addresses by which a node is recognised.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::entry::{LeaseAttrs, RawLease};

/// The addresses of a node on the underlay. A lease names its holder by them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublicIps {
    /// IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// IPv6 address.
    pub v6: Option<Ipv6Addr>,
}

impl PublicIps {
    /// Reads the holder of a lease. Returns no address if the value is not that of a lease.
    #[must_use]
    pub fn of_holder(lease: &RawLease) -> Self {
        let attrs = LeaseAttrs::parse(&lease.value);
        attrs.map(|attrs| Self::from(&attrs)).unwrap_or_default()
    }

    /// Returns the addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }

    /// Returns true if both are the same node. The IPv4 address decides, or the IPv6 address if this node has no other.
    #[must_use]
    pub fn same_node(&self, other: &Self) -> bool {
        match self.v4 {
            Some(v4) => other.v4 == Some(v4),
            None => self.v6.is_some() && self.v6 == other.v6,
        }
    }
}

impl fmt::Display for PublicIps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.v4, self.v6) {
            (Some(v4), _) => write!(f, "the node {v4}"),
            (None, Some(v6)) => write!(f, "the node {v6}"),
            (None, None) => f.write_str("a node without an address"),
        }
    }
}

impl From<&LeaseAttrs> for PublicIps {
    fn from(attrs: &LeaseAttrs) -> Self {
        Self { v4: attrs.public_ip, v6: attrs.public_ipv6 }
    }
}
