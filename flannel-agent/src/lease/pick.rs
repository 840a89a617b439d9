//! Which subnet this node takes. Pure: the datastore's leases in, a decision out.
//!
//! flannel's order (pkg/subnet/etcd: `tryAcquireLease`): the lease that already has our public IP, the subnet
//! of our last run, a free one.

mod free;

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{LeaseAttrs, RawLease, SubnetKey};
use crate::config::{NetworkConfig, SubnetRange};

/// How many free subnets the choice is among, as with flannel: enough that racing nodes rarely collide.
const CANDIDATES: usize = 100;

/// A node's addresses on the underlay: what tells whose a lease is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublicIps {
    /// Its IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub v6: Option<Ipv6Addr>,
}

impl PublicIps {
    /// Whether both are the same node: by IPv4 address, by IPv6 address where there is no other.
    #[must_use]
    pub fn same_node(&self, other: &Self) -> bool {
        match self.v4 {
            Some(v4) => other.v4 == Some(v4),
            None => self.v6.is_some() && self.v6 == other.v6,
        }
    }

    /// Who holds a lease; nobody known if its value cannot be read.
    #[must_use]
    pub fn of_holder(lease: &RawLease) -> Self {
        let attrs = serde_json::from_slice::<LeaseAttrs>(&lease.value);
        attrs.map(|attrs| Self::from(&attrs)).unwrap_or_default()
    }
}

impl fmt::Display for PublicIps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.v4, self.v6) {
            (Some(v4), _) => write!(f, "the node {v4}"),
            (None, Some(v6)) => write!(f, "the node {v6}"),
            (None, None) => f.write_str("somebody without an address"),
        }
    }
}

impl From<&LeaseAttrs> for PublicIps {
    fn from(attrs: &LeaseAttrs) -> Self {
        Self { v4: attrs.public_ip, v6: attrs.public_ipv6 }
    }
}

/// A subnet that somebody holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The subnet.
    pub key: SubnetKey,
    /// Who holds it; both absent if the lease's value cannot be read.
    pub holder: PublicIps,
}

impl Taken {
    /// What an entry of the datastore takes; `None` if its key is no subnet.
    #[must_use]
    pub fn of(lease: &RawLease) -> Option<Self> {
        Some(Self { key: lease.key.parse().ok()?, holder: PublicIps::of_holder(lease) })
    }
}

/// What to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A lease that is ours already.
    Reuse(SubnetKey),
    /// The subnet of our last run, which nobody holds.
    Previous(SubnetKey),
    /// A subnet that nobody holds.
    Free(SubnetKey),
    /// Every subnet is held by somebody.
    None,
}

/// Decides what to take, given all leases, our addresses, the subnet of our last run and a random number.
#[must_use]
pub fn decide(
    config: &NetworkConfig,
    leases: &[Taken],
    us: PublicIps,
    previous: Option<SubnetKey>,
    random: u64,
) -> Decision {
    if let Some(key) = ours(config, leases, us, previous) {
        return Decision::Reuse(key);
    }
    let is_free = |key: &SubnetKey| !leases.iter().any(|lease| lease.key.overlaps(key));
    if let Some(key) = previous.filter(|key| fits(config, key)).filter(is_free) {
        return Decision::Previous(key);
    }
    free(config, leases, random).map_or(Decision::None, Decision::Free)
}

/// The leases that carry our address but do not fit the configuration any more: to be given up.
pub fn outdated<'a>(
    config: &'a NetworkConfig,
    leases: &'a [Taken],
    us: PublicIps,
) -> impl Iterator<Item = SubnetKey> + 'a {
    let outdated = move |lease: &&Taken| us.same_node(&lease.holder) && !fits(config, &lease.key);
    leases.iter().filter(outdated).map(|lease| lease.key)
}

/// Whether a node may hold `key` under this configuration: the same families, subnets of the range.
#[must_use]
pub fn fits(config: &NetworkConfig, key: &SubnetKey) -> bool {
    let half = |range: Option<SubnetRange>, subnet: Option<IpNet>| match (range, subnet) {
        (None, None) => true,
        (Some(range), Some(subnet)) => range.fits(subnet),
        _ => false,
    };
    half(config.ipv4, key.v4.map(IpNet::V4)) && half(config.ipv6, key.v6.map(IpNet::V6))
}

/// Of several leases with our address the one of our last run, so that pods keep their addresses.
fn ours(
    config: &NetworkConfig,
    leases: &[Taken],
    us: PublicIps,
    previous: Option<SubnetKey>,
) -> Option<SubnetKey> {
    let ours = leases.iter().filter(|lease| us.same_node(&lease.holder) && fits(config, &lease.key));
    ours.map(|lease| lease.key).min_by_key(|key| Some(*key) != previous)
}

fn free(config: &NetworkConfig, leases: &[Taken], random: u64) -> Option<SubnetKey> {
    let pick = |range: SubnetRange| {
        let candidates: Vec<IpNet> =
            free::subnets(range, leases.iter().flat_map(|lease| lease.key.nets())).take(CANDIDATES).collect();
        let count = u64::try_from(candidates.len()).ok().filter(|count| *count > 0)?;
        candidates.get(usize::try_from(random % count).ok()?).copied()
    };
    let mut key = SubnetKey { v4: None, v6: None };
    for range in config.ranges() {
        match pick(range)? {
            IpNet::V4(net) => key.v4 = Some(net),
            IpNet::V6(net) => key.v6 = Some(net),
        }
    }
    Some(key)
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
