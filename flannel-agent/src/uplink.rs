//! The uplink: the interface that carries encapsulated packets, and the node's addresses there.
//!
//! [`Host`] is what the kernel lists, `pick` chooses from it (pure), and [`watch`] notices changes.

mod host;
mod pick;
#[cfg(test)]
mod tests;
pub mod watch;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use regex_lite::Regex;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use tracing::warn;

use self::host::list;
pub use self::host::{DefaultRoute, Host, InUse, Interface};
use self::pick::Picked;
use crate::mac::Mac;

/// Which uplink to choose. As with flannel, names and addresses are tried first, then expressions, then the
/// address to reach. Without any of them it is the interface that has the public IP, else the one in use, else the
/// default route's.
#[derive(Clone, Debug, Default)]
pub struct UplinkOptions {
    /// `--iface`: names or addresses, tried in order.
    pub ifaces: Vec<String>,
    /// `--iface-regex`: each is searched in addresses and, if no address matches, in names.
    pub iface_regexes: Vec<Regex>,
    /// `--iface-can-reach`: an address that is reached through the uplink.
    pub can_reach: Option<IpAddr>,
    /// The address families that the uplink has to carry.
    pub stack: Stack,
    /// `--public-ip`: the address that peers send to, instead of the interface's.
    pub public_ip: Option<Ipv4Addr>,
    /// `--public-ipv6`.
    pub public_ipv6: Option<Ipv6Addr>,
    /// The prefixes that nodes lease pods' subnets from. Addresses in them belong to the overlay and are ignored.
    pub pod_networks: Vec<IpNet>,
}

/// The interface that carries encapsulated packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Interface name.
    pub name: String,
    /// Interface index.
    pub index: u32,
    /// MTU in bytes, encapsulation included.
    pub mtu: u32,
    /// Whether frames have an Ethernet header here.
    pub ethernet: bool,
    /// Its Ethernet address, if it has one.
    pub mac: Option<Mac>,
    /// The node's IPv4 address, if the network has IPv4.
    pub ipv4: Option<NodeAddress<Ipv4Addr>>,
    /// The node's IPv6 address, if the network has IPv6.
    pub ipv6: Option<NodeAddress<Ipv6Addr>>,
}

/// The node's address on the underlay in one address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeAddress<A> {
    /// Source address of encapsulated packets: the public IP if the interface has it, else the address that
    /// `--iface` names, else the interface's best one.
    pub local: A,
    /// Address that peers send to.
    pub public: A,
}

/// The address families of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stack {
    /// IPv4 alone.
    #[default]
    V4,
    /// IPv6 alone.
    V6,
    /// Both.
    Dual,
}

impl Stack {
    /// Whether it has IPv4.
    #[must_use]
    pub const fn has_v4(self) -> bool {
        !matches!(self, Self::V6)
    }

    /// Whether it has IPv6.
    #[must_use]
    pub const fn has_v6(self) -> bool {
        !matches!(self, Self::V4)
    }
}

impl Stack {
    /// Returns the address families, IPv4 first.
    fn families(self) -> impl Iterator<Item = AddressFamily> {
        let v4 = self.has_v4().then_some(AddressFamily::Inet);
        v4.into_iter().chain(self.has_v6().then_some(AddressFamily::Inet6))
    }
}

impl fmt::Display for Uplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses =
            self.ipv4.iter().map(ToString::to_string).chain(self.ipv6.iter().map(ToString::to_string));
        write!(f, "{} ({})", self.name, addresses.collect::<Vec<_>>().join(", "))
    }
}

impl<A: fmt::Display + PartialEq> fmt::Display for NodeAddress<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { local, public } if local == public => local.fmt(f),
            Self { local, public } => write!(f, "{local}, announced as {public}"),
        }
    }
}

/// Why there is no uplink.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// No uplink was asked for, and there is no default route.
    #[error(
        "no {family} default route shows which interface to use; name one by --iface. Interfaces: {}",
        list(interfaces)
    )]
    NoDefaultRoute {
        /// IPv4 or IPv6.
        family: &'static str,
        /// The interfaces that there are.
        interfaces: Vec<Interface>,
    },
    /// No interface matches.
    #[error("no interface matches {flags}. Interfaces: {}", list(interfaces))]
    NoMatch {
        /// The flags that were tried.
        flags: String,
        /// The interfaces that there are.
        interfaces: Vec<Interface>,
    },
    /// The interface has no address that peers can reach.
    #[error(
        "interface {name} has no usable {family} address; add one, or name another interface by --iface. \
         Interfaces: {}",
        list(interfaces)
    )]
    NoAddress {
        /// The interface.
        name: String,
        /// IPv4 or IPv6.
        family: &'static str,
        /// The interfaces that there are.
        interfaces: Vec<Interface>,
    },
    /// A netlink request failed.
    #[error("listing {what} by netlink")]
    Netlink {
        /// What was listed.
        what: &'static str,
        /// Why it failed.
        source: rtnetlink::Error,
    },
}

/// Chooses the uplink. What is in use is kept as long as it is up and has the node's address, unless a flag names another.
///
/// # Errors
/// No interface matches, or it lacks an address. The message lists the interfaces and names a flag that helps.
pub async fn choose(handle: &Handle, options: &UplinkOptions, in_use: &InUse) -> Result<Uplink, UplinkError> {
    let mut host = Host::read(handle, options).await?;
    host.ignore(&options.pod_networks);
    host.prefer(in_use);
    let Picked { uplink, passed_over } = pick::pick(&host, options, in_use)?;
    if let Some((flag, others)) = passed_over.filter(|_| in_use.is_of_last_run()) {
        warn!(
            "several interfaces match {flag}: using {}, and not {}; name one by --iface",
            uplink.name,
            list(&others)
        );
    }
    Ok(uplink)
}
