//! The interface and the address that encapsulated packets leave from.
//!
//! [`Host`] is what the kernel lists; `pick` chooses from it and is pure; [`watch`] tells when to choose again.

mod host;
mod pick;
#[cfg(test)]
mod tests;
pub mod watch;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use regex::Regex;
use rtnetlink::Handle;

use self::host::list;
pub use self::host::{DefaultRoute, Host, Interface};
use crate::mac::Mac;

/// What the administrator asked for. Wishes are tried in flannel's order: names and addresses, expressions,
/// the address to reach; without any, the interface that has the public IP, else the default route's.
#[derive(Clone, Debug, Default)]
pub struct UplinkOptions {
    /// `--iface`: names or addresses, tried in order.
    pub ifaces: Vec<String>,
    /// `--iface-regex`: each found in an address or, failing that, in a name.
    pub iface_regexes: Vec<Regex>,
    /// `--iface-can-reach`: an address that is reached through it.
    pub can_reach: Option<IpAddr>,
    /// The address families that it has to carry.
    pub stack: Stack,
    /// `--public-ip`: what peers are told instead of the interface's address.
    pub public_ip: Option<Ipv4Addr>,
    /// `--public-ipv6`.
    pub public_ipv6: Option<Ipv6Addr>,
    /// The pods' networks: an address there is the overlay's own, on whatever bridge or device.
    pub overlay: Vec<IpNet>,
}

/// Where encapsulated packets leave and arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Interface name.
    pub name: String,
    /// Interface index.
    pub index: u32,
    /// MTU in bytes, encapsulation included.
    pub mtu: u32,
    /// Whether frames have an Ethernet header there.
    pub ethernet: bool,
    /// Its Ethernet address, if it has one.
    pub mac: Option<Mac>,
    /// Its ends over IPv4, if it has to carry that.
    pub ipv4: Option<Ends<Ipv4Addr>>,
    /// Its ends over IPv6, if it has to carry that.
    pub ipv6: Option<Ends<Ipv6Addr>>,
}

/// This node's addresses on the underlay in one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends<A> {
    /// Source address on the wire: the public IP if the interface has it, else the address that `--iface`
    /// named, else the interface's best one.
    pub local: A,
    /// What peers are told.
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
    /// Whether IPv4 is one of them.
    #[must_use]
    pub const fn has_v4(self) -> bool {
        !matches!(self, Self::V6)
    }

    /// Whether IPv6 is one of them.
    #[must_use]
    pub const fn has_v6(self) -> bool {
        !matches!(self, Self::V4)
    }
}

impl fmt::Display for Uplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ends = self.ipv4.iter().map(ToString::to_string).chain(self.ipv6.iter().map(ToString::to_string));
        write!(f, "{} ({})", self.name, ends.collect::<Vec<_>>().join(", "))
    }
}

impl<A: fmt::Display + PartialEq> fmt::Display for Ends<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { local, public } if local == public => local.fmt(f),
            Self { local, public } => write!(f, "{local}, known as {public}"),
        }
    }
}

/// Why there is no uplink.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// Nothing was asked for, and there is no default route.
    #[error(
        "no {family} default route shows which interface to use; name it with --iface. There are: {}",
        list(interfaces)
    )]
    NoDefaultRoute {
        /// IPv4 or IPv6.
        family: &'static str,
        /// The interfaces that there are.
        interfaces: Vec<Interface>,
    },
    /// No interface is as was asked for.
    #[error("no interface fits {wanted}. There are: {}", list(interfaces))]
    NoMatch {
        /// All that was looked for, as flags.
        wanted: String,
        /// The interfaces that there are.
        interfaces: Vec<Interface>,
    },
    /// More than one interface is as was asked for.
    #[error(
        "several interfaces fit {wanted}: {}; ask for one of them, for instance by --iface",
        list(candidates)
    )]
    Ambiguous {
        /// What was looked for, as a flag.
        wanted: String,
        /// The interfaces that fit.
        candidates: Vec<Interface>,
    },
    /// The interface has no address that peers could reach.
    #[error(
        "interface {name} has no usable {family} address; add one, or name another interface with --iface. \
         There are: {}",
        list(interfaces)
    )]
    NoAddress {
        /// The interface in question.
        name: String,
        /// IPv4 or IPv6.
        family: &'static str,
        /// The interfaces that there are.
        interfaces: Vec<Interface>,
    },
    /// The kernel did not answer.
    #[error("listing {what} by netlink")]
    Netlink {
        /// What was asked for.
        what: &'static str,
        /// Why it failed.
        source: rtnetlink::Error,
    },
}

/// Chooses the uplink; among its addresses those of `current`, as long as it has them.
///
/// # Errors
/// If nothing fits, or too much; the message lists what there is and names the flag that helps.
pub async fn choose(
    handle: &Handle,
    options: &UplinkOptions,
    current: Option<&Uplink>,
) -> Result<Uplink, UplinkError> {
    let mut host = Host::read(handle, options).await?;
    host.forget(&options.overlay);
    if let Some(current) = current {
        host.prefer(current);
    }
    pick::pick(&host, options)
}
