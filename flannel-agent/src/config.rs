//! The network configuration: what `<prefix>/config` in etcd and Kubernetes' net-conf.json say.
//!
//! Keys, defaults and checks are flannel's (pkg/subnet/config.go), for both address families in one code.

mod keys;
mod range;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use keys::Keys;
use range::Wanted;

pub use range::{SubnetRange, number};

/// UDP port of the kernel's vxlan devices unless told otherwise (`drivers/net/vxlan`: `vxlan_port`).
pub const KERNEL_VXLAN_PORT: u16 = 8472;

/// UDP port of the udp backend unless told otherwise (flannel's pkg/backend/udp: `defaultPort`).
const UDP_PORT: u16 = 8285;

const VXLAN: &str = "vxlan";
const HOST_GW: &str = "host-gw";
const UDP: &str = "udp";
const ALLOC: &str = "alloc";

/// A VNI has 24 bits (RFC 7348, section 5).
const VNI_MAX: u32 = (1 << 24) - 1;

/// The cluster's network, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// IPv4 subnets; `None` if `EnableIPv4` is false.
    pub ipv4: Option<SubnetRange>,
    /// IPv6 subnets; `None` unless `EnableIPv6` is true.
    pub ipv6: Option<SubnetRange>,
    /// Firewall rules through nftables instead of iptables (`EnableNFTables`).
    pub nftables: bool,
    /// How packets travel between nodes.
    pub backend: Backend,
}

/// How packets travel between nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// VXLAN.
    Vxlan(VxlanConfig),
    /// Plain routes to nodes on the same link.
    HostGw,
    /// Packets in UDP by way of the agent itself.
    Udp(UdpConfig),
    /// Leases alone: something else carries the packets.
    Alloc,
}

/// Settings of the udp backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpConfig {
    /// UDP port of all nodes, 8285 unless configured.
    pub port: u16,
}

/// Settings of the vxlan backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanConfig {
    /// VXLAN network identifier, 1 unless configured.
    pub vni: u32,
    /// UDP port; `None` leaves it to the kernel, see [`VxlanConfig::udp_port`].
    pub port: Option<u16>,
    /// MTU of the underlay in bytes, to be used instead of the uplink's.
    pub mtu: Option<u32>,
    /// Carry the group policy extension.
    pub gbp: bool,
    /// Let the kernel learn FDB entries from traffic.
    pub learning: bool,
    /// Route without encapsulation to nodes on the same link.
    pub direct_routing: bool,
    /// `Dataplane`: auto, bpf or netlink, as the command line has it. flanneld ignores this key.
    pub dataplane: Option<String>,
    /// `FlowCache`: whether proven flows skip the host stack where BPF carries them. flanneld ignores this key.
    pub flow_cache: bool,
    /// `XDP`: auto, native, generic or off, as the command line has it. flanneld ignores this key.
    pub xdp: Option<String>,
    /// `SourceCheck`: whether VXLAN packets are dropped whose sender does not hold their inner source.
    pub source_check: bool,
}

/// Values of `SourceCheck`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SourceCheck {
    Strict,
    Off,
}

impl FromStr for SourceCheck {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.to_lowercase().as_str() {
            "strict" => Ok(Self::Strict),
            "off" => Ok(Self::Off),
            _ => Err(()),
        }
    }
}

impl Default for VxlanConfig {
    fn default() -> Self {
        Self {
            vni: 1,
            port: None,
            mtu: None,
            gbp: false,
            learning: false,
            direct_routing: false,
            dataplane: None,
            flow_cache: true,
            xdp: None,
            source_check: true,
        }
    }
}

impl VxlanConfig {
    /// The UDP port that nodes send to: the configured one or the kernel's default.
    #[must_use]
    pub fn udp_port(&self) -> u16 {
        self.port.unwrap_or(KERNEL_VXLAN_PORT)
    }
}

impl Backend {
    /// Its name, as it stands in the configuration.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Vxlan(_) => VXLAN,
            Self::HostGw => HOST_GW,
            Self::Udp(_) => UDP,
            Self::Alloc => ALLOC,
        }
    }

    /// The `BackendType` of leases, which flannel leaves empty with udp and alloc.
    #[must_use]
    pub const fn lease_type(&self) -> &'static str {
        match self {
            Self::Vxlan(_) | Self::HostGw => self.name(),
            Self::Udp(_) | Self::Alloc => "",
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The text is no JSON object.
    #[error("the network config is not a JSON object: {0}")]
    NotAnObject(String),
    /// A key's value is of the wrong kind or out of bounds.
    #[error("{key} is {value}; allowed: {allowed}")]
    BadValue {
        /// The key, as flannel spells it.
        key: String,
        /// The value, as it stands in the text.
        value: String,
        /// What may stand there.
        allowed: String,
    },
    /// A key without which nothing works is absent.
    #[error("{key} is missing; allowed: {allowed}")]
    Missing {
        /// The key, as flannel spells it.
        key: String,
        /// What may stand there.
        allowed: String,
    },
    /// Both address families are switched off.
    #[error("EnableIPv4 is false and EnableIPv6 is not true; allowed: at least one of them true")]
    NoFamily,
}

