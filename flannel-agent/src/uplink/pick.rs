//! The choice among what the host has. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use regex::Regex;

use super::host::{Host, Interface};
use super::{Ends, Stack, Uplink, UplinkError, UplinkOptions};

/// An interface, and the address it was chosen by.
type Choice<'a> = (&'a Interface, Option<IpAddr>);

const IPV4: &str = "IPv4";
const IPV6: &str = "IPv6";

/// What an interface can be asked to be.
enum Wish<'a> {
    Iface(&'a str),
    Regex(&'a Regex),
    CanReach(IpAddr),
}

/// Chooses the uplink among what was read.
pub(super) fn pick(host: &Host, options: &UplinkOptions) -> Result<Uplink, UplinkError> {
    let (interface, named) = match &wishes(options)[..] {
        [] => unasked(host, options)?,
        wishes => first_usable(host, options.stack, wishes)?,
    };
    let name = || interface.name.clone();
    uplink(interface, named, options).map_err(|family| UplinkError::NoAddress {
        name: name(),
        family,
        interfaces: host.interfaces.clone(),
    })
}

/// In flannel's order. An empty name is none, as where a unit file leaves a variable empty.
fn wishes(options: &UplinkOptions) -> Vec<Wish<'_>> {
    let ifaces = options.ifaces.iter().filter(|iface| !iface.is_empty()).map(|iface| Wish::Iface(iface));
    let regexes = options.iface_regexes.iter().map(Wish::Regex);
    ifaces.chain(regexes).chain(options.can_reach.map(Wish::CanReach)).collect()
}

fn unasked<'a>(host: &'a Host, options: &UplinkOptions) -> Result<Choice<'a>, UplinkError> {
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

/// The first that has the addresses, as flanneld goes on to the next when one is unusable; failing that, the
/// first, so that the error can name it.
fn first_usable<'a>(host: &'a Host, stack: Stack, wishes: &[Wish<'_>]) -> Result<Choice<'a>, UplinkError> {
    let is_usable = |(interface, _): &Choice<'_>| {
        (!stack.has_v4() || !interface.ipv4.is_empty())
            && (!stack.has_v6() || interface.ipv6.iter().any(is_told))
    };
    let mut unusable = None;
    for wish in wishes {
        let (usable, others): (Vec<_>, Vec<_>) = wish.fitting(host).into_iter().partition(is_usable);
        match usable[..] {
            [] => unusable = unusable.or(others.first().copied()),
            [choice] => return Ok(choice),
            _ => return Err(wish.ambiguous(&usable)),
        }
    }
    let wanted = || wishes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
    unusable.ok_or_else(|| UplinkError::NoMatch { wanted: wanted(), interfaces: host.interfaces.clone() })
}

/// Whether others can be told of the address: a link-local one means nothing without an interface.
fn is_told(address: &Ipv6Addr) -> bool {
    !address.is_unicast_link_local()
}

impl Wish<'_> {
    fn fitting<'a>(&self, host: &'a Host) -> Vec<Choice<'a>> {
        let with = |address: IpAddr| host.interfaces.iter().filter(move |interface| interface.has(address));
        match self {
            Self::Iface(wanted) => match wanted.parse() {
                Ok(address) => with(address).map(|interface| (interface, Some(address))).collect(),
                Err(_) => {
                    let named = host.interfaces.iter().filter(|interface| interface.name == *wanted);
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

    fn ambiguous(&self, fitting: &[Choice<'_>]) -> UplinkError {
        let candidates = fitting.iter().map(|(interface, _)| (*interface).clone()).collect();
        UplinkError::Ambiguous { wanted: self.to_string(), candidates }
    }
}

/// Addresses first, then names: so does flannel.
fn matching<'a>(host: &'a Host, regex: &Regex) -> Vec<Choice<'a>> {
    let by_address = |interface: &'a Interface| {
        let address = interface.addresses().find(|address| regex.is_match(&address.to_string()))?;
        Some((interface, Some(address)))
    };
    let found: Vec<_> = host.interfaces.iter().filter_map(by_address).collect();
    if !found.is_empty() {
        return found;
    }
    let named = host.interfaces.iter().filter(|interface| regex.is_match(&interface.name));
    named.map(|interface| (interface, None)).collect()
}

/// The uplink by this interface, or the family that it has no address of.
fn uplink(
    interface: &Interface,
    named: Option<IpAddr>,
    options: &UplinkOptions,
) -> Result<Uplink, &'static str> {
    let (named_v4, named_v6) = match named {
        Some(IpAddr::V4(address)) => (Some(address), None),
        Some(IpAddr::V6(address)) => (None, Some(address).filter(is_told)),
        None => (None, None),
    };
    let told: Vec<_> = interface.ipv6.iter().copied().filter(is_told).collect();
    let ipv4 = || ends(&interface.ipv4, options.public_ip, named_v4).ok_or(IPV4);
    let ipv6 = || ends(&told, options.public_ipv6, named_v6).ok_or(IPV6);
    Ok(Uplink {
        name: interface.name.clone(),
        index: interface.index,
        mtu: interface.mtu,
        ethernet: interface.ethernet,
        mac: interface.mac,
        ipv4: options.stack.has_v4().then(ipv4).transpose()?,
        ipv6: options.stack.has_v6().then(ipv6).transpose()?,
    })
}

/// Peers check that packets come from the public IP, so that one is used wherever the interface has it.
fn ends<A: Copy + PartialEq>(addresses: &[A], public: Option<A>, named: Option<A>) -> Option<Ends<A>> {
    let configured = public.filter(|public| addresses.contains(public));
    let local = configured.or(named).or(addresses.first().copied())?;
    Some(Ends { local, public: public.unwrap_or(local) })
}

impl fmt::Display for Wish<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Iface(wanted) => write!(f, "--iface {wanted}"),
            Self::Regex(regex) => write!(f, "--iface-regex {regex}"),
            Self::CanReach(address) => write!(f, "--iface-can-reach {address}"),
        }
    }
}
