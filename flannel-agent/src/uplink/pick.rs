//! The choice of the uplink. Pure.

use std::fmt;
use std::net::IpAddr;

use regex_lite::Regex;

use super::host::{Host, InUse, Interface, is_announceable};
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

/// The flag that several interfaces match, and the interfaces that were not chosen.
type PassedOver = Option<(String, Vec<Interface>)>;

/// The uplink, and what else there was to choose from.
#[derive(Debug)]
pub(super) struct Picked {
    pub(super) uplink: Uplink,
    pub(super) passed_over: PassedOver,
}

/// Chooses the uplink.
pub(super) fn pick(host: &Host, options: &UplinkOptions, in_use: &InUse) -> Result<Picked, UplinkError> {
    let ((interface, named), passed_over) = match &criteria(options)[..] {
        [] => (default_choice(host, options, in_use)?, None),
        criteria => first_usable(host, options.stack, criteria, in_use)?,
    };
    let uplink = uplink(interface, named, options).map_err(|family| UplinkError::NoAddress {
        name: interface.link.name.clone(),
        family,
        interfaces: host.interfaces.clone(),
    })?;
    Ok(Picked { uplink, passed_over })
}

/// Returns the criteria in flannel's order. An empty name is ignored: a unit file may leave a variable empty.
fn criteria(options: &UplinkOptions) -> Vec<Criterion<'_>> {
    let ifaces = options.ifaces.iter().filter(|iface| !iface.is_empty()).map(|iface| Criterion::Iface(iface));
    let regexes = options.iface_regexes.iter().map(Criterion::Regex);
    ifaces.chain(regexes).chain(options.can_reach.map(Criterion::CanReach)).collect()
}

/// Returns the interface that has the public IP, else the one that is in use, else the one of the best default route.
fn default_choice<'a>(
    host: &'a Host,
    options: &UplinkOptions,
    in_use: &InUse,
) -> Result<Choice<'a>, UplinkError> {
    let public = [
        options.public_ip.filter(|_| options.stack.has_v4()).map(IpAddr::V4),
        options.public_ipv6.filter(|_| options.stack.has_v6()).map(IpAddr::V6),
    ];
    let mut with_public_ip = public.into_iter().flatten().filter_map(|address| {
        Some((host.interfaces.iter().find(|interface| interface.has(address))?, Some(address)))
    });
    // What the last run used may have lost what the network needs today, and need not be waited for.
    let is_kept = |interface: &&Interface| {
        !in_use.is_of_last_run() || (interface.serves(options.stack) && interface.is_candidate())
    };
    let in_use = || Some((host.in_use(in_use).filter(is_kept)?, None));
    let choice = with_public_ip.next().or_else(in_use).or_else(|| by_default_route(host, options.stack));
    let family = if options.stack.has_v4() { IPV4 } else { IPV6 };
    choice.ok_or_else(|| UplinkError::NoDefaultRoute { family, interfaces: host.interfaces.clone() })
}

fn by_default_route(host: &Host, stack: Stack) -> Option<Choice<'_>> {
    let of_family = host.default_routes.iter().filter(|route| route.v6 != stack.has_v4());
    let through = of_family.filter_map(|route| host.interface(route.index));
    let mut possible = through.filter(|interface| interface.may_carry());
    let candidate = possible.clone().find(|interface| interface.is_candidate());
    candidate.or_else(|| possible.next()).map(|interface| (interface, None))
}

/// Returns the first match that has all addresses, and the others that the flag matches. Like flanneld it tries the next
/// criterion if a match lacks one. If all matches lack one, it returns the first match, so that the error can name it.
fn first_usable<'a>(
    host: &'a Host,
    stack: Stack,
    criteria: &[Criterion<'_>],
    in_use: &InUse,
) -> Result<(Choice<'a>, PassedOver), UplinkError> {
    let current = host.in_use(in_use);
    let mut unusable = None;
    for criterion in criteria {
        let matches = criterion.matches(host).into_iter();
        let (mut usable, others): (Vec<_>, Vec<_>) =
            matches.partition(|(interface, _)| interface.serves(stack));
        usable.sort_by_key(|(interface, _)| Some(*interface) != current);
        match usable[..] {
            [] => unusable = unusable.or(others.first().copied()),
            [choice] => return Ok((choice, None)),
            [choice, ref others @ ..] => {
                let others = others.iter().map(|(interface, _)| (*interface).clone()).collect();
                return Ok((choice, Some((criterion.to_string(), others))));
            }
        }
    }
    // An interface that was renamed while it is in use is still the one that was meant.
    let renamed = current.filter(|_| unusable.is_none() && !in_use.is_of_last_run());
    let unusable = unusable.or(renamed.map(|interface| (interface, None)));
    let flags = || criteria.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
    let choice = unusable
        .ok_or_else(|| UplinkError::NoMatch { flags: flags(), interfaces: host.interfaces.clone() })?;
    Ok((choice, None))
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
}

/// Matches addresses first, then names, as flannel does. An expression does not mean the ports of a bridge.
fn matching<'a>(host: &'a Host, regex: &Regex) -> Vec<Choice<'a>> {
    let interfaces = || host.interfaces.iter().filter(|interface| interface.may_carry());
    let by_address = |interface: &'a Interface| {
        let address = interface.addresses().find(|address| regex.is_match(&address.to_string()))?;
        Some((interface, Some(address)))
    };
    let found: Vec<_> = interfaces().filter_map(by_address).collect();
    if !found.is_empty() {
        return found;
    }
    let named = interfaces().filter(|interface| regex.is_match(&interface.link.name));
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
