//! Interfaces, their addresses and the default routes, as the kernel lists them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressHeaderFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};

use super::{Uplink, UplinkError, UplinkOptions};
use crate::netlink::address::{ip_of, is_link_local};
use crate::netlink::link::{self, Link};
use crate::netlink::route::{self, Hop, RouteAnswer, RouteQuery};

/// The interfaces and routes to choose from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// All interfaces.
    pub interfaces: Vec<Interface>,
    /// Default routes of the main table, IPv4 if the network has it, else IPv6.
    pub default_routes: Vec<DefaultRoute>,
    /// The next hop to the address of `--iface-can-reach`.
    pub can_reach: Option<Hop>,
}

/// An interface and its usable addresses, best first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its properties.
    pub link: Link,
    /// IPv4 addresses.
    pub ipv4: Vec<Ipv4Addr>,
    /// IPv6 addresses.
    pub ipv6: Vec<Ipv6Addr>,
}

/// A default route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultRoute {
    /// Index of the interface it leads through.
    pub index: u32,
    /// Its metric. The lowest wins.
    pub metric: u32,
}

impl Interface {
    /// Returns its addresses, IPv4 first.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let ipv4 = self.ipv4.iter().copied().map(IpAddr::V4);
        ipv4.chain(self.ipv6.iter().copied().map(IpAddr::V6))
    }

    pub(super) fn has(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.ipv4.contains(&address),
            IpAddr::V6(address) => self.ipv6.contains(&address),
        }
    }
}

impl Host {
    /// Reads from the kernel what these options need.
    ///
    /// # Errors
    /// [`UplinkError::Netlink`] if a dump fails.
    pub(super) async fn read(handle: &Handle, options: &UplinkOptions) -> Result<Self, UplinkError> {
        let failed = |what| move |source| UplinkError::Netlink { what, source };
        // One dump after the other: the kernel refuses a second one on the same socket with EBUSY.
        let links = link::list(handle).await.map_err(failed("interfaces"))?;
        let addresses: Vec<_> =
            handle.address().get().execute().try_collect().await.map_err(failed("addresses"))?;
        let family = if options.stack.has_v4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let routes: Vec<_> =
            route::list(handle, family, None).try_collect().await.map_err(failed("routes"))?;
        let mut host = Self::of(links, addresses, &routes);
        if let Some(destination) = options.can_reach {
            let answer = route::look_up(handle, RouteQuery { destination, forwarded: None }).await;
            host.can_reach = match answer.map_err(failed("the route to --iface-can-reach"))? {
                RouteAnswer::Local(hop) | RouteAnswer::Out(hop) => Some(hop),
                RouteAnswer::Refused(_) => None,
            };
        }
        Ok(host)
    }

    /// Builds it from what the kernel lists.
    pub(super) fn of(links: Vec<Link>, mut addresses: Vec<AddressMessage>, routes: &[RouteMessage]) -> Self {
        addresses.retain(is_usable);
        // A stable sort keeps the kernel's order among equals: primary addresses first.
        addresses.sort_by_key(drawbacks);
        Self {
            interfaces: links.into_iter().map(|link| interface(link, &addresses)).collect(),
            default_routes: routes.iter().filter_map(default_route).collect(),
            can_reach: None,
        }
    }

    /// Removes the addresses inside these networks.
    pub(super) fn ignore(&mut self, networks: &[IpNet]) {
        let stays = |address: IpAddr| !networks.iter().any(|network| network.contains(&address));
        for interface in &mut self.interfaces {
            interface.ipv4.retain(|address| stays((*address).into()));
            interface.ipv6.retain(|address| stays((*address).into()));
        }
    }

    /// Moves the node's current addresses to the front, so that an added address does not replace them. (The
    /// kernel lists the newest IPv6 address first.) A link-local IPv4 address is not kept.
    pub(super) fn prefer(&mut self, current: &Uplink) {
        let Some(interface) =
            self.interfaces.iter_mut().find(|interface| interface.link.index == current.index)
        else {
            return;
        };
        if let Some(kept) = current.ipv4.filter(|kept| !kept.local.is_link_local()) {
            interface.ipv4.sort_by_key(|address| *address != kept.local);
        }
        if let Some(kept) = current.ipv6 {
            interface.ipv6.sort_by_key(|address| *address != kept.local);
        }
    }

    pub(super) fn interface(&self, index: u32) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.link.index == index)
    }
}

fn interface(link: Link, addresses: &[AddressMessage]) -> Interface {
    let mut interface = Interface { link, ..Interface::default() };
    for address in addresses.iter().filter(|address| address.header.index == interface.link.index) {
        match ip_of(address) {
            Some(IpAddr::V4(address)) => interface.ipv4.push(address),
            Some(IpAddr::V6(address)) => interface.ipv6.push(address),
            None => {}
        }
    }
    interface
}

fn is_usable(message: &AddressMessage) -> bool {
    let deprecated = message.header.flags.contains(AddressHeaderFlags::Deprecated);
    let reachable = |ip: IpAddr| !ip.is_loopback() && !ip.is_multicast() && !ip.is_unspecified();
    !deprecated && ip_of(message).is_some_and(reachable)
}

/// The sort key of an address; false sorts first. Preferred are addresses of global scope, then not
/// link-local, then permanent, then neither secondary nor temporary (IPv4 and IPv6 share that flag).
fn drawbacks(message: &AddressMessage) -> [bool; 4] {
    let flags = message.header.flags;
    let link_local = ip_of(message).is_none_or(is_link_local);
    [
        message.header.scope != AddressScope::Universe,
        link_local,
        !flags.contains(AddressHeaderFlags::Permanent),
        flags.contains(AddressHeaderFlags::Secondary),
    ]
}

fn default_route(route: &RouteMessage) -> Option<DefaultRoute> {
    let header = &route.header;
    let everywhere = header.destination_prefix_length == 0 && header.kind == RouteType::Unicast;
    let (mut index, mut metric) = (None, 0);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(through) => index = Some(*through),
            RouteAttribute::MultiPath(hops) => index = hops.first().map(|hop| hop.interface_index),
            RouteAttribute::Priority(value) => metric = *value,
            _ => {}
        }
    }
    let wanted = everywhere && header.table == RouteHeader::RT_TABLE_MAIN;
    index.filter(|_| wanted).map(|index| DefaultRoute { index, metric })
}

/// Lists interfaces for an error message.
pub(super) fn list(interfaces: &[Interface]) -> String {
    interfaces.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<_> = self.addresses().map(|address| address.to_string()).collect();
        let addresses = if addresses.is_empty() { "no address".to_owned() } else { addresses.join(" ") };
        write!(f, "{} ({addresses})", self.link.name)
    }
}
