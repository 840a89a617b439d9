//! Prefixes as keys of maps.

use std::fmt;

use aya::maps::lpm_trie::Key;
use ipnet::IpNet;

use super::family::MapFamily;

/// A prefix of one address family: network address and length in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Prefix<A> {
    network: A,
    length: u8,
}

impl<A: MapFamily> Prefix<A> {
    /// Converts a subnet, if it is of this family.
    pub(super) fn of(subnet: IpNet) -> Option<Self> {
        Some(Self { network: A::of(subnet.network())?, length: subnet.prefix_len() })
    }

    /// Returns the prefix of one address.
    pub(super) const fn host(address: A) -> Self {
        Self { network: address, length: A::BITS as u8 }
    }

    /// Returns the prefix of a map's key.
    pub(super) fn from_key(key: &Key<A>) -> Option<Self> {
        Some(Self { network: key.data(), length: u8::try_from(key.prefix_len()).ok()? })
    }

    pub(super) fn key(&self) -> Key<A> {
        Key::new(self.length.into(), self.network)
    }

    /// Returns the length in bits.
    pub(super) const fn length(&self) -> u8 {
        self.length
    }

    /// Returns whether the other prefix is a part of this one.
    pub(super) fn contains(&self, other: &Self) -> bool {
        let bits = |prefix: &Self| IpNet::new(prefix.network.ip(), self.length).map(|net| net.network());
        self.length < other.length && bits(self) == bits(other)
    }
}

impl<A: MapFamily> fmt::Display for Prefix<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network.ip(), self.length)
    }
}