impl ConfigError {
    fn bad(key: &str, value: impl ToString, allowed: impl Into<String>) -> Self {
        Self::BadValue { key: key.to_owned(), value: value.to_string(), allowed: allowed.into() }
    }
}

impl NetworkConfig {
    /// The range of each address family that there is, IPv4 first.
    pub fn ranges(&self) -> impl Iterator<Item = SubnetRange> {
        [self.ipv4, self.ipv6].into_iter().flatten()
    }

    /// The networks that all pods are in, one for each address family that there is.
    pub fn networks(&self) -> impl Iterator<Item = IpNet> {
        self.ranges().map(|range| range.network)
    }

    /// Reads and checks a configuration. Keys are matched without regard to case, unknown ones are ignored.
    ///
    /// # Errors
    /// The text is no JSON object, or a value is not allowed: the error names key, value and what is allowed.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let keys = Keys::parse(text).map_err(|err| ConfigError::NotAnObject(err.to_string()))?;
        let ipv4 = keys.flag("EnableIPv4", true)?.then(|| ipv4_range(&keys)).transpose()?;
        let ipv6 = keys.flag("EnableIPv6", false)?.then(|| ipv6_range(&keys)).transpose()?;
        if ipv4.is_none() && ipv6.is_none() {
            return Err(ConfigError::NoFamily);
        }
        let nftables = keys.flag("EnableNFTables", false)?;
        Ok(Self { ipv4, ipv6, nftables, backend: backend(&keys)? })
    }
}

fn ipv4_range(keys: &Keys) -> Result<SubnetRange, ConfigError> {
    let network: Ipv4Net = required(keys, "Network", "an IPv4 network such as 10.244.0.0/16")?;
    let address = |key| keys.parsed::<Ipv4Addr>(key, "an IPv4 address inside Network");
    let wanted = Wanted {
        network: IpNet::V4(network.trunc()),
        subnet_len: keys.integer("SubnetLen", 0, 32)?,
        min: address("SubnetMin")?.map(Into::into),
        max: address("SubnetMax")?.map(Into::into),
    };
    range::IPV4.resolve(&wanted)
}

fn ipv6_range(keys: &Keys) -> Result<SubnetRange, ConfigError> {
    let network: Ipv6Net = required(keys, "IPv6Network", "an IPv6 network such as fd44::/48")?;
    let address = |key| keys.parsed::<Ipv6Addr>(key, "an IPv6 address inside IPv6Network");
    let wanted = Wanted {
        network: IpNet::V6(network.trunc()),
        subnet_len: keys.integer("IPv6SubnetLen", 0, 128)?,
        min: address("IPv6SubnetMin")?.map(Into::into),
        max: address("IPv6SubnetMax")?.map(Into::into),
    };
    range::IPV6.resolve(&wanted)
}

fn required<T: FromStr>(keys: &Keys, key: &str, allowed: &str) -> Result<T, ConfigError> {
    let missing = || ConfigError::Missing { key: key.to_owned(), allowed: allowed.to_owned() };
    keys.parsed(key, allowed)?.ok_or_else(missing)
}

/// A missing `Backend` is udp, a `Backend` must say its `Type`, in whatever case: so does flannel.
fn backend(keys: &Keys) -> Result<Backend, ConfigError> {
    let Some(backend) = keys.object("Backend")? else {
        return Ok(Backend::Udp(UdpConfig { port: UDP_PORT }));
    };
    let allowed = format!("{VXLAN}, {HOST_GW}, {UDP} or {ALLOC}");
    let kind: String = required(&backend, "Type", &allowed)?;
    match kind.to_lowercase().as_str() {
        VXLAN => Ok(Backend::Vxlan(vxlan(&backend)?)),
        HOST_GW => Ok(Backend::HostGw),
        UDP => Ok(Backend::Udp(udp(&backend)?)),
        ALLOC => Ok(Backend::Alloc),
        _ => Err(ConfigError::bad("Backend.Type", format!("{kind:?}"), allowed)),
    }
}

fn udp(keys: &Keys) -> Result<UdpConfig, ConfigError> {
    Ok(UdpConfig { port: keys.integer("Port", 1, u16::MAX)?.unwrap_or(UDP_PORT) })
}

fn vxlan(keys: &Keys) -> Result<VxlanConfig, ConfigError> {
    Ok(VxlanConfig {
        vni: keys.integer("VNI", 0, VNI_MAX)?.unwrap_or(1),
        port: keys.integer("Port", 0, u16::MAX)?.filter(|port| *port != 0),
        mtu: keys.integer("MTU", 0, 65_535)?.filter(|mtu| *mtu != 0),
        gbp: keys.flag("GBP", false)?,
        learning: keys.flag("Learning", false)?,
        direct_routing: keys.flag("DirectRouting", false)?,
        dataplane: keys.parsed("Dataplane", "auto, bpf or netlink")?,
        flow_cache: keys.flag("FlowCache", true)?,
        xdp: keys.parsed("XDP", "auto, native, generic or off")?,
        source_check: keys.parsed("SourceCheck", "strict or off")? != Some(SourceCheck::Off),
    })
}

#[cfg(test)]
mod tests;
