//! The interface and the address that encapsulated packets leave from.
//!
//! [`Host`] is what the kernel lists; choosing from it is pure.

mod host;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::Handle;

pub use self::host::{DefaultRoute, Host, Interface};

/// What the administrator asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UplinkOptions {
    /// `--iface`: names or addresses, tried in order; if empty, the interface of the default route.
    pub ifaces: Vec<String>,
    /// `--public-ip`: what peers are told instead of the interface's address.
    pub public_ip: Option<Ipv4Addr>,
    /// `--public-ipv6`.
    pub public_ipv6: Option<Ipv6Addr>,
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
    /// Neither `--iface` nor an IPv4 default route.
    #[error("no IPv4 default route shows which interface to use; name it with --iface. There are: {0}")]
    NoDefaultRoute(Host),
    /// No interface has any of the names or addresses.
    #[error("no interface has the name or address {wanted} (--iface). There are: {host}")]
    NoMatch {
        /// All that was looked for.
        wanted: String,
        /// What there is.
        host: Host,
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
/// If nothing fits; the message lists what there is and names the flag that helps.
pub async fn choose(handle: &Handle, options: &UplinkOptions) -> Result<Uplink, UplinkError> {
    pick(Host::read(handle).await?, options)
}

/// Chooses the uplink among what was read.
///
/// # Errors
/// If nothing fits.
pub fn pick(host: Host, options: &UplinkOptions) -> Result<Uplink, UplinkError> {
    let choice =
        if options.ifaces.is_empty() { by_default_route(&host) } else { by_name(&host, &options.ifaces) };
    let Some((interface, named)) = choice else { return Err(nothing_found(host, options)) };
    match uplink(interface, named, options) {
        Some(uplink) => Ok(uplink),
        None => Err(UplinkError::NoAddress { name: interface.name.clone(), host }),
    }
}

fn nothing_found(host: Host, options: &UplinkOptions) -> UplinkError {
    if options.ifaces.is_empty() {
        return UplinkError::NoDefaultRoute(host);
    }
    UplinkError::NoMatch { wanted: options.ifaces.join(" or "), host }
}

/// An interface, and the address it was chosen by.
type Choice<'a> = (&'a Interface, Option<IpAddr>);

fn by_default_route(host: &Host) -> Option<Choice<'_>> {
    let route = host.default_routes.iter().min_by_key(|route| route.metric)?;
    let interface = host.interfaces.iter().find(|interface| interface.index == route.index)?;
    Some((interface, None))
}

/// The first that has an IPv4 address, as flanneld goes on to the next when one is unusable; failing that, the
/// first, so that the error can name it.
fn by_name<'a>(host: &'a Host, wanted: &[String]) -> Option<Choice<'a>> {
    let mut found = wanted.iter().filter_map(|wanted| matching(host, wanted));
    let first = found.next()?;
    let usable = |choice: &Choice<'_>| !choice.0.ipv4.is_empty();
    if usable(&first) { Some(first) } else { found.find(usable).or(Some(first)) }
}

fn matching<'a>(host: &'a Host, wanted: &str) -> Option<Choice<'a>> {
    let address = wanted.parse::<IpAddr>().ok();
    let has = |interface: &&Interface| match address {
        Some(address) => interface.has(address),
        None => interface.name == wanted,
    };
    Some((host.interfaces.iter().find(has)?, address))
}

/// Peers check that packets come from the public IP, so that one is used wherever the interface has it.
fn uplink(interface: &Interface, named: Option<IpAddr>, options: &UplinkOptions) -> Option<Uplink> {
    let (named_v4, named_v6) = match named {
        Some(IpAddr::V4(address)) => (Some(address), None),
        Some(IpAddr::V6(address)) => (None, Some(address)),
        None => (None, None),
    };
    let local_ip = local(&interface.ipv4, options.public_ip, named_v4)?;
    let local_ipv6 = local(&interface.ipv6, options.public_ipv6, named_v6);
    Some(Uplink {
        name: interface.name.clone(),
        index: interface.index,
        mtu: interface.mtu,
        ethernet: interface.ethernet,
        local_ip,
        public_ip: options.public_ip.unwrap_or(local_ip),
        local_ipv6,
        public_ipv6: options.public_ipv6.or(local_ipv6),
    })
}

fn local<A: Copy + PartialEq>(addresses: &[A], public: Option<A>, named: Option<A>) -> Option<A> {
    let configured = public.filter(|public| addresses.contains(public));
    configured.or(named).or(addresses.first().copied())
}
