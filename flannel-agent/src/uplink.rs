//! The interface and the address that encapsulated packets leave from.
//!
//! [`Host`] is what the kernel lists; `pick` chooses from it and is pure; [`watch`] tells when to choose again.

mod host;
mod pick;
#[cfg(test)]
mod tests;
pub mod watch;
mod way;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use regex::Regex;
use rtnetlink::Handle;

use self::host::list;
pub use self::host::{DefaultRoute, Host, Interface};
pub use self::way::Way;

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
    /// Source address on the wire: the public IP if the interface has it, else the address that `--iface`
    /// named, else the interface's best one.
    pub local_ip: Ipv4Addr,
    /// What peers are told.
    pub public_ip: Ipv4Addr,
    /// Like `local_ip`, if the interface has an IPv6 address.
    pub local_ipv6: Option<Ipv6Addr>,
    /// Like `public_ip`, if there is one to tell.
    pub public_ipv6: Option<Ipv6Addr>,
}

/// Why there is no uplink.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// Nothing was asked for, and there is no IPv4 default route.
    #[error("no IPv4 default route shows which interface to use; name it with --iface. There are: {0}")]
    NoDefaultRoute(Host),
    /// No interface is as was asked for.
    #[error("no interface fits {wanted}. There are: {host}")]
    NoMatch {
        /// All that was looked for, as flags.
        wanted: String,
        /// What there is.
        host: Host,
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
    /// The interface has no IPv4 address that peers could reach.
    #[error(
        "interface {name} has no usable IPv4 address; add one, or name another interface with --iface. \
         There are: {host}"
    )]
    NoAddress {
        /// The interface in question.
        name: String,
        /// What there is.
        host: Host,
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

/// Chooses the uplink.
///
/// # Errors
/// If nothing fits, or too much; the message lists what there is and names the flag that helps.
pub async fn choose(handle: &Handle, options: &UplinkOptions) -> Result<Uplink, UplinkError> {
    let mut host = Host::read(handle, options.can_reach).await?;
    host.forget(&options.overlay);
    pick::pick(&host, options)
}
