//! The subnets of a network. Addresses are numbers here, so that both families share the code.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use super::ConfigError;

/// The subnets that nodes may hold, from [`SubnetRange::min`] to [`SubnetRange::max`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubnetRange {
    /// The whole network, host bits zero.
    pub network: IpNet,
    /// Prefix length of each node's subnet.
    pub subnet_len: u8,
    /// Base address of the first subnet.
    pub min: IpAddr,
    /// Base address of the last subnet.
    pub max: IpAddr,
}

impl SubnetRange {
    /// Returns the number of subnets.
    #[must_use]
    pub fn count(&self) -> u128 {
        (number(self.max) - number(self.min)) / self.subnet_size() + 1
    }

    /// Returns the number of addresses in a subnet.
    #[must_use]
    pub fn subnet_size(&self) -> u128 {
        1 << (self.network.max_prefix_len() - self.subnet_len)
    }

    /// Returns the mask of a subnet.
    #[must_use]
    pub fn subnet_mask(&self) -> IpAddr {
        IpNet::new_assert(self.min, self.subnet_len).netmask()
    }

    /// Whether `subnet` is one of these subnets.
    #[must_use]
    pub fn fits(&self, subnet: IpNet) -> bool {
        subnet.prefix_len() == self.subnet_len
            && self.network.contains(&subnet)
            && (self.min..=self.max).contains(&subnet.network())
    }

    /// Whether a node can hold `subnet`, which for a reservation may lie outside `SubnetMin` and `SubnetMax`.
    #[must_use]
    pub fn can_hold(&self, subnet: IpNet) -> bool {
        subnet.prefix_len() == self.subnet_len && self.network.contains(&subnet)
    }

    /// Returns the fewest prefixes that cover what nodes can lease, and nothing else. Without `SubnetMin` and `SubnetMax` that
    /// is the whole network, with the first subnet, although it is not leased.
    #[must_use]
    pub fn prefixes(&self) -> Vec<IpNet> {
        let before_min = number(self.min).checked_sub(self.subnet_size());
        let is_second = before_min == Some(number(self.network.network()));
        let first = if is_second { self.network.network() } else { self.min };
        let last = IpNet::new_assert(self.max, self.subnet_len).broadcast();
        match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                Ipv4Subnets::new(first, last, 0).map(IpNet::V4).collect()
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                Ipv6Subnets::new(first, last, 0).map(IpNet::V6).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Returns the subnet whose base address has this number; `None` if there is no such address.
    #[must_use]
    pub fn subnet_at(&self, base: u128) -> Option<IpNet> {
        IpNet::new(address(base, self.network)?, self.subnet_len).ok()
    }
}

/// Converts an address to a number, its first byte the most significant.
#[must_use]
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// Converts a number to an address of `family`'s family.
fn address(number: u128, family: IpNet) -> Option<IpAddr> {
    match family {
        IpNet::V4(_) => u32::try_from(number).ok().map(|v4| Ipv4Addr::from(v4).into()),
        IpNet::V6(_) => Some(Ipv6Addr::from(number).into()),
    }
}

/// The keys of one address family. As with flannel, an absent or zero value means the default.
pub(super) struct RangeKeys {
    pub network: IpNet,
    pub subnet_len: Option<u8>,
    pub min: Option<IpAddr>,
    pub max: Option<IpAddr>,
}

/// The names of the keys of one address family, and flannel's defaults.
pub(super) struct FamilyKeys {
    prefix: &'static str,
    /// Longest prefix: a subnet has to hold a tunnel and a bridge device.
    len_max: u8,
    /// Prefix length, if at least four such subnets fit into the network.
    len_default: u8,
}

pub(super) const IPV4: FamilyKeys = FamilyKeys { prefix: "", len_max: 30, len_default: 24 };
pub(super) const IPV6: FamilyKeys = FamilyKeys { prefix: "IPv6", len_max: 126, len_default: 64 };

impl FamilyKeys {
    /// Checks the keys and fills in the defaults.
    pub(super) fn resolve(&self, keys: &RangeKeys) -> Result<SubnetRange, ConfigError> {
        let network = keys.network;
        if network.prefix_len() == 0 && network.addr().is_unspecified() {
            return Err(ConfigError::bad(
                self.key("Network"),
                network,
                "a network with a prefix length above 0",
            ));
        }
        let subnet_len = self.subnet_len(network, keys.subnet_len)?;
        let size = 1u128 << (network.max_prefix_len() - subnet_len);
        // The first subnet is skipped: its base address is the network's own.
        let first = number(network.network()) + size;
        let last = number(network.broadcast()) - (size - 1);
        let min = self.bound("SubnetMin", network, subnet_len, keys.min, first)?;
        let max = self.bound("SubnetMax", network, subnet_len, keys.max, last)?;
        if max < min {
            let allowed = format!("an address not below {}, which is {min}", self.key("SubnetMin"));
            return Err(ConfigError::bad(self.key("SubnetMax"), max, allowed));
        }
        Ok(SubnetRange { network, subnet_len, min, max })
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Checks or chooses the prefix length. At least four subnets have to fit, since the first is not used.
    fn subnet_len(&self, network: IpNet, configured: Option<u8>) -> Result<u8, ConfigError> {
        let shortest = network.prefix_len().saturating_add(2);
        if shortest > self.len_max {
            let allowed = format!("a network of at least four subnets, /{} or larger", self.len_max - 2);
            return Err(ConfigError::bad(self.key("Network"), network, allowed));
        }
        match configured.filter(|len| *len != 0) {
            None => Ok(shortest.max(self.len_default)),
            Some(len) if (shortest..=self.len_max).contains(&len) => Ok(len),
            Some(len) => {
                let allowed =
                    format!("{shortest} to {}, so that four subnets fit into {network}", self.len_max);
                Err(ConfigError::bad(self.key("SubnetLen"), len, allowed))
            }
        }
    }

    /// Checks or chooses the base address of the first or last subnet.
    fn bound(
        &self,
        name: &str,
        network: IpNet,
        subnet_len: u8,
        configured: Option<IpAddr>,
        default: u128,
    ) -> Result<IpAddr, ConfigError> {
        let bound = configured.filter(|bound| !bound.is_unspecified()).or_else(|| address(default, network));
        let on_boundary = |bound: &IpAddr| {
            network.contains(bound) && IpNet::new(*bound, subnet_len).is_ok_and(|net| net.network() == *bound)
        };
        match bound.filter(on_boundary) {
            Some(bound) => Ok(bound),
            None => {
                let value = bound.map_or_else(String::new, |bound| bound.to_string());
                let allowed = format!("the base address of a /{subnet_len} inside {network}");
                Err(ConfigError::bad(self.key(name), value, allowed))
            }
        }
    }
}
