//! The `Backend` part of the configuration: how packets travel between nodes.

use clap::ValueEnum;

use super::ConfigError;
use super::cloud::{AliVpcConfig, AwsVpcConfig};
use super::keys::Keys;
use super::mode::{DataplaneMode, SourceCheck, XdpMode};

/// UDP port of the kernel's vxlan devices unless another is set (`drivers/net/vxlan`: `vxlan_port`).
const KERNEL_VXLAN_PORT: u16 = 8472;

/// UDP port of the udp backend unless another is set (flannel's pkg/backend/udp: `defaultPort`).
const UDP_PORT: u16 = 8285;

/// A VNI has 24 bits (RFC 7348, section 5).
const VNI_MAX: u32 = (1 << 24) - 1;

const VXLAN: &str = "vxlan";
const HOST_GW: &str = "host-gw";
const UDP: &str = "udp";
const ALLOC: &str = "alloc";
const AWS_VPC: &str = "aws-vpc";
const GCE: &str = "gce";
const ALI_VPC: &str = "ali-vpc";

/// The values of `Backend.Type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendType {
    /// VXLAN.
    #[value(name = VXLAN)]
    Vxlan,
    /// Routes through the underlay, without a tunnel.
    #[value(name = HOST_GW)]
    HostGw,
    /// Packets in UDP, sent and received by the agent.
    #[value(name = UDP)]
    Udp,
    /// Leases alone: something else carries the packets.
    #[value(name = ALLOC)]
    Alloc,
    /// Routes in a VPC of Amazon.
    #[value(name = AWS_VPC)]
    AwsVpc,
    /// Routes in a network of Google Compute Engine.
    #[value(name = GCE)]
    Gce,
    /// Routes in a VPC of Alibaba Cloud.
    #[value(name = ALI_VPC)]
    AliVpc,
}

impl BackendType {
    /// Returns the name that stands in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vxlan => VXLAN,
            Self::HostGw => HOST_GW,
            Self::Udp => UDP,
            Self::Alloc => ALLOC,
            Self::AwsVpc => AWS_VPC,
            Self::Gce => GCE,
            Self::AliVpc => ALI_VPC,
        }
    }

    /// Returns the `BackendType` of leases. flannel leaves it empty with all but vxlan and host-gw.
    #[must_use]
    pub const fn lease_type(self) -> &'static str {
        match self {
            Self::Vxlan | Self::HostGw => self.name(),
            Self::Udp | Self::Alloc | Self::AwsVpc | Self::Gce | Self::AliVpc => "",
        }
    }

    /// Returns whether each node has a device for the tunnel, with the base address of its subnet.
    #[must_use]
    pub const fn has_device(self) -> bool {
        matches!(self, Self::Vxlan | Self::Udp)
    }

    /// Returns whether BPF programs may carry packets.
    #[must_use]
    pub const fn has_programs(self) -> bool {
        !matches!(self, Self::Udp | Self::Alloc)
    }

    /// Returns [`Self::has_device`] of the type of this name; true for an unknown one.
    #[must_use]
    pub fn name_has_device(name: &str) -> bool {
        Self::from_str(name, false).map_or(true, Self::has_device)
    }
}

/// A backend and its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// See [`BackendType::Vxlan`].
    Vxlan(VxlanConfig),
    /// See [`BackendType::HostGw`].
    HostGw,
    /// See [`BackendType::Udp`].
    Udp(UdpConfig),
    /// See [`BackendType::Alloc`].
    Alloc,
    /// See [`BackendType::AwsVpc`].
    AwsVpc(AwsVpcConfig),
    /// See [`BackendType::Gce`].
    Gce,
    /// See [`BackendType::AliVpc`].
    AliVpc(AliVpcConfig),
}

impl Backend {
    /// Returns its type.
    #[must_use]
    pub const fn kind(&self) -> BackendType {
        match self {
            Self::Vxlan(_) => BackendType::Vxlan,
            Self::HostGw => BackendType::HostGw,
            Self::Udp(_) => BackendType::Udp,
            Self::Alloc => BackendType::Alloc,
            Self::AwsVpc(_) => BackendType::AwsVpc,
            Self::Gce => BackendType::Gce,
            Self::AliVpc(_) => BackendType::AliVpc,
        }
    }

