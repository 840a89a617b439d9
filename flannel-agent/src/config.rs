//! The network configuration: `<prefix>/config` in etcd, net-conf.json in Kubernetes.
//!
//! Keys, defaults and checks are flannel's (pkg/subnet/config.go). Both address families share the code.

mod backend;
mod cloud;
mod keys;
mod mode;
mod range;
mod settings;

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

pub use self::backend::{Backend, BackendType, UdpConfig, VxlanConfig};
pub use self::cloud::{AliVpcConfig, AwsVpcConfig, Secret};
use self::keys::Keys;
pub use self::mode::{DataplaneMode, SourceCheck, XdpMode};
use self::range::RangeKeys;
pub use self::range::{SubnetRange, number};
pub use self::settings::Change;

/// A checked network configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// IPv4 subnets; `None` if `EnableIPv4` is false.
    pub ipv4: Option<SubnetRange>,
    /// IPv6 subnets; `None` unless `EnableIPv6` is true.
    pub ipv6: Option<SubnetRange>,
    /// Firewall rules by nftables instead of iptables (`EnableNFTables`).
    pub nftables: bool,
    /// How packets travel between nodes.
    pub backend: Backend,
}

/// Why a configuration cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The text is not a JSON object.
    #[error("the network config is not a JSON object: {0}")]
    NotAnObject(String),
    /// A value has the wrong type or is out of bounds.
    #[error("{key} is {value}; allowed: {allowed}")]
    BadValue {
        /// The key, in flannel's spelling.
        key: String,
        /// The value, as it stands in the text.
        value: String,
        /// The values that are allowed.
        allowed: String,
    },
    /// A required key is absent.
    #[error("{key} is missing; allowed: {allowed}")]
    Missing {
        /// The key, in flannel's spelling.
        key: String,
        /// The values that are allowed.
        allowed: String,
    },
    /// Both address families are switched off.
    #[error("EnableIPv4 is false and EnableIPv6 is not true; allowed: at least one of them true")]
    NoFamily,
}

impl ConfigError {
    fn bad(key: impl Into<String>, value: impl ToString, allowed: impl Into<String>) -> Self {
        let value = shown(&value.to_string());
        Self::BadValue { key: key.into(), value, allowed: allowed.into() }
    }
}

impl NetworkConfig {
    /// Returns the range of each address family that is enabled, IPv4 first.
    pub fn ranges(&self) -> impl Iterator<Item = SubnetRange> {
        [self.ipv4, self.ipv6].into_iter().flatten()
    }

    /// Returns the network of all pods for each address family that is enabled, IPv4 first.
    pub fn networks(&self) -> impl Iterator<Item = IpNet> {
        self.ranges().map(|range| range.network)
    }

    /// Returns what tells the network from others on a node: their devices or routes are apart if this differs. `None` if it
    /// has neither.
    #[must_use]
    pub fn name_on_node(&self) -> Option<String> {
        let kind = self.backend.kind().name();
        match &self.backend {
            Backend::Vxlan(vxlan) => Some(format!("{kind} {}", vxlan.vni)),
            Backend::HostGw | Backend::Udp(_) | Backend::AwsVpc(_) | Backend::Gce | Backend::AliVpc(_) => {
                let networks: Vec<_> = self.networks().map(|network| network.to_string()).collect();
                Some(format!("{kind} {}", networks.join(" ")))
            }
            Backend::Alloc => None,
        }
    }

    /// Returns the prefixes from which nodes lease subnets, IPv4 first. See [`SubnetRange::prefixes`].
    pub fn leasable(&self) -> impl Iterator<Item = IpNet> {
        self.ranges().flat_map(|range| range.prefixes())
    }

    /// Reads and checks a configuration. Keys may be in any case; unknown keys are ignored.
    ///
    /// ```
    /// use flannel_agent::config::{BackendType, NetworkConfig};
    ///
    /// let config = NetworkConfig::parse(r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}"#)?;
    /// assert_eq!(config.ipv4.map(|range| range.subnet_len), Some(24));
    /// assert_eq!(config.backend.kind(), BackendType::Vxlan);
    /// # Ok::<(), flannel_agent::config::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// The text is not a JSON object, or a value is not allowed. The error names the key, its value and what is allowed.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let keys = Keys::parse(text).map_err(|error| ConfigError::NotAnObject(error.to_string()))?;
        let ipv4 = keys.flag("EnableIPv4", true)?.then(|| ipv4_range(&keys)).transpose()?;
        let ipv6 = keys.flag("EnableIPv6", false)?.then(|| ipv6_range(&keys)).transpose()?;
        if ipv4.is_none() && ipv6.is_none() {
            return Err(ConfigError::NoFamily);
        }
        let nftables = keys.flag("EnableNFTables", false)?;
        Ok(Self { ipv4, ipv6, nftables, backend: Backend::read(&keys)? })
    }
}

/// Returns a value as messages show it: in one line, and no more than its beginning if it is long.
fn shown(value: &str) -> String {
    const LONGEST: usize = 200;
    let words: Vec<_> = value.split_ascii_whitespace().collect();
    let text = words.join(" ").replace(char::is_control, "?");
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

fn ipv4_range(keys: &Keys) -> Result<SubnetRange, ConfigError> {
    let network: Ipv4Net = keys.required("Network", "an IPv4 network such as 10.244.0.0/16")?;
    let address = |key| keys.parsed::<Ipv4Addr>(key, "an IPv4 address inside Network");
    let range = RangeKeys {
        network: IpNet::V4(network.trunc()),
        subnet_len: keys.integer("SubnetLen", 0, 32)?,
        min: address("SubnetMin")?.map(Into::into),
        max: address("SubnetMax")?.map(Into::into),
    };
    range::IPV4.resolve(&range)
}

fn ipv6_range(keys: &Keys) -> Result<SubnetRange, ConfigError> {
    let network: Ipv6Net = keys.required("IPv6Network", "an IPv6 network such as fd44::/48")?;
    let address = |key| keys.parsed::<Ipv6Addr>(key, "an IPv6 address inside IPv6Network");
    let range = RangeKeys {
        network: IpNet::V6(network.trunc()),
        subnet_len: keys.integer("IPv6SubnetLen", 0, 128)?,
        min: address("IPv6SubnetMin")?.map(Into::into),
        max: address("IPv6SubnetMax")?.map(Into::into),
    };
    range::IPV6.resolve(&range)
}

#[cfg(test)]
mod tests;
