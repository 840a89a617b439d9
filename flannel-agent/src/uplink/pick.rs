//! The choice of the uplink. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use regex_lite::Regex;

use super::host::{Host, Interface};
use super::{NodeAddress, Stack, Uplink, UplinkError, UplinkOptions};

/// An interface, and the address it was chosen by.
type Choice<'a> = (&'a Interface, Option<IpAddr>);

const IPV4: &str = "IPv4";
const IPV6: &str = "IPv6";

/// A flag that selects interfaces.
enum Criterion<'a> {
    Iface(&'a str),
    Regex(&'a Regex),
    CanReach(IpAddr),
}

/// Chooses the uplink.
pub(super) fn pick(host: &Host, options: &UplinkOptions) -> Result<Uplink, UplinkError> {
    let (interface, named) = match &criteria(options)[..] {
        [] => default_choice(host, options)?,
        criteria => first_usable(host, options.stack, criteria)?,
    };
    uplink(interface, named, options).map_err(|family| UplinkError::NoAddress {
        name: interface.link.name.clone(),
        family,
        interfaces: host.interfaces.clone(),
    })
}

/// Returns the criteria in flannel's order. An empty name is ignored: a unit file may leave a variable empty.
fn criteria(options: &UplinkOptions) -> Vec<Criterion<'_>> {
    let ifaces = options.ifaces.iter().filter(|iface| !iface.is_empty()).map(|iface| Criterion::Iface(iface));
    let regexes = options.iface_regexes.iter().map(Criterion::Regex);
    ifaces.chain(regexes).chain(options.can_reach.map(Criterion::CanReach)).collect()
}

/// Returns the interface that has the public IP, else the one of the best default route.
fn default_choice<'a>(host: &'a Host, options: &UplinkOptions) -> Result<Choice<'a>, UplinkError> {
    let public = [
        options.public_ip.filter(|_| options.stack.has_v4()).map(IpAddr::V4),
        options.public_ipv6.filter(|_| options.stack.has_v6()).map(IpAddr::V6),
    ];
    let mut with_public_ip = public.into_iter().flatten().filter_map(|address| {
        Some((host.interfaces.iter().find(|interface| interface.has(address))?, Some(address)))
    });
    let by_default_route = || {
        let route = host.default_routes.iter().min_by_key(|route| route.metric)?;
        Some((host.interface(route.index)?, None))
    };
    let family = if options.stack.has_v4() { IPV4 } else { IPV6 };
    let choice = with_public_ip.next().or_else(by_default_route);
    choice.ok_or_else(|| UplinkError::NoDefaultRoute { family, interfaces: host.interfaces.clone() })
}

/// Returns the first match that has all addresses. Like flanneld it tries the next criterion if a match lacks
/// one. If all matches lack one, it returns the first match, so that the error can name it.
fn first_usable<'a>(
    host: &'a Host,
    stack: Stack,
    criteria: &[Criterion<'_>],
) -> Result<Choice<'a>, UplinkError> {
    let is_usable = |(interface, _): &Choice<'_>| {
        (!stack.has_v4() || !interface.ipv4.is_empty())
            && (!stack.has_v6() || interface.ipv6.iter().any(is_announceable))
    };
    let mut unusable = None;
    for criterion in criteria {
        let (usable, others): (Vec<_>, Vec<_>) = criterion.matches(host).into_iter().partition(is_usable);
        match usable[..] {
            [] => unusable = unusable.or(others.first().copied()),
            [choice] => return Ok(choice),
            _ => return Err(criterion.ambiguous(&usable)),
        }
    }
    let flags = || criteria.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
    unusable.ok_or_else(|| UplinkError::NoMatch { flags: flags(), interfaces: host.interfaces.clone() })
}

/// Whether peers can use the address: a link-local one means nothing without an interface.
fn is_announceable(address: &Ipv6Addr) -> bool {
    !address.is_unicast_link_local()
}

impl Criterion<'_> {
    fn matches<'a>(&self, host: &'a Host) -> Vec<Choice<'a>> {
        let with = |address: IpAddr| host.interfaces.iter().filter(move |interface| interface.has(address));
        match self {
            Self::Iface(name) => match name.parse() {
                Ok(address) => with(address).map(|interface| (interface, Some(address))).collect(),
                Err(_) => {
                    let named = host.interfaces.iter().filter(|interface| interface.link.name == *name);
                    named.map(|interface| (interface, None)).collect()
                }
            },
            Self::Regex(regex) => matching(host, regex),
            Self::CanReach(_) => {
                let hop = host.can_reach.and_then(|hop| Some((host.interface(hop.interface)?, hop.source)));
                hop.into_iter().collect()
            }
        }
    }

    fn ambiguous(&self, matches: &[Choice<'_>]) -> UplinkError {
        let candidates = matches.iter().map(|(interface, _)| (*interface).clone()).collect();
        UplinkError::Ambiguous { flag: self.to_string(), candidates }
    }
}

/// Matches addresses first, then names, as flannel does.
fn matching<'a>(host: &'a Host, regex: &Regex) -> Vec<Choice<'a>> {
    let by_address = |interface: &'a Interface| {
        let address = interface.addresses().find(|address| regex.is_match(&address.to_string()))?;
        Some((interface, Some(address)))
    };
    let found: Vec<_> = host.interfaces.iter().filter_map(by_address).collect();
    if !found.is_empty() {
        return found;
    }
    let named = host.interfaces.iter().filter(|interface| regex.is_match(&interface.link.name));
    named.map(|interface| (interface, None)).collect()
}

/// Returns the uplink, or the address family that the interface has no address of.
fn uplink(
    interface: &Interface,
    named: Option<IpAddr>,
    options: &UplinkOptions,
) -> Result<Uplink, &'static str> {
    let (named_v4, named_v6) = match named {
        Some(IpAddr::V4(address)) => (Some(address), None),
        Some(IpAddr::V6(address)) => (None, Some(address).filter(is_announceable)),
        None => (None, None),
    };
    let announceable: Vec<_> = interface.ipv6.iter().copied().filter(is_announceable).collect();
    let ipv4 = || node_address(&interface.ipv4, options.public_ip, named_v4).ok_or(IPV4);
    let ipv6 = || node_address(&announceable, options.public_ipv6, named_v6).ok_or(IPV6);
    Ok(Uplink {
        name: interface.link.name.clone(),
        index: interface.link.index,
        mtu: interface.link.mtu,
        ethernet: interface.link.ethernet,
        mac: interface.link.mac,
        ipv4: options.stack.has_v4().then(ipv4).transpose()?,
        ipv6: options.stack.has_v6().then(ipv6).transpose()?,
    })
}

/// Chooses the addresses of one family. Peers check that packets come from the public IP, so it is the source
/// if the interface has it.
fn node_address<A: Copy + PartialEq>(
    addresses: &[A],
    public: Option<A>,
    named: Option<A>,
) -> Option<NodeAddress<A>> {
    let configured = public.filter(|public| addresses.contains(public));
    let local = configured.or(named).or(addresses.first().copied())?;
    Some(NodeAddress { local, public: public.unwrap_or(local) })
}

impl fmt::Display for Criterion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Iface(name) => write!(f, "--iface {name}"),
            Self::Regex(regex) => write!(f, "--iface-regex {regex}"),
            Self::CanReach(address) => write!(f, "--iface-can-reach {address}"),
        }
    }
}
