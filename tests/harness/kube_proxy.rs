//! The rules that kube-proxy writes for services, on a node without Kubernetes: its chains, its order, its marks.
//!
//! A test calls [`KubeProxy::sync`] with all services whenever one of them changes, and [`KubeProxy::forget`] for an endpoint
//! that was removed, as kube-proxy does for UDP.

mod iptables;
mod ipvs;
mod nftables;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

use crate::netns::NetNs;
use crate::process::{LIMIT, complete};

/// The mark of packets whose source address is to be translated.
const MASQUERADE: u32 = 0x4000;
/// Seconds for which a client keeps its endpoint: Kubernetes' default.
const AFFINITY: u32 = 10_800;

/// Where the rules are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By iptables, into nftables.
    Iptables,
    /// By iptables, into the older tables of the kernel.
    LegacyIptables,
    /// By nftables.
    Nftables,
    /// By the kernel's load balancer. Needs the kernel module ip_vs.
    Ipvs,
}

impl Mode {
    /// Every mode that each kernel has.
    pub const ALL: [Self; 3] = [Self::Iptables, Self::LegacyIptables, Self::Nftables];
}

/// A transport protocol of services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Both protocols.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// One port of a service.
#[derive(Clone, Debug)]
pub struct Service {
    /// A name without blanks.
    pub name: String,
    /// The protocol of the port.
    pub protocol: Protocol,
    /// The service's own address (ClusterIP) and port.
    pub address: SocketAddr,
    /// The pods behind it, of the same address family.
    pub endpoints: Vec<SocketAddr>,
    /// Whether all connections of a client go to one endpoint.
    pub affinity: bool,
}

impl Service {
    /// Returns TCP and UDP of a service with these endpoints, without affinity.
    pub fn both(name: &str, address: SocketAddr, endpoints: &[SocketAddr]) -> [Self; 2] {
        Protocol::ALL.map(|protocol| Self {
            name: format!("{name}/{protocol}"),
            protocol,
            address,
            endpoints: endpoints.to_vec(),
            affinity: false,
        })
    }

    /// Returns the endpoints with the probability of each, given that none before it was chosen.
    fn choices(&self) -> impl Iterator<Item = (SocketAddr, f64)> {
        let count = self.endpoints.len();
        let chance = move |number| 1.0 / (count - number) as f64;
        self.endpoints.iter().enumerate().map(move |(number, endpoint)| (*endpoint, chance(number)))
    }
}

/// An address family, and the words of the tools for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// A node's rules.
#[derive(Debug)]
pub struct KubeProxy<'a> {
    netns: &'a NetNs,
    mode: Mode,
    /// The families of the cluster, each with its pods' network.
    networks: Vec<(Family, String)>,
    masquerade_all: bool,
}

impl<'a> KubeProxy<'a> {
    /// Writes the rules that are there without any service. `networks` are the pods' networks, one for each family
    /// (`10.5.0.0/16`). With `masquerade_all`, traffic of pods to services gets the node's address.
    pub fn start(netns: &'a NetNs, mode: Mode, networks: &[&str], masquerade_all: bool) -> Result<Self> {
        let of = |network: &&str| {
            let (address, _) = network.split_once('/').with_context(|| format!("{network} has no length"))?;
            Ok((Family::of(address.parse()?), (*network).to_owned()))
        };
        let networks = networks.iter().map(of).collect::<Result<_>>()?;
        let proxy = Self { netns, mode, networks, masquerade_all };
        for (family, network) in &proxy.networks {
            match mode {
                Mode::Iptables | Mode::LegacyIptables => iptables::start(&proxy, *family)?,
                Mode::Nftables => nftables::start(&proxy, *family)?,
                Mode::Ipvs => ipvs::start(&proxy, *family, network)?,
            }
        }
        Ok(proxy)
    }

    /// Writes the rules of these services, and of no others.
    pub fn sync(&self, services: &[Service]) -> Result<()> {
        for (family, network) in &self.networks {
            let own: Vec<_> =
                services.iter().filter(|service| Family::of(service.address.ip()) == *family).collect();
            match self.mode {
                Mode::Iptables | Mode::LegacyIptables => iptables::sync(self, *family, network, &own)?,
                Mode::Nftables => nftables::sync(self, *family, network, &own)?,
                Mode::Ipvs => ipvs::sync(self, *family, &own)?,
            }
        }
        Ok(())
    }

    /// Removes the UDP connections that lead from a service to an endpoint. Returns whether there were any.
    pub fn forget(&self, service: &Service, endpoint: SocketAddr) -> Result<bool> {
        let family = if endpoint.is_ipv4() { "ipv4" } else { "ipv6" };
        let line = ["-D", "-f", family, "-p", "udp", "--orig-dst", &service.address.ip().to_string()]
            .map(str::to_owned);
        let endpoint = endpoint.ip().to_string();
        let mut command = self.netns.command("conntrack");
        let done = complete(command.args(line).args(["--dst-nat", &endpoint]), "", LIMIT)?;
        // It fails if it finds none.
        let none = done.stderr.contains("0 flow entries have been deleted");
        ensure!(done.status.success() || none, "conntrack: {}", done.stderr);
        Ok(!none)
    }

    /// Removes all its rules.
    pub fn remove(self) -> Result<()> {
        self.networks.iter().try_for_each(|(family, _)| match self.mode {
            Mode::Iptables | Mode::LegacyIptables => iptables::remove(&self, *family),
            Mode::Nftables => nftables::remove(&self, *family),
            Mode::Ipvs => ipvs::remove(&self, *family),
        })
    }
}

/// Returns characters that stand for a name in names of chains.
fn hash(name: &str) -> String {
    Sha256::digest(name).iter().take(8).map(|byte| format!("{byte:02X}")).collect()
}