    /// Reads the `Backend` of a configuration. As with flannel, a missing `Backend` is udp, and a `Backend`
    /// without `Type` is an error.
    pub(super) fn read(config: &Keys) -> Result<Self, ConfigError> {
        let Some(keys) = config.object("Backend")? else {
            return Ok(Self::Udp(UdpConfig { port: UDP_PORT }));
        };
        Ok(match keys.required_choice("Type")? {
            BackendType::Vxlan => Self::Vxlan(VxlanConfig::read(&keys)?),
            BackendType::HostGw => Self::HostGw,
            BackendType::Udp => Self::Udp(UdpConfig::read(&keys)?),
            BackendType::Alloc => Self::Alloc,
            BackendType::AwsVpc => Self::AwsVpc(AwsVpcConfig::read(&keys)?),
            BackendType::Gce => Self::Gce,
            BackendType::AliVpc => Self::AliVpc(AliVpcConfig::read(&keys)?),
        })
    }
}

/// Settings of the udp backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpConfig {
    /// UDP port of all nodes, 8285 unless configured.
    pub port: u16,
}

impl UdpConfig {
    fn read(keys: &Keys) -> Result<Self, ConfigError> {
        Ok(Self { port: keys.integer("Port", 1, u16::MAX)?.unwrap_or(UDP_PORT) })
    }
}

/// Settings of the vxlan backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanConfig {
    /// VXLAN network identifier, 1 unless configured.
    pub vni: u32,
    /// UDP port; `None` leaves it to the kernel, see [`VxlanConfig::udp_port`].
    pub port: Option<u16>,
    /// MTU of the underlay in bytes, used instead of the uplink's.
    pub mtu: Option<u32>,
    /// Carry the group policy extension.
    pub gbp: bool,
    /// Let the kernel learn FDB entries from traffic.
    pub learning: bool,
    /// Route without encapsulation to nodes on the same link.
    pub direct_routing: bool,
    /// `Dataplane`: what carries packets. flanneld ignores this key.
    pub dataplane: DataplaneMode,
    /// `FlowCache`: whether proven flows skip the host stack where BPF carries them. flanneld ignores this key.
    pub flow_cache: bool,
    /// `XDP`: where outer headers are stripped. flanneld ignores this key.
    pub xdp: XdpMode,
    /// `SourceCheck`: which VXLAN packets are dropped because of their sender. flanneld ignores this key.
    pub source_check: SourceCheck,
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
            dataplane: DataplaneMode::Auto,
            flow_cache: true,
            xdp: XdpMode::Auto,
            source_check: SourceCheck::default(),
        }
    }
}

impl VxlanConfig {
    /// Returns the UDP port that nodes send to: the configured one or the kernel's default.
    #[must_use]
    pub fn udp_port(&self) -> u16 {
        self.port.unwrap_or(KERNEL_VXLAN_PORT)
    }

    fn read(keys: &Keys) -> Result<Self, ConfigError> {
        let default = Self::default();
        Ok(Self {
            vni: keys.integer("VNI", 0, VNI_MAX)?.unwrap_or(default.vni),
            port: keys.integer("Port", 0, u16::MAX)?.filter(|port| *port != 0),
            mtu: keys.integer("MTU", 0, 65_535)?.filter(|mtu| *mtu != 0),
            gbp: keys.flag("GBP", default.gbp)?,
            learning: keys.flag("Learning", default.learning)?,
            direct_routing: keys.flag("DirectRouting", default.direct_routing)?,
            dataplane: keys.choice("Dataplane")?.unwrap_or(default.dataplane),
            flow_cache: keys.flag("FlowCache", default.flow_cache)?,
            xdp: keys.choice("XDP")?.unwrap_or(default.xdp),
            source_check: keys.choice("SourceCheck")?.unwrap_or(default.source_check),
        })
    }
}
